"""Users' interactions cut into windows that a transformer reads once, each serving every decision that falls in it.

A listener with few interactions is one window. A longer history is cut into windows that overlap by half, and a
decision belongs to the window in which at least half a window of its past is visible. Windows of similar length share
a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.histories import Decisions, Histories


@dataclass(frozen=True)
class Batch:
    """Windows padded to one length. Position 0 of every window is the start token; interactions follow.

    interaction (B, T): rows of `Histories`, -1 at the start token and at padding.
    decision (R,): rows of `Decisions`; window (R,) and position (R,): where the state of each is read.
    """

    interaction: np.ndarray
    decision: np.ndarray
    window: np.ndarray
    position: np.ndarray

    def part(self, rank: int, ranks: int) -> "Batch":
        """Every `ranks`-th window from `rank` on with its decisions, so that the parts make up the batch.

        A rank beyond the last window gets a window without decisions: it still takes part in the step.
        """
        if ranks == 1:
            return self
        chosen = np.arange(rank, len(self.interaction), ranks)
        of = self.window % ranks == rank
        if not len(chosen):
            chosen = np.zeros(1, np.int64)
        return Batch(self.interaction[chosen], self.decision[of], self.window[of] // ranks, self.position[of])


def batches(histories: Histories, decisions: Decisions, rows: np.ndarray, window: int, tokens: int) -> Sequence[Batch]:
    """Cut what `rows` of `decisions` need into batches of at most about `tokens` padded positions.

    Every row appears exactly once. The order is by length and then by user, so it depends on nothing random.
    """
    if window < 2 or window % 2:
        raise ValueError(f"window must be an even number of interactions, got {window}")
    if len(rows) == 0:
        return []
    half = window // 2
    user = decisions.user[rows].astype(np.int64)
    past = decisions.start[rows] - histories.offsets[user]
    chunk = np.maximum((past - 1) // half - 1, 0)
    order = np.lexsort((past, chunk, user))
    user, past, chunk, rows = user[order], past[order], chunk[order], rows[order]

    opens = np.ones(len(rows), bool)
    opens[1:] = (user[1:] != user[:-1]) | (chunk[1:] != chunk[:-1])
    belongs = np.cumsum(opens) - 1  # (R,) window of each decision
    low = histories.offsets[user[opens]] + chunk[opens] * half
    last = np.flatnonzero(np.append(opens[1:], True))
    length = past[last] - chunk[last] * half  # decisions are ordered by past, so the last one needs the most

    by_length = np.argsort(length, kind="stable")
    result: list[Batch] = []
    at = 0
    starts = np.flatnonzero(opens)
    while at < len(by_length):
        # Windows come in growing length, so the last one taken sets the padded length.
        take = 1
        while at + take < len(by_length) and (length[by_length[at + take]] + 1) * (take + 1) <= tokens:
            take += 1
        chosen = by_length[at : at + take]
        at += take
        steps = np.arange(int(length[chosen[-1]]))
        interaction = np.where(steps[None, :] < length[chosen][:, None], low[chosen][:, None] + steps[None, :], -1)
        interaction = np.concatenate([np.full((take, 1), -1, np.int64), interaction], axis=1)
        members = np.concatenate([np.arange(starts[w], last[w] + 1) for w in chosen])
        sizes = last[chosen] - starts[chosen] + 1
        result.append(
            Batch(
                interaction=interaction,
                decision=rows[members],
                window=np.repeat(np.arange(take), sizes),
                position=past[members] - (chunk[members] * half),
            )
        )
    assert belongs[-1] + 1 == len(length), "every window has a length"
    return result
