"""report.json as one HTML page: no script, no network, opens from disk, prints, and fits a phone.

The page is rendered from the same dictionary that report.json holds. Jinja escapes every value, drawings escape their
own text, and a content security policy forbids scripts and requests besides, so that no title of a log can act.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from eval.report import metrics as words
from eval.report.answer import score_of
from eval.report.compare import changes
from eval.report.fairness import SEGMENTS, fairness_figures, fairness_words, label_of
from eval.report.figures import Compared, Mark, Point, Reference, bars, forest, reliability, trade_off, versus
from eval.report.habit import MEASURES, frequency_range, habit_figures, writer
from eval.report.messages import message_figures
from eval.report.pareto import pareto_figure
from eval.report.world import portrait_figures

Report = Mapping[str, Any]
PRESENT = ("active_days_28", "returned_7d", "habit_28", "plays_per_session")


def render(report: Report) -> str:
    """The page of a report dictionary (see eval/report/numbers.py), as HTML text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": words.number,
        "percent": words.percent,
        "seconds": words.seconds,
        "written": words.written,
        "interval": words.interval,
        "metric": words.metric,
        "policy": lambda name: words.policy_style(name).label,
        "signed": words.signed,
        "baseline": words.baseline,
        "shown_as": label_of,
        "colour": lambda name: words.policy_style(name).colour,
        "pretty": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
        "score": score_of,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "frequency_range": frequency_range,
        "habit_value": lambda value, name: writer(MEASURES[name])(value),
        "plus4": lambda value: words.signed(words.fixed(value, 4)),
    }
    room = files("eval.report")
    page = environment.from_string((room / "page.html.jinja").read_text(encoding="utf-8"))
    # Our own stylesheet, not a value from a log: the one thing besides drawings that is not escaped.
    style = Markup((room / "page.css").read_text(encoding="utf-8"))
    return page.render(
        report=report,
        style=style,
        figures=figures(report),
        metrics=shown_metrics(report),
        habit_measures=MEASURES,
        refusals=refusals(report),
        today=next(iter(report.get("ope_about", {}).get("logging", {}).values()), None),
        weights_words=WEIGHTS_WORDS,
        changes=changes(report),
        baselines=baselines(report),
        advantages=advantages(report),
        fairness_words=fairness_words(report),
        segment_words=SEGMENTS,
    )


WEIGHTS_WORDS = {
    "additive": "by single positions",
    "positions": "by single positions",
    "prefixes": "by the first items",
    "embedding": "by clusters of actions",
    "surrogate": "by short-term outcomes",
}


Advantages = tuple[tuple[str, ...], list[tuple[str, tuple[float | None, ...]]]]


def advantages(report: Report) -> list[Advantages]:
    """The advantage's numbers as tables, (columns, [(row, values)]): "what: measure" in a table of such measures."""
    by_row: dict[str, dict[str, float | None]] = {}
    for name, value in report.get("rewards", {}).get("advantage", {}).items():
        what, _, measure = name.partition(": ")
        by_row.setdefault(what, {})[measure] = value
    tables: dict[tuple[str, ...], list[tuple[str, tuple[float | None, ...]]]] = {}
    for what, measures in by_row.items():
        tables.setdefault(tuple(measures), []).append((words.metric(what).label, tuple(measures.values())))
    return list(tables.items())


def baselines(report: Report) -> list[str]:
    """Every baseline that some head is compared with, in the order in which they are known."""
    heads = report.get("rewards", {}).get("heads", {}).values()
    found = list(dict.fromkeys(name for head in heads for name in head["baselines"]))
    return [name for name in words.BASELINES if name in found] + [name for name in found if name not in words.BASELINES]


