"""Two reports side by side: the numbers that both have and that a reader decides on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eval.report.answer import score_of
from eval.report.metrics import interval, metric, policy_style, written

Report = Mapping[str, Any]
HEADLINE = "active_days_28"


def comparison_rows(this: Report, other: Report) -> list[dict[str, object]]:
    """[{"part", "what", "this", "other"}], in the order of the page, for every number that both reports have."""
    found = dict(comparable(other))
    return [
        {"part": part, "what": what, "this": value, "other": found[part, what]}
        for (part, what), value in comparable(this)
        if (part, what) in found
    ]


def changes(report: Report) -> list[str]:
    """What this run's policies changed against the other run's, a sentence per policy; empty where none is paired."""
    compared = report.get("comparison", {})
    found = []
    for policy, by_metric in compared.get("paired", {}).items():
        gap = by_metric.get(HEADLINE)
        if gap is None:
            continue
        apart = gap["lo"] > 0 or gap["hi"] < 0
        found.append(
            f"{policy_style(policy).label}: {written(HEADLINE, gap['diff'], True)} active days of 28 against "
            f"{compared['label']} ({interval(HEADLINE, gap['lo'], gap['hi'], True)})"
            f"{'.' if apart else ', no difference one can count on.'}"
        )
    return found


def comparable(report: Report) -> Iterator[tuple[tuple[str, str], float]]:
    """((part, what), value) of a report's headline numbers."""
    world = report.get("world", {})
    for key, paired in world.items():
        if key.startswith("paired_vs_"):
            for policy, by_metric in paired.items():
                for name, gap in by_metric.items():
                    part = f"difference from {policy_style(key.removeprefix('paired_vs_')).label}"
                    yield (part, f"{policy_style(policy).label}: {metric(name).label.lower()}"), gap["diff"]
    for policy, closed in world.get("gap_closed", {}).items():
        if policy not in ("logging", "oracle"):
            yield ("share of the way to the oracle", policy_style(policy).label), closed["share"]
    for label, head in report.get("rewards", {}).get("heads", {}).items():
        name, score = score_of(head)
        if score is not None:
            yield ("reward quality", f"{metric(label).label} ({name})"), score
    for policy, result in report.get("ranking", {}).items():
        for name in ("hr@10", "ndcg@10"):
            if result.get(name) is not None:
                yield ("next item", f"{policy_style(policy).label}: {name}"), result[name]
    seconds = sum(value for value in report.get("timing", {}).values() if isinstance(value, int | float))
    if seconds:
        yield ("time", "all stages, seconds"), seconds
