"""The habit section: of a world's log, of a real one, and on the page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.habit import HabitSettings
from data.ingest import StoreSettings, write_store
from data.readers import globo
from data.store import LogStore
from data.world import PRESETS, World
from eval.habit import habit_section
from eval.report import make_report, render, report_numbers
from eval.report.inputs import HabitSection, ReportInputs


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> HabitSection:
    world = World(PRESETS["clickbait"].with_listeners(150), seed=0)
    world.play(world.built_in("logging"), 56, np.random.default_rng(0))
    folder = tmp_path_factory.mktemp("world")
    write_store(world.log(), folder, StoreSettings(buckets=2))
    return habit_section(LogStore(folder), seed=0)


def check(section: HabitSection) -> None:
    """What must hold of any log."""
    assert sum(tenth.people for tenth in section.tenths) == section.grouped <= section.people <= section.users
    for before, after in zip(section.tenths, section.tenths[1:]):
        assert before.tenth < after.tenth and before.high < after.low
    for found in (section.overall, *(tenth.measures for tenth in section.tenths)):
        for name, interval in found.items():
            assert interval.lo <= interval.value <= interval.hi, name
            assert interval.value <= 7 or name == "sticky_days"
    shares = [curve.at(1) for curve in section.returns.values()]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True), "who came often before comes back sooner"
    for curve in section.returns.values():
        assert (np.diff(curve.survival) < 0).all() and curve.clusters <= curve.rows


def test_habit_of_a_world(section: HabitSection) -> None:
    check(section)
    assert len(section.tenths) >= 9 and section.grouped == section.users > 140
    assert section.left_out == {"unprompted": "the log has no messages"}
    assert section.overall["predictability"].value > section.overall["own_predictability"].value
    assert section.time_to_habit is not None


def test_habit_of_a_real_log(real_logs: Path, tmp_path: Path) -> None:
    write_store(globo.read(real_logs / "globo_news_clicks" / "clicks_sample_1in32_users.parquet"), tmp_path)
    section = habit_section(LogStore(tmp_path), seed=0, settings=HabitSettings(people=4_000))
    check(section)
    assert section.tenths[0].high == 0, "most people of a news site are seen once"
    assert "predictability" in section.overall


def test_the_page_shows_every_measure_and_says_what_it_means(section: HabitSection, tmp_path: Path) -> None:
    inputs = ReportInputs(run="r", source="s", preset="nano", habit=section)
    report = make_report(inputs, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["habit"]["overall"]["regularity"]["people"] > 100
    for words in ("Regularity", "Predictability", "Stickiness of a discovery", "Time to return", "Time to habit"):
        assert f"<figcaption>{words}" in page
    assert "Unprompted visits: left out, the log has no messages." in page
    assert page.count("<svg") == page.count("<figure") == 8
    assert "nan" not in page.split('id="habit"')[1].lower()
    assert render(report) == page


def test_a_log_cannot_write_on_the_habit_section(section: HabitSection) -> None:
    bad = "<script>alert(1)</script>"
    attacked = replace(
        section, left_out={bad: bad}, returns={bad: next(iter(section.returns.values()))}, settings={**section.settings}
    )
    page = render(report_numbers(ReportInputs(run="r", source="s", preset="nano", habit=attacked)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_log_with_little_in_it_still_has_a_section(section: HabitSection) -> None:
    bare = replace(section, overall={}, tenths=[], returns={}, time_to_habit=None)
    assert "Habit" in render(report_numbers(ReportInputs(run="r", source="s", preset="nano", habit=bare)))
