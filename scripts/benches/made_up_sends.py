"""A made-up log of message decisions: people move between time zones, clocks change, consents come and go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.world.environment import MessageContexts
from data.world.settings import CHANNELS
from policy.messaging.rules import NEVER, MessageRules, allowed, send_at
from policy.messaging.violations import STANDING

ZONES = (
    "Europe/Stockholm",
    "America/New_York",
    "America/Bogota",
    "Asia/Tokyo",
    "America/Havana",
    "Australia/Lord_Howe",
)
START = date(2026, 3, 1)  # clocks change on 8 March, 29 March and 5 April
_MOVES, _CHANGES = 0.02, 0.02  # a day: to another zone; of what is consented to
_REMEMBERED = 8
_DAY = 86_400_000_000


@dataclass(frozen=True)
class MadeUpLog:
    """Decisions (user_id, time, channel, send_at, expires_at) and what held of the users over time."""

    decisions: pl.DataFrame
    users: pl.DataFrame
    rules: MessageRules


def made_up_log(users: int, days: int, seed: int, blind: bool = False) -> MadeUpLog:
    """A decision a user and local day, at a random minute between midnight and six in the evening: anything that the
    rules allow, or to hold, alike. `blind`: anything at all, by the same people."""
    rules = MessageRules(hours=(8, 10, 13, 18, 20), channel_caps=(3, 2, 3), weekly_cap=5)
    rng = np.random.default_rng(seed)
    zone = rng.integers(0, len(ZONES), users).astype(np.int32)
    consent = rng.random((users, len(CHANNELS))) < 0.8
    sent_at = np.full((users, _REMEMBERED), NEVER)
    sent_by = np.full((users, _REMEMBERED), -1, np.int8)
    began = np.int64(datetime.combine(START - timedelta(days=3), time(), UTC).timestamp() * 1e6)
    known = [_standing(np.arange(users), np.full(users, began), zone, consent)]
    parts, last = [], np.full(users, began)
    for day in range(days):
        if day:
            moves, changes = rng.random(users) < _MOVES, rng.random(users) < _CHANGES
            zone = np.where(moves, rng.integers(0, len(ZONES), users), zone).astype(np.int32)
            consent = np.where(changes[:, None], rng.random(consent.shape) < 0.8, consent)
            rows = np.flatnonzero(moves | changes)
            known.append(_standing(rows, last[rows] + 1, zone[rows], consent[rows]))
        midnight = np.array([_midnight(name, day) for name in ZONES])[zone]
        # After a move to where it is earlier, the day's decision is not made before the last one.
        now = np.maximum(midnight + rng.integers(0, 18 * 60, users) * 60_000_000, last + 2)
        contexts = _contexts(rng, now, zone, consent, sent_at, sent_by)
        expires = now[:, None] + rng.integers(1, 20, contexts.eligible.shape) * 3_600_000_000
        column, channel, hour = _drawn(rng, allowed(contexts, rules, expires), rules, blind)
        when = send_at(contexts, hour)
        sends = when != NEVER
        ends = np.take_along_axis(expires, np.maximum(column, 0)[:, None], axis=1)[:, 0]
        names = pl.Series(CHANNELS).gather(pl.Series(np.where(sends, channel, -1)).cast(pl.UInt32, strict=False))
        parts.append(
            pl.DataFrame(
                {"user_id": _ids(np.arange(users)), "time": now, "channel": names, "send_at": when, "expires_at": ends}
            ).with_columns(pl.when(pl.col("channel").is_not_null()).then("send_at"))
        )
        rows = np.flatnonzero(sends)
        for kept, new in ((sent_at, when[rows]), (sent_by, channel[rows])):
            kept[rows, :-1] = kept[rows, 1:]
            kept[rows, -1] = new
        last = np.maximum(now, np.where(sends, when, now))
    instants = pl.col("time", "send_at", "expires_at").cast(pl.Datetime("us", "UTC"))
    return MadeUpLog(pl.concat(parts).with_columns(instants), pl.concat(known), rules)


def _contexts(
    rng: np.random.Generator,
    now: NDArray[np.int64],
    zone: NDArray[np.int32],
    consent: NDArray[np.bool_],
    sent_at: NDArray[np.int64],
    sent_by: NDArray[np.int8],
) -> MessageContexts:
    batch = len(now)
    offset = np.zeros(batch, np.int64)
    past = np.zeros(sent_at.shape, np.int64)
    for z, name in enumerate(ZONES):
        rows = np.flatnonzero(zone == z)
        offset[rows] = _local_days(now[rows], name)
        past[rows] = _local_days(sent_at[rows].ravel(), name).reshape(len(rows), -1)
    return MessageContexts(
        time=now,
        hour_of_week=np.zeros(batch, np.int16),
        surface=np.zeros(batch, np.int8),
        gap_hours=np.full(batch, np.nan, np.float32),
        item=np.full((batch, 1), -1, np.int32),
        action=np.full((batch, 1), -1, np.int8),
        steer=[None] * batch,
        eligible=np.where(rng.random((batch, 3)) < 0.6, rng.integers(0, 50, (batch, 3)), -1).astype(np.int32),
        value=np.zeros((batch, 3), np.float32),
        consent=consent,
        premium=np.zeros(batch, np.bool_),
        zone=zone,
        zones=ZONES,
        sent_item=np.where(sent_at != NEVER, 0, -1).astype(np.int32),
        sent_channel=sent_by,
        sent_days_ago=(offset[:, None] - past).astype(np.int32),
        sent_answer=np.full(sent_at.shape, -1, np.int8),
    )


def _drawn(
    rng: np.random.Generator,
    legal: NDArray[np.bool_],
    rules: MessageRules,
    blind: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int64]]:
    """(column, channel, hour), (B,) each, -1 where it is held."""
    batch, most, channels, hours = legal.shape
    luck = rng.random((batch, most * channels * hours + 1))
    if blind:
        anything = [rng.integers(0, high, (batch,)) for high in (most, channels, 24)]
        return anything[0], anything[1].astype(np.int8), anything[2]
    luck[:, :-1] = np.where(legal.reshape(batch, -1), luck[:, :-1], -1.0)
    best = luck.argmax(axis=1)
    held = best == luck.shape[1] - 1
    column, rest = np.divmod(best, channels * hours)
    channel, hour = np.divmod(rest, hours)
    at = np.array(rules.hours)[np.minimum(hour, hours - 1)]
    return np.where(held, -1, column), np.where(held, -1, channel).astype(np.int8), np.where(held, -1, at)


def _standing(
    who: NDArray[np.int64], since: NDArray[np.int64], zone: NDArray[np.int32], consent: NDArray[np.bool_]
) -> pl.DataFrame:
    agreed = [[c for c, yes in zip(CHANNELS, row, strict=True) if yes] for row in consent.tolist()]
    columns = {"user_id": _ids(who), "time_zone": pl.Series(ZONES).gather(zone), "consents": agreed}
    frame = pl.DataFrame(columns, schema_overrides={"consents": pl.List(pl.String)})
    return frame.with_columns(since=pl.Series(since).cast(pl.Datetime("us", "UTC"))).select(*STANDING)


def _ids(who: NDArray[np.int64]) -> pl.Series:
    return pl.select(pl.format("u{}", pl.Series(who))).to_series()


def _local_days(us: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    clock = pl.Series(us).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    return clock.dt.date().cast(pl.Int32).to_numpy().astype(np.int64)


@lru_cache(maxsize=4096)
def _midnight(zone: str, day: int) -> int:
    return int(datetime.combine(START + timedelta(days=day), time(), ZoneInfo(zone)).timestamp() * 1e6)
