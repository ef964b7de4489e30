"""The reference results, smaller: intervals cover, support is asked for, and LOPE's order comes out."""

import numpy as np
import pytest

from eval.simulated_logs import BanditLog
from scripts.reference import coverage, long_term


def test_nominal_intervals_cover_and_a_thin_log_is_refused() -> None:
    found = coverage(120, 0, {"users": BanditLog(users=500, rounds=5, user_effect=0.5)})
    for name, share in found["users"].items():
        if name.endswith(("asymptotic", "bootstrap")):
            assert 0.9 <= share <= 1.0, name  # three standard errors of 120 draws around 95%
    assert found["users"]["refused"] == 0
    assert found["no support"]["refused"] == 1


@pytest.mark.nightly
def test_nominal_intervals_cover_between_93_and_97_percent_of_1000_logs() -> None:
    found = coverage(1000, 0)
    for log, row in found.items():
        shares = {name: share for name, share in row.items() if name.endswith(("asymptotic", "bootstrap"))}
        tuned = {name for name in shares if name.startswith(("clipped", "dros"))}
        for name, share in shares.items():
            assert 0.93 <= share <= (1.0 if name in tuned else 0.97), (log, name)  # tuned ones are widened on purpose


@pytest.mark.nightly
def test_lope_beats_dr_beats_ips_beats_the_surrogate_where_actions_act_by_themselves() -> None:
    found = long_term(100, 0, (1.0,))["1"]
    errors = {name: row["mse"] for name, row in found["methods"].items()}
    assert found["paired"]["lope - surrogate"]["hi"] < 0
    assert found["paired"]["ips - surrogate"]["hi"] < 0
    assert np.isfinite(list(errors.values())).all()
