"""Decisions about messages are one distribution: drawn, scored and trained alike, legal, and all of them sum to one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.message_log import MessageLog, take_contexts
from data.world.environment import MessageContexts, Messages
from data.world.settings import CHANNELS
from policy.checkpoint import Speaker, load_speaker, save_speaker
from policy.messaging.agent import LanguageModelMessages, message_log_probs
from policy.messaging.caps import RulesWithCaps
from policy.messaging.examples import MessageLesson, MixedCollator
from policy.messaging.grammar import HOURS, MessageGrammar, every_decision
from policy.messaging.prompt import MessagePrompt, message_words
from policy.messaging.proposals import propose
from policy.messaging.rules import MessageRules, allowed_by_clock
from policy.messaging.training import (
    MessageSettings,
    is_message_policy,
    train_messages,
)
from policy.presets import NANO
from policy.vocabulary import message_tokens
from tests.policy.test_language_model import make_contexts as slate_contexts
from tests.policy.test_language_model import make_speaker
from tests.rewards.made_up_messages import ITEMS, make_messages

WORDS = message_words(ITEMS)


@pytest.fixture(scope="module")
def spoken(make_catalog) -> Speaker:
    return make_speaker(make_catalog(60), slate_size=3)


@pytest.fixture(scope="module")
def log() -> MessageLog:
    return make_messages(users=40, days=10)[0]


@pytest.fixture(scope="module")
def contexts(log) -> MessageContexts:
    """Mornings on which histories, sends, consent and offers differ, so that prompts are padded differently."""
    rng, some = np.random.default_rng(3), take_contexts(log.contexts, np.arange(40))
    there = rng.random((40, 8)) < 0.4
    return replace(
        some,
        item=np.where(rng.random((40, 4)) < 0.6, rng.integers(0, 60, (40, 4)), -1).astype(np.int32),
        action=np.full((40, 4), 2, np.int8),
        eligible=np.where(rng.random((40, 2)) < 0.8, some.eligible, -1).astype(np.int32),
        value=np.where(rng.random((40, 2)) < 0.8, some.value, np.nan).astype(np.float32),
        consent=rng.random((40, 3)) < 0.7,
        sent_item=np.where(there, 1, -1).astype(np.int32),
        sent_channel=np.where(there, rng.integers(0, 3, (40, 8)), -1).astype(np.int8),
        sent_days_ago=np.where(there, rng.integers(1, 20, (40, 8)), 0).astype(np.int32),
    )


def asked(spoken, contexts):
    """Prompts of the contexts, and what may be sent in some hours only: not every opportunity by every channel."""
    may = allowed_by_clock(contexts) & (np.random.default_rng(5).random((len(contexts), 2, 3, HOURS)) < 0.5)
    ids, mask = MessagePrompt(spoken.prompt, WORDS).encode(contexts, may)
    return ids, mask, torch.from_numpy(may)


def test_draw_score_and_training_forward_agree(spoken, contexts) -> None:
    ids, mask, may = asked(spoken, contexts)
    drawn = spoken.legal.draw(ids, mask, samples=5, generator=torch.Generator().manual_seed(1), allowed=may)
    assert (drawn.tokens[..., 0] != spoken.legal.decisions.hold).any()
    scored = spoken.legal.completion_log_probs(ids, mask, drawn.tokens, allowed=may)
    assert torch.allclose(drawn.log_probs, scored, atol=1e-4)

    # As a trainer reads it: beside slates, right padded, the loss over completions only.
    pairs = [(row[keep.bool()].tolist(), said.tolist()) for row, keep, said in zip(ids, mask, drawn.tokens[:, 0])]
    places = [np.flatnonzero(open_.numpy()).tolist() for open_ in may]
    examples = [
        {"input_ids": prompt + said, "labels": [-100] * len(prompt) + said, "allowed": place}
        for (prompt, said), place in zip(pairs, places)
    ]
    slate_ids, slate_mask = spoken.prompt.encode(slate_contexts(60, 6), None)
    slates = spoken.legal.draw(slate_ids, slate_mask, generator=torch.Generator().manual_seed(2))
    for row, keep, said in zip(slate_ids, slate_mask, slates.tokens[:, 0]):
        prompt = row[keep.bool()].tolist()
        examples.append({"input_ids": prompt + said.tolist(), "labels": [-100] * len(prompt) + said.tolist()})
    batch = MixedCollator(0, 2)(examples)
    out = spoken.legal(**batch)
    total = -(drawn.log_probs[:, 0].sum() + slates.log_probs.sum())
    count = 3 * len(contexts) + 6 * spoken.grammar.length
    assert out.loss.item() == pytest.approx(total.item() / count, abs=1e-4)
    for row, (prompt, said) in enumerate(pairs):
        at = torch.arange(len(prompt) - 1, len(prompt) + 2)
        read = out.logits[row, at].log_softmax(-1)[torch.arange(3), torch.tensor(said)].sum()
        assert read.item() == pytest.approx(drawn.log_probs[row, 0].item(), abs=1e-4)


def test_all_decisions_sum_to_one(spoken, contexts) -> None:
    ids, mask, may = asked(spoken, contexts)
    sizes = []
    for row in range(8):
        every = torch.tensor(every_decision(may[row].numpy()))
        sizes.append(len(every))
        tokens = spoken.legal.decisions.encode(*every.unbind(1))[None]
        one = slice(row, row + 1)
        found = spoken.legal.completion_log_probs(ids[one], mask[one], tokens, allowed=may[one]).exp()
        assert found.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert min(sizes) >= 1
    assert max(sizes) > 10


def test_of_ten_thousand_drawn_decisions_none_is_illegal(spoken, contexts) -> None:
    ids, mask, may = asked(spoken, contexts)
    drawn = spoken.legal.draw(ids, mask, samples=250, generator=torch.Generator().manual_seed(2), allowed=may)
    sent = spoken.legal.decisions.messages(drawn.tokens.flatten(0, 1))
    row = np.repeat(np.arange(40), 250)
    assert len(row) == 10_000
    assert 0 < sent.held.sum() < 10_000
    made = ~sent.held
    assert may.numpy()[row[made], sent.column[made], sent.channel[made], sent.hour[made]].all()


def test_who_may_be_sent_nothing_is_held_for_certain(spoken, contexts) -> None:
    nobody = np.zeros((40, 2, 3, HOURS), np.bool_)
    policy = LanguageModelMessages("lm@1", spoken, MessagePrompt(spoken.prompt, WORDS), rules=lambda _: nobody)
    sent, log_prob = policy.choose(contexts, np.random.default_rng(0))
    assert sent.held.all()
    np.testing.assert_allclose(log_prob, 0.0, atol=1e-6)


def test_what_is_not_allowed_is_an_error_wherever_it_is_said(spoken) -> None:
    grammar = spoken.legal.decisions
    may = torch.zeros((1, 2, len(CHANNELS), HOURS), dtype=torch.bool)
    may[0, 1, 2, 9] = True
    good = grammar.encode(*torch.tensor([[1], [2], [9]]))
    assert grammar.legal(good[:, :2], may).nonzero().tolist() == [[0, len(grammar.ids) - HOURS + 9]]
    grammar.legal_all(good, may)
    for wrong in ([0, 2, 9], [1, 0, 9], [1, 2, 10]):
        with pytest.raises(InputError, match="not allowed"):
            grammar.legal_all(grammar.encode(*torch.tensor(wrong)[:, None]), may)
    with pytest.raises(InputError, match="no legal token"):
        grammar.legal(grammar.encode(*torch.tensor([[0], [2], [9]]))[:, :1], may)
    with pytest.raises(InputError, match="neither holds nor sends"):
        grammar.decode(torch.stack([good[0, 0], grammar.ids[0], good[0, 2]])[None])
    with pytest.raises(InputError, match="hour is outside"):
        grammar.encode(*torch.tensor([[1], [2], [24]]))
    with pytest.raises(InputError, match="all of its 3"):
        grammar.legal(good, may)


def test_the_prompt_says_what_is_known_and_what_may_be_sent(spoken, contexts) -> None:
    one = replace(
        take_contexts(contexts, np.array([0])),
        eligible=np.array([[1, 0]], np.int32),
        value=np.array([[np.nan, 1.2]], np.float32),
        consent=np.array([[True, False, True]]),
        premium=np.array([True]),
        item=np.full((1, 4), -1, np.int32),
        sent_item=np.array([[-1] * 7 + [1]], np.int32),
        sent_channel=np.array([[-1] * 7 + [1]], np.int8),
        sent_days_ago=np.array([[0] * 7 + [3]], np.int32),
    )
    ids = MessagePrompt(spoken.prompt, WORDS).tokens(one, allowed_by_clock(one))[0]
    told = spoken.tokenizer.decode(ids)
    assert told.endswith(
        "<premium><history><sent><email><did_none><ago_2><may><push><in_app>"
        "<offers> offer<value_none><o_0> new jazz<value_5><o_1><message>"
    )
    with pytest.raises(InputError, match="words for 3"):
        MessagePrompt(spoken.prompt, WORDS).encode(
            replace(one, eligible=np.array([[3, 0]], np.int32)), allowed_by_clock(one)
        )
    many = np.zeros((1, 9), np.int32)
    with pytest.raises(InputError, match="lists 8"):
        MessagePrompt(spoken.prompt, WORDS).encode(
            replace(one, eligible=many), allowed_by_clock(replace(one, eligible=many))
        )


def test_what_the_agent_says_of_its_probability_is_what_a_log_is_scored_with(spoken, contexts) -> None:
    policy = LanguageModelMessages("lm@1", spoken, MessagePrompt(spoken.prompt, WORDS))
    sent, log_prob = policy.choose(contexts, np.random.default_rng(0))
    again, _ = policy.choose(contexts, np.random.default_rng(0))
    np.testing.assert_array_equal(sent.column, again.column)
    np.testing.assert_allclose(message_log_probs(spoken, policy.prompt, contexts, sent), log_prob, atol=1e-4)
    broken = Messages(np.zeros(40, np.int32), np.zeros(40, np.int8), np.full(40, 23, np.int8))
    with pytest.raises(InputError, match="not allowed"):
        message_log_probs(spoken, policy.prompt, contexts, broken)


def test_a_policy_without_words_for_messages_says_so(spoken, contexts) -> None:
    ids = {token: place for token, place in spoken.vocabulary.ids.items() if token not in message_tokens()}
    with pytest.raises(InputError, match="no words for messages"):
        MessageGrammar.of(replace(spoken.vocabulary, ids=ids))


def test_messages_that_the_reward_likes_become_likelier(spoken, log, tmp_path) -> None:
    base = tmp_path / "sft"
    base.mkdir()
    save_speaker(spoken, base)
    catalog = spoken.catalog
    contexts = replace(log.contexts, item=np.full_like(log.contexts.item, -1))

    def evenings(_: MessageContexts, column, channel, hour):
        return np.where(column < 0, 0.0, np.where(hour >= 18, 1.0, -1.0))

    def liked(adapter: Path | None) -> float:
        tuned = load_speaker(base, catalog, adapter)
        policy = LanguageModelMessages("lm@1", tuned, MessagePrompt(tuned.prompt, WORDS))
        sent, _ = policy.choose(contexts, np.random.default_rng(1))
        return float(evenings(contexts, sent.column, sent.channel, sent.hour).mean())

    small = replace(NANO, grpo_slates=640, grpo_batch=64, message_lesson=300, message_lr=5e-3, lora_rank=4)
    out = tmp_path / "messages"
    out.mkdir()
    varied = replace(log, contexts=contexts)
    train_messages(base, None, varied, WORDS, catalog, evenings, small, MessageSettings(until=2**62), out)
    assert liked(out) > liked(None) + 0.2
    assert is_message_policy(out)
    assert not is_message_policy(base)
    lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    looks = [line for line in lines if "watch/reward" in line]
    best = next(look for look in looks if look["step"] == lines[-1]["watch/best_step"])
    assert best["watch/reward"] == max(look["watch/reward"] for look in looks)
    assert best["watch/kl"] > 0.01
    assert 0 < best["watch/sends"] < 1


def test_what_is_proposed_is_the_best_and_at_a_price_goes_with_its_worth(contexts) -> None:
    may = allowed_by_clock(contexts)
    may[:20, :, :, 12:] = False  # what is worth sending may not be sent to these

    def evenings(_: MessageContexts, column, channel, hour):
        return np.where(column < 0, 0.0, np.where(hour >= 18, 1.0 + channel, -1.0))

    rng = np.random.default_rng(0)
    column, channel, hour = propose(evenings, contexts, may, 0.0, rng)
    assert (column[:20] == -1).all(), "to hold is better than to send at another hour"
    rows = np.flatnonzero(may[:, :, :, 18].any(axis=(1, 2)))
    assert len(rows) > 5
    assert (hour[rows] == 18).all()
    last = np.array([np.flatnonzero(may[row, column[row], :, 18])[-1] for row in rows])
    np.testing.assert_array_equal(channel[rows], np.maximum(last, channel[rows]))

    one = take_contexts(contexts, np.repeat(rows[:1], 20_000))
    open_ = np.repeat(may[rows[:1]], 20_000, axis=0)
    column, channel, hour = propose(evenings, one, open_, 0.5, rng)
    kinds = np.stack([column, channel, hour])[:, None] == np.array(every_decision(may[rows[0]])).T[:, :, None]
    shares = kinds.all(0).mean(1)
    asked = [(c, by, at) for c, by, at in every_decision(may[rows[0]]) if at in (-1, 8, 13, 18)]
    worths = np.exp([2 * float(evenings(contexts, *map(np.array, move))) for move in asked])
    expected = dict(zip(asked, worths / worths.sum()))
    for move, share in zip(every_decision(may[rows[0]]), shares):
        assert share == pytest.approx(expected.get(move, 0.0), abs=0.015)


def test_only_lawful_decisions_are_lessons(spoken, log) -> None:
    lesson = MessageLesson(log, WORDS, limit=50)
    known = replace(lesson, log=replace(log, contexts=replace(log.contexts, item=np.full_like(log.contexts.item, -1))))
    examples = known.examples(spoken, until=2**62, seed=0)
    assert len(examples) == 50
    nothing = MessageRules(channel_caps=(0, 0, 0))
    silent = replace(known, rules=lambda contexts: allowed_by_clock(contexts, nothing))
    assert silent.examples(spoken, until=2**62, seed=0) == []


def test_rules_with_caps_send_the_best_offer_where_and_when_it_is_usual(contexts) -> None:
    one = replace(
        take_contexts(contexts, np.array([0, 0])),
        eligible=np.array([[0, 1], [0, 1]], np.int32),
        value=np.array([[0.1, 0.9], [0.1, 0.9]], np.float32),
        consent=np.ones((2, 3), np.bool_),
        hour_of_week=np.array([5, 5], np.int16),
        gap_hours=np.array([10.0, 10.0], np.float32),
        sent_item=np.array([[0] * 8, [0] * 8], np.int32),
        sent_channel=np.array([[1] * 8, [1] * 8], np.int8),
        sent_days_ago=np.array([[9, 9, 9, 9, 9, 9, 3, 2], [9, 9, 9, 9, 9, 3, 2, 1]], np.int32),
        sent_answer=np.full((2, 8), 2, np.int8),
    )
    sent, _ = RulesWithCaps().choose(one, np.random.default_rng(0))
    assert (sent.column[0], sent.hour[0], sent.column[1]) == (1, 19, -1)
