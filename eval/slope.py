"""SLOPE: which hyperparameter of an off-policy estimator, said by the log itself.

Candidates are ordered from the least biased and most variable to the most biased and least variable. As long as the
intervals of all candidates so far meet, the bias that came in is smaller than the variance that went out, and the next
one may be taken (Lepski's principle; Su, Srinath & Krishnamurthy, ICML 2020, algorithm 1; ordered by width instead of
by design as in Tucker & Lee 2021, SLOPE++).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

CONSTANT = np.sqrt(6.0) - 1.0
CONFIDENCE = 0.95


def slope(values: Sequence[float], errors: Sequence[float], clusters: int) -> int:
    """Which candidate to take, by position, from each one's value and (clustered) standard error."""
    widths = np.asarray(errors) * float(student_t.ppf(CONFIDENCE, clusters - 1))
    order = np.argsort(-widths, kind="stable")
    chosen = int(order[0])
    accepted = [chosen]
    for candidate in order[1:].tolist():
        gaps = np.abs(np.asarray(values)[accepted] - values[candidate])
        if not bool((gaps <= widths[candidate] + CONSTANT * widths[accepted]).all()):
            break
        accepted.append(candidate)
        chosen = candidate
    return chosen