def refusals(report: Report) -> list[tuple[str, list[str]]]:
    """(reason, policies refused for it); a log without propensities says so once, not once a policy.

    A policy of which whole slates say nothing but single positions do has a value, on a stronger assumption.
    """
    reasons: dict[str, list[str]] = {}
    for policy, support in report.get("ope_about", {}).get("support", {}).items():
        answered = any(estimate["value"] is not None for estimate in report["ope"][policy].values())
        if support["refused"] and not answered:
            reasons.setdefault(support["refused"], []).append(policy)
    return list(reasons.items())


def figures(report: Report) -> dict[str, Any]:
    """Every drawing of the page, by section."""
    return {
        "means": world_means(report),
        "paired": world_paired(report),
        "trade_off": world_trade_off(report),
        "heads": head_scores(report),
        "reliability": head_reliability(report),
        "ope": off_policy(report),
        "ranking": ranking(report),
        "exposure": exposure(report),
        "fairness": fairness_figures(report),
        "pareto": pareto_figure(report),
        "habit": habit_figures(report),
        "world_shown": portrait_figures(report),
        "messages": message_figures(report),
        "timing": timing(report),
    }


def drawn(svg: str) -> Markup:
    """A drawing of ours, whose text is already escaped."""
    return Markup(svg)


def shown_metrics(report: Report) -> list[str]:
    """World metrics, the ones that decide first."""
    policies = report.get("world", {}).get("policies", {})
    found = list(next(iter(policies.values()), {}))
    return [name for name in PRESENT if name in found] + [name for name in found if name not in PRESENT]


def mark(policy: str, value: float, lo: float, hi: float, chosen: object) -> Mark:
    """A policy's mark in its own colour and shape; the policy that the answer is about is bold."""
    style = words.policy_style(policy)
    return Mark(style.label, value, lo, hi, style.colour, style.marker, policy == chosen)


def world_means(report: Report) -> dict[str, Markup]:
    """metric -> forest of every policy's mean."""
    world, chosen = report.get("world"), report["answer"]["policy"]
    if not world:
        return {}
    found = {}
    for name in shown_metrics(report):
        marks = [
            mark(policy, by[name]["mean"], by[name]["lo"], by[name]["hi"], chosen)
            for policy, by in world["policies"].items()
            if name in by
        ]
        sft = world["policies"].get("sft", {}).get(name)
        reference = Reference(sft["mean"], "SFT") if sft else None
        title = words.metric(name)
        written = partial(words.written, name)
        found[name] = drawn(forest(title.label, marks, written, reference, title.percent))
    return found


def world_paired(report: Report) -> dict[str, Markup]:
    """metric -> forest of paired differences from SFT."""
    paired, chosen = report.get("world", {}).get("paired_vs_sft"), report["answer"]["policy"]
    if not paired:
        return {}
    found = {}
    for name in shown_metrics(report):
        marks = [
            mark(policy, by[name]["diff"], by[name]["lo"], by[name]["hi"], chosen)
            for policy, by in paired.items()
            if name in by
        ]
        if not marks:
            continue
        title = words.metric(name)
        written = partial(difference, name)
        label = f"{title.label}: difference from SFT"
        found[name] = drawn(forest(label, marks, written, Reference(0.0, "SFT"), title.percent))
    return found


def difference(name: str, value: float) -> str:
    """A difference of a metric, with its sign, short enough for a figure's margin."""
    return words.written(name, value, True).replace(" pts", "")


def world_trade_off(report: Report) -> Markup | None:
    """The mid-term metric against the tap."""
    policies, chosen = report.get("world", {}).get("policies", {}), report["answer"]["policy"]
    both = {name: by for name, by in policies.items() if "plays_per_session" in by and "active_days_28" in by}
    if len(both) < 2:
        return None
    points = []
    for policy, by in both.items():
        tap, days = by["plays_per_session"], by["active_days_28"]
        points.append(
            Point(
                mark(policy, tap["mean"], tap["lo"], tap["hi"], chosen),
                mark(policy, days["mean"], days["lo"], days["hi"], chosen),
            )
        )
    return drawn(trade_off("Return against clicks", points, "plays per session", "active days of 28"))


