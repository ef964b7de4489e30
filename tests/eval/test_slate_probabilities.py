"""A report from a log and slate probabilities alone: against the truth of a world, and what bad files are told."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from data.histories import contexts, load
from data.ingest import write_store
from data.outcomes import Outcomes, read_outcomes, write_outcomes
from data.store import LogStore
from data.world import PRESETS, LoggingPolicy, World
from data.world.policies import plackett_luce_log_probability
from eval.intervals import Interval, mean_interval
from eval.report import make_report
from eval.report.inputs import ReportInputs
from eval.report.metrics import number, signed
from eval.slate_probabilities import EXPERIENCE, off_policy_of_log, outcome_to_value, read_slate_probabilities
from eval.slates import plackett_luce_positions
from scripts.log_report import LogReportArguments, log_report

DAYS, LISTENERS, BOLDER = 18, 700, 0.85
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Logged:
    """A world's log, the truth of a bolder policy on its very evenings, and what both say of the logged slates."""

    store: LogStore
    outcomes: Outcomes
    truth: Interval
    said: pl.DataFrame
    folder: Path


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    folder = tmp_path_factory.mktemp("log")
    world = World(PRESETS["clickbait"].with_listeners(LISTENERS), 4)
    settings = world.settings.logging
    size = world.settings.dynamics.slate_size
    own = LoggingPolicy(world.items, settings, size)
    bolder = LoggingPolicy(world.items, replace(settings, temperature=BOLDER), size, name="bolder")
    rng = np.random.default_rng(4)
    tried, users = [], []
    while world.day < DAYS:
        who, now = world.observe()
        branch = world.branch()
        branch.observe()
        slates, log_p = bolder.choose(now, rng)
        branch.act(slates, log_p, bolder.name)
        tried.append(branch.rounds[-1].session.played.sum(axis=1))
        users.append(who)
        slates, log_p = own.choose(now, rng)
        world.act(slates, log_p, own.name)
    write_store(world.log(), folder / "logs")
    write_outcomes(LogStore(folder / "logs"), folder / "outcomes")
    store = LogStore(folder / "logs")
    row = {item: row for row, item in enumerate(world.items_frame()["item_id"])}
    histories, decisions = load(store, lambda ids: np.array([row[item] for item in ids]))
    known = contexts(histories, decisions)
    columns = {"decision_id": pl.Series(decisions.decision_id)}
    for name, policy in (("logging", own), ("bolder", bolder)):
        scores = policy.scores(known)
        columns[name] = pl.Series(plackett_luce_log_probability(scores, decisions.slate))
        by_position = plackett_luce_positions(scores, decisions.slate, np.random.default_rng(0))
        columns |= {f"{name}_position_{k + 1}": pl.Series(by_position[:, k]) for k in range(by_position.shape[1])}
    said = pl.DataFrame(columns).with_columns(today=pl.col("logging"))
    truth = mean_interval(np.concatenate(tried).astype(float), np.concatenate(users))
    return Logged(store, read_outcomes(folder / "outcomes"), truth, said, folder)


def written(table: pl.DataFrame, path: Path) -> Path:
    table.write_csv(path) if path.suffix == ".csv" else table.write_parquet(path)
    return path


