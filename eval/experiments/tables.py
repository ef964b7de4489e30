"""Plans, analyses and studies as tables for the terminal. The JSON has the same numbers, and more."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from eval.experiments.analyse import Analysis
from eval.experiments.decompose import Decomposition
from eval.experiments.interim_world import Study
from eval.experiments.metric import Metric
from eval.experiments.peeking import FalseAlarms
from eval.experiments.plan import Plan
from eval.experiments.segments import Segments

COLOURS = {"ship": "green", "hold": "yellow", "roll back": "red"}


def print_plan(plan: Plan, console: Console) -> None:
    """What each metric needs, and what all need together."""
    horizons = list(plan.metrics[0].detectable)
    kind = "always-valid intervals" if plan.settings.sequential else "one look at the end"
    table = Table(
        title=f"Plan: power {plan.settings.power:.0%} to decide rightly, alpha {plan.settings.alpha:g}, {kind}"
    )
    for name in ("metric", "role", "mean", "sd", "CUPED", "change to see", "level", "power", "users", "days"):
        table.add_column(name, justify="left" if name in ("metric", "role") else "right")
    for days in horizons:
        table.add_column(f"seen in {days} d", justify="right")
    for part in plan.metrics:
        table.add_row(
            part.metric,
            part.role,
            f"{part.baseline:.4g}",
            f"{part.sd:.4g}",
            f"-{part.variance_reduction:.0%}",
            f"{part.change:.4g}",
            f"{part.alpha:.2g}",
            f"{part.power:.1%}",
            f"{part.users:,}",
            f"{part.days:,}",
            *(f"{part.detectable[days]:.3g}" for days in horizons),
        )
    console.print(table)
    console.print(
        f"{plan.users:,} users in all arms: {plan.enrol_days} days of new users; the last window closes on day "
        f"{plan.days} ({plan.longest} asks for most)."
    )


def print_analysis(analysis: Analysis, console: Console) -> None:
    """Checks, effects and the verdict, arm by arm."""
    reading = analysis.settings.reading
    kind = (
        "fixed horizon" if reading.planned_users is None else f"always valid, {reading.planned_users:,} users planned"
    )
    for arm, verdict in analysis.verdicts.items():
        title = f"{arm} against {analysis.control}: {1 - reading.alpha:.0%} intervals, {kind}"
        table = Table(title=title)
        for name in (
            "metric",
            "role",
            "control",
            arm,
            "difference",
            "interval",
            "relative",
            "p",
            "p adjusted",
            "CUPED",
        ):
            table.add_column(name, justify="left" if name in ("metric", "role") else "right")
        for metric in analysis.metrics:
            found = analysis.effects[arm, metric.name]
            own = (analysis.better if metric.role == "success" else analysis.worse).get((arm, metric.name))
            table.add_row(
                metric.name,
                metric.role,
                f"{found.control:.4g}",
                f"{found.treatment:.4g}",
                f"{found.diff:+.4g}",
                f"{found.lo:+.4g} to {found.hi:+.4g}",
                "" if found.relative is None else f"{found.relative:+.2%} ({found.rel_lo:+.2%} to {found.rel_hi:+.2%})",
                f"{found.p:.2g}",
                "" if own is None else f"{own:.2g}",
                "" if found.variance_reduction is None else f"-{found.variance_reduction:.0%}",
            )
        console.print(table)
        for check in analysis.checks[arm]:
            console.print(f"{'ok' if check.passed else 'FAILS'}: {check.name}, p = {check.p:.2g}: {check.says}")
        for metric in analysis.metrics:
            unknown = analysis.effects[arm, metric.name].unknown
            if unknown:
                console.print(f"{metric.name}: not known yet in {unknown:,} rows, which are left out")
        console.print(f"[bold {COLOURS[verdict.decision]}]{verdict.decision.upper()}[/] {arm}")
        for reason in verdict.reasons:
            console.print(f"  - {reason}", highlight=False)


def print_segments(title: str, metric: Metric, segments: Segments, console: Console) -> None:
    """Effects by segment."""
    table = Table(title=f"{metric.name} {title} (same effect everywhere: p = {segments.heterogeneity:.2g})")
    for name in ("segment", "share", "control", "difference", "interval", "p adjusted"):
        table.add_column(name, justify="left" if name == "segment" else "right")
    for part in segments.segments:
        found = part.effect
        table.add_row(
            part.where,
            f"{part.share:.1%}",
            f"{found.control:.4g}",
            f"{found.diff:+.4g}",
            f"{found.lo:+.4g} to {found.hi:+.4g}",
            f"{part.p_adjusted:.2g}",
        )
    console.print(table)


def print_decomposition(found: Decomposition, console: Console) -> None:
    """The change as cells that sum to it, with sums at the edges."""
    steps = list(dict.fromkeys(part.step for part in found.parts))
    title = (
        f"{found.arm}: {found.control:.4%} to {found.treatment:.4%}, a change of {100 * found.change:+.4f} points, as"
    )
    table = Table(title=title)
    table.add_column("segment")
    for step in [*steps, "sum"]:
        table.add_column(step, justify="right")
    cells = {(part.segment, part.step): part for part in found.parts}
    for segment, total in found.by("segment").items():
        parts = [cells[segment, step] for step in steps]
        shown = [f"{100 * p.value:+.4f} ({100 * p.lo:+.3f} to {100 * p.hi:+.3f})" for p in parts]
        table.add_row(segment, *shown, f"{100 * total:+.4f}")
    table.add_section()
    table.add_row("sum", *(f"{100 * total:+.4f}" for total in found.by("step").values()), f"{100 * found.change:+.4f}")
    console.print(table)


def print_false_alarms(found: Sequence[FalseAlarms], console: Console) -> None:
    """How often an A/A experiment called a difference."""
    first = found[0]
    table = Table(title=f"A/A experiments that called a difference, alpha {first.alpha:g}, {first.users:,} users each")
    for name in ("outcome", "experiments", "fixed, one look", "fixed, every look", "always valid, every look", "+-"):
        table.add_column(name, justify="left" if name == "outcome" else "right")
    for one in found:
        shares = [f"{share:.2%}" for share in (one.once, one.peeking, one.always_valid, one.error)]
        table.add_row(one.outcome, f"{one.simulations:,}", *shares)
    console.print(table)


def print_study(study: Study, console: Console) -> None:
    """Error per day of reading."""
    s = study.settings
    truths = ", ".join(f"{effect:+.2f}" for effect in study.truth)
    title = f"{s.treatment} against logging in {s.world}: true effect on active days of 28 {truths} (one a seed)"
    table = Table(title=f"{title}; {s.assignments} experiments a seed, {s.listeners:,} users")
    names = ("read", "day", "bias", "bias, if ended", "sd", "rmse", "own s.e.", "covers", "right side", "wrong side")
    for name in names:
        table.add_column(name, justify="left" if name == "read" else "right")
    for e in study.errors:
        ended = "" if e.bias_if_ended is None else f"{e.bias_if_ended:+.3f}"
        shares = [f"{share:.0%}" for share in (e.covered, e.right, e.wrong)]
        table.add_row(
            e.how, str(e.days), f"{e.bias:+.3f}", ended, f"{e.sd:.3f}", f"{e.rmse:.3f}", f"{e.se:.3f}", *shares
        )
    console.print(table)