def head_scores(report: Report) -> Markup | None:
    """Each head's score beside its baselines."""
    heads = report.get("rewards", {}).get("heads", {})
    rows = []
    for label, head in heads.items():
        name, score = score_of(head)
        if score is not None:
            known = sorted((value, other) for other, value in head["baselines"].items() if value is not None)
            others = [(words.baseline(other), value) for value, other in known]
            rows.append(Compared(f"{words.metric(label).label} ({name})", score, others))
    return drawn(versus("Reward heads against baselines", rows, words.number)) if rows else None


def head_reliability(report: Report) -> dict[str, Markup]:
    """label -> reliability plot."""
    found = {}
    for label, head in report.get("rewards", {}).get("heads", {}).items():
        curve = head.get("reliability")
        if curve and len(curve["predicted"]) > 1:
            title = words.metric(label)
            share = max(*curve["predicted"], *curve["observed"]) <= 1.0 and min(*curve["predicted"]) >= 0.0
            written = words.percent if share else words.number
            name = f"{title.label}: predicted and observed"
            found[label] = drawn(
                reliability(name, curve["predicted"], curve["observed"], curve["rows"], written, share)
            )
    return found


def off_policy(report: Report) -> dict[str, Markup]:
    """policy -> forest of its estimators; absent where refused, and of the logging policy, which is their reference."""
    found = {}
    for policy, estimates in report.get("ope", {}).items():
        if policy == "logging":
            continue
        style = words.policy_style(policy)
        marks = [
            Mark(name.upper(), e["value"], e["lo"], e["hi"], style.colour, style.marker)
            for name, e in estimates.items()
            if e["value"] is not None
        ]
        if marks:
            own = report["ope_about"]["logging"][policy]["value"]
            name = f"{style.label}: off-policy value"
            found[policy] = drawn(forest(name, marks, words.number, Reference(own, "logging policy")))
    return found


def ranking(report: Report) -> dict[str, Markup]:
    """metric -> forest of rankers, the transition count as reference."""
    rankers = report.get("ranking", {})
    names = [name for name in next(iter(rankers.values()), {}) if "@" in name and not name.endswith(("_lo", "_hi"))]
    found = {}
    for name in names:
        marks = [
            mark(policy, by[name], by[f"{name}_lo"], by[f"{name}_hi"], report["answer"]["policy"])
            for policy, by in rankers.items()
        ]
        floor = rankers.get("transition_count", {}).get(name)
        reference = None if floor is None else Reference(floor, "transition count")
        found[name] = drawn(forest(f"Next item: {name.upper()}", marks, four_digits, reference))
    return found


def four_digits(value: float) -> str:
    """Ranking metrics are written with four decimals, as the field does."""
    return f"{value:.4f}"


def exposure(report: Report) -> dict[str, Markup]:
    """What is shown: coverage and concentration by policy."""
    policies = report.get("exposure", {})
    if not policies:
        return {}

    def by_policy(key: str) -> Sequence[tuple[str, float, str]]:
        return [
            (words.policy_style(policy).label, found[key], words.policy_style(policy).colour)
            for policy, found in policies.items()
            if found.get(key) is not None
        ]

    return {
        "coverage": drawn(bars("Share of the catalog shown at least once", by_policy("coverage"), words.percent)),
        "effective_items": drawn(bars("Effective number of items shown", by_policy("effective_items"), words.number)),
        "top_10_percent_share": drawn(
            bars("Share of all showings that go to the top tenth", by_policy("top_10_percent_share"), words.percent)
        ),
    }


def timing(report: Report) -> Markup | None:
    """Seconds by stage."""
    rows = [
        (stage, float(value), "#5f6670")
        for stage, value in report.get("timing", {}).items()
        if isinstance(value, int | float)
    ]
    return drawn(bars("Time per stage", rows, words.seconds)) if rows else None
