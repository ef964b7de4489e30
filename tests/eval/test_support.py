"""The verdict: a value where the log supports one, a refusal with reason and remedy where it does not."""

import numpy as np
import pytest

from eval.off_policy import OffPolicySettings, off_policy_value
from eval.rounds import LoggedRounds
from eval.support import SupportSettings, assess


def log_with(shift: float, users: int = 1000, seed: int = 0, actions: int = 8) -> LoggedRounds:
    """A softmax log over 8 actions; the new policy prefers other actions by `shift` nats a step."""
    rng = np.random.default_rng(seed)
    steps = np.arange(actions) / actions
    p_log = np.exp(-steps) / np.exp(-steps).sum()
    p_new = np.exp(shift * steps) / np.exp(shift * steps).sum()
    action = rng.choice(actions, size=users * 3, p=p_log)
    reward = rng.normal(size=users * 3) + steps[action]
    return LoggedRounds(np.log(p_log[action]), np.log(p_new[action]), reward, np.repeat(np.arange(users), 3))


def test_good_overlap_is_answered() -> None:
    result = off_policy_value(log_with(shift=1.0), OffPolicySettings())
    assert result.support.refused is None
    assert result.estimates["snips"].value is not None
    assert result.support.ess_users > 500


def test_no_overlap_is_refused_with_reason_remedy_and_effective_size() -> None:
    log = log_with(shift=0.0)
    never = LoggedRounds(log.log_p_log, np.full(3000, -np.inf), log.reward, log.user)
    result = off_policy_value(never, OffPolicySettings())
    for estimate in result.estimates.values():
        assert (estimate.value, estimate.lo, estimate.hi, estimate.diff) == (None, None, None, None)
        assert estimate.ess == 0.0
        assert estimate.refused is not None
        assert "100% of the new policy's choices" in estimate.refused
        assert "serve about" in estimate.refused


def test_probabilities_that_sum_to_more_than_one_are_called_that() -> None:
    log = log_with(shift=1.0)
    doubled = LoggedRounds(log.log_p_log, np.minimum(log.log_p_new + 1.0, 0.0), log.reward, log.user)
    refused = off_policy_value(doubled, OffPolicySettings()).support.refused
    assert refused is not None
    assert "probabilities sum to more than they may" in refused


def test_a_slate_policy_far_from_the_log_is_refused() -> None:
    """Whole slates drift apart by a few nats each: a handful of rounds would decide, so no value is given."""
    rng = np.random.default_rng(1)
    log_p_log = rng.normal(-40, 3, 20_000)
    log_p_new = np.minimum(log_p_log + rng.normal(-8, 4, 20_000), 0)
    result = off_policy_value(
        LoggedRounds(log_p_log, log_p_new, rng.normal(size=20_000), np.arange(20_000) // 20), OffPolicySettings()
    )
    assert result.support.refused is not None
    assert result.support.ess_users < 200
    assert result.estimates["ips"].ess == result.support.ess > 0


@pytest.mark.parametrize("missing", [None, np.full(3000, np.nan)])
def test_missing_propensities_are_refused_in_words(missing: object) -> None:
    log = log_with(shift=1.0)
    result = off_policy_value(LoggedRounds(missing, log.log_p_new, log.reward, log.user), OffPolicySettings())
    assert result.support.refused is not None
    assert "no propensities" in result.support.refused
    assert result.logging.value == pytest.approx(float(np.mean(log.reward)))


def test_known_mass_off_support_refuses_what_the_weights_cannot_see() -> None:
    log = log_with(shift=0.5)
    outside = LoggedRounds(log.log_p_log, log.log_p_new, log.reward, log.user, off_support=np.full(3000, 0.2))
    refused = off_policy_value(outside, OffPolicySettings()).support.refused
    assert refused is not None
    assert "20% of the new policy's choices" in refused


def test_few_users_are_refused_however_many_rounds() -> None:
    log = log_with(shift=0.2, users=1000)
    refused = off_policy_value(
        LoggedRounds(log.log_p_log, log.log_p_new, log.reward, np.arange(3000) % 50), OffPolicySettings()
    ).support.refused
    assert refused is not None
    assert "effective users of 50" in refused
    assert "a longer log" in refused


def test_rounding_of_probabilities_is_not_lack_of_support() -> None:
    rng = np.random.default_rng(2)
    log_p = rng.normal(-30, 2, 5000)
    rounded = (log_p + 2e-6 + rng.normal(0, 1e-7, 5000)).astype(np.float32).astype(float)
    verdict = off_policy_value(LoggedRounds(log_p, rounded, log_p, np.arange(5000)), OffPolicySettings()).support
    assert verdict.refused is None


def test_verdict_lets_well_supported_logs_through() -> None:
    """Under good overlap, hardly any of 200 logs may be refused: the mean-weight check is at three errors."""
    refused = sum(
        off_policy_value(log_with(1.0, users=400, seed=seed), OffPolicySettings()).support.refused is not None
        for seed in range(200)
    )
    assert refused <= 6


def test_more_exploration_is_asked_for_when_policies_lie_further_apart() -> None:
    codes = np.arange(2000)
    settings = SupportSettings(min_effective_users=1500)
    near = assess(np.random.default_rng(3).lognormal(-0.5, 1.0, 2000), codes, 2000, settings).refused
    far = assess(np.random.default_rng(3).lognormal(-4.5, 3.0, 2000), codes, 2000, settings).refused
    assert near is not None
    assert far is not None

    def share(text: str) -> float:
        return float(text.split("serve about ")[1].split("%")[0])

    assert share(near) < share(far)
