"""The page's section about a world: what its curves say, and that they are drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.report import make_report, render
from eval.report.inputs import ReportInputs, WorldPortrait
from eval.world_section import MESSAGE_POLICIES, POLICIES, world_portrait


@pytest.fixture(scope="module")
def portrait() -> WorldPortrait:
    return world_portrait("messaging", seed=0, listeners=150, days=42)


def test_habits_grow_most_where_people_are_pleased(portrait: WorldPortrait) -> None:
    last = {policy: grown[-1].value for policy, grown in portrait.habit.items()}
    assert set(last) == set(POLICIES)
    assert last["oracle"] > last["logging"] > last["greedy_click"]
    assert len(portrait.habit["oracle"]) == 42


def test_quality_brings_back_and_allure_does_not() -> None:
    portrait = world_portrait("clickbait", seed=1, listeners=700, days=28)
    away = {name: curve.at(2.0) for name, curve in portrait.returns.items()}
    assert away["highest quality"] < away["lowest quality"] - 0.02
    assert away["highest allure"] > away["lowest allure"] - 0.01


def test_in_null_what_was_shown_is_no_matter() -> None:
    portrait = world_portrait("null", seed=0, listeners=200, days=28)
    best, worst = portrait.returns["highest quality"], portrait.returns["lowest quality"]
    at = int(np.searchsorted(best.times, 2.0, side="right")) - 1
    assert best.lo[at] - 0.05 < worst.at(2.0) < best.hi[at] + 0.05
    days = {round(by["active_days_28"].value, 9) for by in portrait.policies.values()}
    assert len(days) == 1


def test_the_page_shows_the_world(portrait: WorldPortrait, tmp_path: Path) -> None:
    report = make_report(ReportInputs(run="r", source="s", preset="nano", portrait=portrait), tmp_path)
    page = (tmp_path / "index.html").read_text()
    section = page.split('id="world"')[1].split("</section>")[0]
    assert section.count("<svg") == section.count("<figure") == 5
    assert "nan" not in section.lower()
    for words in ("How habits grow", "Return by the quality of what was shown", "never send", "most taps"):
        assert words in section
    shown = json.loads((tmp_path / "report.json").read_text())["world_shown"]
    assert set(shown["message_policies"]) == set(MESSAGE_POLICIES)
    assert render(report) == page
    assert len(page) < 1_000_000
