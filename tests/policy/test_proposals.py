"""What a reward would show itself: the draw is the softmax it says, and a policy that imitates it starts nearer.
Balances: what is wanted is what is drawn, and what was taught of it is heard.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from policy.examples import Requests, SlateExamples, made_up_requests, told
from policy.grpo import GroupSettings, train_group
from policy.presets import NANO
from policy.prompt import neutral_contexts
from policy.proposals import balance_slates, candidates, propose
from policy.sft import imitate, sft_config
from policy.watch import WatchSettings
from tests.policy.test_grpo import SMALL, likes_even
from tests.policy.test_language_model import make_speaker

ITEMS = 40


def test_the_first_item_is_drawn_as_the_softmax_of_its_reward() -> None:
    worth = torch.tensor([0.0, 0.3, -0.2, 0.6])
    price, many = 0.25, 20_000

    def reward(rows: torch.Tensor, slates: torch.Tensor) -> torch.Tensor:
        return worth[slates].sum(-1)

    slates = propose(reward, np.zeros(many, np.int64), np.array([0, 1, 3]), 2, price, seed=1)
    assert slates.dtype == np.int32
    assert set(slates.ravel().tolist()) == {0, 1, 3}, "what is no candidate is not proposed"
    assert (slates[:, 0] != slates[:, 1]).all()
    expected = torch.softmax(worth[[0, 1, 3]] / price, 0).numpy()
    share = np.bincount(slates[:, 0], minlength=4)[[0, 1, 3]] / many
    assert np.abs(share - expected).max() < 4 * np.sqrt(0.25 / many)
    # Without replacement: after the first, the rest of the softmax.
    second = slates[slates[:, 0] == 3, 1]
    rest = expected[:2] / expected[:2].sum()
    assert abs(float(np.mean(second == 1)) - rest[1]) < 4 * np.sqrt(0.25 / len(second))


def test_each_decision_and_each_trade_off_has_proposals_of_its_own() -> None:
    def reward(rows: torch.Tensor, slates: torch.Tensor, wants: dict[str, np.ndarray]) -> torch.Tensor:
        likes = (slates[..., 0] == rows[:, None] % 3) * torch.from_numpy(wants["midterm"])[:, None]
        return 100.0 * likes

    rows = np.arange(600)
    wants = {"midterm": (rows % 2).astype(np.float64)}
    first = propose(reward, rows, np.arange(3), 1, 1.0, seed=2, wants=wants)[:, 0]
    asked = rows % 2 == 1
    assert (first[asked] == rows[asked] % 3).all()
    assert 0.2 < float(np.mean(first[~asked] == rows[~asked] % 3)) < 0.5, "who wants nothing of it gets anything"


def test_who_asks_gets_what_fits_best_and_others_where_too_little_does() -> None:
    def reward(rows: torch.Tensor, slates: torch.Tensor) -> torch.Tensor:
        return slates.float().sum(-1)  # the higher the number, the better

    fits = np.array([[True, True, True, False, False], [False, False, True, False, False], [True] * 5])
    asked = Requests(["low", "two", None], np.array([0, 1, 2]), fits)
    slates = propose(reward, np.zeros(3, np.int64), np.arange(5), 2, 0.01, seed=3, requests=asked)
    assert slates[0].tolist() == [2, 1]
    assert slates[1].tolist() == [2, 4]
    assert slates[2].tolist() == [4, 3]


def test_requests_are_made_up_for_some_of_the_silent(run) -> None:
    _, catalog, _, _ = run
    given = ["play jazz", *[None] * 999]
    asked = made_up_requests(catalog, 2, given, 0.3, np.random.default_rng(0))
    assert asked.said[0] == "play jazz"
    assert asked.which[0] == len(asked.fits) - 1, "what a log says in words of its own is nobody's promise"
    spoke = np.array([text is not None for text in asked.said[1:]])
    assert 0.25 < spoke.mean() < 0.35
    assert (asked.fits[asked.which[1:][spoke]].sum(1) >= 2).all()
    assert asked.fits[asked.which[1:][~spoke]].all()


def test_candidates_are_what_the_log_shows_most(run) -> None:
    _, catalog, _, decisions = run
    rows = np.arange(len(decisions))
    counts = np.bincount(decisions.slate[decisions.slate >= 0], minlength=len(catalog))
    few = candidates(decisions, rows, 5)
    assert (np.diff(few) > 0).all()
    assert counts[few].min() >= np.sort(counts)[-5]
    assert set(candidates(decisions, rows)) == set(np.flatnonzero(counts))


def test_a_policy_that_imitates_first_starts_nearer_and_is_measured_against_sft(run, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    small = replace(SMALL, grpo_slates=64, grpo_lesson=400, grpo_lesson_lr=1e-2, batch=16)
    until = int(np.sort(decisions.time)[-1]) + 1
    for name, lesson in (("plain", False), ("lesson", True)):
        (tmp_path / name).mkdir()
        watched = WatchSettings(every=1, prompts=8, least_entropy=2.0, least_ranking=0.0)
        settings = GroupSettings(until=until, lesson=lesson, watch=watched)
        train_group(
            folder / "policy" / "sft", None, histories, decisions, catalog, likes_even, small, settings, tmp_path / name
        )

    def lines(name: str) -> list[dict]:
        return [json.loads(line) for line in (tmp_path / name / "training.jsonl").read_text().splitlines()]

    plain, taught = (next(line for line in lines(name) if line.get("step") == 0) for name in ("plain", "lesson"))
    assert taught["watch/reward"] > plain["watch/reward"] + 0.1
    assert any(line["stage"] == "proposals" for line in lines("lesson"))
    first_kl = next(line["kl"] for line in lines("lesson") if "kl" in line)
    assert first_kl > 0.01, "the reference is SFT, not where the lesson left off"
    assert lines("lesson")[-1]["watch/best_step"] == 0, "nothing is twice as varied as SFT, so nothing later is kept"


def opposed(items: int) -> dict[str, np.ndarray]:
    mark = np.linspace(-1.7, 1.7, items)
    return {"midterm": mark, "clicks": -mark}


def test_a_balances_slate_is_drawn_by_what_is_wanted(make_catalog) -> None:
    spoken = make_speaker(make_catalog(ITEMS), slate_size=2)
    base = SlateExamples(neutral_contexts([None] * 9), np.zeros((9, 2), np.int32), np.zeros(9, np.int8))
    lesson, wants = balance_slates(base, spoken.catalog, np.arange(ITEMS), opposed(ITEMS), 4000, 0)
    assert lesson.slates.shape == (4000, 2)
    assert (lesson.slates[:, 0] != lesson.slates[:, 1]).all()
    assert not np.isnan(wants["midterm"]).any(), "every one of these prompts says what it wants"
    lean = wants["midterm"] - wants["clicks"]
    shown = opposed(ITEMS)["midterm"][lesson.slates].mean(1)
    means = [shown[lean == step].mean() for step in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    assert np.all(np.diff(means) > 0.2)
    assert means[-1] == pytest.approx(-means[0], abs=0.1)
    worth = np.exp(opposed(ITEMS)["midterm"] / 0.3)
    first = opposed(ITEMS)["midterm"][lesson.slates[lean == 1.0, 0]].mean()
    assert first == pytest.approx((worth * opposed(ITEMS)["midterm"]).sum() / worth.sum(), abs=0.05)
    few, _ = balance_slates(base, spoken.catalog, np.array([3, 7]), opposed(ITEMS), 50, 0)
    assert set(few.slates.flatten().tolist()) == {3, 7}


def test_a_balance_that_was_taught_is_heard(make_catalog, tmp_path) -> None:
    spoken = make_speaker(make_catalog(ITEMS), slate_size=2)
    mark = torch.from_numpy(opposed(ITEMS)["midterm"])
    base = SlateExamples(neutral_contexts([None] * 9), np.zeros((9, 2), np.int32), np.zeros(9, np.int8))

    def shown() -> list[float]:
        found = []
        for weight in (0.0, 0.5, 1.0):
            ids, mask = spoken.prompt.encode(neutral_contexts([None] * 50), {"midterm": weight, "clicks": 1 - weight})
            drawn = spoken.legal.draw(ids, mask, samples=8, generator=torch.Generator().manual_seed(0))
            found.append(mark[spoken.grammar.decode(drawn.tokens.flatten(0, 1))[1]].mean().item())
        return found

    untaught = shown()
    lesson, wants = balance_slates(base, spoken.catalog, np.arange(ITEMS), opposed(ITEMS), 4000, 0)
    config = sft_config(NANO, tmp_path, 0, {"per_device_train_batch_size": 16, "learning_rate": 3e-3})
    imitate(spoken, spoken.model, told(spoken, lesson, wants), config, "balances", "words")
    spoken.model.eval()
    clicks, both, midterm = shown()
    assert abs(untaught[2] - untaught[0]) < 0.3
    # Half-way between deaf, 0, and what so small a model learns of the lesson, .8.
    assert clicks < -0.4
    assert midterm > 0.4
    assert clicks < both < midterm
