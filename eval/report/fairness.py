"""Fairness on the page: who gains, who is shown; its numbers as JSON, its drawings and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from markupsafe import Markup

from eval.report import metrics as words
from eval.report.figures import Mark, Profile, Reference, forest, profiles
from eval.report.inputs import FairnessSection

Json = dict[str, object]
HEADLINE = "active_days_28"
CONSUMED = "consumed"
SEGMENTS: Mapping[str, str] = {
    "new": "first seen in the last 7 days",
    "lapsing": "away for more than 7 days",
    "heavy": "3 or more active days a week",
    "light": "all others",
}


def fairness_json(section: FairnessSection) -> Json:
    """`fairness` in report.json."""
    return {
        "people": dict(section.people),
        "gains": {
            policy: {
                segment: {"diff": gain.value, "lo": gain.lo, "hi": gain.hi, "people": gain.clusters}
                for segment, gain in by.items()
            }
            for policy, by in section.gains.items()
        },
        "ranked": section.ranked,
        "count": section.count,
        "by_tenth": {name: list(shares) for name, shares in section.by_tenth.items()},
        "by_kind": {name: dict(shares) for name, shares in section.by_kind.items()},
    }


def label_of(name: str) -> str:
    """A policy in words; what listeners took is no policy."""
    return "taken in the log" if name == CONSUMED else words.policy_style(name).label


def fairness_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """segments: segment -> forest of policies' gains; tenths: shares by tenth of creators, None where nothing was."""
    fairness, chosen = report.get("fairness"), report["answer"]["policy"]
    if not fairness:
        return {}
    segments = {}
    for segment in SEGMENTS:
        marks = []
        for policy, by in fairness["gains"].items():
            if segment in by:
                style, gain = words.policy_style(policy), by[segment]
                marks.append(
                    Mark(
                        style.label, gain["diff"], gain["lo"], gain["hi"], style.colour, style.marker, policy == chosen
                    )
                )
        if marks:
            written = partial(words.written, HEADLINE, difference=True)
            name = f"Active days of {segment} listeners: difference from SFT"
            segments[segment] = Markup(forest(name, marks, written, Reference(0.0, "SFT")))
    lines = []
    for name, shares in fairness["by_tenth"].items():
        if any(share is None for share in shares):
            continue
        style = words.policy_style(name)
        look = ("#111111", "circle", "2 3") if name == CONSUMED else (style.colour, style.marker, "")
        lines.append(Profile(label_of(name), shares, *look, bold=name == chosen))
    across = f"tenth of {fairness['ranked']}, 1 = most taken in the log"
    drawn = Markup(profiles("Who is shown", lines, across, "share of all showings")) if lines else None
    return {"segments": segments, "tenths": drawn}


def fairness_words(report: Mapping[str, Any]) -> list[str]:
    """What it says of the policy that the answer is about: who gains, who loses, who cannot be told; who is shown."""
    fairness, chosen = report.get("fairness"), report["answer"]["policy"]
    if not fairness or chosen is None:
        return []
    label, said = words.policy_style(chosen).label, []
    gains = fairness["gains"].get(chosen, {})
    found: dict[str, list[str]] = {"gain": [], "lose": [], "no difference one can count on for": []}
    for segment, gain in gains.items():
        way = "gain" if gain["lo"] > 0 else "lose" if gain["hi"] < 0 else "no difference one can count on for"
        found[way].append(segment)
    parts = [f"{listed(found[way])} listeners {way}" for way in ("gain", "lose") if found[way]]
    if unclear := found["no difference one can count on for"]:
        parts.append(f"no difference one can count on for {listed(unclear)} ones")
    if parts:
        said.append(f"Under {label}, " + "; ".join(parts) + ".")
    few = [segment for segment, count in fairness["people"].items() if count and segment not in gains]
    if gains and few:
        said.append(f"Too few {listed(few)} listeners to say.")
    first, today = fairness["by_tenth"].get(chosen), fairness["by_tenth"].get("logging")
    if first and today and first[0] is not None and today[0] is not None:
        said.append(
            f"The most taken tenth of {fairness['ranked']} gets {words.percent(first[0], 0)} of {label}'s showings, "
            f"{words.percent(today[0], 0)} of today's."
        )
    return said


def listed(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
