"""What a simulator must offer to be lived in: six verbs, small enough to put another one behind them.

`observe` says whose turn it is and what is known of them, `act` says what they are shown (or sent) and lives on to the
next decision points. Everything is a batch: B listeners at once, one row each. `data.world.world.World` is ours,
`data.world.choc_kale.ChocKale` is somebody else's; `eval.rollout.play` takes either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.histories import Contexts
from data.logs import Logs

Slates = NDArray[np.int32]  # (B, K) rows of the items table, in the order shown
Choice = tuple[Slates, NDArray[np.float64]]
Truth = dict[str, NDArray[np.float64]]


class SlatePolicy(Protocol):
    """Anything that fills slates."""

    @property
    def name(self) -> str:
        """name@version, as logged."""
        ...

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> Choice:
        """Slates (B, K) int32 of item indices without repeats, and the log-probability (B,) of each.

        A policy that cannot say how likely its choice was says nan for all of them, and is logged without propensity.
        """
        ...


class SlatePoints(NamedTuple):
    """Listeners (B,) who opened the app, to be shown a slate each; B may be 0."""

    listeners: NDArray[np.int32]
    contexts: Contexts


@dataclass(frozen=True)
class MessageContexts(Contexts):
    """What is known of B listeners on the morning of a day on which something could be sent to them.

    Times are five o'clock of the listener's day; the histories are those of `Contexts`. Opportunities are rows of the
    message items (`World.message_items`), M at most a listener, -1 where there is none.
    """

    eligible: NDArray[np.int32]  # (B, M)
    value: NDArray[np.float32]  # (B, M) how relevant the sending domain says it is, standard normal; nan without one
    consent: NDArray[np.bool_]  # (B, channels)
    premium: NDArray[np.bool_]  # (B,)
    zone: NDArray[np.int32]  # (B,) position in `zones`
    zones: tuple[str, ...]
    sent_item: NDArray[np.int32]  # (B, R) last sends, left-padded with -1, the most recent last
    sent_channel: NDArray[np.int8]  # (B, R)
    sent_days_ago: NDArray[np.int32]  # (B, R)
    sent_answer: NDArray[np.int8]  # (B, R) action code: open, dismiss, opt_out; -1 = no answer


class MessagePoints(NamedTuple):
    """Listeners (B,) to whom something could be sent today."""

    listeners: NDArray[np.int32]
    contexts: MessageContexts


@dataclass(frozen=True)
class Messages:
    """What is sent to B listeners: a column of `MessageContexts.eligible`, a channel, a local hour; -1s are to hold."""

    column: NDArray[np.int32]  # (B,)
    channel: NDArray[np.int8]  # (B,) position in data.world.settings.CHANNELS
    hour: NDArray[np.int8]  # (B,) 0 .. 23

    @property
    def held(self) -> NDArray[np.bool_]:
        """(B,) where nothing is sent."""
        return self.column < 0


def no_messages(batch: int) -> Messages:
    """Hold for everybody."""
    return Messages(np.full(batch, -1, np.int32), np.full(batch, -1, np.int8), np.full(batch, -1, np.int8))


class MessagePolicy(Protocol):
    """Anything that decides on messages."""

    @property
    def name(self) -> str:
        """name@version, as logged."""
        ...

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> tuple[Messages, NDArray[np.float64]]:
        """What to send to whom, and the log-probability (B,) of each decision, holding included."""
        ...


class Environment(Protocol):
    """A simulator."""

    def reset(self, seed: int) -> None:
        """Back to the first day, with people and luck drawn from `seed`; the catalog stays."""
        ...

    def observe(self) -> SlatePoints | MessagePoints:
        """The next decision points. Asking twice is the same."""
        ...

    def act(
        self, choice: Slates | Messages, log_propensity: NDArray[np.float64], policy: str, move: list[str] | None = None
    ) -> None:
        """Shows (or sends) what was chosen, (B,) log-probabilities beside it, and lives on to the next points."""
        ...

    def log(self) -> Logs:
        """Everything since the start as tables."""
        ...

    def truth(
        self,
        policy: SlatePolicy,
        horizon_days: int = 28,
        policy_seed: int = 0,
        on_day: Callable[[], None] | None = None,
    ) -> Truth:
        """Metric -> one value per listener (U,) under `policy` from now on; the simulator itself does not move.

        Every policy meets the same people with the same luck.
        """
        ...

    def items_frame(self) -> pl.DataFrame:
        """The ITEMS table; its row is the item's index in every slate."""
        ...


def check_choice(
    slates: NDArray[np.int32], log_propensity: NDArray[np.float64], policy: str, batch: int, size: int, items: int
) -> None:
    """Raises InputError unless slates (batch, size) are of known items without repeats and log_propensity fits."""
    if slates.shape != (batch, size):
        raise InputError(f"policy {policy}: slates of shape {slates.shape}, must be {(batch, size)}")
    check_log_propensity(log_propensity, policy, batch)
    if batch and (slates.min() < 0 or slates.max() >= items):
        raise InputError(f"policy {policy}: a slate holds an item outside 0..{items - 1}")
    ordered = np.sort(slates, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise InputError(f"policy {policy}: a slate shows an item twice")


def check_log_propensity(log_propensity: NDArray[np.float64], policy: str, batch: int) -> None:
    """Raises InputError unless log_propensity is (batch,), finite and at most 0, or nan throughout: not known."""
    # A model's float32 sum of log-probabilities may end a hair above 0.
    good = (log_propensity <= 1e-4) & np.isfinite(log_propensity)
    if log_propensity.shape != (batch,) or not (np.all(good) or np.all(np.isnan(log_propensity))):
        raise InputError(f"policy {policy}: log_propensity must be ({batch},), finite and at most 0, or all nan")
