"""The rules of messages against slow loops: any clock, any history; and logs in which every broken rule is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.message_log import message_log
from data.schema import polars_schema
from data.world.environment import MessageContexts
from data.world.settings import CHANNELS
from policy.messaging.rules import NEVER, MessageRules, allowed, allowed_channels, hour_starts, send_at
from policy.messaging.violations import KINDS, faults, standing, violations
from scripts.benches.made_up_sends import made_up_log
from tests.data.message_world import played

# Gaps and second times at night, at midnight (Havana, Beirut), of half an hour (Lord Howe), a skipped day (Apia).
ZONES = (
    "UTC",
    "Europe/Stockholm",
    "America/New_York",
    "Asia/Tokyo",
    "America/Havana",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
)
SWITCHES = [
    datetime(2026, 3, 8, tzinfo=UTC),
    datetime(2026, 3, 29, tzinfo=UTC),
    datetime(2026, 4, 4, tzinfo=UTC),
    datetime(2026, 10, 25, tzinfo=UTC),
    datetime(2026, 11, 1, tzinfo=UTC),
    datetime(2011, 12, 30, tzinfo=UTC),
]


def make_contexts(time: list[int], zone: list[int], seed: int = 0, most: int = 3, sends: int = 8) -> MessageContexts:
    """Contexts at these moments (us), everything else at random."""
    rng, batch = np.random.default_rng(seed), len(time)
    sent = rng.integers(-1, 3, (batch, sends)).astype(np.int32)
    return MessageContexts(
        time=np.array(time, np.int64),
        hour_of_week=np.zeros(batch, np.int16),
        surface=np.zeros(batch, np.int8),
        gap_hours=np.zeros(batch, np.float32),
        item=np.full((batch, 2), -1, np.int32),
        action=np.full((batch, 2), -1, np.int8),
        steer=[None] * batch,
        eligible=rng.integers(-1, 5, (batch, most)).astype(np.int32),
        value=np.zeros((batch, most), np.float32),
        consent=rng.random((batch, len(CHANNELS))) < 0.7,
        premium=np.zeros(batch, np.bool_),
        zone=np.array(zone, np.int32),
        zones=ZONES,
        sent_item=sent,
        sent_channel=np.where(sent >= 0, rng.integers(0, len(CHANNELS), sent.shape), -1).astype(np.int8),
        sent_days_ago=rng.integers(0, 12, sent.shape).astype(np.int32),
        sent_answer=np.full(sent.shape, -1, np.int8),
    )


def slow_send_at(time: int, zone: str, hour: int) -> int:
    """The first quarter of an hour from `time` on, on the same local day, that the zone's clock shows in `hour`."""
    place, now = ZoneInfo(zone), datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)
    on = now.astimezone(place).date()
    if now.astimezone(place).hour == hour:
        return time
    quarter = time // 900_000_000
    for step in range(0 if time % 900_000_000 == 0 else 1, 27 * 4):
        moment = (quarter + step) * 900_000_000
        wall = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)).astimezone(place)
        if wall.date() == on and wall.hour == hour:
            # An hour whose beginning is in a gap is not offered.
            return moment if wall.minute == 0 else -1
    return -1


@given(
    switch=st.sampled_from(SWITCHES),
    minutes=st.integers(-30 * 60, 30 * 60),
    zone=st.integers(0, len(ZONES) - 1),
    hour=st.integers(0, 23),
)
@settings(max_examples=60, deadline=None)
def test_hours_come_when_the_listeners_clock_shows_them(switch: datetime, minutes: int, zone: int, hour: int) -> None:
    time = int((switch + timedelta(minutes=minutes)).timestamp()) * 1_000_000
    found = send_at(make_contexts([time], [zone]), np.array([hour]))
    assert found[0] == slow_send_at(time, ZONES[zone], hour)


def test_an_hour_in_a_gap_cannot_be_chosen_and_a_double_one_is_its_first() -> None:
    stockholm = ZONES.index("Europe/Stockholm")

    def at(month: int, day: int, hour: int, minute: int = 0) -> int:
        return int(datetime(2026, month, day, hour, minute, tzinfo=UTC).timestamp()) * 1_000_000

    spring, autumn, between = at(3, 28, 23, 30), at(10, 24, 22, 30), at(10, 25, 1, 0)
    contexts = make_contexts([spring, spring, autumn, between], [stockholm] * 4)
    found = send_at(contexts, np.array([2, 3, 2, 2]))
    assert found.tolist() == [NEVER, at(3, 29, 1), at(10, 25, 0), at(10, 25, 1, 0)]
    assert send_at(contexts, np.array([-1] * 4)).tolist() == [NEVER] * 4
    free = MessageRules(0, 0, (2, 3))
    gap = allowed(replace(contexts, consent=np.ones((4, 3), np.bool_), sent_days_ago=contexts.sent_days_ago + 9), free)
    assert not gap[0, :, :, 0].any()
    assert gap[2, :, :, 0].any() == (contexts.eligible[2] >= 0).any()


