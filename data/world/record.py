"""The log of a world: what happened on each day, kept as arrays, written as tables when asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.histories import Contexts
from data.logs import Logs
from data.world.dynamics import Session
from data.world.items import Items
from data.world.listeners import Listeners
from data.world.settings import WorldSettings

_SECOND = 1_000_000  # us
_FIRST_PLAY = 1 * _SECOND  # after the decision
_FLOOR = -700.0  # the exponential of less is no float64
_PAUSE = 2 * _SECOND  # between the end of one item and the start of the next


@dataclass(frozen=True)
class Day:
    """The B sessions of one day."""

    day: int
    listeners: NDArray[np.int32]  # (B,)
    time: NDArray[np.int64]  # (B,) us
    slates: NDArray[np.int32]  # (B, K)
    log_propensity: NDArray[np.float64]  # (B,)
    policy: str
    move: list[str] | None
    steer: list[str | None]
    session: Session
    play_time: NDArray[np.int64]  # (B, K) us, when each item was played, where it was
    converted: NDArray[np.bool_]  # (B,)

    @classmethod
    def of(
        cls,
        day: int,
        listeners: NDArray[np.int32],
        contexts: Contexts,
        slates: NDArray[np.int32],
        log_propensity: NDArray[np.float64],
        policy: str,
        move: list[str] | None,
        session: Session,
        converted: NDArray[np.bool_],
    ) -> Day:
        """A day as it was lived; items follow one another in the order shown."""
        took = np.where(session.played, (session.seconds.astype(np.float64) * _SECOND).astype(np.int64) + _PAUSE, 0)
        before = np.cumsum(took, axis=1) - took
        play_time = contexts.time[:, None] + _FIRST_PLAY + before
        steer = list(contexts.steer)
        return cls(
            day, listeners, contexts.time, slates, log_propensity, policy, move, steer, session, play_time, converted
        )


def write_logs(items: Items, listeners: Listeners, settings: WorldSettings, days: list[Day], now: int) -> Logs:
    """The days as the tables of data.schema, events and decisions in order of time.

    `now` is the number of days lived since the world began; the log is complete until every listener's last day ended.
    """
    users = pl.Series("user_id", [f"u{i:05d}" for i in range(len(listeners))], dtype=pl.String)
    zones = [name for name, _ in settings.people.time_zones]
    users_frame = pl.DataFrame(
        {
            "user_id": users,
            "attributes": [
                f'{{"plan": "{"premium" if premium else "free"}"}}' for premium in listeners.premium.tolist()
            ],
            "time_zone": [zones[z] for z in listeners.zone.tolist()],
        }
    )
    west = min(hours for _, hours in settings.people.time_zones)
    end = settings.start + timedelta(days=now, hours=-west)
    who = _stack([d.listeners for d in days], np.int32)
    day = np.repeat([d.day for d in days], [len(d.listeners) for d in days]).astype(np.int32)
    keys = pl.DataFrame({"user_id": users.gather(who), "day": day}).select(
        "user_id",
        decision_id=pl.format("d{}-{}", pl.col("day").cast(pl.String).str.zfill(4), "user_id"),
        session_id=pl.format("s{}-{}", pl.col("day").cast(pl.String).str.zfill(4), "user_id"),
    )
    return Logs(
        items=items.frame,
        events=_events(items, days, keys),
        decisions=_decisions(items, days, keys, settings.dynamics.slate_size),
        users=users_frame,
        notes={"candidates": "every item of the catalog could have been shown, so the column is left empty"},
        end=end,
    )


def _decisions(items: Items, days: list[Day], keys: pl.DataFrame, size: int) -> pl.DataFrame:
    slates = _stack([d.slates for d in days], np.int32).reshape(-1, size)
    ids = items.frame["item_id"].gather(slates.ravel())
    moves = [m for d in days for m in (d.move if d.move is not None else [None] * len(d.listeners))]
    return keys.select(
        "decision_id",
        "user_id",
        time=_time(_stack([d.time for d in days], np.int64)),
        surface=pl.lit("now_playing"),
        policy=pl.Series([d.policy for d in days], dtype=pl.String).gather(
            np.repeat(np.arange(len(days)), [len(d.listeners) for d in days]).astype(np.int64)
        ),
        slate=ids.reshape((-1, size)).arr.to_list() if len(ids) else pl.Series([], dtype=pl.List(pl.String)),
        propensity=np.exp(np.clip(_stack([d.log_propensity for d in days], np.float64), _FLOOR, 0.0)),
        steer=pl.Series([t for d in days for t in d.steer], dtype=pl.String),
        move=pl.Series(moves, dtype=pl.String),
    ).sort("time", "decision_id")


def _events(items: Items, days: list[Day], keys: pl.DataFrame) -> pl.DataFrame:
    played = _stack([d.session.played for d in days], np.bool_)
    if not len(played):
        played = played.reshape(0, 1)
    row, position = np.nonzero(played)

    def at(values: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
        return _stack(values, dtype).reshape(played.shape)[row, position]

    start = at([d.play_time for d in days], np.int64)
    seconds = at([d.session.seconds for d in days], np.float32)
    finish = start + (seconds.astype(np.float64) * _SECOND).astype(np.int64)
    completed = at([d.session.completed for d in days], np.bool_)
    saved = at([d.session.saved for d in days], np.bool_)
    disliked = at([d.session.disliked for d in days], np.bool_)
    slates = at([d.slates for d in days], np.int32)
    converted = np.flatnonzero(_stack([d.converted for d in days], np.bool_))
    visit = _stack([d.time for d in days], np.int64)

    def events(action: str, when: NDArray[np.int64], keep: NDArray[np.bool_], listened: bool) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "row": row[keep],
                "us": when[keep],
                "action": pl.repeat(action, int(keep.sum()), eager=True, dtype=pl.String),
                "item": slates[keep],
                "position": position[keep].astype(np.int32),
                "seconds": pl.Series(seconds[keep])
                if listened
                else pl.Series([None] * int(keep.sum()), dtype=pl.Float32),
            }
        )

    def without_item(action: str, rows: NDArray[np.int64], when: NDArray[np.int64]) -> pl.DataFrame:
        nothing = pl.Series([None] * len(rows))
        return pl.DataFrame(
            {
                "row": rows,
                "us": when,
                "action": pl.repeat(action, len(rows), eager=True, dtype=pl.String),
                "item": nothing.cast(pl.Int32),
                "position": nothing.cast(pl.Int32),
                "seconds": nothing.cast(pl.Float32),
            }
        )

    every = np.ones(len(row), np.bool_)
    frame = pl.concat(
        [
            events("play", start, every, False),
            events("complete", finish, completed, True),
            events("skip", finish, ~completed, True),
            events("save", finish + _SECOND // 2, saved, False),
            events("dislike", finish + _SECOND // 2, disliked, False),
            # A visit that plays nothing is a visit still, so every session leaves an open.
            without_item("open", np.arange(len(visit)), visit),
            without_item("convert", converted, visit[converted] + _SECOND // 2),
        ]
    ).sort("us", "row")
    of = frame["row"]
    return pl.DataFrame(
        {
            "user_id": keys["user_id"].gather(of),
            "time": frame["us"].cast(pl.Datetime("us", "UTC")),
            "surface": pl.repeat("now_playing", len(of), eager=True, dtype=pl.String),
            "action": frame["action"],
            "item_id": items.frame["item_id"].gather(frame["item"]),
            "session_id": keys["session_id"].gather(of),
            "decision_id": keys["decision_id"].gather(of),
            "position": frame["position"],
            "seconds": frame["seconds"],
        }
    )


def _stack(parts: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _time(us: NDArray[np.int64]) -> pl.Series:
    return pl.Series(us).cast(pl.Datetime("us", "UTC"))
