"""What all routes of one gateway share: the deployment, listeners, logs, and the connection to vLLM.

The gateway itself is stateless: what must outlive it is in the state and the logs, and any number of gateways may share
both. The deployment is replaced whole when a catalog or an adapter changes (`policy.serving.live`); a request keeps the
one it began with.
"""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from data.store import LogStore
from policy.serving.admission import Admission
from policy.serving.breaker import Breaker
from policy.serving.connection import Answer, Connection, Stream
from policy.serving.correspondence import Correspondence
from policy.serving.decision_log import SegmentLog
from policy.serving.deployment import Deployment
from policy.serving.drift import Watch
from policy.serving.engine import bearer
from policy.serving.experiments import FILE as EXPERIMENT
from policy.serving.experiments import Traffic
from policy.serving.followed import Followed
from policy.serving.forecast import Forecast
from policy.serving.keys import FILE as KEYS
from policy.serving.keys import Keys
from policy.serving.listeners import Listeners
from policy.serving.mailing import FILE as MAILING
from policy.serving.mailing import read_mailing
from policy.serving.messages import MAX_DEADLINE_MS
from policy.serving.metrics import Metrics
from policy.serving.popular import Popular
from policy.serving.state import State


@dataclass(frozen=True)
class GatewaySettings:
    """engine_url: where vLLM listens. engine_key: the API key it wants, if it wants one.

    connect_seconds, answer_seconds: patience with it on the OpenAI routes.
    deadline_seconds: within which a recommendation is answered, by whichever rung, unless the request says another.
    max_in_flight: requests answered at once, at most. keep_words: whether what listeners ask for, in words, is in the
    decision log (without it a decision cannot be scored again). seed: of popular slates; None takes the system's.
    """

    engine_url: str
    engine_key: str | None = field(default=None, repr=False)
    connect_seconds: float = 1.0
    answer_seconds: float = 60.0
    deadline_seconds: float = 5.0
    max_in_flight: int = 128
    max_body_bytes: int = 2 * 1024 * 1024
    keep_words: bool = True
    rotate_seconds: float = 60.0
    seed: int | None = None

    @property
    def longest_seconds(self) -> float:
        """What no request takes longer than, on whichever route: until then an adapter that it names must stay."""
        return max(self.answer_seconds, self.deadline_seconds, MAX_DEADLINE_MS / 1000)


