"""What serving costs: the gateway over vLLM, the constraint over free generation, and vLLM's own ways to constrain.

A catalog of 10,000 items and an untrained `nano` of its vocabulary: how long a token takes does not depend on what the
weights have learned. All servers run on this machine, one is asked at a time, in turns, and medians are taken.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import polars as pl

from data.catalog import Catalog
from data.errors import InputError
from data.schema import polars_schema
from data.semantic_ids import choose_level_sizes
from policy.checkpoint import PolicySettings
from policy.presets import base_model, preset
from policy.serving.engine import Engine, EngineSettings, free_port
from policy.serving.recommend import AS_TRAINED
from policy.vocabulary import Vocabulary
from scripts.benches.measure import Measure

ROOT = Path(__file__).resolve().parents[2]
_TOKENS, _SLATE = 16, 5
_PROMPT = [5] * 60


def bench_serving(items: int = 10_000, requests: int = 192, clients: int = 32) -> Iterable[Measure]:
    """Gateway p50 over raw vLLM; tokens a second with the catalog and without; one item by vLLM's choice and regex."""
    with tempfile.TemporaryDirectory(prefix="longplay-serving-") as folder:
        run = Path(folder) / "run"
        catalog = made_up_run(run, items)
        with engine(run, constrained=True) as ours, engine(run, constrained=False) as free:
            with gateway(run, ours) as url:
                added = [_added_ms(url, ours) for _ in range(5)]
            yield Measure("serving: gateway p50 over raw vLLM, one client", "ms", median(added), None, 5.0)

            slate = {"max_tokens": _TOKENS, "vllm_xargs": {"slate_size": _SLATE, "end": 0}}
            words = {"max_tokens": _TOKENS, "ignore_eos": True}
            # A single pair says little on two cores that the load shares: ratios from .9 to 1.2 were seen in a row.
            rates = [(_rate(ours, slate, requests, clients), _rate(free, words, requests, clients)) for _ in range(11)]
            own, other = (median(column) for column in zip(*rates, strict=True))
            name = f"serving: constrained to {items:,} items, {clients} clients, beside unconstrained"
            yield Measure(name, "tokens/s", own, other, 0.95, "higher")

            single = {"max_tokens": 5, "vllm_xargs": {"slate_size": 1}}
            mine = _answers(ours, single, 32, 8)
            for kind, wanted in structured(catalog).items():
                theirs = _answers(free, {"max_tokens": 8, "structured_outputs": wanted}, 8, 8)
                yield Measure(
                    f"serving: one of {items:,} items, beside vLLM's {kind}", "answers/s", mine, theirs, 1.0, "higher"
                )


def made_up_run(run: Path, items: int) -> Catalog:
    """A run folder with a catalog of `items` and an untrained nano that speaks it."""
    sizes = choose_level_sizes(items, 3)
    drawn = np.sort(np.random.default_rng(0).choice(int(np.prod(sizes)), items, replace=False))
    codes = np.stack(np.unravel_index(drawn, sizes), axis=1).astype(np.int32)
    names = {"item_id": [f"i{row}" for row in range(items)], "kind": ["track"] * items, "title": ["A track"] * items}
    table = pl.concat([pl.DataFrame(schema=polars_schema("items")), pl.DataFrame(names)], how="diagonal")
    books = tuple(np.zeros((size, 8), dtype=np.float32) for size in sizes)
    catalog = Catalog(table, np.zeros((items, 8), dtype=np.float32), codes, tuple(sizes), books)
    catalog.save(run / "catalog")
    model, tokenizer = base_model(preset("nano"), catalog, 0)
    base = run / "policy" / "sft"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    Vocabulary.of(tokenizer, catalog).save(base)
    settings = PolicySettings(preset="nano", catalog=catalog.version, slate_size=_SLATE, history_length=12)
    (base / "policy.json").write_text(json.dumps(asdict(settings)))
    return catalog


