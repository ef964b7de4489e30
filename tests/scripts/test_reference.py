"""The reference results, smaller: intervals cover, support is asked for, and LOPE's order comes out."""

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
def test_lope_comes_out_ahead_where_actions_act_by_themselves_and_level_where_they_do_not() -> None:
    """As published: LOPE, then DR, then the surrogate index; at share 0 LOPE and the index are about equal."""
    found = long_term(100, 0, (0.0, 0.5, 1.0))
    for share in ("0.5", "1"):
        errors = {name: row["mse"] for name, row in found[share]["methods"].items()}
        assert errors["long experiment"] < errors["lope"] < errors["dr"] < errors["surrogate"], share
        assert found[share]["paired"]["lope - surrogate"]["hi"] < 0, share
    level = found["0"]["paired"]["lope - surrogate"]
    assert level["lo"] < 0 < level["hi"]
