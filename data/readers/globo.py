"""Globo.com news clicks (de Souza Pereira Moreira et al. 2018): 17 days of reading in Brazil, as clicks.parquet.

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

from data.errors import InputError
from data.logs import Logs
from data.store import read_parquet

TIME_ZONE = "America/Sao_Paulo"
_COLUMNS = {
    "user_id": pl.UInt32,
    "session_id": pl.Int64,
    "session_start": pl.Datetime,
    "article_id": pl.UInt32,
    "click_ts": pl.Datetime,
}
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
    path = Path(path)
    if path.is_dir():
        path = path / "clicks.parquet"
    raw = read_parquet(path)
    for column, kind in _COLUMNS.items():
        if column not in raw.columns:
            raise InputError(f"{path}: column {column!r} (row 0) is missing: this is not the Globo click log")
        found = raw.schema[column]
        right = isinstance(found, pl.Datetime) if kind == pl.Datetime else found.is_integer()
        if not right:
            raise InputError(f"{path}: column {column!r} (row 0) is {found}, must be {kind.__name__}: convert it")
    clicks = raw.select(*_COLUMNS).with_row_index("row")
    key = ["user_id", "session_id", "article_id", "click_ts"]
    reason: pl.Expr = pl.when(~pl.struct(key).is_first_distinct()).then(pl.lit("the same click twice"))
    for column in ("article_id", "session_start", "session_id", "user_id"):
        reason = pl.when(pl.col(column).is_null()).then(pl.lit(f"{column} is null")).otherwise(reason)
    clicks = clicks.with_columns(reason=reason)
    rejected = clicks.filter(pl.col("reason").is_not_null()).select(table=pl.lit("events"), row="row", reason="reason")
    clicks = clicks.filter(pl.col("reason").is_null()).sort("user_id", "session_start", "session_id", "click_ts", "row")
    session = ["user_id", "session_id"]
    clicks = clicks.with_columns(
        place=pl.int_range(pl.len(), dtype=pl.Int64).over(session), start=pl.col("session_start").min().over(session)
    )
    start = pl.col("start").cast(pl.Datetime("us"))
    zone = raw["session_start"].dtype
    naive = isinstance(zone, pl.Datetime) and zone.time_zone is None  # the publisher's are, and mean UTC
    utc = start.dt.replace_time_zone("UTC") if naive else start.dt.convert_time_zone("UTC")
    events = clicks.select(
        user_id=pl.col("user_id").cast(pl.String),
        time=utc + pl.duration(microseconds="place"),
        surface=pl.lit("home"),
        action=pl.lit("play"),
        item_id=pl.col("article_id").cast(pl.String),
        session_id=pl.col("session_id").cast(pl.String),
        position=pl.col("place").cast(pl.Int32),
    )
    items = (
        events.group_by("item_id")
        .agg(released_at=pl.col("time").min())
        .sort(pl.col("item_id").cast(pl.Int64))
        .select("item_id", kind=pl.lit("article"), title=pl.lit(""), text=pl.lit(""), released_at="released_at")
    )
    users = events.select("user_id").unique(maintain_order=True).with_columns(time_zone=pl.lit(TIME_ZONE))
    return Logs(items, events, None, users, NOTES, rejected=rejected)
