"""Linear regression with a Gaussian prior per group of columns, each as wide as the data say, and draws of what is
left open.

Evidence maximisation after MacKay (Bayesian Interpolation, 1992). His steps come to rest where a group explains
something, and hardly move where it explains nothing, at whatever width they are by then. So a group without which the
data are as likely is shut: it shrinks to zero, and its draws with it. Works on sums of products, so that rows may be
streamed and never kept.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

LEAST_PRECISION, MOST_PRECISION = 1e-4, 1e8  # in units of 1 / (noise variance per column's mean square)
SHUT = 1e5  # of those units: leaves a coefficient nothing of what its column says, and sums well conditioned
STEPS = 10


@dataclass(frozen=True)
class Posterior:
    """Coefficients (P,), the Cholesky factor (lower) of their precision (P, P), prior precision per group, noise.

    prior (P,): prior precision of each coefficient. gain: by how much (nats) the data are likelier with these
    coefficients than with none.
    """

    mean: np.ndarray
    factor: np.ndarray
    precision: np.ndarray
    noise: float
    prior: np.ndarray
    gain: float

    def draws(self, count: int, scale: float, rng: np.random.Generator) -> np.ndarray:
        """`count` draws (count, P) of the coefficients, with their distance from the mean times `scale`."""
        white = rng.standard_normal((len(self.mean), count))
        away = scipy.linalg.solve_triangular(self.factor, white, lower=True, trans="T")
        result: np.ndarray = self.mean + scale * away.T
        return result

    def draws_from(self, prior: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws (n, P) of the coefficients, each from a standard normal draw of the prior (n, P) and a new one of the
        data (perturb and maximise: Papandreou & Yuille, 2010).

        Two posteriors with data of their own that are given the same `prior` lack the same where neither knows
        anything, and err apart where both know something: so is the mean of the two.
        """
        whole = self.factor @ self.factor.T
        size = np.sqrt(np.diag(whole))
        # In units in which all columns are alike, so that one that is shut leaves the others their digits; and sums of
        # single precision are not quite positive.
        data = (whole - np.diag(self.prior)) / np.outer(size, size) + 1e-5 * np.eye(len(size))
        noise = size[:, None] * scipy.linalg.cholesky(data, lower=True)
        pushed = noise @ rng.standard_normal((len(self.mean), len(prior))) + (prior * np.sqrt(self.prior)).T
        result: np.ndarray = self.mean + scipy.linalg.cho_solve((self.factor, True), pushed).T
        return result


def fit_ridge(
    gram: np.ndarray,
    moment: np.ndarray,
    noise: float,
    group: np.ndarray,
    fixed: dict[int, float] | None = None,
    shutting: bool = True,
) -> Posterior:
    """Posterior of the coefficients of y on x given gram = sum x x' (P, P) and moment = sum x y (P,).

    noise: variance of y around its mean (times the design effect where rows come in clusters). group (P,): 0-based
    group of each column. fixed: prior precision of the groups that are not to be learned, in 1 / coefficient squared.
    shutting: whether groups without evidence are shut; what is unclear of a few columns is better left to their prior.
    """
    noise = max(noise, 1e-12)
    gram, target = gram / noise, moment / noise
    sizes = np.bincount(group)
    # Start where prior and data weigh alike.
    start = np.maximum(np.bincount(group, np.diag(gram)) / np.maximum(sizes, 1), 1e-12)
    precision = start.copy()
    for g, value in (fixed or {}).items():
        if g < len(sizes):
            precision[g] = value
    free = [g for g in range(len(sizes)) if g not in (fixed or {})]
    precision = _widths(gram, target, group, precision, start, free)
    shut = np.zeros(len(sizes), np.bool_)
    for g in sorted(free, key=lambda one: -sizes[one]) if shutting else []:
        without = np.where(np.arange(len(sizes)) == g, SHUT * start, precision)
        if _evidence(gram, target, without[group]) >= _evidence(gram, target, precision[group]):
            shut[g] = True
            free.remove(g)
            # Shut columns are left out of the sums from here on.
            of = ~shut[group]
            precision = _widths(gram[np.ix_(of, of)], target[of], group[of], without, start, free)
    factor = scipy.linalg.cholesky(gram + np.diag(precision[group]), lower=True)
    mean = scipy.linalg.cho_solve((factor, True), target)
    nothing = _evidence(gram, target, (SHUT * start)[group])
    gain = _evidence(gram, target, precision[group]) - nothing
    return Posterior(mean, factor, precision, noise, precision[group], gain)


def _widths(
    gram: np.ndarray, target: np.ndarray, group: np.ndarray, precision: np.ndarray, start: np.ndarray, free: list[int]
) -> np.ndarray:
    """Precisions (groups,) after some of MacKay's steps for the `free` groups."""
    precision = precision.copy()
    for _ in range(STEPS if free else 0):
        inverse = scipy.linalg.inv(gram + np.diag(precision[group]), overwrite_a=True, check_finite=False)
        mean = inverse @ target
        spread = np.diag(inverse)
        for g in free:
            of = group == g
            determined = float(np.sum(1.0 - precision[g] * spread[of]))
            size = float(np.sum(mean[of] ** 2))
            updated = max(determined, 1e-6) / max(size, 1e-300)
            # A half step in logs: the fixed point is the same and is reached without overshooting to infinity.
            stepped = np.exp(0.25 * np.log(precision[g]) + 0.75 * np.log(updated))
            precision[g] = np.clip(stepped, LEAST_PRECISION * start[g], MOST_PRECISION * start[g])
    return precision


def _evidence(gram: np.ndarray, target: np.ndarray, precision: np.ndarray) -> float:
    """Log marginal likelihood of the data given prior precisions (P,), up to a constant."""
    factor = scipy.linalg.cholesky(gram + np.diag(precision), lower=True)
    fitted = float(target @ scipy.linalg.cho_solve((factor, True), target))
    return 0.5 * (fitted + float(np.sum(np.log(precision)))) - float(np.sum(np.log(np.diag(factor))))
