"""The ranking table end to end, on a log small enough to be wrong about everything but its own arithmetic."""

import json
import sys

import numpy as np
import pytest

from data.artifacts import manifest
from data.errors import InputError
from scripts import ranking_table

TINY = ["layers=1", "hidden=32", "heads=1", "text_tokens=300", "history_passes=1", "sft_slates=64", "batch=16"]
TINY += ["grpo_slates=32", "grpo_batch=16"]


@pytest.fixture
def table(tmp_path, monkeypatch, capsys):
    """Runs the command on 40 users of 30 products and returns what it says."""
    rng = np.random.default_rng(0)
    walks = {
        str(user): [int((start + 2 * step) % 30) for step in range(6)]
        for user, start in enumerate(rng.integers(0, 30, 40))
    }
    facts = {str(item): {"title": f"Flask {item}", "brand": f"Kiln {item % 3}"} for item in range(30)}
    logs = tmp_path / "log"
    logs.mkdir()
    (logs / "Tiny.inter.json").write_text(json.dumps(walks))
    (logs / "Tiny.item.json").write_text(json.dumps(facts))

    def run(*more: str):
        words = ["--run", str(tmp_path / "run"), "--logs", str(logs), "--level_sizes", "8", "8", "--set", *TINY]
        words += ["--seeds", "1", "--sasrec_epochs", "2", "--asked", "20", "--json", "true", *more]
        monkeypatch.setattr(sys, "argv", ["ranking_table.py", *words])
        ranking_table.main()
        return capsys.readouterr().out

    run.folder = tmp_path / "run"
    run.logs = logs
    return run


def test_every_ranker_answers_every_user_and_nothing_is_made_twice(table) -> None:
    assert table("--only", "sft") == ""
    found = json.loads(table())
    assert found["targets"] == 40
    assert set(found["rankers"]) == {
        "popularity",
        "transition count",
        "SASRec",
        "SASRec + counts",
        "SFT",
        "GRPO from SFT",
        "SFT + counts",
    }
    # In this log what follows is always the item two further on: counting must know it where it has seen it.
    assert found["rankers"]["transition count"]["hr@10"]["mean"] > 0.9
    for by in found["rankers"].values():
        for one in by.values():
            assert one["lo"] <= one["mean"] <= one["hi"]
            assert one["seeds"] == [pytest.approx(one["mean"])]
    assert {"GRPO from SFT - SFT", "SFT - SASRec", "SFT - transition count"} <= set(found["paired"])
    parts = [table.folder / "seed-0" / name for name in ranking_table.PARTS]
    before = [manifest(part)["wall_time"] if "wall_time" in manifest(part) else manifest(part) for part in parts]
    assert json.loads(table()) == found
    assert before == [
        manifest(part)["wall_time"] if "wall_time" in manifest(part) else manifest(part) for part in parts
    ]


def test_what_cannot_be_left_out_is_refused(table) -> None:
    with pytest.raises(InputError, match="choose one of sasrec"):
        table("--only", "tiger")
    with pytest.raises(InputError, match="at least one seed"):
        table("--seeds", "0")
