"""Messages on the page: their numbers as JSON, their drawings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from eval.messages import DAILY, MessageSection, front
from eval.report import metrics as words
from eval.report.figures import Mark, Point, Profile, profiles, trade_off
from eval.report.world import MESSAGE_LABELS
from eval.rollout import paired_json, policy_means

Json = dict[str, object]
TOLD = (
    "active_days_28",
    "sessions_28",
    "converted_28",
    "messages_28",
    "opens_28",
    "opt_outs_28",
    "reachable_28",
)
DAY_WORDS = {
    "sent": "Messages sent",
    "opened": "Messages opened",
    "sessions": "Sessions",
    "opt_outs": "Opt-outs",
    "reachable": "Listeners who can be reached",
}
PER = dict.fromkeys(DAILY, "per 100 listeners and day") | {"reachable": "of 100 listeners"}
LABELS = MESSAGE_LABELS | {
    "rules": "rules with caps",
    "clicks": "likeliest open (learned)",
    "reward": "best by reward",
    "policy": "LLM policy",
}
STYLES = {
    "logging": ("#5f6670", "square", ""),
    "hold": ("#0072b2", "circle", "2 3"),
    "send_always": ("#b8860b", "triangle", "7 3"),
    "rules": ("#8a6d3b", "square", "4 2"),
    "most_opens": ("#a8518a", "triangle", "9 3 2 3"),
    "clicks": ("#c44a00", "triangle", "5 2"),
    "reward": ("#007a5a", "diamond", ""),
    "policy": ("#7a4fb5", "diamond", ""),
    "oracle": ("#111111", "star", "1 3"),
}
OTHERS = ("#3b9ac9", "#7a4fb5", "#8d949e", "#8a6d3b")


def messages_json(section: MessageSection) -> Json:
    """`messages` in report.json.

    policies.<name>.<metric>.{mean, lo, hi}; paired_vs_<reference>.<name>.<metric>.{diff, lo, hi}; by_day.<name>.{sent,
    opened, sessions, opt_outs, reachable}[T]; front: names from the most conversions to the most reach; examples.
    """
    means = policy_means(section.rollouts)
    reference = section.rollouts[0].settings.reference
    points = {name: (by["reachable_28"].value, by["converted_28"].value) for name, by in means.items()}
    found: Json = {
        "world": section.world,
        "listeners": sum(next(iter(r.metrics.values()))["active_days_28"].size for r in section.rollouts),
        "seeds": [rollout.seed for rollout in section.rollouts],
        "days": section.rollouts[0].settings.horizon_days,
        "reference": reference,
        "policies": {
            policy: {name: {"mean": i.value, "lo": i.lo, "hi": i.hi} for name, i in by.items()}
            for policy, by in means.items()
        },
        "by_day": {
            policy: {name: [round(float(x), 6) for x in by[name]] for name in DAILY}
            for policy, by in section.daily.items()
        },
        "front": front(points),
        "examples": [
            {
                "listener": example.listener,
                "told": example.told,
                "offered": list(example.offered),
                "decided": dict(example.decided),
                "came": dict(example.came),
            }
            for example in section.examples
        ],
    }
    found[f"paired_vs_{reference}"] = {
        name: paired_json(section.rollouts, name, reference) for name in means if name != reference
    }
    return found


def message_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """by_day: name -> drawing; front, worth: conversion and active days against reach; and what the page needs to name
    them. Empty without messages."""
    shown = report.get("messages")
    if not shown:
        return {}
    return {
        "told": [name for name in TOLD if all(name in by for by in shown["policies"].values())],
        "labels": {policy: style(policy, place).label for place, policy in enumerate(shown["policies"])},
        "titles": {name: (DAY_WORDS[name], PER[name]) for name in DAILY},
        "by_day": {name: Markup(by_week(shown["by_day"], name)) for name in DAILY},
        "front": Markup(plane(shown, "converted_28", "Conversion against reach", shown["front"])),
        "worth": Markup(plane(shown, "active_days_28", "Active days against reach", ())),
    }


def style(policy: str, place: int) -> words.PolicyStyle:
    """A message policy in words, with its colour and marker."""
    colour, marker, _ = STYLES.get(policy, (OTHERS[place % len(OTHERS)], "circle", ""))
    return words.PolicyStyle(LABELS.get(policy, policy.replace("_", " ")), colour, marker)


def by_week(days: Mapping[str, Any], name: str) -> str:
    """One line a policy over whole weeks, in hundredths of a listener: means, and of reach the last day."""
    lines = []
    for place, (policy, by) in enumerate(days.items()):
        look, dash = style(policy, place), STYLES.get(policy, ("", "", ""))[2]
        weeks = [by[name][at : at + 7] for at in range(0, len(by[name]) - 6, 7)]
        values = [week[-1] if name == "reachable" else sum(week) / 7 for week in weeks]
        lines.append(Profile(look.label, values, look.colour, look.marker, dash))
    return profiles(DAY_WORDS[name], lines, "weeks", PER[name])


def plane(shown: Mapping[str, Any], up: str, title: str, best: list[str] | tuple[str, ...]) -> str:
    """A metric against the share still reachable, both less those of the reference, the same people compared; a point a
    policy, and those of the front are bold."""
    reference, origin = shown["reference"], {"diff": 0.0, "lo": 0.0, "hi": 0.0}
    paired = shown[f"paired_vs_{reference}"]
    points = []
    for place, policy in enumerate(shown["policies"]):
        look, bold = style(policy, place), policy in best
        across, high = (paired[policy][name] if policy != reference else origin for name in ("reachable_28", up))
        points.append(
            Point(
                *(
                    Mark(look.label, of["diff"], of["lo"], of["hi"], look.colour, look.marker, bold)
                    for of in (across, high)
                )
            )
        )
    less = style(reference, 0).label
    return trade_off(title, points, f"share reachable less {less}", f"{words.metric(up).label.lower()} less {less}")
