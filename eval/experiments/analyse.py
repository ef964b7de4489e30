"""The whole reading of an experiment: checks, effects, adjusted p-values and the verdict on every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from data.errors import InputError
from eval.experiments.decide import Correction, Key, Verdict, adjusted, decide
from eval.experiments.effect import Effect, Reading, effect
from eval.experiments.metric import Metric
from eval.experiments.quality import Check, known_alike, sample_ratio
from eval.experiments.sample import Sample


@dataclass(frozen=True)
class AnalysisSettings:
    """How to read. quality_alpha: level of the checks, low because an alarm stops the experiment."""

    reading: Reading = field(default_factory=Reading)
    correction: Correction = "holm"
    quality_alpha: float = 0.001


@dataclass(frozen=True)
class Analysis:
    """Effects by (arm, metric); better, worse: adjusted p-values as in `decide`; checks by arm; verdicts by arm."""

    control: str
    users: Mapping[str, int]
    metrics: tuple[Metric, ...]
    effects: Mapping[Key, Effect]
    better: Mapping[Key, float]
    worse: Mapping[Key, float]
    checks: Mapping[str, tuple[Check, ...]]
    verdicts: Mapping[str, Verdict]
    settings: AnalysisSettings

    def as_json(self) -> dict[str, Any]:
        """arms.<arm>.{decision, reasons, checks, effects.<metric>.{diff, lo, hi, p, p_better, p_worse, ...}}, users."""
        reading = self.settings.reading
        return {
            "control": self.control,
            "users": dict(self.users),
            "alpha": reading.alpha,
            "planned_users": reading.planned_users,
            "interval": "fixed horizon" if reading.planned_users is None else "always valid",
            "correction": self.settings.correction,
            "arms": {
                arm: {
                    "decision": verdict.decision,
                    "reasons": list(verdict.reasons),
                    "checks": [asdict(check) for check in self.checks[arm]],
                    "effects": {
                        metric.name: asdict(self.effects[arm, metric.name])
                        | {
                            "role": metric.role,
                            "p_better": self.better.get((arm, metric.name)),
                            "p_worse": self.worse.get((arm, metric.name)),
                        }
                        for metric in self.metrics
                    },
                }
                for arm, verdict in self.verdicts.items()
            },
        }


def analyse(
    sample: Sample, metrics: Sequence[Metric], shares: Mapping[str, float], settings: AnalysisSettings
) -> Analysis:
    """Read an experiment whose arms were to get `shares` of the users.

    Raises InputError as `effect` does, and for always-valid intervals where a user has several rows: they hold for
    users who enter once, a sum that still grows while one looks is another process (eval/experiments/sequential.py).
    """
    reading, users = settings.reading, sample.users()
    if reading.planned_users is not None and sample.rows.height > sum(users.values()):
        raise InputError(
            f"experiment: {sample.rows.height:,} rows of {sum(users.values()):,} users: with --planned_users a user "
            "enters once: keep one row a user, the first"
        )
    strict = replace(reading, alpha=settings.quality_alpha)
    ratio = sample_ratio(users, shares, settings.quality_alpha, reading.planned_users is not None)
    effects = {
        (arm, metric.name): effect(sample, metric, arm, reading) for arm in sample.arms[1:] for metric in metrics
    }
    roles = {metric.name: metric.role for metric in metrics}
    p = {key: found.p for key, found in effects.items()}
    better = adjusted({key: p[key] for key in p if roles[key[1]] == "success"}, settings.correction)
    worse = adjusted({key: p[key] for key in p if roles[key[1]] != "quality"}, "holm")
    checks, verdicts = {}, {}
    for arm in sample.arms[1:]:
        known = [known_alike(sample, metric, arm, strict) for metric in metrics]
        placebo = [_placebo(effects[arm, m.name], settings.quality_alpha) for m in metrics if m.role == "quality"]
        checks[arm] = (ratio, *(check for check in known if check is not None), *placebo)
        verdicts[arm] = decide(metrics, effects, better, worse, checks[arm], arm, reading.alpha)
    return Analysis(sample.control, users, tuple(metrics), effects, better, worse, checks, verdicts, settings)


def _placebo(found: Effect, level: float) -> Check:
    says = f"{found.control:.4g} in control, {found.treatment:.4g} in {found.arm}, where no difference is possible"
    return Check(f"placebo {found.metric}", found.p, found.p > level, says)
