"""Yambda (Ploshkin et al. 2025): ten months of Yandex Music in 50M, 500M or 5B events, recommended or sought out.

    flat/50m/listens.parquet, likes.parquet, dislikes.parquet, or multi_event.parquet alone   one row per event
    sequential/50m/...                                                                      one row per user, of lists
    artist_item_mapping.parquet                                                             two folders above

| ours | theirs |
|---|---|
| user_id, item_id | uid, item_id |
| time | timestamp: seconds, in steps of five, since a day that is not published |
| events: play, skip, complete | a listen: from 50 to 99% of the track, under 50%, 100% and over (played_ratio_pct) |
| seconds | played_ratio_pct of track_length_seconds |
| events: like, dislike | likes, dislikes (event_type in multi_event) |
| surface | "home" where the service chose (is_organic = 0), "other" where the listener did |
| decisions | a listen that the service chose: a decision on that one track, by policy "yandex_music" |
| duration, creator | track_length_seconds, the first artist_id of the mapping |
"""

from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import NO_CLOCK, find, must_find, noted, only, read_rows, rejected, with_items_seen

KINDS = {"listens": "listen", "likes": "like", "dislikes": "dislike"}
_COLUMNS = {"uid": "id", "timestamp": "whole", "item_id": "id", "is_organic": "flag", "event_type": "text?"}
_COLUMNS |= {"played_ratio_pct": "amount?", "track_length_seconds": "amount?"}
NOTES = {
    "time": "seconds since an unpublished day, which is put at 2000-01-01; hours and weekdays mean nothing",
    "propensity": "not published: off-policy values cannot be estimated from this log",
    "decisions": "tracks that were recommended and not begun are not logged: one decision per recommended listen",
    "action": "50% is the publisher's own line; a like or dislike taken back (unlike, undislike) is left out",
    "surface": "'home' is the personal feed and playlists (is_organic = 0), 'other' all that the listener found alone",
    "title": "no titles, no tags; audio embeddings are published and not read",
    "time_zone": "not published: local days are days in UTC of a clock without a date",
    "users": "nothing is published of the listeners",
}


def read(path: Path) -> Logs:
    """Read the folder of one size (flat/50m), or one file of it; raises InputError naming what is not right."""
    files = find(Path(path), *(f"{name}.parquet" for name in KINDS)) or must_find(Path(path), "multi_event.parquet")
    rows = read_rows(files, _COLUMNS, unroll=True)
    said = pl.coalesce("event_type", pl.col("file").replace_strict(KINDS, default=None, return_dtype=pl.String))
    rows = rows.reject("not a listen, like or dislike: no action of ours", ~said.is_in(list(KINDS.values())))
    rows = rows.reject("timestamp is not within 50 years", ~pl.col("timestamp").is_between(0, 50 * 31_556_952))
    ratio = pl.col("played_ratio_pct")
    heard = (
        pl.when(ratio >= 100).then(pl.lit("complete")).when(ratio < 50).then(pl.lit("skip")).otherwise(pl.lit("play"))
    )
    chosen = (said == "listen") & ~pl.col("is_organic")
    number = pl.col("file") + "/" + pl.col("row").cast(pl.String)
    events = rows.frame.with_columns(
        user_id=pl.col("uid"),
        time=pl.lit(NO_CLOCK).cast(pl.Datetime("us", "UTC")) + pl.duration(seconds="timestamp"),
        surface=pl.when("is_organic").then(pl.lit("other")).otherwise(pl.lit("home")),
        action=pl.when(said == "listen").then(heard).otherwise(said),
        seconds=ratio / 100 * pl.col("track_length_seconds"),
        decision_id=pl.when(chosen).then(number),
    )
    decisions = events.filter(pl.col("decision_id").is_not_null()).with_columns(
        policy=pl.lit("yandex_music"), arm=pl.lit("recommended"), slate=pl.concat_list("item_id")
    )
    lengths = events.group_by("item_id", maintain_order=True).agg(duration=pl.col("track_length_seconds").max())
    items, parts = with_items_seen(None, lengths["item_id"], "track").join(lengths, on="item_id", how="left"), [rows]
    near = [files[0].parent, *list(files[0].parent.parents)[:2]]
    if mapping := [file for folder in near for file in find(folder, "artist_item_mapping.parquet")]:
        parts.append(read_rows(mapping[0], {"item_id": "id", "artist_id": "id"}, "items"))
        first = parts[-1].frame.unique("item_id", keep="first", maintain_order=True)
        items = items.join(first.select("item_id", creator="artist_id"), on="item_id", how="left")
    tables = only("events", events), only("decisions", decisions) if decisions.height else None
    return Logs(items, *tables, notes=noted(NOTES, *parts), rejected=rejected(*parts))
