"""Always-valid intervals: how often they are wrong when one looks all the time."""

import numpy as np
import pytest

from data.errors import InputError
from eval.experiments.analyse import AnalysisSettings, analyse
from eval.experiments.effect import Reading, effect
from eval.experiments.metric import parse_metric
from eval.experiments.peeking import OUTCOMES, false_alarms
from eval.experiments.sequential import always_valid_p, reach, sequential_ratio_p
from tests.eval.experiments.made_up import experiment


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_looking_after_every_pair_calls_at_most_alpha_of_no_differences(outcome: str) -> None:
    found = false_alarms(outcome, simulations=1000, users=2000)
    assert found.always_valid <= 0.05
    assert found.peeking > 0.2  # what the same looks do to a fixed interval
    assert found.once == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 1000))


@pytest.mark.nightly
@pytest.mark.parametrize("outcome", [*OUTCOMES, "survival"])
def test_the_same_over_many_experiments(outcome: str) -> None:
    found = false_alarms(outcome, simulations=500 if outcome == "survival" else 10_000, users=8000, seed=1)
    assert found.always_valid <= 0.05


def test_survival_looks_while_people_are_still_followed() -> None:
    assert false_alarms("survival", simulations=20, users=1200).always_valid <= 0.1


def test_the_interval_is_narrowest_where_it_was_planned() -> None:
    """At n = N no other tuning gives a narrower one, to first order; the price over a fixed interval is known."""
    best = min(reach(0.05, 1.0, planned) for planned in np.geomspace(0.2, 5.0, 101))
    assert reach(0.05, 1.0, 1.0) == pytest.approx(best, rel=1e-3)
    assert 1.4 < reach(0.05, 1.0, 1.0) / 1.96 < 1.6


@pytest.mark.parametrize("users", [50, 1000, 40_000])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.001])
def test_p_is_below_alpha_exactly_where_the_interval_leaves_zero_out(users: int, alpha: float) -> None:
    width = reach(alpha, users, 1000, tuned=0.05)
    assert always_valid_p(width, users, 1000, 0.05) == pytest.approx(alpha)


def test_an_always_valid_reading_is_wider_and_needs_a_first_look_of_some_size() -> None:
    sample = experiment(600, 0.5)
    fixed = effect(sample, parse_metric("y"), "treatment")
    valid = effect(sample, parse_metric("y"), "treatment", Reading(planned_users=600))
    assert valid.lo < fixed.lo < fixed.diff < fixed.hi < valid.hi
    assert valid.diff == pytest.approx(fixed.diff, rel=1e-12)  # threads add up in the order they come
    assert valid.p > fixed.p
    assert valid.rel_lo is not None and fixed.rel_lo is not None and valid.rel_lo < fixed.rel_lo
    with pytest.raises(InputError, match="a sequential look needs 100 in each arm"):
        effect(experiment(150), parse_metric("y"), "treatment", Reading(planned_users=600))


def test_a_user_enters_an_always_valid_reading_once() -> None:
    settings, shares = AnalysisSettings(Reading(planned_users=600)), {"control": 0.5, "treatment": 0.5}
    metrics = [parse_metric("y")]
    assert analyse(experiment(600), metrics, shares, settings).users == {"control": 300, "treatment": 300}
    with pytest.raises(InputError, match="1,200 rows of 600 users"):
        analyse(experiment(600, rows=2), metrics, shares, settings)
    analyse(experiment(600, rows=2), metrics, shares, AnalysisSettings())  # one look: sums by user are fine


def test_a_sample_ratio_watched_all_the_time_raises_few_false_alarms_and_sees_a_true_one() -> None:
    rng, shares = np.random.default_rng(0), {"a": 0.5, "b": 0.5}
    alarms = 0
    for _ in range(200):
        seen = np.cumsum(rng.random(2000) < 0.5)
        looks = range(50, 2000, 50)
        alarms += any(
            sequential_ratio_p({"a": int(seen[n - 1]), "b": n - int(seen[n - 1])}, shares) < 0.05 for n in looks
        )
    assert alarms / 200 <= 0.05
    assert sequential_ratio_p({"a": 52_500, "b": 47_500}, shares) < 1e-6


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(InputError, match="is not known"):
        false_alarms("smiles")
    with pytest.raises(InputError, match="give at least 1 of 400"):
        false_alarms("normal", users=10)
