"""KuaiRand-Pure, -1K and -27K (Gao et al. 2022): short videos shown on Kuaishou in April 2022, some drawn at random.

| ours | theirs |
|---|---|
| decision_id | file and row of log_standard_*.csv, log_random_*.csv: an impression is a decision on one video |
| user_id, item_id, time | user_id, video_id, time_ms |
| policy, arm | "random" where is_rand, else tab_{tab}: one policy each for 15 places of the app; random or standard |
| propensity | 1/7583 where is_rand: drawn evenly from a pool of that many videos; else null |
| events: play, skip (seconds) | is_click; not is_click and play_time_ms > 0 (play_time_ms) |
| events: complete, like, dislike | play_time_ms >= duration_ms; is_like; is_hate |
| creator, tags, duration, released_at | author_id, tag, video_duration (ms), upload_dt, of video_features_basic |
| users.time_zone, attributes | Asia/Shanghai, the clock of `date` and `hourmin`; what is not hashed of user_features |
"""

from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import find, must_find, noted, only, per_action, read_rows, rejected, with_items_seen

POOL = 7583  # videos that the random arm draws from, in all three versions
ZONE = "Asia/Shanghai"
_LOG = {"user_id": "id", "video_id": "id", "time_ms": "milliseconds", "is_rand": "flag", "tab": "whole"}
_LOG |= {"is_click": "flag", "is_like": "flag?", "is_hate": "flag?"}
_LOG |= {"play_time_ms": "amount?", "duration_ms": "amount?"}
_COUNTS = ("is_live_streamer", "is_video_author", "follow_user_num", "fans_user_num", "register_days")
_USER = {"user_id": "id", "user_active_degree": "text?"} | dict.fromkeys(_COUNTS, "whole?")
_VIDEO = {"video_id": "id", "author_id": "id?", "upload_dt": "day?", "video_duration": "amount?", "tag": "text?"}
NOTES = {
    "propensity": "known for is_rand only, given that the slot was replaced (1/7583); null for the standard policies",
    "decisions": "one video each: which impressions were one request is not published",
    "title": "no titles or captions: videos have author, category numbers and length",
    "action": "a play is a click, or 7 s in a feed that plays by itself; follow, comment, forward are left out",
    "surface": "what the 15 tabs are is not published: all is 'other'; the tab is in policy",
    "returns": "KuaiRand-Pure keeps the videos of the pool only: days without one look like days away; use 1K or 27K",
    "statistics": "video_features_statistic is left out: a month's averages know what came after the decision",
    "released_at": "the day of upload, at midnight UTC: the hour is not published",
}


def read(path: Path) -> Logs:
    """Read the folder with the log_*.csv files (or one of them); raises InputError naming what is not right."""
    logs = must_find(Path(path), *(f"{at}log_{arm}_*.csv" for at in ("", "data/") for arm in ("standard", "random")))
    rows = read_rows(logs, _LOG)
    shown = rows.frame.with_columns(
        decision_id=pl.col("file") + "/" + pl.col("row").cast(pl.String),
        item_id=pl.col("video_id"),
        time=pl.col("time_ms"),
        surface=pl.lit("other"),
        policy=pl.when("is_rand").then(pl.lit("random")).otherwise("tab_" + pl.col("tab").cast(pl.String)),
        arm=pl.when("is_rand").then(pl.lit("random")).otherwise(pl.lit("standard")),
        propensity=pl.when("is_rand").then(1 / POOL),
        slate=pl.concat_list("video_id"),
    )
    click, played, length = pl.col("is_click"), pl.col("play_time_ms"), pl.col("duration_ms")
    answers = {"play": click, "skip": ~click & (played > 0), "complete": (played >= length) & (length > 0)}
    answers |= {"like": pl.col("is_like"), "dislike": pl.col("is_hate")}
    lasted = pl.when(pl.col("action").is_in(["play", "skip"])).then(played / 1000)
    events = per_action(shown, answers).with_columns(seconds=lasted)
    folder, parts = logs[0].parent, [rows]
    users, items = shown.select("user_id").unique(maintain_order=True), None
    if files := find(folder, "user_features*.csv"):
        parts.append(read_rows(files, _USER, "users", quote='"', key="user_id"))
        told = parts[-1].frame.select("user_id", attributes=pl.struct(list(_USER)[1:]).struct.json_encode())
        users = users.join(told, on="user_id", how="left", maintain_order="left")
    if files := find(folder, "video_features_basic*.csv"):
        parts.append(read_rows(files, _VIDEO, "items", quote='"', key="video_id"))
        items = parts[-1].frame.rename({"video_id": "item_id", "author_id": "creator", "upload_dt": "released_at"})
        about = {"duration": pl.col("video_duration") / 1000, "tags": pl.col("tag").str.split(",")}
        items = only("items", items.with_columns(kind=pl.lit("video"), title=pl.lit(""), **about))
    items = with_items_seen(items, shown["item_id"], "video")
    tables = only("events", events), only("decisions", shown), users.with_columns(time_zone=pl.lit(ZONE))
    return Logs(items, *tables, noted(NOTES, *parts), rejected=rejected(*parts))