def test_the_logging_policy_gets_its_own_mean_back_and_another_the_truth(logged: Logged, tmp_path: Path) -> None:
    given = read_slate_probabilities(written(logged.said, tmp_path / "p.parquet"))
    assert given.policies == ("bolder", "today")
    section, lacks = off_policy_of_log(logged.store, logged.outcomes, given, "plays")
    assert not lacks
    known = logged.outcomes.table["plays"].drop_nulls()
    own = section.values["today"].estimates
    for name in ("ips", "snips", "clipped"):
        assert own[name].value == pytest.approx(known.mean(), rel=1e-6)
        assert own[name].diff == pytest.approx(0.0, abs=1e-6)
    for name in ("ips", "snips", "sn_pi"):
        found = section.values["bolder"].estimates[name]
        assert found.value is not None and found.lo is not None and found.hi is not None
        spread = float(np.hypot((found.hi - found.lo) / 3.92, logged.truth.se))
        assert abs(found.value - logged.truth.value) < 2.6 * spread, name
    assert all(check.passed for check in section.checks["bolder"])
    assert not section.sensitivity, "the server drew by these probabilities"
    by = section.overlap["bolder"]
    assert set(by) == set(EXPERIENCE.values())
    assert sum(support.rounds for support in by.values()) == section.values["bolder"].support.rounds
    assert min(support.ess_users for support in by.values()) < section.values["bolder"].support.ess_users


class Silent(LogStore):
    """The same log by somebody who did not write down its propensities."""

    def decisions(self, bucket: int | None = None) -> pl.DataFrame:
        return super().decisions(bucket).with_columns(propensity=pl.lit(None, pl.Float64))


def test_propensities_that_are_somebodys_word_come_with_a_doubt(logged: Logged, tmp_path: Path) -> None:
    given = read_slate_probabilities(written(logged.said, tmp_path / "p.parquet"))
    section, lacks = off_policy_of_log(Silent(logged.store.folder), logged.outcomes, given, "plays")
    assert "taken at their word" in lacks[0].consequence
    bounds = section.sensitivity["bolder"]
    snips = section.values["bolder"].estimates["snips"]
    assert bounds[0].gamma == 1.0
    assert bounds[0].least == pytest.approx(snips.diff, abs=1e-9)
    assert all(wide.lo < bounds[0].lo and wide.hi > bounds[0].hi for wide in bounds[2:])
    page = tmp_path / "page"
    make_report(ReportInputs(run="r", source="s", preset="", off_policy=section, missing=lacks), page)
    report = json.loads((page / "report.json").read_text())
    assert report["ope_about"]["sensitivity"]["bolder"]["bounds"][-1]["most"] == pytest.approx(bounds[-1].most)
    assert any(point["what"] == "If the probabilities are wrong" for point in report["answer"]["points"])
    text = (page / "index.html").read_text()
    assert f"{signed(number(bounds[-1].least))} to {signed(number(bounds[-1].most))}" in text
    assert "support by segment of listeners" in text


def test_csv_and_parquet_say_the_same_and_late_windows_are_left_out(logged: Logged, tmp_path: Path) -> None:
    one, other = (
        off_policy_of_log(
            logged.store,
            logged.outcomes,
            read_slate_probabilities(written(logged.said.select("decision_id", "bolder"), tmp_path / name)),
            "active_days_7",
        )[0]
        for name in ("p.csv", "p.parquet")
    )
    assert one.values["bolder"].estimates == other.values["bolder"].estimates
    closed = logged.outcomes.table["active_days_7"].count()
    assert one.values["bolder"].support.rounds == closed < logged.said.height


def test_decisions_from_a_day_on_need_no_others_in_the_file(logged: Logged, tmp_path: Path) -> None:
    start = logged.store.start.replace(hour=0, minute=0, second=0, microsecond=0)
    since = start.replace(day=start.day + 5)
    later = logged.store.decisions().filter(pl.col("time") >= since).select("decision_id")
    given = read_slate_probabilities(written(logged.said.join(later, on="decision_id"), tmp_path / "p.parquet"))
    section, _ = off_policy_of_log(logged.store, logged.outcomes, given, "plays", since)
    assert 0 < section.values["bolder"].support.rounds < logged.said.height
    with pytest.raises(InputError, match=r"decisions are missing, '.+' first"):
        off_policy_of_log(logged.store, logged.outcomes, given, "plays")


