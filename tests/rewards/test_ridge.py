import numpy as np

from rewards.ridge import fit_ridge


def _data(rng: np.random.Generator, n: int, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = rng.standard_normal((n, len(beta)))
    return x, x @ beta + rng.standard_normal(n)


def test_a_group_that_explains_nothing_shrinks_and_one_that_does_stays() -> None:
    rng = np.random.default_rng(0)
    beta = np.concatenate([rng.standard_normal(20) * 0.3, np.zeros(30)])
    x, y = _data(rng, 2000, beta)
    found = fit_ridge(x.T @ x, x.T @ y, 1.0, np.repeat([0, 1], [20, 30]))
    assert np.corrcoef(found.mean[:20], beta[:20])[0, 1] > 0.98
    assert np.abs(found.mean[20:]).max() < 0.25 * np.abs(np.linalg.lstsq(x, y, rcond=None)[0][20:]).max()
    assert abs(found.precision[0] ** -0.5 - 0.3) < 0.1, "the learned width is that of the coefficients"


def test_draws_have_the_posterior_spread_and_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    beta = rng.standard_normal(40) * 0.2
    x, y = _data(rng, 400, beta)
    found = fit_ridge(x.T @ x, x.T @ y, 1.0, np.zeros(40, int))
    draws = found.draws(4000, 1.0, rng)
    exact = np.linalg.inv(x.T @ x + np.eye(40) * found.precision[0])
    np.testing.assert_allclose(draws.std(0), np.sqrt(np.diag(exact)), rtol=0.08)
    assert np.mean(np.abs(found.mean - beta) < 2 * draws.std(0)) > 0.85
    half = found.draws(4000, 0.5, np.random.default_rng(2))
    np.testing.assert_allclose(half.std(0), 0.5 * np.sqrt(np.diag(exact)), rtol=0.08)


def test_a_fixed_precision_is_kept() -> None:
    found = fit_ridge(np.eye(2) * 10, np.array([10.0, 10.0]), 1.0, np.array([0, 1]), {0: 10.0, 1: 1e-6})
    np.testing.assert_allclose(found.mean, [0.5, 1.0], atol=1e-5)


def test_a_wide_group_that_explains_nothing_is_shut_beside_one_column_that_does() -> None:
    """Six hundred columns of noise beside one with an effect: what a slate does in a month beside what it did in a
    week. With the widths that a few steps leave, the noise would drown the effect in every prediction."""
    errors = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        beta = np.concatenate([[0.2], np.zeros(300)])
        x, y = _data(rng, 3000, beta)
        found = fit_ridge(x.T @ x, x.T @ y, 1.0, np.repeat([0, 1], [1, 300]), {0: 0.25})
        errors.append(float(np.sum((found.mean - beta) ** 2)) / 0.2**2)
    assert np.median(errors) < 0.015, "of what the column does; ten steps alone leave .03"


def test_two_halves_err_apart_where_they_know_and_together_where_they_do_not() -> None:
    """The spread of the mean of two posteriors, each from data of its own, is the error of that mean."""
    for rows in (1, 10, 1000):
        errors, promised = [], []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            beta = rng.standard_normal(20)
            prior, halves = rng.standard_normal((200, 20)), []
            for _ in range(2):
                x, y = _data(rng, rows, beta)
                halves.append(fit_ridge(x.T @ x, x.T @ y, 1.0, np.zeros(20, int), {0: 1.0}))
            mean = (halves[0].mean + halves[1].mean) / 2
            draws = sum(half.draws_from(prior, rng) for half in halves) / 2
            np.testing.assert_allclose(draws.mean(0), mean, atol=0.3)
            errors.append(np.mean((mean - beta) ** 2))
            promised.append(np.mean(draws.var(0)))
        assert 0.8 < (np.mean(promised) / np.mean(errors)) ** 0.5 < 1.2, rows
