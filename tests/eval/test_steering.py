"""Steering: a request means the same by any form; who obeys is told from who does not; moves are held to their word."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from data.errors import InputError
from data.histories import load
from data.store import LogStore
from data.world.words import STYLES, paraphrases
from eval import steering
from eval.steering import Moments, moves_told, obedience, requests, share_of
from policy.checkpoint import load_speaker
from policy.moves import MOVES, move_of
from tests.policy.serving.tiny_run import build
from tests.policy.test_best_of import LikesEven

OTHER_WORDS = {"calm": ("no hurry at all",), "podcast": ("a show",)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steering")
    catalog = build(folder)
    histories, decisions = load(LogStore(folder / "logs"), catalog.index_of)
    moments = Moments.choose(histories, decisions, np.arange(len(decisions)), LikesEven(), 18)
    return load_speaker(folder / "policy" / "sft", catalog), moments


def test_a_request_is_the_same_named_or_misspelled_and_other_words_do_not_name_it(run) -> None:
    spoken, _ = run
    named, wrong = (requests(spoken.catalog, 30, form, OTHER_WORDS, 0) for form in ("named", "misspelled"))
    np.testing.assert_array_equal(named.fits, wrong.fits)
    assert named.column == wrong.column
    assert set(named.column) == {"tags", "kind", "creator"}
    for right, mistyped in zip(named.said, wrong.said, strict=True):
        assert abs(len(right) - len(mistyped)) <= 1
    assert sum(a != b for a, b in zip(named.said, wrong.said, strict=True)) > 25, "a doubled letter may be swapped"
    tags = spoken.catalog.items["tags"].to_list()
    for row, column in enumerate(named.column):
        if column == "tags":
            fitting = [set(tags[item]) for item in np.flatnonzero(named.fits[row])]
            assert any(tag in named.said[row] for tag in set.intersection(*fitting))
    other = requests(spoken.catalog, 30, "in other words", OTHER_WORDS, 0)
    assert not any("calm" in said or "podcast" in said for said in other.said)
    assert all(name not in " ".join(ways) for name, ways in paraphrases().items() if name in {s.name for s in STYLES})
    with pytest.raises(InputError, match="nothing of which 5 items"):
        requests(spoken.catalog, 3, "in other words", {}, 0)


def test_who_obeys_is_told_from_who_does_not_and_pays_what_it_costs(run, monkeypatch) -> None:
    spoken, moments = run
    asked = requests(spoken.catalog, 18, "named", {}, 0)
    rng = np.random.default_rng(0)

    def deaf(*_, **__):
        slates = torch.from_numpy(np.stack([[rng.permutation(60)[:5] for _ in range(4)] for _ in range(18)]))
        return torch.zeros(18, 4, dtype=torch.long), slates, torch.zeros(18, 4)

    def obedient(spoken, moments, steer, samples, seed, listening=True):
        move, slates, given = deaf()
        for row, said in enumerate(steer):
            if said is not None:
                slates[row] = torch.from_numpy(np.flatnonzero(asked.fits[row])[:5])
        return move, slates, given

    monkeypatch.setattr(steering, "drawn", obedient)
    found = obedience(spoken, moments)["named"]
    assert found["fits"]["mean"] == 1.0
    assert found["gain"]["mean"] == pytest.approx(1 - found["unasked"]["mean"])
    served = torch.from_numpy(np.stack([np.flatnonzero(row)[:5] for row in asked.fits]))
    obeying = float((served % 2 == 0).float().mean())
    assert found["cost"]["mean"] == pytest.approx(0.5 - obeying, abs=0.1), "half of all items are even"
    monkeypatch.setattr(steering, "drawn", deaf)
    found = obedience(spoken, moments)["named"]
    assert found["gain"]["lo"] < 0 < found["gain"]["hi"]


def test_a_share_counts_the_items_that_were_asked_for() -> None:
    fits = np.array([[True, False, True, False], [False, False, False, True]])
    slates = torch.tensor([[[0, 1], [2, 0]], [[3, 0], [1, 2]]])
    assert share_of(fits, slates).tolist() == [0.75, 0.25]


def test_moves_are_held_to_their_word(run, monkeypatch) -> None:
    spoken, moments = run
    # The first tag is the style, and in this catalog one is first everywhere.
    items = spoken.catalog.items.with_columns(pl.col("tags").list.reverse())
    spoken = replace(spoken, catalog=replace(spoken.catalog, items=items))
    _, slates, given = steering.drawn(spoken, moments, [None] * 18, 16, 0)
    assert (given < 0).all()
    found = moves_told(spoken, moments, 16, 0)
    assert sum(by["share"] for by in found["moves"].values()) == pytest.approx(1)
    # A policy that always does the move that it says.
    known = steering.contexts(moments.histories, moments.decisions, 12)
    rows = np.repeat(np.arange(18), 16)
    done = move_of(known.item[rows], known.action[rows], slates.flatten(0, 1).numpy(), spoken.catalog).reshape(18, 16)
    truly = (torch.from_numpy(done.astype(np.int64)), slates, given)
    monkeypatch.setattr(steering, "drawn", lambda *_, **__: truly)
    found = moves_told(spoken, moments, 16, 0)
    for code, move in enumerate(MOVES):
        assert found["moves"][move]["share"] == pytest.approx(float((done == code).mean()))
        if found["moves"][move]["share"]:
            assert found["moves"][move]["carried_out"] == 1.0
    assert found["explore - exploit"]["new_styles"]["lo"] > 0, "slates that go far are of styles not just heard"
