"""Interim readings: Gaussian conditioning, what they are unbiased for, and when they cry wolf."""

import numpy as np
import pytest

from data.errors import InputError
from eval.experiments.interim import EarlyDays, EarlyReward, GaussianForecast, interim_effect
from eval.experiments.interim_world import EARLY_REWARD, EVERYTHING, VISITS, StudySettings, study
from rewards.surrogate import SurrogateSettings


def habits(users: int, seed: int, days: int = 10, gain: float = 0.0, ends: int = 10) -> EarlyDays:
    """People who come with their own probability, raised by `gain` until day `ends`; before: ten days of it."""
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 4, users)
    chance = np.clip(p[:, None] + gain * (np.arange(days) < ends), 0, 1)
    visits = (rng.random((users, days)) < chance).astype(np.float64)
    before = rng.binomial(10, p).astype(np.float64)[:, None]
    traces = np.stack([visits, visits * rng.poisson(2, (users, days))], axis=2)
    earlier = np.argsort(rng.random((users, 10)), axis=1) < before  # on which of the ten days they came
    return EarlyDays(before, traces, earlier.astype(np.float64))


def test_the_posterior_is_that_of_a_beta_binomial() -> None:
    """With p ~ Beta(2, 4), ten days before and k days seen, the mean to come is linear in visits: known exactly."""
    past = habits(20_000, 0)
    forecast = GaussianForecast.fit(past, past.traces[:, :, 0].sum(1))
    new = habits(500, 1)
    k = 4
    mean, variance = forecast.posterior(new.first(k))
    seen = new.traces[:, :k, 0].sum(1)
    p = (2 + new.before[:, 0] + seen) / (6 + 10 + k)
    assert mean == pytest.approx(seen + (10 - k) * p, abs=0.15)
    residual = new.traces[:, :, 0].sum(1) - mean
    assert variance[0] == pytest.approx(residual.var(), rel=0.2)


def test_at_the_end_the_reading_is_the_finished_experiment() -> None:
    past, lived = habits(2000, 0), habits(600, 1)
    forecast = GaussianForecast.fit(past, past.traces[:, :, 0].sum(1))
    mean, variance = forecast.posterior(lived)
    assert mean == pytest.approx(lived.traces[:, :, 0].sum(1), abs=0.02)
    assert variance.max() < 1e-3


def test_it_is_right_about_a_treatment_that_ended_and_short_of_one_that_goes_on() -> None:
    past = habits(8000, 0)
    forecast = GaussianForecast.fit(past, past.traces[:, :, 0].sum(1))
    treated = np.arange(8000) % 2 == 0
    control, going_on, ended = (habits(8000, 1, gain=g, ends=e) for g, e in ((0.0, 0), (0.1, 10), (0.1, 1)))
    truth = {"on": 1.0, "ended": 0.1}
    for name, lived in (("on", going_on), ("ended", ended)):
        both = EarlyDays(control.before, np.where(treated[:, None, None], lived.traces, control.traces))
        read = interim_effect(forecast, both.first(5), treated)
        if name == "on":
            assert read.hi < truth[name]
        else:
            assert abs(read.diff - truth[name]) < 4 * read.se
        assert read.readout_se > read.se


def test_the_early_reward_foretells_what_the_beta_binomial_does() -> None:
    forecast = EarlyReward.fit(habits(4000, 0), 0, SurrogateSettings(steps=250, rows=512), networks=2)
    new = habits(1000, 1)
    for k in (0, 4):
        mean, variance = forecast.posterior(new.first(k))
        seen = new.traces[:, :k, 0].sum(1)
        p = (2 + new.before[:, 0] + seen) / (6 + 10 + k)
        assert np.sqrt(np.mean((mean - seen - (10 - k) * p) ** 2)) < 0.35  # of a spread of 1.5 and more
        residual = new.traces[:, :, 0].sum(1) - mean
        assert variance.mean() == pytest.approx(residual.var(), rel=0.25)
    treated = np.arange(1000) % 2 == 0
    read = interim_effect(forecast, new.first(4), treated)
    assert read.lo < 0 < read.hi
    assert read.readout_se > read.se
    done, open_days = forecast.posterior(new)
    assert done == pytest.approx(new.traces[:, :, 0].sum(1), abs=1e-4)
    assert open_days.max() < 1e-6


def test_what_was_learned_from_few_widens_the_interval() -> None:
    lived = habits(2000, 1)
    lived = EarlyDays(lived.before, lived.traces * np.where(np.arange(2000) % 2 == 0, 1.5, 1.0)[:, None, None])
    treated = np.arange(2000) % 2 == 0
    few, many = (
        interim_effect(GaussianForecast.fit(past, past.traces[:, :, 0].sum(1)), lived.first(3), treated)
        for past in (habits(100, 0), habits(10_000, 0))
    )
    assert few.se > 1.5 * many.se


def test_in_a_world_it_reads_the_effect_so_far_and_is_quiet_where_there_is_none() -> None:
    days, quick = (3, 14), SurrogateSettings(steps=20, rows=128)
    random = study(
        StudySettings("clickbait", "random", listeners=400, assignments=3, read_on=days, early_reward=quick), [0]
    )
    ways = [(EARLY_REWARD, 3), (EARLY_REWARD, 14), (VISITS, 3), (VISITS, 14), (EVERYTHING, 3), (EVERYTHING, 14)]
    ways += [("proxy: active days", 2), ("proxy: plays", 2), ("finished", 28)]
    assert [(error.how, error.days) for error in random.errors] == ways
    sd = {(error.how, error.days): error.sd for error in random.errors}
    assert sd[VISITS, 3] < sd[VISITS, 14] < 1.2 * sd["finished", 28]
    null = study(StudySettings("null", "oracle", listeners=400, assignments=3, read_on=days, early_reward=quick), [0])
    assert null.truth == (0.0,)
    by_way = {(error.how, error.days): error for error in null.errors}
    assert by_way[VISITS, 3].wrong <= 0.2
    assert by_way["proxy: plays", 2].bias > 0.4  # more plays, and not one visit more
    assert by_way["proxy: plays", 2].wrong > by_way[VISITS, 3].wrong


def test_what_cannot_be_read_is_one_clear_error() -> None:
    past = habits(200, 0)
    forecast = GaussianForecast.fit(past, past.traces[:, :, 0].sum(1))
    with pytest.raises(InputError, match="11 days seen, learned from 10"):
        forecast.posterior(habits(5, 1, days=11))
    with pytest.raises(InputError, match="NaN or infinite"):
        EarlyDays(past.before * np.nan, past.traces)
    with pytest.raises(InputError, match="of the same users"):
        EarlyDays(past.before[:3], past.traces)
    with pytest.raises(InputError, match="give a longer past log"):
        GaussianForecast.fit(habits(8, 0), np.ones(8))
    with pytest.raises(InputError, match="fewer than two users"):
        interim_effect(forecast, past.first(2), np.zeros(200, bool))
    with pytest.raises(InputError, match="`earlier`"):
        EarlyReward.fit(EarlyDays(past.before, past.traces), 0)
    with pytest.raises(InputError, match="unknown world"):
        StudySettings(world="moon")
