"""Predictability: nothing for people without memory at any rate, much for people with a clock, less from little."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from data.predictability import PredictabilitySettings, concentration, predictability, ridge_logistic

DAYS = 70
Hours = NDArray[np.bool_]


def people_of(
    kinds: list[tuple[str, int, Callable[[np.random.Generator], Hours]]], seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """(visits, people, kinds) of `count` people of each kind, who give (DAYS, 24) hours with a visit."""
    rng, rows, about = np.random.default_rng(seed), [], []
    for name, count, person in kinds:
        for _ in range(count):
            user = len(about)
            day, hour = np.nonzero(person(rng))
            rows.append(pl.DataFrame({"user": [user] * len(day), "day": day + 19_000, "hour": hour}))
            about.append((user, int(day[0]) + 19_000, 19_000 + DAYS - 1, name))
    visits = pl.concat(rows).with_columns(hour=(pl.col("day") + 3) % 7 * 24 + pl.col("hour"))
    people = pl.DataFrame(about, schema=["user", "first_day", "last_day", "kind"], orient="row")
    return visits, people.drop("kind"), people.select("user", "kind")


def memoryless(per_week: float) -> Callable[[np.random.Generator], Hours]:
    """Comes at any hour of day and night with the same probability."""
    return lambda rng: rng.random((DAYS, 24)) < per_week / 168


def workday(share: float = 0.9, late: int = 0) -> Callable[[np.random.Generator], Hours]:
    """Comes at eight o'clock on `share` of workdays, from day `late` on."""

    def person(rng: np.random.Generator) -> Hours:
        hours = np.zeros((DAYS, 24), dtype=bool)
        weekday = (np.arange(DAYS) + 19_000 + 3) % 7
        hours[:, 8] = (weekday < 5) & (rng.random(DAYS) < share)
        hours[:late] = False
        return hours

    return person


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, float]]:
    """kind -> predictability (ratio of sums), what of it is the person's own, mean AUC."""
    kinds = [(f"memoryless {rate}", 60, memoryless(rate)) for rate in (1, 4, 16)]
    kinds += [("workday", 20, workday()), ("workday, new", 20, workday(late=DAYS - 18))]
    visits, people, about = people_of(kinds)
    found = predictability(visits, people).join(about, on="user")
    losses = found.group_by("kind").agg(pl.col("loss", "loss_rate", "loss_crowd").sum(), pl.col("auc").mean())
    return {
        row["kind"]: {
            "gain": 1 - row["loss"] / row["loss_rate"],
            "own": (row["loss_crowd"] - row["loss"]) / row["loss_rate"],
            "auc": row["auc"],
        }
        for row in losses.iter_rows(named=True)
    }


def test_people_without_memory_are_not_predictable_however_often_they_come(told: dict[str, dict[str, float]]) -> None:
    for rate in (1, 4, 16):
        assert told[f"memoryless {rate}"]["gain"] == pytest.approx(0, abs=0.08), rate
        assert told[f"memoryless {rate}"]["auc"] == pytest.approx(0.5, abs=0.06), rate


def test_eight_o_clock_on_workdays_is_predictable(told: dict[str, dict[str, float]]) -> None:
    assert told["workday"]["gain"] > 0.5
    assert told["workday"]["own"] > 0.2
    assert told["workday"]["auc"] > 0.95


def test_what_is_known_of_a_person_is_shrunk_where_there_is_little_of_it(told: dict[str, dict[str, float]]) -> None:
    assert 0 < told["workday, new"]["gain"] < told["workday"]["gain"] - 0.05


def test_nothing_of_the_held_out_days_is_learned_before_they_are_told() -> None:
    """Moving visits of the last day changes only what that day is scored by."""
    visits, people, _ = people_of([("a", 20, memoryless(6)), ("b", 5, workday())])
    last = 19_000 + DAYS - 1
    settings = PredictabilitySettings(held_out=1 / DAYS)
    without = predictability(visits.filter(pl.col("day") < last), people, settings)
    with_it = predictability(visits, people, settings)
    assert without["loss_rate"].is_between(0, 1).all()
    quiet = with_it.filter(pl.col("held_visits") == 0).join(without, on="user", suffix="_without")
    assert quiet.height > 5
    for loss in ("loss", "loss_rate", "loss_crowd"):
        assert quiet[loss].to_numpy() == pytest.approx(quiet[f"{loss}_without"].to_numpy())


def test_people_followed_too_shortly_are_left_out() -> None:
    visits = pl.DataFrame({"user": [0, 0, 1], "day": [100, 102, 106], "hour": [3, 60, 8]})
    people = pl.DataFrame({"user": [0, 1], "first_day": [100, 106], "last_day": [110, 110]})
    assert predictability(visits, people)["user"].to_list() == [0]
    assert predictability(visits, people.tail(1)).is_empty()


def test_concentration_is_found_again() -> None:
    rng = np.random.default_rng(0)
    mean = np.array([0.5, 0.3, 0.2])
    total = rng.integers(1, 40, 4000)
    for truth in (1.0, 8.0):
        count = np.array([rng.multinomial(n, p) for n, p in zip(total, rng.dirichlet(truth * mean, 4000))])
        assert concentration(count.astype(float), total.astype(float), mean) == pytest.approx(truth, rel=0.1)


def test_ridge_logistic_is_a_stationary_point_and_shrinks() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(2000), rng.normal(size=(2000, 2))])
    came = rng.random(2000) < 1 / (1 + np.exp(1 - 2 * x[:, 1]))
    beta = ridge_logistic(x, np.zeros(2000), came, 3.0)
    slope = x.T @ (came - 1 / (1 + np.exp(-x @ beta)))
    assert slope[1:] == pytest.approx(3.0 * beta[1:], abs=1e-5)
    assert np.abs(ridge_logistic(x, np.zeros(2000), came, 1e6)[1:]).max() < 0.01
