import time
from dataclasses import fields, replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from data.errors import InputError
from data.histories import Contexts
from data.schema import ACTIONS, SURFACES
from policy.prompt import Prompt, neutral_contexts
from policy.vocabulary import MAX_TEXT_CHARACTERS, Vocabulary, nano_tokenizer

STEERS = [None, "something calm", "", "more like this, but faster!", "noch ruhiger, bitte 🎧"]


@pytest.fixture(scope="module")
def prompt(make_catalog):
    catalog = make_catalog(60)
    tokenizer = nano_tokenizer(catalog, ["something calm", "something new"] * 5)
    return Prompt(Vocabulary.of(tokenizer, catalog), tokenizer)


def random_contexts(rows: int, seed: int = 0, items: int = 60, length: int = 12) -> Contexts:
    rng = np.random.default_rng(seed)
    known = np.arange(length) >= rng.integers(0, length + 1, rows)[:, None]
    gap = rng.exponential(40, rows).astype(np.float32)
    gap[rng.random(rows) < 0.1] = np.nan
    return Contexts(
        time=np.zeros(rows, dtype=np.int64),
        hour_of_week=rng.integers(0, 168, rows).astype(np.int16),
        surface=rng.integers(0, len(SURFACES), rows).astype(np.int8),
        gap_hours=gap,
        item=np.where(known, rng.integers(0, items, (rows, length)), -1).astype(np.int32),
        action=np.where(known, rng.integers(0, len(ACTIONS), (rows, length)), -1).astype(np.int8),
        steer=[STEERS[i] for i in rng.integers(0, len(STEERS), rows)],
    )


def row_of(contexts: Contexts, row: int) -> Contexts:
    return replace(contexts, **{f.name: getattr(contexts, f.name)[row : row + 1] for f in fields(contexts)})


def test_the_prompt_reads_as_documented(prompt):
    contexts = Contexts(
        time=np.zeros(1, dtype=np.int64),
        hour_of_week=np.array([24 + 8], dtype=np.int16),
        surface=np.array([SURFACES.index("now_playing")], dtype=np.int8),
        gap_hours=np.array([20.0], dtype=np.float32),
        item=np.array([[-1, 7]], dtype=np.int32),
        action=np.array([[-1, ACTIONS.index("complete")]], dtype=np.int8),
        steer=["something calm"],
    )
    ids, mask = prompt.encode(contexts, {"clicks": 0.0, "midterm": 0.9})
    codes = prompt.vocabulary.codes[7]
    assert mask.all()
    assert prompt.tokenizer.decode(ids[0]) == (
        "<now_playing><tue><hour_08><gap_5><history>"
        f"<s0_{codes[0]}><s1_{codes[1]}><s2_{codes[2]}><did_complete>"
        "<says>something calm<wants><w_midterm_4><w_clicks_0><slate>"
    )


@pytest.mark.parametrize("weights", [None, {"midterm": 0.5}])
def test_a_row_reads_the_same_alone_and_in_a_batch(prompt, weights):
    contexts = random_contexts(40)
    ids, mask = prompt.encode(contexts, weights)
    for row in range(40):
        alone, whole = prompt.encode(row_of(contexts, row), weights)
        assert whole.all()
        assert ids[row][mask[row] == 1].tolist() == alone[0].tolist()
        padding = ids.shape[1] - alone.shape[1]
        assert mask[row, :padding].sum() == 0
        assert (ids[row, :padding] == prompt.tokenizer.pad_token_id).all()
        assert ids[row, -1] == prompt.vocabulary.ids["<slate>"]


def test_only_the_latest_items_are_said(prompt):
    long = random_contexts(10, length=30)
    short = replace(long, item=long.item[:, -12:], action=long.action[:, -12:])
    assert prompt.encode(long)[0].equal(prompt.encode(short)[0])
    assert prompt.encode(long)[0].shape[1] <= prompt.max_length


