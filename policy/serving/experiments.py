"""Who gets which arm. An arm is an adapter and a trade-off; a listener keeps theirs as long as the experiment lasts.

    runs/demo/served/experiment.yaml
        name: midterm-or-clicks
        arms:
          - {name: control, policy: sft, share: 0.5}
          - {name: midterm, policy: ppo, weights: {midterm: 1.0}, share: 0.25}
          - {name: both, policy: ppo, weights: {midterm: 0.5, clicks: 0.5}, share: 0.25}
        overrides: {u-tester: midterm}

The file is looked at every second: traffic changes without a restart, in every replica that reads it. A listener's
place in [0, 1) is a hash of the salt (the experiment's name if none is given) and their id, and arms take adjoining
stretches of it, so growing the last arm moves only those whom it takes over. Each decision of the experiment is logged
with arm "name:arm": that is its exposure. An override is logged as "name:arm:override", which no analysis counts in.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.errors import InputError
from policy.assignment import place
from policy.serving.followed import Followed
from policy.vocabulary import OBJECTIVES

FILE = "experiment.yaml"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _weights(value: dict[str, float]) -> dict[str, float]:
    for objective, weight in value.items():
        if objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {objective!r}, choose from {', '.join(OBJECTIVES)}")
        if not 0 <= weight <= 1:
            raise ValueError(f"the weight of {objective} is {weight}, not from 0 to 1")
    return value


Weights = Annotated[dict[str, float], AfterValidator(_weights)]


class Arm(BaseModel):
    """One arm of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(pattern=_NAME)
    policy: str = Field(description="An adapter that is served, or the base policy.")
    weights: Weights | None = Field(None, description="The trade-off to ask it for.")
    share: float = Field(gt=0, le=1, description="Of the listeners; all shares add up to 1.")


class Experiment(BaseModel):
    """What splits the traffic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME)
    salt: str | None = Field(None, max_length=256, description="Keep it to change shares; a new one mixes anew.")
    arms: tuple[Arm, ...] = Field(min_length=1, max_length=64)
    overrides: dict[str, str] = Field(default_factory=dict, description="Listener -> arm, for looking at one.")

    @model_validator(mode="after")
    def _adds_up(self) -> Experiment:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError("two arms have the same name")
        total = math.fsum(arm.share for arm in self.arms)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares add up to {total:g}, not to 1")
        lost = [arm for arm in self.overrides.values() if arm not in names]
        if lost:
            raise ValueError(f"overrides: there is no arm {lost[0]!r}")
        return self

    def assign(self, user_id: str) -> tuple[Arm, str]:
        """The listener's arm, and what is logged with their decisions."""
        if user_id in self.overrides:
            (arm,) = [arm for arm in self.arms if arm.name == self.overrides[user_id]]
            return arm, f"{self.name}:{arm.name}:override"
        at, end = place(self.name if self.salt is None else self.salt, user_id), 0.0
        for arm in self.arms:
            end += arm.share
            if at < end:
                return arm, f"{self.name}:{arm.name}"
        return self.arms[-1], f"{self.name}:{self.arms[-1].name}"


def read_experiment(value: object, policies: Collection[str]) -> Experiment:
    """Check an experiment as written. Raises InputError naming what is wrong with it."""
    try:
        experiment = Experiment.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "experiment"
        raise InputError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
    for arm in experiment.arms:
        if arm.policy not in policies:
            raise InputError(f"arm {arm.name!r}: unknown policy {arm.policy!r}: served are {', '.join(policies)}")
    return experiment


class Traffic:
    """The experiment that a file describes, as it is now. Without one, the default policy answers."""

    def __init__(self, file: Path) -> None:
        self._followed: Followed[Experiment | None] = Followed(file, None)

    @property
    def experiment(self) -> Experiment | None:
        return self._followed.value

    @property
    def error(self) -> str | None:
        return self._followed.error

    def refresh(self, policies: Collection[str]) -> bool:
        """Read the file again if it has changed; True if it had. A wrong one is not used: the last right one stays."""
        return self._followed.refresh(lambda written: read_experiment(written, policies))

    def write(self, experiment: Experiment | None) -> None:
        """Replace the file, so that every replica has it within a second. None ends the experiment."""
        file = self._followed.file
        if experiment is None:
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.{os.getpid()}.new")
        new.write_text(yaml.safe_dump(experiment.model_dump(mode="json", exclude_none=True), sort_keys=False))
        os.replace(new, file)

    def assign(self, user_id: str, default: str) -> tuple[str, Mapping[str, float] | None, str]:
        """Policy, weights, and the arm to log. Without an experiment there is one arm, named for the default policy."""
        if self.experiment is None:
            return default, None, default
        arm, exposure = self.experiment.assign(user_id)
        return arm.policy, arm.weights, exposure
