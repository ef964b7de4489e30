"""The catalogs of one vLLM: by name, by version, and as they are now; and whether its policy speaks of messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import InputError
from policy.serving.catalogs import DEFAULT, NAMED, POLICY, SLATE, VERSIONS, ServedCatalogs
from policy.vocabulary import Vocabulary, message_tokens, nano_tokenizer
from tests.policy.serving.tiny_run import tiny_catalog


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A default catalog, another of its first 30 items, and a folder of versions."""
    catalog = tiny_catalog()
    catalog.save(tmp_path / "catalog")
    half = replace(catalog, items=catalog.items.head(30), embeddings=catalog.embeddings[:30], codes=catalog.codes[:30])
    half.save(tmp_path / "half")
    (tmp_path / "versions").mkdir()
    return {
        DEFAULT: str(tmp_path / "catalog"),
        NAMED: f"half={tmp_path / 'half'}",
        VERSIONS: str(tmp_path / "versions"),
        SLATE: "4",
    }


def test_catalogs_are_found_by_name_and_by_version_and_read_again(environment: dict[str, str], tmp_path: Path) -> None:
    served = ServedCatalogs.of_environment(environment)
    whole, half = served.find(""), served.find("half")
    assert (whole.index.size, half.index.size, served.slate_size) == (60, 30, 4)
    assert served.find(half.catalog.version) is half
    with pytest.raises(InputError, match="this server has no 'shop', it has 'half'"):
        served.find("shop")
    with pytest.raises(InputError, match=r"no '\.\./catalog'"):
        served.find("../catalog")

    catalog = whole.catalog
    grown = replace(catalog, items=catalog.items.head(50), embeddings=catalog.embeddings[:50], codes=catalog.codes[:50])
    grown.save(tmp_path / "versions" / grown.version)
    assert served.find(grown.version).index.size == 50
    grown.save(tmp_path / "half")
    assert served.find("half").index.size == 50
    assert served.pinned(half.catalog.version).index.size == 30  # what was validated with it is decoded with it


def test_what_one_policy_cannot_speak_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=DEFAULT):
        ServedCatalogs.of_environment({})
    with pytest.raises(InputError, match="is not name=folder"):
        ServedCatalogs.of_environment(environment | {NAMED: "half"})
    catalog = tiny_catalog()
    other = replace(catalog, level_sizes=(6, 6, 5), codebooks=(*catalog.codebooks[:2], np.zeros((5, 8), np.float32)))
    other.save(tmp_path / "half")
    with pytest.raises(InputError, match=r"half holds .* level sizes \(6, 6, 5\) came; the policy speaks \(6, 6, 4\)"):
        ServedCatalogs.of_environment(environment)


def test_a_policy_without_words_for_messages_is_known_as_one(environment: dict[str, str], tmp_path: Path) -> None:
    catalog, folder = tiny_catalog(), tmp_path / "policy"
    folder.mkdir()
    Vocabulary.of(nano_tokenizer(catalog, ["calm"], 400), catalog).save(folder)
    assert ServedCatalogs.of_environment(environment | {POLICY: str(folder)}).speaks_of_messages
    assert not ServedCatalogs.of_environment(environment).speaks_of_messages

    stored = json.loads((folder / "vocabulary.json").read_text())
    stored["ids"] = {token: place for token, place in stored["ids"].items() if token not in message_tokens()}
    (folder / "vocabulary.json").write_text(json.dumps(stored))
    assert not ServedCatalogs.of_environment(environment | {POLICY: str(folder)}).speaks_of_messages
