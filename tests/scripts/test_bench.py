import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from policy.presets import NANO
from scripts.benches.catalog import bench_catalog
from scripts.benches.load import streak
from scripts.benches.measure import Measure
from scripts.benches.off_policy import bench_off_policy
from scripts.benches.outcomes import bench_outcomes
from scripts.benches.rewards import bench_rewards
from scripts.benches.rl import step_seconds
from scripts.benches.trie import bench_trie
from scripts.benches.world import bench_world

BENCH = Path(__file__).parents[2] / "scripts" / "bench.py"


def test_pandas_tells_the_same_labels():
    # The run raises where a label of ours and of pandas differ for any decision.
    lines = {measure.name: measure for measure in bench_outcomes(sizes=(50_000, 100_000), by_user=2_500)}
    assert [line for line in lines if "pandas" in line] == [
        "outcomes: 50,000 events, pandas, a user at a time",
        "outcomes: 50,000 events, pandas, whole frames",
    ]
    for of in ("50,000", "100,000"):
        assert 0 < lines[f"outcomes: {of} events, peak memory"].ours < 4
    assert lines["outcomes: time per event, largest log to smallest"].ours > 0


def test_ids_of_the_catalog_bench_say_what_is_alike():
    lines = [measure for measure in bench_catalog(sizes=(2000,)) if "beside random" in measure.name]
    assert all(line.holds for line in lines)
    assert len(lines) == 1


def test_the_trie_bench_agrees_with_its_peer_and_says_what_it_held():
    # The run raises when our mask and the dictionaries' differ anywhere.
    lines = [measure.as_json() for measure in bench_trie(items=3000, batch=16)]
    assert [line["unit"] for line in lines] == ["s", "ms", "ms"]
    for line in lines:
        assert set(line) == {"name", "unit", "ours", "peer", "ratio", "bound", "holds"}
        json.dumps(line)
    build, mask, _ = lines
    assert build["ratio"] is None
    assert build["holds"] == (build["ours"] <= build["bound"])
    assert mask["ratio"] == pytest.approx(mask["peer"] / mask["ours"])
    assert mask["holds"] == (mask["ratio"] >= mask["bound"])


def test_the_rewards_bench_agrees_with_its_peer():
    # The run raises when cached and uncached scores differ.
    lines = [measure.as_json() for measure in bench_rewards(listeners=3, past=20, slates=4, items=1100)]
    assert [line["bound"] for line in lines] == [1.0, 10.0]
    assert lines[1]["ratio"] == pytest.approx(lines[1]["peer"] / lines[1]["ours"])


def test_a_step_of_ours_and_of_stock_trl_draw_legal_slates_from_the_same_weights():
    # The run raises where either draws what is no slate, and where the two are not asked the same.
    small = replace(NANO, hidden=32, heads=1, layers=1, text_tokens=300, lora_rank=2)
    ours, peer = step_seconds(items=60, batch=32, slate=3, rounds=2, preset=small, vocabulary=None)
    assert 0 < ours < peer


def test_the_world_bench_measures_worlds_of_their_own():
    lines = list(bench_world(listeners=20, days=3))
    assert [line.unit for line in lines] == ["s", "GiB"] * 2
    assert all(0 < line.ours < 3 for line in lines if line.unit == "GiB")


@pytest.mark.parametrize(("better", "ratio"), [("lower", 2.0), ("higher", 0.5)])
def test_a_ratio_above_one_means_ours_is_better(better, ratio):
    assert Measure("x", "s", 1.0, 2.0, 1.5, better).ratio == ratio


def test_an_unknown_bench_is_one_line_and_exit_code_2():
    done = subprocess.run([sys.executable, BENCH, "speed"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    choices = "outcomes, catalog, trie, ope, rewards, rl, serving, load, world, messages"
    assert done.stderr.strip() == f"error: there is no bench 'speed': choose from {choices}"


@pytest.mark.nightly
def test_the_off_policy_bench_agrees_with_its_peer():
    """Needs a package index, for the peer's environment."""
    lines = {measure.name: measure for measure in bench_off_policy(20_000, 30, 60, 5_000)}
    apart = next(measure for name, measure in lines.items() if "largest difference" in name)
    assert apart.holds
    assert all(measure.ours > 0 for measure in lines.values() if measure.unit)


def test_a_recovery_is_so_many_answers_in_a_row_by_the_wanted_policy() -> None:
    statuses = [(200, None), (200, "popular"), (503, None), (200, None), (200, None), (200, None), (200, None)]
    seen = [{"at": float(at), "status": status, "fallback": rung} for at, (status, rung) in enumerate(statuses)]
    assert streak(seen, 3) == 5.0
    assert streak(seen[:5], 3) is None
