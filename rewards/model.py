"""The reward model: what a listener's future is worth, and what a slate would add to it.

    states = model.encode(histories, decisions)      # one pass over each history, (D, S)
    model.outcomes(states)                           # label -> calibrated expectation whatever is shown, V
    model.advantage(states, slates)                  # what each slate adds to that, A, with its spread and support

Saved as one safetensors file and one JSON file; nothing in a model folder is executed when it is read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit
from torch import Tensor

from data.errors import InputError
from data.histories import Decisions, Histories
from rewards.advantage import Effects, reaction_probabilities, reactions_anyway
from rewards.calibration import logit, read_out
from rewards.heads import Label, is_return, returned_within
from rewards.model_files import read_facts, reading
from rewards.network import Network, Shape
from rewards.objective import LoggingMoments, Objective, SlateScores
from rewards.period_trees import KNOWN, RETURN, PeriodTrees, known_of
from rewards.reactions import Channels
from rewards.sequences import batches
from rewards.training import states
from rewards.trunk import Inputs, TrunkSettings

FORMAT = 9
ENCODE_TOKENS = 16_384


@dataclass(frozen=True)
class RewardModel:
    """Two networks, each trained on half of the users, with the effects found on the other half.

    trees foretell what they can; readout (labels, 2 + S) calibrates the rest (`rewards.calibration.fit_readout`;
    None: not yet). content (N, P) are the items' principal coordinates; support_floor is the first percentile, over
    logged slates, of the mean log rate of a slate's items.
    """

    shape: Shape
    channels: Channels
    networks: tuple[Network, ...]
    effects: tuple[Effects, ...]
    readout: np.ndarray | None
    moments: LoggingMoments
    support_floor: float
    content: Tensor
    trees: PeriodTrees = field(default_factory=PeriodTrees.none)
    catalog_version: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The outcomes that have a head, in the order of every array of heads."""
        return tuple(label.name for label in self.shape.labels)

    def encode(self, histories: Histories, decisions: Decisions) -> Tensor:
        """States (D, S) of decisions, each from what was known when it was made.

        S is both networks' states, what trees are told (`rewards.period_trees.known_of`) and whether the listener had
        left, side by side.
        """
        self._check_items(histories.item)
        inputs = Inputs.of(histories, decisions)
        rows = np.arange(len(decisions))
        plan = batches(histories, decisions, rows, self.shape.trunk.window, ENCODE_TOKENS)
        encoded = [
            states(network, replace(inputs, taste=network.tastes(histories, decisions)), plan, len(rows))
            for network in self.networks
        ]
        return side_by_side(encoded, inputs.recency, histories, decisions)

    @torch.no_grad()
    def outcomes(self, states: Tensor) -> dict[str, np.ndarray]:
        """Calibrated expectation (B,) of every label at states (B, S), under the policy that wrote the log."""
        split, (known, gone) = self._split(states), self.known(states)
        plain = self._shares(split)
        by_trees = self.trees.shares(self.shape.labels, known.numpy())
        features = torch.cat([*split, self.networks[0].trunk.counts(known[:, :-1])], 1).numpy()
        result: dict[str, np.ndarray] = {}
        floor: np.ndarray | None = None
        for column, label in enumerate(self.shape.labels):
            if label.name in by_trees:
                share = by_trees[label.name]
            elif self.readout is None:
                share = plain[:, column]
            else:
                share = read_out(self.readout[column], plain[:, column], features)
            if label.kind == "risks":
                share = np.where(gone.numpy() > 0, 0.0, share)  # who has left does not come within reach again
            if is_return(label.name):
                # Horizons are calibrated one by one; a later one may not fall below an earlier one.
                floor = share if floor is None else np.maximum(floor, share)
                share = floor
            result[label.name] = (share * label.trials).astype(np.float32)
        return result

    @torch.no_grad()
    def return_curve(self, states: Tensor) -> np.ndarray:
        """Probability (B, J) of having returned by the end of local day 0, 1, .. J - 1; calibrated like `outcomes`.

        Retention is calibrated at its horizons; what that changes in the log-odds is drawn as a line between them.
        """
        if RETURN in self.trees.by_family:
            return self.trees.return_curve(self.known(states)[0].numpy(), self.shape.bins)
        split = zip(self.networks, self._split(states))
        raw = torch.stack([returned_within(n.heads.read(z)[:, : self.shape.bins]) for n, z in split]).mean(0).numpy()
        mended = self.outcomes(states)
        horizons = [label for label in self.shape.labels if is_return(label.name)]
        days = np.array([label.days for label in horizons])
        change = np.stack([logit(mended[h.name]) - logit(raw[:, h.days]) for h in horizons], axis=1)  # (B, horizons)
        order = np.argsort(days)
        days, change = days[order], change[:, order]
        after = np.clip(np.searchsorted(days, np.arange(raw.shape[1]), side="left"), 1, max(len(days) - 1, 1))
        left, right = np.minimum(after - 1, len(days) - 1), np.minimum(after, len(days) - 1)
        share = np.clip((np.arange(raw.shape[1]) - days[left]) / np.maximum(days[right] - days[left], 1), 0.0, 1.0)
        mended_curve = expit(logit(raw) + (1 - share) * change[:, left] + share * change[:, right])
        curve: np.ndarray = np.maximum.accumulate(mended_curve, axis=1)
        return curve

    @torch.no_grad()
    def advantage(self, states: Tensor, slates: Tensor, chunk: int = 512) -> SlateScores:
        """Advantage of slates (B, N, K) int64 of catalog rows, -1 for none, at states (B, S). See `SlateScores`.

        Raises InputError for an item that is not of its catalog, or slates longer than those it was trained on.
        """
        if states.shape[0] != slates.shape[0]:
            raise ValueError(
                f"{states.shape[0]} states but slates for {slates.shape[0]}: give one row of slates a state"
            )
        if slates.shape[2] > self.shape.slate_size:
            raise InputError(
                f"reward model: slates of {slates.shape[2]} items, but it was trained on {self.shape.slate_size}: "
                "give shorter ones, or train it on a log of longer ones"
            )
        self._check_items(slates.numpy())
        parts = [
            self._advantage(states[at : at + chunk], slates[at : at + chunk]) for at in range(0, len(states), chunk)
        ]
        if not parts:
            empty = torch.zeros((0, slates.shape[1], len(self.labels)))
            return SlateScores(empty, empty, torch.zeros((0, slates.shape[1])))
        return SlateScores(
            torch.cat([part.mean for part in parts]),
            torch.cat([part.spread for part in parts]),
            torch.cat([part.support for part in parts]),
        )

    def objective(
        self,
        weights: Mapping[str, float] | None = None,
        kappa: float = 1.0,
        penalty: float = 0.5,
        constraints: Sequence[str] = (),
    ) -> Objective:
        """An objective over this model's heads, normalised under the logging policy."""
        return self.moments.objective(weights, kappa, penalty, constraints)

    def known(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What trees are told (B, KNOWN) and who had left (B,)."""
        return states[:, -KNOWN - 1 : -1], states[:, -1]

    def _split(self, states: Tensor) -> tuple[Tensor, ...]:
        width, networks = self.shape.state, len(self.networks)
        expected = width * networks + KNOWN + 1
        if states.shape[1] != expected:
            raise ValueError(f"states are {states.shape[1]} wide, this model's are {expected}")
        parts: tuple[Tensor, ...] = torch.split(states[:, : width * networks], width, dim=1)
        return parts

    def _shares(self, split: Sequence[Tensor]) -> np.ndarray:
        """Share (B, labels) of every label by the networks' heads, on average."""
        trials = torch.tensor([float(label.trials) for label in self.shape.labels])
        by_network = [network.heads.means(state) for network, state in zip(self.networks, split, strict=True)]
        found: np.ndarray = (torch.stack(by_network).mean(0) / trials).double().numpy()
        return found

    def _advantage(self, states: Tensor, slates: Tensor) -> SlateScores:
        members, supports = [], []
        for network, effects, state in zip(self.networks, self.effects, self._split(states)):
            scores, support = slate_effects(network, effects, self.channels, state, slates)
            members.append(scores)
            supports.append(support)
        stacked = torch.stack(members)  # (networks, 1 + M, B, N, L)
        draws = stacked[:, 1:].mean(0)  # a member is the mean of what both networks' folds have it say
        support = torch.stack(supports).mean(0) - self.support_floor
        return SlateScores(stacked[:, 0].mean(0), draws.std(0), support)

    def _check_items(self, items: np.ndarray) -> None:
        if items.size and int(items.max()) >= len(self.content):
            raise InputError(
                f"reward model: item row {int(items.max())} but it knows {len(self.content)} items: "
                "train it on this catalog"
            )

    def save(self, folder: Path) -> None:
        """Write model.safetensors and model.json into `folder` (made if need be)."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"content": self.content, "moments": torch.from_numpy(self.moments.covariance)}
        if self.readout is not None:
            tensors["readout"] = torch.from_numpy(self.readout)
        for index, (network, effects) in enumerate(zip(self.networks, self.effects)):
            tensors |= {f"network.{index}.{name}": value for name, value in network.state_dict().items()}
            tensors |= {f"effects.{index}.{name}": value for name, value in vars(effects).items()}
        save_file({name: value.clone().contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
        (folder / "trees.json").write_text(json.dumps(asdict(self.trees), indent=0, sort_keys=True) + "\n")
        facts = {
            "format": FORMAT,
            "shape": asdict(self.shape),
            "channels": list(self.channels.codes),
            "support_floor": self.support_floor,
            "catalog_version": self.catalog_version,
        }
        (folder / "model.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(folder: Path) -> "RewardModel":
        """Read what `save` wrote. Raises InputError when it is not there, broken, or of another format."""
        what, fix = "reward model", "train it with scripts/train_rewards.py"
        with reading(folder, what, fix):
            facts = read_facts(folder, what, FORMAT, fix)
            trees = json.loads((folder / "trees.json").read_text())
            return RewardModel._read(facts, trees, load_file(folder / "model.safetensors"))

    @staticmethod
    def _read(facts: dict[str, Any], trees: dict[str, Any], tensors: dict[str, Tensor]) -> "RewardModel":
        raw = facts["shape"]
        shape = Shape(
            trunk=TrunkSettings(**raw["trunk"]),
            labels=tuple(Label(**label) for label in raw["labels"]),
            bins=raw["bins"],
            slate_size=raw["slate_size"],
            classes=raw["classes"],
            rank=raw["rank"],
            directions=raw["directions"],
        )
        networks, effects = [], []
        for index in range(len({name.split(".")[1] for name in tensors if name.startswith("network.")})):
            prefix = f"network.{index}."
            state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            network = Network(shape, tensors["content"], state["exposure.reference"], state["exposure.log_share"])
            network.load_state_dict(state)
            networks.append(network.eval())
            prefix = f"effects.{index}."
            found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            effects.append(Effects(**found))
        return RewardModel(
            shape=shape,
            channels=Channels(tuple(facts["channels"])),
            networks=tuple(networks),
            effects=tuple(effects),
            readout=tensors["readout"].numpy() if "readout" in tensors else None,
            moments=LoggingMoments(tuple(label.name for label in shape.labels), tensors["moments"].numpy()),
            support_floor=facts["support_floor"],
            content=tensors["content"],
            trees=PeriodTrees(**trees),
            catalog_version=facts["catalog_version"],
        )

    def apart(self, states: Tensor) -> list[tuple["RewardModel", Tensor]]:
        """Each network as a model of its own, uncalibrated, with its part of states (B, S): two opinions on a slate's
        advantage that learned from different people's outcomes, so that one may choose and the other value."""
        parts, known = self._split(states), states[:, -KNOWN - 1 :]
        return [
            (
                replace(self, networks=(n,), effects=(e,), readout=None, trees=PeriodTrees.none()),
                torch.cat([part, known], dim=1),
            )
            for n, e, part in zip(self.networks, self.effects, parts, strict=True)
        ]

    def normalised(self, moments: LoggingMoments, support_floor: float) -> "RewardModel":
        """The same model with what was measured on logged slates."""
        return replace(self, moments=moments, support_floor=support_floor)


def side_by_side(encoded: Sequence[Tensor], recency: Tensor, histories: Histories, decisions: Decisions) -> Tensor:
    """The states (D, S) of `RewardModel.encode`, from those of each network."""
    known = torch.from_numpy(known_of(recency.numpy(), decisions.hour_of_week))
    gone = torch.from_numpy(histories.left(decisions) < decisions.time).to(recency.dtype)
    return torch.cat([*encoded, known, gone[:, None]], dim=1)


def slate_effects(
    network: Network, effects: Effects, channels: Channels, state: Tensor, slates: Tensor
) -> tuple[Tensor, Tensor]:
    """Advantage (1 + M, B, N, L) of slates (B, N, K) by one network, and mean log rate (B, N) of their items.

    An item outside the reference counts as half as likely as the least likely reference item.
    """
    B, N, K = slates.shape
    members, _, L = effects.table.shape
    shown = slates >= 0
    safe = slates.clamp_min(0)
    weight = torch.where(shown, effects.position[:K], torch.zeros(()))  # (B, N, K)
    tower = network.tower(network.exposure.reference)
    log_rates = network.exposure(state, tower)  # (B, M)
    rates = log_rates.exp()

    # The part that is the same for every listener: a table of items, less its mean over what is shown anyway.
    flat = effects.table.permute(1, 0, 2).reshape(-1, members * L)  # (items, members * L)
    own = torch.nn.functional.embedding_bag(
        safe.view(-1, K), flat, mode="sum", per_sample_weights=weight.view(-1, K)
    ).view(B, N, members, L)
    anyway = (rates @ flat[network.exposure.reference]).view(B, 1, members, L)
    total = weight.sum(-1)[..., None, None]
    score = own - total * anyway

    # The part that is this listener's: reactions expected to these items, less those to what is shown anyway.
    if channels.codes:
        item = network.tower(safe.view(B, N * K))
        base = reactions_anyway(network, state, rates, tower)
        here = reaction_probabilities(network, state, item)
        C = here.shape[-1]
        surplus = here.view(B, N, K, C) - base[:, None, None]
        summed = torch.einsum("bnk,bnkc->bnc", weight, surplus)
        score = score + torch.einsum("bnc,mcl->bnml", summed, effects.slopes)

    place = torch.full((effects.table.shape[1],), -1, dtype=torch.int64)
    place[network.exposure.reference] = torch.arange(len(network.exposure.reference))
    at = place[safe]
    rate = log_rates.gather(1, at.clamp_min(0).view(B, -1)).view(B, N, K)
    least = log_rates.min(1).values[:, None, None] - float(np.log(2.0))
    rate = torch.where(at >= 0, rate, least)
    support = torch.where(shown, rate, torch.zeros(())).sum(-1) / shown.sum(-1).clamp_min(1)
    return score.permute(2, 0, 1, 3), support
