"""A served run under load, by a public load generator (locust), with vLLM and the gateway killed on the way.

    python scripts/bench.py load                      # runs/demo if it is there, else an untrained nano
    python scripts/benches/load.py --run runs/demo --requests 10000 --clients 16

First 10,000 recommendations: a quarter of the way the gateway is killed with SIGKILL and started again, half of the way
vLLM is, and while it starts popularity answers. Every answered decision must then be in the log, with the slate that
was sent, and no slate may hold an item twice, one that is not in the catalog, or one that the request had blocked. How
long vLLM takes to start is told apart from how long the gateway takes to notice: the first is imports and weights, and
the machine's; the second is ours, and bounded.

Then three times as many requests a second as were answered, for half a minute, by listeners who do not wait when they
are refused; then one who asks until the wanted policy answers again. Last, a thousand malformed requests, made from the
OpenAPI page by schemathesis: 120 of each operation with anything about it that can be wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.errors import exit_on_input_error
from policy.serving.deployment import Deployment
from policy.serving.engine import Engine, EngineSettings, free_port
from policy.serving.live import engine_adapters, publish
from policy.serving.segments import read_decision_log
from policy.serving.supervisor import Supervisor
from scripts.benches.malformed import ask_askew
from scripts.benches.measure import Measure
from scripts.benches.serving import ROOT, made_up_run, start_gateway

LOCUST = Path(__file__).with_name("locustfile.py")
DEMO = ROOT / "runs" / "demo"
_PACE = 0.25  # seconds between a listener's requests: while popularity answers, they do not use up all requests at once
_OVERLOAD_PACE = 2.0
_DEADLINE = 5.0
# The longest rest of a breaker (4 s), probes that wait for their whole deadline, and ten answers.
_RECOVERS = 20.0
_STREAK = 10
_STARTS_WITHIN = 600.0  # seconds that a killed vLLM is waited for


@dataclass(frozen=True)
class Outcome:
    """answered: decisions whose response arrived. lost: of those, not in the log as sent. illegal: slates. popular:
    decisions of the last rung. shed: answers 429; failed: no answer, or 5xx. p50, p99: of answered requests, seconds.
    """

    answered: int
    lost: int
    illegal: int
    popular: int
    shed: int
    failed: int
    p50: float
    p99: float


@dataclass(frozen=True)
class Recovery:
    """start: seconds from the kill of vLLM until its next /health. after: from then until the wanted policy answers."""

    start: float
    after: float


@dataclass
class Served:
    """A gateway before a vLLM, both ours to kill. deployment: as it is served into the folder `served`."""

    run: Path
    served: Path
    deployment: Deployment
    supervisor: Supervisor
    port: int
    gateway: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start_gateway()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_gateway(self) -> None:
        more = ("--served", str(self.served), "--deadline_seconds", str(_DEADLINE))
        self.gateway, _ = start_gateway(self.run, self.supervisor.settings.url, self.port, more)

    def kill_gateway(self) -> None:
        os.kill(self.gateway.pid, signal.SIGKILL)
        self.gateway.wait()
        self.start_gateway()

    def kill_engine(self) -> None:
        os.kill(self.supervisor.pid, signal.SIGKILL)


@contextmanager
def serving(run: Path, served: Path) -> Iterator[Served]:
    """Serve `run` into `served`."""
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
    try:
        engine.wait_until_ready()
    except BaseException:
        engine.stop()
        raise
    supervisor = Supervisor(engine)
    try:
        started = Served(run, served, deployment, supervisor, free_port())
        try:
            yield started
        finally:
            started.gateway.terminate()
            started.gateway.wait(30)
    finally:
        supervisor.stop()


@contextmanager
def asking(server: Served, answers: Path, requests: int, clients: int, pace: float, patient: bool) -> Iterator[None]:
    """Locust's listeners, while the context lasts; they stop by themselves after `requests` answers."""
    some = random.Random(0).sample(server.deployment.index.item_ids, min(300, server.deployment.index.size))
    told = {
        "LONGPLAY_ANSWERS": str(answers),
        "LONGPLAY_REQUESTS": str(requests),
        "LONGPLAY_ITEMS": ",".join(some),
        "LONGPLAY_PACE": str(pace),
        "LONGPLAY_PATIENT": str(int(patient)),
    }
    line = [sys.executable, "-m", "locust", "-f", str(LOCUST), "--headless", "--only-summary", "--loglevel", "ERROR"]
    line += ["-u", str(clients), "-r", str(clients), "-H", server.url]
    quiet = subprocess.DEVNULL
    locust = subprocess.Popen(line, cwd=ROOT, env={**os.environ, **told}, stdout=quiet, stderr=quiet)
    try:
        while _answered(answers) < 1 and locust.poll() is None:
            time.sleep(0.1)
        yield
    finally:
        if locust.poll() is None:
            locust.terminate()
        locust.wait(60)


