"""The gateway's own requests and responses, as they appear on the OpenAPI page."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from data.schema import ACTIONS, SURFACES
from policy.serving.slate_arguments import MAX_BLOCKED, MAX_SLATE, MAX_STEER

MAX_EVENTS = 1000
MAX_DEADLINE_MS = 60_000
Id = Annotated[str, Field(min_length=1, max_length=256)]


def _surface(value: str) -> str:
    if value not in SURFACES:
        raise ValueError(f"unknown surface {value!r}, choose from {', '.join(SURFACES)}")
    return value


def _action(value: str) -> str:
    if value not in ACTIONS:
        raise ValueError(f"unknown action {value!r}, choose from {', '.join(ACTIONS)}")
    return value


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError(f"unknown time zone {value!r}, use an IANA name such as Europe/Stockholm")
    return value


def _moment(value: datetime) -> datetime:
    if not 1970 <= value.year < 2200:
        raise ValueError(f"{value.isoformat()} is not a time that a log could hold")
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_moment)]
Surface = Annotated[str, AfterValidator(_surface)]
Place = Annotated[str, AfterValidator(_zone)]


class Situation(BaseModel):
    """When and where the listener is, if it is not the server's now and the log's time zone."""

    model_config = ConfigDict(extra="forbid")

    time: Moment | None = Field(None, description="The moment of the decision, with a UTC offset; default now.")
    time_zone: Place | None = Field(None, description="IANA name, for the local hour.")


class RecommendationRequest(BaseModel):
    """Ask for one slate."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"user_id": "u1", "steer": "something calmer, maybe a podcast", "k": 5}]},
    )

    user_id: str = Field(min_length=1, max_length=256, description="Anybody; a listener without history is fine.")
    surface: Surface = Field("now_playing", description=f"One of {', '.join(SURFACES)}.")
    steer: str | None = Field(None, max_length=MAX_STEER, description="What the listener asks for, in words.")
    k: int | None = Field(None, ge=1, le=MAX_SLATE, description="Items in the slate; default as trained.")
    policy: str | None = Field(None, description="Adapter to answer with; default the deployment's.")
    weights: dict[str, float] | None = Field(None, description="The wanted trade-off: objective -> weight in [0, 1].")
    context: Situation | None = None
    explain: bool = Field(False, description="Say what the reward model expects of the slate.")
    deadline_ms: int | None = Field(
        None, ge=50, le=MAX_DEADLINE_MS, description="Answer within this time, by popularity if the model is slower."
    )
    blocked: list[Id] = Field(default_factory=list, max_length=MAX_BLOCKED, description="Item ids not to show.")
    seen: list[Id] = Field(default_factory=list, max_length=MAX_BLOCKED, description="Item ids shown a moment ago.")
    kinds: list[str] = Field(default_factory=list, max_length=32, description="Item kinds to choose from; default all.")


class Item(BaseModel):
    item_id: str
    title: str
    creator: str | None
    kind: str


class RecommendationResponse(BaseModel):
    """A logged decision. propensity: probability of this move and slate, in this order, under the policy."""

    decision_id: str
    move: str | None = Field(description="continue, deepen, explore or switch; null when drawn by popularity.")
    items: list[Item]
    propensity: float
    policy: str = Field(description="name@version of what chose the slate.")
    arm: str | None = Field(description="Of the experiment; null when the request named a policy or a trade-off.")
    fallback: str | None = Field(description="The rung that answered instead of the wanted policy.")
    catalog: str = Field(description="Version of the catalog.")
    predicted: dict[str, float] | None = Field(
        None,
        description="With explain, if the deadline allows: return within 7 days, active days of 28, and what the slate "
        "adds to each.",
    )


class Event(BaseModel):
    """A row of the events schema. Without a time it happened when it was received."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    user_id: Id
    time: Moment | None = None
    surface: Surface
    action: Annotated[str, AfterValidator(_action)] = Field(description=f"One of {', '.join(ACTIONS)}.")
    item_id: Id | None = None
    session_id: Id | None = None
    decision_id: Id | None = Field(None, description="The decision that showed the item.")
    position: int | None = Field(None, ge=0, lt=2**31, description="Place in the slate, from 0.")
    seconds: float | None = Field(None, ge=0, description="How long the listener stayed.")
    value: float | None = None


class FeedbackRequest(BaseModel):
    """What happened."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"events": [{"user_id": "u1", "action": "complete", "surface": "home", "item_id": "i7"}]}]
        },
    )

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class FeedbackResponse(BaseModel):
    accepted: int


class BlockRequest(BaseModel):
    """Items not to show any more, or again."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "u1", "block": ["i7"], "unblock": []}]}
    )

    user_id: Id | None = Field(None, description="Whom not to show them; null for everybody (a takedown).")
    block: list[Id] = Field(default_factory=list, max_length=MAX_BLOCKED)
    unblock: list[Id] = Field(default_factory=list, max_length=MAX_BLOCKED)


class BlockResponse(BaseModel):
    """What is blocked now, everybody's included."""

    blocked: list[str]


class Fault(BaseModel):
    message: str
    type: str
    param: str | None
    code: int


class FaultResponse(BaseModel):
    """What is wrong, in the shape of OpenAI's errors."""

    error: Fault


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": FaultResponse, "description": description}
    for status, description in (
        (400, "The request is wrong; the message says where."),
        (401, "An API key is wanted."),
        (403, "An admin key is wanted."),
        (408, "The body came too slowly."),
        (413, "The body is too long."),
        (422, "Not used: what is wrong with a request is 400."),
        (429, "Too many requests: ask again after Retry-After seconds."),
        (502, "The model server answered with something that is no slate."),
        (503, "The model server, the log or the state cannot be reached."),
        (504, "The model server did not answer in time."),
    )
}
