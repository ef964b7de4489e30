"""Taking feedback in: on disk and in the state before it is acknowledged."""

from __future__ import annotations

from datetime import UTC, datetime

from policy.serving.deployment import known_items
from policy.serving.messages import FeedbackRequest, FeedbackResponse
from policy.serving.segments import rows_to_frame
from policy.serving.service import Refusal, Service
from policy.serving.state import StateError


async def take_in(service: Service, request: FeedbackRequest) -> FeedbackResponse:
    """Log events and make them known to the next recommendation. Refuses items that are not in the catalog with 400."""
    now = datetime.now(UTC)
    rows = [event.model_dump() | {"time": (event.time or now).isoformat()} for event in request.events]
    frame = rows_to_frame(rows, "events", "events")
    unknown = known_items(frame["item_id"], service.deployment.index)
    if unknown is not None:
        raise Refusal(400, f"events: item {unknown!r} is not in the catalog")
    await service.log_events(rows)
    try:
        await service.state.add(rows)
    except StateError:
        service.listeners.state_errors += 1  # they are in the event log, and will be known after the next replay
    for action in frame["action"].to_list():
        service.metrics.feedback.labels(action).inc()
    return FeedbackResponse(accepted=frame.height)