def with_kills(server: Served, requests: int, clients: int) -> tuple[Outcome, Recovery]:
    """`requests` answered recommendations; the gateway is killed after a quarter of them, vLLM after half."""
    answers = server.served / "answers.jsonl"
    killed, healthy = 0.0, ThreadPoolExecutor(1)
    with asking(server, answers, requests, clients, _PACE, patient=True):
        _wait_for(answers, requests * 0.25)
        server.kill_gateway()
        _wait_for(answers, requests * 0.5)
        killed = time.time()
        server.kill_engine()
        again = healthy.submit(_healthy, server.supervisor.settings.url)
        _wait_for(answers, requests)
    up = again.result()
    healthy.shutdown()
    held = streak((line for line in _read(answers) if line["at"] >= up), _STREAK)
    # Popularity may have used up the requests before vLLM was there.
    after = held - up if held is not None else time.time() - up + recovery(server.url)
    return judge(server, answers), Recovery(up - killed, after)


def _healthy(url: str) -> float:
    """When vLLM, that was just killed, answers again (seconds since 1970). Raises TimeoutError where it never does."""
    given_up = time.monotonic() + _STARTS_WITHIN
    with httpx.Client(timeout=1.0) as client:
        while time.monotonic() < given_up:
            with suppress(httpx.TransportError):
                if client.get(f"{url}/health").status_code == httpx.codes.OK:
                    return time.time()
            time.sleep(0.1)
    raise TimeoutError(f"vLLM did not come back within {_STARTS_WITHIN:.0f} s")


def streak(answers: Iterable[dict[str, Any]], length: int) -> float | None:
    """When so many answers in a row had come from the policy that was wanted; None if they never did."""
    held = 0
    for line in answers:
        held = held + 1 if line["status"] == 200 and line["fallback"] is None else 0
        if held == length:
            return float(line["at"])
    return None


def _wait_for(answers: Path, count: float) -> None:
    began, before = time.monotonic(), _answered(answers)
    while (now := _answered(answers)) < count:
        if now > before:
            began, before = time.monotonic(), now
        if time.monotonic() - began > 120:
            raise TimeoutError(f"no further answer for two minutes after {now} of {count:.0f}")
        time.sleep(0.2)


def capacity(server: Served, requests: int, clients: int) -> float:
    """Recommendations a second by the wanted policy, with every client asking again at once."""
    answers = server.served / "capacity.jsonl"
    with asking(server, answers, requests + 1, clients, 0.0, patient=True):
        first, began = _answered(answers), time.monotonic()
        while (count := _answered(answers)) < requests and time.monotonic() - began < 120:
            time.sleep(0.05)
        return (count - first) / (time.monotonic() - began)


def overload(server: Served, rate: float, seconds: float) -> Outcome:
    """`rate` requests a second, for so many seconds, by listeners who come back whatever they are told."""
    answers = server.served / "overload.jsonl"
    clients = math.ceil(rate * _OVERLOAD_PACE)
    with asking(server, answers, 10**9, clients, _OVERLOAD_PACE, patient=False):
        time.sleep(seconds)
    return judge(server, answers)


def recovery(url: str) -> float:
    """Seconds until so many requests in a row are answered by the policy that they want."""
    began = time.monotonic()
    held = 0
    with httpx.Client(timeout=30.0) as client:
        while held < _STREAK and time.monotonic() - began < 120:
            answer = client.post(f"{url}/v1/recommendations", json={"user_id": f"u{held}"})
            held = held + 1 if answer.status_code == 200 and answer.json()["fallback"] is None else 0
            if not held:
                time.sleep(0.1)
    return time.monotonic() - began