@given(seed=st.integers(0, 10_000), cap=st.integers(0, 3), total=st.integers(0, 8))
@settings(max_examples=20, deadline=None)
def test_what_is_allowed_is_what_a_slow_loop_allows(seed: int, cap: int, total: int) -> None:
    rng = np.random.default_rng(seed)
    time = [int(SWITCHES[s].timestamp()) * 1_000_000 for s in rng.integers(0, len(SWITCHES), 6)]
    contexts = make_contexts(time, rng.integers(0, len(ZONES), 6).tolist(), seed)
    rules = MessageRules(22, 7, (8, 12, 21), (cap, 2, 3), total)
    starts = hour_starts(contexts, rules.hours)
    expires = np.where(rng.random((6, 3)) < 0.5, starts[:, :1].max() + rng.integers(-10, 30, (6, 3)) * 10**9, 2**62)
    limits = rng.random((6, 3, 3)) < 0.7
    fast = allowed(contexts, rules, expires, limits)
    for b in range(6):
        slow = [slow_send_at(time[b], ZONES[contexts.zone[b]], hour) for hour in rules.hours]
        recent = [
            int(contexts.sent_channel[b, r])
            for r in range(8)
            if contexts.sent_item[b, r] >= 0 and contexts.sent_days_ago[b, r] < 7
        ]
        for m in range(3):
            for c in range(3):
                for h, when in enumerate(slow):
                    legal = (
                        contexts.eligible[b, m] >= 0
                        and contexts.consent[b, c]
                        and limits[b, m, c]
                        and when != NEVER
                        and when < expires[b, m]
                        and recent.count(c) < rules.channel_caps[c]
                        and len(recent) < total
                    )
                    assert fast[b, m, c, h] == legal


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hours": (7, 12)}, "7 lies in quiet hours"),
        ({"hours": ()}, "one local hour or more"),
        ({"hours": (12, 12)}, "none twice"),
        ({"hours": (12, 24), "quiet_from": 0, "quiet_until": 0}, "0 to 23"),
        ({"channel_caps": (3, 3)}, "for each of"),
        ({"weekly_cap": -1}, "0 or more"),
        ({"quiet_from": 24}, "quiet_from=24"),
    ],
)
def test_rules_that_make_no_sense_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        MessageRules(**change)  # type: ignore[arg-type]


def test_what_contexts_cannot_tell_is_refused() -> None:
    contexts = make_contexts([0, 0], [0, 0])
    with pytest.raises(InputError, match="remember 8"):
        allowed(contexts, MessageRules(weekly_cap=9))
    with pytest.raises(InputError, match="expires has shape"):
        allowed(contexts, MessageRules(), expires=np.zeros((2, 1), np.int64))
    with pytest.raises(InputError, match="not known"):
        send_at(replace(contexts, zones=("Mars/Olympus",)), np.array([8, 8]))
    with pytest.raises(InputError, match="hour must be"):
        send_at(contexts, np.array([8, 24]))


def test_decisions_over_clock_changes_and_moves_break_nothing() -> None:
    log = made_up_log(users=120, days=60, seed=3)
    assert log.decisions.height == 120 * 60
    assert log.decisions["channel"].is_not_null().sum() > 700
    assert violations(log.decisions, log.users, log.rules) == dict.fromkeys(KINDS, 0)


def test_every_kind_of_broken_rule_is_counted_as_a_slow_loop_counts_it() -> None:
    log = made_up_log(users=40, days=60, seed=4, blind=True)
    found = faults(log.decisions, log.users, log.rules, {"push": 5})
    counts = {name: int(found[name].sum()) for name in KINDS}
    assert counts == slow_violations(log.decisions, log.users, log.rules, 5)
    broken = {"consent", "quiet_hours", "channel_cap", "weekly_cap", "expired", "budget"}
    assert all(counts[name] > 0 for name in broken), counts
    late = log.decisions.filter(pl.col("channel").is_not_null()).with_columns(pl.col("send_at") - pl.duration(days=1))
    assert faults(late, log.users, log.rules)["too_late"].all()
    unknown = late.with_columns(channel=pl.lit("fax"), send_at=pl.col("time"))
    assert faults(unknown, log.users, log.rules)["unknown_channel"].all()
    with pytest.raises(InputError, match="nothing is known"):
        violations(late, log.users.head(1), log.rules)


