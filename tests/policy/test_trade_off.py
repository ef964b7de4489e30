"""Trade-offs: drawn as they can be said, said as they are wanted, rewarded as they were said; blends add up exactly."""

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.histories import contexts, load
from data.store import LogStore
from policy.checkpoint import load_speaker
from policy.trade_off import SILENT, TradeOffReward, blended, draw_wants
from tests.policy.serving.tiny_run import build


def test_wants_are_drawn_in_steps_that_can_be_said_and_never_for_nothing() -> None:
    wants = draw_wants(4000, np.random.default_rng(0))
    both = np.stack([wants["midterm"], wants["clicks"]], axis=1)
    silent = np.isnan(both)
    assert (silent[:, 0] == silent[:, 1]).all()
    assert abs(silent[:, 0].mean() - SILENT) < 0.03
    said = both[~silent[:, 0]]
    assert set(np.unique(said)) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert (said.sum(1) > 0).all()
    assert np.isclose(said.sum(1), 1).mean() > 0.5


def test_what_is_wanted_is_said_row_by_row_and_rewarded_as_said(tmp_path) -> None:
    catalog = build(tmp_path)
    histories, decisions = load(LogStore(tmp_path / "logs"), catalog.index_of)
    spoken = load_speaker(tmp_path / "policy" / "sft", catalog)
    known = contexts(histories, decisions.take(np.arange(3)), 12)
    wants = {"midterm": np.array([1.0, np.nan, 0.25]), "clicks": np.array([0.0, np.nan, 0.75])}
    prompts = spoken.prompt.tokens(known, wants)
    words = spoken.vocabulary.ids
    said = [[name for name in ("<wants>", "<w_midterm_4>", "<w_midterm_1>", "<w_clicks_0>", "<w_clicks_3>")
             if words[name] in prompt] for prompt in prompts]  # fmt: skip
    assert said == [["<wants>", "<w_midterm_4>", "<w_clicks_0>"], [], ["<wants>", "<w_midterm_1>", "<w_clicks_3>"]]
    assert prompts[1] == spoken.prompt.tokens(known)[1], "who asks for nothing is prompted as ever"

    reward = TradeOffReward(
        {
            "midterm": lambda rows, slates: torch.full(slates.shape[:2], 2.0),
            "clicks": lambda rows, slates: torch.full(slates.shape[:2], -4.0),
        }
    )
    got = reward(torch.arange(3), torch.zeros(3, 1, 2, dtype=torch.int64), wants)
    assert got[:, 0].tolist() == [2.0, 2.0, 2.0 * 0.25 - 4.0 * 0.75]
    with pytest.raises(InputError, match="a reward for each of midterm, clicks"):
        TradeOffReward({"midterm": lambda rows, slates: rows})


def test_a_blend_changes_the_model_by_the_sum_of_its_shares(tmp_path) -> None:
    catalog = build(tmp_path)
    base, one, other = (tmp_path / "policy" / name for name in ("sft", "dpo", "ppo"))

    def weight(spoken) -> torch.Tensor:
        layer = spoken.model.get_base_model().model.layers[0].self_attn.q_proj
        assert layer.merged_adapters == spoken.model.active_adapters
        return layer.base_layer.weight

    blend = weight(blended(base, catalog, {one: 0.25, other: 0.75}))
    plain = load_speaker(base, catalog).model.model.layers[0].self_attn.q_proj.weight
    parts = [weight(load_speaker(base, catalog, adapter)) - plain for adapter in (one, other)]
    torch.testing.assert_close(blend, plain + 0.25 * parts[0] + 0.75 * parts[1])
    with pytest.raises(InputError, match="two adapters or more"):
        blended(base, catalog, {one: 1.0})
