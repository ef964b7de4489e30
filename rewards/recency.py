"""What a counting model would know about a listener when a decision was made: recency, frequency, and how it went.

The columns are the tabular baselines' whole input, and a few numbers beside the transformer's state, which would
otherwise have to learn to count from padded gaps. Everything is strictly before the decision: only interactions in
`histories.offsets[user] : decisions.start` are read.
"""

import numpy as np

from data.histories import Decisions, Histories
from data.schema import ACTION_CODE

DAY = 86_400_000_000  # microseconds
HOUR = DAY // 24
NEVER_HOURS = 24.0 * 400  # stands for the gap of a listener who was never seen before

WINDOWS = (1, 3, 7, 14, 28)  # days
REACTIONS = ("skip", "complete", "save", "dislike")
COLUMNS: tuple[str, ...] = (
    "log_gap_hours",
    "log_tenure_days",
    "log_interactions",
    *(f"log_interactions_{days}d" for days in WINDOWS),
    *(f"active_days_{days}d" for days in WINDOWS[1:]),
    *(f"active_rate_{days}d" for days in WINDOWS[2:]),
    "active_share",
    *(f"share_{reaction}_28d" for reaction in REACTIONS),
    "hour_sin",
    "hour_cos",
    "weekend",
)


def gap_hours(histories: Histories, decisions: Decisions) -> np.ndarray:
    """Hours (D,) between a decision and the interaction before it; NaN for a listener never seen before."""
    seen = decisions.start > histories.offsets[decisions.user]
    last = histories.time[np.maximum(decisions.start - 1, 0)] if len(histories.time) else np.zeros(len(seen))
    hours = np.where(seen, (decisions.time - last) / HOUR, np.nan)
    return hours.astype(np.float32)


def recency_features(histories: Histories, decisions: Decisions) -> np.ndarray:
    """Recency, frequency and reaction shares of each decision's past, float32 (D, len(COLUMNS)).

    Counts are log1p; an active day is a UTC day with at least one interaction.
    """
    rows = len(decisions.user)
    if rows == 0:
        return np.zeros((0, len(COLUMNS)), np.float32)
    first = histories.offsets[decisions.user]
    start = decisions.start
    columns: list[np.ndarray] = []

    gap = np.nan_to_num(gap_hours(histories, decisions), nan=NEVER_HOURS)
    columns.append(np.log1p(np.maximum(gap, 0.0)))
    has_past = start > first
    first_time = histories.time[np.minimum(first, max(len(histories.time) - 1, 0))] if len(histories.time) else start
    tenure = np.where(has_past, (decisions.time - first_time) / DAY, 0.0)
    columns.append(np.log1p(tenure))
    columns.append(np.log1p(start - first))

    origin = int(min(histories.time.min(initial=decisions.time.min()), decisions.time.min()))
    since = [_first_within(histories, decisions, origin, days) for days in WINDOWS]
    columns.extend(np.log1p(np.maximum(start - low, 0)) for low in since)

    days_before = _distinct_days(histories)
    active = [days_before[start] - days_before[np.minimum(low, start)] for low in since]
    columns.extend(count for count in active[1:])
    # Per day that could have been seen: the same at the start of a log as at its end.
    columns.extend(count / np.minimum(days, tenure + 1.0) for count, days in zip(active[2:], WINDOWS[2:]))
    columns.append((days_before[start] - days_before[first]) / (tenure + 1.0))

    recent = np.minimum(since[-1], start)
    total = np.maximum(start - recent, 1)
    for reaction in REACTIONS:
        seen = np.concatenate([[0], np.cumsum(histories.action == ACTION_CODE[reaction])])
        columns.append((seen[start] - seen[recent]) / total)

    hour = decisions.hour_of_week % 24
    columns.extend([np.sin(hour * (np.pi / 12)), np.cos(hour * (np.pi / 12)), decisions.hour_of_week >= 5 * 24])
    return np.stack([column.astype(np.float32) for column in columns], axis=1)


def tenure_days(features: np.ndarray) -> np.ndarray:
    """Days (D,) since the first interaction, of rows of `recency_features`."""
    days: np.ndarray = np.expm1(features[:, COLUMNS.index("log_tenure_days")])
    return days


def lasting(features: np.ndarray, most_days: float) -> np.ndarray:
    """The same columns (D, len(COLUMNS)), without those that only ever grow: a model that splits on them takes a
    listener who has been there for longer than anybody it learned from for one who listens more.

    Tenure ends at `most_days`, and lifetime interactions are counted per day of tenure.
    """
    tenure, count = COLUMNS.index("log_tenure_days"), COLUMNS.index("log_interactions")
    made = features.copy()
    made[:, count] = np.log1p(np.expm1(features[:, count]) / (tenure_days(features) + 1.0))
    made[:, tenure] = np.minimum(features[:, tenure], np.log1p(most_days))
    return made


def _first_within(histories: Histories, decisions: Decisions, origin: int, days: int) -> np.ndarray:
    """For each decision, the first interaction (a row of `histories`) of its user in the last `days` days."""
    # One sorted key for (user, second) lets a single searchsorted serve all users.
    counts = np.diff(histories.offsets)
    user = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    second = (histories.time - origin) // 1_000_000
    latest = int(max(second.max(initial=0), (decisions.time.max() - origin) // 1_000_000)) + 2
    wanted = np.maximum((decisions.time - origin) // 1_000_000 - days * 86_400, -1)
    keys = user * latest + second
    found: np.ndarray = np.searchsorted(keys, decisions.user.astype(np.int64) * latest + wanted, side="right")
    return found


def _distinct_days(histories: Histories) -> np.ndarray:
    """Running number (E + 1,) of interactions that opened a new UTC day of their user."""
    if len(histories.time) == 0:
        return np.zeros(1, np.int64)
    # Days of the calendar: counted from the first interaction at hand, they would hang on who else is at hand.
    day = histories.time // DAY
    opens = np.ones(len(day), bool)
    opens[1:] = day[1:] != day[:-1]
    opens[histories.offsets[:-1][np.diff(histories.offsets) > 0]] = True
    return np.concatenate([[0], np.cumsum(opens)])
