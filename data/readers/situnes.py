"""SiTunes (Grigorev et al. 2024): 30 listeners, 2,006 rated plays, in a lab (stage 1) and in daily life (stages 2, 3).

| ours | theirs |
|---|---|
| user_id, item_id, time | user_id, item_id, timestamp (seconds) |
| events: play (seconds, value) | every row: duration from start to end, rating 1 to 5 |
| events: like, dislike (value) | a rating of 4 and 5, of 1 and 2 |
| decisions (stages 2 and 3), slate | each recommended track alone, in the field |
| decisions.policy | rec_type: Rand, Random, GCN, WD, Situ-MT, Situ-MT_c; "unknown" where it was lost |
| decisions.arm | "random" for Rand and Random (422 of 1,406), else "model"; null where rec_type was lost |
| items: title, creator, tags, duration | music_info: music, singer, general_genre, duration (milliseconds) |
"""

from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import must_find, noted, only, per_action, read_rows, rejected, with_items_seen

_PLAYS = {"user_id": "id", "item_id": "id", "timestamp": "seconds", "rating": "whole", "stage": "whole"}
_PLAYS |= {"duration": "amount?", "rec_type": "text?"}
_MUSIC = {"i_id_c": "id", "music": "text?", "singer": "text?", "general_genre": "text?", "duration": "amount?"}
NOTES = {
    "propensity": "422 of 1,406 field plays are from a random arm, but of how many tracks it drew is not published: "
    "null; compare arms, or assume a pool and say so",
    "returns": "a paid study with scheduled sessions: coming back is no sign of satisfaction",
    "policy": "rec_type was lost for the first three listeners of stage 2: 'unknown', without an arm",
    "decisions": "stage 1 is a lab study with chosen tracks: its plays have no decision",
    "seconds": "start to end as logged: pauses count, so it may exceed the track; missing for some of stage 2",
    "action": "liked and disliked are ratings of 4-5 and 1-2 out of 5; value holds the rating itself",
    "mood": "valence and arousal before and after, weather, pulse and the 0-100 preference have no column of ours",
    "title": "some plays are of tracks that music_info lacks: their title is empty",
    "time_zone": "not published: local days are days in UTC",
    "surface": "the study's own player: 'now_playing'",
}


def read(path: Path) -> Logs:
    """Read the folder with interactions.parquet and music_info.parquet; raises InputError naming a fault."""
    file = must_find(Path(path), "interactions.parquet")[0]
    rows = read_rows(file, _PLAYS).reject("rating is not 1 to 5", ~pl.col("rating").is_between(1, 5))
    field = pl.col("stage") > 1
    plays = rows.frame.with_columns(
        time=pl.col("timestamp"),
        surface=pl.lit("now_playing"),
        decision_id=pl.when(field).then("play-" + pl.col("row").cast(pl.String)),
        value=pl.col("rating"),
    )
    answers = {"play": pl.lit(True), "like": pl.col("rating") >= 4, "dislike": pl.col("rating") <= 2}
    events = per_action(plays, answers).with_columns(seconds=pl.when(pl.col("action") == "play").then("duration"))
    decisions = plays.filter(field).with_columns(
        policy=pl.col("rec_type").fill_null("unknown"),
        arm=pl.when(pl.col("rec_type").is_in(["Rand", "Random"]))
        .then(pl.lit("random"))
        .when(pl.col("rec_type").is_not_null())
        .then(pl.lit("model")),
        slate=pl.concat_list("item_id"),
    )
    music = read_rows(file.with_name("music_info.parquet"), _MUSIC, "items", key="i_id_c")
    known = music.frame.select(
        item_id="i_id_c",
        kind=pl.lit("track"),
        title="music",
        creator="singer",
        tags=pl.concat_list("general_genre").list.drop_nulls(),
        duration=pl.col("duration") / 1000,
    )
    items = with_items_seen(known, plays["item_id"], "track")
    tables = only("events", events), only("decisions", decisions) if decisions.height else None
    return Logs(items, *tables, notes=noted(NOTES, rows, music), rejected=rejected(rows, music))
