"""Messages: who may be reached when, exact propensities, what opens and annoyance do, and what the log says of it."""

from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from data.histories import load
from data.ingest import StoreSettings, write_store
from data.outcomes import outcomes
from data.schema import split_rejected, validate
from data.store import LogStore
from data.world import PRESETS, MessagePoints, Messages, SlatePoints, World, paired
from data.world.environment import no_messages
from data.world.messages import open_probability
from data.world.settings import CHANNELS

SETTINGS = PRESETS["messaging"].with_listeners(300)


@pytest.fixture(scope="module")
def mailed() -> World:
    """300 listeners and 84 days, over both changes of the clocks in spring."""
    world = World(SETTINGS, seed=0)
    world.play(world.built_in("logging"), 84, np.random.default_rng(0))
    return world


def one_morning(world: World, sent: Messages) -> MessagePoints:
    points = world.observe()
    assert isinstance(points, MessagePoints)
    world.act(sent, np.zeros(len(points.listeners)), "test@1")
    return points


def to_all(points: MessagePoints, channel: int, hour: int, rows: np.ndarray) -> Messages:
    column = (points.contexts.eligible >= 0).argmax(axis=1)
    return Messages(
        np.where(rows, column, -1).astype(np.int32),
        np.where(rows, channel, -1).astype(np.int8),
        np.where(rows, hour, -1).astype(np.int8),
    )


def test_a_day_begins_with_its_messages_and_then_three_slots() -> None:
    world = World(SETTINGS, seed=0)
    points = world.observe()
    assert isinstance(points, MessagePoints)
    assert world.observe() is points
    assert (np.diff(points.listeners) > 0).all()
    assert (points.contexts.eligible >= 0).any(axis=1).all()
    with pytest.raises(InputError, match="messages come first"):
        world.act(np.zeros((0, 5), np.int32), np.zeros(0), "slates@1")
    world.act(no_messages(len(points.listeners)), np.zeros(len(points.listeners)), "hold@1")
    for _ in range(3):
        slates = world.observe()
        assert isinstance(slates, SlatePoints)
        with pytest.raises(InputError, match="wait for slates"):
            world.act(no_messages(len(slates.listeners)), np.zeros(len(slates.listeners)), "x@1")
        world.act(*world.built_in("random").choose(slates.contexts, np.random.default_rng(0)), "random@1")
    assert world.day == 1
    assert isinstance(world.observe(), MessagePoints)


@pytest.mark.parametrize("what", ["consent", "not among", "channel outside", "hour outside", "shape"])
def test_what_may_not_be_sent_is_refused(what: str) -> None:
    world = World(SETTINGS, seed=0)
    points = world.observe()
    assert isinstance(points, MessagePoints)
    rows = points.contexts.consent[:, 0] == (what != "consent")
    sent = to_all(points, 0, 12, rows)
    none = (points.contexts.eligible < 0).argmax(axis=1)
    wrong = {
        "consent": sent,
        "not among": replace(sent, column=np.where(rows, none, -1).astype(np.int32)),
        "channel outside": replace(sent, channel=np.where(rows, 3, -1).astype(np.int8)),
        "hour outside": replace(sent, hour=np.where(rows, 24, -1).astype(np.int8)),
        "shape": replace(sent, hour=sent.hour[:3]),
    }[what]
    if what == "not among":
        assert (points.contexts.eligible[rows, none[rows]] < 0).any()
    with pytest.raises(InputError, match=what):
        world.act(wrong, np.zeros(len(points.listeners)), "test@1")
    assert isinstance(world.observe(), MessagePoints)


