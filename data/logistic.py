"""Logistic regression of shares, drawn to a prior: what calibrates forecasts and foretells visits."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Floats = NDArray[np.float64]


def fit_logistic(
    design: Floats,
    outcome: NDArray[np.generic],
    prior: Floats,
    centre: Floats | None = None,
    offset: Floats | float = 0.0,
) -> Floats:
    """Weights (C,) of outcome ~ expit(offset + design @ weights), by penalised maximum likelihood.

    design (n, C). outcome (n,): shares in [0, 1] or flags. prior (C,): how strongly each weight is drawn to its
    `centre` (C,) (zero by default), as the precision of a normal prior: worth so many rows of a unit-variance column.
    offset (n,): log-odds that are given. The function is convex, but where predictions start far off a full Newton
    step can overshoot for good: so steps are taken within a trusted radius (Conn, Gould & Toint 2000, as scipy's
    trust-exact).
    """
    target, rows = outcome.astype(np.float64), len(outcome)
    start = np.zeros(design.shape[1]) if centre is None else centre

    def loss(weights: Floats) -> float:
        score, away = offset + design @ weights, weights - start
        return float((np.logaddexp(0.0, score) - target * score).sum() + 0.5 * (prior * away * away).sum()) / rows

    def gradient(weights: Floats) -> Floats:
        slope: Floats = design.T @ (expit(offset + design @ weights) - target) + prior * (weights - start)
        return slope / rows

    def curvature(weights: Floats) -> Floats:
        p = expit(offset + design @ weights)
        bend: Floats = (design * (p * (1 - p))[:, None]).T @ design + np.diag(prior)
        return bend / rows

    found: Floats = minimize(
        loss, start, method="trust-exact", jac=gradient, hess=curvature, options={"gtol": 1e-9, "maxiter": 100}
    ).x
    return found
