"""What a request to vLLM says of a decision about a message: what may be sent. Anything else cannot be decoded.

    {"prompt": [...], "vllm_xargs": {"sends": [13, 14, 98]}}

`sends` are flat places in (opportunities, channels, hours of the clock), as training examples have them: 98 is the
second opportunity, by the first channel, at two. The answer is the three tokens of `policy.messaging.grammar`; to hold
is always among what may be said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import InputError
from data.world.settings import CHANNELS
from policy.messaging.grammar import HOURS
from policy.serving.slate_arguments import ENGINE_NAMES
from policy.vocabulary import MOST_OPPORTUNITIES

NAME = "sends"
_SHAPE = (MOST_OPPORTUNITIES, len(CHANNELS), HOURS)
_PLACES = MOST_OPPORTUNITIES * len(CHANNELS) * HOURS


@dataclass(frozen=True)
class MessageArguments:
    """places: flat, of what may be sent, without repeats."""

    places: tuple[int, ...]

    @classmethod
    def of(cls, allowed: NDArray[np.bool_]) -> MessageArguments:
        """From what may be sent to one listener (M, channels, 24), M at most MOST_OPPORTUNITIES."""
        return cls(tuple(np.flatnonzero(allowed).tolist()))

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> MessageArguments:
        """Read request arguments. Raises InputError naming what is wrong with them."""
        beside = sorted(set(given) - {NAME, *ENGINE_NAMES})
        if beside:
            raise InputError(
                f"argument {beside[0]!r} cannot be combined with {NAME}: that is a decision about a message"
            )
        said = given[NAME]
        if not isinstance(said, list | tuple) or not all(
            isinstance(place, int) and not isinstance(place, bool) and 0 <= place < _PLACES for place in said
        ):
            raise InputError(f"{NAME} must be a list of places from 0 to {_PLACES - 1}, got {str(said)[:80]}")
        return cls(tuple(sorted(set(said))))

    def xargs(self) -> dict[str, object]:
        """The same arguments as `vllm_xargs`."""
        return {NAME: list(self.places)}

    @property
    def allowed(self) -> Tensor:
        """(1, MOST_OPPORTUNITIES, channels, 24) bool."""
        may = torch.zeros(_PLACES, dtype=torch.bool)
        may[list(self.places)] = True
        return may.view(1, *_SHAPE)
