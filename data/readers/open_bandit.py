"""Open Bandit Dataset (Saito et al. 2020): impressions on ZOZOTOWN by a uniform policy and by Thompson sampling (bts).

    random/all/all.csv  random/all/item_context.csv  bts/men/men.csv ...   as published, 26M rows, or its small sample
    random_all.parquet  item_context_all.parquet  bts_men.parquet ...      the small sample in flat files

| ours | theirs |
|---|---|
| decision_id, user_id | policy, campaign and row: there is no user id, so every impression is a stranger's |
| time | timestamp |
| item_id | campaign and item_id: the three campaigns number their items apart |
| slate, propensity | the item alone, propensity_score: its probability at its position in that context |
| policy, arm | random or bts, @ campaign; random or bts |
| events: open, position | click, position (from 0) |
| users.attributes | position, user_feature_0 to 3 |
| tags | item_feature_1 to 3 (hashed) |
"""

from pathlib import Path

import polars as pl

from data.errors import InputError
from data.logs import Logs
from data.readers.columns import find, must_find, noted, only, read_rows, rejected, stem, with_items_seen

CAMPAIGNS, POLICIES = ("all", "men", "women"), ("random", "bts")
_WHO = {f"user_feature_{k}": "text?" for k in range(4)}
_SHOWN = {"timestamp": "time", "item_id": "id", "position": "whole", "click": "flag", "propensity_score": "number"}
_ITEM = {"item_id": "id"} | {f"item_feature_{k}": "text?" for k in (1, 2, 3)}
NOTES = {
    "propensity": "of one item at one of three positions, which is the whole slate here; the three items that were "
    "shown together cannot be put together again, so no value of a three-item slate can be estimated",
    "user_id": "not published: an impression is its own user, so no return, habit or history can be known",
    "candidates": "all items of the campaign (80, 34 or 46); left out, being the same in every row",
    "title": "items have hashed features only: their tags; item_feature_0 (a number) is left out",
    "context": "user-item affinities (past clicks) are left out; position and hashed features are in users.attributes",
    "action": "clicks only: no skip, no purchase is published",
    "surface": "recommendations on the shop's start page: 'home'",
    "time_zone": "not published: local days are days in UTC",
    "seconds": "not published: minutes_1d is left out",
}


def read(path: Path) -> Logs:
    """Read every policy and campaign in the folder `path`, or one file; raises InputError naming what is not right."""
    flat = [f"{policy}_{campaign}.parquet" for policy in POLICIES for campaign in CAMPAIGNS]
    shown, catalog, parts = [], [], []
    for file in must_find(Path(path), *(f"**/{campaign}.csv" for campaign in CAMPAIGNS), *flat):
        words = [*stem(file).split("_")[::-1], *file.parent.parts[:-3:-1]]
        policy, campaign = (next((w for w in words if w in known), None) for known in (POLICIES, CAMPAIGNS))
        if policy is None or campaign is None:
            fix = "name it as published, e.g. random/all/all.csv"
            raise InputError(f"{file}: the name says no policy (random, bts) or no campaign (all, men, women): {fix}")
        rows = read_rows(file, _SHOWN | _WHO, "decisions", name=f"{policy}/{campaign}")
        p = pl.col("propensity_score")
        rows = rows.reject("propensity_score is not in (0, 1]", ~((p > 0) & (p <= 1)), "decisions")
        rows = rows.reject("position is not 1, 2 or 3", ~pl.col("position").is_between(1, 3), "decisions")
        number, own_item = pl.col("file") + "/" + pl.col("row").cast(pl.String), f"{campaign}/" + pl.col("item_id")
        own = {"policy": pl.lit(f"{policy}@{campaign}"), "arm": pl.lit(policy), "decision_id": number}
        shown.append(rows.frame.with_columns(item_id=own_item, user_id=number, slate=pl.concat_list(own_item), **own))
        context = find(file.parent, f"item_context_{campaign}.parquet", "item_context.csv")
        known = [read_rows(f, _ITEM, "items", key="item_id", name=f"{policy}/{campaign}, items") for f in context[:1]]
        catalog += [part.frame.with_columns(item_id=own_item) for part in known]
        parts += [rows, *known]
    frame = pl.concat(shown).with_columns(surface=pl.lit("home"), time="timestamp", propensity="propensity_score")
    clicks = frame.filter("click").with_columns(pl.col("position") - 1, action=pl.lit("open"))
    users = frame.select("user_id", attributes=pl.struct("position", *_WHO).struct.json_encode())
    tags = pl.concat_list(pl.format(f"{name}={{}}", name) for name in list(_ITEM)[1:]).list.drop_nulls()
    items = [part.select("item_id", kind=pl.lit("product"), title=pl.lit(""), tags=tags) for part in catalog]
    # Both policies come with the same campaign's items.
    first = pl.concat(items).unique("item_id", keep="first", maintain_order=True) if items else None
    tables = only("events", clicks), only("decisions", frame), users
    seen = with_items_seen(first, frame["item_id"], "product")
    return Logs(seen, *tables, noted(NOTES, *parts), rejected=rejected(*parts))
