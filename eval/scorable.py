"""Which logged decisions a policy can be asked about again, and how many cannot be, and why.

A policy speaks slates of one length over the whole catalog. What a server drew otherwise (a request for more items, for
podcasts alone, less what the listener blocked) was drawn from another set than the policy would be asked about, and the
ratio of the two probabilities would be no weight. Such decisions are left out and counted. What remains is no longer
a sample of all decisions, but of those: the values are about them.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from data.histories import Decisions

NO_PROPENSITY = "no propensity"
OTHER_LENGTH = "a slate of another length than the policy's"
RESTRICTED = "candidates restricted to a part of the catalog"


def scorable(
    decisions: Decisions, rows: NDArray[np.int64], sizes: Collection[int]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Those of `rows` that policies with slates of `sizes` items can score, and reason -> how many were left out.

    A decision is counted under its first reason. Where no decision has a propensity nothing is left out: nothing will
    be scored.
    """
    unknown = np.isnan(decisions.log_propensity[rows])
    if unknown.all():
        return rows, {}
    length = (decisions.slate[rows] >= 0).sum(1)
    found = {
        NO_PROPENSITY: unknown,
        OTHER_LENGTH: ~np.all([length == size for size in sizes], axis=0) if sizes else np.zeros(len(rows), np.bool_),
        RESTRICTED: decisions.restricted[rows] if decisions.restricted.size else np.zeros(len(rows), np.bool_),
    }
    keep, left_out = np.ones(len(rows), np.bool_), {}
    for reason, hit in found.items():
        count = int((keep & hit).sum())
        if count:
            left_out[reason] = count
        keep &= ~hit
    return rows[keep], left_out