def slow_violations(decisions: pl.DataFrame, users: pl.DataFrame, rules: MessageRules, push: int) -> dict[str, int]:
    counts = dict.fromkeys(KINDS, 0)
    sent: dict[str, list[tuple[datetime, str]]] = {}
    spent: dict[tuple[object, str], int] = {}
    rows = decisions.filter(pl.col("channel").is_not_null()).sort("send_at").to_dicts()
    known = {user: one.sort("since").to_dicts() for (user,), one in users.partition_by("user_id", as_dict=True).items()}
    for row in rows:
        held = [s for s in known[row["user_id"]] if s["since"] < row["time"]][-1]
        place = ZoneInfo(held["time_zone"])
        local = row["send_at"].astimezone(place)
        counts["consent"] += row["channel"] not in held["consents"]
        counts["quiet_hours"] += rules.is_quiet(local.hour)
        counts["expired"] += row["expires_at"] is not None and row["expires_at"] <= row["send_at"]
        past = sent.setdefault(row["user_id"], [])
        past.append((row["send_at"], row["channel"]))
        week = [c for t, c in past if (local.date() - t.astimezone(place).date()).days < 7]
        counts["weekly_cap"] += len(week) > rules.weekly_cap
        counts["channel_cap"] += week.count(row["channel"]) > rules.channel_caps[CHANNELS.index(row["channel"])]
        day = (row["time"].astimezone(place).date(), row["channel"])
        spent[day] = spent.get(day, 0) + 1
        counts["budget"] += row["channel"] == "push" and spent[day] > push
    return counts


@pytest.mark.parametrize(("morning", "open_"), [(9, False), (10, False), (11, True)])
def test_contexts_rebuilt_after_a_move_count_the_days_that_the_check_counts(morning: int, open_: bool) -> None:
    """Decided at five in the morning of 4 March in Tokyo, sent at six in the evening. By the clock of Los Angeles,
    where the listener is now, it was decided at noon of 3 March and came an hour after midnight of the 4th."""
    decided = datetime(2026, 3, 3, 20, tzinfo=UTC)
    times = [decided, datetime(2026, 3, morning, 16, tzinfo=UTC)]
    sends = [datetime(2026, 3, 4, 9, tzinfo=UTC), times[1] + timedelta(hours=3)]
    common = {"user_id": "u", "surface": "push", "policy": "p@1", "propensity": 0.5, "channel": "push"}
    decisions = pl.DataFrame(
        [
            common | {"decision_id": f"d{row}", "time": time, "send_at": send, "slate": ["m"], "candidates": ["m"]}
            for row, (time, send) in enumerate(zip(times, sends, strict=True))
        ],
        schema=polars_schema("decisions"),
    )
    items = pl.DataFrame([{"item_id": "m", "kind": "message", "tags": ["offer"]}], schema=polars_schema("items"))
    users = pl.DataFrame([{"user_id": "u", "time_zone": "America/Los_Angeles"}], schema=polars_schema("users"))
    nothing = pl.DataFrame(schema=polars_schema("events"))
    log = message_log(nothing, decisions, users, items, times[1], lambda ids: np.arange(len(ids)))
    rules = MessageRules(hours=(8, 13), channel_caps=(1, 1, 1))
    assert bool(allowed_channels(log.contexts, rules)[1, 0]) == open_
    assert bool(faults(decisions, standing(users), rules)["channel_cap"][1]) == (not open_)


def test_a_world_that_keeps_the_rules_is_found_to_and_opting_out_in_between_is_not_missed() -> None:
    world, _ = played(150, 21, seed=5)
    log = world.log()
    assert log.decisions is not None
    assert log.users is not None
    users = standing(log.users, log.events)
    rules = MessageRules(hours=tuple(range(8, 21)), weekly_cap=8)
    assert violations(log.decisions, users, rules) == dict.fromkeys(KINDS, 0)
    sent = log.decisions.filter(pl.col("channel").is_not_null())
    # Somebody who opts out between the decision and the send: fine to decide, not to deliver.
    one = sent.row(0, named=True)
    opted = pl.DataFrame(
        {
            "user_id": [one["user_id"]],
            "time": [one["send_at"] - timedelta(minutes=1)],
            "action": ["opt_out"],
            "surface": [one["channel"]],
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    gone = standing(log.users, opted)
    assert not faults(sent.head(1), gone, rules)["consent"].any()
    assert faults(sent.head(1), gone, rules, as_of="send_at")["consent"].all()
