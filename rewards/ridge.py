"""Linear regression with a Gaussian prior per group of columns, each as wide as the data say, and draws of what is
left open.

Evidence maximisation after MacKay (Bayesian Interpolation, 1992): a group whose columns explain nothing shrinks to
zero, and its draws with it. Works on sums of products, so that rows may be streamed and never kept.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

LEAST_PRECISION, MOST_PRECISION = 1e-4, 1e8  # in units of 1 / (noise variance per column's mean square)


@dataclass(frozen=True)
class Posterior:
    """Coefficients (P,), the Cholesky factor (lower) of their precision (P, P), prior precision per group, noise."""

    mean: np.ndarray
    factor: np.ndarray
    precision: np.ndarray
    noise: float

    def draws(self, count: int, scale: float, rng: np.random.Generator) -> np.ndarray:
        """`count` draws (count, P) of the coefficients, with their distance from the mean times `scale`."""
        white = rng.standard_normal((len(self.mean), count))
        away = scipy.linalg.solve_triangular(self.factor, white, lower=True, trans="T")
        result: np.ndarray = self.mean + scale * away.T
        return result


def fit_ridge(
    gram: np.ndarray,
    moment: np.ndarray,
    noise: float,
    group: np.ndarray,
    fixed: dict[int, float] | None = None,
    iterations: int = 10,
) -> Posterior:
    """Posterior of the coefficients of y on x given gram = sum x x' (P, P) and moment = sum x y (P,).

    noise: variance of y around its mean (times the design effect where rows come in clusters). group (P,): 0-based
    group of each column. fixed: prior precision of the groups that are not to be learned, in 1 / coefficient squared.
    """
    fixed = fixed or {}
    noise = max(noise, 1e-12)
    groups = int(group.max()) + 1 if len(group) else 0
    information = np.diag(gram) / noise
    # Start where prior and data weigh alike.
    precision = np.array([max(float(np.mean(information[group == g])), 1e-12) for g in range(groups)])
    bounds = precision.copy()
    for g, value in fixed.items():
        if g < groups:
            precision[g] = value
    target = moment / noise
    for _ in range(iterations):
        inverse = scipy.linalg.inv(gram / noise + np.diag(precision[group]), overwrite_a=True, check_finite=False)
        mean = inverse @ target
        spread = np.diag(inverse)
        for g in range(groups):
            if g in fixed:
                continue
            of = group == g
            determined = float(np.sum(1.0 - precision[g] * spread[of]))
            size = float(np.sum(mean[of] ** 2))
            updated = max(determined, 1e-6) / max(size, 1e-300)
            # A half step in logs: the fixed point is the same and is reached without overshooting to infinity.
            stepped = np.exp(0.25 * np.log(precision[g]) + 0.75 * np.log(updated))
            precision[g] = np.clip(stepped, LEAST_PRECISION * bounds[g], MOST_PRECISION * bounds[g])
    factor = scipy.linalg.cholesky(gram / noise + np.diag(precision[group]), lower=True)
    mean = scipy.linalg.cho_solve((factor, True), target)
    return Posterior(mean, factor, precision, noise)
