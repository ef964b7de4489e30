"""The report's figures, each a function from numbers to one SVG element with words for those who cannot see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.report.drawing import GRID, INK, MUTED, WIDTH, Drawing, Scale, text_width

ROW = 25.0
LABELS, VALUES = 116.0, 62.0
COMPARED_ROW = 60.0
NAME_ROW = 17.0
CROWDED = 7  # points that still find room for their names beside them


@dataclass(frozen=True)
class Mark:
    """A value with its interval, its name and how it is drawn."""

    label: str
    value: float
    lo: float
    hi: float
    colour: str = INK
    shape: str = "circle"
    bold: bool = False


@dataclass(frozen=True)
class Reference:
    """A vertical line to compare with."""

    value: float
    label: str


def forest(
    name: str,
    marks: Sequence[Mark],
    written: Callable[[float], str],
    reference: Reference | None = None,
    percent: bool = False,
) -> str:
    """Values with intervals, one a row, on a common axis; the reference as a dashed line."""
    drawing = Drawing(height=ROW * len(marks) + 24 + (14 if reference else 0))
    top = 16.0 if reference else 4.0
    bounds = [m.lo for m in marks] + [m.hi for m in marks] + ([reference.value] if reference else [])
    x = Scale(min(bounds), max(bounds), LABELS + 8, WIDTH - VALUES - 8)
    bottom = top + ROW * len(marks)
    axis(drawing, x, top, bottom, percent)
    if reference:
        at = x(reference.value)
        drawing.line(at, top - 2, at, bottom, MUTED, 1.2, "3 3")
        drawing.text(at, top - 5, reference.label, 10.5, "middle", MUTED)
    for row, mark in enumerate(marks):
        y = top + ROW * (row + 0.5)
        drawing.text(LABELS, y + 4, fit(mark.label, LABELS - 2), 12, "end", bold=mark.bold)
        drawing.line(x(mark.lo), y, x(mark.hi), y, mark.colour, 2.4)
        for end in (mark.lo, mark.hi):
            drawing.line(x(end), y - 3.5, x(end), y + 3.5, mark.colour, 1.6)
        drawing.marker(x(mark.value), y, mark.shape, mark.colour)
        drawing.text(WIDTH - 2, y + 4, written(mark.value), 12, "end", bold=mark.bold)
    said = "; ".join(f"{m.label} {written(m.value)} ({written(m.lo)} to {written(m.hi)})" for m in marks)
    if reference:
        said += f". Dashed line: {reference.label} at {written(reference.value)}"
    return drawing.svg(name, said)


def bars(name: str, rows: Sequence[tuple[str, float, str]], written: Callable[[float], str]) -> str:
    """Horizontal bars from zero: (label, value, colour)."""
    drawing = Drawing(height=ROW * len(rows) + 8)
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    # Stages have longer names than policies.
    labels = min(max([LABELS, *(text_width(label) + 4 for label, _, _ in rows)]), 160.0)
    reach = WIDTH - labels - VALUES - 16
    for row, (label, value, colour) in enumerate(rows):
        y = 4 + ROW * row
        drawing.text(labels, y + 16, fit(label, labels - 2), 12, "end")
        drawing.rect(labels + 8, y + 4, max(1.0, reach * value / most), ROW - 9, colour)
        drawing.text(labels + 14 + reach * value / most, y + 16, written(value), 12)
    return drawing.svg(name, "; ".join(f"{label} {written(value)}" for label, value, _ in rows))


@dataclass(frozen=True)
class Point:
    """A policy in the plane of two metrics, with both intervals."""

    x: Mark
    y: Mark


def trade_off(name: str, points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Two metrics against each other; up and to the right is better. Lines are 95% intervals. Many have their names
    above, where these would cover each other."""
    crowded = len(points) > CROWDED
    above = NAME_ROW * len(points) + 8 if crowded else 0.0
    drawing = Drawing(height=318 + above)
    left, right, top, bottom = 34.0, WIDTH - 14, 22.0 + above, 270.0 + above
    x = Scale(min(p.x.lo for p in points), max(p.x.hi for p in points), left + 4, right)
    y = Scale(min(p.y.lo for p in points), max(p.y.hi for p in points), bottom - 4, top)
    axis(drawing, x, top, bottom)
    for tick in y.ticks():
        drawing.line(left, y(tick), right, y(tick))
        drawing.text(left - 4, y(tick) + 4, y.tick_label(tick), 11, "end", MUTED)
    drawing.text(2, top - 10, f"↑ {y_label}", 12, bold=True)
    drawing.text(right, bottom + 36, f"{x_label} →", 12, "end", bold=True)
    taken: list[tuple[float, float, float, float]] = [
        (x(p.x.value) - 6, y(p.y.value) - 6, x(p.x.value) + 6, y(p.y.value) + 6) for p in points
    ]
    for point in points:  # labels keep off intervals as well
        at_x, at_y = x(point.x.value), y(point.y.value)
        taken.append((x(point.x.lo), at_y - 2, x(point.x.hi), at_y + 2))
        taken.append((at_x - 2, y(point.y.hi), at_x + 2, y(point.y.lo)))
    for point in points:
        at_x, at_y, colour = x(point.x.value), y(point.y.value), point.x.colour
        drawing.line(x(point.x.lo), at_y, x(point.x.hi), at_y, colour, 1.4)
        drawing.line(at_x, y(point.y.lo), at_x, y(point.y.hi), colour, 1.4)
    for row, point in enumerate(points):
        at_x, at_y = x(point.x.value), y(point.y.value)
        drawing.marker(at_x, at_y, point.x.shape, point.x.colour, 5.5)
        if crowded:
            at = 10.0 + NAME_ROW * row
            drawing.marker(17, at, point.x.shape, point.x.colour, 4.5)
            drawing.text(30, at + 4, fit(point.x.label, WIDTH - 34), 12, bold=point.x.bold)
            continue
        box = free_place(
            at_x, at_y, text_width(point.x.label, 13.5 if point.x.bold else 12), taken, (left, top, right, bottom)
        )
        taken.append(box)
        drawing.text(box[0], box[3] - 3, point.x.label, 12, bold=point.x.bold)
    said = "; ".join(f"{p.x.label}: {x_label} {p.x.value:.3g}, {y_label} {p.y.value:.3g}" for p in points)
    return drawing.svg(name, said)


