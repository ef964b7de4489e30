"""Requests and responses about messages, as they appear on the OpenAPI page."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from data.opportunities import DOMAINS, LONGEST_TEXT
from data.world.settings import CHANNELS
from policy.serving.messages import MAX_DEADLINE_MS, Id, Moment, Place

MAX_OPPORTUNITIES = 1000
_EXAMPLE: JsonDict = {
    "opportunity_id": "c-17-u1",
    "domain": "concert",
    "item_id": "m-concert-jazz",
    "user_id": "u1",
    "value": 0.8,
    "expires_at": "2026-06-01T18:00:00+02:00",
    "channels": ["push", "email"],
}


def _channel(value: str) -> str:
    if value not in CHANNELS:
        raise ValueError(f"unknown channel {value!r}, choose from {', '.join(CHANNELS)}")
    return value


class Opportunity(BaseModel):
    """Something that a domain would like to be sent. Submitted again under the same id, it is there already."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    opportunity_id: Id
    domain: Id = Field(description=f"Who submits it: one of {', '.join(DOMAINS)}.")
    item_id: Id = Field(description="A message of the run's items.")
    user_id: Id | None = Field(None, description="For whom; null for everybody.")
    value: float = Field(description="How relevant the domain says it is, standard normal.", ge=-1e6, le=1e6)
    created_at: Moment | None = Field(None, description="Not before; default now.")
    expires_at: Moment | None = Field(None, description="It must go out before; null: it does not expire.")
    channels: list[Annotated[str, AfterValidator(_channel)]] | None = Field(
        None, max_length=len(CHANNELS), description=f"By which of {', '.join(CHANNELS)} it may go; null for any."
    )
    text: str | None = Field(None, max_length=LONGEST_TEXT)


class OpportunitiesRequest(BaseModel):
    """What there is to send."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"opportunities": [_EXAMPLE]}]})

    opportunities: list[Opportunity] = Field(min_length=1, max_length=MAX_OPPORTUNITIES)


class OpportunitiesResponse(BaseModel):
    """accepted: on the disk, and decided among from now on. known: were there under the same id."""

    accepted: int
    known: int
    rejected: dict[str, int] = Field(description="Why others were not taken, and how many.")


class MessageRequest(BaseModel):
    """Ask whether to write to one listener, and what."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user_id": "u1"}]})

    user_id: Id
    time: Moment | None = Field(None, description="The moment of the decision; default now.")
    time_zone: Place | None = Field(None, description="IANA name, where it is not the zone in the log.")
    policy: str | None = Field(None, description="Who decides; default the first that the run has.")
    deadline_ms: int | None = Field(
        None, ge=50, le=MAX_DEADLINE_MS, description="Answer within this time, by holding if the model is slower."
    )


class Message(BaseModel):
    """What to send. send_at: when; local_hour: of the listener's clock."""

    opportunity_id: str
    domain: str
    item_id: str
    title: str
    text: str | None
    channel: str
    send_at: datetime
    local_hour: int


class MessageResponse(BaseModel):
    """A logged decision. propensity: probability of this decision, holding included, under the policy."""

    decision_id: str
    action: Literal["send", "hold"]
    message: Message | None = Field(description="Null when nothing is to be sent.")
    propensity: float
    policy: str = Field(description="name@version of what decided.")
    arm: str | None = Field(description="messages, or holdout for whom is never written to; null for a named policy.")
    fallback: str | None = Field(description="hold, where the wanted policy could not decide.")
