"""A causal language model whose distribution over completions is the policy: normalised over the legal slates.

Prompts end with `<slate>`; what follows is a move token and the items' semantic IDs. Wherever a sequence contains
`<slate>`, the logits after it are replaced by the same logits restricted to what the catalog's trie allows next, so
that every trainer which reads `model(...).logits` (SFT, DPO, PPO, GRPO) and every sampler which calls `model.generate`
sees one and the same distribution. Decisions about messages, begun by `<message>`, are treated alike, with what is
`allowed` to each listener given beside the tokens; a batch may hold both. Sequences with neither (packed histories) are
left to the plain language model.

    model = constrain(AutoModelForCausalLM.from_pretrained("runs/demo/policy/sft"), grammar)
    model(input_ids=prompt_and_completion).logits     # (B, S, V); illegal tokens carry zero probability
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation import GenerateDecoderOnlyOutput, GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from policy.branches import Branches
from policy.grammar import ILLEGAL, SlateGrammar
from policy.item_prior import ItemPrior
from policy.messaging.grammar import MessageGrammar


@dataclass(frozen=True)
class SlateDraw:
    """Completions drawn from the policy.

    tokens: (B, N, T) int64 token ids. log_probs: (B, N) float32, the log-probability of each whole completion under the
    distribution it was drawn from. steps: T tensors (B * N, C) of legal log-probabilities, kept only when asked for.
    """

    tokens: Tensor
    log_probs: Tensor
    steps: tuple[Tensor, ...] = ()


class CompletionOutput(NamedTuple):
    """Log-probability and entropy (nats) at each token of each prompt's completions: (B, M, T) both."""

    log_probs: Tensor
    entropy: Tensor


def constrain(model: PreTrainedModel, grammar: SlateGrammar) -> LegalSlateModel:
    """Make a causal LM speak only legal slates, in place, and return it.

    The class keeps its name, because checkpoints record it and servers look it up.
    """
    if not isinstance(model, LegalSlateModel):
        kind = type(model)
        model.__class__ = type(kind.__name__, (LegalSlateModel, kind), {})
    legal = cast(LegalSlateModel, model)
    legal.grammar = grammar.to(model.device)
    of_messages = grammar.vocabulary.speaks_of_messages
    legal.message_grammar = MessageGrammar.of(grammar.vocabulary, model.device) if of_messages else None
    return legal


