"""Survival outcomes as influence values, one number a row, and hazard ratios clustered by user.

Of the Kaplan-Meier curve S two things are read at the window w: S(w) itself (the share not back yet) and the restricted
mean integral of S over [0, w] (days without the event, of the first w). Both are smooth in the hazards, so each row has

    psi_i = -n sum over u <= w of A(u) (dN_i(u) - Y_i(u) d_u / n_u) / (n_u (1 - d_u / n_u))

with A(u) = S(w), or the integral of S from u to w; the mean of psi is zero and value + psi are pseudo-observations
(Andersen, Klein & Rosthoj 2003; for the restricted mean Royston & Parmar 2013). Summing psi over rows of one user
before squaring gives the clustered variance, as in eval/survival.py, and CUPED and sequential intervals apply as to
means.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import Floats, finite


def influence(
    time: NDArray[np.generic], observed: NDArray[np.bool_], window: float, estimand: str, where: str
) -> tuple[float, Floats]:
    """The value at `window` and its influence values (n,), in the order given; estimand is "rmst" or "survival".

    time (n,): until the event where `observed` (n,), else until nobody looked any more. Raises InputError, beginning
    with `where`, for times below zero and for rows that are not followed up to the window.
    """
    time, n = finite(time, where), time.size
    if n == 0 or time.min() < 0:
        raise InputError(f"{where}: {n} times, the least {time.min(initial=0):g}; give at least one, none below zero")
    order = np.argsort(time, kind="stable")
    ranked, happened = time[order], np.asarray(observed, bool)[order]
    times = np.unique(ranked[happened & (ranked <= window)])
    begin, end = np.searchsorted(ranked, times), np.searchsorted(ranked, times, side="right")
    died = np.concatenate([[0], np.cumsum(happened)])
    events, at_risk = died[end] - died[begin], n - begin
    hazard = events / at_risk
    curve = np.cumprod(1 - hazard)
    if ranked[-1] < window and (not curve.size or curve[-1] > 0):
        raise InputError(
            f"{where}: nobody was followed for {window:g}, the longest for {ranked[-1]:g}: wait, or shorten the window"
        )
    last = float(curve[-1]) if curve.size else 1.0
    steps = np.diff(np.append(times, window))
    ahead = np.cumsum((curve * steps)[::-1])[::-1]  # the integral of S from each event time to the window
    if estimand == "rmst":
        value = float((times[0] if times.size else window) + (ahead[0] if ahead.size else 0.0))
        reach = ahead
    else:
        value, reach = last, np.full(times.size, last)
    left = at_risk - events
    weight = np.divide(reach, left, out=np.zeros(times.size), where=left > 0)  # A / (n (1 - h))
    risen = np.concatenate([[0.0], np.cumsum(weight * hazard)])
    seen = np.searchsorted(times, ranked, side="right")
    own = np.where(happened & (ranked <= window), np.append(weight, 0.0)[np.maximum(seen - 1, 0)], 0.0)
    psi = np.empty(n)
    psi[order] = -n * (own - risen[seen])
    return value, psi


def log_hazard_ratio(
    time: Floats, observed: NDArray[np.bool_], treated: NDArray[np.bool_], user: NDArray[np.generic], where: str
) -> tuple[float, float]:
    """Log hazard ratio of the treated (lifelines') and its standard error, clustered by user (Lin & Wei 1989).

    Raises InputError, beginning with `where`, where an arm has no event.
    """
    for name, rows in (("control", ~treated), ("treatment", treated)):
        if not observed[rows].any():
            raise InputError(
                f"{where}: no event in the {name} arm, so no hazard to compare: wait, or use estimand=rmst"
            )
    frame = pd.DataFrame({"time": time, "observed": observed, "treated": treated.astype(float), "user": user})
    try:
        fitted = CoxPHFitter().fit(frame, "time", "observed", cluster_col="user")
    except ConvergenceError:
        raise InputError(f"{where}: the hazard ratio does not converge: use estimand=rmst") from None
    return float(fitted.params_["treated"]), float(fitted.standard_errors_["treated"])
