"""Shows whose stickiness is known, to try early rewards on: the simulation of Impatient Bandits (KDD 2023).

A show's stickiness is the number of days, of 60, on which a listener who discovers it is active with it: the day of the
discovery and the 59 after it, its trace. Listeners churn at a day that is geometric, each with a rate of their own
(Beta), and until then come by days whose rates drift slowly and dip within the week. Two questions are asked of it:
how far is the estimate of a new show's stickiness off, after M listeners were observed for k days; and how much is lost
by a bandit that learns from such estimates which shows to recommend.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rewards.progressive import Filter, Floats, Posterior, Sums, TracePrior

DAYS = 59


@dataclass(frozen=True)
class Shows:
    """Traces (A, n, DAYS) of A shows, and what the average listener's window of 60 days truly comes to, (A,)."""

    traces: NDArray[np.bool_]

    @property
    def stickiness(self) -> Floats:
        """Mean number of active days (A,), the day of the discovery being one."""
        result: Floats = 1.0 + self.traces.sum(2, dtype=np.int32).mean(1)
        return result

    def take(self, rows: slice) -> "Shows":
        """Some of the shows."""
        return Shows(self.traces[rows])

    def prior(self) -> TracePrior:
        """What these shows, all of their windows closed, teach about the next one."""
        n = self.traces.shape[1]
        means = self.traces.mean(1)
        within = np.zeros((DAYS, DAYS))
        for show, mean in zip(self.traces, means, strict=True):
            x = show.astype(np.float32)
            within += (x.T @ x).astype(np.float64) - n * np.outer(mean, mean)
        within /= len(self.traces) * (n - 1)
        return TracePrior.of_moments(means, within, np.full(len(means), float(n)))


def simulate_shows(shows: int, listeners: int, rng: np.random.Generator) -> Shows:
    """Draw shows and the traces of their listeners."""
    day = np.arange(DAYS)
    kernel = 1.2 * np.exp(-np.abs(day[:, None] - day) / 8.0)
    drift = 0.1 * np.linalg.cholesky(kernel)
    week = -np.abs(np.sin(np.pi * day / 7))
    traces = np.zeros((shows, listeners, DAYS), bool)
    for show in traces:
        leaving = expit(0.1 * rng.standard_normal() - 0.4)
        firmness = rng.uniform(0.7, 1.5)
        rate = expit(-0.5 + drift @ rng.standard_normal(DAYS) + rng.uniform(0.1, 1.0) * week)
        churn = rng.beta(firmness * leaving, firmness * (1 - leaving), listeners)
        stays = rng.geometric(np.maximum(churn, 1e-12)) - 1
        show[:] = (rng.random((listeners, DAYS), np.float32) < rate) & (day < stays[:, None])
    return Shows(traces)


# first days (A, M, DAYS) of listeners, days known -> stickiness of every show
Estimator = Callable[[NDArray[np.bool_], int], Posterior]


def progressive(prior: TracePrior) -> Estimator:
    """The Gaussian posterior of `rewards.progressive`."""
    filtered = Filter(prior)

    def estimate(traces: NDArray[np.bool_], days: int) -> Posterior:
        A, M, T = traces.shape
        count, total = np.zeros((A, T + 1)), np.zeros((A, T + 1, T))
        count[:, days] = M
        total[:, days, :days] = traces[:, :, :days].sum(1)
        found = filtered(Sums(count, total))
        return Posterior(1.0 + found.mean, found.variance)

    return estimate


def waiting(prior: TracePrior) -> Estimator:
    """What is known without looking into open windows: nothing until the last day, then all at once."""
    whole = progressive(prior)
    return lambda traces, days: whole(traces, days if days >= DAYS else 0)


def day_two(train: Shows) -> Estimator:
    """Stickiness read off day-two activity alone: the line through the training shows, shrunk by what M leaves open."""
    first, truth = train.traces[:, :, 0].mean(1), train.stickiness
    between = float(np.var(first, ddof=1))
    slope = float(np.cov(first, truth)[0, 1]) / between
    noise = float(np.mean(first * (1 - first)))

    def estimate(traces: NDArray[np.bool_], days: int) -> Posterior:
        M = traces.shape[1]
        trust = between / (between + noise / M) if days >= 1 else 0.0
        mean = truth.mean() + slope * trust * (traces[:, :, 0].mean(1) - first.mean())
        variance = float(np.var(truth, ddof=1)) - slope**2 * trust * between
        return Posterior(mean, np.full(len(mean), max(variance, 0.0)))

    return estimate


