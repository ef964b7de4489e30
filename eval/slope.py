"""SLOPE: which hyperparameter of an off-policy estimator, said by the log itself.

Candidates are ordered from the most to the least variable, which is from the least to the most biased. As long as all
of them so far agree, the bias that came in is smaller than the noise, and the next one may be taken (Lepski's
principle; Su, Srinath & Krishnamurthy, ICML 2020, algorithm 1; ordered by width as in Tucker & Lee 2021, SLOPE++).

What "agree" means is stricter here than in the paper. There two intervals must meet, which lets a bias of four standard
errors through: good for a mean squared error up to a constant, and fatal for an interval (in `scripts/reference.py` a
nominal 95% then covered 0 to 5%). Candidates share their rounds, so here their difference must be within the error of
the *paired* difference, which is known far better than either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

from eval.intervals import Floats, from_shares

CONFIDENCE = 0.95  # one-sided


def slope(values: Sequence[float], shares: Sequence[Floats]) -> int:
    """Which candidate to take, by position, from each one's value and its error's shares by user (U,)."""
    errors = np.array([from_shares(0.0, share).se for share in shares])
    reach = float(student_t.ppf(CONFIDENCE, shares[0].size - 1))
    order: list[int] = np.argsort(-errors, kind="stable").tolist()
    accepted = [order[0]]
    for candidate in order[1:]:
        for other in accepted:
            gap = abs(values[other] - values[candidate])
            if gap > reach * from_shares(0.0, shares[other] - shares[candidate]).se:
                return accepted[-1]
        accepted.append(candidate)
    return accepted[-1]
