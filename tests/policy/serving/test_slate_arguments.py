"""What a request may ask: read alike from plain JSON, from vllm_xargs and from the gateway."""

from __future__ import annotations

import pytest

from data.errors import InputError
from policy.serving.slate_arguments import CatalogIndex, SlateArguments
from tests.policy.serving.tiny_run import tiny_catalog

INDEX = CatalogIndex(tiny_catalog())


def test_all_spellings_of_an_argument_mean_the_same() -> None:
    plain = SlateArguments.parse({"slate_size": 3, "blocked": ["item-01", "item-02"], "kinds": ["track"]}, 5)
    words = SlateArguments.parse({"slate_size": "3", "blocked": "item-01, item-02", "kinds": "track"}, 5)
    numbers = SlateArguments.parse(
        {"slate_size": 3.0, "blocked": ["item-01", "item-02", "item-01"], "kinds": "track"}, 5
    )

    assert plain == words == numbers
    assert SlateArguments.parse(plain.xargs(), 5) == plain
    asked = SlateArguments(5, steer="a podcast, no jazz", catalog="shop", end=False)
    assert SlateArguments.parse(asked.xargs(), 9) == asked
    assert SlateArguments.parse(None, 7) == SlateArguments(slate_size=7)


def test_eligible_rows_are_of_the_kinds_and_not_blocked() -> None:
    rows = SlateArguments(kinds=("track", "podcast"), blocked=("item-00", "item-01", "unknown")).eligible(INDEX)

    assert rows is not None
    assert rows.nonzero().flatten().tolist() == [row for row in range(60) if row % 3 != 2 and row > 1]
    assert SlateArguments().eligible(INDEX) is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"slate_size": 0}, "slate_size must be a whole number from 1 to 20, got 0"),
        ({"slate_size": 21}, "from 1 to 20"),
        ({"slate_size": 2.5}, "got 2.5"),
        ({"slate_size": "many"}, "got 'many'"),
        ({"slate_size": True}, "got True"),
        ({"slate_size": None}, "got None"),
        ({"blocked": 7}, "blocked must be a list"),
        ({"blocked": ["x"] * 10_001}, "at most 10000"),
        ({"sizes": 3}, "unknown argument 'sizes'"),
        ({"steer": ["jazz"]}, "steer must be words"),
        ({"steer": "la" * 1_001}, "2000 characters at most"),
        ({"kinds": "opera"}, "the catalog has no 'opera', it has audiobook, podcast, track"),
        ({"kinds": "track", "blocked": [f"item-{row:02d}" for row in range(0, 54, 3)]}, "only 2 of the catalog's 60"),
    ],
)
def test_wrong_arguments_are_refused_by_name(given: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        SlateArguments.parse(given, 5).eligible(INDEX)
