"""The back-test: what may be known when.

    start ........ cut ............ calibrated ............ end of the log
    train: labels  | calibrate: labels      | judge: labels that became known later, on decisions made
    known by here  | known by here          | after the cut

A label is used where its window has closed, not where its decision was made: a 28-day label of a decision a week
before the cut is the future. Rows follow `decisions`; the outcomes frame is matched to them by decision_id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from data.errors import InputError
from data.histories import STAYED, Decisions
from data.outcomes import as_of
from rewards.heads import Label, Targets, carried, is_return
from rewards.period_trees import passed
from rewards.reach import days_seen, leaving

FEWEST_KNOWN = 100  # known labels below which a head is not trained


@dataclass(frozen=True)
class SliceSettings:
    """Shares of the log's time span: labels up to `cut` train, up to `calibrated` calibrate, later ones judge.

    `advantage` is the time up to which labels inform the advantage; the default is the cut, so that the later part of
    the log is untouched by everything that picks slates.
    """

    cut: float = 0.6
    calibrated: float = 0.8
    advantage: float = 0.6


@dataclass(frozen=True)
class BackTest:
    """Label values (as arrays aligned with the decisions) at the four moments, and the moments themselves (us)."""

    labels: tuple[Label, ...]
    cut: int
    calibrated: int
    train: Targets
    advantage: Targets
    calibration: Targets
    final: Targets
    informs: np.ndarray  # (D,) bool: decisions whose reactions were over by the time `advantage` stands for
    day: np.ndarray  # (D,) local day of the decision, -1 for those made after `calibrated`
    periods: Mapping[
        str, np.ndarray
    ]  # what happened in each period that was over by `calibrated` (`rewards.period_trees`)
    gone: np.ndarray  # (D,) bool: who had left before the decision

    def calibration_rows(self, label: str) -> np.ndarray:
        """Rows whose label became known after the cut and by the end of calibration."""
        learned = self.calibration.of_those_who_stay(self.gone)
        return np.flatnonzero(~np.isnan(learned.values[label]) & np.isnan(self.train.values[label]))

    def judged_rows(self, label: str, time: np.ndarray) -> np.ndarray:
        """Rows whose label became known after calibration, of decisions made after the cut (where there are any)."""
        later = ~np.isnan(self.final.values[label]) & np.isnan(self.calibration.values[label])
        after = later & (time >= self.cut)
        return np.flatnonzero(after if after.any() else later)


def back_test(
    decisions: Decisions,
    outcomes: pl.DataFrame,
    end: datetime,
    users: pl.DataFrame | None,
    settings: SliceSettings,
    wanted: Sequence[str] | None = None,
    left_at: np.ndarray | None = None,
) -> BackTest:
    """Labels at each moment; left_at (D,): when each decision's user left (`Histories.left`; None: nobody did).

    Raises InputError when outcomes lack a decision or nothing is known by the cut.
    """
    if not 0 < settings.cut < settings.calibrated < 1:
        raise InputError(
            f"rewards: slices cut={settings.cut}, calibrated={settings.calibrated}: shares must grow within (0, 1)"
        )
    missing = set(decisions.decision_id) - set(outcomes["decision_id"].to_list())
    if missing:
        raise InputError(
            f"rewards: {len(missing)} decisions have no outcomes (first: {min(missing)}): build outcomes from this log"
        )
    first = int(decisions.time.min())
    span = int(end.timestamp() * 1e6) - first
    moments = {
        name: first + int(span * share)
        for name, share in (
            ("cut", settings.cut),
            ("calibrated", settings.calibrated),
            ("advantage", settings.advantage),
        )
    }
    slate_size = decisions.slate.shape[1]
    at = {name: _aligned(as_of(outcomes, _instant(us), users), decisions) for name, us in moments.items()}
    labels = tuple(
        label
        for label in carried(at["cut"], slate_size, wanted)
        if at["cut"][label.name].is_not_null().sum() >= FEWEST_KNOWN
    )
    if not labels:
        known = ", ".join(wanted) if wanted else "any label"
        when = _instant(moments["cut"])
        raise InputError(f"rewards: by the cut at {when} the log knows nothing of {known}: give a longer log")
    every = _aligned(outcomes, decisions)
    left_at = np.full(len(decisions), STAYED) if left_at is None else left_at
    left = {name: leaving(every, left_at, users, _instant(us)) for name, us in moments.items()}
    gone = left_at < decisions.time
    seen = {name: days_seen(every, users, _instant(us)) for name, us in moments.items()}
    calibration = _targets(at["calibrated"], labels, seen["calibrated"], left["calibrated"])
    return BackTest(
        labels=labels,
        cut=moments["cut"],
        calibrated=moments["calibrated"],
        train=_targets(at["cut"], labels, seen["cut"], left["cut"]).of_those_who_stay(gone),
        advantage=_targets(at["advantage"], labels, seen["advantage"], left["advantage"]).of_those_who_stay(gone),
        calibration=calibration,
        final=_targets(every, labels, days_seen(every, users, end), leaving(every, left_at, users, end)),
        informs=at["advantage"]["matured_0d"].is_not_null().to_numpy()
        & (at["advantage"]["matured_0d"] <= _instant(moments["advantage"])).fill_null(False).to_numpy(),
        day=at["calibrated"]["local_day"].cast(pl.Int32).cast(pl.Int64).fill_null(-1).to_numpy(),
        periods=passed(at["calibrated"], moments["calibrated"], calibration, gone),
        gone=gone,
    )


def _instant(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def _aligned(frame: pl.DataFrame, decisions: Decisions) -> pl.DataFrame:
    """Rows of the frame in the decisions' order; null where it has none (decisions made later)."""
    ids = pl.DataFrame({"decision_id": pl.Series(decisions.decision_id, dtype=pl.String)})
    return ids.join(frame, on="decision_id", how="left", maintain_order="left")


def _targets(
    frame: pl.DataFrame, labels: tuple[Label, ...], seen: np.ndarray, left: tuple[np.ndarray, np.ndarray]
) -> Targets:
    # A count above its trials (an item of the slate played twice, say) is all of them.
    counts = {label.name: pl.min_horizontal(pl.col(label.name).cast(pl.Float32), label.trials) for label in labels}
    known = {name: pl.when(pl.col(name).is_not_null()).then(count) for name, count in counts.items()}
    read = frame.select(**{name: value.fill_null(float("nan")) for name, value in known.items()})
    values = {label.name: read[label.name].cast(pl.Float32).to_numpy() for label in labels}
    if any(is_return(label.name) for label in labels):
        day = np.maximum(frame["return_days"].fill_null(0).cast(pl.Int64).to_numpy(), 0)
        # A return on the day that is not over yet is not counted: who has not come today may still, so a day with its
        # returns and without its stays would promise too much.
        returned = frame["return_observed"].fill_null(False).to_numpy() & (day < seen)
        day = np.minimum(day, seen)
    else:
        day, returned = np.zeros(frame.height, np.int64), np.zeros(frame.height, bool)
    return Targets(labels, values, day, returned, *left)
