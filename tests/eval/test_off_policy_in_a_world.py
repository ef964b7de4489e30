"""Off-policy values against truth: a world in which the other policy can really be tried on the very same evenings."""

from dataclasses import replace

import numpy as np
import pytest

from data.world import PRESETS, LoggingPolicy, World
from data.world.policies import plackett_luce_log_probability
from eval.estimators import LoggedRounds, OffPolicySettings, off_policy_value

DAYS = 21


def other(world: World, temperature: float) -> LoggingPolicy:
    """The logging policy, bolder or shyer."""
    settings = replace(world.settings.logging, temperature=temperature)
    return LoggingPolicy(world.items, settings, world.settings.dynamics.slate_size, name=f"logging-{temperature}")


def logged_and_true(temperature: float, seed: int) -> tuple[LoggedRounds, float]:
    """A log of plays a session with the probabilities of both policies, and the other policy's true mean.

    The truth is drawn each evening on a branch of the world, from the state that the logging policy led to.
    """
    world = World(PRESETS["clickbait"].with_listeners(900), seed)
    policy, logging = other(world, temperature), world.built_in("logging")
    rng = np.random.default_rng(seed)
    log_p, log_new, plays, users, tried = [], [], [], [], []
    while world.day < DAYS:
        listeners, contexts = world.observe()
        branch = world.branch()
        branch.observe()
        slates, log_probability = policy.choose(contexts, rng)
        branch.act(slates, log_probability, policy.name)
        tried.append(branch.rounds[-1].session.played.sum(axis=1))
        slates, log_probability = logging.choose(contexts, rng)
        world.act(slates, log_probability, logging.name)
        log_p.append(log_probability)
        log_new.append(plackett_luce_log_probability(policy.scores(contexts), slates))
        plays.append(world.rounds[-1].session.played.sum(axis=1))
        users.append(listeners)
    rounds = LoggedRounds(*(np.concatenate(column) for column in (log_p, log_new, plays, users)))
    return rounds, float(np.concatenate(tried).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_nearby_policy_is_valued_within_its_interval(seed: int) -> None:
    rounds, truth = logged_and_true(temperature=0.85, seed=seed)
    result = off_policy_value(rounds, OffPolicySettings())
    assert result.support.refused is None
    for name in ("ips", "snips"):
        found = result.estimates[name]
        assert found.lo is not None
        assert found.hi is not None
        margin = 0.5 * (found.hi - found.lo) * 1.3  # the truth is itself a mean of as many draws
        assert abs(found.value - truth) < margin, name


def test_a_faraway_policy_is_refused() -> None:
    rounds, _ = logged_and_true(temperature=0.2, seed=0)
    result = off_policy_value(rounds, OffPolicySettings())
    assert result.support.refused is not None
    assert result.estimates["snips"].value is None
