"""Two public trials, read as their readers give them: the published effects come back."""

from datetime import timedelta

import polars as pl
import pytest

from data.readers import cookie_cats, hillstrom
from eval.experiments.analyse import Analysis, AnalysisSettings, analyse
from eval.experiments.decompose import decompose
from eval.experiments.effect import Reading
from eval.experiments.metric import parse_metric, parse_metrics
from eval.experiments.sample import Sample, sample_of
from eval.experiments.segments import SegmentSettings, effects_by, honest_segments
from eval.experiments.source import attributes
from tests.data.readers.round_trip import real_log


@pytest.fixture(scope="module")
def cookies() -> Sample:
    logs = cookie_cats.read(real_log("cookie_cats_ab"))
    assert logs.decisions is not None
    start = logs.events["time"].min()
    back = logs.events.filter(pl.col("time") > start).select("user_id", day=(pl.col("time") - start).dt.total_days())
    rows = logs.decisions.select("user_id", "arm")
    for day in (1, 7):
        there = back.filter(pl.col("day") == day).select("user_id", pl.lit(1.0).alias(f"day_{day}"))
        rows = rows.join(there, on="user_id", how="left").with_columns(pl.col(f"day_{day}").fill_null(0.0))
    return sample_of(rows, "user_id", "arm", "gate_30")


@pytest.fixture(scope="module")
def mails() -> Sample:
    logs = hillstrom.read(real_log("hillstrom_email_rct"))
    assert logs.decisions is not None and logs.users is not None
    told = attributes(logs.users)
    assert told is not None
    sent = logs.decisions["time"].min()
    assert logs.events["time"].max() - sent <= timedelta(days=14)
    rows = logs.decisions.select("user_id", "arm").join(told, on="user_id")
    for name, action in (("visit", "open"), ("bought", "convert")):
        users = logs.events.filter(pl.col("action") == action).select("user_id").unique()
        rows = rows.join(users.with_columns(pl.lit(1.0).alias(name)), on="user_id", how="left")
    spend = logs.events.group_by("user_id").agg(spend=pl.col("value").sum())
    rows = rows.join(spend, on="user_id", how="left")
    return sample_of(rows.with_columns(pl.col("visit", "bought", "spend").fill_null(0.0)), "user_id", "arm", "no_email")


def read(sample: Sample, *lines: str, planned: int | None = None) -> Analysis:
    shares = {arm: 1 / len(sample.arms) for arm in sample.arms}
    return analyse(sample, parse_metrics(list(lines)), shares, AnalysisSettings(Reading(planned_users=planned)))


def test_the_later_gate_costs_retention_on_day_7_and_is_rolled_back(cookies: Sample) -> None:
    found = read(cookies, "day_7 effect=2%", "day_1 role=guardrail margin=2%")
    week, day = found.effects["gate_40", "day_7"], found.effects["gate_40", "day_1"]
    assert (week.control, week.treatment) == pytest.approx((0.1902, 0.1820), abs=5e-5)
    assert (day.control, day.treatment) == pytest.approx((0.4482, 0.4423), abs=5e-5)
    # The public analyses: a two-proportion z of 3.16 (p = .0016) on day 7, 1.78 (p = .074) on day 1.
    assert week.p == pytest.approx(0.0016, abs=5e-5)
    assert day.p == pytest.approx(0.0744, abs=5e-4)
    assert found.verdicts["gate_40"].decision == "roll back"
    assert found.checks["gate_40"][0].p == pytest.approx(0.0087, abs=2e-4)  # the known imbalance of 789 players


def test_looking_all_the_way_the_same_players_decide_nothing(cookies: Sample) -> None:
    found = read(cookies, "day_7 effect=2%", "day_1 role=guardrail margin=2%", planned=90_000)
    assert found.effects["gate_40", "day_7"].p == pytest.approx(0.035, abs=0.002)
    assert found.verdicts["gate_40"].decision == "hold"


def test_the_loss_of_players_of_both_days_is_mostly_of_day_7(cookies: Sample) -> None:
    found = decompose(cookies, "gate_40", ["day_1", "day_7"], draws=20)
    assert sum(part.value for part in found.parts) == pytest.approx(found.change, abs=1e-12)
    assert found.by("step")["day_7"] < found.by("step")["day_1"] < 0


def test_both_mailings_bring_visits_and_orders(mails: Sample) -> None:
    found = read(mails, "visit", "bought", "spend")
    published = {
        ("mens_email", "visit"): 0.0766,
        ("womens_email", "visit"): 0.0452,
        ("mens_email", "bought"): 0.0068,
        ("womens_email", "bought"): 0.0031,
        ("mens_email", "spend"): 0.770,
        ("womens_email", "spend"): 0.424,
    }
    for key, value in published.items():
        assert found.effects[key].diff == pytest.approx(value, abs=6e-4), key
        assert found.better[key] < 0.01
    assert {verdict.decision for verdict in found.verdicts.values()} == {"ship"}


def test_the_womens_mail_works_for_those_who_bought_womens_goods(mails: Sample) -> None:
    """The best known heterogeneity of this trial, found without being told."""
    visit = parse_metric("visit")
    by = effects_by(mails, visit, "womens_email", "womens", Reading(), SegmentSettings())
    without, having = (part.effect for part in by.segments)
    assert having.diff > 5 * without.diff
    assert by.heterogeneity < 1e-12
    columns = ["recency", "history", "mens", "womens", "zip_code", "newbie", "channel"]
    honest = honest_segments(mails, visit, "womens_email", columns, Reading(), SegmentSettings(depth=1))
    assert [part.where for part in honest.segments] == ["womens <= 0", "womens > 0"]
    assert honest.segments[1].p_adjusted < 1e-12
