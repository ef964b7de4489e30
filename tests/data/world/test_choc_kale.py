"""RecSim's choc and kale behind our interface: its closed forms, its log, and the rollouts our world goes through."""

import numpy as np
import pytest

from data.errors import InputError
from data.schema import validate
from data.world import RandomPolicy
from data.world.choc_kale import ChocKale, ChocKaleSettings, Kaleness
from data.world.environment import no_messages
from eval.rollout import RolloutSettings, paired, play

# A service in which satisfaction matters more and is remembered longer than in the published defaults.
HARSH = ChocKaleSettings(listeners=400, memory_discount=0.9, sensitivity=0.1)


def lived(settings: ChocKaleSettings, target: float, days: int) -> ChocKale:
    env = ChocKale(settings, seed=3)
    policy, rng = Kaleness(env.kale, target), np.random.default_rng(0)
    for _ in range(days):
        env.act(*policy.choose(env.observe().contexts, rng), policy.name)
    return env


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_exposure_and_satisfaction_reach_their_closed_form(target: float) -> None:
    env = lived(ChocKaleSettings(listeners=2_000), target, 60)
    limit = 2 * (target - 0.5) / (1 - 0.7)  # of n = .7 n + 2 (k - 1/2)
    spread = 0.05 / np.sqrt(1 - 0.7**2)  # of the innovations
    assert env.exposure.mean() == pytest.approx(limit, abs=4 * spread / np.sqrt(2_000))
    assert env.exposure.std() == pytest.approx(spread, rel=0.1)
    assert env.satisfaction().mean() == pytest.approx(1 / (1 + np.exp(-0.01 * limit)), abs=1e-4)


def test_engagement_is_log_normal_around_the_satisfied_mean() -> None:
    env = ChocKale(ChocKaleSettings(listeners=20_000), seed=1)
    truth = env.truth(Kaleness(env.kale, 0.0), 1)
    logs = np.log(truth["engagement"])  # on the first day satisfaction is a half
    assert logs.mean() == pytest.approx(2.5, abs=0.03)
    assert logs.std() == pytest.approx(1.0, abs=0.02)


def test_choc_wins_today_and_kale_for_good_in_the_same_rollouts_as_our_world() -> None:
    env = ChocKale(HARSH, seed=0)
    policies = {
        "logging": RandomPolicy(HARSH.items, 1),
        "choc": Kaleness(env.kale, 0.0, "choc@1"),
        "kale": Kaleness(env.kale, 1.0, "kale@1"),
    }
    first = play(env, policies, RolloutSettings(horizon_days=1, headline="engagement"), seed=0)
    later = play(env, policies, RolloutSettings(horizon_days=56, headline="engagement"), seed=0)
    assert paired([first], "choc", "kale")["engagement"].over_listeners.lo > 0
    assert paired([later], "kale", "choc")["last_engagement"].over_listeners.lo > 0
    assert paired([later], "kale", "choc")["satisfaction"].over_listeners.lo > 0
    assert later.exposure["logging"].coverage() == 1.0
    assert env.day == 0


def test_its_log_is_a_log() -> None:
    logs = lived(ChocKaleSettings(listeners=20), 0.5, 3).log()
    for table in ("items", "events", "decisions", "users"):
        validate(getattr(logs, table), table, "choc and kale")
    assert logs.decisions.height == logs.events.height == 60
    again = lived(ChocKaleSettings(listeners=20), 0.5, 3).log()
    assert again.events.equals(logs.events, null_equal=True)


def test_what_it_cannot_do_is_refused() -> None:
    env = ChocKale(ChocKaleSettings(listeners=5))
    with pytest.raises(InputError, match="no messages"):
        env.act(no_messages(5), np.zeros(5), "x@1")
    with pytest.raises(InputError, match="shape"):
        env.act(np.zeros((5, 2), np.int32), np.zeros(5), "x@1")
