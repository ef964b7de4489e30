"""A small network that reads the first days of a window and says what the whole will come to.

The Gaussian posterior of `rewards.progressive` is the best guess that is linear in the days seen. What listeners do is
not linear: two quiet weeks after a busy one mean that somebody has left, however busy the one was. The network is given
a listener's first k days and predicts how many of the others they will be active on, as a beta-binomial, so that a
guess comes with a variance. It is trained on closed windows cut off at random.

For shows (arms, cohorts) the network is one number per listener, its expectation, and a show's posterior follows from
their mean by normal conjugacy, with the moments of shows whose windows have closed: a surrogate index (Athey, Chetty,
Imbens & Kang, 2019) of a show, as far as it can be trusted.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import InputError
from rewards.heads import beta_binomial_log_likelihood, beta_binomial_variance
from rewards.progressive import Floats, Posterior
from rewards.stickiness import Estimator, Shows


@dataclass(frozen=True)
class SurrogateSettings:
    """Size of the network and length of its training, in batches of `rows` cut windows."""

    width: int = 64
    steps: int = 1500
    rows: int = 2048
    learning_rate: float = 3e-3


class NeuralSurrogate(nn.Module):
    """Of a 0/1 trace over `days` days: the expected sum and its variance, given its beginning."""

    width: Tensor

    def __init__(self, days: int, settings: SurrogateSettings) -> None:
        super().__init__()
        self.days = days
        # Many listeners never come again, which a beta-binomial cannot say; its variance is set right, by days known.
        self.register_buffer("width", torch.ones(days + 1))
        self.body = nn.Sequential(
            nn.Linear(3 * days + 3, settings.width),
            nn.GELU(),
            nn.Linear(settings.width, settings.width),
            nn.GELU(),
            nn.Linear(settings.width, 2),
        )

    def forward(self, traces: Tensor, known: Tensor) -> Tensor:
        """traces (n, days), of which the first known (n,) are read -> logit and spread of the rest's rate (n, 2)."""
        day = torch.arange(self.days)
        mask = (day < known[:, None]).float()
        seen = traces * mask
        last = ((day + 1) * seen).amax(1)  # 0: never active
        count = seen.sum(1)
        quiet = F.one_hot((known - last).long().clamp(0, self.days - 1), self.days).float()
        facts = torch.stack([count / known.clamp_min(1), known / self.days, (last > 0).float()], 1)
        raw: Tensor = self.body(torch.cat([seen, mask, quiet, facts], 1))
        return raw

    @torch.no_grad()
    def of_listeners(self, traces: NDArray[np.generic], days: NDArray[np.integer], chunk: int = 65_536) -> Posterior:
        """Expected sum of each trace and its variance (n,): traces (n, T), of which the first days (n,) are known."""
        known = np.clip(days, 0, self.days)
        mean, variance = np.empty(len(traces)), np.empty(len(traces))
        for at in range(0, len(traces), chunk):
            part = torch.from_numpy(traces[at : at + chunk].astype(np.float32))
            k = torch.from_numpy(known[at : at + chunk].astype(np.int64))
            raw = self(part, k)
            left = (self.days - k).float()
            expected = torch.sigmoid(raw[:, 0]) * left
            seen = (part * (torch.arange(self.days) < k[:, None])).sum(1)
            mean[at : at + chunk] = (seen + expected).numpy()
            variance[at : at + chunk] = (self.width[k] * beta_binomial_variance(raw[:, 0], raw[:, 1], left)).numpy()
        return Posterior(mean, variance)


def fit_surrogate(
    traces: NDArray[np.generic], seed: int, settings: SurrogateSettings = SurrogateSettings()
) -> NeuralSurrogate:
    """Train on closed windows: 0/1 traces (n, T). The same seed gives the same network.

    Raises InputError when there is no window, or none of a day.
    """
    if 0 in traces.shape:
        raise InputError(f"early reward: closed windows of shape {traces.shape}; give 1 row and 1 day or more")
    T = traces.shape[1]
    torch.manual_seed(seed)
    network = NeuralSurrogate(T, settings)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    rng = np.random.default_rng(seed)
    for _ in range(settings.steps):
        rows = rng.integers(0, len(traces), settings.rows)
        known = torch.from_numpy(rng.integers(0, T, settings.rows))
        batch = torch.from_numpy(traces[rows].astype(np.float32))
        raw = network(batch, known)
        rest = (batch * (torch.arange(T) >= known[:, None])).sum(1)
        loss = -beta_binomial_log_likelihood(raw[:, 0], raw[:, 1], rest, (T - known).float()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return _widened(network.eval(), traces[rng.integers(0, len(traces), settings.rows * 4)])


def _widened(network: NeuralSurrogate, traces: NDArray[np.generic]) -> NeuralSurrogate:
    truth = traces.sum(1)
    for k in range(network.days):
        found = network.of_listeners(traces, np.full(len(traces), k))
        network.width[k] = float(np.mean((found.mean - truth) ** 2) / max(float(found.variance.mean()), 1e-9))
    return network


def pooled(network: NeuralSurrogate, train: Shows, sample: int = 2000) -> Estimator:
    """A show's stickiness (the day of the discovery included) from the mean of the network's expectations.

    Between the training shows truth and mean expectation vary together; within a show the expectations vary by
    listener. Both moments are taken once for every number of days asked for, over the first `sample` listeners.
    """
    truth = train.stickiness
    moments: dict[int, tuple[float, float, float, float]] = {}

    def measured(days: int) -> tuple[float, float, float, float]:
        if days not in moments:
            found = _expectations(network, train.traces[:, :sample], days)
            noise = float(found.var(1, ddof=1).mean())
            shows = found.mean(1)
            covariance = np.cov(shows, truth)
            between = max(float(covariance[0, 0]) - noise / found.shape[1], 0.0)
            moments[days] = float(shows.mean()), between, float(covariance[0, 1]), noise
        return moments[days]

    def estimate(traces: NDArray[np.bool_], days: int) -> Posterior:
        A, M, _ = traces.shape
        width = float(np.var(truth, ddof=1))
        if days == 0:
            return Posterior(np.full(A, truth.mean()), np.full(A, width))
        centre, between, along, noise = measured(days)
        gain = along / (between + noise / M)
        mean = truth.mean() + gain * (_expectations(network, traces, days).mean(1) - centre)
        return Posterior(mean, np.full(A, max(width - gain * along, 0.0)))

    return estimate


def _expectations(network: NeuralSurrogate, traces: NDArray[np.bool_], days: int) -> Floats:
    A, M, T = traces.shape
    found = network.of_listeners(traces.reshape(A * M, T), np.full(A * M, days)).mean
    result: Floats = found.reshape(A, M)
    return result
