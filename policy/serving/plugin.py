"""vLLM logits processor: whatever is asked, the answer is a legal slate of the catalog.

A vLLM server started with it speaks the catalog over the plain OpenAI API:

    LONGPLAY_CATALOG=runs/demo/catalog python -m vllm.entrypoints.openai.api_server \
        --model runs/demo/policy/sft --logits-processors policy.serving.plugin:CatalogLogitsProcessor \
        --logprobs-mode processed_logprobs --generation-config vllm

Other catalogs than the default are asked for by name (`policy.serving.catalogs` has the variables). Every completion
is a move token, K items of L codes each, and the end token, so a request ends by itself whatever its
max_tokens. With processed_logprobs the returned log-probabilities are those of the masked distribution the tokens were
drawn from: their sum is the log-propensity of the slate.

A request with `sends` is a decision about a message instead (`policy.serving.message_arguments`): three tokens, to hold
or to send what is allowed. It wants a policy that has the words, which LONGPLAY_POLICY points at.

vLLM calls `validate_params` in the API process and the rest in the engine process; a ValueError in the first becomes
HTTP 400, an exception in the second would end the server. So all that can be wrong with a request is found there.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from data.errors import InputError
from policy.cursor import Cursor, Doors, Paths
from policy.grammar import ILLEGAL, SlateGrammar
from policy.hearing import Hearing
from policy.item_prior import ItemPrior
from policy.messaging.grammar import MessageGrammar
from policy.serving.catalogs import POLICY, Entry, ServedCatalogs
from policy.serving.message_arguments import NAME as MESSAGE
from policy.serving.message_arguments import MessageArguments
from policy.serving.slate_arguments import MAX_SENT, SlateArguments
from policy.trie import Trie
from policy.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vllm.config import VllmConfig

# Catalogs, and sets of kinds over them, that are kept laid out for decoding.
_TRIES_KEPT, _DOORS_KEPT = 16, 64
# So many single items are taken off the counts one by one; for more, the catalog is counted again without them.
_WALKED = 256


@dataclass
class Answer:
    """One request in the batch: where its slate stands, the tokens said so far (vLLM's own growing list), how many a
    whole slate has, the token that ends it, and the prior of what was asked for in words.
    """

    cursor: Cursor
    said: list[int]
    length: int
    end_token: int
    heard: ItemPrior | None = None

    def catch_up(self) -> Cursor:
        """The cursor after all that was said."""
        cursor = self.cursor
        if cursor.said > len(self.said):  # said again from an earlier place
            cursor = self.cursor = Cursor(cursor.doors, cursor.unwanted)
        if cursor.said < len(self.said):
            cursor.follow(self.said[cursor.said : self.length])
        return cursor


@dataclass
class MessageAnswer:
    """One decision about a message in the batch: what may be sent, the rest as in `Answer`."""

    allowed: torch.Tensor
    said: list[int]
    grammar: MessageGrammar
    end_token: int

    @property
    def length(self) -> int:
        return self.grammar.length

    def legal(self) -> torch.Tensor:
        """Vocabulary ids of what may be said next."""
        said = torch.tensor([self.said], dtype=torch.long)
        return self.grammar.ids[self.grammar.legal(said, self.allowed)[0]]


@lru_cache(maxsize=1)
def served_catalogs() -> ServedCatalogs:
    """The catalogs that the environment names, one collection a process."""
    return ServedCatalogs.of_environment()


class CatalogLogitsProcessor(LogitsProcessor):
    """Masks every row of the batch to the tokens its slate may go on with."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse what cannot be answered with a whole legal slate, and give the rest the room that a slate takes.

        Raises InputError (a ValueError: HTTP 400 with the reason).
        """
        given = sampling_params.extra_args or {}
        served = served_catalogs()
        if MESSAGE in given:
            MessageArguments.parse(given)
            if not served.speaks_of_messages:
                raise InputError(f"{MESSAGE}: the policy that {POLICY} names has no words for messages; train it again")
            least = most = MessageGrammar.length
        else:
            arguments = SlateArguments.parse(given, served.slate_size, MAX_SENT)
            entry = served.find(arguments.catalog)
            arguments.eligible(entry.index)
            least = 1 + arguments.slate_size * entry.catalog.codes.shape[1]
            most = least + arguments.end
            given = {**given, "catalog": entry.catalog.version}
        if not sampling_params.detokenize and sampling_params.max_tokens == 1:
            # The signature of vLLM's beam search, which restarts the completion at every token.
            raise InputError("use_beam_search is not supported: a slate is sampled; ask for n slates instead")
        for name in ("allowed_token_ids", "bad_words", "structured_outputs"):
            if getattr(sampling_params, name):
                raise InputError(f"{name} cannot be combined with the catalog: use vllm_xargs kinds and blocked")
        if sampling_params.ignore_eos:
            raise InputError("ignore_eos is not supported: a slate ends by itself")
        if sampling_params.min_tokens > least:
            raise InputError(f"min_tokens {sampling_params.min_tokens}: what is asked for is {least} tokens")
        # Half a slate is no answer: the grammar decides the length, not max_tokens, stop strings or stop tokens.
        sampling_params.max_tokens = most
        sampling_params.stop = []
        sampling_params.stop_token_ids = []
        sampling_params.output_text_buffer_length = 0
        sampling_params.extra_args = given

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._served = served_catalogs()
        default = self._served.find("").catalog
        self._model = Path(vllm_config.model_config.model)
        self._vocabulary = Vocabulary.load(self._model, default)
        ends = vllm_config.model_config.hf_config.eos_token_id
        self._end_token = ends[0] if isinstance(ends, list) else ends
        self._tries: OrderedDict[str, tuple[Trie, Paths, Hearing]] = OrderedDict()
        self._doors: OrderedDict[tuple[str, tuple[str, ...]], Doors] = OrderedDict()
        speaks = self._vocabulary.speaks_of_messages
        self._messages = MessageGrammar.of(self._vocabulary) if speaks else None
        self._answers: dict[int, Answer | MessageAnswer] = {}

    def is_argmax_invariant(self) -> bool:
        """Masking changes which token is likeliest, so greedy requests need it too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as vLLM adds, removes and moves them in its batch."""
        process_dict_updates(self._answers, batch_update, self._answer)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask `logits` (B, V) in place: -inf wherever row b may not go on. Every row of a batch has its answer."""
        first, size = self._vocabulary.first, self._vocabulary.size
        legal = np.zeros((len(logits), size), dtype=np.bool_)
        finished: list[int] = []
        said: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        for row, answer in self._answers.items():
            if row >= len(logits):
                continue
            if len(answer.said) >= answer.length:
                finished.append(row)
            elif isinstance(answer, MessageAnswer):
                may = answer.legal().to(logits.device)
                said.append((row, may, logits[row, may]))  # the words of messages lie outside those of slates
            else:
                cursor = answer.catch_up()
                cursor.mark(legal[row])
                if answer.heard is not None and cursor.place is not None:
                    level, node = cursor.place
                    begin = first + answer.heard.trie.level_offsets[level]
                    more = answer.heard.at(level, torch.tensor([node]))[0].clamp(min=ILLEGAL).to(logits.device)
                    logits[row, begin : begin + len(more)] += more
        illegal = torch.from_numpy(~legal).to(logits.device, non_blocking=True)
        logits[:, :first] = -torch.inf
        logits[:, first : first + size].masked_fill_(illegal, -torch.inf)
        logits[:, first + size :] = -torch.inf
        for row, may, kept in said:
            logits[row, may] = kept
        if finished:
            logits[finished, [self._answers[row].end_token for row in finished]] = 0.0
        return logits

    def _answer(self, params: SamplingParams, prompt: list[int] | None, said: list[int]) -> Answer | MessageAnswer:
        end_token = self._end_token if params.eos_token_id is None else params.eos_token_id
        if self._messages is not None and MESSAGE in (params.extra_args or {}):
            allowed = MessageArguments.parse(params.extra_args or {}).allowed
            return MessageAnswer(allowed, said, self._messages, end_token)
        arguments = SlateArguments.parse(params.extra_args, self._served.slate_size, MAX_SENT)
        entry = self._served.pinned(arguments.catalog)
        trie, paths, hearing = self._trie(entry)
        unwanted = [entry.index.row_of[item] for item in arguments.unwanted if item in entry.index.row_of]
        if len(unwanted) <= _WALKED:
            cursor = Cursor(self._open(entry, arguments.kinds), paths.leaf_of[unwanted].tolist())
        else:
            cursor = Cursor(self._count(entry, arguments))
        heard = None
        if arguments.steer:
            heard = hearing.prior(trie, [arguments.steer], arguments.eligible(entry.index))
        return Answer(cursor, said, 1 + arguments.slate_size * paths.levels, end_token, heard)

    def _open(self, entry: Entry, kinds: tuple[str, ...]) -> Doors:
        """What is open for items of these kinds, counted once."""
        key = entry.catalog.version, tuple(sorted(kinds))
        if key not in self._doors:
            self._doors[key] = self._count(entry, SlateArguments(slate_size=1, kinds=kinds))
        return kept(self._doors, key, _DOORS_KEPT)

    def _count(self, entry: Entry, arguments: SlateArguments) -> Doors:
        trie, paths, _ = self._trie(entry)
        return Doors.of(paths, trie.count(arguments.eligible(entry.index)))

    def _trie(self, entry: Entry) -> tuple[Trie, Paths, Hearing]:
        version = entry.catalog.version
        if version not in self._tries:
            grammar = SlateGrammar.of(Vocabulary.load(self._model, entry.catalog), 1)
            self._tries[version] = grammar.trie, Paths.of(grammar), Hearing(entry.catalog)
        return kept(self._tries, version, _TRIES_KEPT)


K = TypeVar("K")
V = TypeVar("V")


def kept(cache: OrderedDict[K, V], key: K, most: int) -> V:
    """The value at `key`, as the latest; the oldest leave when there are more than `most`."""
    cache.move_to_end(key)
    while len(cache) > most:
        cache.popitem(last=False)
    return cache[key]
