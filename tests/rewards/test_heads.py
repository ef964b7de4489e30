import numpy as np
import polars as pl
import torch
from scipy.stats import betabinom

from rewards.heads import (
    Heads,
    Targets,
    beta_binomial_log_likelihood,
    carried,
    hazard_log_likelihood,
    resolve,
    returned_within,
)


def test_hazard_likelihood_is_that_of_a_geometric_return() -> None:
    h = 0.3
    logits = torch.full((4, 10), float(np.log(h / (1 - h))))
    day = torch.tensor([0, 3, 5, 20])
    returned = torch.tensor([True, True, False, False])
    expected = [np.log(h), 3 * np.log(1 - h) + np.log(h), 5 * np.log(1 - h), 10 * np.log(1 - h)]
    found = hazard_log_likelihood(logits, day, returned)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_censored_rows_keep_the_hazard_unbiased_where_dropping_them_would_not() -> None:
    rng = np.random.default_rng(0)
    h, n = 0.08, 20_000
    day = rng.geometric(h, n) - 1
    followed = rng.integers(1, 15, n)
    returned = day < followed
    seen = np.minimum(day, followed)
    logit = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=50)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -hazard_log_likelihood(logit.expand(n, 15), torch.from_numpy(seen), torch.from_numpy(returned)).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert abs(float(torch.sigmoid(logit).detach()) - h) < 0.004
    naive = returned.sum() / (day[returned] + 1).sum()  # the mean time of those who were seen to return
    assert naive > 1.5 * h


def test_retention_never_falls_with_the_horizon() -> None:
    curve = returned_within(torch.randn(50, 29) * 3)
    assert bool((curve.diff(dim=1) >= 0).all())
    assert float(curve.min()) >= 0
    assert float(curve.max()) <= 1


def test_beta_binomial_matches_scipy_up_to_the_constant() -> None:
    logit, spread, n = torch.tensor([0.4]), torch.tensor([1.3]), 7
    mass = float(torch.nn.functional.softplus(spread))
    share = float(torch.sigmoid(logit))
    found = [float(beta_binomial_log_likelihood(logit, spread, torch.tensor([float(k)]), n)) for k in range(n + 1)]
    exact = betabinom(n, share * mass, (1 - share) * mass).logpmf(np.arange(n + 1))
    constant = np.array(
        [np.log(float(np.prod(np.arange(n - k + 1, n + 1)) / np.prod(np.arange(1, k + 1)))) for k in range(n + 1)]
    )
    np.testing.assert_allclose(np.array(found) + constant, exact, atol=1e-4)


def _heads() -> tuple[Heads, torch.Tensor]:
    labels = tuple(resolve(name, 3) for name in ("returned_7d", "active_days_7", "plays"))
    torch.manual_seed(0)
    return Heads(8, labels, 8), torch.randn(6, 8)


def test_a_label_that_is_not_known_adds_nothing() -> None:
    heads, state = _heads()
    values = torch.tensor([[1.0, 3.0, 2.0]] * 6)
    day, returned = torch.full((6,), 2), torch.ones(6, dtype=torch.bool)
    values[3:, 1] = float("nan")
    left = torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.bool)
    some = heads.log_likelihood(state, values, day, returned, *left)
    fewer = heads.log_likelihood(state[:3], values[:3], day[:3], returned[:3], *(part[:3] for part in left))
    torch.testing.assert_close(some[1], fewer[1])
    values[:, 1] = float("nan")
    assert float(heads.log_likelihood(state, values, day, returned, *left)[1]) == 0.0


def test_moments_are_in_the_labels_units() -> None:
    heads, state = _heads()
    mean, variance = heads.means(state), heads.variances(state)
    assert mean.shape == variance.shape == (6, 3)
    assert bool((mean >= 0).all())
    assert bool((mean <= torch.tensor([1.0, 7.0, 3.0])).all())
    share = mean[:, 1] / 7
    assert bool((variance[:, 1] >= 7 * share * (1 - share) - 1e-5).all()), "a beta-binomial is never narrower"


def test_heads_start_at_the_rates_of_the_training_rows() -> None:
    heads, state = _heads()
    rng = np.random.default_rng(0)
    n = 4000
    day = rng.geometric(0.25, n) - 1
    values = {
        "returned_7d": (day <= 7).astype(np.float32),
        "active_days_7": rng.binomial(7, 0.4, n).astype(np.float32),
        "plays": rng.binomial(3, 0.9, n).astype(np.float32),
    }
    targets = Targets(heads.labels, values, day, np.ones(n, bool), np.zeros(n, np.int64), np.zeros(n, bool))
    heads.start(targets, np.arange(n))
    with torch.no_grad():
        heads.read.weight.zero_()
    mean = heads.means(state)[0].detach().numpy()
    np.testing.assert_allclose(mean, [np.mean(day <= 7), 2.8, 2.7], atol=0.08)


def test_only_labels_that_vary_are_carried() -> None:
    frame = pl.DataFrame({"returned_7d": [True, False, None], "plays": [2, 2, 2], "active_days_28": [None, None, None]})
    assert [label.name for label in carried(frame, 5)] == ["returned_7d"]
    assert carried(frame, 5, ["plays"]) == ()
