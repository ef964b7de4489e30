"""Messages: what the rules forbid is never sent, whoever decides and however many ask at once; nor to the holdout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from data.errors import InputError
from data.message_log import message_log
from data.opportunities import OpportunityRegistry, as_signals
from data.store import LogStore
from policy.messaging.rules import MessageRules
from policy.messaging.violations import KINDS, standing, violations
from policy.serving.correspondence import Correspondence
from policy.serving.deployment import Deployment
from policy.serving.engine import free_port
from policy.serving.gateway import create_app
from policy.serving.keys import FILE, add_key
from policy.serving.mailing import read_mailing
from policy.serving.message_arguments import MessageArguments
from policy.serving.replay import replay
from policy.serving.segments import read_decision_log, rows_to_frame
from policy.serving.service import GatewaySettings, Service
from policy.serving.state import Mail, StateError, open_state
from tests.policy.serving.test_gateway_alone import engine
from tests.policy.serving.tiny_run import build

RULE = "rules_with_caps"
WHEN = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
NOBODY_HELD_OUT = "{holdout: 0.0, channel_caps: {push: 2, email: 2, in_app: 1}, weekly_cap: 4}"
RULES = MessageRules(hours=tuple(range(8, 21)), channel_caps=(2, 2, 1), weekly_cap=4)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    run = tmp_path_factory.mktemp("messages") / "run"
    build(run, decisions=True, adapters=("messages",))
    return Deployment.load(run)


class Gateway(TestClient):
    """A client of a gateway in this process, and the service behind it."""

    def __init__(self, service: Service) -> None:
        super().__init__(create_app(service))
        self.service = service


Opened = Callable[..., Gateway]


@pytest.fixture
def opened(deployment: Deployment, tmp_path: Path) -> Opened:
    """Begins a gateway over a run of its own, which shares catalog and policy with `deployment`."""
    run = tmp_path / "run"
    shutil.copytree(deployment.run / "logs", run / "logs")
    for name in ("catalog", "policy"):
        (run / name).symlink_to(deployment.run / name)

    def begin(settings: str = NOBODY_HELD_OUT, port: int | None = None) -> Gateway:
        served = run / "served"
        served.mkdir(exist_ok=True)
        (served / "messages.yaml").write_text(settings)
        state = open_state(f"sqlite:///{served / 'state.sqlite'}")
        asked = GatewaySettings(f"http://127.0.0.1:{port or free_port()}", seed=1)
        return Gateway(Service(Deployment.load(run), LogStore(run / "logs"), state, served, asked))

    return begin


def opportunity(number: int, **changed: Any) -> dict[str, Any]:
    names = (("concert", "m-concert-jazz"), ("offer", "m-offer"), ("win_back", "m-win_back"))
    domain, item = names[number % 3]
    made = {"opportunity_id": f"o{number}", "domain": domain, "item_id": item, "value": 0.5 + number}
    return made | {"created_at": "2026-03-01T00:00:00Z", "text": f"number {number}"} | changed


def submit(gateway: Gateway, *offers: dict[str, Any]) -> dict[str, Any]:
    answer = gateway.post("/v1/opportunities", json={"opportunities": list(offers)})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def ask(gateway: Gateway, user: str, at: datetime = WHEN, **more: Any) -> dict[str, Any]:
    answer = gateway.post("/v1/messages", json={"user_id": user, "time": at.isoformat(), **more})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def logged(gateway: Gateway) -> pl.DataFrame:
    return read_decision_log(gateway.service.served / "decisions")


def test_what_a_domain_submits_counts_once_and_is_there_for_the_planner(opened: Opened) -> None:
    with opened() as gateway:
        first = submit(gateway, opportunity(0), opportunity(1), opportunity(2, item_id="item-01"))
        again = submit(gateway, opportunity(0), opportunity(3, domain="lottery"))
        counts = gateway.get("/v1/opportunities").json()
        run = gateway.service.deployment.run
        wrong = gateway.post("/v1/opportunities", json={"opportunities": [opportunity(4, channels=["pigeon"])]})

    assert first == {"accepted": 2, "known": 0, "rejected": {"unknown item_id": 1}}
    assert again == {"accepted": 0, "known": 1, "rejected": {"unknown domain": 1}}
    assert (counts["concert"]["accepted"], counts["lottery"]) == (1, {"unknown domain": 1})
    assert OpportunityRegistry(run / "opportunities").live(WHEN)["opportunity_id"].to_list() == ["o0", "o1"]
    assert wrong.status_code == 400
    assert "pigeon" in wrong.json()["error"]["message"]


def test_nobody_speaks_for_another_domain(opened: Opened) -> None:
    with opened() as gateway:
        file = gateway.service.served / FILE
        keys = {name: add_key(file, name, admin=name == "boss") for name in ("concert", "web", "boss")}
        gateway.service.keys.refresh()

        def by(name: str, *offers: dict[str, Any]) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {keys[name]}"}
            answer = gateway.post("/v1/opportunities", json={"opportunities": list(offers)}, headers=headers)
            return answer.status_code, answer.json()

        assert by("web", opportunity(0))[0] == 403
        mixed = by("concert", opportunity(0), opportunity(1))
        assert mixed == (200, {"accepted": 1, "known": 0, "rejected": {"submitted by another domain": 1}})
        assert by("boss", opportunity(1))[1]["accepted"] == 1


def test_many_who_ask_at_once_break_no_rule(opened: Opened) -> None:
    """Seven listeners, eight days, two asking for each at once, an opt-out on the way: not one send against a rule."""
    with opened() as gateway, ThreadPoolExecutor(6) as pool:
        offers = [opportunity(n) for n in range(3)]
        submit(gateway, *offers, opportunity(4, expires_at="2026-03-04T10:00:00Z", channels=["email"]))
        out = {"user_id": "u4", "surface": "push", "action": "opt_out", "time": "2026-03-03T00:00:00Z"}
        assert gateway.post("/v1/feedback", json={"events": [out]}).status_code == 200
        for day in (0, 1, 2, 6, 7):
            at = WHEN + timedelta(days=day, hours=5 * (day % 3))
            asked = [f"u{user}" for user in range(7) for _ in range(2)]
            answers = list(pool.map(lambda user, at=at: ask(gateway, user, at, policy=RULE), asked))
            assert all(answer["propensity"] == 1.0 for answer in answers)
        rows = logged(gateway)
        store = LogStore(gateway.service.deployment.run / "logs")

    assert rows.height == 5 * 14
    sends = rows.filter(pl.col("channel").is_not_null())
    assert sends.height > 15
    assert not {"u0", "u6"} & set(sends["user_id"])  # who never agreed, and who is not known
    left = pl.DataFrame([out]).with_columns(pl.col("time").str.to_datetime(time_zone="UTC"))
    users = standing(store.users(), pl.concat([store.events(), left], how="diagonal_relaxed"))  # type: ignore[arg-type]
    assert violations(rows.filter(pl.col("user_id") != "u6"), users, RULES) == dict.fromkeys(KINDS, 0)


def test_a_days_budget_is_not_overdrawn_and_its_end_is_a_hold(opened: Opened) -> None:
    with opened("{holdout: 0.0, budgets: {push: 2, email: 1, in_app: 0}}") as gateway:
        submit(gateway, *(opportunity(n) for n in range(3)))
        with ThreadPoolExecutor(6) as pool:
            asked = [f"u{user}" for user in range(6)] * 2
            answers = list(pool.map(lambda user: ask(gateway, user, policy=RULE), asked))
        rows = logged(gateway)

    by = dict(rows.drop_nulls("channel").group_by("channel").len().iter_rows())
    assert by == {"push": 2, "email": 1}
    assert {answer["action"] for answer in answers} == {"send", "hold"}


def test_the_holdout_is_never_written_to_and_logged_as_such(opened: Opened) -> None:
    half = read_mailing({"holdout": 0.5}).drawing(date(2026, 3, 2))
    with opened("{holdout: 0.5}") as gateway:
        submit(gateway, *(opportunity(n) for n in range(3)))
        answers = {f"u{n}": ask(gateway, f"u{n}") for n in range(1, 6)}
        named = {user: ask(gateway, user, policy=RULE) for user in answers}
        rows = logged(gateway)

    out = {user for user in answers if half.arm(user) == "holdout"}
    assert 0 < len(out) < 5
    for user in out:
        for answer in (answers[user], named[user]):
            held = (answer["action"], answer["arm"], answer["policy"], answer["propensity"])
            assert held == ("hold", "holdout", "holdout@1", 1.0)
    mine = rows.filter(pl.col("user_id").is_in(list(out)))
    assert mine["channel"].null_count() == mine.height == 2 * len(out)
    assert all(answers[user]["arm"] == "messages" and named[user]["arm"] is None for user in set(answers) - out)


def said(deployment: Deployment, *tokens: str) -> dict[str, Any]:
    """vLLM's answer of these tokens, each with probability one half."""
    ids = [deployment.grammar.vocabulary.ids[token] for token in tokens]
    return {"choices": [{"index": 0, "token_ids": ids, "logprobs": {"token_logprobs": [-0.6931471805599453] * 3}}]}


