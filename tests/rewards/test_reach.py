"""Two risks that compete: against Aalen and Johansen's estimator, censoring, and days counted on local calendars."""

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
import torch
from lifelines import AalenJohansenFitter

from data.histories import STAYED
from data.labels_reach import departures
from rewards.crossfit import train_rewards
from rewards.heads import Heads, Targets, resolve
from rewards.reach import COLUMNS, WINDOW, incidence, leaving, log_likelihood, marginal, reachable
from rewards.training import TrainSettings
from tests.rewards.made_up_log import SMALL, make_log

N = 6000
LEAVING, SILENT = 0.012, 0.15


def followed(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(label, day, left, true reachability) of N decisions; half of their windows are still open."""
    rng = np.random.default_rng(seed)
    gone = rng.geometric(LEAVING, N) - 1
    silent = rng.random(N) < SILENT
    seen = np.where(rng.random(N) < 0.5, 60, rng.integers(1, WINDOW, N))
    left = gone < seen
    truth = (gone > WINDOW) & ~silent
    return np.where(seen > WINDOW, truth, np.nan).astype(np.float32), np.minimum(gone, seen), left, truth


def fitted(label: np.ndarray, day: np.ndarray, left: np.ndarray) -> torch.Tensor:
    """The read-out of everybody alike, by maximum likelihood."""
    raw = torch.zeros(COLUMNS, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")
    known = torch.from_numpy(label), torch.from_numpy(day), torch.from_numpy(left)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -log_likelihood(raw.expand(N, COLUMNS), *known).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return raw.detach()[None]


def test_incidences_are_those_of_aalen_and_johansen() -> None:
    label, day, left, truth = followed(0)
    gone, silent = incidence(fitted(label, day, left))
    inside = left & (day <= WINDOW)
    closed = ~np.isnan(label)
    # Silence is an event of the window's last day, after any leaving on it.
    when = np.where(inside, day + 1.0, np.where(closed, WINDOW + 1.5, day))
    cause = np.where(inside, 1, np.where(closed & (label == 0), 2, 0))
    for event, ours in ((1, float(gone[0, -1])), (2, float(silent[0]))):
        peer = AalenJohansenFitter(calculate_variance=False, seed=0).fit(when, cause, event_of_interest=event)
        assert ours == pytest.approx(float(peer.cumulative_density_.iloc[-1, 0]), abs=0.005)
    assert float(1 - gone[0, -1] - silent[0]) == pytest.approx(truth.mean(), abs=0.012)


def test_an_open_window_makes_the_estimate_sharper() -> None:
    """Closed windows alone are unbiased too, but know less: over draws the error is smaller with the open ones."""
    errors = []
    for seed in range(6):
        label, day, left, _ = followed(seed)
        closed = ~np.isnan(label)
        truth = (1 - LEAVING) ** (WINDOW + 1) * (1 - SILENT)
        found = []
        for kept in (np.ones(N, bool), closed):
            at = np.where(kept, day, 0), left & kept
            found.append(float(reachable(fitted(label, *at))) - truth)
        errors.append(found)
    with_open, without = np.square(errors).mean(0)
    assert with_open < without


def test_the_read_out_starts_at_the_rates_of_its_rows() -> None:
    label, day, left, _ = followed(1)
    labels = (resolve("returned_7d", 3), resolve("reachable_28", 3), resolve("plays", 3))
    heads = Heads(4, labels, 8)
    nothing = np.full(N, np.nan, np.float32)
    values = {"returned_7d": nothing, "reachable_28": label, "plays": nothing}
    heads.start(Targets(labels, values, np.zeros(N, np.int64), np.zeros(N, bool), day, left), np.arange(N))
    assert heads.read.out_features == 8 + COLUMNS + 2
    found = float(heads.means(torch.zeros(1, 4))[0, 1].detach())
    assert found == pytest.approx(float(reachable(fitted(label, day, left))), abs=0.01)
    rates = torch.sigmoid(marginal(label, day, left))
    assert float(rates[0]) == pytest.approx(SILENT, abs=0.02)
    np.testing.assert_allclose(rates[2:].numpy(), LEAVING, atol=0.003)


def test_days_are_local_and_what_comes_later_is_not_known() -> None:
    def at(text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)

    made = pl.DataFrame(
        {
            "user_id": ["a", "a", "b", "c"],
            "time": [at("2026-03-02T09:00"), at("2026-03-08T09:00"), at("2026-03-02T09:00"), at("2026-03-02T09:00")],
            "local_day": [date(2026, 3, 2), date(2026, 3, 8), date(2026, 3, 2), date(2026, 3, 2)],
        },
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )
    events = pl.DataFrame(
        {
            "user_id": ["a", "a", "b", "b"],
            "time": [at("2026-03-04T23:30"), at("2026-03-20T00:00"), at("2026-03-01T00:00"), at("2026-03-05T00:00")],
            "action": ["opt_out", "bounce", "play", "play"],
        }
    )
    users = pl.DataFrame({"user_id": ["a"], "time_zone": ["Europe/Stockholm"]})
    gone = departures(events)
    assert gone.rows() == [("a", at("2026-03-04T23:30"))]
    left_at = np.where(made["user_id"] == "a", int(gone["left_at"][0].timestamp()) * 1_000_000, STAYED)
    day, left = leaving(made, left_at, users, at("2026-03-10T12:00"))
    assert day.tolist() == [3, 0, 8, 8], "half past midnight in Stockholm; gone before the second decision"
    assert left.tolist() == [True, True, False, False]
    day, left = leaving(made, left_at, users, at("2026-03-04T12:00"))
    assert day.tolist() == [2, 0, 2, 2]
    assert not left.any()


def test_who_has_left_is_out_of_reach_and_the_others_are_not_taken_for_them(one_thread: None) -> None:
    log = make_log(users=80, days=80, size=0.3, seed=3)
    made, rng = log.decisions, np.random.default_rng(3)
    first, last = int(made.time.min()), int(made.time.max())
    left_at = np.where(rng.random(80) < 0.4, first + (rng.random(80) * (last - first)).astype(np.int64), STAYED)
    histories = replace(log.histories, left_at=left_at)
    when = histories.left(made)
    reached = pl.Series("reachable_28", when > made.time + 28 * 86_400_000_000)
    closed = pl.col("matured_28d") <= log.end
    outcomes = log.outcomes.with_columns(reached).with_columns(pl.when(closed).then(pl.col("reachable_28")))
    outcomes = outcomes.with_columns(returned_28d=pl.when(closed).then(pl.col("return_days") <= 28))
    model, quality = train_rewards(
        histories, made, outcomes, log.end, log.catalog, replace(SMALL, taste=0, train=TrainSettings(epochs=1)), 0
    )
    told = model.outcomes(model.encode(histories, made))["reachable_28"]
    gone = when < made.time
    assert gone.any()
    assert (told[gone] == 0.0).all()
    assert told[~gone].mean() == pytest.approx(reached.to_numpy()[~gone].mean(), abs=0.1)
    assert quality["heads"]["reachable_28"]["auc"] > 0.75
    alone = model.apart(model.encode(histories, made))
    assert all((part.outcomes(states)["reachable_28"][gone] == 0.0).all() for part, states in alone)
    staying = model.outcomes(model.encode(replace(histories, left_at=np.zeros(0, np.int64)), made))["reachable_28"]
    np.testing.assert_array_equal(staying[~gone], told[~gone])
    assert (staying[gone] > 0.1).all(), "nobody is known to have left"
