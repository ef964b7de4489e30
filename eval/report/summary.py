"""The report in a terminal: the answer and one table, from the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from eval.report.answer import score_of
from eval.report.compare import changes
from eval.report.metrics import baseline as words_of
from eval.report.metrics import metric, number, percent, policy_style, seconds, written
from eval.report.page import refusals, shown_metrics

COLOURS = {"gain": "green", "loss": "red", "unclear": "yellow", "unknown": "cyan"}


def print_summary(report: Mapping[str, Any], console: Console, page: Path | None = None) -> None:
    """Prints the answer, the policies, the reward heads, the ranking and the times, as far as they are there."""
    answer = report["answer"]
    for table in tables(report):
        console.print(table)
    lines = [escape(answer["headline"])]
    lines += [f"[bold]{escape(point['what'])}:[/bold] {escape(point['says'])}" for point in answer["points"]]
    console.print(Panel("\n".join(lines), border_style=COLOURS[answer["verdict"]], title="The answer", expand=False))
    for reason, policies in refusals(report):
        console.print(f"[yellow]off-policy value refused ({escape(', '.join(policies))}):[/yellow] {escape(reason)}")
    for change in changes(report):
        console.print(escape(change))
    total = sum(value for value in report.get("timing", {}).values() if isinstance(value, int | float))
    if total:
        stages = ", ".join(f"{stage} {seconds(value)}" for stage, value in report["timing"].items())
        console.print(f"[dim]{escape(stages)}; {seconds(total)} added up[/dim]")
    if page is not None:
        console.print(f"report: [bold]{escape(str(page))}[/bold]", soft_wrap=True)


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The tables of `print_summary`."""
    found = []
    world = report.get("world")
    if world:
        found.append(world_table(report))
    if report.get("rewards"):
        table = Table(title="Reward heads on later days", title_justify="left")
        for column in ("outcome", "score", "ours", "best baseline", "calibration error"):
            table.add_column(column, justify="left" if column == "outcome" else "right")
        for label, head in report["rewards"]["heads"].items():
            name, score = score_of(head)
            baseline = (
                f"{number(head['baseline'])} ({words_of(head['baseline_name'])})" if head["baseline_name"] else "–"
            )
            table.add_row(metric(label).label, name, number(score), escape(baseline), number(head["ece"]))
        found.append(table)
    if report.get("ranking"):
        table = Table(title="Next item", title_justify="left")
        table.add_column("ranker")
        names = [name for name in ("hr@10", "ndcg@10") if name in next(iter(report["ranking"].values()))]
        for name in names:
            table.add_column(name, justify="right")
        for policy, by in report["ranking"].items():
            table.add_row(escape(policy_style(policy).label), *(f"{by[name]:.4f}" for name in names))
        found.append(table)
    return found


def world_table(report: Mapping[str, Any]) -> Table:
    """Policies by metric, with the paired difference from SFT where its interval does not hold zero."""
    world = report["world"]
    names = shown_metrics(report)[:4]
    days, people = world["horizon_days"], number(world["listeners"])
    table = Table(title=f"{people} listeners, {days} days, true outcomes (less SFT, * = 95% interval off zero)")
    table.title_justify = "left"
    table.add_column("policy")
    for name in names:
        table.add_column(metric(name).label, justify="right")
    if world["gap_closed"]:
        table.add_column("way to the oracle", justify="right")
    for policy, by in world["policies"].items():
        cells = []
        for name in names:
            gap = world.get("paired_vs_sft", {}).get(policy, {}).get(name)
            cell = written(name, by[name]["mean"])
            if gap:
                star = "*" if gap["lo"] > 0 or gap["hi"] < 0 else ""
                cell += f" ({written(name, gap['diff'], True)}{star})"
            cells.append(cell)
        if world["gap_closed"]:
            share = world["gap_closed"].get(policy, {}).get("share")
            cells.append(percent(share, 0))
        style = "bold" if policy == report["answer"]["policy"] else None
        table.add_row(escape(policy_style(policy).label), *cells, style=style)
    return table
