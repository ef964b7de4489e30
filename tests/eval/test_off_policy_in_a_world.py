"""Off-policy values against truth: a world in which the other policy can really be tried on the very same evenings."""

from dataclasses import replace

import numpy as np
import pytest

from data.world import PRESETS, LoggingPolicy, World
from data.world.policies import plackett_luce_log_probability
from eval.intervals import Interval, mean_interval
from eval.off_policy import OffPolicySettings, off_policy_value
from eval.rounds import LoggedRounds
from eval.slates import plackett_luce_positions, plackett_luce_prefixes

DAYS = 21


def other(world: World, temperature: float) -> LoggingPolicy:
    """The logging policy, bolder or shyer."""
    settings = replace(world.settings.logging, temperature=temperature)
    return LoggingPolicy(world.items, settings, world.settings.dynamics.slate_size, name=f"logging-{temperature}")


def logged_and_true(
    temperature: float, seed: int, positions: bool = False, listeners: int = 900
) -> tuple[LoggedRounds, Interval]:
    """A log of plays a session with the probabilities of both policies, and the other policy's true mean.

    The truth is drawn each evening on a branch of the world, from the state that the logging policy led to; it is a
    mean over as many evenings, so it has an interval of its own.
    """
    world = World(PRESETS["clickbait"].with_listeners(listeners), seed)
    policy, logging = other(world, temperature), world.built_in("logging")
    rng = np.random.default_rng(seed)
    log_p, log_new, plays, users, tried, by_part = [], [], [], [], [], []
    while world.day < DAYS:
        who, contexts = world.observe()
        branch = world.branch()
        branch.observe()
        slates, log_probability = policy.choose(contexts, rng)
        branch.act(slates, log_probability, policy.name)
        tried.append(branch.rounds[-1].session.played.sum(axis=1))
        slates, log_probability = logging.choose(contexts, rng)
        world.act(slates, log_probability, logging.name)
        log_p.append(log_probability)
        log_new.append(plackett_luce_log_probability(policy.scores(contexts), slates))
        plays.append(world.rounds[-1].session.played.astype(float))
        users.append(who)
        if positions:
            both = (logging.scores(contexts), policy.scores(contexts))
            by_part.append(
                [*(plackett_luce_positions(scores, slates, rng, 16) for scores in both)]
                + [plackett_luce_prefixes(scores, slates) for scores in both]
            )
    truth = mean_interval(np.concatenate(tried).astype(float), np.concatenate(users))
    reward, user = np.concatenate(plays), np.concatenate(users)
    rounds = LoggedRounds(np.concatenate(log_p), np.concatenate(log_new), reward.sum(axis=1), user)
    if positions:
        names = ("position_log", "position_new", "prefix_log", "prefix_new")
        columns = {name: np.concatenate([part[i] for part in by_part]) for i, name in enumerate(names)}
        rounds = replace(rounds, position_reward=reward, **columns)
    return rounds, truth


def errors_apart(rounds: LoggedRounds, truth: Interval, name: str) -> float:
    """How many standard errors, of the estimate and of the truth together, an estimate lies from the truth."""
    found = off_policy_value(rounds, OffPolicySettings((name,))).estimates[name]
    assert found.lo is not None
    assert found.hi is not None
    assert found.value is not None
    return (found.value - truth.value) / float(np.hypot((found.hi - found.lo) / 3.92, truth.se))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_nearby_policy_is_valued_within_its_interval(seed: int) -> None:
    rounds, truth = logged_and_true(temperature=0.85, seed=seed)
    for name in ("ips", "snips"):
        assert abs(errors_apart(rounds, truth, name)) < 2.6, name


@pytest.mark.nightly
def test_the_truth_is_within_the_interval_at_the_nominal_rate() -> None:
    """Forty worlds; of forty draws at 95%, 34 or more hold in 99 cases of 100."""
    inside = dict.fromkeys(("ips", "snips", "rips", "pi"), 0)
    for seed in range(40):
        rounds, truth = logged_and_true(temperature=0.85, seed=seed, positions=True, listeners=900)
        for name in inside:
            inside[name] += abs(errors_apart(rounds, truth, name)) < 1.96
    assert min(inside.values()) >= 34, inside


def test_slate_estimators_answer_where_whole_slates_hardly_do() -> None:
    """A much bolder policy: its slates are hardly in the log, its items at their positions are."""
    rounds, truth = logged_and_true(temperature=0.42, seed=3, positions=True, listeners=600)
    result = off_policy_value(rounds, OffPolicySettings())
    assert result.support.refused is not None
    assert result.estimates["snips"].value is None
    assert result.supports["additive"].ess_users > 3 * result.support.ess_users
    for name in ("pi", "sn_pi", "independent"):
        assert abs(errors_apart(rounds, truth, name)) < 2.6, name


def test_a_faraway_policy_is_refused() -> None:
    rounds, _ = logged_and_true(temperature=0.2, seed=0)
    result = off_policy_value(rounds, OffPolicySettings())
    assert result.support.refused is not None
    assert result.estimates["snips"].value is None
