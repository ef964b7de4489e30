"""What a message adds to holding: how likely it is opened and ends in an opt-out, and what it changes in later weeks.

    reward = MessageReward.load(folder)
    scores = reward.score(contexts, column, channel, hour)     # N moves for each of B listeners; column -1 is to hold
    scores.lower                                               # (B, N) in the combined objective's units; 0 for holding
    reward.weighted({"active_days_28": 1.0}, multiplier=0.5)   # another objective, with a price on reachability

Every head but the hazard is an advantage over holding. Trained by `rewards.message_training`; saved as one safetensors
file and one JSON file, nothing of which is executed when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from data.errors import InputError
from data.message_log import MessageLog, take_contexts
from data.world.environment import MessageContexts
from data.world.message_policies import allowed_channels
from data.world.settings import CHANNELS
from rewards.message_features import SLOT_STARTS, Floats, MessageCatalog, Moves, moves, situation
from rewards.model_files import read_facts, reading
from rewards.objective import LoggingMoments, Objective, SlateScores
from rewards.sending import Sending, legal_moves

FORMAT = 2
NAME = "messages"  # of its folder in a run's rewards/
HEADS = ("opens", "caused_sessions", "active_days_28", "converted_28", "reachable_28")
REACHABLE = "reachable_28"
DEFAULT_WEIGHTS = {"active_days_28": 1.0}
# Spreads below the mean at which a message is taken for worth sending. By a whole one hardly any is in some worlds
# (docs/message-rewards.md); decided on worlds that no claim is made in.
KAPPA = 0.25
SUPPORTED_SENDS = 50  # of a domain, by a channel, in a slot: what fewer say is taken less for true
IN_APP = CHANNELS.index("in_app")
_CHUNK = 1024


@dataclass(frozen=True)
class MessageFold:
    """What one half of the users taught. comes, opens, opts_out: logistic weights; effects (1 + M, P, len(HEADS) - 1):
    of `effect_columns` on the heads but opens, the mean first, then the members."""

    comes: Floats
    opens: Floats
    opts_out: Floats
    effects: Floats

    def read(self, x: Floats, made: Moves, catalog: MessageCatalog) -> tuple[Floats, Floats, Floats]:
        """(P(open), P(opt-out), effect columns), (B, N), (B, N) and (B, N, P), at situations x (B, S)."""
        comes = expit(x @ self.comes)
        opens = np.where(made.held, 0.0, expit(open_columns(x, made, comes, catalog) @ self.opens))
        hazard = np.where(made.held, 0.0, expit(opt_out_columns(x, made) @ self.opts_out))
        return opens, hazard, effect_columns(x, made, comes, opens, hazard, catalog)


def open_columns(x: Floats, made: Moves, comes: Floats, catalog: MessageCatalog) -> Floats:
    """(B, N, Z) what an open depends on."""
    channel = np.eye(len(CHANNELS))[made.channel]
    present = np.log(np.clip(comes, 0.02, 0.98))[:, None]  # a message in the app is seen by who comes
    batch, count = made.held.shape
    about = np.broadcast_to(x[:, None, 1:], (batch, count, x.shape[1] - 1))
    parts = [
        channel,
        np.eye(len(catalog.domains))[made.domain],
        channel * made.value[..., None],
        made.valued[..., None],
        made.affinity[..., None],
        made.load[..., None],
        np.eye(len(SLOT_STARTS))[made.slot],
        np.where(made.channel == IN_APP, present, 0.0)[..., None],
        np.where(made.channel != IN_APP, present, 0.0)[..., None],
        about,
    ]
    return np.concatenate(parts, axis=2)


def opt_out_columns(x: Floats, made: Moves) -> Floats:
    """(B, N, Q) what an opt-out depends on: few columns, as there are few of them."""
    channel = np.eye(len(CHANNELS))[made.channel]
    dismisses = np.broadcast_to(x[:, None, -2:-1], (*made.held.shape, 1))
    parts = [channel, made.load[..., None], made.value[..., None], made.affinity[..., None], dismisses]
    return np.concatenate(parts, axis=2)


def effect_columns(
    x: Floats, made: Moves, comes: Floats, opens: Floats, hazard: Floats, catalog: MessageCatalog
) -> Floats:
    """(B, N, P) what an effect is linear in; all 0 where it is held.

    First what an open brings (`GAIN` of it, the visit of somebody who would not have come), then what a message costs
    whether it is opened or not.
    """
    outside = made.channel != IN_APP
    away = (1.0 - comes)[:, None]
    opened = opens[..., None]
    channel = np.eye(len(CHANNELS))[made.channel]
    slot = np.eye(len(SLOT_STARTS))[made.slot]
    parts = [
        (opens * away * outside)[..., None],
        hazard[..., None],
        (opens * outside)[..., None],
        (opens * ~outside)[..., None],
        opened * np.eye(len(catalog.domains))[made.domain],
        channel,
        channel * made.load[..., None],
        channel * made.value[..., None],
        channel * made.affinity[..., None],
        np.broadcast_to(comes[:, None, None], (*made.held.shape, 1)),
        slot,
    ]
    found: Floats = np.where(made.held[..., None], 0.0, np.concatenate(parts, axis=2))
    return found


GAIN, HAZARD = 0, 1  # the columns of which effects are foretold before any is estimated


def effect_groups(catalog: MessageCatalog) -> NDArray[np.int64]:
    """(P,) the group of each effect column: columns of a group share the width of their prior."""
    sizes = (1, 1, 2, len(catalog.domains), len(CHANNELS), len(CHANNELS), 2 * len(CHANNELS), 1, len(SLOT_STARTS))
    return np.repeat(np.arange(len(sizes)), sizes)


@dataclass(frozen=True)
class MessageScores:
    """N moves for each of B listeners, (B, N); all 0 for holding.

    mean: advantage over holding in the combined objective's units (standard deviations of a logged decision); lower:
    its lower confidence bound, less what lies outside the log's support and less the price of a message. heads: opens,
    caused_sessions, active_days_28, converted_28, reachable_28 (advantages, in their own units) and opt_out (the hazard
    of this message). slate: the same as the objective and `rewards.pareto` read it.
    """

    mean: Floats
    lower: Floats
    heads: Mapping[str, Floats]
    slate: SlateScores


@dataclass(frozen=True)
class MessageReward:
    """Two folds, each taught by the half of the users that the other did not see, and the objective over their heads.

    seen (channels, domains, slots): sends of the log. logged_reach: mean advantage on REACHABLE of the logged
    decisions: what "as reachable as today" means. price: of a message, in the objective's units (see `keeping_sends`).
    """

    catalog: MessageCatalog
    folds: tuple[MessageFold, ...]
    sending: Sending
    seen: Floats
    moments: LoggingMoments
    logged_reach: float
    objective: Objective
    price: float = 0.0

    def weighted(
        self,
        weights: Mapping[str, float] | None = None,
        multiplier: float = 0.0,
        kappa: float = KAPPA,
        penalty: float = 0.5,
    ) -> MessageReward:
        """The same reward with other weights, and a Lagrange multiplier on reachability not falling below the log's;
        messages are free again.

        Raises InputError for a weight on what is no head.
        """
        made = self.moments.objective(DEFAULT_WEIGHTS if weights is None else weights, kappa, penalty, (REACHABLE,))
        scale = made.scales[HEADS.index(REACHABLE)]
        kept = replace(made.constraints[0], floor=self.logged_reach / scale, multiplier=multiplier)
        return replace(self, objective=replace(made, constraints=(kept,)), price=0.0)

    def keeping_sends(self, log: MessageLog) -> MessageReward:
        """The reward with the smallest price of a message at which its best moves send something no more often than
        these decisions did: a Lagrange multiplier."""
        column, channel, hour, allowed = legal_moves(log.contexts, self.sending.weekly_cap)
        free = replace(self, price=0.0)
        worth = np.where(allowed, free.score(log.contexts, column, channel, hour).lower, -np.inf)
        best = np.sort(worth.max(axis=1, initial=-np.inf))[::-1]
        sent = int((log.column >= 0).sum())  # as many may be; the next one is too many
        return replace(self, price=max(float(best[sent]), 0.0) if sent < len(best) else 0.0)

    def score(
        self,
        contexts: MessageContexts,
        column: NDArray[np.integer],
        channel: NDArray[np.integer],
        hour: NDArray[np.integer],
    ) -> MessageScores:
        """Scores of the moves (column of contexts.eligible, channel, local hour), (B, N) each; column -1 is to hold.

        Raises InputError where shapes differ, or a message is not one of this reward's catalog.
        """
        self._check(contexts, column, channel, hour)
        parts = []
        for at in range(0, len(contexts), _CHUNK):
            rows = np.arange(at, min(at + _CHUNK, len(contexts)))
            parts.append(self._score(take_contexts(contexts, rows), column[rows], channel[rows], hour[rows]))
        if not parts:
            parts.append((np.zeros((*column.shape, len(HEADS))),) * 2 + (np.zeros(column.shape),) * 2)
        mean, spread, support, hazard = (np.concatenate(part) for part in zip(*parts, strict=True))
        slate = SlateScores(*(torch.from_numpy(part.astype(np.float32)) for part in (mean, spread, support)))
        heads = {name: mean[..., place] for place, name in enumerate(HEADS)} | {"opt_out": hazard}
        value, lower = self.objective.value(slate), self.objective.lower_bound(slate)
        priced = lower.numpy().astype(np.float64) - self.price * (column >= 0)
        return MessageScores(value.numpy().astype(np.float64), priced, heads, slate)

    def _score(
        self,
        contexts: MessageContexts,
        column: NDArray[np.integer],
        channel: NDArray[np.integer],
        hour: NDArray[np.integer],
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """(mean (b, N, heads), spread, support (b, N), hazard (b, N))."""
        made, x = moves(contexts, self.catalog, column, channel, hour), situation(contexts)
        opens, hazards, means = [], [], []
        total, squares, count = np.zeros(()), np.zeros(()), 0
        for fold in self.folds:
            opened, hazard, columns = fold.read(x, made, self.catalog)
            members, width, heads = fold.effects.shape
            # One product of matrices in single precision: moves are many, and einsum would not hand this to the BLAS.
            weights = fold.effects.transpose(1, 2, 0).reshape(width, -1).astype(np.float32)
            found = (columns.reshape(-1, width).astype(np.float32) @ weights).reshape(*column.shape, heads, members)
            opens.append(opened)
            hazards.append(hazard)
            means.append(found[..., 0])
            total = total + found[..., 1:].sum(axis=-1)
            squares = squares + np.einsum("bnlm,bnlm->bnl", found[..., 1:], found[..., 1:])
            count += members - 1
        opened = np.stack(opens)[..., None]
        variance = np.maximum(squares - total**2 / count, 0.0) / (count - 1)
        mean = np.concatenate([opened.mean(axis=0), np.mean(means, axis=0)], axis=-1)
        spread = np.concatenate([opened.std(axis=0), np.sqrt(variance)], axis=-1)
        return mean, spread, self._support(contexts, made), np.mean(hazards, axis=0)

    def _support(self, contexts: MessageContexts, made: Moves) -> Floats:
        """(B, N) log of how much of what is needed the log says of such a message; 0 where it is enough, or held."""
        sends = self.seen[made.channel, made.domain, made.slot]
        unused = self.sending.hour[made.hour % 24] == 0
        over = ~np.take_along_axis(allowed_channels(contexts, self.sending.weekly_cap), made.channel, axis=1)
        sends = np.where(unused | over, 0.0, sends)
        short: Floats = np.minimum(np.log1p(sends) - np.log1p(SUPPORTED_SENDS), 0.0)
        return np.where(made.held, 0.0, short)

    def _check(
        self,
        contexts: MessageContexts,
        column: NDArray[np.integer],
        channel: NDArray[np.integer],
        hour: NDArray[np.integer],
    ) -> None:
        shapes = {column.shape, channel.shape, hour.shape}
        if len(shapes) != 1 or column.ndim != 2 or len(column) != len(contexts):
            raise InputError(
                f"message reward: column {column.shape}, channel {channel.shape} and hour {hour.shape} for "
                f"{len(contexts)} contexts: give (B, N) of each"
            )
        known, most = len(self.catalog.item_ids), contexts.eligible.shape[1]
        if contexts.eligible.size and int(contexts.eligible.max()) >= known:
            row = int(contexts.eligible.max())
            raise InputError(f"message reward: message row {row}, but it knows {known}: train it on this log")
        if column.size and int(column.max()) >= most:
            raise InputError(f"message reward: column {int(column.max())} of {most} opportunities")
        if contexts.item.size and int(contexts.item.max()) >= len(self.catalog.item_tags):
            raise InputError("message reward: histories hold items that it does not know: train it on this catalog")

    def save(self, folder: Path) -> None:
        """Write model.safetensors and model.json into `folder` (made if need be)."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray[np.generic]] = {
            "seen": self.seen,
            "moments": self.moments.covariance,
            "domain": self.catalog.domain,
            "tags": self.catalog.tags,
            "item_tags": self.catalog.item_tags,
            "sending.channel": self.sending.channel,
            "sending.column": self.sending.column,
            "sending.hour": self.sending.hour,
        }
        for index, fold in enumerate(self.folds):
            tensors |= {f"fold.{index}.{name}": value for name, value in vars(fold).items()}
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
        facts = {
            "format": FORMAT,
            "items": list(self.catalog.item_ids),
            "domains": list(self.catalog.domains),
            "folds": len(self.folds),
            "hold": self.sending.hold,
            "weekly_cap": self.sending.weekly_cap,
            "logged_reach": self.logged_reach,
            "weights": dict(self.objective.weights),
            "multiplier": self.objective.constraints[0].multiplier,
            "kappa": self.objective.kappa,
            "penalty": self.objective.penalty,
            "price": self.price,
        }
        (folder / "model.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(folder: Path) -> MessageReward:
        """Read what `save` wrote. Raises InputError when it is not there, broken, or of another format."""
        what, fix = "message reward", "train it with scripts/train_message_rewards.py"
        with reading(folder, what, fix):
            facts = read_facts(folder, what, FORMAT, fix)
            return MessageReward._read(facts, load_file(folder / "model.safetensors"))

    @staticmethod
    def _read(facts: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> MessageReward:
        catalog = MessageCatalog(
            tuple(facts["items"]), tuple(facts["domains"]), tensors["domain"], tensors["tags"], tensors["item_tags"]
        )
        sent = {name: tensors[f"sending.{name}"] for name in ("channel", "column", "hour")}
        parts = ("comes", "opens", "opts_out", "effects")
        folds = tuple(
            MessageFold(**{name: tensors[f"fold.{index}.{name}"] for name in parts}) for index in range(facts["folds"])
        )
        made = MessageReward.made(
            catalog,
            folds,
            Sending(hold=facts["hold"], weekly_cap=facts["weekly_cap"], **sent),
            tensors["seen"],
            LoggingMoments(HEADS, tensors["moments"]),
            facts["logged_reach"],
        ).weighted(facts["weights"], facts["multiplier"], facts["kappa"], facts["penalty"])
        return replace(made, price=facts["price"])

    @classmethod
    def made(
        cls,
        catalog: MessageCatalog,
        folds: tuple[MessageFold, ...],
        sending: Sending,
        seen: Floats,
        moments: LoggingMoments,
        logged_reach: float,
    ) -> MessageReward:
        """A reward with the default objective."""
        plain = cls(catalog, folds, sending, seen, moments, logged_reach, moments.objective(DEFAULT_WEIGHTS))
        return plain.weighted()
