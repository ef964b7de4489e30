"""Under which rules messages are decided online, who never gets one, and what a day may cost.

runs/messages/served/messages.yaml          all of it optional; these are the defaults
    quiet_from: 21                          local hours [21, 8) in which nothing goes out
    quiet_until: 8
    hours: [8, 9, ..., 20]                  local hours that a message may go out in
    channel_caps: {push: 3, email: 3, in_app: 3}
    weekly_cap: 7                           of all channels
    budgets: {}                             most messages a local day by channel, over all listeners
    holdout: 0.05                           share of the listeners who are never sent anything
    salt: messages                          of the hashes that draw them; the planner's must be the same
    explore: 0.0                            of decisions by a rule or a reward: any allowed one instead, alike
    most: 4                                 opportunities decided among, those that claim the most
    live_days: 2.0                          how long a value signal of the log is an opportunity
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import InputError
from data.message_log import REMEMBERED
from data.world.settings import CHANNELS
from policy.messaging.planned_day import Drawing
from policy.messaging.rules import ANY_HOUR, MessageRules
from policy.vocabulary import MOST_OPPORTUNITIES

FILE = "messages.yaml"
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]


class _Written(BaseModel):
    """The file, field by field."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    quiet_from: int = ANY_HOUR.quiet_from
    quiet_until: int = ANY_HOUR.quiet_until
    hours: list[int] = list(ANY_HOUR.hours)
    channel_caps: dict[str, Count] = Field(default_factory=dict)
    weekly_cap: int = Field(ANY_HOUR.weekly_cap, ge=0, le=REMEMBERED)  # a context remembers no more sends
    budgets: dict[str, Count] = Field(default_factory=dict)
    holdout: Share = 0.05
    salt: str = Field("messages", min_length=1, max_length=256)
    explore: Share = 0.0
    most: int = Field(4, ge=1, le=MOST_OPPORTUNITIES)
    live_days: float = Field(2.0, gt=0, le=366)


@dataclass(frozen=True)
class Mailing:
    """rules: what may be sent. budgets: most a local day by channel, where there is a limit. Others as in the file."""

    rules: MessageRules
    budgets: Mapping[str, int]
    holdout: float
    salt: str
    explore: float
    most: int
    live_days: float

    def drawing(self, day: date) -> Drawing:
        """Who is held out, as the planner draws them."""
        return Drawing(day.isoformat(), self.holdout, self.explore, self.salt)


def read_mailing(written: Any) -> Mailing:
    """Check what a file says. Raises InputError naming what is wrong with it."""
    try:
        said = _Written.model_validate({} if written is None else written)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "messages"
        raise InputError(f"{where}: {first['msg']}") from None
    for name in ("channel_caps", "budgets"):
        unknown = [channel for channel in getattr(said, name) if channel not in CHANNELS]
        if unknown:
            raise InputError(f"{name}: there is no channel {unknown[0]!r}: choose of {', '.join(CHANNELS)}")
    caps = dict(zip(CHANNELS, ANY_HOUR.channel_caps, strict=True)) | said.channel_caps
    rules = MessageRules(
        said.quiet_from, said.quiet_until, tuple(said.hours), tuple(caps[c] for c in CHANNELS), said.weekly_cap
    )
    return Mailing(rules, said.budgets, said.holdout, said.salt, said.explore, said.most, said.live_days)
