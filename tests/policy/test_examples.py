"""Packed histories: no history sees its neighbour, none is lost, and a repeated pass may be thinned. Moves: a slate
carries out the move that is said before it, which itself is not learned. Marks: what a log says of an item.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.histories import Histories
from data.schema import ACTIONS
from policy.examples import SlateExamples, history_blocks, marks, move_slates, told
from policy.moves import MOVES, move_of
from policy.prompt import neutral_contexts
from policy.sft import PartsCollator, dropped_out
from tests.policy.test_language_model import make_speaker

ITEMS = 40
LATER = 2**62


@pytest.fixture(scope="module")
def spoken(make_catalog):
    return make_speaker(make_catalog(ITEMS), slate_size=1)


def histories(*lengths: int) -> Histories:
    rng = np.random.default_rng(0)
    size = sum(lengths)
    return Histories(
        user_ids=[f"u{user}" for user in range(len(lengths))],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item=rng.integers(0, ITEMS, size).astype(np.int32),
        action=np.full(size, ACTIONS.index("play"), dtype=np.int8),
        time=np.arange(size, dtype=np.int64),
        surface=np.zeros(size, dtype=np.int8),
        hour_of_week=np.zeros(size, dtype=np.int16),
    )


def test_a_part_is_read_as_it_is_alone(spoken) -> None:
    """The loss of packed blocks is that of their parts one by one: attention stops where a history begins."""
    blocks = history_blocks(spoken, histories(3, 5, 2, 4, 7), LATER, 64, 1.0, 0)
    batch = PartsCollator(0)([{"input_ids": t, "parts": p} for t, p in zip(blocks.tokens, blocks.parts, strict=True)])
    packed = spoken.model(**batch).loss.item()
    alone, count = 0.0, 0
    for tokens, parts in zip(blocks.tokens, blocks.parts, strict=True):
        for part in torch.tensor(tokens).split(parts):
            alone += spoken.model(input_ids=part[None], labels=part[None]).loss.item() * (len(part) - 1)
            count += len(part) - 1
    assert len(blocks.tokens) > 1
    assert packed == pytest.approx(alone / count, rel=1e-4)


def test_blocks_hold_every_interaction_once_a_pass(spoken) -> None:
    log = histories(3, 1, 5, 40, 2)
    blocks = history_blocks(spoken, log, LATER, 64, 2.0, 0)
    assert all(sum(parts) == len(tokens) <= 64 for tokens, parts in zip(blocks.tokens, blocks.parts, strict=True))
    each = spoken.vocabulary.code_tokens.shape[1] + 1
    opening = spoken.vocabulary.ids["<history>"]
    said = [token for tokens in blocks.tokens for token in tokens if token != opening]
    whole = sum(parts and sum(parts) - len(parts) for parts in blocks.parts)
    assert len(said) == whole
    # A user with one interaction teaches nothing, and the last one of a history that was cut may be left alone.
    assert 2 * (3 + 5 + 40 + 2) - 2 <= len(said) // each <= 2 * (3 + 5 + 40 + 2)
    short = history_blocks(spoken, log, 3, 64, 1.0, 0)  # only the first user has interactions before time 3
    assert sum(map(sum, short.parts)) == 1 + 3 * each


def test_thinning_spares_the_first_pass(spoken) -> None:
    log = histories(*[6] * 60)
    whole = history_blocks(spoken, log, LATER, 64, 1.0, 0, thinning=0.5)
    assert {part for parts in whole.parts for part in parts} == {1 + 6 * (spoken.vocabulary.code_tokens.shape[1] + 1)}
    twice = history_blocks(spoken, log, LATER, 64, 2.0, 0, thinning=0.5)
    more = sum(map(sum, twice.parts)) - sum(map(sum, whole.parts))
    assert 0.3 < more / sum(map(sum, whole.parts)) < 0.6


def test_dropout_is_there_in_training_and_gone_after(spoken) -> None:
    ids = torch.arange(8)[None]
    with torch.no_grad():
        plain = spoken.model(input_ids=ids).logits
        with dropped_out(spoken.legal, 0.5):
            assert torch.equal(spoken.model(input_ids=ids).logits, plain)
            spoken.model.train()
            assert not torch.allclose(spoken.model(input_ids=ids).logits, plain)
        assert torch.equal(spoken.model(input_ids=ids).logits, plain)
        spoken.model.eval()


def test_every_item_of_a_moves_slate_is_such_a_move_and_the_move_itself_is_not_learned(make_catalog) -> None:
    spoken = make_speaker(make_catalog(120, (6, 5, 8)), slate_size=3)
    log = histories(12, 12, 12)
    rng = np.random.default_rng(0)
    known = replace(
        neutral_contexts([None] * 30),
        item=rng.integers(0, 120, (30, 4)).astype(np.int32),
        action=np.full((30, 4), log.action[0], np.int8),
    )
    base = SlateExamples(known, np.zeros((30, 3), np.int32), np.zeros(30, np.int8))
    weight = np.zeros(120)
    weight[7] = 1e6
    found = move_slates(base, spoken.catalog, weight, 400, 0)
    assert 300 < len(found) <= 400
    for items in range(3):  # each on its own, and so all together
        one = move_of(found.contexts.item, found.contexts.action, found.slates[:, [items]], spoken.catalog)
        np.testing.assert_array_equal(one, found.moves)
    assert all(len(set(slate)) == 3 for slate in found.slates.tolist())
    drawn = np.bincount(found.moves, minlength=len(MOVES)) / len(found)
    assert (drawn > 0.1).all(), "a move is drawn wherever there are items for it"
    assert (found.slates == 7).any(1).mean() > 0.2, "what was engaged with more is drawn more"
    given, plain = (told(spoken, found, moves_given=one) for one in (True, False))
    for without, whole in zip(given, plain, strict=True):
        learned = whole["labels"]
        first = next(at for at, label in enumerate(learned) if label != -100)
        assert learned[first] == whole["input_ids"][first]
        assert without == {"input_ids": whole["input_ids"], "labels": [*learned[:first], -100, *learned[first + 1 :]]}
    assert len(move_slates(base, spoken.catalog, weight, 0, 0)) == 0


def test_marks_are_what_a_log_says_of_an_item_before_the_cut() -> None:
    log = histories(300)
    code = {name: ACTIONS.index(name) for name in ("complete", "skip", "play")}
    log.item[:] = np.repeat([0, 1, 2], [200, 50, 50])
    log.action[:] = np.repeat([code["skip"], code["complete"], code["play"]], [200, 50, 50])
    found = marks(log, LATER, 4)
    assert all(mark.mean() == pytest.approx(0) and mark.std() == pytest.approx(1) for mark in found.values())
    assert found["clicks"][1] == found["clicks"][2]
    assert found["clicks"].argmax() == 0
    assert found["clicks"].argmin() == 3
    assert found["midterm"].argmax() == 1
    assert found["midterm"].argmin() == 0
    assert found["midterm"][2] == found["midterm"][3], "played, no more, is as good as never played"
    early = marks(log, int(log.time[250]), 4)
    assert early["clicks"][2] == early["clicks"][3], "what came after the cut says nothing"
    log.action[:] = code["play"]
    assert marks(log, LATER, 4)["midterm"].tolist() == [0.0] * 4