def test_propensities_of_all_decisions_sum_to_one() -> None:
    """Drawn often, every decision comes as often as its propensity says."""
    world = World(SETTINGS.with_listeners(40), seed=1)
    world.play(world.built_in("logging"), 6, np.random.default_rng(0))
    points = world.observe()
    assert isinstance(points, MessagePoints)
    policy, rng = world.message_policy("logging"), np.random.default_rng(1)
    seen: list[dict[tuple[int, int, int], float]] = [{} for _ in points.listeners]
    for _ in range(3_000):
        sent, log_p = policy.choose(points.contexts, rng)
        for row, key in enumerate(zip(sent.column.tolist(), sent.channel.tolist(), sent.hour.tolist(), strict=True)):
            seen[row][key] = float(np.exp(log_p[row]))
    few = [row for row in range(len(seen)) if len(seen[row]) < 50]
    assert len(few) > 5
    for row in few:  # all of their decisions have been drawn
        assert sum(seen[row].values()) == pytest.approx(1.0)


def test_logging_keeps_to_consent_quiet_hours_and_cap(mailed: World) -> None:
    sends = (
        mailed.log()
        .decisions.filter(pl.col("channel").is_not_null())
        .join(mailed.log().users.select("user_id", "consents", "time_zone"), on="user_id")
    )
    assert sends.height > 1_000
    assert sends.select(pl.col("consents").list.contains(pl.col("channel"))).to_series().all()
    hours = [t.astimezone(ZoneInfo(z)).hour for t, z in sends.select("send_at", "time_zone").iter_rows()]
    assert min(hours) >= 8 and max(hours) < 21
    days = sends.select("user_id", "channel", day=pl.col("decision_id").str.slice(1, 4).cast(pl.Int64)).sort("day")
    per_week = days.rolling("day", period="7i", group_by=["user_id", "channel"]).agg(count=pl.len())["count"]
    assert per_week.max() <= SETTINGS.logging.weekly_cap


def test_local_hours_hold_when_clocks_change(mailed: World) -> None:
    """Decisions stand at five in the morning of the listener's own clock, all year round."""
    log = mailed.log()
    made = log.decisions.filter(pl.col("decision_id").str.starts_with("m")).join(log.users, on="user_id")
    clock = [(t.astimezone(ZoneInfo(z)), z) for t, z in made.select("time", "time_zone").iter_rows()]
    assert {t.hour for t, _ in clock} == {5}
    for zone, change in (("America/New_York", "2026-03-08"), ("Europe/Stockholm", "2026-03-29")):
        offsets = {t.utcoffset(): t.isoformat() < change for t, z in clock if z == zone}
        assert len(offsets) == 2  # before and after


def test_the_log_says_what_was_decided_sent_and_answered(mailed: World, tmp_path: Path) -> None:
    log = mailed.log()
    for table in ("items", "events", "decisions", "users"):
        frame = validate(getattr(log, table), table, "world")
        assert split_rejected(frame, table)[1].height == 0
    made = log.decisions.filter(pl.col("decision_id").str.starts_with("m"))
    held = made.filter(pl.col("channel").is_null())
    assert held["slate"].explode().unique().to_list() == ["hold"]
    assert held["send_at"].null_count() == held.height
    assert 0.6 < held.height / made.height < 0.8
    inside = made.select(pl.col("candidates").list.contains(pl.col("slate").list.first())).to_series()
    assert inside.all()
    answers = log.events.filter(pl.col("surface").is_in(CHANNELS))
    assert set(answers["action"].unique()) == {"open", "dismiss", "opt_out"}
    assert set(answers["decision_id"]) <= set(made["decision_id"])
    opens = answers.filter((pl.col("action") == "open") & (pl.col("surface") != "in_app"))
    visits = log.events.filter(pl.col("surface") == "now_playing")
    assert set(opens["session_id"]) <= set(visits["session_id"])  # an opened message is a visit
    sends = made.filter(pl.col("channel").is_not_null()).select("decision_id", "send_at", "user_id")
    late = opens.join(sends, on=["decision_id", "user_id"]).filter(pl.col("time") < pl.col("send_at"))
    assert late.height == 0
    write_store(log, tmp_path / "logs", StoreSettings(buckets=2))
    rows = {item: row for row, item in enumerate(mailed.items_frame()["item_id"].to_list())}
    past, decisions = load(LogStore(tmp_path / "logs"), lambda ids: np.array([rows[i] for i in ids], np.int32))
    assert len(decisions) == sum(len(one.listeners) for one in mailed.rounds)  # what can be listened to, only
    assert past.item.max() < len(mailed.items)


