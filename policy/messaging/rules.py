"""What may be sent at all: consent, quiet hours, weekly caps, expiry, and the channels an opportunity may use.

    rules = MessageRules(quiet_from=21, quiet_until=8, hours=(8, 13, 18), channel_caps=(3, 3, 3), weekly_cap=7)
    allowed(contexts, rules)              # (B, M, channels, hours): what a decision may choose; holding always may
    allowed_by_clock(contexts)            # the same, (B, M, channels, 24): as the language model's grammar takes it
    send_at(contexts, hour)               # (B,) the instant of a local hour of the listener's day

Hours are hours of the listener's own clock, in the zone of the context. Where clocks change, an hour that the day does
not have may not be chosen, and one that it has twice is its first. A week is today and the six local days before it.
`policy.messaging.violations` finds in a log what broke the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.local_time import local_clock
from data.world.environment import MessageContexts
from data.world.message_policies import WEEK
from data.world.settings import CHANNELS

NEVER = np.int64(-1)  # an hour that does not come (any more) on the listener's day
NO_EXPIRY = np.iinfo(np.int64).max
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOURS = 24


@dataclass(frozen=True)
class MessageRules:
    """Quiet hours [quiet_from, quiet_until) of the local clock, which may pass midnight (equal: none are quiet); the
    local hours that may be chosen; the most sends in a week by each channel, and by all. Raises InputError."""

    quiet_from: int = 21
    quiet_until: int = 8
    hours: tuple[int, ...] = (8, 13, 18)
    channel_caps: tuple[int, ...] = (3, 3, 3)  # by CHANNELS
    weekly_cap: int = 7

    def __post_init__(self) -> None:
        for name in ("quiet_from", "quiet_until"):
            if not 0 <= getattr(self, name) < _HOURS:
                raise InputError(f"{name}={getattr(self, name)}: give a local hour, 0 to 23")
        if not self.hours or list(self.hours) != sorted(set(self.hours)):
            raise InputError(f"hours={self.hours}: give one local hour or more, in order, none twice")
        if not 0 <= self.hours[0] <= self.hours[-1] < _HOURS:
            raise InputError(f"hours={self.hours}: give local hours, 0 to 23")
        quiet = [hour for hour in self.hours if self.is_quiet(hour)]
        if quiet:
            raise InputError(f"hours: {quiet[0]} lies in quiet hours ({self.quiet_from} to {self.quiet_until})")
        if len(self.channel_caps) != len(CHANNELS) or min(self.channel_caps) < 0:
            raise InputError(f"channel_caps={self.channel_caps}: give a number, 0 or more, for each of {CHANNELS}")
        if self.weekly_cap < 0:
            raise InputError(f"weekly_cap={self.weekly_cap}: give 0 or more")

    def is_quiet(self, hour: int) -> bool:
        """Whether a local hour is quiet."""
        if self.quiet_from <= self.quiet_until:
            return self.quiet_from <= hour < self.quiet_until
        return hour >= self.quiet_from or hour < self.quiet_until


# Any hour that is not quiet, which is what a world's log was written with.
ANY_HOUR = MessageRules(hours=tuple(range(8, 21)))


def allowed(
    contexts: MessageContexts,
    rules: MessageRules,
    expires: NDArray[np.int64] | None = None,
    channels: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """(B, M, channels, len(rules.hours)): what may be sent. To hold always is allowed, and has no place in it.

    expires (B, M): us, NO_EXPIRY for none; a message must go out before. channels (B, M, channels): by which of them
    an opportunity may go. Raises InputError for shapes that do not fit, an unknown time zone, and a weekly cap over as
    many sends as the contexts remember: they could not tell when it is reached.
    """
    batch, most = contexts.eligible.shape
    for name, given, shape in (
        ("expires", expires, (batch, most)),
        ("channels", channels, (batch, most, len(CHANNELS))),
    ):
        if given is not None and given.shape != shape:
            raise InputError(f"message rules: {name} has shape {given.shape}, must be {shape}")
    moments = hour_starts(contexts, rules.hours)  # (B, H)
    offered = contexts.eligible >= 0
    if channels is None:
        channels = np.broadcast_to(offered[:, :, None], (batch, most, len(CHANNELS)))
    by = offered[:, :, None] & channels & allowed_channels(contexts, rules)[:, None, :]  # (B, M, C)
    when = np.broadcast_to((moments != NEVER)[:, None, :], (batch, most, len(rules.hours)))
    if expires is not None:
        when = when & (moments[:, None, :] < expires[:, :, None])  # (B, M, H)
    found: NDArray[np.bool_] = by[..., None] & when[:, :, None, :]
    return found


def allowed_by_clock(
    contexts: MessageContexts,
    rules: MessageRules = ANY_HOUR,
    expires: NDArray[np.int64] | None = None,
    channels: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """(B, M, channels, 24): `allowed` over all hours of the clock; those that the rules do not have are closed."""
    found = np.zeros((*contexts.eligible.shape, len(CHANNELS), _HOURS), np.bool_)
    found[..., list(rules.hours)] = allowed(contexts, rules, expires, channels)
    return found


def allowed_channels(contexts: MessageContexts, rules: MessageRules) -> NDArray[np.bool_]:
    """(B, channels): consented to, and below its own weekly cap and that of all. Raises as `allowed`."""
    remembered = contexts.sent_item.shape[1]
    # Below a cap of as many as are remembered, all sends of the week are among them, so that every count is exact.
    if rules.weekly_cap > remembered:
        raise InputError(f"weekly_cap={rules.weekly_cap}: the contexts remember {remembered} sends; give at most that")
    recent = (contexts.sent_item >= 0) & (contexts.sent_days_ago < WEEK)
    used = np.stack([(recent & (contexts.sent_channel == c)).sum(axis=1) for c in range(len(CHANNELS))], axis=1)
    under = (used < np.asarray(rules.channel_caps)) & (recent.sum(axis=1) < rules.weekly_cap)[:, None]
    found: NDArray[np.bool_] = contexts.consent & under
    return found


def send_at(contexts: MessageContexts, hour: NDArray[np.integer]) -> NDArray[np.int64]:
    """(B,) us, when a message for local hour `hour` (B,) of the day of the context goes out; NEVER for -1.

    That is the start of the hour, or at once where it has begun. NEVER too where the hour is over, or the day has no
    such hour. Raises InputError for an hour outside -1 .. 23, or an unknown time zone.
    """
    wanted = np.asarray(hour, dtype=np.int64)
    if wanted.shape != (len(contexts),) or ((wanted < -1) | (wanted >= _HOURS)).any():
        raise InputError(f"message rules: hour must be ({len(contexts)},) of -1 to 23")
    found = hour_starts(contexts, tuple(range(_HOURS)))[np.arange(len(contexts)), np.maximum(wanted, 0)]
    return np.where(wanted < 0, NEVER, found)


def hour_starts(contexts: MessageContexts, hours: tuple[int, ...]) -> NDArray[np.int64]:
    """(B, H) when each of the local hours comes on the day of the context, us, as `send_at`."""
    now = contexts.time.astype(np.int64)
    names = pl.Series(contexts.zones, dtype=pl.String).gather(contexts.zone)
    for name in names.unique().to_list():
        _zone(name)
    clock = local_clock(
        pl.DataFrame({"time": pl.Series(now, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")), "time_zone": names})
    )
    day = clock.dt.date().cast(pl.Int32).to_numpy().astype(np.int64)
    pair, at = np.unique(contexts.zone.astype(np.int64) << 32 | day, return_inverse=True)
    tables = [day_hours(contexts.zones[key >> 32], key & 0xFFFFFFFF) for key in pair.tolist()]
    table = np.array(tables, dtype=np.int64).reshape(-1, 2, _HOURS)[:, :, list(hours)]
    first, second = table[at, 0], table[at, 1]  # (B, H)
    found = np.where(first >= now[:, None], first, np.where(second >= now[:, None], second, NEVER))
    begun = clock.dt.hour().to_numpy()[:, None] == np.array(hours)
    return np.where(begun, now[:, None], found)


@lru_cache(maxsize=65_536)
def day_hours(zone: str, day: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """When each local hour of a local day (since 1970) begins, us: first and second time; -1: it does not."""
    on, place = date(1970, 1, 1) + timedelta(days=day), _zone(zone)
    rows = []
    for fold in (0, 1):
        walls = [datetime.combine(on, time(hour, fold=fold), place) for hour in range(_HOURS)]
        rows.append(tuple(_instant(wall) if _exists(wall) else int(NEVER) for wall in walls))
    return rows[0], rows[1]


def _instant(wall: datetime) -> int:
    return (wall - _EPOCH) // timedelta(microseconds=1)


def _exists(wall: datetime) -> bool:
    """Whether clocks ever show it: through UTC and back, a time in a gap comes out as another."""
    back = wall.astimezone(UTC).astimezone(wall.tzinfo)
    return back.replace(tzinfo=None, fold=0) == wall.replace(tzinfo=None, fold=0)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise InputError(f"time zone {name!r} is not known: use an IANA name such as Europe/Stockholm") from None
