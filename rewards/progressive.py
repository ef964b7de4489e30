"""The posterior of a whole window, given its first days: the progressive reward of Spotify's Impatient Bandits.

A trace is a listener's days after a decision, one number a day: whether they came back (or how much). The mid-term
outcome is its sum. Traces are taken as Gaussian with two layers (McDonald, Maystre, Lalmas, Russo & Ciosek, KDD 2023,
section 4): what was shown has a mean trace theta ~ N(mean, between), and a listener's trace is N(theta, within). Both
covariances are learned from windows that have closed. A trace known for k days then says something about all T:

    of a show (or an arm, or a cohort):  theta | first days of its listeners,      and its sum, the stickiness
    of one listener:                     sum of the trace | the listener's first days

so that a decision of last week informs today's. Gaussian is not what ones and zeros are; the means are still the best
linear guess, and `rewards.surrogate` shows what a guess that need not be linear adds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from data.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """All that a posterior needs of the listeners of A shows, by days known k = 0..T.

    count (A, T + 1): listeners known for exactly k days. total (A, T + 1, T): the sum of their first k days, zero
    after that.
    """

    count: Floats
    total: Floats


@dataclass(frozen=True)
class Posterior:
    """Of the sum of the trace, for A shows or n listeners: mean and variance, (A,)."""

    mean: Floats
    variance: Floats


@dataclass(frozen=True)
class TracePrior:
    """Traces before anything is seen: their mean (T,), and covariances (T, T) of shows and of a show's listeners."""

    mean: Floats
    between: Floats
    within: Floats

    @property
    def days(self) -> int:
        """Length of the window, T."""
        return len(self.mean)

    @staticmethod
    def fit(traces: Floats, show: NDArray[np.integer] | None = None) -> "TracePrior":
        """Moments of closed windows: traces (n, T), and which show (n,) each belongs to (None: all to one).

        Without shows `between` is zero. A show's own sampling noise is taken out of `between`, which the paper, with
        thousands of traces a show, may leave in. Raises InputError on fewer than 2 traces, or shows of one trace each.
        """
        if traces.ndim != 2 or len(traces) < 2:
            raise InputError(
                f"early reward: closed windows of shape {traces.shape}; give 2 rows or more, a day a column"
            )
        codes = np.zeros(len(traces), np.int64) if show is None else np.unique(show, return_inverse=True)[1]
        shows = int(codes.max()) + 1
        if len(traces) <= shows:
            raise InputError("early reward: every show has one listener only; give several, or no shows at all")
        size = np.bincount(codes, minlength=shows).astype(np.float64)
        means = np.zeros((shows, traces.shape[1]))
        np.add.at(means, codes, traces)
        means /= size[:, None]
        away = traces - means[codes]
        return TracePrior.of_moments(means, away.T @ away / (len(traces) - shows), size)

    @staticmethod
    def of_moments(means: Floats, within: Floats, size: Floats) -> "TracePrior":
        """The prior from shows' mean traces (A, T), the listeners' covariance (T, T) and listeners per show (A,)."""
        centre = means.mean(0)
        if len(means) < 2:
            return TracePrior(centre, np.zeros_like(within), within)
        between = np.cov(means.T) - within * float(np.mean(1.0 / size))
        values, vectors = np.linalg.eigh(between)
        return TracePrior(centre, (vectors * np.maximum(values, 0.0)) @ vectors.T, within)

    def sums(self, traces: Floats, days: NDArray[np.integer], show: NDArray[np.integer], shows: int) -> Sums:
        """`Sums` of listeners: traces (n, T), of which the first days (n,) are known, of shows (n,) in 0..shows - 1."""
        known = np.clip(days, 0, self.days)
        count = np.zeros((shows, self.days + 1))
        total = np.zeros((shows, self.days + 1, self.days))
        np.add.at(count, (show, known), 1.0)
        seen = np.where(np.arange(self.days) < known[:, None], traces, 0.0)
        np.add.at(total, (show, known), seen)
        return Sums(count, total)

    def of_shows(self, sums: Sums) -> Posterior:
        """Posterior of every show's expected sum, each from its own listeners."""
        return Filter(self)(sums)

    def of_listeners(self, traces: Floats, days: NDArray[np.integer]) -> Posterior:
        """Posterior (n,) of each listener's own sum: traces (n, T), of which the first days (n,) are known.

        What is known is taken as it is; the rest is its conditional expectation given those days and the whole
        population. At k = 0 it is the population's mean, at k = T the sum itself with variance 0.
        """
        known = np.clip(days, 0, self.days)
        covariance = _solid(self.between + self.within)
        mean, variance = np.empty(len(traces)), np.empty(len(traces))
        for k in np.unique(known):
            rows = known == k
            seen = traces[rows, :k]
            rest = covariance[k:, k:].sum()
            later = np.full(int(rows.sum()), self.mean[k:].sum())
            if 0 < k < self.days:
                factor = cho_factor(covariance[:k, :k], lower=True)
                gain = cho_solve(factor, covariance[:k, k:].sum(1))
                later += (seen - self.mean[:k]) @ gain
                rest -= float(covariance[:k, k:].sum(1) @ gain)
            mean[rows] = seen.sum(1) + later
            variance[rows] = max(float(rest), 0.0)
        return Posterior(mean, variance)


class Filter:
    """The posterior of shows, with everything worked out that does not depend on their listeners.

    In information form: a listener known for k days adds P_k = E_k' W_k^-1 E_k (W_k: the first k rows and columns of
    `within`) to the precision of theta and P_k times their trace to its information, so a show's posterior is one solve
    whatever the number of listeners and however many days each is known.
    """

    def __init__(self, prior: TracePrior) -> None:
        self.prior = prior
        T = prior.days
        within = _solid(prior.within)
        self.information = np.zeros((T + 1, T, T))  # P_k
        for k in range(1, T + 1):
            self.information[k, :k, :k] = np.linalg.inv(within[:k, :k])

    def __call__(self, sums: Sums) -> Posterior:
        """Mean and variance (A,) of the sum of theta."""
        prior, T = self.prior, self.prior.days
        precision = (sums.count @ self.information.reshape(T + 1, -1)).reshape(-1, T, T)
        told = np.einsum("akt,kts->as", sums.total, self.information, optimize=True)
        surprise = told - precision @ prior.mean
        # (between^-1 + P)^-1 = (I + between P)^-1 between, which needs no inverse of a singular `between`.
        whole = np.broadcast_to(prior.between.sum(1), surprise.shape)
        right = np.stack([surprise @ prior.between, whole], axis=-1)  # (A, T, 2)
        solved = np.linalg.solve(np.eye(T) + prior.between @ precision, right).sum(1)  # (A, 2)
        return Posterior(prior.mean.sum() + solved[:, 0], np.maximum(solved[:, 1], 0.0))


def _solid(covariance: Floats) -> Floats:
    # A day on which nobody ever came has no variance; as much as a ten-thousandth of the mean one makes it invertible.
    result: Floats = covariance + (1e-4 * float(np.mean(np.diag(covariance))) + 1e-12) * np.eye(len(covariance))
    return result
