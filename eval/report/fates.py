"""The page of a flywheel: what became of one population under each policy, week by week."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from eval.report.drawing import MUTED, WIDTH, Drawing, Scale
from eval.report.figures import fit
from eval.report.metrics import fixed, percent, policy_style, signed

DRAWN = {
    "active_days": ("Active days of 7", "mean over all listeners, those who left included"),
    "plays_per_session": ("Plays per session", "the immediate tap, of those who came"),
    "came": ("Listeners who came", "share of all"),
}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Longplay: fates</title><style>{{ style }}</style></head><body>
<header><p class="run">world {{ told.world }}, seed {{ told.seed }}, {{ told.listeners }} listeners</p>
<h1>{{ told.weeks }} weeks of act, log, retrain: what became of the same people under each policy</h1></header><main>
<p class="lead">Every fate goes on from the same evening with the same people and the same luck. The mid-term policy and
its click-tuned twin are trained again after every week, each on the log of its own listeners; today's policy and the
oracle do not learn. Week 0 is the last one before. Bands are 95% intervals over listeners.</p>
<div class="grid">{% for name, svg in figures.items() %}
<figure><figcaption>{{ drawn[name][0] }} <small>{{ drawn[name][1] }}</small></figcaption>{{ svg }}</figure>
{% endfor %}</div>
<h2>The mid-term policy less its click-tuned twin</h2>
<div class="scroll"><table><tr><th>week</th><th>active days of 7</th><th>plays per session</th><th>catalog shown,
mid-term / click</th></tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div></main>
<footer>Numbers are in fates.json beside this page.</footer></body></html>
"""


@dataclass(frozen=True)
class Fate:
    """A metric's means week by week, with their intervals, and how they are drawn."""

    label: str
    mean: Sequence[float]
    lo: Sequence[float]
    hi: Sequence[float]
    colour: str
    shape: str
    bold: bool = False


def by_week(name: str, fates: Sequence[Fate], share: bool) -> str:
    """Lines with bands over weeks 0, 1, ..; names above. `share`: written in percent."""
    drawing = Drawing(height=276 + 17 * len(fates))
    left, right, top = 40.0, WIDTH - 12, 14.0 + 17 * len(fates)
    bottom = top + 216
    weeks = len(fates[0].mean)
    y = Scale(min(min(fate.lo) for fate in fates), max(max(fate.hi) for fate in fates), bottom, top)
    across = [left + 10 + (right - left - 20) * week / max(1, weeks - 1) for week in range(weeks)]
    for tick in y.ticks():
        drawing.line(left, y(tick), right, y(tick))
        drawing.text(left - 4, y(tick) + 4, y.tick_label(tick, share), 11, "end", MUTED)
    for week, at in enumerate(across):
        drawing.text(at, bottom + 16, str(week), 11, "middle", MUTED)
    drawing.text(right, bottom + 34, "week", 11.5, "end", MUTED)
    said = []
    for row, fate in enumerate(fates):
        drawing.path([(4, 12.0 + 17 * row), (30, 12.0 + 17 * row)], fate.colour, 2.0)
        drawing.marker(17, 12.0 + 17 * row, fate.shape, fate.colour, 4)
        drawing.text(36, 16 + 17 * row, fit(fate.label, WIDTH - 40), 12, bold=fate.bold)
        band = [(at, y(hi)) for at, hi in zip(across, fate.hi)]
        drawing.area(band + [(at, y(lo)) for at, lo in zip(across, fate.lo)][::-1], fate.colour)
        drawing.path([(at, y(mean)) for at, mean in zip(across, fate.mean)], fate.colour, 2.4 if fate.bold else 1.5)
        for at, mean in zip(across, fate.mean):
            drawing.marker(at, y(mean), fate.shape, fate.colour, 3.4)
        said.append(f"{fate.label}: " + ", ".join(percent(m) if share else fixed(m, 2) for m in fate.mean))
    return drawing.svg(name, "by week. " + "; ".join(said))


def page(told: Mapping[str, Any]) -> str:
    """The page of a flywheel's JSON (`scripts/flywheel.py`), as HTML text."""
    figures = {}
    for metric, (title, _) in DRAWN.items():
        fates = []
        for name, by in told["fates"].items():
            style = policy_style(name)
            columns = {key: [week[key] for week in by[metric]] for key in ("mean", "lo", "hi")}
            fates.append(Fate(style.label, **columns, colour=style.colour, shape=style.marker, bold=name == "grpo"))
        figures[metric] = Markup(by_week(title, fates, metric == "came"))
    gaps = told["paired"]["grpo - grpo_click"]
    rows = []
    for week, days in enumerate(gaps["active_days"]):
        cells = [
            f"{signed(fixed(gap['diff'], 2))} ({fixed(gap['lo'], 2)} to {fixed(gap['hi'], 2)})"
            for gap in (days, gaps["plays_per_session"][week])
        ]
        shown = " / ".join(percent(told["fates"][name]["coverage"][week], 0) for name in ("grpo", "grpo_click"))
        rows.append([str(week), *cells, shown])
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    sheet = Markup((files("eval.report") / "page.css").read_text(encoding="utf-8"))
    return environment.from_string(PAGE).render(told=told, figures=figures, drawn=DRAWN, rows=rows, style=sheet)
