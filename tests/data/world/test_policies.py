"""Propensities are exact, and hidden state stays in the world."""

from itertools import permutations

import numpy as np
import pytest

from data.errors import InputError
from data.histories import Contexts
from data.world import World
from data.world.policies import plackett_luce, plackett_luce_log_probability


def plain(contexts: Contexts) -> Contexts:
    return contexts.take(np.arange(len(contexts)))


def test_propensities_of_all_slates_sum_to_one() -> None:
    scores = np.random.default_rng(0).normal(0, 3, (1, 7)).astype(np.float32)
    slates = np.array(list(permutations(range(7), 3)), dtype=np.int32)
    log_probability = plackett_luce_log_probability(np.repeat(scores, len(slates), axis=0), slates)
    assert np.exp(log_probability).sum() == pytest.approx(1.0, abs=1e-12)


def test_slates_come_as_often_as_their_propensity_says() -> None:
    scores = np.array([[1.0, 0.0, -1.0, 0.5, -4.0]], dtype=np.float32)
    draws = 200_000
    slates, log_probability = plackett_luce(np.repeat(scores, draws, axis=0), 2, np.random.default_rng(1))
    expected = {}
    for pair in permutations(range(5), 2):
        expected[pair] = np.exp(plackett_luce_log_probability(scores, np.array([pair], dtype=np.int32)))[0]
    code, counts = np.unique(slates[:, 0] * 5 + slates[:, 1], return_counts=True)
    seen = {(int(c) // 5, int(c) % 5): n for c, n in zip(code, counts, strict=True)}
    # Pearson's statistic has mean 19 and standard deviation 6.2 with 20 cells.
    statistic = sum((seen.get(pair, 0) - draws * p) ** 2 / (draws * p) for pair, p in expected.items())
    assert statistic < 19 + 4 * 6.2
    np.testing.assert_allclose(
        log_probability[:50], [np.log(expected[tuple(slate)]) for slate in slates[:50].tolist()], atol=1e-12
    )


def test_scores_far_apart_stay_finite() -> None:
    scores = np.array([[80.0, 0.0, -80.0, 1.0]], dtype=np.float32)
    slates, log_probability = plackett_luce(scores, 3, np.random.default_rng(0))
    assert np.isfinite(log_probability).all()
    assert slates[0, 0] == 0


@pytest.mark.parametrize("name", ["logging", "random", "popularity", "greedy_click", "oracle"])
def test_built_ins_fill_whole_slates_without_repeats(clickbait: World, name: str) -> None:
    world = clickbait.branch()
    _, known = world.observe()
    slates, log_probability = world.built_in(name).choose(known, np.random.default_rng(0))
    assert slates.dtype == np.int32
    assert slates.shape == (len(known), 5)
    assert all(len(set(slate)) == 5 for slate in slates.tolist())
    assert log_probability.dtype == np.float64
    assert (log_probability <= 0).all()


@pytest.mark.parametrize("name", ["logging", "random", "popularity"])
def test_honest_policies_need_no_hidden_state(clickbait: World, name: str) -> None:
    world = clickbait.branch()
    _, known = world.observe()
    inside = world.built_in(name).choose(known, np.random.default_rng(0))
    outside = world.built_in(name).choose(plain(known), np.random.default_rng(0))
    np.testing.assert_array_equal(inside[0], outside[0])
    np.testing.assert_array_equal(inside[1], outside[1])


@pytest.mark.parametrize("name", ["greedy_click", "oracle"])
def test_hidden_state_policies_refuse_plain_contexts(clickbait: World, name: str) -> None:
    world = clickbait.branch()
    _, known = world.observe()
    with pytest.raises(InputError, match="hidden state"):
        world.built_in(name).choose(plain(known), np.random.default_rng(0))


def test_logging_explores(clickbait: World) -> None:
    world = clickbait.branch()
    world.play(world.built_in("logging"), 28, np.random.default_rng(0))
    shown = np.bincount(np.concatenate([one.slates.ravel() for one in world.rounds]), minlength=len(world.items))
    assert (shown > 0).mean() > 0.98
    top = np.sort(shown)[-len(shown) // 10 :].sum() / shown.sum()
    assert 0.15 < top < 0.45  # popularity shows, and does not take over


def test_logging_looks_up_a_plain_style_name(clickbait: World) -> None:
    world = clickbait.branch()
    _, known = world.observe()
    policy = world.built_in("logging")
    asked = Contexts(
        known.time,
        known.hour_of_week,
        known.surface,
        known.gap_hours,
        known.item,
        known.action,
        ["play metal"] * len(known),
    )
    share = []
    for context in (plain(known), asked):
        slates, _ = policy.choose(context, np.random.default_rng(0))
        share.append((world.items.style[slates] == 2).mean())
    assert share[1] > 1.5 * share[0]


def test_an_unknown_name_is_refused(clickbait: World) -> None:
    with pytest.raises(InputError, match="choose one of logging"):
        clickbait.built_in("sft")
