"""Amazon Scientific, 5-core with text (Ni et al. 2019): 8,317 users' reviews of 4,344 products, in order, as JSON.

    Scientific.inter.json   {user: [item, item, ...], ...}, in order of time
    Scientific.item.json    {item: {title, brand, categories, description}, ...}

| ours | theirs |
|---|---|
| user_id, item_id | the keys of the two files |
| action | "convert": the user reviewed what they had bought |
| time | the order, one day a step, everybody's last step on the same day |
| title, creator, text | title, brand, description |
| tags | categories, cut at the commas |

Times are not published. With the last steps on one day, a split by time is the split that comes with the data: the
last day is the test, the day before is the validation, what lies before trains.
"""

from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import NO_CLOCK, must_find, only, read_objects, with_items_seen

_FACTS = {"title": "title", "brand": "creator", "categories": "tags", "description": "text"}
NOTES = {
    "time": "not published: one day a step in the published order, from 2000-01-01; only the order is real",
    "returns": "the days are made up, so no label of return, activity or habit means anything: rank items with it",
    "decisions": "the log holds reviews, not what was shown: every step stands for a decision",
    "propensity": "not published: off-policy values cannot be estimated from this log",
    "action": "reviews only, whatever their stars: 'convert' for all; no skips, dislikes or opt-outs",
    "surface": "not published: all is 'other'",
    "released_at": "not published",
    "seconds": "there is no playing time: minutes_1d is left out",
}


def read(path: Path) -> Logs:
    """Read the folder with the two files (or the .inter.json beside its .item.json); raises InputError naming a fault.

    A step that names no item (not a number, not a text) is rejected; `row` counts all steps through the file.
    """
    inter = must_find(Path(path), "*.inter.json")[0]
    item_file = inter.with_name(inter.name.replace(".inter.json", ".item.json"))
    steps: list[tuple[str, str | None, int]] = []
    for user, items in read_objects(inter, list, "a list of items").items():
        # bool is an int in Python, and no item's name.
        ids = [str(i) if isinstance(i, str) or type(i) is int else None for i in items]
        steps += [(user, item, len(ids) - 1 - place) for place, item in enumerate(ids)]
    frame = pl.DataFrame(steps, {"user_id": pl.String, "item_id": pl.String, "to_go": pl.Int64}, orient="row")
    frame = frame.with_row_index("row")
    longest = pl.col("to_go").max()
    events = frame.filter(pl.col("item_id").is_not_null()).with_columns(
        time=pl.lit(NO_CLOCK).cast(pl.Datetime("us", "UTC")) + pl.duration(days=longest - pl.col("to_go")),
        surface=pl.lit("other"),
        action=pl.lit("convert"),
    )
    said = read_objects(item_file, dict, "an object with title, brand, categories, description")
    about = [
        [item, *(v if isinstance(v := facts.get(name), str) else None for name in _FACTS)]
        for item, facts in said.items()
    ]
    catalog = pl.DataFrame(about, dict.fromkeys(["item_id", *_FACTS.values()], pl.String), orient="row")
    tags = pl.col("tags").str.split(",").list.eval(pl.element().str.strip_chars())
    catalog = with_items_seen(catalog.with_columns(tags, kind=pl.lit("product")), events["item_id"], "product")
    out = frame.filter(pl.col("item_id").is_null())
    out = out.select(table=pl.lit("events"), row=pl.col("row").cast(pl.Int64), reason=pl.lit("item is not an id"))
    return Logs(catalog, only("events", events), notes=NOTES, rejected=out)
