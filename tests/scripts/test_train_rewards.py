from pathlib import Path

import pytest

from data.errors import InputError
from scripts.train_rewards import RewardArguments, settings_of, stage


def test_the_twin_differs_from_the_reward_in_its_labels_alone() -> None:
    midterm, click = settings_of(RewardArguments()), settings_of(RewardArguments(name="click"))
    assert midterm.labels is None
    assert click.labels == ("plays",)
    assert (midterm.train, midterm.trunk, midterm.slices) == (click.train, click.trunk, click.slices)


def test_what_is_missing_is_named_with_its_fix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose one of midterm, click"):
        stage(RewardArguments(run=str(tmp_path), name="taps"))
    with pytest.raises(InputError, match="build_outcomes"):
        stage(RewardArguments(run=str(tmp_path)))
