"""Outcomes from events: how fast, beside pandas, and whether time grows with the log and memory does not.

Run as a script it labels one store and says what that took: `python scripts/benches/outcomes.py STORE OUTCOMES`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.ingest import StoreSettings, append, write_store
from data.logs import Logs
from data.outcomes import LABEL_WINDOWS, read_outcomes, write_outcomes
from data.store import LogStore
from scripts.benches.measure import Measure, peak_gib, said_by
from scripts.benches.outcomes_in_pandas import outcomes_in_pandas, tables
from scripts.benches.synthetic_log import EVENTS_A_USER, log_of

_A_BUCKET = 250_000  # events, on average
_PART = 2_500_000  # events made and ingested at once


def bench_outcomes(
    sizes: Sequence[int] = (1_000_000, 10_000_000, 50_000_000), by_user: int = 50_000
) -> Iterable[Measure]:
    """All labels of a made-up log of each of `sizes` events, from the store on disk to the outcomes on disk.

    The peer is the same labels in pandas, at the first size, without reading or writing anything, and agrees with ours
    on every label. It is measured twice: with whole frames, as one writes it who knows pandas well, and a user at a
    time (groupby and apply), as such labels are mostly written; the latter on `by_user` of the events, as its time
    depends on nothing but the number of users. The bound of 20 is on the second one. Whole frames are the same joins
    and groups that we make, and what is left is the difference of the engines on two cores; that bound only keeps the
    line from slipping.

    Each size is labelled by a process of its own: its bounds are five minutes and 4 GiB for 50 million events, time
    that grows no faster than the log, and memory that does not grow with it.
    """
    taken: dict[int, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="longplay-bench-") as place:
        for events in sizes:
            store, made = Path(place) / "logs", Path(place) / "outcomes"
            began = time.perf_counter()
            first = _ingest(events, store)
            ingested = time.perf_counter() - began
            runs = [said_by(Path(__file__), str(store), str(made)) for _ in range(3 if events <= 10_000_000 else 1)]
            taken[events] = float(np.median([run["seconds"] for run in runs])), max(run["gib"] for run in runs)
            if events == sizes[0]:
                yield from _beside_pandas(first, made, events / taken[events][0], by_user)
            limit = max(60.0, events / 50_000_000 * 300)
            yield Measure(f"outcomes: {events:,} events, make and ingest", "s", ingested, None, 10 * limit)
            yield Measure(f"outcomes: {events:,} events, label", "s", taken[events][0], None, limit)
            yield Measure(f"outcomes: {events:,} events, peak memory", "GiB", taken[events][1], None, 4.0)
            shutil.rmtree(store)
            shutil.rmtree(made)
    small, large = taken[sizes[0]], taken[sizes[-1]]
    grown = large[0] / sizes[-1] / (small[0] / sizes[0])
    yield Measure("outcomes: time per event, largest log to smallest", "ratio", grown, None, 1.3)
    yield Measure("outcomes: peak memory, largest log to smallest", "ratio", large[1] / small[1], None, 1.5)


def _ingest(events: int, store: Path) -> Logs:
    """Write a log of `events` events to `store`, in parts; returns the first part."""
    users = events // EVENTS_A_USER
    settings = StoreSettings(buckets=-(-events // _A_BUCKET))
    step = min(_PART, events) // EVENTS_A_USER
    first = log_of(step)
    write_store(first, store, settings)
    for begin in range(step, users, step):
        append(log_of(min(step, users - begin), begin), store)
    return first


def _beside_pandas(logs: Logs, outcomes: Path, rate: float, by_user: int) -> Iterable[Measure]:
    frames, end = tables(logs), logs.end
    assert end is not None
    began = time.perf_counter()
    theirs = outcomes_in_pandas(**frames, end=end)
    whole = len(frames["events"]) / (time.perf_counter() - began)
    _compare(read_outcomes(outcomes).table, theirs)

    some = frames["users"].head(by_user // EVENTS_A_USER)
    mine = {name: frame[frame["user_id"].isin(some["user_id"])] for name, frame in frames.items() if name != "items"}
    groups = {name: dict(tuple(frame.groupby("user_id"))) for name, frame in mine.items()}
    began = time.perf_counter()
    for user in some["user_id"]:
        rows = {name: of_user[user] for name, of_user in groups.items()}
        outcomes_in_pandas(**rows, items=frames["items"], end=end)
    one_by_one = len(mine["events"]) / (time.perf_counter() - began)

    name = f"outcomes: {len(frames['events']):,} events, pandas"
    yield Measure(f"{name}, a user at a time", "events/s", rate, one_by_one, 20.0, "higher")
    yield Measure(f"{name}, whole frames", "events/s", rate, whole, 3.0, "higher")


def _compare(ours: pl.DataFrame, theirs: pd.DataFrame) -> None:
    """Raises AssertionError where the two tables differ in a label."""
    mine = ours.to_pandas().set_index("decision_id")
    theirs = theirs.set_index("decision_id").reindex(mine.index)
    for label in [*LABEL_WINDOWS, "return_days", "return_observed", "return_time"]:
        a, b = mine[label], theirs[label]
        known = a.notna()
        if (known != b.notna()).any():
            raise AssertionError(f"{label}: not the same decisions have it")
        if a.dtype.kind == "f" and not np.issubdtype(type(b[known].iloc[0]), np.integer):
            far = (a[known].astype(float) - b[known].astype(float)).abs() > 1e-3
        else:
            far = a[known].astype(object) != b[known].astype(object)
        if far.any():
            raise AssertionError(f"{label}: {int(far.sum())} of {int(known.sum())} decisions differ")


def main() -> None:
    store, folder = (Path(word) for word in sys.argv[1:])
    began = time.perf_counter()
    write_outcomes(LogStore(store), folder)
    print(json.dumps({"seconds": time.perf_counter() - began, "gib": peak_gib()}))


if __name__ == "__main__":
    main()
