"""Watching the tuning of decisions about messages, on mornings that training does not see (`policy.watch`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from data.world.environment import MessageContexts
from policy.checkpoint import Speaker
from policy.messaging.prompt import MessagePrompt
from policy.messaging.proposals import Worth
from policy.watch import Look, Watching, WatchSettings

# To hold nearly always is a good policy, so how surely it decides is written down, and no reason not to keep it. Few
# mornings are worth a message, so many are looked at.
WATCHED = WatchSettings(prompts=768, samples=1, least_entropy=0.0)


@dataclass(frozen=True)
class MessageLook(Look):
    """Of decisions also: their divergence from the reference (nats), and the share that sends something."""

    kl: float
    sends: float


class MessageWatch(Watching):
    """The watch of policies that decide on messages, over B held-out mornings.

    may (B, M, channels, HOURS): what could be sent. The reference is the model with its adapter disabled.
    """

    def __init__(
        self,
        spoken: Speaker,
        words: Sequence[str],
        reward: Worth,
        mornings: MessageContexts,
        may: NDArray[np.bool_],
        settings: WatchSettings,
        seed: int,
    ) -> None:
        super().__init__(spoken, settings)
        self.reward, self.mornings, self.seed = reward, mornings, seed
        device = spoken.legal.device
        self._ids, self._mask = (part.to(device) for part in MessagePrompt(spoken.prompt, words).encode(mornings, may))
        self._may = torch.from_numpy(may).to(device)

    @torch.no_grad()
    def look(self) -> MessageLook:
        """Draw and score decisions now; the same luck at every look."""
        model, legal = cast(PeftModel, self.spoken.model), self.spoken.legal
        learning = model.training
        model.eval()
        generator = torch.Generator().manual_seed(self.seed)
        drawn = legal.draw(self._ids, self._mask, samples=self.settings.samples, generator=generator, allowed=self._may)
        with model.disable_adapter():
            before = legal.completion_log_probs(self._ids, self._mask, drawn.tokens, allowed=self._may)
        model.train(learning)
        sent = legal.decisions.decode(drawn.tokens.flatten(0, 1))
        column, channel, hour = (part.cpu().numpy().reshape(len(self._ids), -1) for part in sent)
        rewards = self.reward(self.mornings, column, channel, hour)
        return MessageLook(
            reward=float(rewards.mean()),
            entropy=float(-drawn.log_probs.mean()),
            kl=float((drawn.log_probs - before).mean()),
            sends=float((column >= 0).mean()),
        )
