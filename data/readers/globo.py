"""Globo.com news clicks (de Souza Pereira Moreira et al. 2018): 16 days of reading in Brazil, as clicks.parquet.

| ours | theirs |
|---|---|
| user_id, session_id, item_id | user_id, session_id, article_id |
| time | session_start, plus one microsecond per click before it in the session (see below) |
| action | "play" for every row: a click that opened the article is the one thing we know of it |
| surface | "home": the log holds clicks of four environments, not the place that showed the article |
| position | place of the click in its session, from 0 |
| users.time_zone | America/Sao_Paulo for all |

`click_ts` is wrong by weeks for a few clicks, so it gives the order within a session and nothing else. Not there:
titles and texts (the published catalog is numbers), what was shown, how likely, how long it was read.
"""

from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import must_find, only, read_rows

TIME_ZONE = "America/Sao_Paulo"
_COLUMNS = {"user_id": "id", "session_id": "id", "session_start": "time", "article_id": "id", "click_ts": "time?"}
NOTES = {
    "decisions": "the log holds clicks, not what was shown: the first items of a session stand for its slate",
    "propensity": "not published and not recoverable: off-policy values cannot be estimated from this log",
    "title": "articles have numbers only; the catalog must be learned from who reads what together",
    "released_at": "not published; taken as the session start of the first click",
    "seconds": "reading time is not published: minutes_1d is left out",
    "action": "every click is a play; there are no skips, completes, saves, dislikes, conversions or opt-outs",
    "surface": "not published: all is 'home'",
    "time": "session_start, in the order of click_ts, which is wrong by weeks for some clicks",
    "returns": "the publisher dropped sessions of one click: measured retention is a lower bound",
    "windows": "17 days are logged: windows of 14 days and more close for too few decisions",
}


def read(path: Path) -> Logs:
    """Read a Parquet file of clicks, or a folder with clicks.parquet. 3M clicks take seconds.

    Clicks without a user, a session or an article, and clicks there twice, are rejected with their reason. Raises
    InputError where the file or a column is not what it should be.
    """
    rows = read_rows(must_find(Path(path), "clicks.parquet")[0], _COLUMNS)
    key = pl.struct("user_id", "session_id", "article_id", "click_ts")
    rows = rows.reject("the same click twice", ~key.is_first_distinct())
    session = ["user_id", "session_id"]
    events = rows.frame.sort("user_id", "session_start", "session_id", "click_ts", "row").with_columns(
        position=pl.int_range(pl.len(), dtype=pl.Int32).over(session), start=pl.col("session_start").min().over(session)
    )
    events = events.with_columns(
        time=pl.col("start") + pl.duration(microseconds="position"),
        surface=pl.lit("home"),
        action=pl.lit("play"),
        item_id=pl.col("article_id"),
    )
    items = (
        events.group_by("item_id")
        .agg(released_at=pl.col("time").min())
        .sort(pl.col("item_id").cast(pl.Int64))
        .select("item_id", kind=pl.lit("article"), title=pl.lit(""), text=pl.lit(""), released_at="released_at")
    )
    users = events.select("user_id").unique(maintain_order=True).with_columns(time_zone=pl.lit(TIME_ZONE))
    return Logs(items, only("events", events), None, users, NOTES, rejected=rows.rejected)
