import numpy as np
import torch
from scipy.stats import spearmanr

from tests.rewards.made_up_log import ITEMS, SLATE, Trained


def _column(trained: Trained, label: str) -> int:
    return trained.model.labels.index(label)


def _item_effects(trained: Trained, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean advantage of each item filling one place, and its spread, over 100 states."""
    states = trained.states[:: max(len(trained.states) // 100, 1)][:100]
    slates = torch.full((len(states), ITEMS, SLATE), -1)
    slates[:, :, 0] = torch.arange(ITEMS)
    scores = trained.model.advantage(states, slates)
    at = _column(trained, label)
    return scores.mean[..., at].mean(0).numpy(), scores.spread[..., at].mean(0).numpy()


def test_advantage_is_centred_under_the_logging_policy_for_heavy_and_light(confounded: Trained) -> None:
    log = confounded.log
    slates = torch.from_numpy(log.decisions.slate.astype(np.int64))[:, None]
    advantage = confounded.model.advantage(confounded.states, slates).mean[:, 0, _column(confounded, "active_days_7")]
    known = log.decisions.time > np.quantile(log.decisions.time, 0.3)  # with a past to be told apart by
    for heavy in (True, False):
        mean = advantage.numpy()[known & (log.heavy[log.decisions.user] == heavy)].mean()
        assert abs(mean) < 0.25 * float(advantage.std())


def test_effects_are_found_where_comparing_those_who_were_shown_an_item_fails(confounded: Trained) -> None:
    log = confounded.log
    found, _ = _item_effects(confounded, "active_days_7")
    outcome = log.outcomes["active_days_7"].to_numpy().astype(float)
    shown = np.zeros((len(log.decisions), ITEMS))
    np.put_along_axis(shown, log.decisions.slate, 1.0, axis=1)
    known = ~np.isnan(outcome)
    naive = np.array([outcome[known & (shown[:, i] > 0)].mean() for i in range(ITEMS)])
    assert spearmanr(found, log.effect).statistic > 0.85
    assert spearmanr(naive, log.effect).statistic < 0.7
    even = np.arange(ITEMS) % 2 == 0
    assert naive[even].mean() - naive[~even].mean() > 0.4, "the heavy listeners' items look good"
    assert abs(found[even].mean() - found[~even].mean()) < 0.1, "and are not"


def test_effects_have_the_size_of_the_truth(confounded: Trained) -> None:
    found, _ = _item_effects(confounded, "active_days_7")
    truth = confounded.log.effect - confounded.log.effect.mean()
    slope = np.polyfit(truth, found - found.mean(), 1)[0]
    assert 0.6 < slope < 1.2


def test_where_nothing_has_an_effect_zero_is_within_the_spread(null: Trained) -> None:
    slates = torch.from_numpy(null.log.decisions.slate[:2000].astype(np.int64))[:, None]
    scores = null.model.advantage(null.states[:2000], slates)
    at = _column(null, "active_days_7")
    mean, spread = scores.mean[:, 0, at].numpy(), scores.spread[:, 0, at].numpy()
    assert np.mean(np.abs(mean) <= 2 * spread + 1e-6) > 0.85
    assert mean.std() < 0.1, "days, where the confounded gap is more than one"


def test_the_logs_own_propensities_confirm_the_estimated_exposure(confounded: Trained) -> None:
    overlap = confounded.quality["overlap"]
    assert isinstance(overlap, dict)
    assert overlap["correlation_with_known"] > 0.8
    assert abs(overlap["mean_error_per_position"]) < 0.1


def test_what_the_log_never_shows_is_less_supported_and_less_sure(confounded: Trained) -> None:
    states = confounded.states[:50]
    usual = torch.from_numpy(confounded.log.decisions.slate[:50].astype(np.int64))[:, None]
    support = confounded.model.advantage(states, usual).support
    assert float((support >= 0).float().mean()) > 0.9