def test_the_outcome_is_one_that_the_log_carries(logged: Logged) -> None:
    assert outcome_to_value(logged.outcomes, None) == "active_days_7"
    assert outcome_to_value(logged.outcomes, "plays") == "plays"
    with pytest.raises(InputError, match=r"habit_28.*window of 28"):
        outcome_to_value(logged.outcomes, "habit_28")
    with pytest.raises(InputError, match="no such label; choose plays"):
        outcome_to_value(logged.outcomes, "clicks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit("d").alias("decision_id"), "is there twice"),
        (pl.lit(0.7).alias("bolder"), "bolder is 0.7 .* 0 or below"),
        (pl.lit(float("nan")).alias("bolder"), "bolder is nan"),
        (pl.col("bolder").exp(), "every value of bolder is above 0: these are probabilities"),
        (pl.lit(None, pl.Float64).alias("bolder"), "bolder is None"),
        (pl.lit("high").alias("bolder"), "bolder holds String"),
        (pl.lit(-1.0).alias("bolder_position_9"), "without a gap"),
        (pl.lit(-1.0).alias("nobody_position_1"), "give nobody and nobody_position_1"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_fault(
    logged: Logged, tmp_path: Path, change: pl.Expr, message: str
) -> None:
    path = written(logged.said.with_columns(change), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=message) as caught:
        read_slate_probabilities(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_fit_the_log_is_refused(logged: Logged, tmp_path: Path) -> None:
    def judged(table: pl.DataFrame) -> None:
        given = read_slate_probabilities(written(table, tmp_path / "p.parquet"))
        off_policy_of_log(logged.store, logged.outcomes, given, "plays")

    strange = logged.said.with_columns(decision_id=pl.lit("not-") + pl.col("decision_id"))
    with pytest.raises(InputError, match="decisions that the log does not have, 'not-"):
        judged(strange)
    with pytest.raises(InputError, match="decisions are missing"):
        judged(logged.said.head(10))
    with pytest.raises(InputError, match=r"logging is .* whose propensity in the log is"):
        judged(logged.said.with_columns(pl.col("logging") - 0.5))
    short = logged.said.drop("bolder_position_5", "logging_position_5")
    with pytest.raises(InputError, match=r"logging has 4 positions .* whose slate has 5 items"):
        judged(short)


def test_the_command_makes_a_page_from_a_log(logged: Logged, tmp_path: Path) -> None:
    """The log as people have it: our own tables in a folder, read, labelled and judged in one go."""
    tables = tmp_path / "my-log"
    tables.mkdir()
    logged.store.items().write_parquet(tables / "items.parquet")
    logged.store.events().write_parquet(tables / "events.parquet")
    logged.store.decisions().write_parquet(tables / "decisions.parquet")
    file = written(logged.said.select("decision_id", "bolder"), tmp_path / "p.csv")
    command = [sys.executable, "scripts/evaluate.py", "--log", str(tables), "--slate_probabilities", str(file)]
    out = tmp_path / "report"
    done = subprocess.run(
        [*command, "--out", str(out), "--outcome", "plays"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((out / "report.json").read_text())
    assert report["ope_about"]["reward"] == "plays"
    assert report["ope"]["bolder"]["snips"]["value"] is not None
    assert report["answer"]["policy"] == "bolder"
    assert {"habit", "missing", "answer"} <= set(report)
    assert "Off-policy values" in (out / "index.html").read_text()
    assert "manifest.json" in {path.name for path in out.iterdir()}, "an unchanged report is not made again"
    asked = LogReportArguments(str(tables), "longplay", str(file), "joy", None, str(out), 0)
    for wrong, message in (
        (asked, "'joy': there is no such label"),
        (replace(asked, since="yesterday"), "'yesterday' is no day"),
        (replace(asked, out=None), "needs --out"),
        (replace(asked, slate_probabilities=None), "needs --slate_probabilities"),
        (replace(asked, log=str(tmp_path / "nothing")), "no log at"),
    ):
        with pytest.raises(InputError, match=message):
            log_report(wrong)
