"""Bars: shown here, or told to whoever shows them."""

from collections.abc import Iterator

import pytest

from data.progress import Told, progress, tell_instead, track


@pytest.fixture
def told() -> Iterator[list[Told]]:
    heard: list[Told] = []
    tell_instead(heard.append)
    yield heard
    tell_instead(None)


def test_a_bar_that_is_told_shows_nothing(told: list[Told], capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", "spelling")) == ["a", "b", "c"]
    assert told[0] == Told("spelling", 1.0, 3.0)
    assert told[-1] == Told("spelling", 3.0, 3.0)
    assert capfd.readouterr() == ("", "")


def test_the_end_is_always_told_and_steps_not_faster_than_can_be_read(told: list[Told]) -> None:
    with progress() as bar:
        task = bar.add_task("running", total=10_000)
        for _ in range(10_000):
            bar.advance(task)
        bar.update(task, description="at rest")
    assert told[0].completed == 1
    assert len(told) < 100
    assert told[-1] == Told("at rest", 10_000.0, 10_000.0)


def test_a_bar_of_unknown_length(told: list[Told]) -> None:
    with progress() as bar:
        bar.update(bar.add_task("wondering", total=None), advance=2)
    assert told == [Told("wondering", 2.0, None)]


def test_bars_are_shown_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "counting")) == [0, 1, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert "counting" in err
