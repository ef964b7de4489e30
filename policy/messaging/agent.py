"""The language-model policy deciding on messages: in a world, over a log, or behind a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.message_log import take_contexts
from data.world.environment import MessageContexts, Messages
from policy.checkpoint import Speaker
from policy.messaging.prompt import MessagePrompt
from policy.messaging.rules import allowed_by_clock

BATCH = 512
Allowed = Callable[[MessageContexts], NDArray[np.bool_]]  # (B, M, channels, hours)


@dataclass(frozen=True)
class LanguageModelMessages:
    """Draws decisions from a trained policy; follows the `MessagePolicy` protocol of `data.world`.

    rules: what may be sent to whom. temperature: of the draw; 0 takes the likeliest continuation. The log-probability
    is that of the whole decision under the distribution drawn from.
    """

    name: str
    spoken: Speaker
    prompt: MessagePrompt
    rules: Allowed = allowed_by_clock
    temperature: float = 1.0

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> tuple[Messages, NDArray[np.float64]]:
        """Decisions and their log-probabilities (B,)."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        tokens = [torch.empty((0, 3), dtype=torch.int64)]
        log_probs = [torch.empty(0)]
        for _, ids, mask, may in message_prompts(self.spoken, self.prompt, contexts, self.rules):
            drawn = self.spoken.legal.draw(ids, mask, temperature=self.temperature, generator=generator, allowed=may)
            tokens.append(drawn.tokens[:, 0].cpu())
            log_probs.append(drawn.log_probs[:, 0].cpu())
        grammar = self.spoken.legal.decisions
        return grammar.messages(torch.cat(tokens).to(grammar.ids.device)), torch.cat(log_probs).numpy().astype(
            np.float64
        )


@torch.no_grad()
def message_log_probs(
    spoken: Speaker, prompt: MessagePrompt, contexts: MessageContexts, sent: Messages, rules: Allowed = allowed_by_clock
) -> NDArray[np.float64]:
    """Log-probability (B,) under the policy of logged decisions. Raises InputError for one that the rules forbid."""
    grammar = spoken.legal.decisions
    parts = (torch.from_numpy(part.astype(np.int64)) for part in (sent.column, sent.channel, sent.hour))
    whole = grammar.encode(*parts)
    found = [torch.empty(0)]
    for rows, ids, mask, may in message_prompts(spoken, prompt, contexts, rules):
        said = whole[torch.from_numpy(rows).to(whole.device), None]
        found.append(spoken.legal.completion_log_probs(ids, mask, said, allowed=may)[:, 0].cpu())
    return torch.cat(found).double().numpy()


def message_prompts(
    spoken: Speaker, prompt: MessagePrompt, contexts: MessageContexts, rules: Allowed
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor, Tensor]]:
    """In batches, on the model's device: rows, ids (b, S), attention mask (b, S), allowed (b, M, channels, hours)."""
    device = spoken.legal.device
    for start in range(0, len(contexts), BATCH):
        rows = np.arange(start, min(start + BATCH, len(contexts)))
        asked = take_contexts(contexts, rows)
        may = rules(asked)
        ids, mask = prompt.encode(asked, may)
        yield rows, ids.to(device), mask.to(device), torch.from_numpy(may).to(device)
