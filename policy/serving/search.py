"""Looking items up by their words: for a page, an assistant, a person who wonders what there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from data.catalog import Catalog


@dataclass(frozen=True)
class ItemSearch:
    """Items whose title, creator, tags or text have all the words that are asked for, or words that begin with them."""

    catalog: Catalog

    def find(self, words: str, count: int, kinds: Sequence[str] = ()) -> list[int]:
        """Catalog rows, those with the words in their title first; all items in order for no words."""
        asked = words.casefold().split()
        allowed = [not kinds or kind in kinds for kind in self.catalog.items["kind"]]
        rows = set(range(len(self.catalog)))
        for word in asked:
            rows &= {row for known, places in self._places.items() if known.startswith(word) for row in places}
        titles = self.catalog.items["title"]

        def rank(row: int) -> tuple[bool, int]:
            title = titles[row].casefold()
            return not all(word in title for word in asked), row

        return sorted((row for row in rows if allowed[row]), key=rank)[:count]

    @cached_property
    def _places(self) -> dict[str, set[int]]:
        places: defaultdict[str, set[int]] = defaultdict(set)
        columns = self.catalog.items.select("title", "creator", "tags", "text").iter_rows()
        for row, (title, creator, tags, text) in enumerate(columns):
            for said in (title, creator, text, *(tags or ())):
                for word in (said or "").casefold().split():
                    places[word.strip(".,;:!?()[]\"'")].add(row)
        return dict(places)