def structured(catalog: Catalog) -> Mapping[str, Mapping[str, object]]:
    """The catalog as vLLM's own structured outputs take it: a list of choices, or a regular expression."""
    said = ["".join(f"<s{level}_{code}>" for level, code in enumerate(codes)) for codes in catalog.codes.tolist()]
    return {"choice": {"choice": said}, "regex": {"regex": "(" + "|".join(said) + ")"}}


@contextmanager
def engine(run: Path, constrained: bool) -> Iterator[str]:
    """A vLLM server on the run's base policy; its URL."""
    log = run / f"vllm-{constrained}.log"
    settings = EngineSettings(
        run / "policy" / "sft", run / "catalog", port=free_port(), log=log, constrained=constrained
    )
    # vLLM gives up a regular expression of 10,000 items after five seconds of compiling, which are not counted here.
    os.environ.setdefault("VLLM_REGEX_COMPILATION_TIMEOUT_S", "120")
    server = Engine(settings)
    try:
        server.wait_until_ready()
        yield settings.url
    finally:
        server.stop()


@contextmanager
def gateway(run: Path, engine_url: str, port: int | None = None) -> Iterator[str]:
    """A gateway alone, in a process of its own; its URL."""
    port = port or free_port()
    process, url = start_gateway(run, engine_url, port)
    try:
        yield url
    finally:
        process.terminate()
        process.wait(30)


def start_gateway(
    run: Path, engine_url: str, port: int, more: tuple[str, ...] = ()
) -> tuple[subprocess.Popen[bytes], str]:
    """Start `scripts/serve.py` before a vLLM that runs; returns when it answers."""
    line = [sys.executable, "scripts/serve.py", "--run", str(run), "--port", str(port), "--engine_url", engine_url]
    line += more
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(1200):
        if process.poll() is not None:
            raise InputError(f"the gateway ended with {process.returncode}; run {' '.join(line)} to see why")
        try:
            httpx.get(f"{url}/health")
            return process, url
        except httpx.TransportError:
            time.sleep(0.1)
    raise InputError("the gateway did not answer within two minutes")


def _added_ms(url: str, engine_url: str, times: int = 60) -> float:
    """Median milliseconds of a recommendation, less that of what it asks vLLM; in turns, so both see the same load."""
    xargs = {"slate_size": _SLATE, "end": 0}
    raw = {**AS_TRAINED, "prompt": _PROMPT[:20], "logprobs": 0, "return_token_ids": True, "vllm_xargs": xargs}
    took: dict[str, list[float]] = {"gateway": [], "raw": []}
    with httpx.Client(timeout=60.0) as client:
        for number in range(times):
            for name, address, body in (
                ("raw", f"{engine_url}/v1/completions", raw),
                ("gateway", f"{url}/v1/recommendations", {"user_id": f"u{number}", "deadline_ms": 60_000}),
            ):
                began = time.perf_counter()
                client.post(address, json=body).raise_for_status()
                took[name].append(time.perf_counter() - began)
    return 1e3 * (median(took["gateway"]) - median(took["raw"]))


def _rate(url: str, body: Mapping[str, object], requests: int, clients: int) -> float:
    """Completion tokens a second."""
    tokens, took = asyncio.run(_load(url, body, requests, clients))
    return tokens / took


def _answers(url: str, body: Mapping[str, object], requests: int, clients: int) -> float:
    """Answers a second."""
    _, took = asyncio.run(_load(url, body, requests, clients))
    return requests / took


async def _load(url: str, body: Mapping[str, object], requests: int, clients: int) -> tuple[int, float]:
    places = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(timeout=300.0, limits=httpx.Limits(max_connections=clients)) as client:

        async def one() -> int:
            async with places:
                answer = await client.post(
                    f"{url}/v1/completions", json={"prompt": _PROMPT, "temperature": 1.0, **body}
                )
                answer.raise_for_status()
                said: dict[str, Any] = answer.json()
                return int(said["usage"]["completion_tokens"])

        await one()  # what is compiled for the first request is not what a request costs
        began = time.perf_counter()
        tokens = sum(await asyncio.gather(*(one() for _ in range(requests))))
        return tokens, time.perf_counter() - began
