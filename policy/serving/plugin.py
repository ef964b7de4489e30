"""vLLM logits processor: whatever is asked, the answer is a legal slate of the catalog.

A vLLM server started with it speaks the catalog over the plain OpenAI API:

    LONGPLAY_CATALOG=runs/demo/catalog python -m vllm.entrypoints.openai.api_server \
        --model runs/demo/policy/sft --logits-processors policy.serving.plugin:CatalogLogitsProcessor \
        --logprobs-mode processed_logprobs --generation-config vllm

Other catalogs than the default are asked for by name (`policy.serving.catalogs` has the variables). Every completion
is a move token, K items of L codes each, and the end token, so a request ends by itself whatever its
max_tokens. With processed_logprobs the returned log-probabilities are those of the masked distribution the tokens were
drawn from: their sum is the log-propensity of the slate.

vLLM calls `validate_params` in the API process and the rest in the engine process; a ValueError in the first becomes
HTTP 400, an exception in the second would end the server. So all that can be wrong with a request is found there.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from data.errors import InputError
from policy.grammar import SlateGrammar
from policy.serving.catalogs import Entry, ServedCatalogs
from policy.serving.slate_arguments import MAX_SENT, SlateArguments
from policy.trie import Eligibility
from policy.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_GRAMMARS_KEPT = 256


@dataclass(frozen=True)
class Answer:
    """One request in the batch: its catalog's version and grammar, the tokens said so far (vLLM's own growing list),
    what is eligible (None: everything).
    """

    version: str
    grammar: SlateGrammar
    said: list[int]
    eligible: Eligibility | None
    end_token: int


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
        served = served_catalogs()
        given = sampling_params.extra_args or {}
        arguments = SlateArguments.parse(given, served.slate_size, MAX_SENT)
        entry = served.find(arguments.catalog)
        arguments.eligible(entry.index)
        if not sampling_params.detokenize and sampling_params.max_tokens == 1:
            # The signature of vLLM's beam search, which restarts the completion at every token.
            raise InputError("use_beam_search is not supported: a slate is sampled; ask for n slates instead")
        for name in ("allowed_token_ids", "bad_words", "structured_outputs"):
            if getattr(sampling_params, name):
                raise InputError(f"{name} cannot be combined with the catalog: use vllm_xargs kinds and blocked")
        if sampling_params.ignore_eos:
            raise InputError("ignore_eos is not supported: a slate ends by itself")
        length = 1 + arguments.slate_size * entry.catalog.codes.shape[1]
        if sampling_params.min_tokens > length:
            raise InputError(
                f"min_tokens {sampling_params.min_tokens}: a slate of {arguments.slate_size} is {length} tokens"
            )
        # Half a slate is no answer: the grammar decides the length, not max_tokens, stop strings or stop tokens.
        sampling_params.max_tokens = length + 1 if arguments.end else length
        sampling_params.stop = []
        sampling_params.stop_token_ids = []
        sampling_params.output_text_buffer_length = 0
        sampling_params.extra_args = {**given, "catalog": entry.catalog.version}

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._served = served_catalogs()
        default = self._served.find("").catalog
        self._model = Path(vllm_config.model_config.model)
        self._vocabulary = Vocabulary.load(self._model, default)
        ends = vllm_config.model_config.hf_config.eos_token_id
        self._end_token = ends[0] if isinstance(ends, list) else ends
        self._device = device
        self._grammars: OrderedDict[tuple[str, int], SlateGrammar] = OrderedDict()
        self._everything: dict[str, Eligibility] = {}
        self._answers: dict[int, Answer] = {}

    def is_argmax_invariant(self) -> bool:
        """Masking changes which token is likeliest, so greedy requests need it too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as vLLM adds, removes and moves them in its batch."""
        process_dict_updates(self._answers, batch_update, self._answer)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask `logits` (B, V) in place: -inf wherever row b may not go on. Every row of a batch has its answer."""
        together: defaultdict[tuple[str, int, bool], list[int]] = defaultdict(list)
        finished: list[int] = []
        for row, answer in self._answers.items():
            if row >= len(logits):
                continue
            if len(answer.said) >= answer.grammar.length:
                finished.append(row)
            else:
                together[answer.version, len(answer.said), answer.eligible is None].append(row)
        first, size = self._vocabulary.first, self._vocabulary.size
        legal = torch.zeros((len(logits), size), dtype=torch.bool, device=logits.device)
        for rows in together.values():
            legal[rows] = self._legal([self._answers[row] for row in rows])
        kept = logits[:, first : first + size].masked_fill(~legal, -torch.inf)
        logits.fill_(-torch.inf)
        logits[:, first : first + size] = kept
        if finished:
            logits[finished, [self._answers[row].end_token for row in finished]] = 0.0
        return logits

    def _legal(self, answers: list[Answer]) -> torch.Tensor:
        """Legal next tokens (B, C) of answers over one catalog that have said equally many tokens."""
        grammar = max((answer.grammar for answer in answers), key=lambda grammar: grammar.slate_size)
        said = torch.tensor([answer.said for answer in answers], dtype=torch.long, device=self._device)
        said = said.reshape(len(answers), -1)
        counts = [answer.eligible.counts for answer in answers if answer.eligible is not None]
        if not counts:
            return grammar.legal(said, self._everything[answers[0].version])
        return grammar.legal(said, Eligibility(torch.cat(counts), torch.arange(len(answers), device=self._device)))

    def _answer(self, params: SamplingParams, prompt: list[int] | None, said: list[int]) -> Answer:
        arguments = SlateArguments.parse(params.extra_args, self._served.slate_size, MAX_SENT)
        entry = self._served.pinned(arguments.catalog)
        grammar = self._grammar(entry, arguments.slate_size)
        rows = arguments.eligible(entry.index)
        eligible = None if rows is None else grammar.eligibility(rows)
        end_token = self._end_token if params.eos_token_id is None else params.eos_token_id
        return Answer(entry.catalog.version, grammar, said, eligible, end_token)

    def _grammar(self, entry: Entry, size: int) -> SlateGrammar:
        """The grammar of slates of `size` over a catalog; all sizes share one trie."""
        version = entry.catalog.version
        known = self._grammars.get((version, size))
        if known is None:
            vocabulary = Vocabulary.load(self._model, entry.catalog)
            shared = next((held for (held_version, _), held in self._grammars.items() if held_version == version), None)
            known = (
                SlateGrammar.of(vocabulary, size, self._device)
                if shared is None
                else SlateGrammar(shared.trie, shared.vocabulary, size)
            )
            self._grammars[version, size] = known
            self._everything.setdefault(version, known.trie.count(None))
            while len(self._grammars) > _GRAMMARS_KEPT:
                self._grammars.popitem(last=False)
        return known
