"""The Pareto front on the page: its numbers as JSON and its drawing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from eval.report import metrics as words
from eval.report.drawing import MUTED, WIDTH, Drawing, Scale, text_width
from eval.report.figures import axis, free_place
from eval.report.inputs import ParetoSection

BLUE = "#0072b2"


def pareto_json(section: ParetoSection) -> dict[str, object]:
    """`pareto` in report.json."""
    said = [re.sub(r"(?<!\w)-(?=\d)", words.MINUS, sentence) for sentence in section.front.sentences()]
    about = {"sentences": said, "decisions": section.decisions}
    return section.front.json() | about | {"candidates": section.candidates}


def pareto_figure(report: Mapping[str, Any]) -> Markup | None:
    """The front between both outcomes; today's slates are the origin."""
    pareto = report.get("pareto")
    if not pareto:
        return None
    up, right = pareto["traded"]
    return Markup(front(pareto["points"], right, up))


def front(points: Sequence[Mapping[str, Any]], across: str, up: str) -> str:
    """Mean advantage of the chosen slates on two outcomes, a point per mixture of weights, joined in their order.

    Hollow: another mixture is better at both. Lines are 95% intervals.
    """
    drawing = Drawing(height=330)
    left, right, top, bottom = 46.0, WIDTH - 14, 24.0, 276.0

    def bounds(label: str) -> list[float]:
        spans = [(point["gain"][label], 1.96 * point["error"][label]) for point in points]
        return [0.0, *(value - half for value, half in spans), *(value + half for value, half in spans)]

    x = Scale(min(bounds(across)), max(bounds(across)), left + 4, right)
    y = Scale(min(bounds(up)), max(bounds(up)), bottom - 4, top)
    axis(drawing, x, top, bottom)
    for tick in y.ticks():
        drawing.line(left, y(tick), right, y(tick))
        drawing.text(left - 4, y(tick) + 4, y.tick_label(tick), 11, "end", MUTED)
    up_words, across_words = words.metric(up).label.lower(), words.metric(across).label.lower()
    drawing.text(2, 12, f"↑ {up_words}, a decision", 12, bold=True)
    drawing.text(right, bottom + 36, f"{across_words}, a decision →", 12, "end", bold=True)
    drawing.line(x(0), top, x(0), bottom, MUTED, 1.2, "3 3")
    drawing.line(left, y(0), right, y(0), MUTED, 1.2, "3 3")
    places = [(x(point["gain"][across]), y(point["gain"][up])) for point in points]
    drawing.path(places, BLUE, 1.4)
    for point, (at_x, at_y) in zip(points, places):
        wide, high = 1.96 * point["error"][across], 1.96 * point["error"][up]
        drawing.line(x(point["gain"][across] - wide), at_y, x(point["gain"][across] + wide), at_y, BLUE, 0.9)
        drawing.line(at_x, y(point["gain"][up] - high), at_x, y(point["gain"][up] + high), BLUE, 0.9)
    for point, (at_x, at_y) in zip(points, places):
        drawing.marker(at_x, at_y, "circle", BLUE, 4.5, hollow=point["dominated"])
    drawing.marker(x(0), y(0), "square", "#5f6670", 5.5)
    taken = [(at_x - 7, at_y - 7, at_x + 7, at_y + 7) for at_x, at_y in [*places, (x(0), y(0))]]
    taken += [(left, y(0) - 3, right, y(0) + 3), (x(0) - 3, top, x(0) + 3, bottom)]
    named = [(places[0], f"all on {up_words}"), (places[-1], f"all on {across_words}"), ((x(0), y(0)), "today")]
    for (at_x, at_y), label in named:
        box = free_place(at_x, at_y, text_width(label, 12), taken, (left, top, right, bottom))
        taken.append(box)
        drawing.text(box[0], box[3] - 3, label, 12)
    said = "; ".join(
        f"weight {point['weights'][across]:.1f} on {across_words}: {across_words} {point['gain'][across]:+.3g}, "
        f"{up_words} {point['gain'][up]:+.3g}{', dominated' if point['dominated'] else ''}"
        for point in points
    )
    return drawing.svg("What the reward would trade for what", f"Today's slates are the origin. {said}")
