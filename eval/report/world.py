"""A world on the page: its numbers as JSON, its drawings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from eval.report import metrics as words
from eval.report.figures import Curve, Mark, Point, steps, trade_off
from eval.report.habit import curve_json, curve_of
from eval.report.inputs import WorldPortrait

Json = dict[str, object]
LONGEST_WAIT = 14.0  # days that are drawn
SLATE_STYLES = {"highest": ("#0072b2", ""), "lowest": ("#c44a00", "7 3")}
POLICY_DASHES = ("2 3", "7 3", "", "9 3 2 3", "4 2")
MESSAGE_LABELS = {
    "logging": "logging (today)",
    "hold": "never send",
    "send_always": "send every day",
    "most_opens": "most opens",
    "oracle": "oracle",
}


def portrait_json(portrait: WorldPortrait) -> Json:
    """`world_shown` in report.json."""

    def means(policies: Mapping[str, Mapping[str, Any]]) -> Json:
        return {
            policy: {name: {"mean": i.value, "lo": i.lo, "hi": i.hi} for name, i in by.items()}
            for policy, by in policies.items()
        }

    return {
        "name": portrait.world,
        "listeners": portrait.listeners,
        "days": portrait.days,
        "habit": {
            policy: {
                "mean": [day.value for day in grown],
                "lo": [day.lo for day in grown],
                "hi": [day.hi for day in grown],
            }
            for policy, grown in portrait.habit.items()
        },
        "returns": {name: curve_json(curve) for name, curve in portrait.returns.items()},
        "policies": means(portrait.policies),
        "message_policies": means(portrait.message_policies),
    }


def portrait_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """habit, trade_off: one drawing each; returns: by quality and by allure; messages: None where none are sent."""
    shown = report.get("world_shown")
    if not shown:
        return {}
    returns = {}
    for worth in ("quality", "allure"):
        curves = [
            curve_of(f"fifth of slates with the {extreme} {worth}", found, *style)
            for extreme, style in SLATE_STYLES.items()
            if (found := shown["returns"].get(f"{extreme} {worth}"))
        ]
        title = f"Return by the {worth} of what was shown"
        returns[worth] = Markup(steps(title, curves, LONGEST_WAIT, "days", "share that has not come back"))
    return {
        "habit": Markup(habit_growth(shown)),
        "returns": returns,
        "trade_off": Markup(plane(shown["policies"], "plays_per_session", "Return against taps", words.policy_style)),
        "messages": Markup(plane(shown["message_policies"], "reachable_28", "Return against reach", _sender))
        if shown["message_policies"]
        else None,
    }


def habit_growth(shown: Mapping[str, Any]) -> str:
    """Mean strength of people's strongest habit by day, one curve a policy."""
    curves = []
    for (policy, grown), dash in zip(shown["habit"].items(), POLICY_DASHES):
        style = words.policy_style(policy)
        days = [float(day) for day in range(1, len(grown["mean"]) + 1)]
        first = grown["mean"][0]
        curves.append(Curve(style.label, days, grown["mean"], grown["lo"], grown["hi"], style.colour, dash, first))
    most = max(max(curve.y) for curve in curves)
    top = float(np.ceil(most * 10) / 10)
    return steps("How habits grow", curves, float(shown["days"]), "days lived", "mean strength of the habit", top)


def plane(policies: Mapping[str, Any], across: str, title: str, style: Callable[[str], words.PolicyStyle]) -> str:
    """Active days against another metric, a point a policy."""
    points = []
    for policy, by in policies.items():
        look, x, y = style(policy), by[across], by["active_days_28"]
        points.append(
            Point(
                Mark(look.label, x["mean"], x["lo"], x["hi"], look.colour, look.marker),
                Mark(look.label, y["mean"], y["lo"], y["hi"], look.colour, look.marker),
            )
        )
    across_label = {"plays_per_session": "plays per session", "reachable_28": "share still reachable"}[across]
    return trade_off(title, points, across_label, "active days of 28")


def _sender(policy: str) -> words.PolicyStyle:
    like = {"hold": "sft", "send_always": "dpo_click", "most_opens": "greedy_click"}
    base = words.policy_style(like.get(policy, policy))
    return words.PolicyStyle(MESSAGE_LABELS.get(policy, policy), base.colour, base.marker)
