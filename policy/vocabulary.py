"""The words of the policy: control tokens for context, moves and semantic-ID codes, added to a tokenizer and a model.

All are ordinary added tokens (not "special"), so that a decoded completion and the text a server returns show them.
What a completion may say, the moves and the codes, is one contiguous range of ids, so the output head can be cut to
it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data.catalog import Catalog
from data.errors import InputError
from data.schema import ACTIONS, SURFACES
from policy.moves import MOVES

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
GAP_HOURS = (0.5, 1.0, 3.0, 8.0, 16.0, 30.0, 54.0, 102.0, 198.0, 390.0)  # upper edges; a day's visit varies by hours
OBJECTIVES = ("midterm", "clicks")
WEIGHT_STEPS = 5  # a weight in [0, 1] is said in quarters
MAX_TEXT_CHARACTERS = 120
MOST_OPPORTUNITIES = 8  # that one prompt about messages can list
# Edges of what a sending domain says, in its standard deviations; the few messages worth sending are told apart above.
VALUE_STEPS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5)
DAYS_AGO = (2, 3, 5, 8, 15)  # lower edges of how long ago a message was sent; nearer is nearest

# What a control token means in plain words: where its embedding starts when the base model already knows words.
_MEANINGS: dict[str, str] = {
    "<history>": "listening history",
    "<says>": "the listener says",
    "<wants>": "wanted balance",
    "<slate>": "recommend",
    "<gap_never>": "first visit",
    "<did_none>": "no reaction",
    "<message>": "send a message",
    "<hold>": "send nothing",
    "<offers>": "possible messages",
    "<sent>": "sent before",
    "<may>": "allowed channels",
    "<value_none>": "value unknown",
}

# The same prompt as policy/prompt.py writes for a listener of whom nothing is known but what they say. Angle brackets
# are taken out of what they say because a server tokenizes the rendered text, and would read "<slate>" in it as a
# token.
CHAT_TEMPLATE = (
    "{%- set said = namespace(text='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' and message['content'] is string -%}"
    "{%- set said.text = message['content'] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set text = said.text[:" + str(MAX_TEXT_CHARACTERS) + "] | replace('<', ' ') | replace('>', ' ') | trim -%}"
    "<now_playing><gap_never><history>"
    "{%- if text -%}{{- '<says>' -}}{{- text -}}{%- endif -%}"
    "<slate>"
)


def spoken(text: str) -> str:
    """What is kept of a listener's words: 120 characters, without angle brackets. The chat template does the same."""
    return text[:MAX_TEXT_CHARACTERS].replace("<", " ").replace(">", " ").strip()


def context_tokens() -> list[str]:
    """Control tokens of the prompt, in a fixed order."""
    return [
        *(f"<{surface}>" for surface in SURFACES),
        *(f"<{day}>" for day in WEEKDAYS),
        *(f"<hour_{hour:02d}>" for hour in range(24)),
        *(f"<gap_{bucket}>" for bucket in range(len(GAP_HOURS) + 1)),
        "<gap_never>",
        *(f"<did_{action}>" for action in ACTIONS),
        "<did_none>",
        "<history>",
        "<says>",
        "<wants>",
        *(f"<w_{objective}_{step}>" for objective in OBJECTIVES for step in range(WEIGHT_STEPS)),
        "<slate>",
        *message_tokens(),
    ]


def message_tokens() -> list[str]:
    """Control tokens that only messages need; channels and hours are said with those there are."""
    return [
        "<hold>",
        *(f"<o_{place}>" for place in range(MOST_OPPORTUNITIES)),
        *(f"<value_{bucket}>" for bucket in range(len(VALUE_STEPS) + 1)),
        "<value_none>",
        *(f"<ago_{bucket}>" for bucket in range(len(DAYS_AGO) + 1)),
        "<premium>",
        "<may>",
        "<sent>",
        "<offers>",
        "<message>",
    ]


def completion_tokens(level_sizes: Sequence[int]) -> list[str]:
    """Moves, then the codes of each level."""
    codes = (f"<s{level}_{code}>" for level, size in enumerate(level_sizes) for code in range(size))
    return [*(f"<{move}>" for move in MOVES), *codes]


