"""Putting a gateway together from a run folder: for one process (`scripts/serve.py`) and for Ray's replicas alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from fastapi import FastAPI

from data.store import LogStore
from policy.serving.deployment import Deployment
from policy.serving.gateway import create_app
from policy.serving.live import Live, publish
from policy.serving.service import GatewaySettings, Service
from policy.serving.state import open_state
from policy.serving.supervisor import Supervisor


@dataclass(frozen=True)
class Plan:
    """What is served and where its traces go. adapters: those to serve, all if None. policy: the default one.

    state: URL of the state; a SQLite file in `served` if None.
    """

    run: Path
    served: Path
    adapters: Sequence[str] | None = None
    policy: str | None = None
    state: str | None = None
    gateway: GatewaySettings = field(default_factory=lambda: GatewaySettings("http://127.0.0.1:8100"))

    def deployment(self) -> Deployment:
        """The run as it is now, published. Raises InputError when something about it is missing."""
        return publish(Deployment.load(self.run, self.adapters, self.policy, self.served / "catalogs"), self.served)


def gateway(
    plan: Plan,
    deployment: Deployment,
    supervisor: Supervisor | None = None,
    where: Callable[[], Awaitable[str]] | None = None,
) -> FastAPI:
    """The application of one gateway. where: says the URL of its vLLM, where that can change.

    Raises InputError for a state, a log or a message reward that cannot be used.
    """
    # The reward model is small: threads would wait for each other, and keep vLLM waiting.
    torch.set_num_threads(1)
    store = LogStore(plan.run / "logs") if (plan.run / "logs").is_dir() else None
    state = open_state(plan.state or f"sqlite:///{plan.served / 'state.sqlite'}")
    service = Service(deployment, store, state, plan.served, plan.gateway)
    _ = service.correspondence.reward  # read now: a broken one is told at the start, not to a listener
    return create_app(service, Live(service, plan.served, plan.adapters, plan.policy, supervisor), where)
