"""What changes while the server runs: adapters, items, traffic. Nobody's request fails over it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import polars as pl
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from data.catalog import Catalog
from data.schema import polars_schema
from policy.serving.segments import read_decision_log
from tests.policy.serving.conftest import RunningServer
from tests.policy.serving.rescoring import Rescorer
from tests.policy.serving.tiny_run import ITEMS

WHEN = "2026-03-02T18:05:00+00:00"


def ask(server: RunningServer, **request: Any) -> dict[str, Any]:
    body = {"user_id": "u5", "context": {"time": WHEN}, **request}
    answer = httpx.post(f"{server.url}/v1/recommendations", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(600):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to pass within a minute")


def replace_folder(new: Path, place: Path) -> None:
    """As an artifact is replaced: whole, by renames."""
    if place.exists():
        place.rename(place.with_name(f".{place.name}.old"))
    new.rename(place)
    shutil.rmtree(place.with_name(f".{place.name}.old"), ignore_errors=True)


def test_a_new_adapter_is_served_without_a_failed_request_and_its_propensities_are_its_own(
    server: RunningServer,
) -> None:
    stop = Event()

    def listen(number: int) -> list[dict[str, Any]]:
        answers = []
        while not stop.is_set():
            answers.append(ask(server, user_id=f"u{number}", policy="dpo"))
        return answers

    before = ask(server, policy="dpo")["policy"]
    with ThreadPoolExecutor(2) as pool:
        listeners = [pool.submit(listen, number) for number in range(2)]
        torch.manual_seed(99)
        base = LlamaForCausalLM.from_pretrained(server.run / "policy" / "sft")
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(base, lora).save_pretrained(server.run / ".dpo.new")
        replace_folder(server.run / ".dpo.new", server.run / "policy" / "dpo")
        try:
            wait_for(lambda: httpx.get(f"{server.url}/ready", timeout=60).json()["policies"]["dpo"] != before)
        finally:
            stop.set()
        during = [answer for listener in listeners for answer in listener.result()]

    after = ask(server, policy="dpo")
    assert after["policy"] != before
    assert {answer["fallback"] for answer in during} == {None}
    assert {answer["policy"] for answer in during} <= {before, after["policy"]}
    rescore = Rescorer(server.run)
    scored = rescore({"user_id": "u5", "policy": "dpo", "context": {"time": WHEN}}, after)
    assert abs(torch.log(torch.tensor(after["propensity"])).item() - scored) < 1e-3
    plain = httpx.post(f"{server.url}/v1/completions", json={"model": "dpo", "prompt": "<slate>"}, timeout=60).json()
    assert plain["model"] == plain["choices"][0]["longplay"]["policy"] == after["policy"]


def test_a_new_item_can_be_recommended_without_a_restart(server: RunningServer) -> None:
    old = Catalog.load(server.run / "catalog")
    taken = {tuple(codes) for codes in old.codes.tolist()}
    spare = next((a, b, c) for a in range(6) for b in range(6) for c in range(4) if (a, b, c) not in taken)
    item = {"item_id": "brand-new", "kind": "audiobook", "title": "Just out"}
    grown = Catalog(
        pl.concat([old.items, pl.DataFrame([item], schema_overrides=polars_schema("items"))], how="diagonal"),
        torch.cat([torch.from_numpy(old.embeddings), torch.from_numpy(old.embeddings[:1])]).numpy(),
        torch.cat([torch.from_numpy(old.codes), torch.tensor([spare], dtype=torch.int32)]).numpy(),
        old.level_sizes,
        old.codebooks,
    )
    assert ask(server)["catalog"] == old.version
    grown.save(server.run / ".catalog.new")
    replace_folder(server.run / ".catalog.new", server.run / "catalog")
    try:
        wait_for(lambda: httpx.get(f"{server.url}/ready", timeout=60).json()["catalog"] == grown.version)
        others = [f"item-{row:02d}" for row in range(ITEMS) if row % 3 == 2]
        answer = ask(server, k=1, kinds=["audiobook"], blocked=others)
        event = {"user_id": "u5", "surface": "home", "action": "like", "item_id": "brand-new"}
        heard = httpx.post(f"{server.url}/v1/feedback", json={"events": [event]})
    finally:
        old.save(server.run / ".catalog.new")
        replace_folder(server.run / ".catalog.new", server.run / "catalog")
        wait_for(lambda: httpx.get(f"{server.url}/ready", timeout=60).json()["catalog"] == old.version)

    assert (answer["items"][0]["item_id"], answer["items"][0]["title"]) == ("brand-new", "Just out")
    assert (answer["catalog"], answer["fallback"]) == (grown.version, None)
    assert heard.status_code == 200
    slates = read_decision_log(server.run / "served" / "decisions")["slate"].to_list()
    assert ["brand-new"] in slates
    assert ask(server)["catalog"] == old.version
