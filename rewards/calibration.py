"""Whether a predicted probability means what it says, and how to mend it where it does not.

Expected counts are judged and mended as shares of their number of trials, so one measure serves all heads.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from data.logistic import fit_logistic


@dataclass(frozen=True)
class Platt:
    """Mends a share p as sigmoid(slope * logit(p) + shift) (Platt, 1999), monotone for slope > 0."""

    slope: float = 1.0
    shift: float = 0.0

    def __call__(self, share: np.ndarray) -> np.ndarray:
        """Calibrated shares, same shape."""
        result: np.ndarray = expit(self.slope * logit(share) + self.shift)
        return result


def fit_platt(share: np.ndarray, outcome: np.ndarray) -> Platt:
    """Maximum likelihood of observed shares in [0, 1] (0 or 1 for a yes-or-no outcome) given predicted ones.

    A weak prior at slope 1, shift 0 (worth 20 rows) keeps a small calibration slice from turning the order around.
    """
    if len(share) < 50:
        return Platt()
    design = np.stack([logit(share), np.ones(len(share))], axis=1)
    slope, shift = fit_logistic(design, outcome, prior=np.array([20.0, 1.0]), centre=np.array([1.0, 0.0]))
    return Platt(max(float(slope), 0.05), float(shift))


def fit_readout(share: np.ndarray, features: np.ndarray, outcome: np.ndarray, fewest: int = 2000) -> np.ndarray:
    """Slope, shift and weights (2 + F,) of sigmoid(slope * logit(share) + shift + features @ weights).

    A listener's counts at the start of a log and weeks later are not distributed alike, and what was learned from the
    first rows has to be read anew from later ones. features (n, F) have about unit variance; their weights have a
    prior at zero worth 100 rows. Under `fewest` rows only slope and shift are fitted, as by `fit_platt`.
    """
    platt = fit_platt(share, outcome)
    plain = np.concatenate([[platt.slope, platt.shift], np.zeros(features.shape[1])])
    if len(share) < fewest:
        return plain
    design = np.concatenate([logit(share)[:, None], np.ones((len(share), 1)), features], axis=1).astype(np.float64)
    centre = np.zeros(design.shape[1])
    centre[0] = 1.0
    prior = np.full(design.shape[1], 100.0)
    prior[:2] = 20.0, 1.0
    return fit_logistic(design, outcome, prior, centre)


def read_out(readout: np.ndarray, share: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The shares (n,) that a readout of `fit_readout` makes of predicted ones and of features (n, F)."""
    result: np.ndarray = expit(readout[0] * logit(share) + readout[1] + features @ readout[2:])
    return result


def calibration_error(share: np.ndarray, outcome: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over bins of equal size (Naeini et al., 2015), in the units of a share."""
    if len(share) == 0:
        return float("nan")
    parts = _equal_bins(share, bins)
    return float(sum(len(part) * abs(share[part].mean() - outcome[part].mean()) for part in parts) / len(share))


def chance_error(
    share: np.ndarray, outcome: np.ndarray, user: np.ndarray, seed: int, bins: int = 15, draws: int = 400
) -> float:
    """The calibration error that chance alone exceeds in one of twenty cases: of forecasts that are right, about
    outcomes that scatter around them as these do, user (n,) by user (windows of one overlap).

    An error of calibration is never below zero, so on few users the best forecast has one. What is missed in each bin
    is centred and given a random sign by user (the wild cluster bootstrap: Cameron, Gelbach & Miller, 2008).
    """
    if len(share) == 0:
        return float("nan")
    missed = (outcome - share).astype(np.float64)
    users, whose = np.unique(user, return_inverse=True)
    columns = []
    for part in _equal_bins(share, bins):
        of = len(np.unique(whose[part]))
        centred = (missed[part] - missed[part].mean()) * np.sqrt(of / max(of - 1, 1))
        columns.append(np.bincount(whose[part], weights=centred, minlength=len(users)))
    sums = np.stack(columns, axis=1)  # (users, bins)
    rng = np.random.default_rng(seed)
    drawn = [np.abs(rng.choice((-1.0, 1.0), len(sums)) @ sums).sum() / len(share) for _ in range(draws)]
    return float(np.quantile(drawn, 0.95))


def _equal_bins(share: np.ndarray, bins: int) -> list[np.ndarray]:
    return np.array_split(np.argsort(share, kind="stable"), min(bins, len(share)))


def reliability(share: np.ndarray, outcome: np.ndarray, trials: int, bins: int = 10) -> dict[str, list[float]]:
    """The calibration curve over bins of equal size: mean prediction, mean outcome (both times `trials`), rows."""
    parts = [part for part in np.array_split(np.argsort(share, kind="stable"), bins) if len(part)]
    return {
        "predicted": [float(share[part].mean()) * trials for part in parts],
        "observed": [float(outcome[part].mean()) * trials for part in parts],
        "rows": [len(part) for part in parts],
    }


def brier(share: np.ndarray, outcome: np.ndarray) -> float:
    """Mean squared distance of predicted and observed share."""
    return float(np.mean((share - outcome) ** 2)) if len(share) else float("nan")


def auc(score: np.ndarray, outcome: np.ndarray) -> float:
    """Area under the ROC curve; NaN when only one class is there."""
    return float(roc_auc_score(outcome, score)) if 0 < outcome.sum() < len(outcome) else float("nan")


def c_index(risk: np.ndarray, day: np.ndarray, returned: np.ndarray, seed: int = 0, most: int = 4000) -> float:
    """Harrell's concordance: of the pairs whose order of return is known, the share in which the higher risk came
    first.

    risk (n,): higher = sooner. day (n,): of the return, or the last known to be without one
    (`rewards.survival.last_day_known`), so that a censored row is later than any return on its day or before. Ties in
    risk count half. More than `most` rows are sampled, since pairs grow with their square.
    """
    if len(risk) > most:
        rows = np.random.default_rng(seed).choice(len(risk), most, replace=False)
        risk, day, returned = risk[rows], day[rows], returned[rows]
    earlier = returned[:, None] & (
        (day[:, None] < day[None, :]) | ((day[:, None] == day[None, :]) & ~returned[None, :])
    )
    pairs = int(earlier.sum())
    if pairs == 0:
        return float("nan")
    ahead = (risk[:, None] > risk[None, :])[earlier].sum() + 0.5 * (risk[:, None] == risk[None, :])[earlier].sum()
    return float(ahead / pairs)


def logit(share: np.ndarray) -> np.ndarray:
    """Log-odds of shares, kept within 1e-5 of 0 and 1."""
    p = np.clip(share.astype(np.float64), 1e-5, 1 - 1e-5)
    result: np.ndarray = np.log(p / (1 - p))
    return result
