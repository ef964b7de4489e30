"""Does the policy know what comes next? Item-level HR@k and NDCG@k on a later slice, beside two floors.

A target is one interaction after the cut; what a ranker may see is everything before it. Any ranker is an array of
ranked item rows (N, k), best first and padded with -1, so a counting model, a neural ranker and a language model's
constrained beam enter alike. Hits are counted on items, never on semantic-ID strings.

Both floors are fitted on interactions before the cut only. A first-order transition count is hard to beat
(counting models pass many neural ones), so no ranking table of ours leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import InputError
from data.histories import Decisions, Histories
from data.schema import ACTIONS
from eval.intervals import Interval, mean_interval

Rows = NDArray[np.int32]
MICROSECONDS_PER_DAY = 86_400_000_000
HALF_LIVES_DAYS = (30.0, 7.0, 2.0, 0.5, 0.125)


@dataclass(frozen=True)
class RankingSettings:
    """Cutoffs k, and which interactions are worth predicting: everything but what the listener turned down."""

    cutoffs: tuple[int, ...] = (10,)
    not_targets: tuple[str, ...] = ("skip", "dislike", "dismiss", "opt_out", "bounce")
    max_targets: int | None = 20_000  # a seeded sample of targets beyond this


@dataclass(frozen=True)
class RankingResult:
    """Mean of each metric ("hr@10", ...) with an interval clustered by user, and the paired gain over a floor."""

    metrics: Mapping[str, Interval]
    over_floor: Mapping[str, Interval]
    targets: int


def next_item_targets(histories: Histories, cut: int, settings: RankingSettings, seed: int) -> Decisions:
    """Next-item questions after `cut` (us since epoch): one row per target, its one-item slate (N, 1) the answer.

    Row n's `start` points at the target itself, so that `data.histories.contexts` shows exactly what came before it.
    Targets without any earlier interaction have no context and are left out. Sorted by (user, time).
    Raises InputError when nothing is left.
    """
    owner = np.repeat(np.arange(len(histories.user_ids), dtype=np.int32), np.diff(histories.offsets))
    turned_down = np.array([ACTIONS.index(name) for name in settings.not_targets], dtype=histories.action.dtype)
    has_past = np.arange(histories.item.size) > histories.offsets[owner]
    rows = np.flatnonzero((histories.time >= cut) & has_past & ~np.isin(histories.action, turned_down))
    if rows.size == 0:
        raise InputError(
            "ranking: no interaction after the cut has a history; move the cut earlier or use a longer log"
        )
    if settings.max_targets is not None and rows.size > settings.max_targets:
        rows = np.sort(np.random.default_rng(seed).choice(rows, settings.max_targets, replace=False))
    return Decisions(
        decision_id=[f"next-{row}" for row in rows.tolist()],
        user=owner[rows],
        start=rows.astype(np.int64),
        time=histories.time[rows],
        hour_of_week=histories.hour_of_week[rows],
        surface=histories.surface[rows],
        slate=histories.item[rows, None],
        log_propensity=np.full(rows.size, np.nan),
        steer=[None] * rows.size,
        reaction=histories.action[rows, None],
        seconds=np.zeros((rows.size, 1), dtype=np.float32),
    )


def hits(ranked: Rows, target: Rows, cutoffs: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Per-target HR@k and NDCG@k, (N,) each; with one relevant item NDCG@k is 1 / log2(1 + rank) up to rank k.

    Raises InputError when `ranked` (N, k) is shorter than a cutoff, misaligned with `target` (N,), or repeats an item
    within a row (which would buy chances that no list of k items has).
    """
    ranked = np.asarray(ranked)
    if ranked.ndim != 2 or ranked.shape[0] != target.size or ranked.shape[1] < max(cutoffs):
        raise InputError(f"ranking: ranked items {ranked.shape} for {target.size} targets at k = {max(cutoffs)}")
    ordered = np.sort(ranked, axis=1)
    repeated = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1))
    if repeated.size:
        raise InputError(f"ranking: row {repeated[0]} ranks an item twice; give each item once")
    match = ranked == target[:, None]  # (N, k), at most one True a row
    place = np.where(match.any(axis=1), match.argmax(axis=1), np.iinfo(np.int32).max)
    metrics = {}
    for k in cutoffs:
        hit = place < k
        metrics[f"hr@{k}"] = hit.astype(np.float64)
        metrics[f"ndcg@{k}"] = np.where(hit, 1.0 / np.log2(np.minimum(place, k) + 2.0), 0.0)
    return metrics


