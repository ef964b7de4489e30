"""The rule: ship, hold, roll back; and what it gets wrong over many experiments."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from data.errors import InputError
from eval.experiments.analyse import AnalysisSettings, analyse
from eval.experiments.decide import adjusted, decide, within_margin
from eval.experiments.effect import Effect
from eval.experiments.metric import parse_metric, parse_metrics
from eval.experiments.quality import Check, sample_ratio
from eval.experiments.sample import sample_of
from policy.assignment import checked_shares
from tests.eval.experiments.made_up import experiment

METRICS = parse_metrics(
    ["win", "other", "guard role=guardrail margin=0.3", "steps role=guardrail margin=0.3 better=down"]
)
OK = Check("sample ratio", 0.5, True, "")


def made(name: str, diff: float, se: float = 0.1) -> Effect:
    p = float(2 * norm.sf(abs(diff / se)))
    return Effect(
        name, "t", 1.0, 1.0 + diff, diff, diff - 1.96 * se, diff + 1.96 * se, se, p, None, None, None, 1000, 0, None
    )


def verdict(win: float, other: float = 0.0, guard: float = 0.0, steps: float = 0.0, check: Check = OK):
    diffs = {"win": win, "other": other, "guard": guard, "steps": steps}
    effects = {("t", name): made(name, diff) for name, diff in diffs.items()}
    better = adjusted({key: effects[key].p for key in [("t", "win"), ("t", "other")]}, "holm")
    worse = adjusted({key: found.p for key, found in effects.items()}, "holm")
    return decide(METRICS, effects, better, worse, [check], "t", 0.05)


def test_a_win_with_guardrails_held_ships() -> None:
    found = verdict(win=0.5)
    assert found.decision == "ship"
    assert found.reasons[0].startswith("win is better by 0.5")
    assert "guardrail guard is within its margin" in found.reasons[1]


def test_no_win_holds_and_says_so() -> None:
    assert verdict(win=0.1).decision == "hold"
    assert "no success metric" in verdict(win=0.1).reasons[0]


def test_a_guardrail_that_is_open_holds_a_win_back() -> None:
    found = verdict(win=0.5, guard=-0.15)  # could be 0.35 worse
    assert found.decision == "hold"
    assert "guardrail guard may be worse" in found.reasons[-1]
    assert verdict(win=0.5, steps=+0.15).decision == "hold"  # less is better there
    assert verdict(win=0.5, steps=-0.15).decision == "ship"


def test_harm_beyond_chance_rolls_back_whatever_else_wins() -> None:
    assert verdict(win=0.5, guard=-0.5).decision == "roll back"
    assert verdict(win=0.5, steps=+0.5).decision == "roll back"
    assert verdict(win=0.5, other=-0.5).decision == "roll back"
    # Worse beyond chance within its margin is still worse.
    assert verdict(win=-0.5).decision == "roll back"


def test_a_broken_experiment_is_not_read() -> None:
    found = verdict(win=0.5, guard=-0.5, check=Check("sample ratio", 1e-9, False, "60% of 50%"))
    assert found.decision == "hold"
    assert "find out why" in found.reasons[0]


def test_false_ships_and_alarms_stay_within_alpha_and_power_is_as_planned() -> None:
    """By simulation on the scale of z: 2 success metrics, 2 guardrails, planned as eval.experiments.plan does."""
    rng, se = np.random.default_rng(0), 0.1
    ships = {"null": 0, "effect": 0}
    alarms = 0
    beta = (1 - 0.8 - 0.025) / 3
    effect = (norm.isf(0.05 / 4) + norm.isf(beta)) * se  # Bonferroni over two, two-sided
    margin = (norm.isf(0.025) + norm.isf(beta)) * se
    metrics = parse_metrics(["win", "other", *(f"g{i} role=guardrail margin={margin}" for i in range(2))])
    times = 400
    for _ in range(times):
        noise = rng.normal(0, se, 4)
        for case, shift in (("null", 0.0), ("effect", effect)):
            names = ("win", "other", "g0", "g1")
            effects = {("t", name): made(name, n + shift * (name == "win"), se) for name, n in zip(names, noise)}
            better = adjusted({("t", name): effects["t", name].p for name in names[:2]}, "holm")
            worse = adjusted({key: found.p for key, found in effects.items()}, "holm")
            decision = decide(metrics, effects, better, worse, [OK], "t", 0.05).decision
            ships[case] += decision == "ship"
            alarms += case == "null" and decision == "roll back"
    error = 3 * np.sqrt(0.025 * 0.975 / times)
    assert ships["null"] / times <= 0.025 + error  # one-sided half of alpha
    assert alarms / times <= 0.025 + error
    assert ships["effect"] / times >= 0.8 - 3 * np.sqrt(0.8 * 0.2 / times)


def test_adjusted_p_values_are_the_textbook_ones() -> None:
    p = {("t", str(i)): value for i, value in enumerate([0.01, 0.04, 0.03, 0.005])}
    assert list(adjusted(p, "holm").values()) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert list(adjusted(p, "bh").values()) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjusted({}, "holm") == {}
    with pytest.raises(InputError, match="choose holm or bh"):
        adjusted(p, "hope")  # type: ignore[arg-type]


def test_a_margin_in_percent_is_judged_on_the_relative_interval() -> None:
    metric = parse_metric("y role=guardrail margin=5%")
    with pytest.raises(InputError, match="needs a mean above zero"):
        within_margin(metric, made("y", 0.0))


def test_sample_ratio_of_two_three_and_few() -> None:
    assert sample_ratio({"a": 500, "b": 520}, {"a": 0.5, "b": 0.5}, 0.001, False).passed
    assert not sample_ratio({"a": 50_000, "b": 52_000}, {"a": 0.5, "b": 0.5}, 0.001, False).passed
    assert sample_ratio({"a": 9_000, "b": 1_020}, {"a": 0.9, "b": 0.1}, 0.001, False).passed
    assert not sample_ratio({"a": 9_000, "b": 9_000, "c": 9_700}, dict.fromkeys("abc", 1 / 3), 0.001, False).passed
    with pytest.raises(InputError, match="name the same"):
        sample_ratio({"a": 5, "b": 5}, {"a": 0.5, "c": 0.5}, 0.001, False)


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"a": 0.5, "b": 0.6}, "must sum to 1"),
        ({"a": float("nan"), "b": 0.5}, "lies between 0 and 1"),
        ({"a": 0.0, "b": 1.0}, "lies between 0 and 1"),
        ({"a": 1.0}, "needs two"),
    ],
)
def test_shares_that_are_none_are_refused(shares: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        checked_shares(shares)


def test_an_outcome_known_less_often_in_one_arm_fails_the_checks() -> None:
    rows = experiment(2000).rows
    lost = (pl.col("arm") == "treatment") & (pl.col("before") > 11)
    rows = rows.with_columns(y=pl.when(~lost).then("y"))
    found = analyse(
        sample_of(rows, "user_id", "arm"), [parse_metric("y")], {"control": 0.5, "treatment": 0.5}, AnalysisSettings()
    )
    assert found.verdicts["treatment"].decision == "hold"
    assert found.verdicts["treatment"].reasons[0].startswith("y known fails")


def test_a_placebo_that_differs_fails_the_checks_and_is_no_success() -> None:
    rows = experiment(2000).rows.with_columns(before=pl.col("before") + 2 * (pl.col("arm") == "treatment"))
    found = analyse(
        sample_of(rows, "user_id", "arm"),
        parse_metrics(["y", "before role=quality"]),
        {"control": 0.5, "treatment": 0.5},
        AnalysisSettings(),
    )
    assert found.verdicts["treatment"].decision == "hold"
    assert "placebo before" in found.verdicts["treatment"].reasons[0]
    assert ("treatment", "before") not in found.better
