"""Power and duration: textbook numbers, and plans that keep what they promise."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from lifelines.statistics import sample_size_necessary_under_cph
from scipy.stats import norm

from data.errors import InputError
from eval.experiments.metric import parse_metrics
from eval.experiments.plan import Plan, PlanSettings, plan
from eval.experiments.sample import Sample
from eval.experiments.traffic import Traffic
from tests.eval.experiments.made_up import experiment

HALVES = {"control": 0.5, "treatment": 0.5}


def planned(*lines: str, log: Sample | None = None, daily: float = 1000, **settings: object) -> Plan:
    given = {"shares": HALVES, "traffic": Traffic.flat(daily)} | settings
    return plan(parse_metrics(list(lines)), PlanSettings(**given), log)  # type: ignore[arg-type]


def test_one_metric_needs_the_textbook_number_of_users() -> None:
    """n an arm = 2 sd^2 (z_{1-alpha/2} + z_{power'})^2 / change^2, with power' paying for the false alarms."""
    found = planned("retention effect=2% baseline=0.19").metrics[0]
    beta = 1 - 0.8 - 0.025 - 0.001
    wanted = 4 * 0.19 * 0.81 * (norm.isf(0.025) + norm.isf(beta)) ** 2 / 0.0038**2
    assert found.users == pytest.approx(wanted, rel=1e-3)
    assert found.days == -(-found.users // 1000)


def test_cuped_and_clustering_move_the_need_as_theory_says() -> None:
    plain = planned("y effect=0.1 baseline=5 sd=2").users
    assert planned("y effect=0.1 baseline=5 sd=2 correlation=0.7").users == pytest.approx(0.51 * plain, rel=1e-3)
    design = (1 + 3 * 0.25) / 4
    assert planned("y effect=0.1 baseline=5 sd=2 rows=4 icc=0.25").users == pytest.approx(design * plain, rel=1e-3)


def test_more_metrics_cost_more_and_the_neediest_decides() -> None:
    alone = planned("a effect=0.1 baseline=5 sd=2")
    both = planned("a effect=0.1 baseline=5 sd=2", "b effect=0.1 baseline=5 sd=3 window=28")
    guarded = planned("a effect=0.1 baseline=5 sd=2", "g role=guardrail margin=1% baseline=5 sd=1")
    assert both.metrics[0].alpha == pytest.approx(0.025)
    assert both.metrics[0].users > alone.users
    assert (both.longest, both.days) == ("b", both.enrol_days + 28)
    assert guarded.metrics[0].power == pytest.approx(1 - (0.2 - 0.026) / 2)
    assert guarded.metrics[0].alpha == guarded.metrics[1].alpha == 0.05


def test_a_sequential_plan_pays_for_its_looks() -> None:
    fixed = planned("y effect=0.1 baseline=5 sd=2").users
    assert 1.4 < planned("y effect=0.1 baseline=5 sd=2", sequential=True).users / fixed < 2.2


def test_a_hazard_ratio_is_schoenfelds() -> None:
    found = planned("back kind=survival window=7 estimand=hazard_ratio effect=10% baseline=0.3").metrics[0]
    treated = 1 - 0.7**1.1
    theirs = sum(sample_size_necessary_under_cph(found.power, 1.0, treated, 0.3, 1.1, found.alpha))
    assert found.users == pytest.approx(theirs, abs=2)
    assert found.days == -(-found.users // 1000) + 7


@pytest.mark.parametrize(
    "line",
    [
        "y effect=0.5 covariate=before",
        "y kind=ratio per=x effect=0.1",
        "time kind=survival observed=back window=7 effect=0.4",
    ],
)
def test_a_plan_from_a_log_has_the_power_it_promises(line: str) -> None:
    """The planned error of the difference, against the error that an experiment of that size has."""
    log = experiment(4000, rows=3, seed=1)
    found = planned(line, log=log).metrics[0]
    from eval.experiments.effect import effect

    users = found.users
    measured = effect(experiment(users, rows=3, seed=2), parse_metrics([line])[0], "treatment").se
    wanted = found.change / (norm.isf(found.alpha / 2) + norm.isf(1 - found.power))
    assert measured == pytest.approx(wanted, rel=0.12)
    assert found.detectable[7] > found.detectable[28]


def test_uneven_arms_need_more_users() -> None:
    even = planned("y effect=0.1 baseline=5 sd=2").users
    uneven = planned("y effect=0.1 baseline=5 sd=2", shares={"control": 0.9, "treatment": 0.1}).users
    assert uneven == pytest.approx(even / (4 * 0.9 * 0.1), rel=0.01)


def test_traffic_of_a_log_is_its_new_users() -> None:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    days = [0, 0, 0, 0, 1, 1, 2, 3, 9]
    users = ["a", "b", "c", "d", "a", "e", "b", "f", "a"]
    traffic = Traffic.of_log(pl.Series(users), pl.Series([start + timedelta(days=d) for d in days]))
    assert [traffic.users_after(d) for d in (0, 1, 2, 3, 4, 10)] == [0, 4, 5, 5, 6, 6]
    assert traffic.days_for(5) == 2
    assert traffic.after == pytest.approx(1 / 7)
    assert traffic.days_for(7) == 17
    with pytest.raises(InputError, match="no more than 6 ever come"):
        Traffic((6.0,), 0.0).days_for(7)


@pytest.mark.parametrize(
    ("lines", "settings", "says"),
    [
        (["y role=guardrail margin=1% baseline=2 sd=1"], {}, "no success metric"),
        (["y baseline=2 sd=1"], {}, "say which change would matter"),
        (["y effect=2%"], {}, "say its mean"),
        (["y effect=2% baseline=4"], {}, "say how much it varies"),
        (["y effect=2% baseline=0 sd=1"], {}, "is no change"),
        (["y effect=2% baseline=2 sd=1"], {"power": 0.99}, "ask for less"),
        (["y effect=2% baseline=2 sd=1"], {"power": 1.5}, "between 0 and 1"),
        (["y effect=2% baseline=2 sd=1"], {"shares": {"a": 0.5, "b": 0.6}}, "sum to 1"),
        (["y effect=2% baseline=2 sd=1"], {"daily": float("nan")}, "daily_users is nan"),
        (["y kind=survival window=7 estimand=hazard_ratio effect=10% baseline=1.3"], {}, r"must be in \(0, 1\)"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_error(lines: list[str], settings: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        planned(*lines, **settings)  # type: ignore[arg-type]


def test_a_metric_that_does_not_vary_in_the_log_is_refused() -> None:
    log = experiment(50)
    flat = Sample(log.rows.with_columns(y=pl.lit(2.0)), log.user, log.arm, log.arms)
    with pytest.raises(InputError, match="does not vary in this log"):
        planned("y effect=0.1", log=flat)
    assert np.isfinite(planned("y effect=0.1", log=log).users)
