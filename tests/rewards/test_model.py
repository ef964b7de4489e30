import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import InputError
from rewards.model import RewardModel
from tests.rewards.made_up_log import ITEMS, SMALL, Trained, make_log, train


def _slates(count: int, candidates: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.permuted(np.tile(np.arange(ITEMS), (count, candidates, 1)), axis=2)[..., :3].copy())


def test_saved_and_loaded_it_says_the_same(confounded: Trained, tmp_path: Path) -> None:
    confounded.model.save(tmp_path / "m")
    loaded = RewardModel.load(tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors", "trees.json"]
    log = confounded.log
    states = loaded.encode(log.histories, log.decisions.take(np.arange(100)))
    torch.testing.assert_close(states, confounded.states[:100], atol=1e-5, rtol=1e-4)
    slates = _slates(100, 4)
    ours, theirs = confounded.model.advantage(states, slates), loaded.advantage(states, slates)
    for name in ("mean", "spread", "support"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    assert loaded.labels == confounded.model.labels
    for label, values in confounded.model.outcomes(states).items():
        np.testing.assert_array_equal(loaded.outcomes(states)[label], values)
    assert loaded.objective() == confounded.model.objective()


def test_a_broken_or_missing_model_is_one_line_with_the_fix(confounded: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no reward model"):
        RewardModel.load(tmp_path / "nothing")
    confounded.model.save(tmp_path / "m")
    tensors = tmp_path / "m" / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(InputError, match="broken"):
        RewardModel.load(tmp_path / "m")
    confounded.model.save(tmp_path / "m")
    facts = json.loads((tmp_path / "m" / "model.json").read_text())
    (tmp_path / "m" / "model.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        RewardModel.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("model.json", lambda facts: [], "model.json is no object"),
        ("model.json", lambda facts: {k: v for k, v in facts.items() if k != "shape"}, "'shape' is missing"),
        ("model.json", lambda facts: {k: v for k, v in facts.items() if k != "channels"}, "'channels' is missing"),
        ("model.json", lambda facts: facts | {"shape": []}, "broken reward model"),
        ("model.json", lambda facts: facts | {"shape": facts["shape"] | {"trunk": {"depth_of": 3}}}, "depth_of"),
        ("model.json", lambda facts: facts | {"shape": facts["shape"] | {"rank": 3}}, "broken reward model"),
        ("trees.json", lambda trees: [], "broken reward model"),
        ("trees.json", lambda trees: {}, "broken reward model"),
    ],
)
def test_a_model_file_that_says_something_else_is_broken(
    confounded: Trained, tmp_path: Path, name: str, change: Callable[[Any], Any], says: str
) -> None:
    confounded.model.save(tmp_path)
    (tmp_path / name).write_text(json.dumps(change(json.loads((tmp_path / name).read_text()))))
    with pytest.raises(InputError, match=says) as found:
        RewardModel.load(tmp_path)
    assert "train_rewards.py" in str(found.value)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "trees.json"])
def test_a_file_that_is_missing_is_named(confounded: Trained, tmp_path: Path, name: str) -> None:
    confounded.model.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"\\({name} is missing\\)"):
        RewardModel.load(tmp_path)


def test_slates_longer_than_those_it_learned_from_are_refused(confounded: Trained) -> None:
    with pytest.raises(InputError, match="slates of 4 items, but it was trained on 3"):
        confounded.model.advantage(confounded.states[:1], torch.zeros((1, 1, 4), dtype=torch.int64))
    assert confounded.model.advantage(confounded.states[:1], torch.zeros((1, 1, 2), dtype=torch.int64)).mean.ndim == 3


def test_scores_do_not_depend_on_the_company(confounded: Trained) -> None:
    states, slates = confounded.states[:30], _slates(30, 5)
    whole = confounded.model.advantage(states, slates)
    parts = confounded.model.advantage(states, slates, chunk=7)
    torch.testing.assert_close(whole.mean, parts.mean, atol=1e-5, rtol=1e-4)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shuffled = confounded.model.advantage(states[order], slates[order])
    torch.testing.assert_close(shuffled.mean, whole.mean[order], atol=1e-5, rtol=1e-4)
    alone = confounded.model.advantage(states, slates[:, 2:3])
    torch.testing.assert_close(alone.spread[:, 0], whole.spread[:, 2], atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_model(one_thread: None) -> None:
    log = make_log(users=80, days=30, size=0.3, seed=4)
    first, second = train(log), train(log)
    torch.testing.assert_close(first.states, second.states, rtol=0, atol=0)
    assert first.model.objective() == second.model.objective()
    assert first.quality["heads"] == second.quality["heads"]


def test_retention_grows_with_the_horizon_after_calibration_too(confounded: Trained) -> None:
    predicted = confounded.model.outcomes(confounded.states)
    assert bool(np.all(predicted["returned_7d"] >= predicted["returned_1d"]))


def test_heads_tell_heavy_from_light(confounded: Trained) -> None:
    heads = confounded.quality["heads"]
    assert isinstance(heads, dict)
    assert heads["active_days_7"]["spearman"] > 0.5
    assert heads["active_days_7"]["ece"] < 0.05
    assert heads["returned_1d"]["auc"] > 0.62
    assert heads["return"]["c_index"] > 0.6


def test_an_item_the_model_does_not_know_is_named(confounded: Trained) -> None:
    with pytest.raises(InputError, match=f"item row {ITEMS}"):
        confounded.model.advantage(confounded.states[:1], torch.full((1, 1, 3), ITEMS))


def test_the_click_twin_has_one_head(one_thread: None) -> None:
    from dataclasses import replace

    log = make_log(users=80, days=30, size=0.3, seed=4)
    twin = train(log, replace(SMALL, labels=("completes",)))
    assert twin.model.labels == ("completes",)
    slates = torch.from_numpy(log.decisions.slate.astype(np.int64))[:, None]
    assert twin.model.objective().lower_bound(twin.model.advantage(twin.states, slates)).shape == (
        len(log.decisions),
        1,
    )


def test_a_log_that_is_too_small_says_so() -> None:
    log = make_log(users=2, days=5, size=0.3, seed=5)
    with pytest.raises(InputError, match="at least 50"):
        train(log)


def test_the_networks_apart_are_two_opinions_of_one_model(confounded: Trained) -> None:
    states, slates = confounded.states[:20], _slates(20, 4)
    whole = confounded.model.advantage(states, slates)
    parts = [model.advantage(own, slates) for model, own in confounded.model.apart(states)]
    torch.testing.assert_close((parts[0].mean + parts[1].mean) / 2, whole.mean, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(parts[0].mean, parts[1].mean)
