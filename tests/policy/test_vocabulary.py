import pytest
from transformers import AutoTokenizer

from data.errors import InputError
from policy.moves import MOVES
from policy.vocabulary import Vocabulary, extend_tokenizer, nano_tokenizer


def test_completion_tokens_are_one_range_after_the_text(make_catalog):
    catalog = make_catalog(60)
    tokenizer = nano_tokenizer(catalog, size=400)
    vocabulary = Vocabulary.of(tokenizer, catalog)
    names = tokenizer.convert_ids_to_tokens(list(range(vocabulary.first, vocabulary.first + vocabulary.size)))
    assert names[:4] == [f"<{move}>" for move in MOVES]
    assert names[4:] == [f"<s{level}_{code}>" for level, size in enumerate((4, 4, 8)) for code in range(size)]
    assert len(tokenizer) == vocabulary.first + vocabulary.size
    assert tokenizer.pad_token_id == 0
    spelt = tokenizer.convert_ids_to_tokens(vocabulary.code_tokens[5].tolist())
    assert spelt == [f"<s{level}_{code}>" for level, code in enumerate(catalog.codes[5])]


@pytest.mark.parametrize("text", ["", "plain words", "naïve 🎧\t\n ¿", "日本語のポッドキャスト"])
def test_any_text_can_be_said(make_catalog, text):
    tokenizer = nano_tokenizer(make_catalog(20))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_decoded_completions_show_every_token(make_catalog):
    catalog = make_catalog(20)
    tokenizer = nano_tokenizer(catalog)
    vocabulary = Vocabulary.of(tokenizer, catalog)
    ids = [vocabulary.ids["<deepen>"], *vocabulary.code_tokens[3].tolist()]
    text = "<deepen>" + "".join(f"<s{level}_{code}>" for level, code in enumerate(catalog.codes[3]))
    for skip in (True, False):
        assert tokenizer.decode(ids, skip_special_tokens=skip) == text
    assert tokenizer(text)["input_ids"] == ids


def test_a_catalog_without_words_still_gets_a_usable_tokenizer(make_catalog):
    catalog = make_catalog(60, (64, 64, 600))
    bare = catalog.items.with_columns(title=None, creator=None, text=None, tags=None)
    object.__setattr__(catalog, "items", bare)
    vocabulary = Vocabulary.of(nano_tokenizer(catalog), catalog)
    assert vocabulary.first >= vocabulary.size


def test_same_catalog_same_tokenizer(make_catalog):
    left, right = (nano_tokenizer(make_catalog(40), ["something calm"]) for _ in range(2))
    assert left.get_vocab() == right.get_vocab()


def test_a_vocabulary_of_other_levels_is_refused(make_catalog, tmp_path):
    catalog = make_catalog(20)
    tokenizer = nano_tokenizer(catalog)
    Vocabulary.of(tokenizer, catalog).save(tmp_path)
    wider = make_catalog(20, (4, 4, 16))
    with pytest.raises(InputError, match="<s2_8>"):
        Vocabulary.of(tokenizer, wider)
    with pytest.raises(InputError, match="level sizes"):
        Vocabulary.load(tmp_path, wider)
    with pytest.raises(InputError, match="not a trained policy"):
        Vocabulary.load(tmp_path / "nowhere", catalog)


def test_a_catalog_that_grew_keeps_its_vocabulary(make_catalog, tmp_path):
    catalog, grown = make_catalog(20), make_catalog(40)
    Vocabulary.of(nano_tokenizer(catalog), catalog).save(tmp_path)
    assert Vocabulary.load(tmp_path, grown).code_tokens.shape == (40, 3)


def test_extending_a_pretrained_tokenizer_leaves_its_words_alone(make_catalog, tmp_path):
    base = nano_tokenizer(make_catalog(20), ["a listener who likes jazz"] * 3)
    base.save_pretrained(tmp_path)
    words = base("a quiet jazz evening")["input_ids"]
    catalog = make_catalog(20)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = extend_tokenizer(tokenizer, catalog)
    assert tokenizer("a quiet jazz evening")["input_ids"] == words
    assert extend_tokenizer(tokenizer, catalog).ids == vocabulary.ids