class Refusal(Exception):  # noqa: N818 - an answer to the client, not a fault
    """A request that cannot be answered: HTTP status and one line for the client."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind


def decoded(answer: Answer) -> dict[str, Any]:
    """The JSON object that vLLM answered with. Refuses with 502 when it is none."""
    try:
        body = answer.json()
    except ValueError as error:
        raise Refusal(502, "the model server answered with no JSON") from error
    if not isinstance(body, dict):
        raise Refusal(502, "the model server answered with no JSON object")
    return body


class Service:
    """Shared by all routes of one gateway process. Raises InputError for logs or keys that cannot be used."""

    def __init__(
        self, deployment: Deployment, store: LogStore | None, state: State, served: Path, settings: GatewaySettings
    ) -> None:
        """`store` is the run's log, if there is one; `served` the folder of the logs, the experiment and the keys."""
        self.deployment = replace(deployment, popular=Popular.of(deployment.catalog, store))
        self.settings = settings
        self.state = state
        self.store = store
        self.listeners = Listeners(store, state)
        self.metrics = Metrics()
        self.keys = Keys(served / KEYS)
        self.traffic = Traffic(served / EXPERIMENT)
        self.traffic.refresh(deployment.versions)
        self.mailing = Followed(served / MAILING, read_mailing(None))
        self.mailing.refresh(read_mailing)
        self.correspondence = Correspondence(deployment.run, store)
        self.admission = Admission(most=settings.max_in_flight, target_seconds=0.6 * settings.deadline_seconds)
        self.breakers: defaultdict[str, Breaker] = defaultdict(Breaker)
        self.watch = Watch()
        self.forecast = Forecast.load(deployment.run, deployment.catalog)
        self._reward_asked: asyncio.Task[dict[str, float] | None] | None = None
        self._reward_time = 0.0
        self.served = served
        self.rng = np.random.default_rng(settings.seed)
        self.decisions = SegmentLog(served / "decisions", "decisions", rotate_seconds=settings.rotate_seconds)
        self.events = SegmentLog(served / "events", "events", rotate_seconds=settings.rotate_seconds)
        self.keys_error: str | None = None
        self.live_error: str | None = None
        self.faults: dict[str, str] = {}
        # Set where vLLM turns out not to have an adapter of ours, or is another one: it is asked anew what it has.
        self.engine_is_new = True
        self.engine = Connection(
            settings.engine_url, bearer(settings.engine_key), settings.connect_seconds, settings.answer_seconds
        )

    async def close(self) -> None:
        """Finish what is being written and hang up; what fails to close keeps nothing else open."""
        async with AsyncExitStack() as last:
            last.push_async_callback(self.state.close)
            last.push_async_callback(asyncio.to_thread, self.events.close)
            last.push_async_callback(asyncio.to_thread, self.decisions.close)
            last.push_async_callback(self.engine.close)

    def warnings(self) -> list[str]:
        """What an operator should mend; the server goes on with what was right before."""
        told = (self.traffic.error, self.mailing.error, self.keys_error, self.live_error, *self.faults.values())
        return [said for said in told if said is not None]

    def wants_reward(self) -> bool:
        """Whether to foresee the reward of the decision just served: one at a time, and no more than two a second."""
        return (self._reward_asked is None or self._reward_asked.done()) and monotonic() - self._reward_time > 0.5

    def note_reward(self, policy: str, asked: asyncio.Task[dict[str, float] | None]) -> None:
        """Watch the reward that is being foreseen for a decision of this policy."""

        def note(task: asyncio.Task[dict[str, float] | None]) -> None:
            if not task.cancelled() and task.exception() is None and (found := task.result()) is not None:
                self.watch.see_reward(policy, found["reward"])

        self._reward_asked, self._reward_time = asked, monotonic()
        asked.add_done_callback(note)

    async def ask(self, method: str, path: str, body: bytes | None = None, seconds: float | None = None) -> Answer:
        """One request to vLLM. Refuses with 503 when it cannot be reached, 504 when it does not answer in time."""
        try:
            async with asyncio.timeout(self.settings.answer_seconds if seconds is None else seconds):
                return await self.engine.ask(method, path, body)
        except OSError as error:
            raise _unanswered(error) from error

    async def stream(self, path: str, body: bytes) -> Stream:
        """Begin a streamed request, whose head has arrived. Refuses as `ask` does."""
        try:
            return await self.engine.stream(path, body)
        except OSError as error:
            raise _unanswered(error) from error

    async def log_decisions(
        self, route: str, rows: Sequence[Mapping[str, object]], seconds: float | None = None
    ) -> None:
        """Put decisions on disk; returns when they are there.

        Refuses with 503 when they cannot be written, or not within `seconds` (`answer_seconds` if None): the disk may
        still take them later, and then the log has decisions that nobody was shown.
        """
        with self.metrics.stage("log"):
            try:
                await self._written(self.decisions, rows, seconds)
            except OSError as error:
                message = f"the decision cannot be logged ({error.strerror}), so it is not served"
                raise Refusal(503, message, "service_unavailable") from error
        for row in rows:
            self.metrics.decisions.labels(route, str(row["policy"]), str(row["move"]), str(row["arm"])).inc()

    async def log_events(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Put feedback on disk; returns when it is there. Refuses with 503 when it cannot be written."""
        try:
            await self._written(self.events, rows, None)
        except OSError as error:
            message = f"the events cannot be logged ({error.strerror})"
            raise Refusal(503, message, "service_unavailable") from error

    async def _written(self, log: SegmentLog, rows: Sequence[Mapping[str, object]], seconds: float | None) -> None:
        try:
            async with asyncio.timeout(self.settings.answer_seconds if seconds is None else seconds):
                await asyncio.wrap_future(log.append(rows))
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "the disk did not take it in time") from error

    def decision(
        self,
        item_ids: Sequence[str],
        propensity: float,
        *,
        move: str | None,
        user_id: str,
        surface: str,
        policy: str,
        decision_id: str | None = None,
        arm: str | None = None,
        steer: str | None = None,
        time: datetime | None = None,
        candidates: Sequence[str] | None = None,
    ) -> dict[str, object]:
        """A row of the decisions schema. candidates: what could be shown, where that was not the whole catalog."""
        return {
            "decision_id": decision_id or f"d-{uuid.uuid4().hex}",
            "user_id": user_id,
            "time": time or datetime.now(UTC),
            "surface": surface,
            "policy": policy,
            "slate": list(item_ids),
            "propensity": propensity,
            "move": move,
            "steer": steer if self.settings.keep_words else None,
            "arm": arm,
            "candidates": candidates,
        }


def _unanswered(error: OSError) -> Refusal:
    if isinstance(error, TimeoutError):
        return Refusal(504, "the model server did not answer in time", "timeout_error")
    return Refusal(503, "the model server cannot be reached", "service_unavailable")
