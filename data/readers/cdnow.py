"""CDNOW (Fader & Hardie 2001): all orders, to June 1998, of the 23,570 customers who first bought CDs in early 1997.

| ours | theirs |
|---|---|
| user_id | customer_id |
| time | date: its midnight in UTC, plus one microsecond per order before it on that day |
| action | "convert": an order |
| value | dollars |
| surface | "other" |
| item_id | "cds" for every row: what was in the order is not published |

A customer may order the same twice on one day (the log has such rows); the microseconds keep both.
"""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import must_find, noted, only, read_rows

_COLUMNS = {"customer_id": "id", "date": "day", "dollars": "amount?"}
NOTES = {
    "items": "titles are not published: one item stands for all; nothing can be said about what to recommend",
    "decisions": "the log holds orders, not what was shown; a day's orders stand for a decision",
    "propensity": "not published: off-policy values cannot be estimated from this log",
    "action": "orders only: visits without an order are not logged, so a return is a return to buy",
    "time": "days only, at midnight UTC: hours, and who bought first on a day, mean nothing",
    "time_zone": "not published: days are as published",
    "seconds": "there is no listening: minutes_1d is left out",
    "value": "US dollars of the order; the number of CDs (n_cds) has no column of ours",
    "users": "a cohort: everyone's first order lies in the first three months; nothing else is known of them",
}


def read(path: Path) -> Logs:
    """Read transactions.parquet (or .csv), or the folder that holds it; raises InputError where it is not that log."""
    rows = read_rows(must_find(Path(path), "transactions.parquet", "transactions.csv")[0], _COLUMNS)
    order = pl.int_range(pl.len(), dtype=pl.Int64).over("customer_id", "date")
    events = rows.frame.with_columns(
        user_id=pl.col("customer_id"),
        time=pl.col("date") + pl.duration(microseconds=order),
        surface=pl.lit("other"),
        action=pl.lit("convert"),
        item_id=pl.lit("cds"),
        value=pl.col("dollars"),
    )
    items = pl.DataFrame({"item_id": ["cds"], "kind": ["product"], "title": ["CDs (titles not published)"]})
    last = rows.frame["date"].max()
    end = last + timedelta(days=1) if isinstance(last, datetime) else None  # the last day is logged to its end
    return Logs(items, only("events", events), notes=noted(NOTES, rows), end=end, rejected=rows.rejected)
