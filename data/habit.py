"""Habit: what a log says of how people come back, one row per person. To be read; not labels to learn from.

| column | unit | what it is; null where it cannot be said |
|---|---|---|
| visits | count | visits, as `data.visits` tells them |
| frequency | days a week | days with a visit after the first such day, per 7 days followed |
| tenth | 1 .. 10 | which tenth of people by frequency (equal frequencies share one) |
| regularity | at most 1 | repeated hours of the week beyond random hours (`data.labels_return`), over all weeks |
| own_regularity | at most 1 | the same beyond what people share because they sleep at the same hours |
| loss, loss_rate, loss_crowd, auc, held_visits | nats | held-out forecasts of when they come (`data.predictability`) |
| unprompted | share | visits without a message in the hours before (`data.prompts`) |
| habit_day, habit_observed | days | time to habit, censored: below |
| sticky_days, discoveries | days, count | days back to what a decision let them discover, per such decision |

Days are local. The log's last local day is left out: nobody saw it to its end. `followed` counts the days after the
first one with a visit; people followed for less than `least_followed` have no frequency.

Time to habit: the weeks of a person run from the day of their first visit. habit_day is the first day (0, 7, 14, ...)
of the first `habit_weeks` weeks in a row with `habit_days` active days each. That takes habit_weeks to find out, so who
is followed for F whole weeks without one is censored at 7 (F - habit_weeks), the last start that could be ruled out;
with F < habit_weeks nothing is known. The first visit in the log is the first ever only for newcomers: see
`newcomer_days`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from data.labels_return import HABIT_DAYS, hour_code, repeated_hours, visit_hours
from data.labels_sticky import sticky_days
from data.local_time import local_clock, local_day
from data.outcomes import OutcomeSettings
from data.predictability import PredictabilitySettings, predictability
from data.prompts import messages, prompted
from data.store import LogStore
from data.visits import WINDOWS, Visits, visits

_HOURS_PER_WEEK = 168


@dataclass(frozen=True)
class HabitSettings:
    """Every choice that the measures depend on.

    people: at most so many are looked at, as many from each bucket (drawn with a seed; buckets are equal by hash).
    earlier_share: of the log's days; frequency in it sorts people for the time to return in the rest.
    prompt_hours: how long a message prompts. habit_weeks is cut to half the weeks of the log where that is fewer.
    newcomer_days: people seen earlier than so many days after the log's start are left out of the time to habit.
    sticky_windows: the first that closes within the log for decisions in its first `carried_share` is counted.
    new_days: so many days from the log's start on, everything is new and nothing a discovery.
    """

    people: int = 10_000
    least_followed: int = 7
    earlier_share: float = 0.5
    message_surfaces: tuple[str, ...] = ("push", "email", "in_app")
    prompt_hours: float = 24.0
    habit_days: int = HABIT_DAYS
    habit_weeks: int = 4
    newcomer_days: int = 0
    sticky_windows: tuple[int, ...] = (28, 14, 7)
    new_days: int = 7
    carried_share: float = 1 / 3
    outcomes: OutcomeSettings = field(default_factory=OutcomeSettings)
    predictability: PredictabilitySettings = field(default_factory=PredictabilitySettings)


@dataclass(frozen=True)
class Habits:
    """people: the table above, with user_id. gaps: one row per active day in the log's later part: user_id, tenth (of
    their frequency in the earlier part, or every visit of those who come often would be soon followed by another one,
    by construction), days to the next active day, observed; where it was not, it came on none of the next `days` days.

    users: how many the log has. days: how long it is. habit_weeks, sticky_window (0: none fits): as cut to the log.
    left_out: measure -> why this log cannot carry it.
    """

    people: pl.DataFrame
    gaps: pl.DataFrame
    users: int
    days: float
    habit_weeks: int
    sticky_window: int
    left_out: Mapping[str, str]


def habits(store: LogStore, settings: HabitSettings = HabitSettings(), seed: int = 0) -> Habits | None:
    """Measure the people of a log. Memory: one bucket, and the visits of the `people` that are drawn.

    None where nobody has a visit before the log's last day: there is nothing to say of habit.
    """
    span = (store.end - store.start).total_seconds() / 86_400
    window = next((w for w in settings.sticky_windows if w <= span * (1 - settings.carried_share)), 0)
    weeks = max(1, min(settings.habit_weeks, int(span / 7 / 2)))
    items = store.items().select("item_id", "creator")
    rng = np.random.default_rng(seed)
    most = -(-settings.people // store.buckets)
    parts: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    users, sent_any = 0, False
    for bucket in range(store.buckets):
        events, decisions, zones = store.events(bucket), store.decisions(bucket), store.users(bucket)
        sent = messages(events, decisions, settings.message_surfaces)
        sent_any |= not sent.is_empty()
        names = events["user_id"].unique().sort()
        users += len(names)
        drawn = names.gather(np.sort(rng.permutation(len(names))[:most])).implode()
        mine = [frame.filter(pl.col("user_id").is_in(drawn)) for frame in (events, decisions, sent)]
        if not mine[0].is_empty():
            parts.append(_bucket(mine[0], mine[1], mine[2], zones, items, store, settings, window))
    first = np.cumsum([0, *(part[0].height for part in parts)])
    people = pl.concat([part[0].with_columns(pl.col("user") + k) for part, k in zip(parts, first)])
    starts = pl.concat([part[1].with_columns(pl.col("user") + k) for part, k in zip(parts, first)])
    people = _with_days(people, starts)
    starts = starts.join(people.select("user", "last_day"), on="user").filter(pl.col("day") <= pl.col("last_day"))
    if starts.is_empty():
        return None
    starts = starts.sort("user", "time")
    for found in (
        _frequency(people, starts, settings),
        _regularity(people, starts),
        _prompted(starts, store, settings, sent_any),
        predictability(starts, people, settings.predictability, seed),
        time_to_habit(people, starts, settings, weeks, store_day(store)),
    ):
        people = people.join(found, on="user", how="left", maintain_order="left")
    gaps = _gaps(people, starts, settings)
    left_out = {}
    if not sent_any:
        left_out["unprompted"] = "the log has no messages"
    if not window:
        left_out["sticky_days"] = f"the log spans {span:.1f} days; no window of {settings.sticky_windows} closes in it"
    elif people["sticky_days"].null_count() == people.height:
        left_out["sticky_days"] = "no decision let anybody discover something and matured"
    if people["loss"].null_count() == people.height:
        least = settings.predictability.least_days
        left_out["predictability"] = f"nobody is followed for {least} days with a visit in the last third of them"
    return Habits(people, gaps, users, span, weeks, window, left_out)


def store_day(store: LogStore) -> int:
    """The day (since 1970, UTC) on which the log starts."""
    return (store.start - datetime(1970, 1, 1, tzinfo=UTC)).days


def _bucket(
    events: pl.DataFrame,
    decisions: pl.DataFrame,
    sent: pl.DataFrame,
    zones: pl.DataFrame | None,
    items: pl.DataFrame,
    store: LogStore,
    settings: HabitSettings,
    window: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(people: user, user_id, today, sticky_days, discoveries; visits: user, time, day, hour, prompted) of a bucket."""
    rules = settings.outcomes
    seen = visits(
        events,
        decisions,
        zones,
        store.end,
        active=rules.active,
        message_surfaces=rules.message_surfaces,
        gap_minutes=rules.gap_minutes,
    )
    people = seen.users.with_columns(end=pl.lit(store.end).cast(pl.Datetime("us", "UTC")))
    people = people.select("user", "user_id", today=local_day(local_clock(people, "end")))
    people = people.join(
        _stickiness(seen, items, store, settings, window), on="user", how="left", maintain_order="left"
    )
    starts = seen.starts.with_columns(prompted(seen, sent, settings.prompt_hours))
    return people, starts.select("user", "time", "day", "hour", "prompted")


