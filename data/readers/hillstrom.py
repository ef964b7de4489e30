"""MineThatData e-mail trial (Hillstrom 2008): 64,000 customers drawn into men's e-mail, women's e-mail or none.

| ours | theirs |
|---|---|
| user_id, decision_id | the row's number: customers have no id |
| decisions.slate, arm | segment: one of three items of kind "message", the third being to send nothing |
| decisions.propensity | 1/3: drawn at random with equal shares |
| decisions.channel | "email"; null where nothing was sent |
| events: open, convert (value) | visit, conversion (spend in dollars) within two weeks (see below) |
| users.attributes | recency, history_segment, history, mens, womens, zip_code, newbie, channel |

No day is published. All decisions stand at one moment, and a visit at the end of the 14 days within which it came:
nothing then claims to know it sooner, and returned_14d is the published `visit`.
"""

from datetime import timedelta
from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import NO_CLOCK, must_find, noted, only, per_action, read_rows

ARMS = {"Mens E-Mail": "mens_email", "Womens E-Mail": "womens_email", "No E-Mail": "no_email"}
_KNOWN = {"recency": "whole?", "history_segment": "text?", "history": "number?", "mens": "whole?", "womens": "whole?"}
_KNOWN |= {"zip_code": "text?", "newbie": "whole?", "channel": "text?"}
_COLUMNS = {"segment": "text", "visit": "flag", "conversion": "flag", "spend": "amount"} | _KNOWN
NOTES = {
    "time": "not published: decisions stand at 2000-01-01, answers 14 days later; hours and weekdays mean nothing",
    "labels": "returned_14d only: when in the 14 days one came or bought is not published, nor what came after",
    "propensity": "1/3 by design, of the whole decision (which message, or none); counts of the arms agree with it",
    "decisions": "one per customer: repeated sends, fatigue, opt-outs and bounces cannot be learned",
    "surface": "a visit is to the shop's site: 'other'; it is not said that the e-mail brought it, so no decision_id",
    "history": "what customers bought before is in users.attributes, summed over a year; there are no events of it",
    "users": "rows have no customer id: numbered from 0",
    "seconds": "length of visits is not published: minutes_1d is left out",
}


def read(path: Path) -> Logs:
    """Read hillstrom.parquet or the published CSV, or the folder that holds it; raises InputError where it is not."""
    file = must_find(Path(path), "hillstrom.parquet", "hillstrom.csv", "*Hillstrom*.csv")[0]
    rows = read_rows(file, _COLUMNS, "decisions")
    rows = rows.reject("segment is not one of the three arms", ~pl.col("segment").is_in(list(ARMS)), "decisions")
    item = pl.col("segment").replace_strict(ARMS, return_dtype=pl.String)
    trial = rows.frame.with_columns(user_id=pl.col("row").cast(pl.String), arm=item, message=item != "no_email")
    decisions = trial.with_columns(
        decision_id=pl.col("user_id"),
        time=pl.lit(NO_CLOCK).cast(pl.Datetime("us", "UTC")),
        surface=pl.lit("email"),
        policy=pl.lit("uniform@hillstrom"),
        slate=pl.concat_list("arm"),
        propensity=pl.lit(1 / 3),
        candidates=pl.lit(list(ARMS.values())),
        channel=pl.when("message").then(pl.lit("email")),
    )
    closes = NO_CLOCK + timedelta(days=14)
    events = per_action(trial, {"open": pl.col("visit"), "convert": pl.col("conversion")}).with_columns(
        time=pl.lit(closes).cast(pl.Datetime("us", "UTC")),
        surface=pl.lit("other"),
        value=pl.when(pl.col("action") == "convert").then("spend"),
    )
    users = trial.select("user_id", attributes=pl.struct(list(_KNOWN)).struct.json_encode())
    words = {"item_id": list(ARMS.values()), "kind": ["message"] * 3, "title": list(ARMS)}
    tables = only("events", events), only("decisions", decisions), users
    end = closes + timedelta(days=1)
    return Logs(pl.DataFrame(words), *tables, noted(NOTES, rows), end, rows.rejected, labels=("returned_14d",))