@dataclass(frozen=True)
class Error:
    """Mean absolute error over shows, with its standard error, and how many errors lie within their 95% interval."""

    mean: float
    error: float
    covered: float


def stickiness_error(
    held_out: Shows, estimate: Estimator, listeners: int, days: int, rng: np.random.Generator
) -> Error:
    """How far off the stickiness of held-out shows is from `listeners` drawn of each, observed for `days`."""
    A, n, _ = held_out.traces.shape
    drawn = np.stack([show[rng.choice(n, listeners, replace=False)] for show in held_out.traces])
    found = estimate(drawn, min(days, DAYS))
    off = np.abs(found.mean - held_out.stickiness)
    within = off <= 1.96 * np.sqrt(found.variance) + 1e-9
    return Error(float(off.mean()), float(off.std(ddof=1) / np.sqrt(A)), float(within.mean()))


SIGNALS = ("progressive", "delayed", "day_two", "oracle")


def bandit_regret(
    shows: Shows, prior: TracePrior, signal: str, days: int, actions: int, rng: np.random.Generator
) -> Floats:
    """Mean regret (days,) of each day's recommendations by Thompson sampling, in active days of 60.

    Every day `actions` listeners each get the show whose stickiness, drawn from what is believed of it, is largest;
    each gives one new trace of it, a day of which comes to be known per day. `signal` is what beliefs are about: the
    progressive posterior, the sum once its window has closed (delayed), activity on the second day, or the sum known
    the next morning (oracle). Delayed waits until a recommendation is 60
    days old, a day longer than the progressive posterior takes to have seen its trace of 59 whole.
    """
    if signal not in SIGNALS:
        raise ValueError(f"no signal {signal!r}: one of {', '.join(SIGNALS)}")
    A, n, T = shows.traces.shape
    best = shows.stickiness.max() - shows.stickiness
    filtered = Filter(prior)
    order = np.stack([rng.permutation(n) for _ in range(A)])
    used = np.zeros(A, np.int64)
    count, total = np.zeros((days, A)), np.zeros((days, A, T))  # by the day on which it was recommended
    regret = np.zeros(days)
    for today in range(days):
        belief = _belief(signal, filtered, count[:today], total[:today], A)
        draws = belief.mean + np.sqrt(belief.variance) * rng.standard_normal((actions, A))
        chosen = draws.argmax(1)
        regret[today] = best[chosen].mean()
        for show, times in zip(*np.unique(chosen, return_counts=True), strict=True):
            place = (used[show] + np.arange(times)) % n
            total[today, show] = shows.traces[show, order[show, place]].sum(0)
            count[today, show] = times
            used[show] += times
    return regret


def _belief(signal: str, filtered: Filter, count: Floats, total: Floats, shows: int) -> Posterior:
    """count (D, A) and total (D, A, T) of the recommendations of the D days so far, the last one a day old."""
    prior, T = filtered.prior, filtered.prior.days
    age = np.minimum(np.arange(len(count), 0, -1), T)
    if signal == "progressive":
        by_days, seen = np.zeros((shows, T + 1)), np.zeros((shows, T + 1, T))
        for k, c, s in zip(age, count, total, strict=True):
            by_days[:, k] += c
            seen[:, k, :k] += s[:, :k]
        return filtered(Sums(by_days, seen))
    if signal == "day_two":
        width, noise, centre = prior.between[0, 0], prior.within[0, 0], prior.mean[0]
        n, sums = count.sum(0), total[:, :, 0].sum(0)
    else:
        known = len(count) - T if signal == "delayed" else len(count)
        width, noise, centre = prior.between.sum(), prior.within.sum(), prior.mean.sum()
        n, sums = count[: max(known, 0)].sum(0), total[: max(known, 0)].sum((0, 2))
    n = np.broadcast_to(n, (shows,))
    variance = 1.0 / (1.0 / width + n / noise)
    return Posterior(variance * (centre / width + sums / noise), variance)


def stickiness_table(
    held_out: Shows,
    estimators: Mapping[str, Estimator],
    listeners: Sequence[int],
    days: Sequence[int],
    seed: int,
) -> dict[str, dict[int, dict[int, Error]]]:
    """Errors by estimator, listeners observed and days; every estimator sees the same listeners."""
    return {
        name: {
            M: {k: stickiness_error(held_out, estimate, M, k, np.random.default_rng([seed, M])) for k in days}
            for M in listeners
        }
        for name, estimate in estimators.items()
    }
