"""Whom a number is about: new, light, heavy and lapsing listeners, as they stood when a decision was made.

A head that is calibrated on average can still promise too much for those who are about to leave. The segments are read
off the counts of `rewards.recency`, in this order: nobody who was away for a week is called heavy.
"""

import numpy as np
from numpy.typing import NDArray

from rewards.recency import COLUMNS, tenure_days

SEGMENTS = ("new", "lapsing", "heavy", "light")
NEW_DAYS = 7.0  # since the first interaction
LAPSING_DAYS = 7.0  # since the last one
HEAVY_SHARE = 3.0 / 7.0  # active days per day of the last 28


def segments(features: NDArray[np.floating]) -> NDArray[np.int8]:
    """Segment (D,), a place in SEGMENTS, of recency features (D, F)."""
    column = {name: features[:, at] for at, name in enumerate(COLUMNS)}
    new = tenure_days(features) < NEW_DAYS
    lapsing = np.expm1(column["log_gap_hours"]) > 24.0 * LAPSING_DAYS
    heavy = column["active_rate_28d"] >= HEAVY_SHARE
    return np.select([new, lapsing, heavy], [0, 1, 2], 3).astype(np.int8)
