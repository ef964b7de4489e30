"""A made-up log of any size, with everything in it that a label can ask for: the benches' input.

It has the shape of a listening service and none of its meaning: people come at usual hours, in three time zones, two of
them with daylight saving, get a slate of five and deal with some of it; now and then they convert, opt out or find
something that they come back to. Users of different parts are different people, so a log of any length can be made, and
ingested, part by part.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from data.logs import Logs

EVENTS_A_USER = 250
DAYS = 92  # the longest window, of 60 days, closes for decisions of the log's first third
START = datetime(2024, 2, 1, tzinfo=UTC)
ZONES = ("UTC", "America/New_York", "Europe/Berlin")
_ITEMS, _CREATORS, _SLATE = 20_000, 4_000, 5
_PER_SESSION = 5
_ACTIONS = ("play", "skip", "complete", "save", "dislike", "convert", "opt_out")
_CHANCES = (0.5, 0.2, 0.23, 0.04, 0.02, 0.007, 0.003)


def log_of(users: int, first: int = 0, seed: int = 0) -> Logs:
    """The log of `users` people, the first of them number `first`: about 250 events and 50 decisions each."""
    rng = np.random.default_rng((seed, first))
    per_user = EVENTS_A_USER // _PER_SESSION
    visits = users * per_user
    user = np.repeat(np.arange(users), per_user)
    zone = rng.integers(len(ZONES), size=users)
    usual = rng.normal(17, 3, size=users)
    hour = np.clip(rng.normal(usual[user], 2.0), 0, 23.9) - np.array([0, -5, 1])[zone[user]]
    came = rng.integers(1, DAYS - 2, size=visits) * 86_400 + hour * 3600 + rng.random(visits)
    began = np.datetime64(START.replace(tzinfo=None), "us") + (np.sort(came) * 1e6).astype("timedelta64[us]")
    # The i-th visit in order of time belongs to anybody: shuffle people over it.
    user = rng.permutation(user)
    # People have favourites; what they first meet in a slate, some meet again.
    taste = (rng.zipf(1.3, size=visits) * 7919 + user * 31) % _ITEMS
    slate = (taste[:, None] + np.arange(_SLATE) * 4001) % _ITEMS
    late = np.cumsum(rng.exponential(150, size=(visits, _PER_SESSION)), axis=1)
    names = np.char.add("u", (first + np.arange(users)).astype(str))
    items = np.char.add("i", np.arange(_ITEMS).astype(str))
    decision = pl.Series("decision_id", np.char.add(f"d{first}-", np.arange(visits).astype(str)))
    who = pl.Series("user_id", names)[user]
    shown = pl.Series(items)[slate.ravel()]
    decisions = pl.DataFrame({"decision_id": decision, "user_id": who, "time": began}).with_columns(
        pl.col("time").dt.replace_time_zone("UTC"),
        surface=pl.lit("home"),
        policy=pl.lit("made_up@1"),
        slate=shown.reshape((visits, _SLATE)).arr.to_list(),
        propensity=pl.lit(0.01),
    )
    answer = np.sort(rng.integers(_SLATE, size=(visits, _PER_SESSION)), axis=1).ravel()
    row = np.repeat(np.arange(visits), _PER_SESSION)
    action = rng.choice(len(_ACTIONS), size=len(row), p=_CHANCES)
    events = pl.DataFrame(
        {
            "user_id": who[row],
            "time": began[row] + (late.ravel() * 1e6).astype("timedelta64[us]"),
            "action": pl.Series(_ACTIONS)[action],
            "item_id": shown[row * _SLATE + answer],
            "decision_id": decision[row],
            "position": answer,
            "seconds": rng.gamma(2, 90, size=len(row)).astype(np.float32),
        }
    ).with_columns(pl.col("time").dt.replace_time_zone("UTC"), surface=pl.lit("home"))
    catalog = pl.DataFrame({"item_id": items}).with_columns(
        kind=pl.lit("track"),
        title=pl.col("item_id"),
        creator=pl.Series(np.char.add("c", (np.arange(_ITEMS) % _CREATORS).astype(str))),
    )
    people = pl.DataFrame({"user_id": names}).with_columns(time_zone=pl.Series(ZONES)[zone])
    return Logs(catalog, events, decisions, people, end=START + timedelta(days=DAYS))
