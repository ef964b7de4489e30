"""Ten thousand recommendations by a public load generator, with the gateway and vLLM killed in between.

    python scripts/benches/load.py --run runs/demo --requests 10000 --clients 16

Locust asks; a third of the way the gateway is killed with SIGKILL and started again, two thirds of the way vLLM is, and
while it starts popularity answers. At the end every answered decision must be in the log, with the slate that was sent,
and no slate may hold an item twice, one that is not in the catalog, or one that the request had blocked.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.errors import exit_on_input_error
from policy.serving.deployment import Deployment
from policy.serving.engine import Engine, EngineSettings, free_port
from policy.serving.live import engine_adapters, publish
from policy.serving.segments import read_decision_log
from policy.serving.supervisor import Supervisor
from scripts.benches.serving import ROOT, start_gateway

LOCUST = Path(__file__).with_name("locustfile.py")


@dataclass(frozen=True)
class Outcome:
    """answered: decisions whose response arrived. lost: of those, not in the log as sent. illegal: slates. popular:
    decisions of the last rung. p50, p99: of answered requests, seconds. shed: answers 429; failed: no answer, or 5xx.
    """

    answered: int
    lost: int
    illegal: int
    popular: int
    p50: float
    p99: float
    shed: int
    failed: int


def load(run: Path, served: Path, requests: int, clients: int, kills: bool, in_flight: int = 128) -> Outcome:
    """Serve `run` into `served` and have locust ask for `requests` recommendations."""
    deployment = publish(Deployment.load(run), served)
    settings = EngineSettings(
        deployment.base,
        run / "catalog",
        adapters=engine_adapters(deployment),
        catalog_versions=served / "catalogs",
        spare_adapters=2,
        slate_size=deployment.slate_size,
        port=free_port(),
        log=served / "vllm.log",
    )
    engine = Engine(settings)
    engine.wait_until_ready()
    supervisor = Supervisor(engine)
    port, answers = free_port(), served / "answers.jsonl"
    more = ("--served", str(served), "--max_in_flight", str(in_flight))
    gateway, url = start_gateway(run, settings.url, port, more)
    asking = subprocess.Popen(
        [
            *(sys.executable, "-m", "locust", "-f", str(LOCUST), "--headless", "--only-summary"),
            *("-u", str(clients), "-r", str(clients), "-H", url, "--loglevel", "ERROR"),
        ],
        cwd=ROOT,
        env={**os.environ, "LONGPLAY_ANSWERS": str(answers), "LONGPLAY_REQUESTS": str(requests)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for share in (1, 2) if kills else ():
            while _lines(answers) < requests * share // 3 and asking.poll() is None:
                time.sleep(0.2)
            if share == 1:
                os.kill(gateway.pid, signal.SIGKILL)
                gateway.wait()
                gateway, _ = start_gateway(run, settings.url, port, more)
            else:
                os.kill(supervisor.pid, signal.SIGKILL)
        asking.wait()
    finally:
        if asking.poll() is None:
            asking.terminate()
        gateway.terminate()
        gateway.wait(30)
        supervisor.stop()
    return judge(deployment, answers, served)


def judge(deployment: Deployment, answers: Path, served: Path) -> Outcome:
    """What came of it, from what locust saw and what the log says."""
    seen = [json.loads(line) for line in answers.read_text().splitlines()]
    answered = [line for line in seen if line["status"] == 200]
    logged = dict(read_decision_log(served / "decisions").select("decision_id", "slate").iter_rows())
    lost = sum(logged.get(line["decision_id"]) != line["slate"] for line in answered)
    known = deployment.index.row_of
    illegal = sum(
        len(set(line["slate"])) < len(line["slate"])
        or any(item not in known or item in line["blocked"] for item in line["slate"])
        for line in answered
    )
    took = pl.Series([line["seconds"] for line in answered])
    counts = Counter("shed" if line["status"] == 429 else "ok" if line["status"] == 200 else "failed" for line in seen)
    return Outcome(
        answered=len(answered),
        lost=lost,
        illegal=illegal,
        popular=sum(line["policy"].startswith("popular@") for line in answered),
        p50=float(took.quantile(0.5) or 0),
        p99=float(took.quantile(0.99) or 0),
        shed=counts["shed"],
        failed=counts["failed"],
    )


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo", help="run folder that is served")
    parser.add_argument("--requests", type=int, default=10_000, help="answered recommendations to stop at")
    parser.add_argument("--clients", type=int, default=16, help="listeners asking at once")
    parser.add_argument("--in_flight", type=int, default=128, help="the gateway's limit")
    parser.add_argument("--overload", action="store_true", help="no kills; clients that come back after Retry-After")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longplay-load-") as folder:
        outcome = load(Path(args.run), Path(folder), args.requests, args.clients, not args.overload, args.in_flight)
    print(json.dumps(vars(outcome)))
    if outcome.lost or outcome.illegal:
        sys.exit(1)


if __name__ == "__main__":
    exit_on_input_error(main)