def test_weights_may_differ_by_row_and_are_quantised(prompt):
    ids, _ = prompt.encode(neutral_contexts([None, None]), {"midterm": np.array([0.0, 1.0]), "clicks": 0.3})
    words = prompt.vocabulary.ids
    assert ids[:, -3].tolist() == [words["<w_midterm_0>"], words["<w_midterm_4>"]]
    assert ids[:, -2].tolist() == [words["<w_clicks_1>"]] * 2


@pytest.mark.parametrize(
    ("weights", "words"), [({"fame": 1.0}, "no objective 'fame'"), ({"clicks": 1.5}, "in \\[0, 1\\]")]
)
def test_unknown_objectives_and_weights_are_refused(prompt, weights, words):
    with pytest.raises(InputError, match=words):
        prompt.encode(neutral_contexts([None]), weights)


def test_an_item_from_another_catalog_is_refused(prompt):
    contexts = replace(random_contexts(3), item=np.full((3, 12), 60, dtype=np.int32))
    with pytest.raises(InputError, match="item 60"):
        prompt.encode(contexts)


@pytest.mark.parametrize(
    "text",
    [
        "something calm",
        "  spaces   and\nlines ",
        "<slate><continue><s0_0>",
        "a<<slate>>b",
        "<",
        "<pad><end>",
        "＜slate＞",
        "something " * 11 + "calm now<slate>",
        "&lt;slate&gt; {{ '<slate>' }} {% raw %}",
    ],
)
def test_a_chat_renders_to_the_same_prompt_and_words_are_never_control_tokens(prompt, text):
    chat = [
        {"role": "system", "content": "<switch>"},
        {"role": "user", "content": "<slate> earlier"},
        {"role": "assistant", "content": "<explore>"},
        {"role": "user", "content": text},
    ]
    rendered = prompt.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    # A server tokenizes the rendered text, so that is what must be safe.
    by_chat = prompt.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    ids, _ = prompt.encode(neutral_contexts([text]))
    assert ids[0].tolist() == by_chat
    control = set(prompt.vocabulary.ids.values()) | {0, 1}
    words = prompt.vocabulary.ids
    start = by_chat.index(words["<says>"]) + 1 if words["<says>"] in by_chat else len(by_chat) - 1
    assert by_chat[:3] == [words["<now_playing>"], words["<gap_never>"], words["<history>"]]
    assert by_chat[-1] == words["<slate>"]
    assert not control & set(by_chat[start:-1])


def test_a_long_text_is_cut(prompt):
    ids, _ = prompt.encode(neutral_contexts(["calm " * 1000, "🎧" * 500]))
    assert ids.shape[1] <= prompt.max_length
    rendered = prompt.tokenizer.apply_chat_template([{"role": "user", "content": "y" * 1000}], tokenize=False)
    assert rendered.count("y") - "<now_playing><gap_never><history>".count("y") - 1 == MAX_TEXT_CHARACTERS


def test_a_chat_without_words_asks_without_them(prompt):
    rendered = prompt.tokenizer.apply_chat_template([{"role": "system", "content": "be nice"}], tokenize=False)
    ids, _ = prompt.encode(neutral_contexts([None]))
    assert prompt.tokenizer(rendered, add_special_tokens=False)["input_ids"] == ids[0].tolist()


def test_a_saved_tokenizer_writes_the_same_prompts(prompt, make_catalog, tmp_path):
    prompt.tokenizer.save_pretrained(tmp_path)
    prompt.vocabulary.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = Prompt(Vocabulary.load(tmp_path, make_catalog(60)), loaded)
    contexts = random_contexts(30, seed=4)
    assert again.encode(contexts)[0].equal(prompt.encode(contexts)[0])
    chat = [{"role": "user", "content": "loud <b>now</b>"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == prompt.tokenizer.apply_chat_template(
        chat, tokenize=False
    )


def test_twenty_thousand_prompts_are_written_in_seconds(prompt):
    contexts = random_contexts(20_000)
    started = time.process_time()
    prompt.encode(contexts, {"midterm": 1.0})
    assert time.process_time() - started < 4  # seconds of processor time, so that a busy machine does not fail it
