"""The log of a world: what happened in each slot, kept as arrays, written as tables when asked."""

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
from data.world.listeners import Listeners, utc_offset
from data.world.message_record import message_decisions, message_events
from data.world.messages import Mailing
from data.world.opportunities import MessageItems
from data.world.settings import CHANNELS, WorldSettings

_SECOND = 1_000_000  # us
_FIRST_PLAY = 1 * _SECOND  # after the decision
_FLOOR = -700.0  # the exponential of less is no float64
_PAUSE = 2 * _SECOND  # between the end of one item and the start of the next


@dataclass(frozen=True)
class Round:
    """The B sessions of one slot of a day."""

    day: int
    slot: int
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
        slot: int,
        listeners: NDArray[np.int32],
        contexts: Contexts,
        slates: NDArray[np.int32],
        log_propensity: NDArray[np.float64],
        policy: str,
        move: list[str] | None,
        session: Session,
        converted: NDArray[np.bool_],
    ) -> Round:
        """A round as it was lived; items follow one another in the order shown."""
        took = np.where(session.played, (session.seconds.astype(np.float64) * _SECOND).astype(np.int64) + _PAUSE, 0)
        before = np.cumsum(took, axis=1) - took
        play_time = contexts.time[:, None] + _FIRST_PLAY + before
        steer = list(contexts.steer)
        return cls(
            day,
            slot,
            listeners,
            contexts.time,
            slates,
            log_propensity,
            policy,
            move,
            steer,
            session,
            play_time,
            converted,
        )

    def ends(self) -> NDArray[np.int64]:
        """(B,) us, when each session is over."""
        done = self.play_time + (self.session.seconds.astype(np.float64) * _SECOND).astype(np.int64)
        ends: NDArray[np.int64] = np.where(self.session.played, done, self.time[:, None]).max(axis=1)
        return ends


def write_logs(
    items: Items,
    messages: MessageItems | None,
    listeners: Listeners,
    settings: WorldSettings,
    rounds: list[Round],
    mailings: list[Mailing],
    now: int,
) -> Logs:
    """What was lived as the tables of data.schema, events and decisions in order of time.

    `messages` are the message items of a world that sends any. `now` is the number of days lived since the world began;
    the log is complete until every listener's last day ended.
    """
    users = user_ids(len(listeners))
    zones = settings.people.time_zones
    ends = [settings.start + timedelta(days=now, seconds=-utc_offset(settings.start, zone, now)) for zone in zones]
    who = _stack([r.listeners for r in rounds], np.int32)
    sizes = [len(r.listeners) for r in rounds]
    day = np.repeat([r.day for r in rounds], sizes).astype(np.int32)
    slot = np.repeat([r.slot for r in rounds], sizes).astype(np.int32)
    keys = _keys(users, who, day, slot)
    events, decisions = _events(items, rounds, keys), _decisions(items, rounds, keys, settings.dynamics.slate_size)
    frame, notes = items.frame, {"candidates": "every item of the catalog could have been shown, so it is left empty"}
    if messages is not None:
        sent = message_decisions(messages, mailings, users)
        decisions = pl.concat([decisions, sent], how="diagonal").sort("time", "decision_id")
        events = pl.concat([events, message_events(messages, mailings, users)], how="diagonal").sort(
            "time", maintain_order=True
        )
        frame = pl.concat([items.frame, messages.frame])
        notes["candidates"] += "; for messages they are the day's opportunities, and to hold"
    return Logs(
        items=frame,
        events=events,
        decisions=decisions,
        users=_users(users, listeners, zones, messages is not None),
        notes=notes,
        end=max(ends),
    )


def user_ids(listeners: int) -> pl.Series:
    """The ids of a world's listeners, in their order."""
    return pl.Series("user_id", [f"u{i:05d}" for i in range(listeners)], dtype=pl.String)


def _keys(users: pl.Series, who: NDArray[np.int32], day: NDArray[np.int32], slot: NDArray[np.int32]) -> pl.DataFrame:
    """user_id, decision_id and session_id of sessions; a session, a visit and a decision are one thing."""
    frame = pl.DataFrame({"user_id": users.gather(who), "day": day, "slot": slot})
    name = pl.format("{}-{}-{}", pl.col("day").cast(pl.String).str.zfill(4), "slot", "user_id")
    return frame.select("user_id", decision_id="d" + name, session_id="s" + name)


def _users(users: pl.Series, listeners: Listeners, zones: tuple[str, ...], with_consents: bool) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "user_id": users,
            "attributes": [
                f'{{"plan": "{"premium" if premium else "free"}"}}' for premium in listeners.premium.tolist()
            ],
            "time_zone": [zones[z] for z in listeners.zone.tolist()],
        }
    )
    if not with_consents:
        return frame
    agreed = [[c for c, yes in zip(CHANNELS, row, strict=True) if yes] for row in listeners.consent.tolist()]
    return frame.with_columns(consents=pl.Series(agreed, dtype=pl.List(pl.String)))


def _decisions(items: Items, rounds: list[Round], keys: pl.DataFrame, size: int) -> pl.DataFrame:
    slates = _stack([r.slates for r in rounds], np.int32).reshape(-1, size)
    ids = items.frame["item_id"].gather(slates.ravel())
    moves = [m for r in rounds for m in (r.move if r.move is not None else [None] * len(r.listeners))]
    return keys.select(
        "decision_id",
        "user_id",
        time=_time(_stack([r.time for r in rounds], np.int64)),
        surface=pl.lit("now_playing"),
        policy=pl.Series([r.policy for r in rounds], dtype=pl.String).gather(
            np.repeat(np.arange(len(rounds)), [len(r.listeners) for r in rounds]).astype(np.int64)
        ),
        slate=ids.reshape((-1, size)).arr.to_list() if len(ids) else pl.Series([], dtype=pl.List(pl.String)),
        propensity=pl.Series(
            np.exp(np.clip(_stack([r.log_propensity for r in rounds], np.float64), _FLOOR, 0.0))
        ).fill_nan(None),  # a policy that cannot say
        steer=pl.Series([t for r in rounds for t in r.steer], dtype=pl.String),
        move=pl.Series(moves, dtype=pl.String),
    ).sort("time", "decision_id")


def _events(items: Items, rounds: list[Round], keys: pl.DataFrame) -> pl.DataFrame:
    played = _stack([r.session.played for r in rounds], np.bool_)
    if not len(played):
        played = played.reshape(0, 1)
    row, position = np.nonzero(played)

    def at(values: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
        return _stack(values, dtype).reshape(played.shape)[row, position]

    start = at([r.play_time for r in rounds], np.int64)
    seconds = at([r.session.seconds for r in rounds], np.float32)
    finish = start + (seconds.astype(np.float64) * _SECOND).astype(np.int64)
    completed = at([r.session.completed for r in rounds], np.bool_)
    saved = at([r.session.saved for r in rounds], np.bool_)
    disliked = at([r.session.disliked for r in rounds], np.bool_)
    slates = at([r.slates for r in rounds], np.int32)
    converted = np.flatnonzero(_stack([r.converted for r in rounds], np.bool_))
    visit = _stack([r.time for r in rounds], np.int64)

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
