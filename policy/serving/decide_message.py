"""One decision about messages for one listener: which, by which channel, when, or none.

    the message policy, through vLLM  ->  hold
    the message reward's best, or the rule with caps, where the run has no such policy or the request names them

Whatever decides, it decides among what the rules allow (`policy.messaging.rules`) and no budget has run out of; the
holdout is never written to. A message is noted in the state before it is logged, and logged before it is answered: of
two replicas that decide about one listener at once, one decides again. Holding is always allowed, and is what happens
whenever something is out of reach; its logged probability is then one, under the policy `hold@1`.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import torch

from data.errors import InputError
from data.world.opportunities import HOLD_ID
from data.world.settings import CHANNELS
from policy.messaging.caps import RulesWithCaps
from policy.messaging.grammar import MessageGrammar
from policy.messaging.planned_day import HOLDOUT, reward_values
from policy.messaging.rules import send_at
from policy.serving.correspondence import Letter
from policy.serving.deployment import Deployment
from policy.serving.mailing import Mailing
from policy.serving.message_arguments import MessageArguments
from policy.serving.message_requests import Message, MessageRequest, MessageResponse
from policy.serving.recommend import attempted, complete
from policy.serving.service import Refusal, Service
from policy.serving.state import Spending, StateError
from rewards.messages import MessageReward

ROUTE = "/v1/messages"
# What may decide, by name. MODEL is the adapter of that name.
MODEL, REWARD, RULES, HOLD = "messages", "message_reward", "rules_with_caps", "hold"
HELD = f"{HOLD}@1"
_AFTER_SECONDS = 0.1  # kept of a deadline for the state and the log
_LEAST_LOG_SECONDS = 1.0
_TRIES = 3  # of a decision that another for the same listener overtook


@dataclass(frozen=True)
class Chosen:
    """A column of the letter's opportunities, a channel and a local hour, -1s to hold. policy: "name@version".

    fallback: what answered, where it was not what was wanted.
    """

    column: int = -1
    channel: int = -1
    hour: int = -1
    propensity: float = 1.0
    policy: str = HELD
    fallback: str | None = None

    @property
    def held(self) -> bool:
        return self.column < 0


def message_policies(service: Service) -> dict[str, str]:
    """What may decide about messages, by name, with its version; the default first."""
    deployment, found = service.deployment, {}
    if MODEL in deployment.versions and deployment.grammar.vocabulary.speaks_of_messages:
        found[MODEL] = deployment.versions[MODEL]
    if service.correspondence.reward is not None:
        found[REWARD] = f"{REWARD}@{service.correspondence.reward[1]}"
    return {**found, RULES: RulesWithCaps.name, HOLD: HELD}


async def decide_message(service: Service, request: MessageRequest) -> MessageResponse:
    """Answer one request; the decision is on disk when this returns. Refuses what is the client's fault with 400."""
    seconds = request.deadline_ms / 1000 if request.deadline_ms else service.settings.deadline_seconds
    deadline = time.monotonic() + seconds
    policies = message_policies(service)
    name = next(iter(policies)) if request.policy is None else request.policy
    if name not in policies:
        raise Refusal(400, f"unknown message policy {name!r}: this server has {', '.join(policies)}")
    now, mailing = request.time or datetime.now(UTC), service.mailing.value
    arm = mailing.drawing(now.date()).arm(request.user_id)
    row: dict[str, Any] | None = None
    letter: Letter | None = None
    for _ in range(_TRIES):
        try:
            day, letter, count = await _look(service, request, now, mailing)
            chosen = await _choose(service, letter, name, policies, arm, mailing, deadline)
            made = _row(service, request, letter, chosen, now, arm)
            if chosen.held or await _noted(service, request.user_id, made, count, chosen, day, mailing):
                row = made
                break
        except StateError:
            service.listeners.state_errors += 1
            break
    if row is None:  # the state is out of reach, or others were quicker every time
        service.metrics.fallbacks.labels(name, "state").inc()
        chosen = Chosen(fallback=HOLD)
        row = _row(service, request, letter, chosen, now, arm)
    await service.log_decisions(ROUTE, [row], max(deadline - time.monotonic(), _LEAST_LOG_SECONDS))
    service.metrics.messages.labels(chosen.policy, row["channel"] or HOLD, row["arm"]).inc()
    return _response(service, row, chosen, letter)