def reliability(
    name: str,
    predicted: Sequence[float],
    observed: Sequence[float],
    rows: Sequence[int],
    written: Callable[[float], str],
    percent: bool,
) -> str:
    """Predicted against observed, bin by bin; on the diagonal is right. Below, where the predictions lie."""
    drawing = Drawing(height=330)
    left, right, top, bottom = 44.0, WIDTH - 12, 20.0, 254.0
    low, high = min(*predicted, *observed), max(*predicted, *observed)
    if percent:
        low, high = max(0.0, low), min(1.0, high)
    x, y = Scale(low, high, left + 4, right - 4), Scale(low, high, bottom - 4, top + 4)
    axis(drawing, x, top, bottom, percent)
    for tick in y.ticks():
        drawing.line(left, y(tick), right, y(tick))
        drawing.text(left - 4, y(tick) + 4, y.tick_label(tick, percent), 11, "end", MUTED)
    drawing.line(x(x.low), y(x.low), x(x.high), y(x.high), MUTED, 1.2, "3 3")
    drawing.text(2, 11, "observed", 11.5, colour=MUTED)
    drawing.text(right, 326, "predicted", 11.5, "end", MUTED)
    blue = "#0072b2"
    drawing.path([(x(p), y(o)) for p, o in zip(predicted, observed)], blue)
    most = max(rows, default=0) or 1
    for p, o, count in zip(predicted, observed, rows):
        drawing.rect(x(p) - 5, 312 - 30 * count / most, 10, 30 * count / most, blue, 0.35)
        drawing.marker(x(p), y(o), "circle", blue)
    said = "; ".join(f"predicted {written(p)}, observed {written(o)}" for p, o in zip(predicted, observed))
    return drawing.svg(name, said)


