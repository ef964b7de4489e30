"""What an experiment is judged by: a metric, its part in the decision, and which change would matter.

    active_days_7 role=success effect=2%
    minutes kind=ratio per=sessions role=guardrail margin=1%
    return_days kind=survival observed=return_observed window=14 better=down role=success effect=0.2
    visits_before role=quality

A percentage is of the control's mean; a plain number is in the metric's own unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from data.errors import InputError

Role = Literal["success", "guardrail", "quality"]
Kind = Literal["mean", "ratio", "survival"]
Estimand = Literal["rmst", "survival", "hazard_ratio"]
Better = Literal["up", "down"]


@dataclass(frozen=True)
class Change:
    """A size of effect: `value` in the metric's unit, or a share of the control's mean."""

    value: float
    relative: bool = False

    def of(self, control: float) -> float:
        """The change in the metric's unit, above zero."""
        return abs(self.value * control) if self.relative else self.value

    def __str__(self) -> str:
        return f"{100 * self.value:.3g}%" if self.relative else f"{self.value:.3g}"


@dataclass(frozen=True)
class Metric:
    """One metric. Columns: `value`; `per` (ratio: the denominator); `observed` (survival: did the event happen).

    kind: mean (of rows), ratio (of sums) or survival (of `value`, the time until the event or the end of watching).
    estimand, of survival: rmst (mean time without the event up to `window`), survival (share without it at `window`) or
    hazard_ratio (Cox). covariate: a column known before the experiment, for CUPED. margin: how much worse a guardrail
    may be at most. effect: the change of a success metric to plan for.
    baseline, sd, correlation, rows, icc: for planning without a log: mean, standard deviation of a row, correlation
    with the covariate, rows per user and their intraclass correlation.
    """

    name: str
    role: Role = "success"
    kind: Kind = "mean"
    value: str = ""
    per: str | None = None
    observed: str | None = None
    window: float | None = None
    estimand: Estimand = "rmst"
    better: Better = "up"
    covariate: str | None = None
    margin: Change | None = None
    effect: Change | None = None
    baseline: float | None = None
    sd: float | None = None
    correlation: float = 0.0
    rows: float = 1.0
    icc: float = 0.0

    def __post_init__(self) -> None:
        if not self.value:
            object.__setattr__(self, "value", self.name)
        if self.kind == "ratio" and self.per is None:
            raise InputError(f"metric {self.name}: a ratio needs its denominator: add per=COLUMN")
        if self.kind == "survival" and self.window is None:
            raise InputError(f"metric {self.name}: survival needs the time to look at: add window=14 (in its own unit)")
        if self.kind == "survival" and self.window is not None and self.window <= 0:
            raise InputError(f"metric {self.name}: window is {self.window:g}; it must be above 0")
        if self.kind == "survival" and self.estimand == "hazard_ratio" and self.covariate is not None:
            raise InputError(
                f"metric {self.name}: CUPED does not go with a hazard ratio: use estimand=rmst or survival"
            )
        if self.role == "guardrail" and self.margin is None:
            raise InputError(f"metric {self.name}: a guardrail needs how much worse it may be: add margin=1% (or 0.01)")
        if not -1 < self.correlation < 1 or not 0 <= self.icc <= 1 or self.rows < 1:
            raise InputError(
                f"metric {self.name}: correlation must lie in (-1, 1), icc in [0, 1], rows must be at least 1"
            )

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.better == "up" else -1

    @property
    def columns(self) -> list[str]:
        """The columns that the metric reads."""
        named = (self.value, self.per, self.observed if self.kind == "survival" else None, self.covariate)
        return [column for column in named if column is not None]


_NUMBERS = ("window", "baseline", "sd", "correlation", "rows", "icc")
_CHANGES = ("margin", "effect")
_WORDS = {"role": get_args(Role), "kind": get_args(Kind), "estimand": get_args(Estimand), "better": get_args(Better)}


def parse_metric(text: str) -> Metric:
    """The metric that one line describes, as in the module's examples; raises InputError naming what is wrong."""
    words = text.split()
    if not words or "=" in words[0]:
        raise InputError(f"metric {text!r}: begin with its name, as in: active_days_7 role=success effect=2%")
    name = words[0]
    given: dict[str, Any] = {}
    known = [field.name for field in fields(Metric)][1:]
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            raise InputError(f"metric {name}: {word!r} is not understood: use key=value with {', '.join(known)}")
        if key in _WORDS and value not in _WORDS[key]:
            raise InputError(f"metric {name}: {key}={value}: choose {', '.join(_WORDS[key])}")
        if key in _NUMBERS:
            given[key] = _number(value, name, key)
        elif key in _CHANGES:
            given[key] = _change(value, name, key)
        else:
            given[key] = value
    return Metric(name, **given)


def parse_metrics(lines: list[str]) -> list[Metric]:
    """All metrics; raises InputError when there is none, or a name twice."""
    metrics = [parse_metric(line) for line in lines]
    if not metrics:
        raise InputError("metrics: none given; name at least one, as in: active_days_7 role=success effect=2%")
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"metrics: {name!r} is there twice; give the second another name and value={name}")
    return metrics


def _number(text: str, name: str, key: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"metric {name}: {key}={text} is not a number")
    return number


def _change(text: str, name: str, key: str) -> Change:
    relative = text.endswith("%")
    number = _number(text.removesuffix("%"), name, key)
    if number <= 0:
        raise InputError(f"metric {name}: {key}={text}: give its size, above 0; better=up|down says which way")
    return Change(number / 100 if relative else number, relative)
