"""What is asked for in words is found in the catalog; a policy that hears it says it with the probability it logs."""

import numpy as np
import polars as pl
import pytest
import torch

from data.catalog import Catalog
from data.item_vectors import VectorSettings, item_vectors
from data.schema import polars_schema
from data.world.words import STYLES, with_typo
from policy.agent import LanguageModelPolicy, prompts, slate_log_probs, top_items
from policy.hearing import MEANT, NAMED, Hearing
from policy.prompt import neutral_contexts
from tests.policy.test_language_model import make_speaker

ITEMS = 60


@pytest.fixture(scope="module")
def catalog(make_catalog) -> Catalog:
    return make_catalog(ITEMS)


@pytest.fixture(scope="module")
def hearing(catalog) -> Hearing:
    return Hearing(catalog)


@pytest.fixture(scope="module")
def spoken(catalog):
    return make_speaker(catalog, slate_size=3)


def heard(hearing: Hearing, text: str) -> list[tuple[str, bool]]:
    return [(ask.name, ask.wanted) for ask in hearing.asks(text)]


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("play some jazz", [("jazz", True)]),
        ("JAZZ!", [("jazz", True)]),
        ("songs, please", [("song", True)]),
        ("something by artist 3", [("artist 3", True)]),
        ("a folk podcast", [("folk", True), ("podcast", True)]),
        ("in the mood for tehcno", [("techno", True)]),
        ("jaz", [("jazz", True)]),
        ("give me the newss", [("news", True)]),
        ("no more techno", [("techno", False)]),
        ("anything but podcasts, maybe folk", [("podcast", False), ("folk", True)]),
        ("no, jazz", [("jazz", True)]),
        ("not folk but jazz", [("folk", False), ("jazz", True)]),
        ("play Song number 17", [("song number 17", True)]),
        ("something", []),
        ("surprise me", []),
        ("", []),
        ("?!", []),
    ],
)
def test_requests_are_taken_for_what_they_name(hearing, text, asks) -> None:
    assert heard(hearing, text) == asks


def test_rows_of_an_ask_are_what_has_the_name(hearing, catalog) -> None:
    (ask,) = hearing.asks("jazz")
    assert all("jazz" in catalog.items["tags"][int(row)] for row in ask.rows)
    assert len(ask.rows) == sum("jazz" in tags for tags in catalog.items["tags"])
    (ask,) = hearing.asks("a tune")
    assert set(catalog.items["kind"].gather(ask.rows)) == {"track"}


def test_a_slip_of_the_finger_is_heard_through(hearing) -> None:
    rng = np.random.default_rng(0)
    names = ["ambient", "techno", "folk", "jazz", "news", "podcast"]
    told = [(name, hearing.asks(with_typo(rng, name))) for name in names for _ in range(50)]
    right = np.mean([any(name == ask.name for ask in asks) for name, asks in told])
    assert right > 0.9  # what is left reads as another word, or is of three letters and may be anything


def test_a_name_is_said_as_loud_as_it_is_rare(hearing, catalog) -> None:
    """Over items that are otherwise alike, what is asked for gets the share it should, whether it is rare or common."""
    for text in ("jazz", "podcast", "artist 3", "tracks", "song number 4"):
        weights = hearing.log_weights(text)
        assert weights is not None
        (ask,) = hearing.asks(text)
        assert float(weights.softmax(0)[ask.rows].sum()) == pytest.approx(NAMED, abs=1e-4)
    unwanted = hearing.log_weights("no jazz").softmax(0)
    assert float(unwanted[hearing.asks("jazz")[0].rows].sum()) < 0.01
    assert hearing.log_weights("surprise me") is None