async def _look(service: Service, request: MessageRequest, now: datetime, mailing: Mailing) -> tuple[date, Letter, int]:
    """The listener's day, the decision to be made, and how many messages they were sent. Raises StateError."""
    given = request.time_zone
    with service.metrics.stage("context"):
        zone = await asyncio.to_thread(service.correspondence.zone, request.user_id, given)
        day = now.astimezone(zone).date()
        mail = await service.state.mail(request.user_id, day.isoformat())
        received = await service.state.recent(request.user_id)
        row_of = service.deployment.index.row_of
        letter = await asyncio.to_thread(
            service.correspondence.look, request.user_id, now, mail, received, mailing, row_of, given
        )
    return day, letter, mail.count


async def _choose(
    service: Service,
    letter: Letter,
    name: str,
    policies: Mapping[str, str],
    arm: str,
    mailing: Mailing,
    deadline: float,
) -> Chosen:
    if arm == HOLDOUT:
        return Chosen(policy=f"{HOLDOUT}@1")
    if name == HOLD:
        return Chosen()
    if letter.later:
        return Chosen(fallback=HOLD)
    policy = policies[name]
    if letter.contexts is None or not letter.allowed.any():
        return Chosen(policy=policy)  # all that there is to choose
    if name == MODEL:
        left = deadline - time.monotonic() - _AFTER_SECONDS
        attempt = service.breakers[MODEL].attempt() if left > 0 else None
        if attempt is None:
            service.metrics.fallbacks.labels(MODEL, "breaker" if left > 0 else "deadline").inc()
            return Chosen(fallback=HOLD)
        with suppress(Refusal), attempted(service, MODEL, attempt):
            return await _said(service, service.deployment, letter, left)
        return Chosen(fallback=HOLD)
    reward = service.correspondence.reward[0] if name == REWARD and service.correspondence.reward else None
    try:
        found = await asyncio.to_thread(_fixed, letter, reward, mailing)
    except InputError:  # a reward of other messages, or of another catalog
        service.metrics.fallbacks.labels(name, "refused").inc()
        return Chosen(fallback=HOLD)
    return _explored(replace(found, policy=policy), letter, mailing.explore, service.rng)


async def _said(service: Service, deployment: Deployment, letter: Letter, seconds: float) -> Chosen:
    """What the message policy says. Refuses as `draw_as`, and with 502 what it may not say."""
    assert letter.contexts is not None
    ids, _ = service.correspondence.prompt(deployment.prompt).encode(letter.contexts, letter.allowed[None])
    arguments = MessageArguments.of(letter.allowed)
    tokens, log_probs = await complete(service, deployment, MODEL, ids, arguments.xargs(), seconds, ROUTE)
    length = MessageGrammar.length
    try:
        grammar = MessageGrammar.of(deployment.grammar.vocabulary)
        column, channel, hour = (int(part) for part in grammar.decode(torch.tensor([tokens[:length]])))
    except (InputError, ValueError) as error:
        service.metrics.unparsed.labels(ROUTE).inc()
        raise Refusal(502, "the model server answered with no decision about a message") from error
    if column >= 0 and not letter.allowed[column, channel, hour]:
        service.metrics.illegal.labels("message").inc()
        raise Refusal(502, "the model server decided on a message that may not be sent")
    propensity = math.exp(math.fsum(log_probs[:length]))
    return Chosen(column, channel, hour, propensity, deployment.versions[MODEL])


