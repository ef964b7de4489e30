"""Last.fm-1K (Celma 2010): the listening of 992 people, 19,150,868 scrobbles from 2005 to 2009.

    userid-timestamp-artid-artname-traid-traname.tsv   six columns, no header
    userid-profile.tsv                                 #id, gender, age, country, registered

| ours | theirs |
|---|---|
| user_id, time | userid, timestamp |
| action | "play" for every row |
| item_id | traid (MusicBrainz), or, where it is empty, artist and track name |
| title, creator | traname, artname, as first written |
| users.attributes | gender, age, country, registered |
"""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import find, must_find, noted, only, read_rows, rejected

PUBLISHED = datetime(2010, 6, 1, tzinfo=UTC)
_COLUMNS = {
    "user_id": "text",
    "time": "time",
    "artid": "text?",
    "artname": "text?",
    "traid": "text?",
    "traname": "text?",
}
_PROFILE = {"#id": "text", "gender": "text?", "age": "whole?", "country": "text?", "registered": "text?"}
NOTES = {
    "decisions": "the log holds plays, not what was shown: the first tracks of a session stand for its slate",
    "propensity": "not published: off-policy values cannot be estimated from this log",
    "action": "Last.fm counts a play after half the track or four minutes: skips are not logged, nor are likes",
    "seconds": "not published: minutes_1d is left out",
    "time": "rows stamped after the data set came out (May 2010) are rejected: those clocks were wrong",
    "time_zone": "a country is not a time zone: local days are days in UTC",
    "surface": "not published: all is 'now_playing'",
    "item_id": "tracks without a MusicBrainz id go by artist and name: one track may have several ids",
    "duration": "not published, nor are tags and release dates",
}


def read(path: Path) -> Logs:
    """Read the folder with both files, or the log alone; raises InputError naming what is not right."""
    file = must_find(Path(path), "userid-timestamp-artid-artname-traid-traname.tsv")[0]
    rows = read_rows(file, _COLUMNS, separator="\t", header=False)
    rows = rows.reject("time is after the data set was published", pl.col("time") >= PUBLISHED)
    rows = rows.reject("neither traid nor traname", pl.col("traid").is_null() & pl.col("traname").is_null())
    named = pl.concat_str(pl.col("artname").fill_null(""), "traname", separator=" / ")
    events = rows.frame.with_columns(
        item_id=pl.coalesce("traid", named), surface=pl.lit("now_playing"), action=pl.lit("play")
    )
    items = events.unique("item_id", keep="first", maintain_order=True)
    items = items.select("item_id", kind=pl.lit("track"), title=pl.col("traname").fill_null(""), creator="artname")
    parts, users = [rows], None
    if profile := find(file.parent, "userid-profile.tsv"):
        parts.append(read_rows(profile, _PROFILE, "users", separator="\t", key="#id"))
        about = pl.struct(list(_PROFILE)[1:]).struct.json_encode()
        users = parts[-1].frame.select(user_id="#id", attributes=about)
    return Logs(items, only("events", events), None, users, noted(NOTES, *parts), rejected=rejected(*parts))
