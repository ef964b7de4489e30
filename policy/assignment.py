"""Who gets which arm: a salted hash of the user's id, so that serving and analysis agree without sharing a table.

An experiment's salt is its name. The same salt gives a user the same arm for ever, on any machine; another salt gives
an independent draw, so that experiments side by side do not share their luck (Kohavi, Tang & Xu 2020, chapter 4).
"""

import hashlib
import math
from collections.abc import Mapping

from data.errors import InputError


def checked_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of the arms; raises InputError unless there are two or more, each above 0, and they sum to 1."""
    if len(shares) < 2:
        raise InputError(f"shares: {len(shares)} arm; an experiment needs two, such as control=0.5 treatment=0.5")
    for arm, share in shares.items():
        if not 0.0 < share < 1.0:  # also NaN
            raise InputError(f"shares: {share} for arm {arm!r}; a share lies between 0 and 1")
    total = math.fsum(shares.values())
    if abs(total - 1.0) > 1e-9:
        raise InputError(f"shares: {', '.join(shares)} sum to {total:g}; they must sum to 1")
    return dict(shares)


def place(salt: str, user_id: str) -> float:
    """Where a user falls in [0, 1): the first 52 bits of SHA-256 of "salt/user", the same everywhere and for ever."""
    digest = hashlib.sha256(f"{salt}/{user_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 12) / 2**52


def arm_of(salt: str, user_id: str, shares: Mapping[str, float]) -> str:
    """The arm of a user: arms lie side by side on [0, 1) in the order of `shares`; raises as `checked_shares`.

    A user moves only when the bounds move: an arm that grows at the end takes people from its neighbour alone.
    """
    arms = checked_shares(shares)
    point, upper = place(salt, user_id), 0.0
    for arm, share in arms.items():
        upper += share
        if point < upper:
            return arm
    return arm  # shares that round to a hair under 1
