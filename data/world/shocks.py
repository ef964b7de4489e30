"""Common random numbers: every shock of the world has an address, and nobody's choice moves another one's draw.

A generator is made anew for each (seed, step, purpose), and each purpose draws for all listeners whether or not they
visit. Two policies in one world therefore meet the same people on the same days with the same luck, and differ only
by what they choose (Glasserman & Yao, Management Science 1992, on when this narrows a comparison).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What a shock is for. The number is part of the address: never reuse one."""

    ITEMS = 1
    WORDS = 2
    TRAITS = 3
    MESSAGE_WORDS = 4
    DRIFT = 10
    VISIT = 11
    HOUR = 12
    MOMENT = 13
    STEER = 14
    CHURN = 15
    EXAMINE = 20
    PLAY = 21
    ENJOY = 22
    COMPLETE = 23
    SAVE = 24
    DISLIKE = 25
    SECONDS = 26
    CONVERT = 27
    OPPORTUNITY = 30
    ANSWER = 31
    SHOWN = 40


def generator(seed: int, step: int, purpose: Purpose) -> np.random.Generator:
    """A counter-based generator for one address. `step` counts days or slots; -1 is for what is drawn once."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step + 1, int(purpose)])))


def uniform(seed: int, step: int, purpose: Purpose, shape: int | tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform shocks on [0, 1), float32."""
    return generator(seed, step, purpose).random(shape, dtype=np.float32)


def normal(seed: int, step: int, purpose: Purpose, shape: int | tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal shocks, float32."""
    return generator(seed, step, purpose).standard_normal(shape, dtype=np.float32)
