from dataclasses import replace

import numpy as np
import pytest
import torch

from data.histories import Histories
from rewards.recency import COLUMNS
from rewards.sequences import batches
from rewards.trunk import Inputs, Trunk, TrunkSettings, said_words
from tests.rewards.made_up_log import MadeUp


def _trunk() -> Trunk:
    torch.manual_seed(0)
    settings = TrunkSettings(width=16, layers=2, heads=2, content=4)
    return Trunk(settings, torch.randn(24, 4), len(COLUMNS)).eval()


def _states(trunk: Trunk, histories: Histories, log: MadeUp, window: int, tokens: int) -> torch.Tensor:
    inputs = Inputs.of(histories, log.decisions)
    rows = np.arange(len(log.decisions))
    result = torch.full((len(rows), 16), float("nan"))
    with torch.no_grad():
        for batch in batches(histories, log.decisions, rows, window, tokens):
            result[torch.from_numpy(batch.decision)] = trunk(inputs, batch)
    return result


@pytest.mark.parametrize(("window", "tokens"), [(256, 4096), (16, 500), (8, 64)])
def test_every_decision_is_read_once_at_its_last_known_interaction(small_log: MadeUp, window: int, tokens: int) -> None:
    rows = np.arange(0, len(small_log.decisions), 2)
    plan = batches(small_log.histories, small_log.decisions, rows, window, tokens)
    read = np.concatenate([batch.decision for batch in plan])
    assert sorted(read.tolist()) == rows.tolist()
    for batch in plan:
        assert batch.interaction.shape[1] <= window + 1
        last = batch.interaction[batch.window, batch.position]
        start = small_log.decisions.start[batch.decision]
        first = small_log.histories.offsets[small_log.decisions.user[batch.decision]]
        np.testing.assert_array_equal(last, np.where(start > first, start - 1, -1))
        seen = np.minimum(start - first, batch.position)
        assert np.all(seen >= np.minimum(start - first, window // 2)), "half a window of the past is visible"


def test_a_state_does_not_depend_on_who_shares_the_batch(small_log: MadeUp) -> None:
    trunk = _trunk()
    whole = _states(trunk, small_log.histories, small_log, 256, 100_000)
    alone = _states(trunk, small_log.histories, small_log, 256, 1)
    torch.testing.assert_close(whole, alone, atol=2e-5, rtol=1e-4)


def test_a_state_knows_nothing_of_what_came_later(small_log: MadeUp) -> None:
    trunk = _trunk()
    before = _states(trunk, small_log.histories, small_log, 256, 4096)
    late = small_log.histories.time >= np.median(small_log.decisions.time)
    changed = Histories(
        **{**vars(small_log.histories), "item": np.where(late, 5, small_log.histories.item).astype(np.int32)}
    )
    after = _states(trunk, changed, small_log, 256, 4096)
    known_then = small_log.decisions.time <= np.median(small_log.decisions.time)
    torch.testing.assert_close(before[known_then], after[known_then])
    assert not torch.allclose(before[~known_then], after[~known_then])


def test_a_listener_without_a_past_has_a_state(small_log: MadeUp) -> None:
    empty = Histories(
        ["u0"],
        np.array([0, 0]),
        small_log.histories.item[:0],
        small_log.histories.action[:0],
        small_log.histories.time[:0],
        small_log.histories.surface[:0],
        small_log.histories.hour_of_week[:0],
    )
    first = np.flatnonzero(small_log.decisions.user == 0)[:1]
    decisions = small_log.decisions.take(first)
    inputs = Inputs.of(empty, decisions)
    (batch,) = batches(empty, decisions, np.arange(1), 16, 100)
    assert bool(_trunk()(inputs, batch).isfinite().all())


def test_windows_must_be_even(small_log: MadeUp) -> None:
    with pytest.raises(ValueError, match="even"):
        batches(small_log.histories, small_log.decisions, np.arange(3), 7, 100)


def test_what_the_listener_says_changes_the_state_and_only_theirs(small_log: MadeUp) -> None:
    trunk = _trunk()
    torch.nn.init.normal_(trunk.word.weight)
    before = _states(trunk, small_log.histories, small_log, 256, 4096)
    rows = len(small_log.decisions)
    asked: list[str | None] = ["something calm, please" if row == 3 else None for row in range(rows)]
    spoken = replace(small_log, decisions=replace(small_log.decisions, steer=asked))
    after = _states(trunk, small_log.histories, spoken, 256, 4096)
    others = np.arange(rows) != 3
    torch.testing.assert_close(before[others], after[others])
    assert not torch.allclose(before[3], after[3])


def test_words_are_read_in_any_language_and_length() -> None:
    table = said_words(["etwas Ruhiges, bitte", None, "", "etwas ruhiges bitte", "a b c d e f g h i j"])
    assert np.array_equal(table[0], table[3])
    assert (table[1:3] == 0).all()
    assert (table[4] > 0).all()