def test_what_is_drawn_on_request_has_the_probability_that_is_logged(spoken) -> None:
    known = neutral_contexts(["jazz", None, "no podcasts", "hmm", "somethng by artist 3"])
    policy = LanguageModelPolicy("p", spoken)
    slates, log_probs = policy.choose(known, np.random.default_rng(0))
    np.testing.assert_allclose(slate_log_probs(spoken, known, slates, policy.last_moves), log_probs, atol=1e-4)
    each = [slate_log_probs(spoken, known, slates, [move] * 5) for move in ("continue", "deepen", "explore", "switch")]
    np.testing.assert_allclose(slate_log_probs(spoken, known, slates), np.logaddexp.reduce(each), atol=1e-4)


def test_slates_are_what_was_asked_for_and_the_silent_are_left_alone(catalog, hearing) -> None:
    spoken = make_speaker(catalog, slate_size=3, spread=0.05)  # of no strong opinions: it is the words that are tested
    texts = ["jazz", None, "no podcasts"]
    known = neutral_contexts(texts)
    ((ids, mask, prior),) = prompts(spoken, known)
    generator = torch.Generator().manual_seed(0)
    drawn = spoken.legal.draw(ids, mask, samples=200, generator=generator, prior=prior).tokens
    items = spoken.grammar.decode(drawn.flatten(0, 1))[1].view(3, -1).numpy()
    jazz, podcasts = (hearing.asks(text)[0].rows for text in ("jazz", "podcast"))
    assert np.isin(items[0], jazz).mean() > 0.7  # a fifth of the catalog
    assert not np.isin(items[2], podcasts).any()
    asked, silent = (spoken.legal.completion_log_probs(ids, mask, drawn, prior=p) for p in (prior, None))
    torch.testing.assert_close(asked[1], silent[1], atol=1e-4, rtol=0)
    assert (asked[0] > silent[0]).float().mean() > 0.9
    assert np.isin(top_items(spoken, neutral_contexts(["jazz"]), 5), jazz).mean() > 0.9


def test_only_eligible_items_count_towards_what_is_asked_for(spoken) -> None:
    eligible = torch.arange(ITEMS) < 30
    for allowed in (eligible, eligible.expand(2, -1)):
        prior = spoken.hearing.prior(spoken.grammar.trie, ["jazz", None], allowed)
        ids, mask = spoken.prompt.encode(neutral_contexts(["jazz", None]), None)
        drawn = spoken.legal.draw(ids, mask, samples=20, eligible=allowed, prior=prior)
        scored = spoken.legal.completion_log_probs(ids, mask, drawn.tokens, eligible=allowed, prior=prior)
        torch.testing.assert_close(scored, drawn.log_probs, atol=1e-4, rtol=0)
        assert int(spoken.grammar.decode(drawn.tokens.flatten(0, 1))[1].max()) < 30
    assert spoken.hearing.prior(spoken.grammar.trie, ["hm", None]) is None


def test_an_encoder_says_which_tags_are_meant_where_none_is_named() -> None:
    pytest.importorskip("wordllama")
    styles = [style for style in STYLES if style.name in ("classical", "metal", "latin", "ambient", "folk", "pop")]
    rows = [
        {
            "item_id": f"{style.name}-{number}",
            "kind": "track",
            "title": f"{style.words[number].title()} {style.words[number - 1].title()}",
            "tags": [style.name],
            "text": f"A {style.moods[number % 4]} {style.name} song with {style.words[number - 2]}.",
        }
        for style in styles
        for number in range(8)
    ]
    items = pl.concat([pl.DataFrame(schema=polars_schema("items")), pl.DataFrame(rows)], how="diagonal")
    vectors, model = item_vectors(items, None, VectorSettings(encoder="wordllama"), 0)
    catalog = Catalog(items, vectors, np.zeros((len(items), 1), np.int32), (len(items),), (), model)
    (ask,) = Hearing(catalog).asks("orchestra and piano")
    assert ask.share == MEANT
    assert {items["item_id"][int(row)].split("-")[0] for row in ask.rows} == {"classical"}
    assert Hearing(catalog).asks("the quarterly tax return") == []