def causal_model(model: nn.Module) -> LegalSlateModel:
    """The constrained model inside a PEFT wrapper (adapters stay active, they live in its layers)."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, LegalSlateModel):
        raise TypeError(f"{type(inner).__name__} is not constrained to a catalog: call policy.language_model.constrain")
    return inner


@dataclass(frozen=True)
class Continuations:
    """What may be said on one surface. head (C, H): output rows of its C tokens; ids (C,): which tokens they are.

    restricted: logits (R, C) after (R, t) tokens, illegal ones masked. restricted_all: logits (R, T, C) at every
    position of whole completions (R, T), likewise.
    """

    length: int
    head: Tensor
    ids: Tensor
    restricted: Callable[[Tensor, Tensor], Tensor]
    restricted_all: Callable[[Tensor, Tensor], Tensor]


class LegalSlateModel(PreTrainedModel):
    """Mixed in front of a causal LM class by `constrain`; overrides `forward` and `generate` and nothing else."""

    grammar: SlateGrammar
    message_grammar: MessageGrammar | None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int = 0,
        completions: Tensor | None = None,
        temperature: float = 1.0,
        allowed: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | CompletionOutput:
        """As the wrapped class, with logits (B, S, V) legal after `<slate>` and the loss taken from them.

        With `completions` (B, M, T) it is `token_distributions`, for trainers whose model is wrapped (by adapters, by
        data parallelism, which only follows what goes through `forward`).

        `allowed` (B, M, channels, hours) says what may be sent where a row holds `<message>`; other rows are not read.
        `logits_to_keep`: how many positions, from the last, are wanted of the logits (0: all); not of their number is
        the work, which is on the completion's positions and the legal tokens in any case, but the memory.
        `labels` follow the Hugging Face convention (shifted inside, -100 ignored); the loss is the mean over labelled
        completion tokens, or the sum over `num_items_in_batch` where the trainer passes it.
        """
        if completions is not None:
            assert input_ids is not None
            assert attention_mask is not None
            return self.token_distributions(input_ids, attention_mask, completions, temperature, allowed)
        begun: list[tuple[Tensor, int, Continuations]] = []
        if input_ids is not None and past_key_values is None:
            begun = self._begun(input_ids, allowed)
        if input_ids is None or not begun:
            plain = super().forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                labels=labels,
                # A loss wants no cache; and with one, transformers would not tell packed histories apart.
                use_cache=False if use_cache is None and labels is not None else use_cache,
                **({"num_items_in_batch": num_items_in_batch} if num_items_in_batch is not None else {}),
                **({"logits_to_keep": logits_to_keep} if logits_to_keep else {}),
                **kwargs,
            )
            return cast(CausalLMOutputWithPast, plain)
        hidden = self._hidden(input_ids, attention_mask, position_ids)  # (B, S, H)
        gone = input_ids.shape[1] - logits_to_keep if logits_to_keep else 0  # positions that nobody asked for
        wide = hidden.new_full((len(hidden), input_ids.shape[1] - gone, self.config.vocab_size), ILLEGAL).float()
        total, counted = hidden.new_zeros(()).float(), 0
        for rows, mark, may in begun:
            said = input_ids[rows]
            at = completion_positions(said, mark, may.length)  # (R, T)
            if bool((at < gone).any()):
                raise ValueError(f"logits of the last {logits_to_keep} positions only: a completion begins before them")
            legal = _legal_logits(may, said, hidden[rows], at)  # (R, T, C)
            wide = wide.index_put((rows[:, None, None], at[..., None] - gone, may.ids), legal)
            if labels is not None:
                nll, wanted = _completion_nll(legal, may, said, labels[rows], at)
                total, counted = total + nll, counted + wanted
        loss = None
        if labels is not None:
            loss = total / (num_items_in_batch if num_items_in_batch is not None else max(counted, 1))
        return CausalLMOutputWithPast(loss=cast(Any, loss), logits=cast(Any, wide))

    def completion_log_probs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        completions: Tensor,
        temperature: float = 1.0,
        allowed: Tensor | None = None,
        eligible: Tensor | None = None,
        prior: ItemPrior | None = None,
    ) -> Tensor:
        """Log-probability of each of M completions per prompt; the prompt is read once.

        input_ids, attention_mask: (B, S) left padded, ending with `<slate>`, or with `<message>` where `allowed` is
        given. completions: (B, M, T). eligible, prior: as `draw` was given them. Returns (B, M).
        """
        told = self.token_distributions(
            input_ids, attention_mask, completions, temperature, allowed, eligible=eligible, prior=prior
        )
        return told.log_probs.sum(-1)

    def token_distributions(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        completions: Tensor,
        temperature: float = 1.0,
        allowed: Tensor | None = None,
        eligible: Tensor | None = None,
        prior: ItemPrior | None = None,
    ) -> CompletionOutput:
        """As `completion_log_probs`, each token's given those before it, and the entropy of what it is drawn from."""
        batch, many, length = completions.shape
        branches = Branches(self.trunk(), input_ids, attention_mask)
        first = branches.hidden[:, :, None].expand(-1, many, -1, -1)  # (B, M, 1, H)
        hidden = torch.cat([first, branches.follow(completions[..., :-1])], 2)  # (B, M, T, H)
        may = self.continuations(allowed, many, eligible, prior)
        logits = nn.functional.linear(hidden, may.head).float().flatten(0, 1)  # (B M, T, C)
        legal = may.restricted_all(logits, completions.flatten(0, 1)) / temperature
        log_probs = legal.view(batch, many, length, -1).log_softmax(-1)
        chosen = _among(may.ids, completions)[..., None]
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return CompletionOutput(log_probs=log_probs.gather(-1, chosen).squeeze(-1), entropy=entropy)

    @torch.no_grad()
    def draw(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        samples: int = 1,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        eligible: Tensor | None = None,
        keep_steps: bool = False,
        prior: ItemPrior | None = None,
        allowed: Tensor | None = None,
    ) -> SlateDraw:
        """Draw `samples` completions per prompt; each prompt is read once, whatever the number drawn from it.

        input_ids, attention_mask: (B, S) left padded, ending with `<slate>`. temperature 0 takes the likeliest token.
        eligible: (N,) or (B, N) bool over the catalog, all items by default. prior: over items, added to the logits.
        With `allowed` (B, M, channels, hours) the prompts end with `<message>`, and what is drawn are decisions.
        """
        batch, device = len(input_ids), input_ids.device
        branches = Branches(self.trunk(), input_ids, attention_mask)
        hidden = branches.hidden.expand(-1, samples, -1)  # (B, N, H)
        may = self.continuations(allowed, samples, eligible, prior)
        tokens = torch.empty(batch * samples, 0, dtype=torch.int64, device=device)
        total = torch.zeros(batch * samples, device=device)
        steps: list[Tensor] = []
        for step in range(may.length):
            logits = nn.functional.linear(hidden, may.head).float().flatten(0, 1)  # (B N, C)
            logits = may.restricted(logits, tokens) / max(temperature, 1e-4)
            log_probs = logits.log_softmax(-1)
            if temperature == 0:
                choice = log_probs.argmax(-1, keepdim=True)
            else:
                where = device if generator is None else generator.device  # the same luck on every device
                choice = torch.multinomial(log_probs.exp().to(where), 1, generator=generator).to(device)
            total += log_probs.gather(1, choice).squeeze(1)
            tokens = torch.cat([tokens, may.ids[choice]], 1)
            if keep_steps:
                steps.append(logits)
            if step + 1 < may.length:
                # After the first step every branch grows from itself; before it, all grow from the prompt.
                parent = torch.arange(samples, device=device) if step else torch.zeros_like(tokens[:samples, 0])
                hidden = branches.grow(tokens[:, -1].view(batch, samples), parent.expand(batch, -1))
        return SlateDraw(tokens.view(batch, samples, -1), total.view(batch, samples), tuple(steps))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Sample legal completions, for trainers that roll out through `generate`.

        Reads temperature and do_sample from `generation_config`; a completion always has the grammar's length, so a
        `max_new_tokens` other than that is an error rather than a truncated slate.
        """
        config = generation_config or self.generation_config
        if config.max_new_tokens not in (None, self.grammar.length):
            raise ValueError(
                f"max_new_tokens is {config.max_new_tokens}, a slate of this catalog takes {self.grammar.length}"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        temperature = float(config.temperature or 1.0) if config.do_sample else 0.0
        drawn = self.draw(input_ids, attention_mask.long(), temperature=temperature, keep_steps=True)
        sequences = torch.cat([input_ids, drawn.tokens[:, 0]], 1)
        if not kwargs.get("return_dict_in_generate"):
            return sequences
        vocabulary = self.config.vocab_size
        first, size = self.grammar.vocabulary.first, self.grammar.vocabulary.size
        scores = []
        for step in drawn.steps:
            wide = step.new_full((len(step), vocabulary), ILLEGAL)
            wide[:, first : first + size] = step
            scores.append(wide)
        return GenerateDecoderOnlyOutput(sequences=sequences, scores=tuple(scores))  # type: ignore[arg-type]

    @property
    def decisions(self) -> MessageGrammar:
        """The grammar of decisions about messages. Raises InputError where this policy has no words for them."""
        return self.message_grammar or MessageGrammar.of(self.grammar.vocabulary)

    def trunk(self) -> nn.Module:
        """The transformer without its head: hidden states, and a cache when asked."""
        return cast(nn.Module, cast(Any, self).get_decoder())

    def catalog_head(self) -> Tensor:
        """Rows of the output embedding that a completion can use: (C, H). The other rows are never multiplied."""
        weight = cast(Tensor, cast(Any, self).get_output_embeddings().weight)
        return weight[self.grammar.vocabulary.first : self.grammar.vocabulary.first + self.grammar.vocabulary.size]

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
        out = self.trunk()(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
        return cast(Tensor, out.last_hidden_state)

    def continuations(
        self,
        allowed: Tensor | None = None,
        times: int = 1,
        eligible: Tensor | None = None,
        prior: ItemPrior | None = None,
    ) -> Continuations:
        """Decisions where `allowed` (B, M, channels, hours) is given, slates of `eligible` items otherwise.

        Each row of all three stands for `times` completions. Raises InputError where it has no words for messages.
        """
        if allowed is not None:
            spoken = self.decisions
            every = allowed.repeat_interleave(times, 0)
            weight = cast(Tensor, cast(Any, self).get_output_embeddings().weight)
            return Continuations(
                spoken.length,
                weight[spoken.ids],
                spoken.ids,
                lambda logits, said: logits.masked_fill(~spoken.legal(said, every), ILLEGAL),
                lambda logits, whole: logits.masked_fill(~spoken.legal_all(whole, every), ILLEGAL),
            )
        if eligible is not None and eligible.ndim == 2:
            eligible = eligible.repeat_interleave(times, 0)
        if prior is not None:
            prior = prior.repeated(times)
        grammar, first = self.grammar, self.grammar.vocabulary.first
        counted = grammar.eligibility(eligible)  # once, not once a step
        return Continuations(
            grammar.length,
            self.catalog_head(),
            torch.arange(first, first + grammar.vocabulary.size, device=self.device),
            lambda logits, said: grammar.restricted(logits, said, counted, prior),
            lambda logits, whole: grammar.restricted_all(logits, whole, counted, prior),
        )

    def _begun(self, input_ids: Tensor, allowed: Tensor | None) -> list[tuple[Tensor, int, Continuations]]:
        """Of each surface that completions are begun on: the rows, the token that begins them, what may be said."""
        words, found = self.grammar.vocabulary.ids, []
        slates = (input_ids == words["<slate>"]).any(1)
        decisions = (input_ids == words.get("<message>", -1)).any(1)
        if not bool((slates | decisions).any()):
            return []
        if bool(decisions.any()):
            if allowed is None:
                raise ValueError("decisions about messages need `allowed`: what may be sent to each listener")
            rows = decisions.nonzero()[:, 0]
            found.append((rows, words["<message>"], self.continuations(allowed[rows])))
        if not bool(decisions.all()):
            found.append(((~decisions).nonzero()[:, 0], words["<slate>"], self.continuations()))
        return found


def _among(ids: Tensor, tokens: Tensor) -> Tensor:
    """Places in `ids` (C,) of tokens (any shape) that are all among them."""
    order = ids.argsort()
    return order[torch.searchsorted(ids[order], tokens.contiguous())]


def _legal_logits(may: Continuations, input_ids: Tensor, hidden: Tensor, at: Tensor) -> Tensor:
    """Logits (R, T, C) over what may be said at the positions `at` (R, T) that predict it, illegal ones masked."""
    completions = input_ids.gather(1, at + 1)  # (R, T)
    predicting = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))  # (R, T, H)
    logits = nn.functional.linear(predicting, may.head).float()
    return may.restricted_all(logits, completions)


def completion_positions(input_ids: Tensor, mark: int, length: int) -> Tensor:
    """Positions (B, T) whose next token belongs to the completion, for sequences with one `mark`, `<slate>`, each.

    Raises ValueError when a row has no mark, more than one, or an unfinished completion: a loss over half a slate
    would not be the policy's.
    """
    marks = input_ids == mark
    if not bool((marks.sum(1) == 1).all()):
        raise ValueError("every sequence of a batch with slates must contain exactly one <slate> token")
    start = marks.long().argmax(1)  # (B,)
    if bool((start + length >= input_ids.shape[1]).any()):
        raise ValueError(f"a completion after <slate> must have {length} tokens (a move and whole items)")
    return start[:, None] + torch.arange(length, device=input_ids.device)


def _completion_nll(
    legal: Tensor, may: Continuations, input_ids: Tensor, labels: Tensor, at: Tensor
) -> tuple[Tensor, int]:
    """Summed loss of the labelled completion tokens, and how many there are."""
    wanted = labels.gather(1, at + 1) != -100  # (R, T)
    target = _among(may.ids, input_ids.gather(1, at + 1))
    nll = -legal.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    return (nll * wanted).sum(), int(wanted.sum())