def evaluate_ranking(
    rankers: Mapping[str, Rows], targets: Decisions, settings: RankingSettings, floor: str = "transition_count"
) -> dict[str, RankingResult]:
    """Every ranker's metrics on the same targets, and its paired difference from `floor`, clustered by user.

    rankers: name -> ranked item rows (N, k), aligned with `targets`.
    """
    target = targets.slate[:, 0]
    scores = {name: hits(ranked, target, settings.cutoffs) for name, ranked in rankers.items()}
    results = {}
    for name, by_metric in scores.items():
        metrics = {metric: mean_interval(values, targets.user) for metric, values in by_metric.items()}
        over = {}
        if floor in scores and name != floor:
            over = {
                metric: mean_interval(values - scores[floor][metric], targets.user)
                for metric, values in by_metric.items()
            }
        results[name] = RankingResult(metrics, over, target.size)
    return results


@dataclass(frozen=True)
class Popularity:
    """Items by how often they were taken before the cut; everybody gets the same list."""

    order: Rows  # (n_items,) best first, ties by item row
    counts: NDArray[np.float64]  # (n_items,) how often each was taken, aged

    @classmethod
    def fit(cls, histories: Histories, items: int, cut: int, half_life_days: float | None = None) -> Popularity:
        """Counts interactions before `cut` (us since epoch) over a catalog of `items` items.

        half_life_days: an interaction so many days before the cut counts half; None = all count alike.
        """
        known = histories.time < cut
        weight = decay(histories.time[known], cut, half_life_days)
        counts = np.bincount(histories.item[known], weights=weight, minlength=items)
        return cls(np.argsort(-counts, kind="stable").astype(np.int32), counts.astype(np.float64))

    def rank(self, rows: int, k: int) -> Rows:
        """The k most popular items, the same for each of `rows` questions, (rows, k)."""
        return np.tile(padded(self.order[:k], k), (rows, 1))


@dataclass(frozen=True)
class TransitionCount:
    """What followed this item most often, backing off to popularity when too little ever did.

    Successors of item a are successor[offsets[a]:offsets[a + 1]], most frequent first, ties by popularity.
    """

    offsets: NDArray[np.int64]  # (n_items + 1,)
    successor: Rows  # (transitions,)
    counts: NDArray[np.float64]  # (transitions,) how often, aged
    popularity: Popularity

    @classmethod
    def fit(cls, histories: Histories, items: int, cut: int, half_life_days: float | None = None) -> TransitionCount:
        """Counts consecutive interactions of a user, both before `cut` (us since epoch), halved by age if asked."""
        popularity = Popularity.fit(histories, items, cut, half_life_days)
        place = np.empty(items, dtype=np.int64)
        place[popularity.order] = np.arange(items)
        known = histories.time < cut
        same_user = np.ones(max(histories.item.size - 1, 0), dtype=bool)
        borders = histories.offsets[1:-1]
        same_user[borders[(borders > 0) & (borders < histories.item.size)] - 1] = False
        pair = same_user & known[1:] & known[:-1]
        before, after = histories.item[:-1][pair].astype(np.int64), histories.item[1:][pair].astype(np.int64)
        codes, inverse = np.unique(before * items + after, return_inverse=True)
        weight = decay(histories.time[1:][pair], cut, half_life_days)
        counts = np.bincount(inverse, weights=weight, minlength=codes.size)
        first, second = np.divmod(codes, items)
        best = np.lexsort((place[second], -counts, first))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(first, minlength=items))])
        return cls(offsets.astype(np.int64), second[best].astype(np.int32), counts[best].astype(float), popularity)

    def rank(self, last: Rows, k: int) -> Rows:
        """k items each, (N, k), for questions whose latest interaction was with `last` (N,); -1 = none: popularity."""
        questions, inverse = np.unique(last, return_inverse=True)
        reserve = self.popularity.order[: 2 * k]
        table = np.full((questions.size, k), -1, dtype=np.int32)
        for row, item in enumerate(questions.tolist()):
            found = self.successor[self.offsets[item] : self.offsets[item + 1]][:k] if item >= 0 else reserve[:0]
            if found.size < k:
                found = np.concatenate([found, reserve[~np.isin(reserve, found)][: k - found.size]])
            table[row] = padded(found, k)
        return table[inverse]

    def log_probs(self, last: Rows, backing: float) -> NDArray[np.float32]:
        """Log-probability of every item to follow `last` (N,): (N, n_items), as a prior for another ranker.

        `backing` imagined transitions from each item go to items by popularity, each counted once more than it was
        taken (Dirichlet smoothing: MacKay & Peto 1995), so that nothing is impossible.
        """
        share = self.popularity.counts + 1.0
        backed = backing * share / share.sum()
        table = np.tile(backed, (last.size, 1))
        total = np.full(last.size, backing)
        for row, item in enumerate(last.tolist()):
            if item >= 0:
                found = slice(int(self.offsets[item]), int(self.offsets[item + 1]))
                table[row, self.successor[found]] += self.counts[found]
                total[row] += self.counts[found].sum()
        shares: NDArray[np.float32] = np.log(table / total[:, None]).astype(np.float32)
        return shares


