"""Outcomes: equal to the slow reference on random logs, and what they must say at the edges."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.ingest import StoreSettings, write_store
from data.logs import Logs
from data.outcomes import (
    LABEL_WINDOWS,
    OutcomeSettings,
    as_of,
    carried_labels,
    matured_at,
    outcome_schema,
    outcomes,
    read_outcomes,
    write_outcomes,
)
from data.schema import polars_schema
from data.store import LogStore
from tests.data.outcome_reference import outcomes_of_user

Row = dict[str, Any]
START = datetime(2024, 2, 20, tzinfo=UTC)  # so that both changes to summer time of 2024 fall into the logs
ZONES = ["UTC", "Europe/Stockholm", "America/New_York", "Asia/Kathmandu", "America/Sao_Paulo", "Africa/Cairo"]
CREATOR = {f"i{k}": ("" if k == 0 else f"c{k // 3}") for k in range(12)}
ITEMS = pl.DataFrame({"item_id": list(CREATOR), "creator": list(CREATOR.values())})


def frame(rows: list[Row], table: str) -> pl.DataFrame:
    schema = polars_schema(table)
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def random_log(seed: int, days: int) -> tuple[list[Row], list[Row], list[Row]]:
    """(events, decisions, users): bursts of events, some on round times, some decisions before their first event."""
    rng = random.Random(seed)
    events: list[Row] = []
    decisions: list[Row] = []
    users = [{"user_id": f"u{u}", "time_zone": rng.choice([*ZONES, None])} for u in range(6)]
    for user in users:
        busy = rng.choice([0.15, 0.6, 1.5])
        for _ in range(int(days * busy) + 1):
            grain = rng.choice([1, 60, 3600])
            t = START + timedelta(seconds=rng.randrange(days * 86400) // grain * grain)
            decision_id = None
            surface = rng.choice(["home", "home", "push"])
            if rng.random() < 0.7:
                decision_id = f"d{len(decisions)}"
                slate = rng.sample(list(CREATOR), 3)
                early = timedelta(seconds=rng.choice([0, 0, 5, 600, 4000, -30]))
                row = {"decision_id": decision_id, "user_id": user["user_id"], "time": t - early, "surface": surface}
                decisions.append(row | {"policy": "p@1", "slate": slate})
            for _ in range(rng.randrange(0, 5)):
                action = rng.choices(
                    ["play", "skip", "complete", "save", "dislike", "opt_out", "bounce", "convert", "dismiss"],
                    [6, 2, 2, 1, 1, 0.05, 0.05, 0.2, 1],
                )[0]
                item = rng.choice([*CREATOR, None]) if action not in ("opt_out", "bounce") else None
                seconds = rng.choice([None, 30.0, 200.0])
                linked = decision_id if rng.random() < 0.8 else None
                row = {"user_id": user["user_id"], "time": t, "surface": surface, "action": action, "item_id": item}
                events.append(row | {"decision_id": linked, "seconds": seconds})
                t += timedelta(seconds=rng.choice([0, 1, 200, 1500, 1800, 1801]))
    # No two events of a user at one instant: their order would be a matter of taste.
    seen: set[tuple[str, datetime]] = set()
    for event in events:
        while (event["user_id"], event["time"]) in seen:
            event["time"] += timedelta(microseconds=1)
        seen.add((event["user_id"], event["time"]))
    return events, decisions, users


def reference(events: list[Row], decisions: list[Row], users: list[Row], end: datetime) -> dict[str, Row]:
    answer: dict[str, Row] = {}
    for user in users:
        mine = [[r for r in rows if r["user_id"] == user["user_id"]] for rows in (events, decisions)]
        answer |= outcomes_of_user(mine[0], mine[1], user["time_zone"] or "UTC", end, CREATOR)
    return answer


def fast(events: list[Row], decisions: list[Row], users: list[Row], end: datetime) -> pl.DataFrame:
    return outcomes(frame(events, "events"), frame(decisions, "decisions"), frame(users, "users"), end, items=ITEMS)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), days=st.sampled_from([5, 20, 45, 80]), hours=st.integers(0, 47))
def test_outcomes_equal_the_slow_reference_on_random_logs(seed: int, days: int, hours: int) -> None:
    events, decisions, users = random_log(seed, days)
    end = START + timedelta(days=days) - timedelta(hours=hours)
    table = fast(events, decisions, users, end)
    wanted = reference(events, decisions, users, end)
    assert set(table["decision_id"]) == set(wanted)
    assert table.schema == outcome_schema()
    for row in table.iter_rows(named=True):
        want = wanted[row["decision_id"]]
        for label in [*LABEL_WINDOWS, "return_days", "return_observed", "return_time"]:
            expect = pytest.approx(want[label], abs=1e-4) if isinstance(want[label], float) else want[label]
            assert row[label] == expect, (label, row["decision_id"])
        for window, moment in want["matured"].items():
            assert row[f"matured_{window}d"] == moment, window


@pytest.mark.parametrize("seed", range(4))
def test_a_back_test_sees_exactly_what_was_known_then(seed: int) -> None:
    """Outcomes made at a moment, outcomes made later and cut back to it, and a log that ends there: all the same."""
    events, decisions, users = random_log(100 + seed, 60)
    moment, end = START + timedelta(days=40, hours=7 * seed), START + timedelta(days=61)
    then = fast(events, decisions, users, moment)
    known = [[r for r in rows if r["time"] <= moment] for rows in (events, decisions)]
    assert fast(known[0], known[1], users, moment).equals(then)
    later = as_of(fast(events, decisions, users, end), moment, frame(users, "users"))
    # The own session of a decision made just before the moment may have gone on after it.
    settled = pl.col("matured_0d") <= moment
    assert later.filter(settled).drop("matured_at").equals(then.filter(settled).drop("matured_at"))


def test_the_order_of_rows_does_not_matter() -> None:
    events, decisions, users = random_log(3, 30)
    end = START + timedelta(days=31)
    table = fast(events, decisions, users, end).sort("decision_id")
    random.Random(0).shuffle(events)
    random.Random(1).shuffle(decisions)
    assert fast(events, decisions, users, end).sort("decision_id").equals(table)


def test_labels_are_monotone_and_bounded() -> None:
    table = fast(*random_log(8, 80), START + timedelta(days=80))
    closed = table.filter(pl.col("returned_28d").is_not_null())
    assert closed.height > 20
    for short, long in [(1, 7), (7, 14), (14, 28)]:
        assert (closed[f"returned_{short}d"] <= closed[f"returned_{long}d"]).all()
    assert closed["active_days_28"].is_between(0, 28).all()
    assert closed["habit_28"].is_between(0, 4).all()
    assert closed["regularity_28"].is_between(-1, 1).all()
    assert (closed["active_days_7"] <= closed["active_days_28"]).all()


def visit(user: str, t: datetime, decision_id: str | None = None, action: str = "play", item: str = "i1") -> Row:
    row = {"user_id": user, "time": t, "surface": "home", "action": action, "item_id": item}
    return row | {"decision_id": decision_id}


def decide(user: str, t: datetime, decision_id: str, surface: str = "home") -> Row:
    row = {"decision_id": decision_id, "user_id": user, "time": t, "surface": surface, "policy": "p@1"}
    return row | {"slate": ["i1", "i2"]}


def one(events: list[Row], decisions: list[Row], end: datetime, zone: str = "UTC") -> Row:
    users = [{"user_id": "u", "time_zone": zone}]
    return fast(events, decisions, users, end).row(0, named=True)


def test_the_own_session_is_never_a_return_not_even_past_midnight() -> None:
    late = datetime(2024, 5, 1, 23, 59, 58, tzinfo=UTC)
    events = [visit("u", late + timedelta(minutes=20 * k, seconds=3), "d") for k in range(6)]
    row = one(events, [decide("u", late, "d")], late + timedelta(days=40))
    assert not row["return_observed"]
    assert row["return_days"] == 40  # 1 May to 9 June were seen to their end
    assert (row["active_days_28"], row["returned_28d"], row["unreachable_reason"]) == (0, False, "dormant")
    assert row["plays"] == 1


def test_a_visit_later_on_the_same_day_is_a_return_on_day_0() -> None:
    t = datetime(2024, 5, 1, 9, tzinfo=UTC)
    events = [visit("u", t, "d"), visit("u", t + timedelta(hours=5))]
    row = one(events, [decide("u", t, "d")], t + timedelta(days=40))
    assert (row["return_observed"], row["return_days"], row["returned_1d"], row["active_days_7"]) == (True, 0, True, 0)


def test_two_decisions_of_one_minute_share_their_session() -> None:
    t = datetime(2024, 5, 1, 9, tzinfo=UTC)
    events = [visit("u", t, "d"), visit("u", t + timedelta(seconds=20), "e", item="i2")]
    table = fast(events, [decide("u", t, "d"), decide("u", t + timedelta(seconds=10), "e")], [], t + timedelta(days=9))
    assert table["return_observed"].to_list() == [False, False]
    assert table["plays"].to_list() == [1, 1]


def test_two_sessions_of_one_minute_are_two_where_the_log_says_so() -> None:
    t = datetime(2024, 5, 1, 9, tzinfo=UTC)
    events = [
        visit("u", t, "d") | {"session_id": "first"},
        visit("u", t + timedelta(seconds=40), "e", item="i2") | {"session_id": "second"},
    ]
    decisions = [decide("u", t, "d"), decide("u", t + timedelta(seconds=35), "e")]
    table = fast(events, decisions, [], t + timedelta(days=9))
    assert table["return_observed"].to_list() == [True, False]
    assert table["return_days"][0] == 0
    assert table["plays"].to_list() == [1, 1]
    for row in events:
        row["session_id"] = None  # without ids they are one sitting: nobody came back
    assert fast(events, decisions, [], t + timedelta(days=9))["return_observed"].to_list() == [False, False]


def test_a_user_with_one_session_is_censored_and_one_who_joins_late_has_open_windows() -> None:
    t = datetime(2024, 5, 1, 9, tzinfo=UTC)
    late = t + timedelta(days=37)
    events = [visit("once", t, "d"), visit("late", late, "e"), visit("late", late + timedelta(days=1))]
    table = fast(events, [decide("once", t, "d"), decide("late", late, "e")], [], t + timedelta(days=40))
    once, newcomer = table.rows(named=True)
    assert (once["return_observed"], once["return_days"], once["returned_28d"]) == (False, 40, False)
    assert (once["active_days_28"], once["regularity_28"], once["unreachable_reason"]) == (0, 0.0, "dormant")
    assert (newcomer["return_observed"], newcomer["return_days"], newcomer["returned_1d"]) == (True, 1, True)
    assert (newcomer["returned_7d"], newcomer["active_days_7"], newcomer["reachable_28"]) == (None, None, None)


def test_days_are_counted_by_the_clock_that_is_asked_for() -> None:
    """22:00 and 05:00 of one night: two days in Stockholm, and two other ones in UTC; a gap of an hour apart."""
    t = datetime(2024, 5, 1, 20, tzinfo=UTC)
    events = [visit("u", t, "d"), visit("u", t + timedelta(hours=3)), visit("u", t + timedelta(hours=5))]
    rows = frame(events, "events"), frame([decide("u", t, "d")], "decisions")
    users = frame([{"user_id": "u", "time_zone": "Europe/Stockholm"}], "users")
    days = {
        clock: outcomes(*rows, users, t + timedelta(days=40), OutcomeSettings(clock=clock)).row(0, named=True)
        for clock in ("local", "utc")
    }
    assert [days[clock]["return_days"] for clock in ("local", "utc")] == [1, 0]
    assert [days[clock]["active_days_7"] for clock in ("local", "utc")] == [1, 1]
    opened = OutcomeSettings(active=("complete",))
    assert not outcomes(*rows, users, t + timedelta(days=40), opened)["return_observed"][0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"clock": "moon"}, "clock: 'moon' is not known: choose from local, utc"),
        ({"active": ("ply",)}, "active: 'ply' is not known"),
        ({"gap_minutes": 0.0}, "gap_minutes: 0.0 ends no session"),
    ],
)
def test_settings_that_mean_nothing_are_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        OutcomeSettings(**wrong)


def test_a_window_is_closed_when_it_ends_exactly_at_the_end_of_the_log_and_not_before() -> None:
    t = datetime(2024, 5, 1, 9, tzinfo=UTC)
    midnight = datetime(2024, 5, 9, tzinfo=UTC)  # 1 May and seven whole days
    events, decisions = [visit("u", t, "d")], [decide("u", t, "d")]
    assert one(events, decisions, midnight)["returned_7d"] is False
    assert one(events, decisions, midnight - timedelta(microseconds=1))["returned_7d"] is None
    assert one(events, decisions, midnight)["matured_7d"] == midnight


def test_local_days_follow_the_clock_of_the_user() -> None:
    """01:30 UTC is still yesterday in Sao Paulo; where midnight does not exist the day begins at one."""
    t = datetime(2017, 10, 7, 1, 30, tzinfo=UTC)
    row = one([visit("u", t, "d")], [decide("u", t, "d")], t + timedelta(days=40), "America/Sao_Paulo")
    assert row["local_day"].isoformat() == "2017-10-06"
    assert row["matured_1d"] == datetime(2017, 10, 8, 3, tzinfo=UTC)
    assert row["matured_7d"] == datetime(2017, 10, 14, 3, tzinfo=UTC)
    sunday = datetime(2017, 10, 7, 12, tzinfo=UTC)  # the eighth day on begins at 01:00, clocks having jumped at 00:00
    row = one([visit("u", sunday, "d")], [decide("u", sunday, "d")], t + timedelta(days=40), "America/Sao_Paulo")
    assert row["matured_7d"] == datetime(2017, 10, 15, 3, tzinfo=UTC)


def test_being_brought_back_by_a_message_is_a_return() -> None:
    t = datetime(2024, 5, 1, 9, tzinfo=UTC)
    events = [visit("u", t + timedelta(minutes=5), "d", action="open")]
    assert one(events, [decide("u", t, "d", surface="push")], t + timedelta(days=40))["returned_1d"] is True
    assert one(events, [decide("u", t, "d", surface="home")], t + timedelta(days=40))["returned_1d"] is False


def test_regularity_is_1_at_fixed_hours_and_about_0_at_random_ones_however_often() -> None:
    t = datetime(2024, 5, 6, 9, tzinfo=UTC)
    fixed = [visit("u", t, "d")] + [visit("u", t + timedelta(days=7 * k, hours=h)) for k in range(1, 5) for h in (0, 9)]
    assert one(fixed, [decide("u", t, "d")], t + timedelta(days=40))["regularity_28"] == pytest.approx(1.0)
    rng = random.Random(0)
    for often in (8, 40, 200):
        events = [visit(f"u{k}", t, f"d{k}") for k in range(100)]
        for k in range(100):
            events += [visit(f"u{k}", t + timedelta(hours=h)) for h in rng.sample(range(24, 24 * 28), often)]
        decisions = [decide(f"u{k}", t, f"d{k}") for k in range(100)]
        table = fast(events, decisions, [], t + timedelta(days=40))
        assert table["regularity_28"].mean() == pytest.approx(0, abs=0.03), often


def test_minutes_are_of_listenings_whatever_the_clock_says_and_however_often() -> None:
    """A play and the complete that ends it are one, past midnight too; the same item again is another."""
    late = datetime(2024, 5, 1, 23, 58, tzinfo=UTC)
    end = late + timedelta(days=9)
    for began in (late, late.replace(hour=12)):
        play = visit("u", began, "d") | {"seconds": 240.0}
        done = visit("u", began + timedelta(minutes=4), "d", "complete") | {"seconds": 240.0}
        assert one([play, done], [decide("u", began, "d")], end)["minutes_1d"] == pytest.approx(4)
    noon = late.replace(hour=12)
    often = [visit("u", noon + timedelta(minutes=5 * k), "d", "complete") | {"seconds": 240.0} for k in range(10)]
    assert one(often, [decide("u", noon, "d")], end)["minutes_1d"] == pytest.approx(40)


def test_whoever_opted_out_is_not_reachable_whatever_comes_after() -> None:
    t = datetime(2024, 5, 10, 9, tzinfo=UTC)
    left = visit("u", t - timedelta(days=5), action="opt_out")
    row = one(
        [left, visit("u", t, "d"), visit("u", t + timedelta(days=3))], [decide("u", t, "d")], t + timedelta(days=40)
    )
    assert (row["reachable_28"], row["unreachable_reason"]) == (False, "opt_out")


def test_sticky_days_count_returns_to_a_creator_first_met_here() -> None:
    t = datetime(2024, 5, 1, 9, tzinfo=UTC)
    back = [visit("u", t + timedelta(days=k), item="i4") for k in (2, 3, 3.3, 30)]  # i3 and i4 share a creator
    row = one([visit("u", t, "d", item="i3"), *back], [decide("u", t, "d")], t + timedelta(days=70))
    assert (row["sticky_days_28"], row["sticky_days_60"]) == (2, 3)
    known = visit("u", t - timedelta(days=1), item="i5")
    row = one([known, visit("u", t, "d", item="i3"), *back], [decide("u", t, "d")], t + timedelta(days=70))
    assert row["sticky_days_28"] == 0
    skipped = [visit("u", t, "d", item="i3"), visit("u", t + timedelta(seconds=2), "d", "skip", "i3")]
    assert one([*skipped, *back], [decide("u", t, "d")], t + timedelta(days=70))["sticky_days_28"] == 0


def test_a_log_without_decisions_has_one_row_per_session() -> None:
    t = datetime(2024, 5, 1, 9, tzinfo=UTC)
    events = [visit("u", t), visit("u", t + timedelta(minutes=1), item="i2"), visit("u", t + timedelta(days=2))]
    table = outcomes(frame(events, "events"), None, None, t + timedelta(days=9))
    assert table["return_days"].to_list() == [2, 7]
    assert table["plays"].to_list() == [2, 1]


def test_a_short_log_carries_what_it_can_and_says_what_not(tmp_path: Path) -> None:
    events, decisions, users = random_log(1, 20)
    items = ITEMS.select("item_id", "creator", kind=pl.lit("track"), title=pl.lit("t"))
    logs = Logs(items, frame(events, "events"), frame(decisions, "decisions"), frame(users, "users"))
    write_store(logs, tmp_path / "logs", StoreSettings(buckets=3))
    store = LogStore(tmp_path / "logs")
    write_outcomes(store, tmp_path / "outcomes", OutcomeSettings())
    made = read_outcomes(tmp_path / "outcomes")
    assert "returned_7d" in made.labels
    assert "19.9 days" in made.left_out["habit_28"]
    assert made.table["habit_28"].null_count() == made.table.height
    whole = outcomes(store.events(), store.decisions(), store.users(), store.end, items=ITEMS, labels=made.labels)
    assert made.table.sort("decision_id").equals(whole.sort("decision_id"))
    assert (made.table["matured_at"] == made.table["matured_7d"]).all()


def test_carried_labels_and_maturity_by_label() -> None:
    labels, out = carried_labels(START, START + timedelta(days=42), actions={"play"})
    assert "active_days_28" in labels
    assert "sticky_days_60" in out
    assert "convert" in out["converted_28"]
    assert matured_at("habit_28").meta.output_name() == "matured_28d"
    assert matured_at("plays").meta.output_name() == "matured_0d"


def test_outcomes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no outcomes here"):
        read_outcomes(tmp_path)