@dataclass(frozen=True)
class Vocabulary:
    """Where the control tokens are in a tokenizer. N items, L levels, C completion tokens.

    ids: control token -> id. first, size: completion tokens are ids first..first + size - 1, first >= size (so that
    relative and vocabulary ids cannot be confused). codes (N, L) int32 as in the catalog.
    """

    ids: Mapping[str, int]
    first: int
    size: int
    level_sizes: tuple[int, ...]
    codes: npt.NDArray[np.int32]
    catalog_version: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, catalog: Catalog) -> Vocabulary:
        """Look the control tokens up. Raises InputError when the tokenizer was made for other level sizes, or for
        none.
        """
        completion = completion_tokens(catalog.level_sizes)
        known = tokenizer.get_vocab()
        wanted = [*context_tokens(), *completion]
        missing = [token for token in wanted if token not in known]
        if missing:
            raise InputError(
                f"the tokenizer has no token {missing[0]} ({len(missing)} missing): it was not extended for this "
                "catalog; train the policy on it, or load the catalog it was trained with"
            )
        ids = {token: int(known[token]) for token in wanted}
        first = ids[completion[0]]
        if [ids[token] for token in completion] != list(range(first, first + len(completion))):
            raise InputError("move and code tokens are not one range of ids: extend a tokenizer that has none of them")
        if first < len(completion):
            raise InputError(
                f"{len(completion)} completion tokens start at id {first}: give the tokenizer at least "
                f"{len(completion)} tokens of text"
            )
        return cls(ids, first, len(completion), tuple(catalog.level_sizes), catalog.codes, catalog.version)

    @cached_property
    def level_offsets(self) -> tuple[int, ...]:
        """Relative id of code 0 of each level."""
        return tuple(len(MOVES) + sum(self.level_sizes[:level]) for level in range(len(self.level_sizes)))

    @cached_property
    def code_tokens(self) -> npt.NDArray[np.int64]:
        """Vocabulary ids that spell each item. (N, L)"""
        return self.codes.astype(np.int64) + np.asarray(self.level_offsets, dtype=np.int64) + self.first

    @property
    def speaks_of_messages(self) -> bool:
        """Whether the tokens of messages are in it; a policy trained before there were any has none."""
        return all(token in self.ids for token in message_tokens())

    def save(self, folder: Path) -> None:
        """Write vocabulary.json beside the tokenizer."""
        stored = {"level_sizes": self.level_sizes, "first": self.first, "catalog_version": self.catalog_version}
        (folder / "vocabulary.json").write_text(json.dumps({**stored, "ids": dict(self.ids)}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, catalog: Catalog) -> Vocabulary:
        """Read vocabulary.json for `catalog`, which may have items that were added after training.

        Raises InputError when the folder has no vocabulary or the catalog's levels have other sizes.
        """
        path = folder / "vocabulary.json"
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}): {folder} is not a trained policy") from error
        if tuple(stored["level_sizes"]) != tuple(catalog.level_sizes):
            raise InputError(
                f"{folder} was trained for level sizes {tuple(stored['level_sizes'])}, the catalog has "
                f"{tuple(catalog.level_sizes)}: train the policy on this catalog"
            )
        ids = {str(token): int(position) for token, position in stored["ids"].items()}
        size = len(MOVES) + sum(catalog.level_sizes)
        return cls(ids, int(stored["first"]), size, tuple(catalog.level_sizes), catalog.codes, catalog.version)


def catalog_texts(catalog: Catalog) -> list[str]:
    """The words of every item, empty ones left out."""
    texts = []
    for row in catalog.items.select("title", "creator", "tags", "text").iter_rows():
        words = [row[0] or "", row[1] or "", " ".join(row[2] or ()), row[3] or ""]
        text = " ".join(word for word in words if word)
        if text:
            texts.append(text)
    return texts


def nano_tokenizer(catalog: Catalog, extra_texts: Iterable[str] = (), size: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about `size` text tokens, learned on the catalog's words and `extra_texts`, with all
    control tokens.

    Any text can be said in it, to the byte. `<pad>` is id 0, `<end>` id 1. Text tokens are never fewer than completion
    tokens; a catalog without words gets the 256 bytes and as many padding words as that takes.
    """
    completion = completion_tokens(catalog.level_sizes)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([*catalog_texts(catalog), *extra_texts], trainer)
    context = context_tokens()
    short = len(completion) - (core.get_vocab_size() + len(context))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<end>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    if short > 0:
        _add(tokenizer, [f"<spare_{number}>" for number in range(short)])
    _add(tokenizer, [*context, *completion])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, catalog: Catalog) -> Vocabulary:
    """Add the control tokens to a pretrained tokenizer, in place, set our chat template, and say where they are.

    Raises InputError when the tokenizer already has control tokens for other level sizes.
    """
    if "<slate>" not in tokenizer.get_vocab():
        _add(tokenizer, [*context_tokens(), *completion_tokens(catalog.level_sizes)])
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = CHAT_TEMPLATE
    return Vocabulary.of(tokenizer, catalog)


def _add(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> None:
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])


def token_meanings() -> dict[str, str]:
    """A short description in plain words of each control token but the codes."""
    meanings = dict(_MEANINGS)
    for token in [*context_tokens(), *(f"<{move}>" for move in MOVES)]:
        meanings.setdefault(token, token.strip("<>").replace("did_", "").replace("w_", "weight ").replace("_", " "))
    return meanings
