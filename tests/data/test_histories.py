"""Histories: what a decision knows is what had happened, down to the microsecond, and nothing of what it caused."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from data.histories import STAYED, Contexts, Decisions, Histories, contexts, load
from data.ingest import StoreSettings, write_store
from data.logs import Logs
from data.schema import ACTION_CODE, REACTION_STRENGTH, SURFACE_CODE
from data.store import LogStore

T = datetime(2024, 5, 1, 9, tzinfo=UTC)  # a Wednesday
ITEMS = pl.DataFrame({"item_id": [f"i{k}" for k in range(6)], "kind": "track", "title": "t"})
Row = dict[str, Any]


def index(ids: Sequence[str]) -> np.ndarray:
    return np.array([10 + int(i[1:]) for i in ids])


def event(user: str, at: float, item: str, action: str = "play", decision: str | None = None, **more: Any) -> Row:
    row = {"user_id": user, "time": T + timedelta(seconds=at), "surface": "home", "action": action}
    return row | {"item_id": item, "decision_id": decision, "seconds": None} | more


def decision(name: str, user: str, at: float, slate: list[str], **more: Any) -> Row:
    row = {"decision_id": name, "user_id": user, "time": T + timedelta(seconds=at), "surface": "now_playing"}
    return row | {"policy": "p@1", "slate": slate} | more


def loaded(tmp_path: Path, events: list[Row], made: list[Row] | None, zone: str = "UTC") -> tuple[Histories, Decisions]:
    names = sorted({row["user_id"] for row in events})
    users = pl.DataFrame({"user_id": names, "time_zone": zone})
    frame = pl.DataFrame(events, infer_schema_length=None)
    write_store(
        Logs(ITEMS, frame, pl.DataFrame(made) if made else None, users), tmp_path / "s", StoreSettings(buckets=3)
    )
    return load(LogStore(tmp_path / "s"), index)


def of_user(view: Contexts, histories: Histories, made: Decisions, user: str) -> list[list[int]]:
    rows = made.user == histories.user_ids.index(user)
    return [[i for i in line if i >= 0] for line in view.item[rows].tolist()]


def test_an_interaction_is_one_item_in_one_sitting_with_its_strongest_reaction(tmp_path: Path) -> None:
    events = [
        event("u", 0, "i1", decision="d", seconds=0.0),
        event("u", 50, "i2", decision="d"),
        event("u", 60, "i2", "skip", decision="d", seconds=10.0),
        event("u", 200, "i1", "complete", decision="d", seconds=200.0),
        event("u", 201, "i1", "save", decision="d"),
        event("u", 90000, "i1"),
        event("v", 5, "i3", "dislike"),
    ]
    made = [decision("d", "u", 0, ["i0", "i1", "i2"], propensity=0.5, steer="slow", move="explore")]
    histories, decisions = loaded(tmp_path, events, made)
    u = histories.user_ids.index("u")
    mine = slice(histories.offsets[u], histories.offsets[u + 1])
    assert histories.item[mine].tolist() == [11, 12, 11]
    assert histories.action[mine].tolist() == [ACTION_CODE[a] for a in ("save", "skip", "play")]
    assert histories.time[mine][1] - histories.time[mine][0] == 50_000_000
    assert decisions.slate.tolist() == [[10, 11, 12]]
    assert decisions.reaction.tolist() == [[-1, ACTION_CODE["save"], ACTION_CODE["skip"]]]
    assert decisions.seconds.tolist() == [[0, 200, 10]]
    assert decisions.surface.tolist() == [SURFACE_CODE["now_playing"]]
    assert decisions.log_propensity.tolist() == [pytest.approx(np.log(0.5))]
    assert (decisions.steer, decisions.move) == (["slow"], ["explore"])


def test_candidates_restrict_a_decision_where_they_leave_items_out(tmp_path: Path) -> None:
    every = ITEMS["item_id"].to_list()
    candidates = {"all": every, "few": every[:3], "none": None}
    made = [
        decision(name, "u", at, ["i0", "i1"], candidates=those) for at, (name, those) in enumerate(candidates.items())
    ]
    _, decisions = loaded(tmp_path, [event("u", 9, "i1"), event("v", 9, "i1")], made)
    assert dict(zip(decisions.decision_id, decisions.restricted.tolist())) == {"all": False, "few": True, "none": False}
    assert decisions.take([1]).restricted.tolist() == [True]


def test_a_decision_knows_what_came_strictly_before_it_also_in_its_own_session(tmp_path: Path) -> None:
    events = [
        event("u", 0, "i0", decision="d"),
        event("u", 100, "i1"),
        event("u", 300, "i2", decision="e"),
        event("v", 0, "i3"),
    ]
    made = [decision("d", "u", 0, ["i0"]), decision("e", "u", 100, ["i2"]), decision("f", "u", 101, ["i2"])]
    histories, decisions = loaded(tmp_path, events, made)
    assert of_user(contexts(histories, decisions, 3), histories, decisions, "u") == [[], [10], [10, 11]]


def test_what_a_decision_brought_about_never_precedes_it(tmp_path: Path) -> None:
    """The clock of the player runs a minute behind that of the server."""
    events = [event("u", -60, "i0", decision="d"), event("u", -9999, "i1"), event("v", 0, "i3")]
    histories, decisions = loaded(tmp_path, events, [decision("d", "u", 0, ["i0"])])
    assert of_user(contexts(histories, decisions), histories, decisions, "u") == [[11]]


def test_a_reaction_that_comes_after_the_decision_is_not_known_to_it(tmp_path: Path) -> None:
    events = [event("u", 0, "i0"), event("u", 20, "i1"), event("u", 200, "i0", "dislike"), event("v", 0, "i3")]
    made = [decision("d", "u", 100, ["i2"]), decision("e", "u", 201, ["i2"])]
    histories, decisions = loaded(tmp_path, events, made)
    assert of_user(contexts(histories, decisions), histories, decisions, "u") == [[], [10, 11]]


def test_contexts_are_padded_on_the_left_and_know_the_gap_and_the_hour(tmp_path: Path) -> None:
    events = [event("u", k * 3600, f"i{k}") for k in range(5)] + [event("v", 0, "i3")]
    made = [decision("d", "u", 3600 * 6, ["i2"]), decision("e", "v", -1, ["i2"], steer="more")]
    histories, decisions = loaded(tmp_path, events, made, zone="Asia/Kathmandu")
    view = contexts(histories, decisions, 3)
    rows = {name: k for k, name in enumerate(decisions.decision_id)}
    d, e = rows["d"], rows["e"]
    assert view.item[d].tolist() == [12, 13, 14]
    assert view.item[e].tolist() == view.action[e].tolist() == [-1, -1, -1]
    assert view.gap_hours[d] == 2
    assert np.isnan(view.gap_hours[e])
    assert view.steer[e] == "more"
    assert view.hour_of_week[d] == 2 * 24 + 20  # 15:00 UTC is 20:45 in Kathmandu
    assert contexts(histories, decisions, 8).item[d].tolist() == [-1, -1, -1, 10, 11, 12, 13, 14]
    taken = view.take(decisions.take([e, d]).decision_id == np.array(["e", "d"]))
    assert len(taken) == 2
    assert decisions.take(decisions.slate[:, 0] > 99).decision_id == []


def test_sessions_stand_for_decisions_where_there_are_none(tmp_path: Path) -> None:
    events = [event("u", k, "i1") for k in (0, 9000, 9010)] + [event("u", 9020, "i2"), event("v", 0, "i3")]
    histories, decisions = loaded(tmp_path, events, None)
    assert of_user(contexts(histories, decisions), histories, decisions, "u") == [[], [11]]
    assert np.isnan(decisions.log_propensity).all()
    assert sorted(map(tuple, decisions.slate.tolist())) == [(11, -1), (11, 12), (13, -1)]
    assert decisions.reaction.max(axis=1).tolist() == [ACTION_CODE["play"]] * 3


@pytest.mark.parametrize("seed", range(3))
def test_contexts_equal_a_slow_look_back_on_random_logs(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    actions = ["play", "skip", "complete", "save", "dislike"]
    events, made = [], []
    moments = iter(rng.sample(range(400_000), 900))
    for k in range(300):
        user = f"u{rng.randrange(12)}"
        at = next(moments)
        name = f"d{k}" if k % 2 else None
        if name:
            made.append(decision(name, user, at + rng.choice([0, 0.5]), [f"i{rng.randrange(6)}"]))
        for _ in range(rng.randrange(1, 5)):
            item = f"i{rng.randrange(6)}"
            events.append(event(user, at, item, rng.choice(actions), name))
            at += rng.choice([0.25, 40, 300])
    histories, decisions = loaded(tmp_path, events, made)
    store = LogStore(tmp_path / "s")
    view = contexts(histories, decisions, 7)
    by_id = {d["decision_id"]: d for d in made}
    ids = {name: code for code, name in enumerate(store.items()["item_id"])}
    for row, name in enumerate(decisions.decision_id):
        user, time = by_id[name]["user_id"], by_id[name]["time"]
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for e in store.events().filter(pl.col("user_id") == user).sort("time", maintain_order=True).to_dicts():
            groups.setdefault((e["session_id"], e["decision_id"], e["item_id"]), []).append(e)
        known: list[tuple[int, int]] = []
        for (_, of, item), seen in groups.items():
            if of == name or seen[-1]["time"] >= time:
                break  # what is not settled, and what is behind it in the order of time
            strongest = max((e["action"] for e in seen), key=REACTION_STRENGTH.index)
            known.append((10 + ids[item], ACTION_CODE[strongest]))
        known = known[-7:]
        assert view.item[row][7 - len(known) :].tolist() == [i for i, _ in known]
        assert view.action[row][7 - len(known) :].tolist() == [a for _, a in known]
        assert (view.item[row][: 7 - len(known)] == -1).all()


def test_a_decision_knows_whether_its_user_has_left(tmp_path: Path) -> None:
    events = [
        event("u", 0, "i1"),
        event("u", 50, "i1", action="opt_out", item_id=None),
        event("u", 90, "i1", action="bounce", item_id=None),
        event("v", 0, "i2"),
    ]
    made = [decision("d", "u", 40, ["i1"]), decision("e", "u", 60, ["i1"]), decision("f", "v", 60, ["i2"])]
    histories, decisions = loaded(tmp_path, events, made)
    left = dict(zip(decisions.decision_id, histories.left(decisions).tolist(), strict=True))
    when = int((T + timedelta(seconds=50)).timestamp()) * 1_000_000
    assert left == {"d": when, "e": when, "f": STAYED}, "of two ways out the first"