def judge(server: Served, answers: Path) -> Outcome:
    """What came of it, from what locust saw and what the log says."""
    seen = _read(answers)
    answered = [line for line in seen if line["status"] == 200]
    logged = dict(read_decision_log(server.served / "decisions").select("decision_id", "slate").iter_rows())
    lost = sum(logged.get(line["decision_id"]) != line["slate"] for line in answered)
    known = server.deployment.index.row_of
    illegal = sum(
        len(set(line["slate"])) < len(line["slate"])
        or any(item not in known or item in line["blocked"] for item in line["slate"])
        for line in answered
    )
    took = pl.Series([line["seconds"] for line in answered], dtype=pl.Float64)
    shed = sum(line["status"] == 429 for line in seen)
    return Outcome(
        answered=len(answered),
        lost=lost,
        illegal=illegal,
        popular=sum(line["policy"].startswith("popular@") for line in answered),
        shed=shed,
        failed=len(seen) - len(answered) - shed,
        p50=float(took.quantile(0.5) or 0),
        p99=float(took.quantile(0.99) or 0),
    )


def bench_load(
    run: Path | None = None, requests: int = 10_000, clients: int = 16, seconds: float = 30.0, malformed: int = 120
) -> Iterable[Measure]:
    """What is held under load. run: runs/demo if None and it is there, else an untrained nano over 10,000 items.
    seconds: of the overload. malformed: requests of each operation.
    """
    with tempfile.TemporaryDirectory(prefix="longplay-load-") as folder:
        if run is None and (DEMO / "policy" / "ppo").is_dir():
            run = DEMO
        if run is None:
            run = Path(folder) / "run"
            made_up_run(run, 10_000)
        with serving(run, Path(folder) / "served") as server:
            yield from _measured(server, requests, clients, seconds, malformed)


def _measured(server: Served, requests: int, clients: int, seconds: float, malformed: int) -> Iterable[Measure]:
    rate = capacity(server, max(20, requests // 20), clients)
    held, again = with_kills(server, requests, clients)
    of = f"of {held.answered:,} with two kills"
    yield Measure(f"load: lost decisions {of}", "", held.lost, None, 0)
    yield Measure(f"load: illegal slates {of}", "", held.illegal, None, 0)
    yield Measure(f"load: drawn by popularity while vLLM started, {of}", "", held.popular, None, held.answered)
    name = f"load: p99 {of} ({held.failed} unanswered while the gateway started, p50 {held.p50:.3f} s)"
    yield Measure(name, "s", held.p99, None, _DEADLINE)
    yield Measure(
        "load: vLLM answers /health again after its kill", "s", again.start, None, EngineSettings.startup_seconds
    )
    yield Measure("load: the wanted policy answers ten in a row after that", "s", again.after, None, _RECOVERS)

    # Whatever the clients of before could get out of it, three times that.
    full = overload(server, 3 * rate, seconds)
    asked = full.answered + full.shed + full.failed
    name = f"overload: p99 of the accepted at {asked / seconds:.0f} a second, capacity {rate:.0f} ({clients} clients)"
    yield Measure(name, "s", full.p99, None, _DEADLINE)
    name = f"overload: 5xx or no answer, of {asked:,} ({full.shed:,} shed, {full.popular:,} by popularity)"
    yield Measure(name, "", full.failed, None, 0)
    yield Measure("overload: lost or illegal", "", full.lost + full.illegal, None, 0)
    yield Measure("overload: the wanted policy answers again after", "s", recovery(server.url), None, _RECOVERS)

    sent = ask_askew(server.url, malformed, ("negative",))
    for fault in sent.faults[:5]:
        sys.stderr.write(f"{fault}\n")
    yield Measure(f"malformed: 5xx of {sum(sent.requests.values()):,}", "", len(sent.faults), None, 0)


def _read(answers: Path) -> list[dict[str, Any]]:
    # Locust may have been stopped in the middle of a line, whose answer nobody has seen then.
    return [json.loads(line) for line in answers.read_text().rpartition("\n")[0].splitlines()]


def _answered(answers: Path) -> int:
    return answers.read_bytes().count(b'{"status": 200') if answers.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder that is served")
    parser.add_argument("--requests", type=int, default=10_000, help="answered recommendations to stop at")
    parser.add_argument("--clients", type=int, default=16, help="listeners asking at once")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the overload")
    parser.add_argument("--malformed", type=int, default=120, help="malformed requests of each operation")
    args = parser.parse_args()
    measures = []
    for measure in bench_load(args.run, args.requests, args.clients, args.seconds, args.malformed):
        measures.append(measure)
        print(json.dumps(measure.as_json()), flush=True)
    if not all(measure.holds for measure in measures):
        sys.exit(1)


if __name__ == "__main__":
    exit_on_input_error(main)
