"""scripts/experiment.py: JSON on standard output, one line on standard error and exit code 2 for what is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from data.errors import exit_on_input_error
from data.ingest import write_store
from data.outcomes import write_outcomes
from data.store import LogStore
from data.world import PRESETS, World
from eval.experiments.source import rows_of_run
from policy.assignment import arm_of
from scripts import experiment as experiment_script
from tests.eval.experiments.made_up import experiment

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command as it is called, but in this process: its imports take seconds."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["experiment.py", *(str(word) for word in arguments)])
        code = 0
        try:
            exit_on_input_error(experiment_script.main)
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return call


def told(run: Run, *arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json", "true")
    assert done.code == 0, done.err[-2000:]
    return dict(json.loads(done.out))


def test_analyse_a_table_with_segments_and_a_funnel(tmp_path: Path, run: Run) -> None:
    rows = experiment(600, 1.0).rows.with_columns(kept=experiment(600).rows["back"])
    rows.write_csv(tmp_path / "rows.csv")
    found = told(
        run,
        *("analyse", "--table", tmp_path / "rows.csv", "--control", "control", "--funnel", "back", "kept"),
        *("--metrics", "y covariate=before", "x role=guardrail margin=20%", "--search", "before", "--segments", "back"),
    )
    arm = found["arms"]["treatment"]
    assert (found["users"], found["interval"]) == ({"control": 300, "treatment": 300}, "fixed horizon")
    assert arm["decision"] in ("ship", "hold")
    assert arm["effects"]["y"]["lo"] < arm["effects"]["y"]["diff"] < arm["effects"]["y"]["hi"]
    assert sum(part["value"] for part in arm["decomposition"]["parts"]) == pytest.approx(arm["decomposition"]["change"])
    assert sum(part["share"] for part in arm["honest_segments"]["segments"]) == pytest.approx(1.0)


def spring(folder: Path, more_for: str | None = None) -> tuple[str, ...]:
    """A run with the experiment `spring` from day 21 on; how to ask for it. `more_for`: an arm whose users, three of
    four, are asked for twice as many decisions."""
    world = World(PRESETS["clickbait"].with_listeners(150), 0)
    world.play(world.built_in("logging"), 42, np.random.default_rng(0))
    logs = world.log()
    assert logs.decisions is not None
    shares = {"control": 0.5, "treatment": 0.5}
    arms = [arm_of("spring", user, shares) for user in logs.decisions["user_id"].to_list()]
    began = world.settings.start + timedelta(days=21)
    made = logs.decisions.with_columns(arm=pl.when(pl.col("time") >= began).then("spring:" + pl.Series(arms)))
    if more_for is not None:
        some = (pl.col("arm") == f"spring:{more_for}") & (pl.col("user_id").hash(0) % 4 > 0)
        again = made.filter(some).with_columns(
            pl.col("decision_id") + "-again", pl.col("time") + timedelta(seconds=1), propensity=None
        )
        made = pl.concat([made, again.cast(dict(made.schema))])
    write_store(replace(logs, decisions=made), folder / "logs", source="world")
    write_outcomes(LogStore(folder / "logs"), folder / "outcomes")
    return "--run", str(folder), "--start", began.isoformat(), "--experiment", "spring"


def test_what_a_treatment_does_to_the_number_of_decisions_weighs_nobody(tmp_path: Path, run: Run) -> None:
    metrics = ("--metrics", "active_days_7", "returned_1d role=guardrail margin=50%")
    where = spring(tmp_path / "more", "treatment")
    plain, more = (told(run, "analyse", *asked, *metrics) for asked in (spring(tmp_path / "plain"), where))
    assert plain["users"] == more["users"]
    told_of, told_again = (answer["arms"]["treatment"]["effects"] for answer in (plain, more))
    assert set(told_of) == set(told_again)
    for name, effect in told_of.items():  # but for the order of a sum: threads add up as they come
        for key, value in effect.items():
            again = told_again[name][key]
            assert value == (pytest.approx(again, rel=1e-9, abs=1e-12) if isinstance(again, float) else again), key
    rows = rows_of_run(tmp_path / "more", datetime.fromisoformat(where[3]), experiment="spring")
    made = LogStore(tmp_path / "more" / "logs").decisions().filter(pl.col("arm").is_not_null())
    first = dict(made.group_by("user_id").agg(pl.col("time").min()).iter_rows())
    assert made.height > 2 * rows.height
    assert dict(rows.select("user_id", "time").iter_rows()) == first


def test_plan_and_analyse_a_run_with_covariates_from_before(tmp_path: Path, run: Run) -> None:
    where = spring(tmp_path)
    found = told(
        run, "analyse", *where, "--metrics", "active_days_7 covariate=before_active_days_7", "--segments", "plan"
    )
    effect = found["arms"]["treatment"]["effects"]["active_days_7"]
    assert effect["variance_reduction"] > 0.1
    assert effect["unknown"] > 0  # the last week's windows are open
    assert found["arms"]["treatment"]["decision"] == "hold"  # the same policy in both arms
    planned = told(
        run, "plan", *where, "--metrics", "active_days_7 effect=20% covariate=before_active_days_7", "--daily_users", 50
    )
    metric = planned["metrics"][0]
    assert metric["days"] == planned["enrol_days"] + 7
    assert metric["variance_reduction"] == pytest.approx(effect["variance_reduction"], abs=0.1)


@pytest.mark.parametrize("name", ["experiment_plan", "experiment_analyse"])
def test_the_example_configs_are_read(name: str, run: Run) -> None:
    config = ROOT / "scripts" / "configs" / f"{name}.yaml"
    done = run(name.removeprefix("experiment_"), "--config", config)
    if name == "experiment_plan":
        assert done.code == 0 and "users in all arms" in done.out
    else:
        assert (done.code, done.err.splitlines()[-1][:18]) == (2, "error: whose rows?")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("guess",), "there is no verb 'guess'"),
        (("analyse", "--table", "missing.parquet", "--metrics", "y"), "missing.parquet: no such file"),
        (("plan", "--metrics", "y effect=2%"), "how many users come?"),
        (("plan", "--metrics", "y effect=2%", "--daily_users", "9", "--shares", "a=0.5", "b=0.6"), "must sum to 1"),
        (("plan", "--metrics", "y effect=2%", "--daily_users", "9", "--shares", "a"), "write arm=share"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(arguments: tuple[str, ...], says: str, run: Run) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert says in line


def test_from_a_shell_the_exit_code_is_2() -> None:
    script = ROOT / "scripts" / "experiment.py"
    done = subprocess.run(
        [sys.executable, str(script), "guess"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no verb 'guess': choose plan, analyse, peeking, interim" in done.stderr
