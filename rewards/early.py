"""How early the days after a decision tell what the whole window will come to, on a log.

Every user gives one window, from a decision drawn at random among those whose window has closed. Half of the users
teach, the others are judged; the halves share the same weeks, so this says how well days foretell days, not how stable
that is. Beside the two posteriors stand waiting, which knows nothing of a listener until the window closes, and the
proxy that is used most, activity on the day after.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from data.histories import Decisions, Histories
from rewards.progressive import Floats, Posterior, TracePrior
from rewards.recency import DAY
from rewards.surrogate import SurrogateSettings, fit_surrogate

FEWEST_WINDOWS = 200
NETWORK = SurrogateSettings()


@dataclass(frozen=True)
class EarlyError:
    """After `days` days: root mean square and mean absolute error of the listeners' active days, and the share of
    outcomes within two standard deviations of the guess."""

    days: int
    rmse: float
    mae: float
    within: float


def daily_traces(
    histories: Histories, decisions: Decisions, rows: NDArray[np.integer], window: int
) -> NDArray[np.bool_]:
    """Whether the user was active on each of the `window` UTC days after that of a decision: (rows, window).

    Raises InputError for a window of less than a day.
    """
    if window < 1:
        raise InputError(f"early reward: a window of {window} days: give 1 or more")
    result = np.zeros((len(rows), window), bool)
    day, made = histories.time // DAY, decisions.time[rows] // DAY
    user = np.repeat(np.arange(len(histories.offsets) - 1, dtype=np.int64), np.diff(histories.offsets))
    last = int(max(day.max(initial=0), made.max(initial=0))) + window + 2
    active = np.unique(user * last + day)
    wanted = decisions.user[rows].astype(np.int64)[:, None] * last + made[:, None] + np.arange(1, window + 1)
    if len(active):
        at = np.minimum(np.searchsorted(active, wanted), len(active) - 1)
        result = active[at] == wanted
    return result


def closed_windows(decisions: Decisions, end: int, window: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """One decision per user, drawn among those whose `window` days were over at `end` (us since 1970)."""
    rows = rng.permutation(np.flatnonzero(decisions.time // DAY + window + 1 <= end // DAY))
    first: NDArray[np.int64] = rows[np.unique(decisions.user[rows], return_index=True)[1]]
    return np.sort(first)


def early_errors(
    traces: NDArray[np.bool_], seed: int, settings: SurrogateSettings = NETWORK
) -> dict[str, list[EarlyError]]:
    """Errors by method and days known, for windows (n, T) of as many users.

    Raises InputError when there are fewer than `FEWEST_WINDOWS`, or windows of no day.
    """
    n, T = traces.shape
    if T < 1:
        raise InputError(f"early reward: windows of {T} days: give 1 or more")
    if n < FEWEST_WINDOWS:
        raise InputError(f"early reward: {n} users with a closed window of {T} days; {FEWEST_WINDOWS} are needed")
    side = np.random.default_rng(seed).permutation(n) % 2 == 0
    teach, judge = traces[side], traces[~side]
    prior = TracePrior.fit(teach.astype(np.float64))
    network = fit_surrogate(teach, seed, settings)
    truth = judge.sum(1).astype(np.float64)
    result: dict[str, list[EarlyError]] = {name: [] for name in ("waiting", "day_two", "progressive", "neural")}
    for k in _looks(T):
        days = np.full(len(judge), k)
        for name, found in (
            ("waiting", _closed_only(prior, judge, k)),
            ("day_two", _next_day(teach, judge, k)),
            ("progressive", prior.of_listeners(judge.astype(np.float64), days)),
            ("neural", network.of_listeners(judge, days)),
        ):
            off = found.mean - truth
            within = float(np.mean(np.abs(off) <= 2 * np.sqrt(found.variance) + 1e-6))
            result[name].append(EarlyError(k, float(np.sqrt(np.mean(off**2))), float(np.mean(np.abs(off))), within))
    return result


def _looks(days: int) -> list[int]:
    return [k for k in (0, 1, 2, 3, 5, 7, 10, 14, 21, 28, 45) if k < days] + [days]


def _closed_only(prior: TracePrior, traces: NDArray[np.bool_], days: int) -> Posterior:
    known = np.full(len(traces), days if days >= prior.days else 0)
    return prior.of_listeners(traces.astype(np.float64), known)


def _next_day(teach: NDArray[np.bool_], judge: NDArray[np.bool_], days: int) -> Posterior:
    whole = teach.sum(1).astype(np.float64)
    centre = np.array([whole.mean()] * 2)
    spread = np.array([whole.var()] * 2)
    if days >= 1:
        groups = [whole[teach[:, 0] == came] for came in (False, True)]
        centre = np.array([group.mean() if len(group) else whole.mean() for group in groups])
        spread = np.array([group.var() if len(group) else whole.var() for group in groups])
    came = judge[:, 0].astype(np.int64)
    mean: Floats = centre[came]
    return Posterior(mean, spread[came])
