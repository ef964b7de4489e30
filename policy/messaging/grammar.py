"""What a decision about a message may be: to hold, or an opportunity, a channel and a local hour that are allowed.

Every decision is three tokens, `<o_1> <push> <hour_18>` or `<hold> <hold> <hold>`: after the first of these three the
others follow with certainty, so holding is one decision with one probability. Each token is normalised over what the
listener's allowed sends leave open after the tokens before it; what is not allowed has no probability at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import InputError
from data.world.environment import Messages
from data.world.settings import CHANNELS
from policy.vocabulary import MOST_OPPORTUNITIES, Vocabulary

HOURS = 24
_FIRST_CHANNEL = 1 + MOST_OPPORTUNITIES
_FIRST_HOUR = _FIRST_CHANNEL + len(CHANNELS)
SPOKEN = (
    "<hold>",
    *(f"<o_{place}>" for place in range(MOST_OPPORTUNITIES)),
    *(f"<{channel}>" for channel in CHANNELS),
    *(f"<hour_{hour:02d}>" for hour in range(HOURS)),
)


@dataclass(frozen=True)
class MessageGrammar:
    """Legal next tokens of decisions. A = len(SPOKEN) tokens, T = `length` positions; tokens are vocabulary ids.

    `allowed` (B, M, channels, HOURS) bool says what may be sent to each listener, M at most MOST_OPPORTUNITIES; a row
    without any may only hold. ids (A,): the vocabulary's ids of SPOKEN; relative: (V,) the other way round, -1 for
    tokens that no decision has.
    """

    ids: Tensor
    relative: Tensor
    length: ClassVar[int] = 3

    @classmethod
    def of(cls, vocabulary: Vocabulary, device: torch.device | str = "cpu") -> MessageGrammar:
        """Raises InputError when the vocabulary has no tokens for messages."""
        if not vocabulary.speaks_of_messages:
            raise InputError(
                "the policy has no words for messages: it was trained before there were any; train it again"
            )
        ids = torch.tensor([vocabulary.ids[token] for token in SPOKEN])
        relative = torch.full((max(vocabulary.ids.values()) + 1,), -1)
        relative[ids] = torch.arange(len(ids))
        return cls(ids.to(device), relative.to(device))

    @cached_property
    def hold(self) -> int:
        """Vocabulary id of the token that holds."""
        return int(self.ids[0])

    def legal(self, said: Tensor, allowed: Tensor) -> Tensor:
        """What may follow `said` (B, t), 0 <= t < T, where `allowed` (B, M, channels, HOURS). (B, A) bool.

        At least one is True in every row. Raises InputError where something was said that is not allowed.
        """
        if said.shape[1] >= self.length:
            raise InputError(f"the decision already has all of its {self.length} tokens: nothing may follow")
        filled = torch.full((len(said), self.length), self.hold, device=said.device)
        filled[:, : said.shape[1]] = said
        return self._masks(filled, allowed, said.shape[1] + 1)[:, -1]

    def legal_all(self, decisions: Tensor, allowed: Tensor) -> Tensor:
        """What may follow at every position of whole `decisions` (B, T): (B, T, A). Raises as `legal` and `decode`."""
        masks = self._masks(decisions, allowed, self.length)
        said = self._said(decisions)
        if bool((said < 0).any()) or not bool(masks.gather(2, said[..., None]).all()):
            wrong = (said < 0) | ~masks.gather(2, said.clamp(min=0)[..., None])[..., 0]
            raise InputError(f"decision {int(wrong.any(1).nonzero()[0])} is not allowed: it is none of its legal sends")
        return masks

    def encode(self, column: Tensor, channel: Tensor, hour: Tensor) -> Tensor:
        """Vocabulary ids (B, T) of what is sent; column -1 is to hold. Raises InputError for what cannot be said."""
        held = column < 0
        parts = ((column, MOST_OPPORTUNITIES, 1), (channel, len(CHANNELS), _FIRST_CHANNEL), (hour, HOURS, _FIRST_HOUR))
        for (values, most, _), name in zip(parts, ("opportunity", "channel", "hour"), strict=True):
            if bool(((values >= most) | ((values < 0) & ~held)).any()):
                raise InputError(f"a message's {name} is outside 0..{most - 1}")
        said = torch.stack([torch.where(held, 0, values.long() + first) for values, _, first in parts], 1)
        return self.ids[said.to(self.ids.device)]

    def decode(self, decisions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Column, channel and hour (B,) of whole decisions (B, T), -1 where held. Raises InputError for no decision."""
        said = self._said(decisions)
        held = (said == 0).all(1)
        opens, by, at = said.unbind(1)
        sends = (
            (opens >= 1) & (opens < _FIRST_CHANNEL) & (by >= _FIRST_CHANNEL) & (by < _FIRST_HOUR) & (at >= _FIRST_HOUR)
        )
        if not bool((held | sends).all()):
            raise InputError(f"decision {int((~(held | sends)).nonzero()[0])} neither holds nor sends anything")
        first = (1, _FIRST_CHANNEL, _FIRST_HOUR)
        column, channel, hour = (
            torch.where(held, -1, part - low) for part, low in zip((opens, by, at), first, strict=True)
        )
        return column, channel, hour

    def _said(self, decisions: Tensor) -> Tensor:
        """Places in SPOKEN (B, t) of vocabulary ids, -1 for others."""
        known = (decisions >= 0) & (decisions < len(self.relative))
        return torch.where(known, self.relative[torch.where(known, decisions, 0)], -1)

    def _masks(self, decisions: Tensor, allowed: Tensor, count: int) -> Tensor:
        """Legal tokens (B, count, A) at the first positions of decisions (B, T)."""
        rows, most = allowed.shape[:2]
        if rows != len(decisions) or most > MOST_OPPORTUNITIES or allowed.shape[2:] != (len(CHANNELS), HOURS):
            raise InputError(
                f"allowed sends of shape {tuple(allowed.shape)} for {len(decisions)} decisions: give (B, M, "
                f"{len(CHANNELS)}, {HOURS}) with M at most {MOST_OPPORTUNITIES}"
            )
        said, row = self._said(decisions), torch.arange(rows, device=allowed.device)
        masks = torch.zeros((rows, count, len(SPOKEN)), dtype=torch.bool, device=allowed.device)
        masks[:, 0, 0] = True
        masks[:, 0, 1 : 1 + most] = allowed.flatten(2).any(2)
        held = said[:, 0] == 0
        masks[:, 1:, 0] = held[:, None]
        if count > 1:
            column = said[:, 0] - 1
            there = ~held & (column >= 0) & (column < most)
            of_column = allowed[row, column.clamp(0, max(most - 1, 0))] & there[:, None, None]  # (B, channels, HOURS)
            masks[:, 1, _FIRST_CHANNEL:_FIRST_HOUR] = of_column.any(2)
        if count > 2:
            channel = said[:, 1] - _FIRST_CHANNEL
            there = (channel >= 0) & (channel < len(CHANNELS))
            masks[:, 2, _FIRST_HOUR:] = of_column[row, channel.clamp(0, len(CHANNELS) - 1)] & there[:, None]
        none = ~masks.any(2)
        if bool(none.any()):
            raise InputError(
                f"decision {int(none.any(1).nonzero()[0])} has no legal token: what it began is not allowed"
            )
        return masks

    def to(self, device: torch.device | str) -> MessageGrammar:
        return MessageGrammar(self.ids.to(device), self.relative.to(device))

    def messages(self, decisions: Tensor) -> Messages:
        """Whole decisions (B, T) as they are sent. Raises as `decode`."""
        column, channel, hour = (part.cpu().numpy() for part in self.decode(decisions))
        return Messages(column.astype(np.int32), channel.astype(np.int8), hour.astype(np.int8))


def every_decision(allowed: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """All legal decisions (column, channel, hour) of one listener's `allowed` (M, channels, HOURS), holding first."""
    sends: Sequence[tuple[int, int, int]] = [tuple(row) for row in np.argwhere(allowed).tolist()]
    return [(-1, -1, -1), *sends]
