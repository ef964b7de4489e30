"""What a request may ask of a slate: how long, of which kinds, without which items.

In a request to vLLM these travel as `vllm_xargs`:

    {"prompt": "...", "vllm_xargs": {"slate_size": 5, "kinds": ["podcast"], "blocked": ["item-3"], "seen": ["item-9"]}}

`steer` is what the listener says, as in the prompt: what it names in the catalog is preferred (`policy.hearing`).

The gateway and the vLLM plugin read them with the same code, so a wrong argument gets the same answer from both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch

from data.catalog import Catalog
from data.errors import InputError

DEFAULT_SLATE = 5
MAX_SLATE = 20
MAX_BLOCKED = 10_000
MAX_STEER = 2_000  # characters
# In one list before vLLM: a request's own, the listener's, and what was taken down for everybody.
MAX_SENT = 3 * MAX_BLOCKED
# Of a larger catalog the log does not say what could be shown: a row would be longer than all else of it.
MAX_LISTED = 10_000

NAMES = ("catalog", "slate_size", "kinds", "blocked", "seen", "steer", "end")
# What vLLM itself puts beside our arguments.
ENGINE_NAMES = ("kv_transfer_params", "ec_transfer_params")


@dataclass(frozen=True)
class SlateArguments:
    """A request's slate, read and checked.

    slate_size: K items. kinds: item kinds allowed, empty for all. blocked, seen: item ids that may not appear (unknown
    ids are fine: they cannot appear anyway). end: close the completion with the end token, so that it finishes by
    itself. catalog: which of a server's catalogs, by name or version; empty for its default. steer: what is asked for
    in words, empty for nothing.
    """

    slate_size: int = DEFAULT_SLATE
    kinds: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    end: bool = True
    catalog: str = ""
    steer: str = ""

    @classmethod
    def parse(cls, given: Mapping[str, object] | None, default_size: int, longest: int = MAX_BLOCKED) -> SlateArguments:
        """Read request arguments, lists of at most `longest`.

        Raises InputError naming the argument that is wrong and what it may be.
        """
        given = {name: value for name, value in (given or {}).items() if name not in ENGINE_NAMES}
        unknown = sorted(set(given) - set(NAMES))
        if unknown:
            raise InputError(f"unknown argument {unknown[0]!r}: a slate takes {', '.join(NAMES)}")
        return cls(
            slate_size=_whole(given.get("slate_size", default_size), "slate_size", 1, MAX_SLATE),
            kinds=_words(given.get("kinds", ()), "kinds", longest),
            blocked=_words(given.get("blocked", ()), "blocked", longest),
            seen=_words(given.get("seen", ()), "seen", longest),
            end=bool(_whole(given.get("end", 1), "end", 0, 1)),
            catalog=_word(given.get("catalog", ""), "catalog"),
            steer=_text(given.get("steer", ""), "steer"),
        )

    def without(self, item_ids: Collection[str], catalog: CatalogIndex) -> SlateArguments:
        """The same, with those of `item_ids` blocked that the catalog has: what was blocked once may be long gone."""
        known = sorted(item for item in item_ids if item in catalog.row_of)
        return replace(self, blocked=tuple(dict.fromkeys((*self.blocked, *known)))) if known else self

    @property
    def unwanted(self) -> tuple[str, ...]:
        """Item ids that may not appear, known to the catalog or not."""
        return (*self.blocked, *self.seen)

    def xargs(self) -> dict[str, object]:
        """The same arguments as `vllm_xargs`, defaults left out."""
        sent: dict[str, object] = {"slate_size": self.slate_size}
        if self.kinds:
            sent["kinds"] = list(self.kinds)
        if self.blocked:
            sent["blocked"] = list(self.blocked)
        if self.seen:
            sent["seen"] = list(self.seen)
        if not self.end:
            sent["end"] = 0
        if self.catalog:
            sent["catalog"] = self.catalog
        if self.steer:
            sent["steer"] = self.steer
        return sent

    def eligible(self, catalog: CatalogIndex) -> torch.Tensor | None:
        """Which catalog rows may appear: (N,) bool, or None for all of them.

        Raises InputError for a kind the catalog does not have, or when fewer items are left than the slate has places.
        """
        rows = None
        unwanted = self.unwanted
        if self.kinds or unwanted:
            rows = torch.ones(catalog.size, dtype=torch.bool)
        if self.kinds:
            assert rows is not None
            unknown = [kind for kind in self.kinds if kind not in catalog.rows_of_kind]
            if unknown:
                raise InputError(f"kinds: the catalog has no {unknown[0]!r}, it has {', '.join(catalog.rows_of_kind)}")
            allowed = torch.zeros(catalog.size, dtype=torch.bool)
            for kind in self.kinds:
                allowed |= catalog.rows_of_kind[kind]
            rows &= allowed
        if unwanted:
            assert rows is not None
            known = [catalog.row_of[item] for item in unwanted if item in catalog.row_of]
            rows[torch.tensor(known, dtype=torch.long)] = False
        left = catalog.size if rows is None else int(rows.sum())
        if left < self.slate_size:
            raise InputError(
                f"slate_size {self.slate_size}: only {left} of the catalog's {catalog.size} items are eligible; "
                "ask for fewer, or block less"
            )
        return rows


class CatalogIndex:
    """Lookups that eligibility needs: row by item id, rows by kind."""

    def __init__(self, catalog: Catalog) -> None:
        self.item_ids: list[str] = catalog.items["item_id"].to_list()
        self.row_of = {item: row for row, item in enumerate(self.item_ids)}
        self.size = len(self.item_ids)
        kinds = catalog.items["kind"]
        self.rows_of_kind = {kind: torch.tensor((kinds == kind).to_list()) for kind in sorted(kinds.unique().to_list())}

    def listed(self, eligible: torch.Tensor | None) -> list[str] | None:
        """Item ids of the eligible rows (N,), for the log; None for all, or where they are too many to write down."""
        if eligible is None or self.size > MAX_LISTED:
            return None
        return [self.item_ids[row] for row in eligible.nonzero().flatten().tolist()]


def _whole(value: object, name: str, low: int, high: int) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(number)


def _word(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise InputError(f"{name} must be a name, got {str(value)[:80]!r}")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_STEER:
        raise InputError(f"{name} must be words, {MAX_STEER} characters at most")
    return value


def _words(value: object, name: str, longest: int) -> tuple[str, ...]:
    if isinstance(value, str):
        words: list[object] = [word.strip() for word in value.split(",")]
    elif isinstance(value, list | tuple):
        words = list(value)
    else:
        raise InputError(f"{name} must be a list of strings or one comma-separated string, got {value!r}")
    if len(words) > longest:
        raise InputError(f"{name} has {len(words)} entries, at most {longest} fit in a request")
    return tuple(dict.fromkeys(str(word) for word in words if str(word)))