def test_the_model_decides_within_the_rules_and_holds_when_it_cannot(deployment: Deployment, opened: Opened) -> None:
    heard: list[dict[str, Any]] = []
    answers: dict[str, Any] = {"messages": (0.0, 200, said(deployment, "<o_0>", "<email>", "<hour_18>"))}
    with engine(answers, heard) as port, opened(port=port) as gateway:
        submit(gateway, opportunity(0, value=9.0), opportunity(1))
        sent = ask(gateway, "u4")
        answers["messages"] = (0.0, 200, said(deployment, "<hold>", "<hold>", "<hold>"))
        held = ask(gateway, "u5")
        answers["messages"] = (0.0, 200, said(deployment, "<o_0>", "<in_app>", "<hour_18>"))
        forbidden = ask(gateway, "u4")  # who did not agree to that
        answers["messages"] = (0.0, 500, b"gone")
        gone = ask(gateway, "u5")
        metrics = gateway.get("/metrics").text
        rows = logged(gateway)

    assert (sent["action"], sent["policy"], sent["arm"]) == ("send", deployment.versions["messages"], "messages")
    assert sent["propensity"] == pytest.approx(0.125)
    message = sent["message"]
    assert (message["opportunity_id"], message["channel"], message["local_hour"]) == ("o0", "email", 18)
    assert message["send_at"] == "2026-03-02T18:00:00Z"
    assert (held["action"], held["policy"], held["fallback"]) == ("hold", sent["policy"], None)
    for answer in (forbidden, gone):
        assert (answer["action"], answer["policy"], answer["fallback"]) == ("hold", "hold@1", "hold")
        assert answer["propensity"] == 1.0
    assert 'longplay_illegal_items_total{kind="message"} 1.0' in metrics
    assert rows.sort("time")["policy"].to_list().count("hold@1") == 2
    may = MessageArguments.parse(heard[0]["vllm_xargs"]).allowed[0]
    assert may[:2, :2, 9:21].all()  # the hour that has begun is allowed still; nothing was sent before
    assert not may[2:].any()
    assert not may[:, 2].any()
    assert not may[..., :9].any()


