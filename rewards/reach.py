"""Whether a listener can still be reached in four weeks: two risks that compete, leaving and falling silent.

Who opts out or bounces leaves on a day, and is seen to leave or to stay for as long as the log goes on: a discrete-time
hazard of the day, even within a period (cause-specific hazards: Tutz & Schmid, Modeling Discrete Time-to-Event Data,
2016, ch. 8). Who has not left by the window's end is silent if they did not come once; that is known when the window
closes. So

    P(reachable) = prod_j (1 - leaving_j) (1 - silent)

and an open window counts: three weeks without an opt-out are three weeks without one. Who had left before the decision
is out of reach, and teaches nothing (`rewards.heads.Targets.of_those_who_stay`). Where nobody ever leaves, what remains
is the logit of silence.
"""

from datetime import datetime

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from data.histories import STAYED
from data.local_time import local_clock, local_day, with_time_zone

WINDOW = 28  # days
PERIODS = ((0, 0), (1, 7), (8, 14), (15, WINDOW))  # first and last day of those with one hazard
COLUMNS = 1 + len(PERIODS)  # of the read-out: log-odds of silence, then of leaving on a day, by period
_PERIOD_OF_DAY = torch.tensor([place for place, (first, last) in enumerate(PERIODS) for _ in range(first, last + 1)])


def days_seen(made: pl.DataFrame, users: pl.DataFrame | None, moment: datetime) -> np.ndarray:
    """How many local days of each of D decisions, its own included, were over at a moment; 0 for later decisions.

    made: user_id, time and local_day of each decision.
    """
    frame = with_time_zone(made.select("user_id", "time", "local_day"), users)
    frame = frame.with_columns(now=pl.lit(moment, pl.Datetime("us", "UTC")))
    seen = local_day(local_clock(frame, "now")).cast(pl.Int64) - frame["local_day"].cast(pl.Int32).cast(pl.Int64)
    return seen.clip(lower_bound=0).fill_null(0).to_numpy()


def leaving(
    made: pl.DataFrame, left_at: np.ndarray, users: pl.DataFrame | None, moment: datetime
) -> tuple[np.ndarray, np.ndarray]:
    """(day, left) of D decisions as known at a moment: the local day of leaving after that of the decision (0: on it or
    before), or how many days were seen to their end without it.

    made and the days as in `days_seen`; left_at (D,) as `Histories.left`. Who left on a day that is not over is not
    counted yet: of those who may still leave on it nothing is known either. A decision that comes after the moment has
    0 and False, which adds nothing.
    """
    seen = days_seen(made, users, moment)
    when = pl.Series("left_at", left_at).replace(STAYED, None).cast(pl.Datetime("us", "UTC"))
    frame = with_time_zone(made.select("user_id", "time", "local_day", when), users)
    day = frame["local_day"].cast(pl.Int32).cast(pl.Int64)
    known = frame.select((pl.col("left_at") <= moment) & (pl.col("time") <= moment)).to_series().fill_null(False)
    after = (local_day(local_clock(frame, "left_at")).cast(pl.Int64) - day).clip(lower_bound=0).fill_null(0).to_numpy()
    left = known.to_numpy() & (after < seen)
    return np.where(left, after, seen).astype(np.int64), left


def log_likelihood(raw: Tensor, reachable: Tensor, day: Tensor, left: Tensor) -> Tensor:
    """Log-likelihood (R,) of raw (R, COLUMNS): reachable (R,) is the label, NaN where its window is open; day, left as
    `leaving` gives them."""
    hazard = raw[:, 1:][:, _PERIOD_OF_DAY]  # (R, WINDOW + 1)
    days = torch.arange(WINDOW + 1, device=raw.device)
    inside = left & (day <= WINDOW)
    stayed = (days[None, :] < day[:, None]) * F.logsigmoid(-hazard)
    went = F.logsigmoid(hazard.gather(1, day.clamp_max(WINDOW)[:, None]))[:, 0]
    closed = ~reachable.isnan() & ~inside  # of who left, nobody knows whether they would have been silent
    silence = -F.binary_cross_entropy_with_logits(raw[:, 0], 1.0 - reachable.nan_to_num(1.0), reduction="none")
    zero = torch.zeros_like(went)
    return stayed.sum(1) + torch.where(inside, went, zero) + torch.where(closed, silence, zero)


def informative(reachable: Tensor, day: Tensor, left: Tensor) -> Tensor:
    """Rows (R,) of which anything is known."""
    return (day > 0) | left | ~reachable.isnan()


def incidence(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulative incidence: of having left by the end of each day (R, WINDOW + 1), and of silence at the end (R,)."""
    stays = F.logsigmoid(-raw[:, 1:][:, _PERIOD_OF_DAY]).cumsum(1).exp()
    return 1.0 - stays, stays[:, -1] * torch.sigmoid(raw[:, 0])


def reachable(raw: Tensor) -> Tensor:
    """Probability (R,) of being reachable when the window closes."""
    gone, silent = incidence(raw)
    return 1.0 - gone[:, -1] - silent


def marginal(label: np.ndarray, day: np.ndarray, left: np.ndarray) -> Tensor:
    """Log-odds (COLUMNS,) at the rates of these rows; label has NaN where the window is open."""
    closed = ~np.isnan(label) & ~(left & (day <= WINDOW))
    shares = [(np.sum(label[closed] == 0) + 0.5) / (closed.sum() + 1.0)]
    for first, last in PERIODS:
        events = np.sum(left & (day >= first) & (day <= last))
        at_risk = np.clip(np.minimum(day, last + 1) - first, 0, None).sum() + events
        shares.append((events + 0.5) / (at_risk + 1.0))
    return torch.logit(torch.tensor(shares, dtype=torch.float32), eps=1e-6)
