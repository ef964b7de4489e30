"""Taking in what others say: feedback, on disk and in the state before it is acknowledged, and opportunities."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from data.opportunities import DOMAINS, KNOWN
from policy.serving.keys import Key
from policy.serving.message_requests import OpportunitiesRequest, OpportunitiesResponse
from policy.serving.messages import FeedbackRequest, FeedbackResponse
from policy.serving.segments import rows_to_frame
from policy.serving.service import Refusal, Service
from policy.serving.state import StateError


async def take_in(service: Service, request: FeedbackRequest) -> FeedbackResponse:
    """Log events and make them known to the next decision. Refuses with 400 what is neither in the catalog nor a
    message."""
    now = datetime.now(UTC)
    rows = [event.model_dump() | {"time": (event.time or now).isoformat()} for event in request.events]
    frame = rows_to_frame(rows, "events", "events")
    for item in frame["item_id"].drop_nulls().to_list():
        if item not in service.deployment.index.row_of and item not in service.correspondence.titles:
            raise Refusal(400, f"events: item {item!r} is not in the catalog")
    await service.log_events(rows)
    try:
        await service.state.add(rows)
    except StateError:
        service.listeners.state_errors += 1  # they are in the event log, and will be known after the next replay
    for action in frame["action"].to_list():
        service.metrics.feedback.labels(action).inc()
    return FeedbackResponse(accepted=frame.height)


async def submit(service: Service, request: OpportunitiesRequest, key: Key | None) -> OpportunitiesResponse:
    """Keep what there is to send; it is on the disk when this returns. Refuses with 403 who may not speak for a domain.

    key: whose it is, where keys are wanted: one named for a domain submits for that one alone, an admin key for any.
    """
    domain = None
    if key is not None and not key.admin:
        if key.name not in DOMAINS:
            raise Refusal(403, f"opportunities want an admin key, or one named for a domain: {', '.join(DOMAINS)}")
        domain = key.name
    now = datetime.now(UTC)
    rows = []
    for given in request.opportunities:
        expires = given.expires_at.astimezone(UTC) if given.expires_at is not None else None
        rows.append(
            given.model_dump() | {"created_at": (given.created_at or now).astimezone(UTC), "expires_at": expires}
        )
    try:
        done = await asyncio.to_thread(service.correspondence.submit, rows, domain)
    except OSError as error:
        reason = f"the opportunities cannot be kept ({error.strerror})"
        raise Refusal(503, reason, "service_unavailable") from error
    rejected = dict(done.rejected)
    known = rejected.pop(KNOWN, 0)
    for result, count in (("accepted", done.accepted), ("known", known), ("rejected", sum(rejected.values()))):
        service.metrics.opportunities.labels(result).inc(count)
    return OpportunitiesResponse(accepted=done.accepted, known=known, rejected=rejected)
