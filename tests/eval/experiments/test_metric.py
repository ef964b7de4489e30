"""What a line about a metric means, and what a wrong one says."""

import pytest

from data.errors import InputError
from eval.experiments.metric import Change, parse_metric, parse_metrics


def test_a_line_says_all_of_a_metric() -> None:
    metric = parse_metric(
        "back kind=survival value=return_days observed=return_observed window=14 better=down effect=5%"
    )
    assert (metric.name, metric.role, metric.kind, metric.value) == ("back", "success", "survival", "return_days")
    assert metric.effect == Change(0.05, relative=True)
    assert metric.effect.of(4.0) == pytest.approx(0.2)
    assert metric.sign == -1
    assert metric.columns == ["return_days", "return_observed"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("role=success", "begin with its name"),
        ("y colour=red", "is not understood"),
        ("y role=hero", "choose success, guardrail, quality"),
        ("y effect=big", "is not a number"),
        ("y effect=nan", "is not a number"),
        ("y effect=-2%", "give its size, above 0"),
        ("y kind=ratio", "needs its denominator"),
        ("y kind=survival", "add window=14"),
        ("y role=guardrail", "add margin=1%"),
        ("y icc=1.5", "icc in"),
        ("y kind=survival window=7 estimand=hazard_ratio covariate=x", "CUPED does not go with"),
    ],
)
def test_a_wrong_line_is_one_clear_error(line: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_metric(line)


def test_metrics_need_a_name_each() -> None:
    with pytest.raises(InputError, match="none given"):
        parse_metrics([])
    with pytest.raises(InputError, match="'y' is there twice"):
        parse_metrics(["y", "y role=quality"])
