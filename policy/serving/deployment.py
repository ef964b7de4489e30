"""What a run folder offers to serve: its base policy, the adapters on top, their versions, and the catalog."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from data.artifacts import fingerprint
from data.catalog import Catalog
from data.errors import InputError
from policy.cursor import Cursor, Doors, Paths
from policy.grammar import SlateGrammar
from policy.moves import MOVES
from policy.prompt import Prompt
from policy.serving.popular import Popular
from policy.serving.search import ItemSearch
from policy.serving.slate_arguments import CatalogIndex
from policy.vocabulary import Vocabulary

BASE = "sft"
# Written by policy.checkpoint, whose import would cost a server the whole training stack.
SETTINGS = "policy.json"
# The first of these that the run has answers when a request names no policy.
PREFERRED = ("grpo", "ppo", "dpo", BASE)


@dataclass(frozen=True)
class Slate:
    """A parsed completion: what the policy said, in words a product can use. rows: catalog rows, K of them."""

    move: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Deployment:
    """Everything about a run that answering a request needs, weights aside.

    versions: servable policy name -> "name@version" as it is logged. adapters: name -> folder, the base left out.
    popular: what the last rung draws from, of the same catalog; all items alike until a log was counted.
    engine_names: what vLLM calls a policy, where that is not its name.
    """

    run: Path
    base: Path
    adapters: Mapping[str, Path]
    versions: Mapping[str, str]
    default: str
    catalog: Catalog
    index: CatalogIndex
    prompt: Prompt
    grammar: SlateGrammar
    cards: tuple[Mapping[str, object], ...]
    popular: Popular
    engine_names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        run: Path,
        adapters: Sequence[str] | None = None,
        default: str | None = None,
        catalogs: Path | None = None,
    ) -> Deployment:
        """Read a run folder. `adapters` names those to serve, all LoRA adapters beside the base if None. `catalogs`
        holds those that were served before, by version: one of them may have grown by new items since.

        Raises InputError when the run, its catalog, its base policy or a named adapter is missing.
        """
        base = run / "policy" / BASE
        if not run.is_dir():
            raise InputError(f"{run}: no such run folder; make one with `make demo`, or name another with --run")
        if not (base / SETTINGS).is_file():
            raise InputError(f"{base}: no trained base policy; train it with `make demo` or scripts/train_sft.py")
        found = {path.parent.name: path.parent for path in sorted((run / "policy").glob("*/adapter_config.json"))}
        names = list(found) if adapters is None else list(adapters)
        for name in names:
            if name not in found:
                raise InputError(f"adapter {name!r} is not in {run / 'policy'}: it has {', '.join(found) or 'none'}")
        served = {name: found[name] for name in names}
        if default is None:
            default = next(name for name in PREFERRED if name in served or name == BASE)
        if default not in served and default != BASE:
            raise InputError(f"default policy {default!r} is not served: choose from {', '.join([BASE, *served])}")

        catalog = Catalog.load(run / "catalog")
        settings = json.loads((base / SETTINGS).read_text())
        if settings["catalog"] != catalog.version and not _has_grown(settings["catalog"], catalog, catalogs):
            trained = settings["catalog"]
            raise InputError(f"{base} speaks catalog {trained}, {run / 'catalog'} is {catalog.version}: retrain it")
        vocabulary = Vocabulary.load(base, catalog)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
        return cls(
            run=run,
            base=base,
            adapters=served,
            versions={BASE: f"{BASE}@{_version(base)}"}
            | {name: f"{name}@{_version(base, folder)}" for name, folder in served.items()},
            default=default,
            catalog=catalog,
            index=CatalogIndex(catalog),
            prompt=Prompt(vocabulary, tokenizer, settings["history_length"]),
            grammar=SlateGrammar.of(vocabulary, settings["slate_size"]),
            cards=tuple(_card(row) for row in catalog.items.iter_rows(named=True)),
            popular=Popular.of(catalog, None),
        )

    @cached_property
    def search(self) -> ItemSearch:
        """Of the catalog by words. Its first `find` reads every word there is: not for an event loop."""
        return ItemSearch(self.catalog)

    @property
    def slate_size(self) -> int:
        """Items in a slate when a request does not say."""
        return self.grammar.slate_size

    def engine_name(self, policy: str) -> str:
        """What vLLM calls a policy."""
        return self.engine_names.get(policy, policy)

    def length(self, slate_size: int) -> int:
        """Tokens of a completion with that many items."""
        return 1 + slate_size * self.grammar.trie.levels

    def parse(self, tokens: Sequence[int], slate_size: int) -> Slate | None:
        """The slate that a completion's first tokens spell, or None if it is not a whole legal one."""
        length = self.length(slate_size)
        if len(tokens) < length:
            return None
        cursor = Cursor(self._doors)
        try:
            cursor.follow(tokens[:length])
        except InputError:
            return None
        return Slate(MOVES[cursor.move], cursor.rows)

    @cached_property
    def _doors(self) -> Doors:
        """All open: whether an item might be shown to this listener was for vLLM to see to, and is counted apart."""
        return Doors.of(Paths.of(self.grammar), self.grammar.trie.count(None))

    def items(self, slate: Slate) -> list[dict[str, object]]:
        """The items of a slate as a response shows them: item_id, title, creator, kind."""
        return [dict(self.cards[row]) for row in slate.rows]

    def item_ids(self, slate: Slate) -> list[str]:
        return [self.index.item_ids[row] for row in slate.rows]


def _card(row: Mapping[str, object]) -> Mapping[str, object]:
    return {name: row[name] for name in ("item_id", "title", "creator", "kind")}


def _version(*folders: Path) -> str:
    digest = hashlib.sha256("\n".join(fingerprint(folder) for folder in folders).encode())
    return digest.hexdigest()[:10]


def _has_grown(trained: str, catalog: Catalog, catalogs: Path | None) -> bool:
    """Whether `catalog` is the one that a policy was trained on, with further items after its own."""
    if catalogs is None or not (catalogs / trained).is_dir():
        return False
    old = Catalog.load(catalogs / trained)
    rows = len(old)
    same = old.items["item_id"].equals(catalog.items["item_id"].head(rows))
    return same and old.level_sizes == catalog.level_sizes and bool((old.codes == catalog.codes[:rows]).all())