def test_an_opt_out_ends_reach_and_the_labels_see_it(mailed: World) -> None:
    log = mailed.log()
    out = log.events.filter(pl.col("action") == "opt_out").select("user_id", "time", channel="surface")
    assert out.height > 3
    later = log.decisions.join(out, on=["user_id", "channel"], suffix="_out").filter(
        pl.col("send_at") > pl.col("time_out")
    )
    assert later.height == 0
    table = outcomes(
        log.events, log.decisions, log.users, log.end, items=log.items, labels=("reachable_28", "unreachable_reason")
    )
    assert "opt_out" in table["unreachable_reason"].drop_nulls().unique().to_list()


def test_nagging_annoys_silences_and_breaks_the_habit() -> None:
    worlds = [World(SETTINGS.with_listeners(500), seed=0) for _ in range(2)]
    for world in worlds:
        world.state.habit[:] = 0.6
        world.state.consent[:] = True
    for world, policy in zip(worlds, ("hold", "send_always"), strict=True):
        world.play(world.built_in("logging"), 14, np.random.default_rng(0), messages=world.message_policy(policy))
    quiet, nagged = worlds
    assert (quiet.state.annoyance == 0).all()
    assert nagged.state.annoyance[:, 0].mean() > 1.0
    assert nagged.state.habit[:, 2].mean() < quiet.state.habit[:, 2].mean() - 0.02
    assert (~nagged.state.consent[:, 0]).mean() > 0.1
    for _ in range(60):
        nagged._sleep()
    assert nagged.state.annoyance.max() < 0.1  # it wears off


def test_opens_answer_to_relevance_annoyance_and_habit() -> None:
    s = SETTINGS.messages
    calm = np.zeros(3, np.float32)
    relevance = np.array([-1.0, 0.0, 1.0], np.float32)
    assert (np.diff(open_probability(s, 0, relevance, calm, calm)) > 0).all()
    assert (np.diff(open_probability(s, 0, calm, relevance + 1, calm)) < 0).all()
    assert (np.diff(open_probability(s, 0, calm, calm, relevance)) < 0).all()  # habit must modulate uplift


def test_quiet_hours_annoy_more() -> None:
    annoyed = []
    for hour in (12, 21):
        world = World(SETTINGS, seed=0)
        points = world.observe()
        assert isinstance(points, MessagePoints)
        one_morning(world, to_all(points, 0, hour, points.contexts.consent[:, 0]))
        for _ in range(3):
            slates = world.observe()
            world.act(*world.built_in("random").choose(slates.contexts, np.random.default_rng(0)), "random@1")
        annoyed.append(world.state.annoyance[:, 0].mean())
    assert annoyed[1] == pytest.approx(SETTINGS.messages.annoyance_quiet * annoyed[0], rel=1e-5)


def test_a_timely_nudge_brings_people_and_the_oracle_knows_when() -> None:
    world = World(SETTINGS.with_listeners(500), seed=2)
    world.play(world.built_in("logging"), 14, np.random.default_rng(0))
    world = world.branch()
    truths = {
        name: world.truth(world.built_in("logging"), messages=world.message_policy(name))
        for name in ("hold", "most_opens", "oracle")
    }
    assert truths["hold"]["messages_28"].sum() == 0
    gain = paired(truths["oracle"]["active_days_28"], truths["most_opens"]["active_days_28"])
    assert gain.lo > 0
    assert truths["oracle"]["messages_28"].mean() < truths["most_opens"]["messages_28"].mean()
    assert truths["oracle"]["reachable_28"].mean() > truths["most_opens"]["reachable_28"].mean()
    assert paired(truths["oracle"]["active_days_28"], truths["hold"]["active_days_28"]).lo > 0
