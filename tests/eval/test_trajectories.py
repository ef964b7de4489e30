"""Repeated decisions: exact where every trajectory can be counted, right in a world, refused where the log is thin."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from data.errors import InputError
from data.world.message_policies import LoggingMessages, allowed_channels
from eval.intervals import mean_interval
from eval.off_policy import OffPolicySettings
from eval.support import SupportSettings
from eval.trajectories import NAMES, Trajectories, trajectory_value
from tests.data.message_world import played

ANY = OffPolicySettings(support=SupportSettings(min_effective_users=0.0))
STEPS, COPIES = 3, 8**3


@dataclass(frozen=True)
class Game:
    """Two states, two moves, three steps. Chances are eighths: a log can hold every trajectory as often as due."""

    log: NDArray[np.float64]  # (states, moves)
    new: NDArray[np.float64]
    goes: NDArray[np.float64]  # (states, moves) chance of state 1 next
    pays: NDArray[np.float64]  # (states, moves)

    def value(self, policy: NDArray[np.float64], step: int, state: int) -> float:
        return float(sum(policy[state, move] * self.worth(policy, step, state, move) for move in (0, 1)))

    def worth(self, policy: NDArray[np.float64], step: int, state: int, move: int) -> float:
        """What follows from a move, under `policy` afterwards."""
        if step == STEPS:
            return 0.0
        ahead = [self.value(policy, step + 1, state) if step + 1 < STEPS else 0.0 for state in (0, 1)]
        up = self.goes[state, move]
        return float(self.pays[state, move] + GAMMA * ((1 - up) * ahead[0] + up * ahead[1]))


GAMMA = 0.9
GAME = Game(
    log=np.array([[0.5, 0.5], [0.75, 0.25]]),
    new=np.array([[0.25, 0.75], [0.5, 0.5]]),
    goes=np.array([[0.5, 0.0], [1.0, 0.5]]),
    pays=np.array([[1.0, -0.5], [2.0, 4.0]]),
)


def every_trajectory(game: Game, model: Callable[[int, int, int], float] | None = None) -> Trajectories:
    """A log in which each trajectory stands exactly as often as the logging policy would draw it."""
    rows: list[tuple[int, int, int, int]] = []  # user, step, state, move
    user = 0
    for moves in product((0, 1), repeat=STEPS):
        for ahead in product((0, 1), repeat=STEPS - 1):
            states = (0, *ahead)
            chance = 1.0
            for t in range(STEPS):
                chance *= game.log[states[t], moves[t]]
                if t + 1 < STEPS:
                    up = game.goes[states[t], moves[t]]
                    chance *= up if states[t + 1] else 1.0 - up
            copies = chance * COPIES
            assert copies == int(copies)
            for _ in range(int(copies)):
                rows += [(user, t, states[t], moves[t]) for t in range(STEPS)]
                user += 1
    assert user == COPIES
    who, _, state, move = np.array(rows).T
    q = v = None
    if model is not None:
        q = np.array([model(t, s, m) for _, t, s, m in rows])
        v = np.array([sum(game.new[s, m] * model(t, s, m) for m in (0, 1)) for _, t, s, _ in rows])
    with np.errstate(divide="ignore"):
        log_p, log_new = np.log(game.log[state, move]), np.log(game.new[state, move])
    return Trajectories(log_p, log_new, game.pays[state, move], who, q, v, GAMMA)


def test_every_estimator_is_exact_over_all_trajectories() -> None:
    true, own = GAME.value(GAME.new, 0, 0), GAME.value(GAME.log, 0, 0)
    assert abs(true - own) > 0.1
    for model in (lambda t, s, m: GAME.worth(GAME.new, t, s, m), lambda t, s, m: 0.3 * t - s + 2.0 * m):
        found = trajectory_value(every_trajectory(GAME, model), ANY)
        assert found.logging.value == pytest.approx(own)
        assert set(found.estimates) == set(NAMES)
        for name, estimate in found.estimates.items():
            assert estimate.value == pytest.approx(true), name
            assert estimate.diff == pytest.approx(true - own), name


def test_a_right_model_takes_all_the_noise_of_the_moves_away() -> None:
    rough = trajectory_value(every_trajectory(GAME, lambda t, s, m: 0.0), ANY).estimates
    right = trajectory_value(every_trajectory(GAME, lambda t, s, m: GAME.worth(GAME.new, t, s, m)), ANY).estimates

    def width(found: float | None, less: float | None) -> float:
        assert found is not None
        assert less is not None
        return found - less

    assert width(rough["dr"].hi, rough["dr"].lo) == pytest.approx(
        width(rough["per_decision"].hi, rough["per_decision"].lo)
    ), "without a model it is the per-decision estimate"
    assert width(right["dr"].hi, right["dr"].lo) < 0.7 * width(rough["dr"].hi, rough["dr"].lo)
    assert width(rough["per_decision"].hi, rough["per_decision"].lo) < width(
        rough["trajectory"].hi, rough["trajectory"].lo
    )


def test_the_policy_that_logged_is_worth_what_it_earned() -> None:
    game = replace(GAME, new=GAME.log)
    found = trajectory_value(every_trajectory(game, lambda t, s, m: 1.0), ANY)
    for name, estimate in found.estimates.items():
        if "dr" not in name:
            assert estimate.value == pytest.approx(found.logging.value), name
            assert estimate.diff_hi == pytest.approx(estimate.diff_lo, abs=1e-12), name
    assert found.by_step["effective_users"] == pytest.approx((COPIES,) * STEPS)


def test_a_window_is_exact_where_what_was_done_before_does_not_matter() -> None:
    forgetful = replace(GAME, goes=np.full((2, 2), 0.5))
    true = forgetful.value(forgetful.new, 0, 0)
    found = trajectory_value(every_trajectory(forgetful), ANY, window=1)
    assert set(found.estimates) == {"per_decision", "sn_per_decision"}
    for name, estimate in found.estimates.items():
        assert estimate.value == pytest.approx(true), name
    biased = trajectory_value(every_trajectory(GAME), ANY, window=1).estimates["per_decision"].value
    assert biased != pytest.approx(GAME.value(GAME.new, 0, 0), abs=0.01)
    whole = trajectory_value(every_trajectory(GAME), ANY, window=STEPS).estimates["per_decision"].value
    assert whole == pytest.approx(GAME.value(GAME.new, 0, 0))


def test_moves_that_the_new_policy_never_makes_count_nothing_and_nothing_after_them() -> None:
    never = replace(GAME, new=np.array([[0.0, 1.0], [0.5, 0.5]]))
    found = trajectory_value(every_trajectory(never), ANY)
    for name, estimate in found.estimates.items():
        assert estimate.value == pytest.approx(never.value(never.new, 0, 0)), name


def test_users_of_different_lengths_and_rows_in_any_order() -> None:
    log = Trajectories(
        np.log(np.array([0.5, 0.5, 0.25])),
        np.log(np.array([1.0, 0.25, 0.5])),
        np.array([1.0, 2.0, 4.0]),
        np.array(["b", "b", "a"]),
    )
    found = trajectory_value(log, ANY)
    assert found.estimates["trajectory"].value == pytest.approx((2.0 * 0.5 * 3.0 + 2.0 * 4.0) / 2)
    assert found.estimates["per_decision"].value == pytest.approx((2.0 + 2.0 * 0.5 * 2.0 + 2.0 * 4.0) / 2)
    assert found.estimates["sn_per_decision"].value == pytest.approx((2.0 + 8.0) / 4.0 + 2.0 / (1.0 + 2.0))
    assert found.steps == 2


def test_what_the_log_cannot_support_is_refused_and_what_is_wrong_named() -> None:
    log = every_trajectory(GAME)
    thin = trajectory_value(log, OffPolicySettings(support=SupportSettings(600.0)))
    assert all(estimate.value is None for estimate in thin.estimates.values())
    assert "effective users" in str(thin.estimates["per_decision"].refused)
    assert thin.logging.value is not None
    unknown = trajectory_value(replace(log, log_p_log=None), ANY)
    assert "no propensities" in str(unknown.estimates["trajectory"].refused)
    with pytest.raises(InputError, match="window 0"):
        trajectory_value(log, ANY, window=0)
    with pytest.raises(InputError, match="one of q and v"):
        trajectory_value(replace(log, q=np.zeros(3 * COPIES)), ANY)
    with pytest.raises(InputError, match="at least two"):
        trajectory_value(replace(log, user=np.zeros(3 * COPIES)), ANY)


def test_in_a_world_the_value_of_sending_more_is_within_its_interval() -> None:
    """Fourteen days of a policy that holds less than the log's, asked of the log and then really lived."""
    days, hold = 14, 0.62
    world, watched = played(listeners=700, days=0)
    start = world.branch()
    logged = LoggingMessages(world.settings.messages, world.settings.logging)
    world.play(world.built_in("logging"), days, np.random.default_rng(1), messages=watched)
    bolder = LoggingMessages(logged.settings, replace(logged.logging, hold=hold))
    start.play(start.built_in("logging"), days, np.random.default_rng(2), messages=bolder)

    def active(lived: object) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        visits = np.zeros((len(world.listeners), days))
        for one in lived.rounds:  # type: ignore[attr-defined]
            visits[one.listeners, one.day] = 1.0
        return np.arange(len(visits)), visits

    visits = active(world)[1]
    old = logged.logging.hold
    columns: list[tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []
    assert world.mailroom is not None
    for mailing, contexts in zip(world.mailroom.mailings, watched.contexts, strict=True):
        could = allowed_channels(contexts, logged.logging.weekly_cap).any(axis=1)
        change = np.where(mailing.sent >= 0, np.log((1 - hold) / (1 - old)), np.log(hold / old))
        new = mailing.log_propensity + np.where(could, change, 0.0)
        columns.append((mailing.listeners, mailing.log_propensity, new, visits[mailing.listeners, mailing.day]))
    user, log_p, log_new, came = (np.concatenate(part) for part in zip(*columns, strict=True))
    found = trajectory_value(Trajectories(log_p, log_new, came, user), OffPolicySettings())
    # Days without a decision have no row: their visits are left out of the truth too.
    decided = np.zeros((len(world.listeners), days), np.bool_)
    assert start.mailroom is not None
    for mailing in start.mailroom.mailings:
        decided[mailing.listeners, mailing.day] = True
    truth = mean_interval((active(start)[1] * decided).sum(axis=1)[np.unique(user)])
    for name in ("sn_trajectory", "per_decision", "sn_per_decision"):
        estimate = found.estimates[name]
        assert estimate.refused is None
        assert estimate.lo is not None
        assert estimate.hi is not None
        assert estimate.value == pytest.approx(
            truth.value, abs=np.hypot((estimate.hi - estimate.lo) / 2, (truth.hi - truth.lo) / 2)
        ), name
    always = np.where(np.isclose(log_p, np.log(old)), -np.inf, 0.0)
    refused = trajectory_value(Trajectories(log_p, always, came, user), OffPolicySettings())
    assert all(estimate.refused for estimate in refused.estimates.values())
