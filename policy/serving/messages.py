"""The gateway's own requests and responses, as they appear on the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from data.schema import SURFACES
from policy.serving.slate_arguments import MAX_BLOCKED, MAX_SLATE

MAX_EVENTS = 1000


def _surface(value: str) -> str:
    if value not in SURFACES:
        raise ValueError(f"unknown surface {value!r}, choose from {', '.join(SURFACES)}")
    return value


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError(f"unknown time zone {value!r}, use an IANA name such as Europe/Stockholm")
    return value


class Situation(BaseModel):
    """When and where the listener is, if it is not the server's now and the log's time zone."""

    model_config = ConfigDict(extra="forbid")

    time: AwareDatetime | None = Field(None, description="The moment of the decision, with a UTC offset; default now.")
    time_zone: Annotated[str, AfterValidator(_zone)] | None = Field(None, description="IANA name, for the local hour.")


class RecommendationRequest(BaseModel):
    """Ask for one slate."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user_id": "u1", "steer": "something calmer, maybe a podcast", "k": 5}]},
    )

    user_id: str = Field(min_length=1, max_length=256, description="Anybody; a listener without history is fine.")
    surface: Annotated[str, AfterValidator(_surface)] = Field(
        "now_playing", description=f"One of {', '.join(SURFACES)}."
    )
    steer: str | None = Field(None, max_length=2000, description="What the listener asks for, in words.")
    k: int | None = Field(None, ge=1, le=MAX_SLATE, description="Items in the slate; default as trained.")
    policy: str | None = Field(None, description="Adapter to answer with; default the deployment's.")
    weights: dict[str, float] | None = Field(None, description="The wanted trade-off: objective -> weight in [0, 1].")
    context: Situation | None = None
    blocked: list[str] = Field(default_factory=list, max_length=MAX_BLOCKED, description="Item ids not to show.")
    kinds: list[str] = Field(default_factory=list, max_length=32, description="Item kinds to choose from; default all.")


class Item(BaseModel):
    item_id: str
    title: str
    creator: str | None
    kind: str


class RecommendationResponse(BaseModel):
    """A logged decision. propensity: probability of this move and slate, in this order, under the policy."""

    decision_id: str
    move: str
    items: list[Item]
    propensity: float
    policy: str
    arm: str | None


class FeedbackRequest(BaseModel):
    """What happened: rows of the events schema. `time` may be left out, it is then the time of receipt."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"events": [{"user_id": "u1", "action": "complete", "surface": "home", "item_id": "i7"}]}]
        },
    )

    events: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_EVENTS)


class FeedbackResponse(BaseModel):
    accepted: int
