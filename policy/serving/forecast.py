"""What a slate is expected to bring: the run's reward model, asked about one listener and one slate at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import torch

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Contexts, Decisions, Histories
from policy.serving.listeners import Past
from rewards.model import RewardModel
from rewards.objective import Objective

SHOWN = ("returned_7d", "active_days_28")


@dataclass(frozen=True)
class Forecast:
    """A reward model and what its advantage is worth. items: how many catalog rows it knows."""

    model: RewardModel
    objective: Objective
    items: int

    @classmethod
    def load(cls, run: Path, catalog: Catalog) -> Forecast | None:
        """The mid-term reward model of a run; None where it has none that reads this catalog."""
        try:
            model = RewardModel.load(run / "rewards" / "midterm")
        except InputError:
            return None
        known = len(model.content)
        return cls(model, model.objective(), known) if known <= len(catalog) else None

    @torch.no_grad()
    def of(
        self, past: Past, row_of: Mapping[str, int], context: Contexts, rows: Sequence[int]
    ) -> dict[str, float] | None:
        """Expected outcomes of showing catalog `rows` now, and the reward ("reward": its lower bound, in units of the
        spread under logging). None for an item that came after the model was trained, and for slates longer than those
        it was trained on.
        """
        if max(rows) >= self.items or len(rows) > self.model.shape.slate_size:
            return None
        now = int(context.time[0])
        known = [
            place
            for place in range(int(np.searchsorted(past.settled, now, side="left")))
            if row_of.get(past.item[place], self.items) < self.items
        ]
        zone = ZoneInfo(past.zone)
        clocks = [datetime.fromtimestamp(past.time[place] / 1e6, zone) for place in known]
        histories = Histories(
            user_ids=["listener"],
            offsets=np.array([0, len(known)], dtype=np.int64),
            item=np.array([row_of[past.item[place]] for place in known], dtype=np.int32),
            action=past.action[known].astype(np.int8),
            time=past.time[known],
            surface=past.surface[known].astype(np.int8),
            hour_of_week=np.array([clock.weekday() * 24 + clock.hour for clock in clocks], dtype=np.int16),
        )
        slate = np.array([list(rows)], dtype=np.int32)
        decision = Decisions(
            decision_id=["d"],
            user=np.zeros(1, dtype=np.int32),
            start=np.array([len(known)], dtype=np.int64),
            time=context.time,
            hour_of_week=context.hour_of_week,
            surface=context.surface,
            slate=slate,
            log_propensity=np.full(1, np.nan),
            steer=list(context.steer),
            reaction=np.full(slate.shape, -1, dtype=np.int8),
            seconds=np.zeros(slate.shape, dtype=np.float32),
        )
        states = self.model.encode(histories, decision)
        anyway = self.model.outcomes(states)
        scores = self.model.advantage(states, torch.from_numpy(slate.astype(np.int64))[:, None])
        found = {"reward": float(self.objective.lower_bound(scores)[0, 0])}
        for label in SHOWN:
            if label in self.model.labels:
                lift = float(scores.mean[0, 0, self.model.labels.index(label)])
                most = 1.0 if label.startswith("returned") else 28.0
                found[label] = float(np.clip(float(anyway[label][0]) + lift, 0.0, most))
                found[f"{label}_lift"] = lift
        return found