def _stickiness(
    seen: Visits, items: pl.DataFrame, store: LogStore, settings: HabitSettings, window: int
) -> pl.DataFrame:
    """user, sticky_days (mean over decisions that let something be discovered and whose window closed), discoveries."""
    if not window:
        return pl.DataFrame(schema={"user": pl.Int64, "sticky_days": pl.Float64, "discoveries": pl.UInt32})
    assert window in WINDOWS, f"a window of {window} days: visits know when those of {WINDOWS} close"
    labels = sticky_days(seen, items, settings.outcomes.taken, (window,))
    about = seen.decisions.select("row", "user", "time", closes=f"closes_{window}").join(labels, on="row")
    known = (pl.col("closes") <= store.end) & (pl.col("time") >= store.start + timedelta(days=settings.new_days))
    found = about.filter(known & (pl.col("discovered") > 0))
    days = pl.col(f"sticky_days_{window}").cast(pl.Float64)
    return found.group_by("user").agg(sticky_days=days.mean(), discoveries=pl.len())


def _with_days(people: pl.DataFrame, starts: pl.DataFrame) -> pl.DataFrame:
    """People with a visit on a day seen to its end, with first_day, last_day, followed."""
    first = starts.group_by("user").agg(first_day=pl.col("day").min())
    people = people.join(first, on="user").with_columns(last_day=pl.col("today") - 1).sort("user")
    people = people.with_columns(followed=pl.col("last_day") - pl.col("first_day"))
    return people.filter(pl.col("followed") >= 0).drop("today")


def _frequency(people: pl.DataFrame, starts: pl.DataFrame, settings: HabitSettings) -> pl.DataFrame:
    """user, visits, active_days, frequency, tenth."""
    count = starts.group_by("user").agg(visits=pl.len(), active_days=pl.col("day").n_unique())
    long_enough = pl.col("followed") >= settings.least_followed
    # The first active day is why somebody is followed at all, so it says nothing of how often they come.
    weekly = 7 * (pl.col("active_days").cast(pl.Float64) - 1) / pl.col("followed")
    found = people.join(count, on="user").select(
        "user", "visits", "active_days", frequency=pl.when(long_enough).then(weekly)
    )
    return found.with_columns(tenth=_tenth("frequency"))