def seen_before(histories: Histories, targets: Decisions) -> tuple[NDArray[np.int64], Rows]:
    """What a user had before each target: rows of the targets and catalog rows, (M,) each, one pair an interaction."""
    first = histories.offsets[targets.user]
    had = (targets.start - first).astype(np.int64)
    rows = np.repeat(np.arange(len(had)), had)
    within = np.arange(int(had.sum())) - np.repeat(np.cumsum(had) - had, had)
    return rows, histories.item[np.repeat(first, had) + within]


def best_unseen(scores: Iterable[Tensor], histories: Histories, targets: Decisions, k: int) -> Rows:
    """The k best-scored items that are new to the user, (N, k), from scores (b, n_items) in blocks of rows in order.

    -1 where fewer are new. Ranks are exact: every item is compared.
    """
    rows, items = seen_before(histories, targets)
    found, start = [], 0
    for block in scores:
        begin, end = np.searchsorted(rows, [start, start + len(block)])
        new = block.float().clone()
        new[torch.from_numpy(rows[begin:end] - start), torch.from_numpy(items[begin:end].astype(np.int64))] = -torch.inf
        best, order = new.topk(min(k, new.shape[1]), 1)
        order = order.masked_fill(best == -torch.inf, -1)
        found.append(torch.nn.functional.pad(order, (0, k - order.shape[1]), value=-1))
        start += len(block)
    return torch.cat(found).numpy().astype(np.int32)


def only_unseen(ranked: Rows, histories: Histories, targets: Decisions, k: int) -> Rows:
    """`ranked` (N, K) without what the user had before each target, cut to k: (N, k), -1 where a list runs out."""
    rows, items = seen_before(histories, targets)
    size = int(max(ranked.max(initial=0), items.max(initial=0))) + 1
    had = np.isin(np.arange(len(ranked))[:, None] * size + ranked, rows * size + items) | (ranked < 0)
    order = np.argsort(had, axis=1, kind="stable")[:, :k]
    return np.where(np.take_along_axis(had, order, 1), -1, np.take_along_axis(ranked, order, 1)).astype(np.int32)


def last_items(histories: Histories, targets: Decisions) -> Rows:
    """The item just before each target, (N,)."""
    return histories.item[targets.start - 1]


def padded(items: Rows, k: int) -> Rows:
    """The first k of `items`, filled up with -1, (k,)."""
    row = np.full(k, -1, dtype=np.int32)
    row[: min(k, items.size)] = items[:k]
    return row


def floors(histories: Histories, targets: Decisions, items: int, cut: int, k: int) -> dict[str, Rows]:
    """Both floors' ranked rows (N, k) for these targets, fitted on interactions before `cut` only.

    How fast counts age is chosen by `fitting_half_life`: in news, yesterday's list is worth a hundred times that of
    all time, and a floor that ignores it would flatter whatever stands beside it.
    """
    counted = TransitionCount.fit(histories, items, cut, fitting_half_life(histories, items, cut, "transition_count"))
    popular = Popularity.fit(histories, items, cut, fitting_half_life(histories, items, cut, "popularity"))
    return {
        "transition_count": counted.rank(last_items(histories, targets), k),
        "popularity": popular.rank(targets.start.size, k),
    }


def fitting_half_life(
    histories: Histories, items: int, cut: int, floor: str, k: int = 10, most: int = 5_000
) -> float | None:
    """The half-life in days at which a floor, fitted before an earlier cut, hits most between that and `cut`.

    The earlier cut lies as far before `cut` as the log goes on after it, so that lists are asked to last as long.
    None (no ageing) unless a half-life is strictly better, and where there is nothing to choose by.
    """
    span = int(histories.time.max(initial=cut)) - cut
    earlier = cut - max(span, MICROSECONDS_PER_DAY // 24)
    owner = np.repeat(np.arange(len(histories.user_ids)), np.diff(histories.offsets))
    has_past = np.arange(histories.item.size) > histories.offsets[owner]
    rows = np.flatnonzero((histories.time >= earlier) & (histories.time < cut) & has_past)
    if rows.size == 0 or not bool((histories.time < earlier).any()):
        return None
    rows = rows[:: -(-rows.size // most)]
    target, last = histories.item[rows], histories.item[rows - 1]
    best: tuple[float, float | None] = (-1.0, None)
    for half_life in (None, *HALF_LIVES_DAYS):
        if floor == "popularity":
            ranked = Popularity.fit(histories, items, earlier, half_life).rank(rows.size, k)
        else:
            ranked = TransitionCount.fit(histories, items, earlier, half_life).rank(last, k)
        hit = float((ranked == target[:, None]).any(axis=1).mean())
        if hit > best[0]:
            best = (hit, half_life)
    return best[1]


def decay(time: NDArray[np.int64], cut: int, half_life_days: float | None) -> NDArray[np.float64]:
    """Weights (n,) of interactions at `time` (us) before `cut`: half for every half-life of age, 1 without one."""
    if half_life_days is None:
        return np.ones(time.size)
    age = (cut - time) / MICROSECONDS_PER_DAY
    return np.exp2(-age / half_life_days)