@dataclass(frozen=True)
class Curve:
    """A step curve: `start` until the first of `x`, then y[k] from x[k] on, within lo[k] to hi[k] (None: unknown)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    lo: Sequence[float | None]
    hi: Sequence[float | None]
    colour: str
    dash: str = ""
    start: float = 1.0


def steps(name: str, curves: Sequence[Curve], end: float, x_label: str, y_label: str, most: float = 1.0) -> str:
    """Shares in 0 .. `most` that change in steps, from 0 to `end`, with their intervals as bands; names above.

    What comes after `end` is not drawn.
    """
    drawing = Drawing(height=286 + 17 * len(curves))
    left, right, top = 44.0, WIDTH - 12, 30.0 + 17 * len(curves)
    bottom = top + 210
    x, y = Scale(0.0, end, left + 4, right - 4, 6), Scale(0.0, most, bottom, top)
    axis(drawing, x, top, bottom)
    for tick in y.ticks():
        drawing.line(left, y(tick), right, y(tick))
        drawing.text(left - 4, y(tick) + 4, y.tick_label(tick, True), 11, "end", MUTED)
    drawing.text(2, top - 12, y_label, 11.5, colour=MUTED)
    drawing.text(right, bottom + 36, x_label, 11.5, "end", MUTED)
    said = []
    for row, curve in enumerate(curves):
        drawing.path([(4, 12.0 + 17 * row), (30, 12.0 + 17 * row)], curve.colour, 2.2, curve.dash)
        drawing.text(36, 16 + 17 * row, fit(curve.label, WIDTH - 40), 12)
        over: list[tuple[float, float]] = []
        under: list[tuple[float, float]] = []
        shown = [at for at in curve.x if at <= end]
        for begin, stop, lo, hi in zip(shown, [*shown[1:], end], curve.lo, curve.hi):
            if lo is not None and hi is not None:
                over += [(x(begin), y(hi)), (x(stop), y(hi))]
                under += [(x(begin), y(lo)), (x(stop), y(lo))]
        drawing.area(over + under[::-1], curve.colour)
        way, height = [(x(0), y(curve.start))], curve.start
        for at, value in zip(shown, curve.y):
            way += [(x(at), y(height)), (x(at), y(value))]
            height = value
        drawing.path([*way, (x(end), y(height))], curve.colour, 2.0, curve.dash)
        told = range(0, len(shown), max(1, len(shown) // 4))
        said.append(f"{curve.label}: " + ", ".join(f"{100 * curve.y[k]:.0f}% after {curve.x[k]:g}" for k in told))
    return drawing.svg(name, f"{y_label}; {x_label}. " + "; ".join(said))


@dataclass(frozen=True)
class Compared:
    """One row of `versus`: ours against others, each (name, value), the best one last."""

    label: str
    ours: float
    others: Sequence[tuple[str, float]]


def versus(name: str, rows: Sequence[Compared], written: Callable[[float], str]) -> str:
    """Our score (filled) beside the baselines' (hollow, the best one named and filled), a row each on a common axis."""
    drawing = Drawing(height=COMPARED_ROW * len(rows) + 30)
    values = [row.ours for row in rows] + [value for row in rows for _, value in row.others]
    x = Scale(min(values), max(values), 12, WIDTH - VALUES - 8)
    bottom = COMPARED_ROW * len(rows) + 2
    axis(drawing, x, 2, bottom)
    for index, row in enumerate(rows):
        y = COMPARED_ROW * index + 32
        drawing.text(2, y - 15, row.label, 12)
        drawing.line(12, y, WIDTH - VALUES - 8, y, GRID)
        for place, (other, value) in enumerate(row.others, start=1):
            best = place == len(row.others)
            drawing.marker(x(value), y, "square", MUTED, 4.2, hollow=not best)
            if best:
                drawing.text(
                    2, y + 20, fit(f"best baseline: {other}, {written(value)}", WIDTH - 4, 11), 11, colour=MUTED
                )
        drawing.marker(x(row.ours), y, "diamond", "#0072b2", 5)
        drawing.text(WIDTH - 2, y + 4, written(row.ours), 12, "end", bold=True)
    said = "; ".join(
        f"{row.label}: ours {written(row.ours)}, " + ", ".join(f"{other} {written(v)}" for other, v in row.others)
        for row in rows
    )
    return drawing.svg(name, said)


