"""Who gains and who is shown: how a policy's effect is spread over listeners, and its showings over creators.

A mean gain can be made of heavy listeners who gain and lapsing ones who lose, and a policy can please everybody while
it moves all showings to the creators who had them already. Listeners are told apart as `rewards.segments` does, on the
evening before the policies part ways, so that no policy decides who is in which segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.histories import Decisions, Histories, load
from data.ingest import write_store
from data.logs import Logs
from data.outcomes import OutcomeSettings
from data.schema import ACTION_CODE
from data.store import LogStore
from eval.intervals import Interval
from eval.rollout import Rollout, known_mean, pooled
from rewards.recency import recency_features
from rewards.segments import SEGMENTS, segments

FEWEST_PEOPLE = 20  # in a segment, for a mean of theirs to be shown
TENTHS = 10
TAKEN = OutcomeSettings().taken


def segments_at(log: Logs, item_index: Callable[[Sequence[str]], NDArray[np.integer]], moment: int) -> NDArray[np.int8]:
    """Segment (U,) of every row of the log's users table at `moment` (us since 1970), after everything in it.

    item_index turns item ids into catalog rows. Who is in the users table and has done nothing yet is new.
    """
    assert log.users is not None
    with TemporaryDirectory() as room:
        write_store(log, Path(room) / "logs", source="the world")
        histories, _ = load(LogStore(Path(room) / "logs"), item_index)
    found = dict(zip(histories.user_ids, segments(recency_features(histories, _asked(histories, moment))), strict=True))
    return np.array([found.get(user, SEGMENTS.index("new")) for user in log.users["user_id"].to_list()], dtype=np.int8)


def _asked(histories: Histories, moment: int) -> Decisions:
    """One decision for each user at this moment, knowing everything."""
    users = len(histories.user_ids)
    return Decisions(
        decision_id=list(histories.user_ids),
        user=np.arange(users, dtype=np.int32),
        start=histories.offsets[1:],
        time=np.full(users, moment, dtype=np.int64),
        hour_of_week=np.zeros(users, dtype=np.int16),
        surface=np.zeros(users, dtype=np.int8),
        slate=np.full((users, 1), -1, dtype=np.int32),
        log_propensity=np.full(users, np.nan),
        steer=[None] * users,
        reaction=np.full((users, 1), -1, dtype=np.int8),
        seconds=np.zeros((users, 1), dtype=np.float32),
    )


def people_by_segment(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """Segment -> listeners over all rollouts; empty where it is not known who is in which."""
    if any(rollout.segments is None for rollout in rollouts):
        return {}
    code = np.concatenate([rollout.segments for rollout in rollouts if rollout.segments is not None])
    return {name: int((code == at).sum()) for at, name in enumerate(SEGMENTS)}


def gains_by_segment(rollouts: Sequence[Rollout], metric: str, reference: str) -> dict[str, dict[str, Interval]]:
    """policy -> segment -> paired difference from the reference; segments of fewer than twenty are not there."""
    people = people_by_segment(rollouts)
    if not people:
        return {}
    code = np.concatenate([rollout.segments for rollout in rollouts if rollout.segments is not None])
    against = pooled(rollouts, reference, metric)
    gains: dict[str, dict[str, Interval]] = {}
    for policy in (name for name in rollouts[0].metrics if name != reference):
        gap = pooled(rollouts, policy, metric) - against
        gains[policy] = {
            name: known_mean(gap[code == at])
            for at, name in enumerate(SEGMENTS)
            if np.isfinite(gap[code == at]).sum() >= FEWEST_PEOPLE
        }
    return gains


def consumption(histories: Histories, until: int, items: int) -> NDArray[np.int64]:
    """How often each of N items was taken (played, completed, saved, ...) before `until`, us since 1970."""
    taken = np.isin(histories.action, [ACTION_CODE[action] for action in TAKEN]) & (histories.time < until)
    return np.bincount(histories.item[taken], minlength=items).astype(np.int64)


def creator_tenths(consumed: NDArray[np.int64], items: pl.DataFrame) -> tuple[NDArray[np.int64], str, int]:
    """(tenth of each item's creator (N,), 0 the most consumed; what was ranked; how many of them).

    Tenths hold equally many creators (within one). Items stand for themselves where fewer than ten creators are named.
    """
    creators = items["creator"].fill_null("")
    names, codes = np.unique(creators.to_numpy().astype(str), return_inverse=True)
    what = "creators"
    if (names != "").sum() < TENTHS:
        names, codes, what = np.arange(len(items)), np.arange(len(items)), "items"
    total = np.bincount(codes, weights=consumed, minlength=len(names))
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(-total, kind="stable")] = np.arange(len(names))
    return (rank * TENTHS // len(names))[codes], what, len(names)


def shares(counts: NDArray[np.int64], group: NDArray[np.int64], groups: int) -> list[float]:
    """Share of the counts (N,) in each group; nan where there are none."""
    total = float(counts.sum())
    return [float(share) for share in np.bincount(group, weights=counts, minlength=groups) / (total or np.nan)]


def kind_shares(counts: NDArray[np.int64], items: pl.DataFrame) -> Mapping[str, float]:
    """Kind of item -> share of the counts (N,)."""
    kinds, codes = np.unique(items["kind"].to_numpy().astype(str), return_inverse=True)
    return dict(zip(kinds.tolist(), shares(counts, codes, len(kinds)), strict=True))
