"""Habit on the page: its numbers as JSON, its measures in words, its drawings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from eval.intervals import Interval
from eval.report.figures import Curve, Mark, Reference, forest, steps
from eval.report.inputs import HabitSection
from eval.report.metrics import fixed, percent
from eval.survival import SurvivalCurve

Json = dict[str, object]


@dataclass(frozen=True)
class Measure:
    """A measure of habit in words: what it is, what its values mean. zero: the value without habit, if there is one."""

    label: str
    says: str
    percent: bool = False
    zero: float | None = None
    decimals: int = 2


MEASURES: Mapping[str, Measure] = {
    "regularity": Measure(
        "Regularity",
        "Do weeks repeat each other's hours? 0: no more than random hours would at the same number of visits; "
        "1: always the same hours.",
        zero=0.0,
    ),
    "own_regularity": Measure(
        "Regularity of their own",
        "The same, against hours drawn from when all people come. 0: repeats only what all share, such as the night.",
        zero=0.0,
    ),
    "predictability": Measure(
        "Predictability",
        "Bits per visit: how well do the time of the week and past visits foretell when somebody comes, at the rate "
        "they come? 0: not at all; 1: the moments of visits were taken for twice as likely. Forecast one step ahead in "
        "the last third of each person's days.",
        zero=0.0,
    ),
    "own_predictability": Measure(
        "Predictability of their own",
        "The part of it that is beyond everybody's common clock: what knowing the person is worth.",
        zero=0.0,
    ),
    "auc": Measure(
        "Predictability as AUC",
        "How often a time with a visit got higher odds than one without. 0.5 is a coin. It is high for all who sleep "
        "at night, so read it beside the two above. Only of people with three visits or more to foretell.",
        zero=0.5,
    ),
    "unprompted": Measure("Unprompted visits", "Share of visits with no message in the hours before.", percent=True),
    "sticky_days": Measure(
        "Stickiness of a discovery", "Days with a return to what was met for the first time, per visit that held such."
    ),
}
LONGEST_GAP = 28.0  # days that are drawn; report.json has all
GROUP_STYLES = (("#c44a00", "2 3"), ("#5f6670", "7 3"), ("#0072b2", ""))


def habit_json(section: HabitSection) -> Json:
    """`habit` in report.json."""
    return {
        "users": section.users,
        "people": section.people,
        "grouped": section.grouped,
        "days": section.days,
        "overall": measures_json(section.overall),
        "tenths": [
            {
                "tenth": tenth.tenth,
                "people": tenth.people,
                "low": tenth.low,
                "high": tenth.high,
                "measures": measures_json(tenth.measures),
            }
            for tenth in section.tenths
        ],
        "returns": {name: curve_json(curve) for name, curve in section.returns.items()},
        "time_to_habit": None if section.time_to_habit is None else curve_json(section.time_to_habit),
        "habit_weeks": section.habit_weeks,
        "sticky_window": section.sticky_window,
        "left_out": dict(section.left_out),
        "settings": dict(section.settings),
    }


def measures_json(measures: Mapping[str, Interval]) -> Json:
    """measure -> mean, its interval and the people behind it."""
    return {name: {"mean": m.value, "lo": m.lo, "hi": m.hi, "people": m.clusters} for name, m in measures.items()}


def curve_json(curve: SurvivalCurve) -> Json:
    """A survival curve; times in days."""
    return {
        "times": curve.times,
        "survival": curve.survival,
        "lo": curve.lo,
        "hi": curve.hi,
        "at_risk": curve.at_risk,
        "events": curve.events,
        "rows": curve.rows,
        "people": curve.clusters,
    }


def habit_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """measures: name -> forest over tenths of frequency; returns, time_to_habit: step curves, None where not there."""
    habit = report.get("habit")
    if not habit:
        return {}
    measures = {}
    for name, words in MEASURES.items():
        marks = [
            Mark(frequency_range(tenth), found["mean"], found["lo"], found["hi"], "#0072b2")
            for tenth in habit["tenths"]
            if (found := tenth["measures"].get(name))
        ]
        if marks:
            reference = None if words.zero is None else Reference(words.zero, "a coin" if words.zero else "nothing")
            title = f"{words.label} by active days a week"
            measures[name] = Markup(forest(title, marks, writer(words), reference, words.percent))
    returns = [
        curve_of(f"{group} by frequency, {curve['people']:,} people", curve, colour, dash)
        for (group, curve), (colour, dash) in zip(habit["returns"].items(), GROUP_STYLES)
        if curve["times"]
    ]
    last = max((curve.x[-1] for curve in returns), default=0.0)
    end = min(last, LONGEST_GAP)
    away = "share that has not come back"
    begun = habit["time_to_habit"]
    drawn = None
    if begun and begun["times"]:
        curve = curve_of(f"{begun['people']:,} people", begun, "#0072b2", rising=True)
        until = max(7.0, curve.x[-1])
        drawn = Markup(steps("Time to habit", [curve], until, "days from the first visit", "share with a habit begun"))
    return {
        "measures": measures,
        "returns": Markup(steps("Time to return", returns, end, "days", away)) if returns else None,
        "time_to_habit": drawn,
    }


def curve_of(label: str, curve: Mapping[str, Any], colour: str, dash: str = "", rising: bool = False) -> Curve:
    """A survival curve of report.json to be drawn; `rising`: as the share to whom it has happened."""
    times, survival, lo, hi = (curve[key] for key in ("times", "survival", "lo", "hi"))
    if rising:
        lo, hi = ([None if bound is None else 1 - bound for bound in bounds] for bounds in (hi, lo))
        survival = [1 - share for share in survival]
    return Curve(label, times, survival, lo, hi, colour, dash, 0.0 if rising else 1.0)


def writer(words: Measure) -> Callable[[float], str]:
    """How a measure's values are written."""
    return percent if words.percent else partial(fixed, decimals=words.decimals)


def frequency_range(tenth: Mapping[str, Any]) -> str:
    """The active days a week of a tenth: "0.5 to 0.9", "never again"."""
    low, high = fixed(tenth["low"], 1), fixed(tenth["high"], 1)
    if tenth["high"] == 0:
        return "once only"
    return f"{low} a week" if low == high else f"{low} to {high}"
