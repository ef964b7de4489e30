import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench.py"


@pytest.fixture(scope="module")
def bench():
    return runpy.run_path(str(BENCH), run_name="bench")


def test_the_trie_bench_agrees_with_its_peer_and_says_what_it_held(bench):
    # The run raises when our mask and the dictionaries' differ anywhere.
    lines = [measure.as_json() for measure in bench["bench_trie"](items=3000, batch=16)]
    assert [line["unit"] for line in lines] == ["s", "ms", "ms"]
    for line in lines:
        assert set(line) == {"name", "unit", "ours", "peer", "ratio", "bound", "holds"}
        json.dumps(line)
    build, mask, _ = lines
    assert build["ratio"] is None
    assert build["holds"] == (build["ours"] <= build["bound"])
    assert mask["ratio"] == pytest.approx(mask["peer"] / mask["ours"])
    assert mask["holds"] == (mask["ratio"] >= mask["bound"])


def test_the_world_bench_measures_worlds_of_their_own(bench):
    lines = list(bench["bench_world"](listeners=20, days=3))
    assert [line.unit for line in lines] == ["s", "GiB"] * 2
    assert all(0 < line.ours < 3 for line in lines if line.unit == "GiB")


@pytest.mark.parametrize(("better", "ratio"), [("lower", 2.0), ("higher", 0.5)])
def test_a_ratio_above_one_means_ours_is_better(bench, better, ratio):
    assert bench["Measure"]("x", "s", 1.0, 2.0, 1.5, better).ratio == ratio


def test_an_unknown_bench_is_one_line_and_exit_code_2():
    done = subprocess.run([sys.executable, BENCH, "speed"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == "error: there is no bench 'speed': choose from trie, world"
