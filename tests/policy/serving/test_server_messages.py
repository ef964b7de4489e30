"""Messages through a real vLLM: decided beside slates in one batch, each with the probability that it really had."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import polars as pl
import pytest

from data.catalog import Catalog
from data.message_log import message_log
from data.opportunities import OpportunityRegistry, as_signals
from data.store import LogStore
from data.world.environment import Messages
from policy.checkpoint import load_speaker
from policy.messaging.agent import message_log_probs
from policy.messaging.prompt import MessagePrompt, message_words
from policy.serving.segments import read_decision_log, read_event_log
from tests.policy.serving.conftest import RunningServer

WHEN = datetime(2026, 3, 2, 7, 5, tzinfo=UTC)
OFFERS = [("concert", "m-concert-jazz"), ("offer", "m-offer"), ("win_back", "m-win_back")]


def ask(server: RunningServer, user: str, at: datetime) -> dict[str, Any]:
    asked = {"user_id": user, "time": at.isoformat(), "deadline_ms": 60_000}
    answer = httpx.post(f"{server.url}/v1/messages", json=asked, timeout=90)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def slate(server: RunningServer, user: str) -> dict[str, Any]:
    made: dict[str, Any] = httpx.post(f"{server.url}/v1/recommendations", json={"user_id": user}, timeout=90).json()
    return made


def test_the_logged_probability_of_a_message_is_the_one_it_had(server: RunningServer) -> None:
    (server.run / "served" / "messages.yaml").write_text("{holdout: 0.0}")
    offers = [
        {"opportunity_id": f"o{n}", "domain": domain, "item_id": item, "value": n - 1.0}
        | {"created_at": "2026-03-01T00:00:00Z", "text": f"{n}"}
        for n, (domain, item) in enumerate(OFFERS)
    ]
    told = httpx.post(f"{server.url}/v1/opportunities", json={"opportunities": offers}, timeout=60)
    assert told.json()["accepted"] == 3
    answers = []
    with ThreadPoolExecutor(8) as pool:
        for day in range(4):
            at = WHEN + timedelta(days=day)
            made = [pool.submit(ask, server, f"u{n}", at) for n in range(1, 6)]
            slates = [pool.submit(slate, server, f"u{n}") for n in range(4)]
            answers += [each.result() for each in made]
            assert all(each.result()["fallback"] is None for each in slates)

    assert {answer["fallback"] for answer in answers} == {None}
    assert {answer["action"] for answer in answers} == {"send", "hold"}
    rows = read_decision_log(server.run / "served" / "decisions").filter(pl.col("policy").str.starts_with("messages@"))
    scored = rescored(server, rows)
    assert len(scored) == len(answers)
    for answer in answers:
        assert math.log(answer["propensity"]) == pytest.approx(scored[answer["decision_id"]], abs=1e-3)


def rescored(server: RunningServer, rows: pl.DataFrame) -> dict[str, float]:
    """Log-probabilities of decisions about messages, from the logs alone, by transformers."""
    store, catalog = LogStore(server.run / "logs"), Catalog.load(server.run / "catalog")
    received = read_event_log(server.run / "served" / "events")
    log = message_log(
        pl.concat([store.events().select(received.columns), received]),
        rows,
        store.users(),
        store.items(),
        WHEN + timedelta(days=9),
        catalog.index_of,
        as_signals(OpportunityRegistry(server.run / "opportunities").live(WHEN), rows["user_id"].unique().to_list()),
    )
    spoken = load_speaker(server.run / "policy" / "sft", catalog, server.run / "policy" / "messages")
    prompt = MessagePrompt(spoken.prompt, message_words(store.items()))
    found = message_log_probs(spoken, prompt, log.contexts, Messages(log.column, log.channel, log.hour))
    return dict(zip(log.decision_id, found.tolist(), strict=True))


def test_what_may_be_sent_is_checked_before_anything_is_decoded(server: RunningServer) -> None:
    def to_vllm(**xargs: Any) -> httpx.Response:
        asked = {"model": "messages", "prompt": "<message>", "temperature": 1.0, "logprobs": 0, "vllm_xargs": xargs}
        return httpx.post(f"{server.engine_url}/v1/completions", json=asked, timeout=90)

    for wrong, reason in (
        ({"sends": [576]}, "from 0 to 575"),
        ({"sends": [1.5]}, "list of places"),
        ({"sends": [1], "slate_size": 3}, "cannot be combined"),
    ):
        answer = to_vllm(**wrong)
        assert answer.status_code == 400
        assert reason in answer.text
    one = to_vllm(sends=[98]).json()["choices"][0]
    assert one["text"] in ("<o_1><push><hour_02>", "<hold><hold><hold>")
    assert to_vllm(sends=[]).json()["choices"][0]["text"] == "<hold><hold><hold>"
