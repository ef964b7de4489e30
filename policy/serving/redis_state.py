"""State in Redis: one list of events, one count and one set of blocked items a listener, shared by every machine.

    longplay:events:<user>     the latest KEPT_EVENTS rows as JSON
    longplay:revision:<user>   how many rows were ever added
    longplay:blocked:<user>    item ids; the set without a user is everybody's

Events of a listener who has not been seen for KEPT_DAYS are dropped: they are in the event log, and after a replay in
the run's own log.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from data.errors import InputError
from policy.serving.state import EVERYBODY, KEPT_EVENTS, Glance, Row, StateError, by_user

KEPT_DAYS = 60
# A recommendation does not wait for a Redis that is gone.
_SECONDS = 0.5


class RedisState:
    """State at a Redis URL."""

    def __init__(self, url: str) -> None:
        """Raises InputError for a URL that Redis does not understand. Connects when it is first asked."""
        retry = Retry(ExponentialBackoff(cap=0.05, base=0.01), 1)  # once: a connection that the server had closed
        try:
            self._redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=_SECONDS,
                socket_connect_timeout=_SECONDS,
                retry=retry,
                retry_on_error=[RedisConnectionError],
            )
        except ValueError as error:
            raise InputError(f"no Redis at {url!r} ({error}): give redis://host:6379/0") from error

    async def glance(self, user_id: str) -> Glance:
        try:
            async with self._redis.pipeline(transaction=False) as asked:
                asked.get(f"longplay:revision:{user_id}")
                asked.smembers(f"longplay:blocked:{user_id}")
                asked.smembers(f"longplay:blocked:{EVERYBODY}")
                revision, mine, everybodys = await asked.execute()
        except RedisError as error:
            raise StateError(str(error)) from error
        return Glance(int(revision or 0), frozenset(mine) | frozenset(everybodys))

    async def recent(self, user_id: str) -> list[dict[str, object]]:
        try:
            async with self._redis.pipeline(transaction=False) as asked:
                asked.lrange(f"longplay:events:{user_id}", -KEPT_EVENTS, -1)
                (found,) = await asked.execute()
        except RedisError as error:
            raise StateError(str(error)) from error
        return [json.loads(row) for row in found]

    async def add(self, rows: Sequence[Row]) -> None:
        try:
            async with self._redis.pipeline(transaction=True) as changes:
                for user_id, lines in by_user(rows):
                    events, revision = f"longplay:events:{user_id}", f"longplay:revision:{user_id}"
                    changes.rpush(events, *lines)
                    changes.ltrim(events, -KEPT_EVENTS, -1)
                    changes.incrby(revision, len(lines))
                    changes.expire(events, timedelta(days=KEPT_DAYS))
                    changes.expire(revision, timedelta(days=KEPT_DAYS + 1))
                await changes.execute()
        except RedisError as error:
            raise StateError(str(error)) from error

    async def block(self, user_id: str, item_ids: Sequence[str]) -> None:
        await self._set(user_id, item_ids, blocked=True)

    async def unblock(self, user_id: str, item_ids: Sequence[str]) -> None:
        await self._set(user_id, item_ids, blocked=False)

    async def _set(self, user_id: str, item_ids: Sequence[str], blocked: bool) -> None:
        try:
            async with self._redis.pipeline(transaction=False) as change:
                key = f"longplay:blocked:{user_id}"
                if blocked:
                    change.sadd(key, *item_ids)
                else:
                    change.srem(key, *item_ids)
                await change.execute()
        except RedisError as error:
            raise StateError(str(error)) from error

    async def close(self) -> None:
        await self._redis.aclose()
