"""Cookie Cats A/B test: 90,189 players, a gate placed at level 30 or 40 when they installed; who was back on days 1, 7.

| ours | theirs |
|---|---|
| user_id, decision_id | userid |
| decisions.slate, arm | version: gate_30 (as it was) or gate_40 |
| decisions.propensity | 1/2: drawn at random at install |
| events: open | the install, for everyone |
| events: play, 1 and 7 days after the install | retention_1, retention_7 |
| users.attributes | sum_gamerounds |

No day is published: time counts from each player's install, which stands at one moment for all. returned_1d is the
published retention_1; returned_7d is "on day 1 or on day 7", for days 2 to 6 are not known.
"""

from datetime import timedelta
from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import NO_CLOCK, must_find, noted, only, read_rows

ARMS = {"gate_30": "Gate at level 30", "gate_40": "Gate at level 40"}
_COLUMNS = {"userid": "id", "version": "text", "retention_1": "flag", "retention_7": "flag", "sum_gamerounds": "whole?"}
NOTES = {
    "time": "days since the player's own install, which stands at 2000-01-01; dates, hours, weekdays are not published",
    "returned_7d": "a lower bound: came back on day 1 or day 7; of days 2 to 6, and after day 7, nothing is known",
    "labels": "returned_1d and returned_7d only: days 1 and 7 are all that is known",
    "propensity": "1/2 by design; the arms differ by 789 players (z = 2.6), a sample ratio worth a second look",
    "attributes": "sum_gamerounds counts the first 14 days after the install: an outcome, never a covariate",
    "decisions": "one per player, at install: it is the gate's place, not a recommendation",
    "seconds": "playing time is not published: minutes_1d is left out",
    "events": "one row a player is published, no event log: an install and up to two returns",
}


def read(path: Path) -> Logs:
    """Read cookie_cats.parquet or .csv, or the folder that holds it; raises InputError where it is not that trial."""
    rows = read_rows(must_find(Path(path), "cookie_cats.parquet", "cookie_cats.csv")[0], _COLUMNS, "decisions")
    rows = rows.reject("version is not gate_30 or gate_40", ~pl.col("version").is_in(list(ARMS)), "decisions")
    rows = rows.reject("userid is there twice", ~pl.col("userid").is_first_distinct(), "decisions")
    players = rows.frame.with_columns(user_id=pl.col("userid"), decision_id=pl.col("userid"), arm=pl.col("version"))
    players = players.with_columns(time=pl.lit(NO_CLOCK).cast(pl.Datetime("us", "UTC")), surface=pl.lit("in_app"))
    decisions = players.with_columns(
        policy=pl.lit("uniform@cookie_cats"),
        slate=pl.concat_list("arm"),
        propensity=pl.lit(1 / 2),
        candidates=pl.lit(list(ARMS)),
    )
    bare = players.select("user_id", "time", "surface", "retention_1", "retention_7")
    installs = bare.with_columns(action=pl.lit("open"))
    returns = [
        bare.filter(f"retention_{day}").with_columns(pl.col("time") + timedelta(days=day), action=pl.lit("play"))
        for day in (1, 7)
    ]
    users = players.select("user_id", attributes=pl.struct("sum_gamerounds").struct.json_encode())
    items = pl.DataFrame({"item_id": list(ARMS), "kind": ["other"] * 2, "title": list(ARMS.values())})
    tables = only("events", pl.concat([installs, *returns])), only("decisions", decisions), users
    labels = ("returned_1d", "returned_7d")
    return Logs(items, *tables, noted(NOTES, rows), NO_CLOCK + timedelta(days=8), rows.rejected, labels=labels)