def _tenth(column: str) -> pl.Expr:
    """1 .. 10 by the mean rank of equal values, so that those share a tenth; null where the column is."""
    rank = (pl.col(column).rank("average") - 0.5) / pl.col(column).count()
    return (rank * 10).floor().clip(0, 9).cast(pl.Int8) + 1


def _regularity(people: pl.DataFrame, starts: pl.DataFrame) -> pl.DataFrame:
    """user, regularity, own_regularity: of all weeks from the earliest first day among these people."""
    hours = visit_hours(starts)
    begin, last = people["first_day"].min(), people["last_day"].max()
    assert isinstance(begin, int)
    assert isinstance(last, int)
    weeks = (last - begin) // 7 + 1
    first = hour_code(people["user"], pl.repeat(begin, people.height, eager=True), 0)
    of_week = np.bincount(starts.unique(["user", "day", "hour"])["hour"].to_numpy(), minlength=_HOURS_PER_WEEK)
    together = float(((of_week / of_week.sum()) ** 2).sum())
    return pl.DataFrame(
        {
            "user": people["user"],
            "regularity": repeated_hours(hours, first, weeks),
            "own_regularity": repeated_hours(hours, first, weeks, together),
        }
    )


def _prompted(starts: pl.DataFrame, store: LogStore, settings: HabitSettings, sent_any: bool) -> pl.DataFrame:
    """user, unprompted: share of the visits whose `prompt_hours` lie within the log."""
    known = starts.filter(pl.col("time") >= store.start + timedelta(hours=settings.prompt_hours))
    if not sent_any:
        known = known.clear()
    return known.group_by("user").agg(unprompted=(~pl.col("prompted")).mean())


def time_to_habit(
    people: pl.DataFrame, starts: pl.DataFrame, settings: HabitSettings, weeks: int, log_day: int
) -> pl.DataFrame:
    """user, habit_day, habit_observed, as the module says, for runs of `weeks`; people who say nothing are not there.

    `people`: user, first_day, last_day; `starts`: user, day; `log_day`: the day on which the log starts.
    """
    about = people.select("user", "first_day", whole=(pl.col("last_day") - pl.col("first_day") + 1) // 7).filter(
        (pl.col("whole") >= weeks) & (pl.col("first_day") >= log_day + settings.newcomer_days)
    )
    if about.is_empty():
        return pl.DataFrame(schema={"user": pl.Int64, "habit_day": pl.Int32, "habit_observed": pl.Boolean})
    about = about.with_row_index("place")
    active = about.join(starts.select("user", "day").unique(), on="user")
    active = active.with_columns(week=(pl.col("day") - pl.col("first_day")) // 7).filter(
        pl.col("week") < pl.col("whole")
    )
    whole = about["whole"].to_numpy()
    longest = int(whole.max())
    code = active["place"].to_numpy().astype(np.int64) * longest + active["week"].to_numpy()
    habitual = np.bincount(code, minlength=about.height * longest).reshape(-1, longest) >= settings.habit_days
    streak = np.ones((about.height, longest - weeks + 1), dtype=bool)
    for ahead in range(weeks):
        streak &= habitual[:, ahead : ahead + streak.shape[1]]
    found = np.asarray(streak.any(axis=1))
    day = 7 * np.where(found, streak.argmax(1), whole - weeks)
    return about.select("user", habit_day=pl.Series(day.astype(np.int32)), habit_observed=pl.Series(found))


def _gaps(people: pl.DataFrame, starts: pl.DataFrame, settings: HabitSettings) -> pl.DataFrame:
    """The `gaps` of `Habits`."""
    begin, last = people["first_day"].min(), people["last_day"].max()
    assert isinstance(begin, int)
    assert isinstance(last, int)
    middle = begin + round((last - begin + 1) * settings.earlier_share)
    days = starts.select("user", "day").unique().sort("user", "day")
    before = days.filter(pl.col("day") < middle).group_by("user").agg(came=pl.len())
    # Followed for half of the earlier part at least, or there is nothing to sort them by.
    known = people.filter(pl.col("first_day") <= begin + (middle - 1 - begin) // 2).join(before, on="user")
    often = (pl.col("came") - 1) / (middle - 1 - pl.col("first_day"))
    known = known.with_columns(often=often).select("user", "user_id", "last_day", tenth=_tenth("often"))
    days = days.with_columns(after=pl.col("day").shift(-1).over("user")).filter(pl.col("day") >= middle)
    about = days.join(known, on="user", maintain_order="left")
    observed = pl.col("after").is_not_null()
    gap = pl.when(observed).then("after").otherwise("last_day") - pl.col("day")
    return about.select("user_id", "tenth", days=gap.cast(pl.Int32), observed=observed).filter(pl.col("days") > 0)
