"""The policy is one distribution: whoever asks, and however, gets the same log-probability for the same slate."""

import itertools

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from data.errors import InputError
from data.histories import Contexts
from policy.agent import LanguageModelPolicy, position_log_probs, slate_log_probs, top_items
from policy.checkpoint import PolicySettings, Speaker, load_speaker, save_adapter, save_speaker, speaker
from policy.language_model import LegalSlateModel, causal_model, completion_positions
from policy.moves import MOVES
from policy.presets import NANO
from policy.training import adapter
from policy.vocabulary import Vocabulary, nano_tokenizer


def make_speaker(catalog, slate_size, history_length=4, hidden=32, spread=0.3):
    tokenizer = nano_tokenizer(catalog, (), 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=spread,  # sharp enough that a wrong mask or position would show
    )
    model = LlamaForCausalLM(config).eval()
    settings = PolicySettings("nano", catalog.version, slate_size, history_length)
    return speaker(model, tokenizer, Vocabulary.of(tokenizer, catalog), catalog, settings)


def make_contexts(items, rows, seed=0, length=4, steer=None):
    """Histories of different lengths, so that prompts are padded by different amounts."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, items, (rows, length)).astype(np.int32)
    known = np.arange(length) >= rng.integers(0, length + 1, rows)[:, None]
    return Contexts(
        time=np.zeros(rows, np.int64),
        hour_of_week=rng.integers(0, 168, rows).astype(np.int16),
        surface=np.zeros(rows, np.int8),
        gap_hours=np.full(rows, 20.0, np.float32),
        item=np.where(known, item, -1).astype(np.int32),
        action=np.where(known, 2, -1).astype(np.int8),
        steer=[steer if row % 3 == 0 else None for row in range(rows)],
    )


@pytest.fixture(scope="module")
def spoken(make_catalog) -> Speaker:
    return make_speaker(make_catalog(60), slate_size=3)


def test_draw_score_and_forward_agree(spoken):
    ids, mask = spoken.prompt.encode(make_contexts(60, 40, steer="some quiet jazz"), None)
    drawn = spoken.legal.draw(ids, mask, samples=5, generator=torch.Generator().manual_seed(1))
    scored = spoken.legal.completion_log_probs(ids, mask, drawn.tokens)
    assert torch.allclose(drawn.log_probs, scored, atol=1e-4)

    sequence = torch.cat([ids, drawn.tokens[:, 0]], 1)
    attention = torch.cat([mask, torch.ones_like(drawn.tokens[:, 0])], 1)
    position = (attention.cumsum(1) - 1).clamp(min=0)
    logits = spoken.legal(input_ids=sequence, attention_mask=attention, position_ids=position).logits
    length = spoken.grammar.length
    per_token = logits[:, -length - 1 : -1].log_softmax(-1).gather(-1, drawn.tokens[:, 0, :, None])
    assert torch.allclose(per_token.sum((1, 2)), drawn.log_probs[:, 0], atol=1e-4)


def test_right_padding_as_trainers_use_it_changes_nothing(spoken):
    ids, mask = spoken.prompt.encode(make_contexts(60, 8), None)
    drawn = spoken.legal.draw(ids, mask, generator=torch.Generator().manual_seed(1))
    rows = [
        torch.cat([row[keep.bool()], tokens]) for row, keep, tokens in zip(ids, mask, drawn.tokens[:, 0], strict=True)
    ]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    attention = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    labels = torch.where(
        torch.arange(padded.shape[1]) >= mask.sum(1, keepdim=True), padded.masked_fill(attention == 0, -100), -100
    )
    out = spoken.legal(input_ids=padded, attention_mask=attention, labels=labels)
    assert out.loss.item() == pytest.approx(-drawn.log_probs.mean().item() / spoken.grammar.length, abs=1e-4)


def test_probabilities_of_all_slates_sum_to_one(make_catalog):
    few = make_speaker(make_catalog(6, level_sizes=(2, 2, 2)), slate_size=2)
    ids, mask = few.prompt.encode(make_contexts(6, 3), None)
    slates = torch.tensor(list(itertools.permutations(range(6), 2)))
    moves = torch.arange(len(MOVES)).repeat_interleave(len(slates))
    every = few.grammar.encode(moves, slates.repeat(len(MOVES), 1))
    total = few.legal.completion_log_probs(ids, mask, every[None].expand(3, -1, -1)).exp().sum(1)
    assert torch.allclose(total, torch.ones(3), atol=1e-4)


def test_ten_thousand_slates_are_legal_and_never_repeat(spoken):
    ids, mask = spoken.prompt.encode(make_contexts(60, 100, seed=3), None)
    drawn = spoken.legal.draw(ids, mask, samples=100, generator=torch.Generator().manual_seed(2))
    _, items = spoken.grammar.decode(drawn.tokens.flatten(0, 1))  # raises for an illegal or repeated item
    assert items.shape == (10_000, 3)
    ordered = items.sort(1).values
    assert (ordered[:, 1:] > ordered[:, :-1]).all()


def test_only_eligible_items_are_drawn(spoken):
    eligible = torch.zeros(60, dtype=torch.bool)
    eligible[::7] = True
    ids, mask = spoken.prompt.encode(make_contexts(60, 20), None)
    drawn = spoken.legal.draw(ids, mask, samples=10, eligible=eligible)
    _, items = spoken.grammar.decode(drawn.tokens.flatten(0, 1))
    assert eligible[items].all()


def test_generate_hands_trainers_the_masked_scores(spoken):
    ids, mask = spoken.prompt.encode(make_contexts(60, 6), None)
    config = GenerationConfig(max_new_tokens=spoken.grammar.length, do_sample=True, temperature=1.0)
    out = spoken.legal.generate(
        input_ids=ids, attention_mask=mask, generation_config=config, return_dict_in_generate=True, output_scores=True
    )
    completion = out.sequences[:, ids.shape[1] :]
    scores = torch.stack(out.scores, 1).log_softmax(-1).gather(-1, completion[..., None]).sum((1, 2))
    assert torch.allclose(scores, spoken.legal.completion_log_probs(ids, mask, completion[:, None])[:, 0], atol=1e-4)
    with pytest.raises(ValueError, match="max_new_tokens is 5"):
        spoken.legal.generate(input_ids=ids, attention_mask=mask, generation_config=GenerationConfig(max_new_tokens=5))


def test_histories_without_a_slate_are_plain_language(spoken):
    ids = torch.tensor([[spoken.vocabulary.ids["<history>"], 5, 6, 7]])
    plain = type(spoken.legal).__mro__[2].forward(spoken.legal, input_ids=ids).logits
    assert torch.equal(spoken.legal(input_ids=ids).logits, plain)


def test_half_a_slate_is_refused(spoken):
    mark = spoken.vocabulary.ids["<slate>"]
    with pytest.raises(ValueError, match="exactly one <slate>"):
        completion_positions(torch.tensor([[5, mark, 6, mark, 7]]), mark, 2)
    with pytest.raises(ValueError, match="must have 4 tokens"):
        completion_positions(torch.tensor([[5, mark, 6, 7]]), mark, 4)


def test_an_adapter_can_be_saved_loaded_and_switched_off(spoken, tmp_path):
    base = tmp_path / "sft"
    base.mkdir()
    save_speaker(spoken, base)
    fresh = load_speaker(base, spoken.catalog)
    ids, mask = fresh.prompt.encode(make_contexts(60, 5), None)
    slates = fresh.legal.draw(ids, mask, generator=torch.Generator().manual_seed(0)).tokens
    before = fresh.legal.completion_log_probs(ids, mask, slates)
    model = get_peft_model(fresh.legal, adapter(NANO))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    after = causal_model(model).completion_log_probs(ids, mask, slates)
    assert not torch.allclose(before, after, atol=1e-2)
    with model.disable_adapter():
        assert torch.allclose(causal_model(model).completion_log_probs(ids, mask, slates), before, atol=1e-5)
    save_adapter(model, tmp_path / "dpo")
    again = load_speaker(base, spoken.catalog, tmp_path / "dpo")
    assert torch.allclose(again.legal.completion_log_probs(ids, mask, slates), after, atol=1e-5)
    assert isinstance(again.legal, LegalSlateModel)
    assert type(again.legal).__name__ == "LlamaForCausalLM"  # what servers look a checkpoint's class up by


def test_likeliest_items_are_those_of_the_exact_marginal(make_catalog):
    few = make_speaker(make_catalog(12, level_sizes=(2, 2, 4)), slate_size=1)
    contexts = make_contexts(12, 6)
    exact = np.stack([slate_log_probs(few, contexts, np.full((6, 1), item, np.int32)) for item in range(12)], 1)
    ranked = top_items(few, contexts, count=12, beams=64)
    assert np.array_equal(ranked, np.argsort(-exact, axis=1))


def test_the_policy_reports_the_probability_it_drew_with(spoken):
    policy = LanguageModelPolicy("sft", spoken)
    contexts = make_contexts(60, 30)
    slates, log_p = policy.choose(contexts, np.random.default_rng(0))
    again, _ = policy.choose(contexts, np.random.default_rng(0))
    assert np.array_equal(slates, again)
    marginal = slate_log_probs(spoken, contexts, slates)
    assert (marginal >= log_p - 1e-4).all()  # the marginal sums over moves, the drawn pair is one of them
    assert set(policy.last_moves) <= set(MOVES)
    # Judged under itself, a policy's own log has weight 1 in every row: the pair that it logged is what is scored.
    pair = slate_log_probs(spoken, contexts, slates, policy.last_moves)
    np.testing.assert_allclose(np.exp(pair - log_p), 1.0, atol=1e-3)
    assert np.exp(marginal - log_p).mean() > 1.1  # what the marginal would have made of it
    half = slate_log_probs(spoken, contexts, slates, [m if i % 2 else None for i, m in enumerate(policy.last_moves)])
    assert np.array_equal(half, np.where(np.arange(30) % 2, pair, marginal))
    with pytest.raises(InputError, match="'jump': not one of continue"):
        slate_log_probs(spoken, contexts, slates, ["jump"] * 30)


def test_an_items_probability_at_a_position_is_a_sum_over_slates(make_catalog):
    few = make_speaker(make_catalog(4, level_sizes=(2, 2, 2)), slate_size=2)
    contexts = make_contexts(4, 3)
    every = list(itertools.permutations(range(4), 2))
    p = np.exp([slate_log_probs(few, contexts, np.full((3, 2), slate, np.int32)) for slate in every])  # (12, 3)
    slates = np.array([[0, 1], [2, 0], [3, 2]], np.int32)
    exact = [
        [sum(p[s, row] for s, slate in enumerate(every) if slate[place] == slates[row, place]) for place in range(2)]
        for row in range(3)
    ]
    often = np.repeat(np.arange(3), 250)  # a thousand slates drawn for each context
    drawn = position_log_probs(few, contexts.take(often), slates[often], 4, torch.Generator().manual_seed(0))
    assert np.exp(drawn).reshape(3, 250, 2).mean(1) == pytest.approx(np.array(exact), abs=0.03)