def test_a_replay_brings_decisions_back_as_they_were_made(opened: Opened) -> None:
    with opened("{holdout: 0.0, explore: 0.5}") as gateway:
        submit(gateway, *(opportunity(n) for n in range(3)))
        answers = [
            ask(gateway, f"u{n}", WHEN + timedelta(days=day), policy=RULE) for day in range(6) for n in range(1, 6)
        ]
        run = gateway.service.deployment.run
    replay(run, run / "served")

    store = LogStore(run / "logs")
    row_of = {item: row for row, item in enumerate(store.items()["item_id"].to_list())}
    told = OpportunityRegistry(run / "opportunities").live(WHEN)
    log = message_log(
        store.events(),
        store.decisions(),
        store.users(),
        store.items(),
        WHEN + timedelta(days=9),
        lambda ids: np.array([row_of[item] for item in ids]),
        as_signals(told, [f"u{n}" for n in range(6)]),
    )
    made = dict(zip(log.decision_id, zip(log.column, log.channel, log.hour, log.log_propensity)))
    assert len(made) == len(answers)
    for answer in answers:
        column, channel, hour, log_propensity = made[answer["decision_id"]]
        assert answer["propensity"] == pytest.approx(2.718281828459045**log_propensity)
        message = answer["message"]
        assert (column < 0) == (message is None)
        if message is not None:
            assert (channel, hour) == (("push", "email", "in_app").index(message["channel"]), message["local_hour"])
    assert len({answer["action"] for answer in answers}) == 2


