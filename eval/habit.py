"""Habit in a log: what each measure of it looks like, from people who hardly come to people who come all the time.

Most measures of habit rise with mere frequency, so all of them are shown within tenths of people by frequency.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import polars as pl

from data.habit import Habits, HabitSettings, habits
from data.store import LogStore
from eval.intervals import Interval, mean_interval, ratio_interval
from eval.report.inputs import FrequencyTenth, HabitSection
from eval.survival import SurvivalCurve, kaplan_meier

DEFAULTS = HabitSettings()
FEWEST_PEOPLE = 10  # in a tenth, for a mean of theirs to be shown
GROUPS = {"tenths 1 to 3": (1, 3), "tenths 4 to 7": (4, 7), "tenths 8 to 10": (8, 10)}
_MEANS = ("frequency", "regularity", "own_regularity", "auc", "unprompted", "sticky_days")


def habit_section(store: LogStore, seed: int, settings: HabitSettings = DEFAULTS) -> HabitSection | None:
    """Habit of the people of a log, by frequency; people are drawn with `seed` where there are many.

    None where nobody has a visit before the log's last day.
    """
    found = habits(store, settings, seed)
    if found is None:
        return None
    people = found.people
    tenths = []
    for tenth in range(1, 11):
        inside = people.filter(pl.col("tenth") == tenth)
        if not inside.is_empty():
            low, high = inside["frequency"].min(), inside["frequency"].max()
            assert isinstance(low, float)
            assert isinstance(high, float)
            tenths.append(FrequencyTenth(tenth, inside.height, low, high, measures(inside)))
    return HabitSection(
        users=found.users,
        people=people.height,
        grouped=int(people["tenth"].count()),
        days=found.days,
        overall=measures(people.filter(pl.col("tenth").is_not_null())),
        tenths=tenths,
        returns=return_curves(found),
        time_to_habit=habit_curve(people),
        habit_weeks=found.habit_weeks,
        sticky_window=found.sticky_window,
        left_out=found.left_out,
        settings=asdict(settings),
    )


def measures(people: pl.DataFrame) -> dict[str, Interval]:
    """Measure -> mean over the people it can be said of, with its interval; measures of fewer than ten are not there.

    predictability is in bits per held-out visit, a ratio of sums: how much likelier its moment was foretold than by the
    rate alone, log2, less the price of false alarms. A share of the log-loss would rise with frequency, because a rare
    visit has more bits to begin with. People without a held-out visit are left out: there is no "when" to tell. What is
    beyond the crowd's clock is own_predictability.
    """
    found = {}
    for name in _MEANS:
        values = people[name].cast(pl.Float64).drop_nulls().drop_nans().to_numpy()
        if values.size >= FEWEST_PEOPLE:
            found[name] = mean_interval(values)
    told = people.filter(pl.col("held_visits") > 0)
    if told.height >= FEWEST_PEOPLE:
        loss, rate, crowd = (told[name].to_numpy() for name in ("loss", "loss_rate", "loss_crowd"))
        visits = told["held_visits"].to_numpy().astype(np.float64) * np.log(2)
        found["predictability"] = ratio_interval(rate - loss, visits)
        found["own_predictability"] = ratio_interval(crowd - loss, visits)
    return found


def return_curves(found: Habits) -> dict[str, SurvivalCurve]:
    """Group of tenths -> days from an active day to the next, clustered by person."""
    curves = {}
    for name, (low, high) in GROUPS.items():
        gaps = found.gaps.filter(pl.col("tenth").is_between(low, high))
        if gaps["user_id"].n_unique() >= FEWEST_PEOPLE:
            curves[name] = kaplan_meier(
                gaps["days"].to_numpy(), gaps["observed"].to_numpy(), gaps["user_id"].to_numpy()
            )
    return curves


def habit_curve(people: pl.DataFrame) -> SurvivalCurve | None:
    """Time to habit: one row per person; None where it can be said of fewer than ten."""
    known = people.drop_nulls("habit_day")
    if known.height < FEWEST_PEOPLE:
        return None
    return kaplan_meier(known["habit_day"].to_numpy().astype(np.float64), known["habit_observed"].to_numpy())
