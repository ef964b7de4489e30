"""One pass over a log in blocks: the same numbers however it is cut, from a file too, and intervals that cover."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from eval.actions import ActionBlock, action_rounds
from eval.estimators import ESTIMATORS, point_and_influence
from eval.intervals import from_shares
from eval.off_policy import OffPolicySettings, OffPolicyValue, in_blocks, off_policy_value
from eval.rounds import LoggedRounds, checked_columns, parquet_rounds
from eval.simulated_logs import BanditLog
from eval.slope import slope
from eval.support import SupportSettings

LOG = BanditLog(users=400, rounds=5, user_effect=0.5)
ANY = SupportSettings(min_effective_users=0)


def numbers(value: OffPolicyValue) -> list[float]:
    """Everything an answer says."""
    parts = [[e.value, e.lo, e.hi, e.diff, e.ess, e.parameter or 0.0] for e in value.estimates.values()]
    return [*np.array(parts, float).ravel(), value.support.ess_users, value.support.pareto_k or 0.0, value.support.ess]


@given(
    rows=st.integers(90, 1999), seed=st.integers(0, 5), kind=st.sampled_from(["asymptotic", "bootstrap", "bernstein"])
)
@settings(max_examples=6, deadline=None)
def test_blocks_give_what_the_whole_log_gives(rows: int, seed: int, kind: str) -> None:
    log = LOG.draw(np.random.default_rng(seed))
    order = np.random.default_rng(seed).permutation(2000)
    mixed = LoggedRounds(
        **{name: None if column is None else np.asarray(column)[order] for name, column in log.__dict__.items()}
    )
    how = OffPolicySettings(interval=kind, draws=50)
    whole = off_policy_value(log, how)
    cut = off_policy_value(in_blocks(mixed, rows), how)
    assert numbers(cut) == pytest.approx(numbers(whole), rel=1e-9, abs=1e-12)


def test_a_file_gives_what_memory_gives(tmp_path: Path) -> None:
    log = LOG.draw(np.random.default_rng(0))
    columns = {name: column for name, column in log.__dict__.items() if column is not None}
    columns["user"] = np.array([f"listener {user}" for user in log.user])
    positions = np.log(np.random.default_rng(1).uniform(0.4, 0.6, (2000, 3)))
    frame = pl.DataFrame(columns).with_columns(
        position_log=pl.Series(list(positions)), position_new=pl.Series(list(positions))
    )
    frame.write_parquet(tmp_path / "log.parquet", row_group_size=700)
    ours = replace(log, position_log=positions, position_new=positions)
    found = off_policy_value(parquet_rounds(tmp_path / "log.parquet", rows=300), OffPolicySettings())
    assert "pi" in found.estimates
    assert numbers(found) == pytest.approx(numbers(off_policy_value(ours, OffPolicySettings())), rel=1e-9)


def test_memory_does_not_grow_with_rounds() -> None:
    block = LOG.draw(np.random.default_rng(0))  # 2,000 rounds of 400 users

    def rounds(blocks: int) -> Iterator[LoggedRounds]:
        return (block for _ in range(blocks))

    peaks = []
    for blocks in (100, 300):
        tracemalloc.start()
        off_policy_value(rounds(blocks), OffPolicySettings(("dr", "snips")))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_every_estimator_says_what_it_is() -> None:
    for name, estimator in ESTIMATORS.items():
        assert estimator.name == name
        assert estimator.formula
        assert estimator.assumption
        assert estimator.paper
        assert not estimator.grid or estimator.grid[0] in (np.inf, 0.0)  # the first candidate is unbiased


def test_weak_hyperparameters_leave_dr_as_it_is_and_strong_ones_leave_the_model() -> None:
    columns = checked_columns(LOG.draw(np.random.default_rng(2)))
    dr, dm = (point_and_influence(name, columns)[0] for name in ("dr", "dm"))
    for name, none, all_of_it in (("switch_dr", np.inf, 0.0), ("dros", np.inf, 1e-12), ("sgdr", 0.0, None)):
        assert point_and_influence(name, columns, none)[0] == pytest.approx(dr)
        if all_of_it is not None:
            assert point_and_influence(name, columns, all_of_it)[0] == pytest.approx(dm, abs=1e-9)


def test_slope_takes_bias_only_while_it_cannot_be_told_from_noise() -> None:
    rng = np.random.default_rng(3)
    common, noise = rng.normal(size=500), rng.normal(size=500)
    noisy = (common + 3 * noise) / 500  # the unbiased candidate
    calm = common / 500
    shares = [noisy - noisy.mean(), calm - calm.mean()]
    apart = from_shares(0.0, shares[0] - shares[1]).se
    assert slope([1.0, 1.0 + 0.5 * apart], shares) == 1
    assert slope([1.0, 1.0 + 5.0 * apart], shares) == 0


def test_tuned_estimators_have_honest_intervals() -> None:
    """A model that is wrong and weights worth shrinking: what tuning gains it must not pay for with coverage."""
    world = BanditLog(users=800, rounds=3, shift=0.9, user_effect=0.5, model=0.3)
    rng, names, runs = np.random.default_rng(4), ("clipped", "switch_dr", "dros", "sgdr"), 60
    inside = dict.fromkeys(names, 0)
    for _ in range(runs):
        value = off_policy_value(world.draw(rng), OffPolicySettings(names, support=ANY))
        for name, found in value.estimates.items():
            assert found.lo is not None
            assert found.hi is not None
            inside[name] += found.lo <= world.truth <= found.hi
    assert min(inside.values()) >= 53, inside


def test_bootstrap_and_sandwich_agree_and_bernstein_is_wider() -> None:
    log = LOG.draw(np.random.default_rng(5))
    spans = {}
    for kind in ("asymptotic", "bootstrap", "bernstein"):
        found = off_policy_value(log, OffPolicySettings(("snips", "dr"), interval=kind)).estimates["dr"]
        assert found.hi is not None
        assert found.lo is not None
        spans[kind] = found.hi - found.lo
    assert spans["bootstrap"] == pytest.approx(spans["asymptotic"], rel=0.1)
    assert spans["bernstein"] > 1.3 * spans["asymptotic"]


def test_the_same_seed_gives_the_same_bootstrap() -> None:
    log = LOG.draw(np.random.default_rng(6))
    how = OffPolicySettings(("snips",), interval="bootstrap", draws=100, seed=3)
    assert off_policy_value(log, how) == off_policy_value(log, how)


def test_a_refusal_says_how_many_users_would_do() -> None:
    support = off_policy_value(
        BanditLog(users=150, rounds=4).draw(np.random.default_rng(7)), OffPolicySettings()
    ).support
    assert support.refused is not None
    assert "it takes about" in support.refused
    needed = [support.exploration[share] for share in ("0.01", "0.1", "1")]
    assert needed == sorted(needed, reverse=True)
    more = BanditLog(users=int(needed[-1]) * 3, rounds=4).draw(np.random.default_rng(8))
    assert off_policy_value(more, OffPolicySettings()).support.refused is None


def test_actions_never_logged_refuse_whole_actions_and_not_their_clusters() -> None:
    """30% of the new policy is on actions that logging never takes; it takes every cluster of them."""
    rng, n, cluster = np.random.default_rng(0), 4000, np.array([0, 0, 1, 1, 2, 2])
    p_log = np.array([0.4, 0.0, 0.3, 0.0, 0.3, 0.0])
    p_new = np.array([0.3, 0.1, 0.1, 0.1, 0.3, 0.1])
    of_cluster = np.array([1.0, 2.0, 4.0])[cluster]
    action = rng.choice(6, size=n, p=p_log)
    block = ActionBlock(
        action,
        np.tile(p_log, (n, 1)),
        np.tile(p_new, (n, 1)),
        of_cluster[action] + rng.normal(size=n),
        np.arange(n) // 2,
        np.tile(0.5 * of_cluster, (n, 1)),
    )
    found = off_policy_value(action_rounds(block, cluster), OffPolicySettings())
    assert found.support.off_support == pytest.approx(0.3)
    assert found.support.refused is not None and "30% of the new policy's choices" in found.support.refused
    assert found.estimates["ips"].value is None and found.estimates["dr"].value is None
    for name in ("mips", "offcem"):
        estimate = found.estimates[name]
        assert estimate.lo is not None and estimate.hi is not None, estimate.refused
        assert estimate.lo < float(p_new @ of_cluster) < estimate.hi
    # A cluster that was never logged is missed by the clusters' weights as well.
    lost = off_policy_value(action_rounds(block, np.array([0, 1, 2, 2, 3, 3])), OffPolicySettings())
    assert lost.estimates["mips"].value is None


def test_bad_blocks_are_one_clear_line() -> None:
    log = LOG.draw(np.random.default_rng(9))
    without = replace(log, q=None, v=None)
    with pytest.raises(InputError, match="none"):
        off_policy_value([], OffPolicySettings())
    with pytest.raises(InputError, match="lacks a column"):
        off_policy_value([log, without], OffPolicySettings())
    with pytest.raises(InputError, match="interval 'exact'"):
        off_policy_value(log, OffPolicySettings(interval="exact"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="estimator 'magic'"):
        off_policy_value(log, OffPolicySettings(("magic",)))
    with pytest.raises(InputError, match=r"embedding_weight.*row 3"):
        off_policy_value(
            replace(log, embedding_weight=np.where(np.arange(2000) == 3, np.nan, 1.0)), OffPolicySettings()
        )
    with pytest.raises(InputError, match="position_log and position_new: one is missing"):
        off_policy_value(replace(log, position_log=np.zeros((2000, 2))), OffPolicySettings())
    with pytest.raises(InputError, match="user: None in row 7"):
        off_policy_value(replace(log, user=np.where(np.arange(2000) == 7, None, log.user)), OffPolicySettings())
    inside, beyond = (replace(log, off_support=np.full(2000, share)) for share in (0.01, 1.2))
    with pytest.raises(InputError, match="lies between 0 and 1"):
        off_policy_value(beyond, OffPolicySettings())
    for first, second, words in (
        (inside, log, "off_support: some blocks"),
        (log, replace(log, log_p_log=None), "log_p_log: missing"),
        (replace(log, log_p_log=None), log, "a later block has propensities"),
    ):
        with pytest.raises(InputError, match=words):
            off_policy_value([first, second], OffPolicySettings())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"draws": 3}, "draws: 3"),
        ({"parameters": {"clip": 5.0}}, "estimator 'clip' is not known"),
        ({"parameters": {"dr": 5.0}}, "dr has none; those that have: clipped"),
        ({"parameters": {"dros": np.nan}}, "dros is nan"),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        OffPolicySettings(**wrong)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user": ["a", None, "b"]}, "user is empty in 1 rows"),
        ({"reward": ["x", "y", "z"]}, "reward is .*no numbers"),
        ({"position_log": [[-1.0], None, [-1.0]]}, "position_log is .*in places empty"),
        ({"position_log": [[-1.0], [-1.0, -1.0], [-1.0]]}, r"lists of \[1, 2\]"),
    ],
)
def test_a_bad_file_is_one_clear_line(change: dict[str, list[object]], words: str, tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    good = {"log_p_log": [-1.0] * 3, "log_p_new": [-1.0] * 3, "reward": [0.0] * 3, "user": ["a", "b", "c"]}
    pl.DataFrame(good | change).write_parquet(file)
    with pytest.raises(InputError, match=words):
        off_policy_value(parquet_rounds(file), OffPolicySettings())
    file.write_text("not Parquet")
    for path in (file, tmp_path / "nowhere.parquet"):
        with pytest.raises(InputError, match="no Parquet file"):
            next(parquet_rounds(path))
