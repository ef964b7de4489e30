"""The flywheel at tiny size with the real things: two fates, each learning from the log of its own listeners."""

import json
import sys

import pytest

from data.errors import InputError
from data.store import LogStore
from scripts import flywheel

TINY = ["layers=1", "hidden=32", "heads=1", "text_tokens=300", "history_passes=0.1", "sft_slates=32", "grpo_batch=16"]
TINY += ["lora_rank=4"]
SIZE = ["--listeners", "40", "--days", "15", "--weeks", "1", "--lesson", "32", "--slates", "32"]


@pytest.fixture
def spin(tmp_path, monkeypatch, capsys):
    def run(*more: str):
        words = ["--run", str(tmp_path), *SIZE, "--reward_epochs", "1", "--reward_members", "2", "--set", *TINY]
        monkeypatch.setattr("data.ingest.LEAST_BUCKETS", 2)  # every bucket of a log costs time, few people or many
        monkeypatch.setattr(sys, "argv", ["flywheel.py", *words, "--json", "true", *more])
        flywheel.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_each_fate_learns_from_its_own_log_and_a_stopped_run_goes_on(spin, tmp_path) -> None:
    told = spin()
    before = {name: by["active_days"][0] for name, by in told["fates"].items()}
    assert set(before) == {"logging", "grpo_click", "grpo", "oracle"}
    assert len({json.dumps(week) for week in before.values()}) == 1, "until week 1 there is one fate"
    for name in ("grpo", "grpo_click"):
        store = LogStore(tmp_path / name / "logs")
        logged = store.decisions().filter(store.decisions()["policy"] == f"{name}@0")
        assert 0 < logged.height < store.decisions().height
        assert (logged["propensity"] > 0).all()
        assert logged["move"].null_count() == 0
        assert LogStore(tmp_path / "start" / "logs").decisions().height == store.decisions().height - logged.height
    manifests = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    (tmp_path / "reports" / "fates.json").unlink()
    assert spin() == told, "lived again from the records"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")} == manifests
    with pytest.raises(InputError, match="begun with other settings"):
        spin("--seed", "1")
