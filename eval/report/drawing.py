"""Small SVG drawings by hand: sharp at any size, a few kilobytes each, text that can be selected and read aloud.

Every drawing is made for a width of 360 units, the width of a phone, so that nothing shrinks below legibility there;
wider screens put several beside each other. All text is escaped: a title from a log is never markup.
"""

from __future__ import annotations

import math
from html import escape

WIDTH = 360.0
INK, MUTED, GRID, PAPER = "#1b2330", "#5b6470", "#dfe3e8", "#ffffff"
HALF_A_CROSS = ((-0.45, -1.25), (0.45, -1.25), (0.45, -0.45), (1.25, -0.45), (1.25, 0.45), (0.45, 0.45))


class Drawing:
    """Shapes in a coordinate system of `width` x `height` units, origin top left."""

    def __init__(self, height: float, width: float = WIDTH) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str = GRID, width: float = 1.0, dash: str = ""
    ) -> None:
        """A straight line; `dash` as in stroke-dasharray."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{colour}" stroke-width="{width:g}"{dashed}/>'
        )

    def rect(self, x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0) -> None:
        """A filled rectangle; nothing when it has no extent."""
        if width > 0 and height > 0:
            faint = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
            self._parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5" '
                f'fill="{colour}"{faint}/>'
            )

    def path(self, points: list[tuple[float, float]], colour: str, width: float = 1.5, dash: str = "") -> None:
        """An open line through points; `dash` as in stroke-dasharray."""
        if len(points) > 1:
            way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            dashed = f' stroke-dasharray="{dash}"' if dash else ""
            self._parts.append(
                f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'
            )

    def area(self, points: list[tuple[float, float]], colour: str, opacity: float = 0.15) -> None:
        """A filled shape without an outline."""
        if len(points) > 2:
            way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            self._parts.append(f'<polygon points="{way}" fill="{colour}" fill-opacity="{opacity:g}"/>')

    def marker(self, x: float, y: float, shape: str, colour: str, size: float = 4.5, hollow: bool = False) -> None:
        """A circle, square, diamond, triangle (up or down), cross or star: colour is never the only difference."""
        fill = PAPER if hollow else colour
        style = f'fill="{fill}" stroke="{colour if hollow else PAPER}" stroke-width="{1.6 if hollow else 1:g}"'
        if shape == "circle":
            self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" {style}/>')
            return
        corners = {
            "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
            "triangle": [(0, -1.25), (1.15, 0.9), (-1.15, 0.9)],
            "down": [(0, 1.25), (1.15, -0.9), (-1.15, -0.9)],
            "cross": [(dx * turn, dy * turn) for turn in (1, -1) for dx, dy in HALF_A_CROSS],
        }.get(shape)
        if corners is None:  # a star
            corners = [
                (r * math.sin(turn * math.pi / 5), -r * math.cos(turn * math.pi / 5))
                for turn in range(10)
                for r in [1.5 if turn % 2 == 0 else 0.65]
            ]
        way = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
        self._parts.append(f'<polygon points="{way}" {style}/>')

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 12.0,
        anchor: str = "start",
        colour: str = INK,
        bold: bool = False,
    ) -> None:
        """One line of text, baseline at y; escaped here and nowhere else."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"{weight}>'
            f"{escape(words)}</text>"
        )

    def svg(self, name: str, description: str) -> str:
        """The drawing as an SVG element whose name and description a screen reader says."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(f"{name}. {description}", quote=True)}" xmlns="http://www.w3.org/2000/svg">'
            f"<title>{escape(name)}</title><desc>{escape(description)}</desc>{''.join(self._parts)}</svg>"
        )


class Scale:
    """A linear map from data [low, high], widened to round ticks, to drawing units [start, end]."""

    def __init__(self, low: float, high: float, start: float, end: float, ticks: int = 4) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            low, high = 0.0, 1.0
        if high - low < 1e-12 * max(1.0, abs(low), abs(high)):
            room = max(abs(low), 1.0) * 0.05
            low, high = low - room, high + room
        self.step = _round_step((high - low) / max(1, ticks))
        self.low = math.floor(low / self.step + 1e-9) * self.step
        self.high = math.ceil(high / self.step - 1e-9) * self.step
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round values from low to high."""
        count = round((self.high - self.low) / self.step)
        return [round(self.low + i * self.step, 12) for i in range(count + 1)]

    def tick_label(self, value: float, percent: bool = False) -> str:
        """A tick with just the decimals its step needs."""
        shown, step = (100 * value, 100 * self.step) if percent else (value, self.step)
        decimals = next((d for d in range(7) if abs(round(step, d) - step) < 1e-6 * step), 7)
        text = f"{abs(shown):,.{decimals}f}"
        negative = shown < 0 and any(digit in text for digit in "123456789")
        return ("\N{MINUS SIGN}" if negative else "") + text + ("%" if percent else "")


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1.0, 2.0, 2.5, 5.0, 10.0):
        if raw <= factor * power * (1 + 1e-9):
            return factor * power
    return 10.0 * power


def text_width(words: str, size: float = 12.0) -> float:
    """Roughly how wide a line of sans-serif text is; good enough to keep labels apart."""
    return 0.56 * size * len(words)
