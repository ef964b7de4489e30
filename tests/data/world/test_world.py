"""The interface, the log it writes, and that the log says what the world lived."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from data.histories import contexts, load
from data.ingest import StoreSettings, write_store
from data.outcomes import outcomes
from data.schema import split_rejected, validate
from data.store import LogStore
from data.world import PRESETS, World
from data.world.policies import LoggingPolicy, plackett_luce_log_probability

TABLES = ("items", "events", "decisions", "users")


def visited(world: World) -> np.ndarray:
    """(U, T) whether a listener came on a day, straight from the hidden record."""
    came = np.zeros((len(world.listeners), world.day), bool)
    for one in world.rounds:
        came[one.listeners, one.day] = True
    return came


def stored(world: World, folder: Path) -> LogStore:
    write_store(world.log(), folder, StoreSettings(buckets=4))
    return LogStore(folder)


def index(world: World):
    rows = {item: row for row, item in enumerate(world.items_frame()["item_id"].to_list())}
    return lambda ids: np.array([rows[i] for i in ids], dtype=np.int32)


def test_same_seed_same_log_and_another_seed_another() -> None:
    def run(seed: int) -> World:
        world = World(PRESETS["clickbait"].with_listeners(60), seed)
        world.play(world.built_in("logging"), 10, np.random.default_rng(1))
        return world

    first, again, other = run(3).log(), run(3).log(), run(4).log()
    for table in TABLES:
        assert getattr(first, table).equals(getattr(again, table), null_equal=True)
    assert not first.events.equals(other.events)
    assert not first.items.equals(other.items)


def test_same_bytes_in_another_process_with_other_threads() -> None:
    program = (
        "import hashlib, numpy as np\n"
        "from data.world import PRESETS, World\n"
        "world = World(PRESETS['clickbait'].with_listeners(1500), 0)\n"
        "world.play(world.built_in('logging'), 4, np.random.default_rng(0))\n"
        "world.play(world.built_in('oracle'), 1, np.random.default_rng(0))\n"
        "print(hashlib.sha256(world.log().decisions.explode('slate').write_csv().encode()).hexdigest())\n"
        "world = World(PRESETS['messaging'].with_listeners(300), 0)\n"
        "world.play(world.built_in('logging'), 3, np.random.default_rng(0))\n"
        "log = world.log()\n"
        "told = log.decisions.explode('slate').explode('candidates').write_csv() + log.events.write_csv()\n"
        "print(hashlib.sha256(told.encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1


def test_reset_draws_other_listeners_for_the_same_catalog() -> None:
    world = World(PRESETS["clickbait"].with_listeners(50), 0)
    items, taste = world.items_frame(), world.listeners.home_taste.copy()
    world.play(world.built_in("logging"), 3, np.random.default_rng(0))
    world.reset(9)
    assert world.day == 0
    assert world.log().decisions.height == 0
    assert world.items_frame().equals(items)
    assert not np.array_equal(world.listeners.home_taste, taste)
    world.reset(0)
    np.testing.assert_array_equal(world.listeners.home_taste, taste)


def test_the_number_of_listeners_leaves_the_catalog_alone() -> None:
    few, many = (World(PRESETS["clickbait"].with_listeners(n), 5) for n in (10, 500))
    assert few.items_frame().equals(many.items_frame())
    np.testing.assert_array_equal(few.items.quality, many.items.quality)


def test_log_is_valid_and_nothing_is_rejected(lived: World) -> None:
    logs = lived.log()
    for table in TABLES:
        frame = validate(getattr(logs, table), table, "world")
        good, rejected = split_rejected(frame, table)
        assert (good.height, rejected.height) == (frame.height, 0)
    assert logs.end is not None
    assert logs.events["time"].max() < logs.end
    assert logs.decisions["decision_id"].n_unique() == logs.decisions.height
    per_listener = logs.decisions.select("user_id", "time")
    assert per_listener.is_unique().all()


def test_an_empty_log_has_the_tables(tmp_path: Path) -> None:
    logs = World(PRESETS["clickbait"].with_listeners(5), 0).log()
    for table in TABLES:
        validate(getattr(logs, table), table, "world")
    assert logs.events.height == 0
    with pytest.raises(InputError):
        write_store(logs, tmp_path / "logs")


def test_what_was_observed_is_what_the_log_gives_back(tmp_path: Path) -> None:
    world = World(PRESETS["clickbait"].with_listeners(200), 2)
    policy, rng, seen = world.built_in("logging"), np.random.default_rng(0), []
    while world.day < 30:
        listeners, known = world.observe()
        seen.append((world.day, world.state.slot, listeners, known))
        slates, log_propensity = policy.choose(known, rng)
        world.act(slates, log_propensity, policy.name)
    histories, decisions = load(stored(world, tmp_path / "logs"), index(world))
    rebuilt = contexts(histories, decisions, world.settings.dynamics.history_length)
    rows = {decision: row for row, decision in enumerate(decisions.decision_id)}
    assert sum(len(listeners) for _, _, listeners, _ in seen) == len(decisions)
    for day, slot, listeners, known in seen:
        same = rebuilt.take(np.array([rows[f"d{day:04d}-{slot}-u{u:05d}"] for u in listeners], dtype=np.int64))
        for name in ("time", "hour_of_week", "surface", "gap_hours", "item", "action"):
            np.testing.assert_array_equal(
                getattr(same, name), getattr(known, name), err_msg=f"{name} on day {day}, {slot}"
            )
        assert list(same.steer) == list(known.steer)


def test_logged_propensities_follow_from_the_log_alone(lived: World, tmp_path: Path) -> None:
    histories, decisions = load(stored(lived, tmp_path / "logs"), index(lived))
    known = contexts(histories, decisions, lived.settings.dynamics.history_length)
    policy = lived.built_in("logging")
    assert isinstance(policy, LoggingPolicy)
    again = plackett_luce_log_probability(policy.scores(known), decisions.slate)
    np.testing.assert_allclose(again, decisions.log_propensity, atol=1e-4)


def test_outcomes_of_the_log_are_what_was_lived(lived: World) -> None:
    logs, came = lived.log(), visited(lived)
    table = outcomes(logs.events, logs.decisions, logs.users, logs.end, items=logs.items).with_columns(
        u=pl.col("user_id").str.slice(1).cast(pl.Int64),
        day=pl.col("decision_id").str.slice(1, 4).cast(pl.Int64),
        slot=pl.col("decision_id").str.slice(6, 1).cast(pl.Int64),
    )
    for window, label in ((7, "active_days_7"), (28, "active_days_28")):
        closed = table.filter(pl.col(label).is_not_null())
        assert closed.height == (table["day"] + window < lived.day).sum()
        truth = [came[u, d + 1 : d + 1 + window].sum() for u, d in closed.select("u", "day").iter_rows()]
        assert closed[label].to_list() == truth
    back = table.filter(pl.col("returned_7d").is_not_null())
    slots = {(u, one.day, one.slot) for one in lived.rounds for u in one.listeners.tolist()}
    truth = [  # a visit later on the same day is a return too
        came[u, d + 1 : d + 8].any() or any((u, d, later) in slots for later in range(slot + 1, 3))
        for u, d, slot in back.select("u", "day", "slot").iter_rows()
    ]
    assert back["returned_7d"].to_list() == truth
    played = np.concatenate([one.session.played.sum(axis=1) for one in lived.rounds])
    assert table["plays"].drop_nulls().sum() <= played.sum()


def test_branches_and_copies_do_not_touch_the_world(lived: World) -> None:
    before = deepcopy(lived.state)
    branch, copied = lived.branch(), deepcopy(lived)
    for world in (branch, copied):
        world.play(world.built_in("random"), 2, np.random.default_rng(0))
    np.testing.assert_array_equal(branch.state.item, copied.state.item)
    assert lived.day == before.day
    np.testing.assert_array_equal(lived.state.item, before.item)
    np.testing.assert_array_equal(lived.state.habit, before.habit)
    assert branch.log().decisions.height == sum(len(one.listeners) for one in branch.rounds)
    assert {one.day for one in branch.rounds} == {before.day, before.day + 1}


def test_steer_moves_what_is_played() -> None:
    world = World(PRESETS["clickbait"].with_listeners(3_000), 0)
    asked_style, plays = [], []
    policy, rng = world.built_in("random"), np.random.default_rng(0)
    texts = {text: style for style, kinds in enumerate(world.items.phrases[:-1]) for ways in kinds for text in ways}
    while world.day < 14:
        _, known = world.observe()
        slates, log_propensity = policy.choose(known, rng)
        world.act(slates, log_propensity, policy.name)
        for row, text in enumerate(known.steer):
            if text in texts:
                asked_style.append(world.items.style[slates[row]] == texts[text])
                plays.append(world.rounds[-1].session.played[row])
    hit, played = np.array(asked_style), np.array(plays)
    assert 0.05 < len(hit) / sum(len(one.listeners) for one in world.rounds) < 0.10
    assert played[hit].mean() > played[~hit].mean() + 0.1


@pytest.mark.parametrize(
    ("slates", "log_propensity", "says"),
    [
        (lambda s: s[:, :3], lambda p: p, "shape"),
        (lambda s: s + 10_000, lambda p: p, "outside"),
        (lambda s: s * 0, lambda p: p, "twice"),
        (lambda s: s, lambda p: p + 1.0, "at most 0"),
        (lambda s: s, lambda p: np.where(np.arange(len(p)) == 0, np.nan, p), "finite"),
        (lambda s: s, lambda p: p[:1], "log_propensity"),
    ],
)
def test_bad_actions_are_refused_and_change_nothing(slates, log_propensity, says) -> None:
    world = World(PRESETS["clickbait"].with_listeners(40), 0)
    _, known = world.observe()
    good = world.built_in("popularity").choose(known, np.random.default_rng(0))
    with pytest.raises(InputError, match=says):
        world.act(slates(good[0]), log_propensity(good[1]), "bad@1")
    assert world.state.slot == 0
    world.act(*good, "good@1")
    assert world.state.slot == 1


def test_a_policy_that_cannot_say_its_propensity_is_logged_without() -> None:
    world = World(PRESETS["clickbait"].with_listeners(40), 0)
    listeners, known = world.observe()
    slates, _ = world.built_in("logging").choose(known, np.random.default_rng(0))
    world.act(slates, np.full(len(listeners), np.nan), "unsure@1")
    world.play(world.built_in("logging"), 1, np.random.default_rng(0))
    decisions = world.log().decisions
    assert decisions.filter(pl.col("propensity").is_null())["policy"].to_list() == ["unsure@1"] * len(listeners)


def test_a_day_without_visitors_passes() -> None:
    world = World(PRESETS["clickbait"].with_listeners(1), 0)
    world.play(world.built_in("logging"), 20, np.random.default_rng(0))
    assert world.day == 20
    assert 0 < world.log().decisions.height < 20
