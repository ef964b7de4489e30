"""Who gains and who is shown, on cases whose answer is known and in a world."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from data.logs import Logs
from data.schema import polars_schema
from eval.fairness import creator_tenths, gains_by_segment, kind_shares, people_by_segment, segments_at, shares
from eval.report import report_numbers
from eval.report.fairness import fairness_words
from eval.rollout import Rollout
from rewards.segments import SEGMENTS
from tests.eval.made_up import world_inputs


def rollout(sizes: tuple[int, ...], gains: tuple[float, ...]) -> Rollout:
    """Listeners of every segment, each gaining as its segment does, with luck of their own."""
    rng = np.random.default_rng(0)
    code = np.repeat(np.arange(len(sizes)), sizes).astype(np.int8)
    base = rng.normal(10.0, 3.0, code.size)
    gain = np.array(gains)[code] + rng.normal(0.0, 0.2, code.size)
    return Rollout({"sft": {"days": base}, "ppo": {"days": base + gain}}, 0, segments=code)


def test_gains_of_segments_add_up_to_the_gain_of_all() -> None:
    played = rollout((40, 60, 100, 200), (2.0, -1.0, 0.0, 0.5))
    gains = gains_by_segment([played, played], "days", "sft")["ppo"]
    people = people_by_segment([played, played])
    whole = float(np.mean(played.metrics["ppo"]["days"] - played.metrics["sft"]["days"]))
    total = sum(people[name] * gain.value for name, gain in gains.items()) / sum(people.values())
    assert total == pytest.approx(whole)
    assert [gain.clusters for gain in gains.values()] == [80, 120, 200, 400]
    for name, true in zip(SEGMENTS, (2.0, -1.0, 0.0, 0.5)):
        assert gains[name].value == pytest.approx(true, abs=0.1)


def test_a_handful_of_people_is_no_segment_and_no_segments_are_no_gains() -> None:
    gains = gains_by_segment([rollout((5, 60, 100, 200), (9.0, 0.0, 0.0, 0.0))], "days", "sft")["ppo"]
    assert "new" not in gains
    assert gains_by_segment([Rollout({"sft": {"days": np.ones(9)}}, 0)], "days", "sft") == {}


def test_listeners_are_told_apart_by_what_they_did() -> None:
    day = {"regular": range(1, 29), "gone": range(1, 12), "seldom": (2, 12, 25), "fresh": (26, 27)}
    events = [
        {"user_id": who, "time": datetime(2026, 1, one, 8, tzinfo=UTC), "surface": "home", "action": "play",
         "item_id": "a", "session_id": f"{who}-{one}"}
        for who, days in day.items() for one in days
    ]  # fmt: skip
    items = pl.DataFrame({"item_id": ["a", "b"], "kind": "track", "title": ["A", "B"]})
    users = pl.DataFrame({"user_id": [*day, "never"]})
    log = Logs(complete(items, "items"), complete(pl.DataFrame(events), "events"), users=complete(users, "users"))
    moment = int(datetime(2026, 1, 29, tzinfo=UTC).timestamp() * 1e6)
    code = segments_at(log, lambda ids: np.arange(len(ids)), moment)
    assert [SEGMENTS[at] for at in code] == ["heavy", "lapsing", "light", "new", "new"]


def complete(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """A table with the columns that are not given left null."""
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in polars_schema(table).items()
    )


def test_tenths_hold_equally_many_creators_the_most_taken_first() -> None:
    items = pl.DataFrame({"creator": [f"c{k % 20:02d}" for k in range(60)], "kind": ["track", "video"] * 30})
    consumed = np.array([20 - k % 20 for k in range(60)])
    tenth, ranked, count = creator_tenths(consumed, items)
    assert (ranked, count) == ("creators", 20)
    assert np.bincount(tenth).tolist() == [6] * 10
    taken = shares(consumed, tenth, 10)
    assert taken == sorted(taken, reverse=True)
    assert sum(taken) == pytest.approx(1.0)
    assert taken[0] == pytest.approx((20 + 19) / 210)
    assert kind_shares(np.array([3, 1] * 30), items) == pytest.approx({"track": 0.75, "video": 0.25})


def test_items_stand_for_themselves_where_creators_are_not_named() -> None:
    items = pl.DataFrame({"creator": pl.Series([None] * 30, dtype=pl.String)})
    tenth, ranked, count = creator_tenths(np.arange(30), items)
    assert (ranked, count) == ("items", 30)
    assert tenth[-1] == 0
    assert tenth[0] == 9


def test_words_say_who_gains_and_never_call_chance_a_gain() -> None:
    said = " ".join(fairness_words(report_numbers(world_inputs())))
    assert "Under PPO, heavy and light listeners gain; no difference one can count on for lapsing ones." in said
    assert "Too few new listeners to say." in said