def _fixed(letter: Letter, reward: MessageReward | None, mailing: Mailing) -> Chosen:
    """What is worth most to a reward, if it is worth more than holding; without one, what the rule with caps sends."""
    assert letter.contexts is not None
    if reward is None:
        sent, _ = RulesWithCaps(rules=lambda _: letter.allowed[None]).choose(letter.contexts, np.random.default_rng(0))
        return Chosen(int(sent.column[0]), int(sent.channel[0]), int(sent.hour[0]))
    hours = list(mailing.rules.hours)
    legal = letter.allowed[None][..., hours]
    worth = np.where(legal, reward_values(reward, mailing.rules)(letter.contexts, legal), -np.inf)[0]
    column, channel, at = (int(part) for part in np.unravel_index(worth.argmax(), worth.shape))
    return Chosen(column, channel, hours[at]) if worth[column, channel, at] > 0.0 else Chosen()


def _explored(planned: Chosen, letter: Letter, share: float, rng: np.random.Generator) -> Chosen:
    """In `share` of the cases any allowed decision instead, alike; the probability of what is decided, exact."""
    if share == 0.0:
        return planned
    every = [(-1, -1, -1), *(tuple(place) for place in np.argwhere(letter.allowed).tolist())]
    moves = planned.column, planned.channel, planned.hour
    made = every[int(rng.integers(len(every)))] if rng.random() < share else moves
    propensity = (1.0 - share) * (made == moves) + share / len(every)
    column, channel, hour = made
    return replace(planned, column=column, channel=channel, hour=hour, propensity=propensity)


def _row(
    service: Service, request: MessageRequest, letter: Letter | None, chosen: Chosen, now: datetime, arm: str
) -> dict[str, Any]:
    """A row of the decisions schema. Who names a policy has left the arms, but not the holdout."""
    channel, when = None, None
    item = HOLD_ID
    if not chosen.held:
        assert letter is not None
        assert letter.contexts is not None
        channel, item = CHANNELS[chosen.channel], str(letter.told["item_id"][chosen.column])
        (micros,) = send_at(letter.contexts, np.array([chosen.hour])).tolist()
        when = datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)
    made = service.decision(
        [item],
        chosen.propensity,
        move=None,
        decision_id=f"m-{uuid.uuid4().hex}",
        user_id=request.user_id,
        surface=channel or "other",
        policy=chosen.policy,
        arm=arm if request.policy is None or arm == HOLDOUT else None,
        time=now,
        candidates=[HOLD_ID] if letter is None else letter.candidates,
    )
    return {**made, "channel": channel, "send_at": when}


async def _noted(
    service: Service,
    user_id: str,
    row: Mapping[str, Any],
    count: int,
    chosen: Chosen,
    day: date,
    mailing: Mailing,
) -> bool:
    """Note a message in the state. False where another came between, or the last of a budget is gone."""
    channel = CHANNELS[chosen.channel]
    kept = {name: _text(value) if isinstance(value, datetime) else value for name, value in row.items()}
    return await service.state.send(
        user_id, kept, count, Spending(day.isoformat(), channel, mailing.budgets.get(channel))
    )


def _text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def _response(service: Service, row: Mapping[str, Any], chosen: Chosen, letter: Letter | None) -> MessageResponse:
    message = None
    if not chosen.held:
        assert letter is not None
        told = letter.told.row(chosen.column, named=True)
        message = Message(
            opportunity_id=told["opportunity_id"],
            domain=told["domain"],
            item_id=told["item_id"],
            title=service.correspondence.titles[told["item_id"]],
            text=told["text"],
            channel=CHANNELS[chosen.channel],
            send_at=row["send_at"],
            local_hour=chosen.hour,
        )
    return MessageResponse(
        decision_id=str(row["decision_id"]),
        action="hold" if message is None else "send",
        message=message,
        propensity=chosen.propensity,
        policy=chosen.policy,
        arm=row["arm"],
        fallback=chosen.fallback,
    )
