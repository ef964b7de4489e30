"""The whole road at small size, with the real things: a world, reward models, TRL's SFT, DPO and PPO, the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import InputError, exit_on_input_error
from scripts import run as road
from scripts import steering, trade_off

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "hidden": 32,
    "heads": 1,
    "layers": 2,
    "text_tokens": 300,
    "history_passes": 0.3,
    "sft_slates": 256,
    "dpo_prompts": 48,
    "dpo_samples": 6,
    "dpo_pairs": 64,
    "ppo_episodes": 32,
    "ppo_batch": 16,
    "grpo_lesson": 64,
    "message_lesson": 64,
    "grpo_slates": 64,
    "grpo_batch": 32,
    "ranking_cases": 60,
    "rollout_listeners": 40,
    "off_policy_rounds": 150,
}
METRICS = ("active_days_28", "returned_7d", "habit_28", "plays_per_session")


def command(run: Path, *more: str) -> list[str]:
    changes = [f"{name}={value}" for name, value in SMALL.items()]
    size = ["--listeners", "150", "--days", "60", "--set", *changes]
    return [sys.executable, "scripts/run.py", "--run", str(run), *size, *more]


def go(run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command(run, *more), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("road") / "small"
    done = go(run)
    assert done.returncode == 0, done.stderr[-3000:]
    return run


@pytest.fixture(scope="module")
def report(small_run):
    return json.loads((small_run / "reports" / "report.json").read_text())


def outputs(run: Path) -> dict[str, dict[str, str]]:
    """Hashes of everything made, by stage; the report apart, because it prints how long things took."""
    found = sorted(run.glob("*/manifest.json")) + sorted(run.glob("*/*/manifest.json"))
    return {
        path.parent.relative_to(run).as_posix(): json.loads(path.read_text())["outputs"]
        for path in found
        if path.parent.name != "reports"
    }


def test_the_report_has_what_others_rely_on(report):
    policies = report["world"]["policies"]
    for name in ("logging", "sft", "dpo_click", "dpo", "ppo", "oracle"):
        for metric in METRICS:
            assert policies[name][metric]["lo"] <= policies[name][metric]["mean"] <= policies[name][metric]["hi"]
    for name in ("dpo_click", "dpo", "ppo", "oracle"):
        assert {"diff", "lo", "hi"} <= report["world"]["paired_vs_sft"][name]["active_days_28"].keys()
    for label in ("returned_7d", "active_days_7"):
        head = report["rewards"]["heads"][label]
        assert "ece" in head
        assert "baseline" in head
        assert "auc" in head or "c_index" in head
    for name in ("sft", "dpo", "ppo"):
        for estimate in report["ope"][name].values():
            assert {"value", "lo", "hi", "ess"} <= estimate.keys()
    assert {"snips", "dr"} <= report["ope"]["ppo"].keys()
    for name in ("transition_count", "popularity", "sft", "ppo"):
        assert 0 <= report["ranking"][name]["ndcg@10"] <= report["ranking"][name]["hr@10"] <= 1
    assert report["timing"]["policy/ppo"] > 0
    assert sum(report["fairness"]["people"].values()) == SMALL["rollout_listeners"]
    assert {"consumed", "logging", "ppo", "oracle"} <= report["fairness"]["by_tenth"].keys()
    assert len(report["pareto"]["points"]) == 11


def test_every_policy_of_a_run_can_be_asked_whether_it_listens(small_run, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(small_run, tmp_path / "run")  # what it writes would be news to the report
    words = ["--run", str(run), "--policies", "sft", "grpo", "--moments", "12", "--move_samples", "8"]
    monkeypatch.setattr(sys, "argv", ["steering.py", *words, "--json", "true"])
    steering.main()
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"sft", "grpo"}
    for by in told.values():
        assert set(by["obedience"]) == {"named", "in other words", "misspelled"}
        assert {"fits", "unasked", "gain", "cost"} <= by["obedience"]["named"].keys()
        assert sum(one["share"] for one in by["moves"].values()) == pytest.approx(1)
    monkeypatch.setattr(sys, "argv", ["steering.py", "--run", str(run), "--policies", "nobody"])
    with pytest.raises(InputError, match="no such policy"):
        steering.main()


def test_both_ways_to_trade_are_asked_for_the_same_balances(small_run, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(small_run, tmp_path / "run")  # more policies would be news to the report
    changes = [f"{name}={value}" for name, value in SMALL.items()]
    monkeypatch.setattr(
        sys, "argv", ["trade_off.py", "--run", str(run), "--moments", "8", "--set", *changes, "--json", "true"]
    )
    trade_off.main()
    told = json.loads(capsys.readouterr().out)
    assert [one["weight"] for one in told["blend"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for way in ("prompt", "blend"):
        for one in told[way]:
            asked = one["weight"] * one["midterm"]["mean"] + (1 - one["weight"]) * one["clicks"]["mean"]
            assert one["wanted"]["mean"] == pytest.approx(asked, abs=1e-5)
    for gap, prompt, blend in zip(told["prompt - blend"], told["prompt"], told["blend"], strict=True):
        assert gap["mean"] == pytest.approx(prompt["wanted"]["mean"] - blend["wanted"]["mean"], abs=1e-5)


def test_a_second_run_makes_nothing_again(small_run):
    before = outputs(small_run)
    stamps = {path: path.stat().st_mtime_ns for path in small_run.rglob("manifest.json")}
    done = go(small_run)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in small_run.rglob("manifest.json")} == stamps
    assert outputs(small_run) == before


@pytest.mark.timeout(900)  # three runs, on a machine that may be busy
def test_killed_stages_are_made_again_to_the_same_bytes_whatever_is_made_beside_them(small_run, tmp_path):
    run = tmp_path / "small"
    beside = ("--workers", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for stage in ("policy/.sft.making-*", "policy/.ppo.making-*"):
        victim = subprocess.Popen(
            command(run, *beside), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 400
        while not list(run.glob(stage)) and victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)  # into the middle of the stage
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(30) == -signal.SIGKILL, f"the run ended before {stage} could be killed"
    done = go(run, *beside, "--compare", str(small_run))
    assert done.returncode == 0, done.stderr[-3000:]
    assert outputs(run) == outputs(small_run)
    assert not list(run.rglob(".*.making-*"))
    # Twins, played to the same listeners with the same luck, do not differ for a single one of them.
    gaps = json.loads((run / "reports" / "report.json").read_text())["comparison"]["paired"]
    assert set(gaps) == {"sft", "dpo_click", "dpo", "grpo", "ppo"}
    assert all(gap == {"diff": 0.0, "lo": 0.0, "hi": 0.0} for by in gaps.values() for gap in by.values())


WRONG = ("--listeners", "60", "--days", "30")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--world", "atlantis"), "unknown world 'atlantis'"),
        (("--preset", "giant"), "unknown preset 'giant'"),
        (("--logs", "README.md", "--reader", "parchment"), "unknown reader 'parchment'"),
        (("--set", "sft_slates=many"), "sft_slates takes a int"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, more, says, monkeypatch, capsys):
    bad = tmp_path / "bad"
    monkeypatch.setattr(sys, "argv", ["run.py", "--run", str(bad), *WRONG, "--workers", "1", *more])
    with pytest.raises(SystemExit) as ended:
        exit_on_input_error(road.main)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not list(bad.rglob(".*.making-*"))
    assert not (bad / "catalog").exists(), "told before anything that takes time"


def test_what_a_stage_says_in_a_process_of_its_own_is_one_line_too_and_vllm_is_not_waited_for(tmp_path):
    bad = tmp_path / "bad"
    told_last = (
        "import atexit, runpy, sys; sys.path.insert(0, '.'); "
        "atexit.register(lambda: print('vllm' in sys.modules)); runpy.run_path('scripts/run.py', run_name='__main__')"
    )
    words = ["--run", str(bad), *WRONG, "--workers", "2", "--logs", "no/such/file", "--reader", "globo"]
    command = [sys.executable, "-c", told_last, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "no log at 'no/such/file'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split()[-1] == "False"
    assert not list(bad.rglob(".*.making-*"))
    assert not (bad / "catalog").exists()


def test_two_runs_at_once_are_refused(tmp_path):
    from data.artifacts import run_lock

    with run_lock(tmp_path / "busy"):
        done = go(tmp_path / "busy")
    assert done.returncode == 2
    assert "another run is working in this folder" in done.stderr


def test_a_real_log_goes_the_same_road_less_what_only_a_world_knows(tmp_path):
    folder = Path(os.environ.get("LONGPLAY_DATA", ROOT.parent / "shared" / "data")) / "globo_news_clicks"
    sample = folder / "clicks_sample_1in32_users.parquet"
    if not sample.is_file():
        pytest.skip(f"no Globo log at {sample}: set LONGPLAY_DATA")
    done = go(tmp_path / "globo", "--logs", str(sample), "--reader", "globo")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "globo" / "reports" / "report.json").read_text())
    assert "world" not in report
    for label in ("returned_1d", "returned_7d"):
        head = report["rewards"]["heads"][label]
        assert head["auc"] > 0.6
        assert head["baseline"] > 0.6
    assert report["ranking"]["transition_count"]["hr@10"] > 0
    assert {"what", "consequence"} <= report["missing"][0].keys()
    assert {missing["what"] for missing in report["missing"]} >= {"impressions", "propensities"}
    for policy, by_estimator in report["ope"].items():
        for estimate in by_estimator.values():
            assert estimate["value"] is None, policy
            assert "propensities" in estimate["refused"]
    assert report["slates"]
