"""vLLM logits processor: whatever is asked, the answer is a legal slate of the catalog.

A vLLM server started with it speaks the catalog over the plain OpenAI API:

    LONGPLAY_CATALOG=runs/demo/catalog python -m vllm.entrypoints.openai.api_server \
        --model runs/demo/policy/sft --logits-processors policy.serving.plugin:CatalogLogitsProcessor \
        --logprobs-mode processed_logprobs --generation-config vllm

Every completion is a move token, K items of L codes each, and the end token, so a request ends by itself whatever its
max_tokens. With processed_logprobs the returned log-probabilities are those of the masked distribution the tokens were
drawn from: their sum is the log-propensity of the slate.

vLLM calls `validate_params` in the API process and the rest in the engine process; a ValueError in the first becomes
HTTP 400, an exception in the second would end the server. So all that can be wrong with a request is found there.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from data.catalog import Catalog
from data.errors import InputError
from policy.grammar import SlateGrammar
from policy.serving.slate_arguments import DEFAULT_SLATE, CatalogIndex, SlateArguments
from policy.trie import Eligibility
from policy.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vllm.config import VllmConfig

CATALOG_VARIABLE = "LONGPLAY_CATALOG"
SLATE_VARIABLE = "LONGPLAY_SLATE_SIZE"


@dataclass(frozen=True)
class Answer:
    """One request in the batch: its grammar, the tokens said so far (vLLM's own growing list), what is eligible."""

    grammar: SlateGrammar
    said: list[int]
    eligible: Eligibility
    end_token: int


@lru_cache(maxsize=1)
def served_catalog() -> tuple[Catalog, CatalogIndex, int]:
    """The catalog named by the environment, its index, and the slate size when a request names none."""
    folder = os.environ.get(CATALOG_VARIABLE)
    if not folder:
        raise InputError(f"{CATALOG_VARIABLE} is not set: point it at the catalog folder of the run that is served")
    catalog = Catalog.load(Path(folder))
    return catalog, CatalogIndex(catalog), int(os.environ.get(SLATE_VARIABLE, DEFAULT_SLATE))


class CatalogLogitsProcessor(LogitsProcessor):
    """Masks every row of the batch to the tokens its slate may go on with."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse what cannot be answered with a whole legal slate, and give the rest the room that a slate takes.

        Raises InputError (a ValueError: HTTP 400 with the reason).
        """
        catalog, index, default_size = served_catalog()
        arguments = SlateArguments.parse(sampling_params.extra_args, default_size)
        arguments.eligible(index)
        if not sampling_params.detokenize and sampling_params.max_tokens == 1:
            # The signature of vLLM's beam search, which restarts the completion at every token.
            raise InputError("use_beam_search is not supported: a slate is sampled; ask for n slates instead")
        for name in ("allowed_token_ids", "bad_words", "structured_outputs"):
            if getattr(sampling_params, name):
                raise InputError(f"{name} cannot be combined with the catalog: use vllm_xargs kinds and blocked")
        if sampling_params.ignore_eos:
            raise InputError("ignore_eos is not supported: a slate ends by itself")
        length = 1 + arguments.slate_size * catalog.codes.shape[1]
        if sampling_params.min_tokens > length:
            raise InputError(
                f"min_tokens {sampling_params.min_tokens}: a slate of {arguments.slate_size} is {length} tokens"
            )
        # Half a slate is no answer: the grammar decides the length, not max_tokens, stop strings or stop tokens.
        sampling_params.max_tokens = length + 1 if arguments.end else length
        sampling_params.stop = []
        sampling_params.stop_token_ids = []
        sampling_params.output_text_buffer_length = 0

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        catalog, self._index, self._default_size = served_catalog()
        self._vocabulary = Vocabulary.load(Path(vllm_config.model_config.model), catalog)
        ends = vllm_config.model_config.hf_config.eos_token_id
        self._end_token = ends[0] if isinstance(ends, list) else ends
        self._device = device
        self._grammars = {self._default_size: SlateGrammar.of(self._vocabulary, self._default_size, device)}
        self._everything = self._grammars[self._default_size].trie.count(None)
        self._answers: dict[int, Answer] = {}

    def is_argmax_invariant(self) -> bool:
        """Masking changes which token is likeliest, so greedy requests need it too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as vLLM adds, removes and moves them in its batch."""
        process_dict_updates(self._answers, batch_update, self._answer)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask `logits` (B, V) in place: -inf wherever row b may not go on. Every row of a batch has its answer."""
        together: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
        finished: list[int] = []
        for row, answer in self._answers.items():
            if row >= len(logits):
                continue
            if len(answer.said) >= answer.grammar.length:
                finished.append(row)
            else:
                together[len(answer.said), answer.eligible is self._everything].append(row)
        first, size = self._vocabulary.first, self._vocabulary.size
        legal = torch.zeros((len(logits), size), dtype=torch.bool, device=logits.device)
        for (_, unrestricted), rows in together.items():
            legal[rows] = self._legal([self._answers[row] for row in rows], unrestricted)
        kept = logits[:, first : first + size].masked_fill(~legal, -torch.inf)
        logits.fill_(-torch.inf)
        logits[:, first : first + size] = kept
        if finished:
            logits[finished, [self._answers[row].end_token for row in finished]] = 0.0
        return logits

    def _legal(self, answers: list[Answer], unrestricted: bool) -> torch.Tensor:
        """Legal next tokens (B, C) of answers that have said equally many tokens."""
        grammar = max((answer.grammar for answer in answers), key=lambda grammar: grammar.slate_size)
        said = torch.tensor([answer.said for answer in answers], dtype=torch.long, device=self._device)
        said = said.reshape(len(answers), -1)
        eligible = self._everything
        if not unrestricted:
            counts = torch.cat([answer.eligible.counts for answer in answers])
            eligible = Eligibility(counts, torch.arange(len(answers), device=self._device))
        return grammar.legal(said, eligible)

    def _answer(self, params: SamplingParams, prompt: list[int] | None, said: list[int]) -> Answer:
        arguments = SlateArguments.parse(params.extra_args, self._default_size)
        size = arguments.slate_size
        if size not in self._grammars:
            self._grammars[size] = SlateGrammar(self._grammars[self._default_size].trie, self._vocabulary, size)
        grammar = self._grammars[size]
        rows = arguments.eligible(self._index)
        eligible = self._everything if rows is None else grammar.eligibility(rows)
        end_token = params.eos_token_id
        return Answer(grammar, said, eligible, self._end_token if end_token is None else end_token)
