"""Off-policy values on the page: what fails a check is no answer, and what an interval does not know is said."""

import json

import numpy as np

from eval.diagnostics import Check, overlap
from eval.intervals import Interval
from eval.off_policy import OffPolicySettings, off_policy_value
from eval.report import render, report_numbers
from eval.report.answer import answer
from eval.report.inputs import OffPolicySection, ReportInputs
from eval.report.metrics import number, signed
from eval.rounds import LoggedRounds
from eval.sensitivity import sensitivity


def off_policy_inputs(passed: bool) -> ReportInputs:
    """A log of a policy near the one that wrote it, better by far, whose placebo passes or does not."""
    rng = np.random.default_rng(0)
    n, user = 6000, np.arange(6000) // 6
    ratio = rng.normal(0.0, 0.3, n)
    log = LoggedRounds(np.full(n, -9.0), -9.0 + ratio - 0.045, rng.normal(3.0 + ratio, 1.0), user)
    check = Check("interactions before the decision", 0.0, Interval(0.2, 0.1, 0.3, 0.05, 1000), 4.0, 1e-4, passed)
    values = {"ppo": off_policy_value(log, OffPolicySettings())}
    by = {"ppo": overlap(log, np.where(user < 900, "heavy", "light"))}
    left_out = {"no propensity": 12}
    section = OffPolicySection("active_days_7", values, {"ppo": [check]}, by, {"ppo": sensitivity(log)}, left_out)
    return ReportInputs(run="r", source="s", preset="nano", off_policy=section)


def test_a_value_that_fails_a_check_is_no_answer() -> None:
    report = report_numbers(off_policy_inputs(passed=True))
    assert (report["answer"]["verdict"], report["answer"]["policy"]) == ("gain", "ppo")
    report = report_numbers(off_policy_inputs(passed=False))
    assert (report["answer"]["verdict"], report["answer"]["policy"]) == ("unknown", None)
    assert any("fail a check (interactions before the decision)" in says["says"] for says in report["answer"]["points"])
    assert "PPO: a check failed" in render(report)


def test_what_the_interval_does_not_know_is_said_and_shown() -> None:
    report = report_numbers(off_policy_inputs(passed=True))
    (doubt,) = [says["says"] for says in report["answer"]["points"] if says["what"] == "If the probabilities are wrong"]
    tips_at = report["ope_about"]["sensitivity"]["ppo"]["tips_at"]
    assert f"loses its sign where the odds are off by a factor of {tips_at:g}." in doubt
    heavy = json.loads(json.dumps(report))
    heavy["ope_about"]["support"]["ppo"]["pareto_k"] = 0.9
    assert any("tail k 0.90, above 0.7" in says["says"] for says in answer(heavy)["points"])
    page = render(report)
    assert "<td>light</td>" in page and "supported" in page
    assert "12 decisions with no propensity." in page
    for bound in report["ope_about"]["sensitivity"]["ppo"]["bounds"]:
        assert f"{signed(number(bound['lo']))} to {signed(number(bound['hi']))}" in page