def test_what_is_decided_upon_is_what_the_log_will_say(deployment: Deployment, opened: Opened) -> None:
    """The context of a decision, and the one that is made anew from the run's log, field by field."""
    with opened() as gateway:
        submit(gateway, *(opportunity(n, user_id=f"u{n + 3}") for n in range(3)), opportunity(3))
        letters, known = gateway.service.correspondence, deployment.index.row_of
        store = LogStore(gateway.service.deployment.run / "logs")
        for user in ("u1", "u3", "u5"):
            letter = letters.look(user, WHEN, Mail(), [], gateway.service.mailing.value, known, None)
            row = {"decision_id": "m-1", "user_id": user, "time": WHEN.isoformat(), "surface": "other", "policy": "p@1"}
            asked = rows_to_frame([{**row, "slate": ["hold"], "candidates": letter.candidates}], "decisions", "asked")
            told = as_signals(letter.told.drop("time"), [user])
            log = message_log(
                store.events(), asked, store.users(), store.items(), WHEN, deployment.catalog.index_of, told
            )
            assert letter.contexts is not None
            for field in fields(log.contexts):
                ours, theirs = getattr(letter.contexts, field.name), getattr(log.contexts, field.name)
                assert np.array_equal(ours, theirs, equal_nan=field.name in ("value", "gap_hours")), field.name
            assert (log.contexts.item >= 0).any()


def test_without_the_state_nothing_is_sent(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_: object) -> None:
        raise StateError("gone")

    with opened() as gateway:
        submit(gateway, *(opportunity(n) for n in range(3)))
        for verb in ("send", "mail"):
            monkeypatch.setattr(gateway.service.state, verb, gone)
            answer = ask(gateway, "u5", policy=RULE)
            held = (answer["action"], answer["policy"], answer["fallback"], answer["propensity"])
            assert held == ("hold", "hold@1", "hold", 1.0)
        assert logged(gateway)["policy"].to_list() == ["hold@1"] * 2


def test_settings_are_followed_and_wrong_ones_are_told_and_not_used(opened: Opened) -> None:
    with opened("{weekly_cap: 2, holdout: 0.0}") as gateway:
        file = gateway.service.served / "messages.yaml"
        file.write_text("{weekly_cap: 8}")
        gateway.service.mailing.refresh(read_mailing)
        assert gateway.service.mailing.value.rules.weekly_cap == 8
        file.write_text("{hours: [22]}")
        gateway.service.mailing.refresh(read_mailing)
        assert any("22 lies in quiet hours" in said for said in gateway.get("/ready").json()["warnings"])
        assert gateway.service.mailing.value.rules.weekly_cap == 8
        file.unlink()
        gateway.service.mailing.refresh(read_mailing)
        assert (gateway.service.mailing.value, gateway.service.mailing.error) == (read_mailing(None), None)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"budgets": {"pigeon": 1}}, "budgets: there is no channel 'pigeon'"),
        ({"holdout": 1.0}, "holdout"),
        ({"weekly_cap": 9}, "weekly_cap"),
        ({"colour": "red"}, "colour"),
        ([], "messages"),
    ],
)
def test_wrong_settings_are_refused_by_name(written: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_mailing(written)


def test_a_reward_that_cannot_be_read_is_no_missing_one(tmp_path: Path) -> None:
    assert Correspondence(tmp_path, None).reward is None
    (tmp_path / "rewards" / "messages").mkdir(parents=True)
    with pytest.raises(InputError, match="message reward"):
        _ = Correspondence(tmp_path, None).reward
