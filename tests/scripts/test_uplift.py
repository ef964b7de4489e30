from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from data.logs import Logs
from scripts.uplift import UpliftArguments, columns, trial_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def small_log() -> Logs:
    """Four people, two arms. One opens after the decision, one opened before it."""
    users = pl.DataFrame(
        {"user_id": list("abcd"), "attributes": [f'{{"spent": {n}, "town": "{t}"}}' for n, t in enumerate("xyxx")]}
    )
    decisions = pl.DataFrame(
        {
            "decision_id": list("abcd"),
            "user_id": list("abcd"),
            "time": [START] * 4,
            "arm": ["mail", "mail", "none", "other"],
            "propensity": [0.4, 0.4, 0.2, 0.4],
        }
    )
    events = pl.DataFrame(
        {"user_id": ["a", "b"], "time": [START + timedelta(days=1), START - timedelta(days=1)], "action": ["open"] * 2}
    )
    return Logs(pl.DataFrame({"item_id": ["i"]}), events, decisions, users)


def asked(**changes: str) -> UpliftArguments:
    return UpliftArguments(**{"logs": "log", "treated": "mail", "control": "none", **changes})


def test_only_what_came_after_counts_and_chances_are_of_the_two_arms() -> None:
    trial = trial_of(small_log(), asked())
    assert trial.treated.tolist() == [True, True, False]
    assert trial.outcome.tolist() == [1.0, 0.0, 0.0]
    assert trial.propensity is not None
    np.testing.assert_allclose(trial.propensity, 2 / 3)
    assert trial_of(small_log(), asked(propensities="estimated")).propensity is None


def test_a_chance_that_differs_within_an_arm_is_no_logged_chance_of_two_arms() -> None:
    logs = small_log()
    assert logs.decisions is not None
    chances = logs.decisions.with_columns(propensity=pl.Series([0.4, 0.1, 0.2, 0.4]))
    with pytest.raises(InputError, match=r"of arm 'mail' is from 0\.1 to 0\.4.*add --propensities estimated"):
        trial_of(replace(logs, decisions=chances), asked())
    assert trial_of(replace(logs, decisions=chances), asked(propensities="estimated")).propensity is None
    others = logs.decisions.with_columns(propensity=pl.Series([0.4, 0.4, 0.2, 0.9]))  # of an arm not compared
    assert trial_of(replace(logs, decisions=others), asked()).propensity is not None


def test_whose_decisions_they_are_is_kept() -> None:
    logs = small_log()
    assert logs.decisions is not None
    twice = logs.decisions.with_columns(user_id=pl.Series(["a", "b", "a", "d"]))
    assert trial_of(replace(logs, decisions=twice), asked()).persons.tolist() == [0, 1, 0]


def test_words_become_columns_and_numbers_stay() -> None:
    table = columns(pl.DataFrame({"spent": [1, None], "town": ["x", "y"]}))
    assert table["spent"].to_list() == [1.0, -1.0]
    assert table["town=x"].to_list() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"treated": "sms"}, "no arm 'sms'"), ({"outcome": "dance"}, "nobody did"), ({"propensities": "?"}, "logged or")],
)
def test_what_the_log_lacks_is_named(changes: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        trial_of(small_log(), asked(**changes))
