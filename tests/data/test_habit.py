"""Habit: what does not follow frequency, what was prompted to the second, time to habit against a slow reference."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from data.habit import Habits, HabitSettings, habits, time_to_habit
from data.ingest import StoreSettings, write_store
from data.labels_return import hour_code, repeated_hours, visit_hours
from data.logs import Logs
from data.readers import globo
from data.schema import polars_schema
from data.store import LogStore

Row = dict[str, Any]
START = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday
WEEKS = 10


def frame(rows: list[Row], table: str) -> pl.DataFrame:
    schema = polars_schema(table)
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def stored(folder: Path, events: list[Row], decisions: list[Row] | None = None, days: int = 70) -> LogStore:
    items = pl.DataFrame({"item_id": [f"i{k}" for k in range(9)], "kind": "track", "title": "t"})
    given = None if decisions is None else frame(decisions, "decisions")
    logs = Logs(items, frame(events, "events"), given, end=START + timedelta(days=days))
    write_store(logs, folder, StoreSettings(buckets=2))
    return LogStore(folder)


def play(user: str, time: datetime, item: str = "i1", surface: str = "home", action: str = "play") -> Row:
    return {"user_id": user, "time": time, "surface": surface, "action": action, "item_id": item}


def hours_of(kind: str, per_week: int, rng: np.random.Generator) -> list[int]:
    """Hours since START of a person.

    random: any hours at all. mixed: a quarter, a half or three quarters of visits at the same hours every week, the
    others at any. thinned: the same hours every week, each of them kept four times in five.
    """
    if kind == "random":
        return sorted(rng.choice(168 * WEEKS, per_week * WEEKS, replace=False).tolist())
    if kind == "mixed":
        order = rng.permutation(168)
        same = per_week * int(rng.integers(1, 4)) // 4
        fixed, free = order[:same], order[same:]
        weeks = [[*fixed, *rng.choice(free, per_week - len(fixed), replace=False)] for _ in range(WEEKS)]
        return sorted(int(168 * week + hour) for week, hours in enumerate(weeks) for hour in hours)
    mine = rng.choice(168, max(1, round(per_week / 0.8)), replace=False)
    return sorted(int(168 * week + hour) for week in range(WEEKS) for hour in mine if rng.random() < 0.8)


def raw_entropy(hours: list[int]) -> float:
    share = np.bincount(np.array(hours) % 168) / len(hours)
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum())


def test_regularity_does_not_follow_frequency_and_raw_entropy_does() -> None:
    rng = np.random.default_rng(0)
    each = (4, 8, 16, 32)
    for kind, level, steady in (("random", 0.0, 0.03), ("mixed", 0.49, 0.08), ("thinned", 0.85, 0.07)):
        rates = np.repeat(each, 60)
        people = [hours_of(kind, int(rate), rng) for rate in rates]
        starts = pl.DataFrame(
            {
                "user": [user for user, hours in enumerate(people) for _ in hours],
                "day": [19_723 + hour // 24 for hours in people for hour in hours],
                "hour": [hour % 168 for hours in people for hour in hours],
            }
        )
        first = hour_code(pl.Series(range(len(people))), pl.repeat(19_723, len(people), eager=True), 0)
        ours = repeated_hours(visit_hours(starts), first, WEEKS).to_numpy()
        entropy = np.array([raw_entropy(hours) for hours in people])
        assert np.corrcoef(entropy, np.log(rates))[0, 1] > 0.8, kind
        assert [ours[rates == rate].mean() for rate in each] == pytest.approx([level] * 4, abs=steady), kind
        if kind != "thinned":  # weeks with fewer visits are forgiven, which tells where visits are few
            assert abs(np.corrcoef(ours, np.log(rates))[0, 1]) < 0.3, kind


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Habits:
    rng = np.random.default_rng(1)
    events = []
    for number in range(60):
        kind, rate = ("random", "thinned")[number % 2], (2, 5, 9)[number % 3]
        events += [play(f"{kind}{number}", START + timedelta(hours=h)) for h in hours_of(kind, rate, rng)]
    return habits(stored(tmp_path_factory.mktemp("habit"), events, days=7 * WEEKS))


def test_people_of_a_log_are_measured(mixed: Habits) -> None:
    people = mixed.people.with_columns(regular=pl.col("user_id").str.starts_with("thinned"))
    assert mixed.users == people.height == 60
    assert people["user_id"].n_unique() == 60
    assert people["tenth"].is_between(1, 10).all()
    assert (people.sort("frequency")["tenth"].diff().drop_nulls() >= 0).all()
    by_kind = people.group_by("regular").agg(pl.col("regularity").mean(), pl.col("own_regularity").mean())
    assert by_kind.sort("regular")["regularity"].to_list() == pytest.approx([0, 0.9], abs=0.06)
    assert by_kind.sort("regular")["own_regularity"].to_list() == pytest.approx([0, 0.9], abs=0.06)
    losses = people.group_by("regular").agg(gain=1 - pl.col("loss").sum() / pl.col("loss_rate").sum()).sort("regular")
    assert losses["gain"][0] < 0.02
    assert losses["gain"][1] > 0.2
    assert mixed.left_out["unprompted"] == "the log has no messages"
    assert people["unprompted"].null_count() == 60
    assert mixed.gaps["days"].min() == 1


def test_frequency_counts_days_after_the_first_up_to_the_last_whole_day(tmp_path: Path) -> None:
    days = {"a": (0, 1, 2, 9, 21), "b": (7, 14), "c": (20,)}  # day 21 is not over when the log ends
    events = [play(user, START + timedelta(days=d, hours=1)) for user, ds in days.items() for d in ds]
    store = stored(tmp_path, events, days=22)
    store.end = START + timedelta(days=21, hours=2)
    people = {row["user_id"]: row for row in habits(store).people.iter_rows(named=True)}
    assert people["a"]["visits"] == people["a"]["active_days"] == 4
    assert people["a"]["frequency"] == pytest.approx(7 * 3 / 20)
    assert people["b"]["frequency"] == pytest.approx(7 * 1 / 13)
    assert people["c"]["frequency"] is None


def test_the_sample_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    events = [play(f"u{k}", START + timedelta(hours=7 * k + 100 * j)) for k in range(40) for j in range(6)]
    store = stored(tmp_path, events)
    few = HabitSettings(people=10)
    drawn = [sorted(habits(store, few, seed).people["user_id"].to_list()) for seed in (0, 0, 1)]
    assert len(drawn[0]) == 10
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("ago", "prompted"),
    [(timedelta(hours=24), True), (timedelta(hours=24, microseconds=1), False), (timedelta(0), True)],
)
def test_the_prompt_window_holds_both_its_ends(tmp_path: Path, ago: timedelta, prompted: bool) -> None:
    came = START + timedelta(days=5)
    sent = {"decision_id": "m", "user_id": "a", "time": came - ago, "surface": "push", "policy": "p", "slate": ["i2"]}
    events = [play("c", START), *(play(user, came + timedelta(days=d)) for user in "ab" for d in (0, 10))]
    people = habits(stored(tmp_path, events, [sent])).people.sort("user_id")
    assert people["unprompted"].to_list() == [0.5 if prompted else 1.0, 1.0, None]


def test_a_message_prompts_from_when_it_was_to_be_sent(tmp_path: Path) -> None:
    came = START + timedelta(days=5)
    sent = {"decision_id": "m", "user_id": "a", "time": came - timedelta(days=3), "surface": "email", "policy": "p"}
    sent |= {"slate": ["i2"], "send_at": came - timedelta(hours=2)}
    people = habits(stored(tmp_path, [play(user, came) for user in "ab"], [sent])).people.sort("user_id")
    assert people["unprompted"].to_list() == [0.0, 1.0]


def test_what_is_seen_in_the_app_prompts_a_later_visit_and_not_its_own(tmp_path: Path) -> None:
    came = START + timedelta(days=5)
    notice = play("a", came, "i2", "in_app", "dismiss")
    own = [play("c", START), notice, play("a", came + timedelta(seconds=9)), play("b", came)]
    assert habits(stored(tmp_path / "own", own)).people.sort("user_id")["unprompted"].to_list() == [1.0, 1.0, None]
    later = [*own, play("a", came + timedelta(hours=5))]
    assert habits(stored(tmp_path / "later", later)).people.sort("user_id")["unprompted"].to_list() == [0.5, 1.0, None]


def test_visits_whose_hours_before_the_log_did_not_see_are_not_called_unprompted(tmp_path: Path) -> None:
    opened = play("a", START + timedelta(days=9), "i2", "push", "open")
    events = [play("a", START), play("b", START), opened]
    people = habits(stored(tmp_path, events)).people.sort("user_id")
    assert people["unprompted"].to_list() == [0.0, None]


def slow_time_to_habit(days: set[int], first: int, last: int, run: int, least: int) -> tuple[int, bool] | None:
    """Week by week, from the definition."""
    whole = (last - first + 1) // 7
    weeks = [sum(first + 7 * w <= day < first + 7 * w + 7 for day in days) >= least for w in range(whole)]
    for start in range(whole - run + 1):
        if all(weeks[start : start + run]):
            return 7 * start, True
    return (7 * (whole - run), False) if whole >= run else None


@pytest.mark.parametrize("run", [1, 2, 4])
def test_time_to_habit_equals_a_slow_reference(run: int) -> None:
    rng = np.random.default_rng(run)
    came = [sorted(np.flatnonzero(rng.random(60) < rate) + 100) for rate in rng.uniform(0.1, 0.8, 80)]
    came = [days or [100] for days in came]
    last = 160 - rng.integers(0, 50, 80)
    kept = [[int(day) for day in days if day <= end] or [int(end)] for days, end in zip(came, last.tolist())]
    people = pl.DataFrame({"user": range(80), "first_day": [days[0] for days in kept], "last_day": last})
    starts = pl.DataFrame(
        {"user": [u for u, days in enumerate(kept) for _ in days], "day": [day for days in kept for day in days]}
    )
    found = time_to_habit(people, starts, HabitSettings(), run, 100)
    fast = {row[0]: (row[1], row[2]) for row in found.iter_rows()}
    for user, days in enumerate(kept):
        assert fast.get(user) == slow_time_to_habit(set(days), days[0], int(last[user]), run, 3), user
    new = time_to_habit(people, starts, HabitSettings(newcomer_days=5), run, 100)
    assert set(new["user"]) == {user for user in fast if kept[user][0] >= 105}


def test_stickiness_is_of_discoveries_after_everything_was_new(tmp_path: Path) -> None:
    day = timedelta(days=1)
    known = [play("a", START + timedelta(hours=1), "i1"), play("a", START + 3 * day, "i1")]
    met = [play("a", START + 10 * day, "i2"), *(play("a", START + d * day, "i2") for d in (11, 12, 30, 50))]
    people = habits(stored(tmp_path, [*known, *met, play("b", START, "i1")])).people.sort("user_id")
    assert people["sticky_days"].to_list() == [3.0, None]
    assert people["discoveries"].to_list() == [1, None]


def test_a_log_without_a_whole_day_has_nothing_to_say(tmp_path: Path) -> None:
    events = [play("a", START + timedelta(hours=1)), play("b", START + timedelta(hours=2))]
    store = stored(tmp_path, events)
    store.end = START + timedelta(hours=3)
    assert habits(store) is None


def test_habit_in_the_globo_sample(tmp_path: Path) -> None:
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("LONGPLAY_DATA", str(beside))) / "globo_news_clicks/clicks_sample_1in32_users.parquet"
    if not path.is_file():
        pytest.skip(f"no public log at {path}; set LONGPLAY_DATA to the folder of logs")
    write_store(globo.read(path), tmp_path)
    found = habits(LogStore(tmp_path), HabitSettings(people=3_000))
    assert 2_500 < found.people.height <= 3_008
    assert (found.habit_weeks, found.sticky_window) == (1, 7)
    assert 0 < found.people["regularity"].mean() < 0.2  # type: ignore[operator]
    told = found.people.filter(pl.col("held_visits") > 0)
    assert 0.02 < 1 - told["loss"].sum() / told["loss_rate"].sum() < 0.2
    assert found.people["auc"].mean() > 0.55  # type: ignore[operator]
