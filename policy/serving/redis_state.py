"""State in Redis: one list of events, one count and one set of blocked items a listener, shared by every machine.

    longplay:events:<user>     the latest KEPT_EVENTS rows as JSON
    longplay:revision:<user>   how many rows were ever added
    longplay:blocked:<user>    item ids; the set without a user is everybody's
    longplay:sends:<user>      the latest KEPT_SENDS messages as JSON
    longplay:sent:<user>       how many there ever were
    longplay:lasting:<user>    opt-outs and conversions, which are kept for ever
    longplay:spent:<day>       messages sent on a day, by channel

Events and messages of a listener who has not been seen for KEPT_DAYS are dropped: they are in the served logs, and
after a replay in the run's own log.
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
from policy.serving.state import (
    EVERYBODY,
    KEPT_EVENTS,
    KEPT_SENDS,
    LASTING,
    Glance,
    Mail,
    Row,
    Spending,
    StateError,
    by_user,
)

KEPT_DAYS = 60
# A recommendation does not wait for a Redis that is gone.
_SECONDS = 0.5
_SPENT_DAYS = 3
# In one step on the server: nobody's message comes between the look at the counts and the writing.
_SEND = """
local sent, spent = tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(redis.call('HGET', KEYS[3], ARGV[3]) or '0')
if sent > tonumber(ARGV[2]) or (ARGV[4] ~= '' and spent >= tonumber(ARGV[4])) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[5]), -1)
redis.call('SET', KEYS[2], tonumber(ARGV[2]) + 1)
redis.call('HINCRBY', KEYS[3], ARGV[3], 1)
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[6])
redis.call('EXPIRE', KEYS[3], ARGV[7])
return 1
"""


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
        self._send = self._redis.register_script(_SEND)

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
                for user_id, lines in by_user(row for row in rows if row.get("action") in LASTING):
                    changes.sadd(f"longplay:lasting:{user_id}", *lines)
                await changes.execute()
        except RedisError as error:
            raise StateError(str(error)) from error

    async def mail(self, user_id: str, day: str) -> Mail:
        try:
            async with self._redis.pipeline(transaction=True) as asked:
                asked.get(f"longplay:sent:{user_id}")
                asked.lrange(f"longplay:sends:{user_id}", 0, -1)
                asked.smembers(f"longplay:lasting:{user_id}")
                asked.hgetall(f"longplay:spent:{day}")
                count, sends, lasting, spent = await asked.execute()
        except RedisError as error:
            raise StateError(str(error)) from error
        rows, kept = ([json.loads(row) for row in found] for found in (sends, lasting))
        return Mail(int(count or 0), rows, kept, {channel: int(number) for channel, number in spent.items()})

    async def send(self, user_id: str, row: Row, count: int, spending: Spending) -> bool:
        keys = (f"longplay:sends:{user_id}", f"longplay:sent:{user_id}", f"longplay:spent:{spending.day}")
        budget = "" if spending.budget is None else str(spending.budget)
        kept = timedelta(days=KEPT_DAYS), timedelta(days=_SPENT_DAYS)
        seconds = [int(each.total_seconds()) for each in kept]
        given: list[str | int] = [json.dumps(row), count, spending.channel, budget, KEPT_SENDS, *seconds]
        try:
            return bool(await self._send(keys=keys, args=given))
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