@dataclass(frozen=True)
class Profile:
    """Values over the same places, one after the other, with their name and how they are drawn."""

    label: str
    values: Sequence[float]
    colour: str
    shape: str = "circle"
    dash: str = ""
    bold: bool = False


def profiles(name: str, lines: Sequence[Profile], x_label: str, y_label: str) -> str:
    """Shares over places 1, 2, .. as lines with markers, in percent from zero; names above."""
    drawing = Drawing(height=272 + 17 * len(lines))
    left, right, top = 40.0, WIDTH - 12, 30.0 + 17 * len(lines)
    bottom = top + 196
    places = len(lines[0].values)
    y = Scale(0.0, max(max(line.values) for line in lines), bottom, top)
    across = [left + 12 + (right - left - 24) * place / max(1, places - 1) for place in range(places)]
    for tick in y.ticks():
        drawing.line(left, y(tick), right, y(tick))
        drawing.text(left - 4, y(tick) + 4, y.tick_label(tick, True), 11, "end", MUTED)
    for place, at in enumerate(across):
        drawing.text(at, bottom + 16, str(place + 1), 11, "middle", MUTED)
    drawing.text(2, top - 12, y_label, 11.5, colour=MUTED)
    drawing.text(right, bottom + 36, x_label, 11.5, "end", MUTED)
    said = []
    for row, line in enumerate(lines):
        drawing.path([(4, 12.0 + 17 * row), (30, 12.0 + 17 * row)], line.colour, 2.0, line.dash)
        drawing.marker(17, 12.0 + 17 * row, line.shape, line.colour, 4)
        drawing.text(36, 16 + 17 * row, fit(line.label, WIDTH - 40), 12, bold=line.bold)
        drawing.path(
            [(at, y(value)) for at, value in zip(across, line.values)],
            line.colour,
            2.6 if line.bold else 1.5,
            line.dash,
        )
        for at, value in zip(across, line.values):
            drawing.marker(at, y(value), line.shape, line.colour, 3.4)
        said.append(f"{line.label}: " + ", ".join(f"{100 * value:.3g}%" for value in line.values))
    return drawing.svg(name, f"{y_label} by {x_label}. " + "; ".join(said))


def axis(drawing: Drawing, x: Scale, top: float, bottom: float, percent: bool = False) -> None:
    """Vertical grid lines with their values below; as many labels as fit."""
    ticks = x.ticks()
    widest = max(text_width(x.tick_label(tick, percent), 11) for tick in ticks) + 8
    room = abs(x(ticks[-1]) - x(ticks[0]))
    every = 1
    while every < len(ticks) and widest * (len(ticks) - 1) / every > room:
        every += 1
    for index, tick in enumerate(ticks):
        drawing.line(x(tick), top, x(tick), bottom)
        if index % every == 0:
            drawing.text(x(tick), bottom + 15, x.tick_label(tick, percent), 11, "middle", MUTED)


def fit(words: str, width: float, size: float = 12.0) -> str:
    """`words`, shortened to the width with an ellipsis."""
    if text_width(words, size) <= width:
        return words
    return words[: max(1, int(width / (0.56 * size)) - 1)].rstrip() + "…"


Box = tuple[float, float, float, float]


def free_place(x: float, y: float, width: float, taken: Sequence[Box], frame: Box) -> Box:
    """Where a label of this width fits beside a point: the first of twelve places that overlaps least."""
    best: tuple[float, Box] | None = None
    for dx, dy in (
        (12, 5), (-12 - width, 5), (9, -8), (-9 - width, -8), (9, 18), (-9 - width, 18),
        (-width / 2, -12), (-width / 2, 24), (9, -22), (-9 - width, -22), (9, 32), (-9 - width, 32),
    ):  # fmt: skip
        box = (x + dx, y + dy - 12, x + dx + width, y + dy + 3)
        overlap = sum(
            max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
            * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
            for other in taken
        )
        outside = sum(
            max(0.0, gap) for gap in (frame[0] - box[0], box[2] - frame[2], frame[1] - box[1], box[3] - frame[3])
        )
        cost = overlap + 40 * outside
        if best is None or cost < best[0] - 1e-6:
            best = (cost, box)
    assert best is not None
    return best[1]
