"""BG/NBD: who still buys, from recency and frequency alone (Fader, Hardie & Lee, Marketing Science 2005).

While active, a customer buys at a Poisson rate of their own (Gamma with shape r, rate alpha over customers); after
every purchase they leave for good with a probability of their own (Beta(a, b)). All that the model needs of a customer
is x repeat purchases, the time t_x of the last, and the time T since the first. It is what is used where there are
purchases and nothing else, and here it is one baseline of a return among others: to come on a day is to buy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, gammaln

from data.errors import InputError
from rewards.recency import COLUMNS, tenure_days

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BgNbd:
    """r and alpha (in the unit of time) of the purchase rates, a and b of the leaving probabilities."""

    r: float
    alpha: float
    a: float
    b: float

    def log_likelihood(self, x: Floats, last: Floats, age: Floats) -> Floats:
        """Of each customer (n,): equation 6 of the paper."""
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        bought = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
        stays = betaln(a, b + x) - betaln(a, b) - (r + x) * np.log(alpha + age)
        left = betaln(a + 1, b + np.maximum(x, 1) - 1) - betaln(a, b) - (r + x) * np.log(alpha + last)
        result: Floats = bought + np.where(x > 0, np.logaddexp(stays, left), stays)
        return result

    def alive(self, x: Floats, last: Floats, age: Floats) -> Floats:
        """Probability (n,) of being a customer still; 1 without a repeat purchase, as leaving follows a purchase."""
        odds = np.log(self.a / (self.b + np.maximum(x, 1) - 1)) + (self.r + x) * np.log(
            (self.alpha + age) / (self.alpha + last)
        )
        result: Floats = np.where(x > 0, 1.0 / (1.0 + np.exp(np.clip(odds, -700.0, 700.0))), 1.0)
        return result

    def buys_within(self, x: Floats, last: Floats, age: Floats, time: float) -> Floats:
        """Probability (n,) of a purchase in the next `time`: alive, and the rate's posterior says not nothing."""
        none = ((self.alpha + age) / (self.alpha + age + time)) ** (self.r + x)
        result: Floats = self.alive(x, last, age) * (1.0 - none)
        return result


def fit_bg_nbd(x: NDArray[np.generic], last: NDArray[np.generic], age: NDArray[np.generic]) -> BgNbd:
    """Maximum likelihood: repeat purchases x (n,), time of the last since the first, time since the first, one unit.

    Raises InputError where nobody bought twice, or a last purchase lies after the end.
    """
    x, last, age = (np.asarray(values, np.float64) for values in (x, last, age))
    if not np.any(x > 0):
        raise InputError("BG/NBD: nobody bought twice: it has nothing to learn from")
    if np.any(last > age + 1e-9):
        raise InputError(f"BG/NBD: customer {int(np.argmax(last > age))} last bought after the end: check the times")
    # A unit of time near the mean age keeps the four parameters of one size.
    unit = max(float(age.mean()), 1e-9) / 10.0
    counts = np.unique(np.stack([x, last / unit, age / unit], 1), axis=0, return_counts=True)
    (xs, lasts, ages), weight = counts[0].T, counts[1]

    def loss(log_parameters: Floats) -> float:
        model = BgNbd(*np.exp(log_parameters).tolist())
        return -float(weight @ model.log_likelihood(xs, lasts, ages)) / len(x)

    found = minimize(loss, np.zeros(4), method="L-BFGS-B", bounds=[(-9.0, 9.0)] * 4, options={"maxiter": 500})
    r, alpha, a, b = np.exp(found.x).tolist()
    return BgNbd(r, alpha * unit, a, b)


def customers(features: NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """x, t_x and T in days (D,) at each decision, from recency features (D, F): active days after the first count."""
    column = {name: features[:, at].astype(np.float64) for at, name in enumerate(COLUMNS)}
    age = tenure_days(features.astype(np.float64))
    days = np.round(column["active_share"] * (age + 1.0))
    x = np.maximum(days - 1.0, 0.0)
    last = np.where(x > 0, np.clip(age - np.expm1(column["log_gap_hours"]) / 24.0, 0.0, age), 0.0)
    return x, last, age
