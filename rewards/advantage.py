"""What the slate did: its effect over what the listener would have been shown anyway.

A heavy user returns whatever we play, and heavy users are not shown what others are. So nothing here regresses outcomes
on slates. Outcomes and reactions are first reduced to their surprise given the history, slates to their difference from
what the logging policy shows at that history, and only surprise is regressed on difference (Robinson, 1988; Nie &
Wager, 2021; for structured treatments Kaddour et al., 2021). What is subtracted comes from a network trained on the
other half of the users (cross-fitting, Chernozhukov et al., 2018). The effect of a slate on outcome l is

    A_l(h, slate) = sum over positions k of w_k * (a_l(h, item_k) - sum over items i of rate(i | h) a_l(h, i)),

zero on average under the logging policy at every history, by construction. Two regressions make a_l:

1. each kind of reaction c on the item shown: a slope on what the network expects of this listener with this item, a
   part linear in content, a part of the item's own. Reactions are plenty, so this is precise.
2. each outcome on the slate's predicted reactions: the surrogate index as one column with a free slope, the reactions
   one by one, and, heavily shrunk, content and items themselves for what reactions do not carry. The prediction used
   for a user comes from the other users of the fold, so that a mood that moves both a tap and a return is not taken
   for a cause. An outcome with a long window has few closed ones. So the outcome whose effects are found most surely
   (often active days of a week) is one more column for those with windows as long or longer: what a slate does to the
   first week, as learned on the other users, is most of what it does to the month.

Widths of all priors are learned (`rewards.ridge`), and members are draws from what the data leave open.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.histories import Decisions
from rewards.effect_sums import Chunk, OutcomeSums, ReactionSums, slate_design
from rewards.heads import Label
from rewards.network import Network
from rewards.reactions import Channels, Index, fit_index
from rewards.ridge import Posterior

PROXY_DAYS = 7  # the longest window of an outcome that helps with others
LEAST_GAIN = 2.0  # nats by which its effects must make the log likelier than none


@dataclass(frozen=True)
class AdvantageSettings:
    """`reference`: items with an effect of their own and a rate of exposure. `members`: draws per network."""

    reference: int = 1024
    directions: int = 16  # principal directions of content with a linear effect
    members: int = 8
    chunk: int = 2048


@dataclass(frozen=True)
class Effects:
    """What one network's fold taught: slope 0 is the mean, slopes 1..M the members.

    slopes (1 + M, C, L): of the network's expected reactions. table (1 + M, N, L): of the items. position (K,):
    weights.
    """

    slopes: Tensor
    table: Tensor
    position: Tensor


@dataclass(frozen=True)
class FoldReport:
    """Numbers that say what the two regressions found, for the quality report."""

    index: Index
    index_slope: np.ndarray  # (L,) causal slope of the surrogate index: 1 = the index is right about causes
    index_slope_error: np.ndarray  # (L,)
    design_effect: np.ndarray  # (L,) of correlated rows of one user
    reaction_slope: np.ndarray  # (C,)
    proxy: str  # the outcome whose effects help to find those of others; empty: none
    proxy_slope: np.ndarray  # (L,) standard deviations of outcome per one of the proxy; NaN where it has no part


def position_weights(decisions: Decisions, rows: np.ndarray, channels: Channels) -> np.ndarray:
    """How much is at stake at each position (K,), mean 1: its share of reactions; all ones without reactions."""
    slate, reaction = decisions.slate[rows], decisions.reaction[rows]
    if not channels.codes or not len(rows):
        return np.ones(decisions.slate.shape[1], np.float32)
    shown = (slate >= 0).sum(0)
    rate = ((channels.classes(reaction) > 0) & (slate >= 0)).sum(0) / np.maximum(shown, 1)
    weight = rate / max(float(rate[shown > 0].mean()), 1e-9)
    clipped: np.ndarray = np.clip(np.where(shown > 0, weight, 1.0), 0.2, 5.0).astype(np.float32)
    return clipped


class Fold:
    """The two regressions on one half of the users, seen through the network trained on the other half."""

    def __init__(
        self,
        network: Network,
        state: Tensor,
        recency: Tensor,
        decisions: Decisions,
        rows: np.ndarray,
        outcomes: np.ndarray,
        channels: Channels,
        content: np.ndarray,
        position: np.ndarray,
        settings: AdvantageSettings,
        seed: int,
        common_seed: int,
    ) -> None:
        """state (D, W), recency (D, columns) and outcomes (D, L, NaN = not known) are aligned with `decisions`.

        Only `rows` are read. What state and counts still predict of an outcome is taken out of its surprise, so that a
        network that has learned too little leaves noise behind, not confounding. common_seed: the same for both folds,
        of what the members draw where the log is silent.
        """
        self.network, self.state, self.decisions, self.rows = network, state, decisions, rows
        self.channels, self.position, self.settings = channels, position, settings
        self.content = content  # (N, P)
        self.reference = network.exposure.reference.numpy()
        self.place = np.full(len(content), -1, np.int64)
        self.place[self.reference] = np.arange(len(self.reference))
        self.rng = np.random.default_rng(seed)
        self.common_seed = common_seed
        # Two sides of this half, by user, so that a user's reactions never predict that same user's outcomes.
        users = int(decisions.user.max(initial=0)) + 1
        self.side = self.rng.integers(0, 2, users)[decisions.user[rows]]
        with torch.no_grad():
            expected = network.heads.means(state[torch.from_numpy(rows)]).numpy()
        with torch.no_grad():
            counts = network.trunk.counts(recency[torch.from_numpy(rows)])
            controls = torch.cat([state[torch.from_numpy(rows)], counts], dim=1).numpy()
        self.residual = partial_out(outcomes[rows] - expected, controls)
        self._seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # chunk start -> what `_reactions` said

    def chunks(self) -> Iterator[Chunk]:
        """The fold's rows in order, with everything that is relative to the logging policy worked out."""
        with torch.no_grad():
            tower = self.network.tower(self.network.exposure.reference)
            for at in range(0, len(self.rows), self.settings.chunk):
                rows = self.rows[at : at + self.settings.chunk]
                slate = self.decisions.slate[rows].astype(np.int64)
                shown = slate >= 0
                state = self.state[torch.from_numpy(rows)]
                rates = self.network.exposure(state, tower).exp()
                if at not in self._seen:
                    self._seen[at] = self._reactions(state, rates, tower, slate, rows)
                expected, surprise = self._seen[at]
                yield Chunk(
                    rows=np.arange(at, at + len(rows)),
                    rates=rates.numpy(),
                    expected=expected,
                    surprise=np.where(shown[..., None], surprise, 0.0),
                    items=np.where(shown, self.place[np.maximum(slate, 0)], -1),
                    weight=np.where(shown, self.position, 0.0).astype(np.float32),
                    content=self.content[np.maximum(slate, 0)]
                    - (rates.numpy() @ self.content[self.reference])[:, None],
                )

    def _reactions(
        self, state: Tensor, rates: Tensor, tower: Tensor, slate: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if not self.channels.codes:
            empty = np.zeros((*slate.shape, 0), np.float32)
            return empty, empty
        anyway = reactions_anyway(self.network, state, rates, tower)
        here = reaction_probabilities(self.network, state, self.network.tower(torch.from_numpy(np.maximum(slate, 0))))
        marginal = torch.softmax(self.network.reactions.anyway(state), -1)[..., 1:].numpy()
        return (here - anyway[:, None]).numpy(), self.channels.indicators(self.decisions.reaction[rows]) - marginal

    def fit(self, labels: Sequence[Label]) -> tuple[Effects, FoldReport]:
        """Both regressions, and the members drawn from them."""
        L, C, P, M = len(labels), len(self.channels.codes), self.content.shape[1], len(self.reference)
        first = ReactionSums(C, P, M)
        totals = np.zeros((len(self.rows), C), np.float32)
        for chunk in self.chunks():
            totals[chunk.rows] = chunk.surprise.sum(1)
            for side in (0, 1):
                first.add(chunk, self.side[chunk.rows] == side, side)
        index = fit_index(self.channels.names, totals, self.residual)
        reactions = [first.solve(c, (0, 1), None) for c in range(C)]
        # The prior widths learned on the whole fold serve both sides.
        by_side = [[first.solve(c, (side,), reactions[c].precision) for c in range(C)] for side in (0, 1)]

        second = OutcomeSums(C, P, M, self.residual)
        predicted = np.zeros((len(self.rows), C), np.float32)
        for chunk in self.chunks():
            slate = slate_design(chunk)
            for side in (0, 1):
                of = self.side[chunk.rows] == side
                for c in range(C):
                    mean = by_side[1 - side][c].mean.astype(np.float32)
                    own = (chunk.weight[of] * chunk.expected[of, :, c]).sum(1)
                    predicted[chunk.rows[of], c] = own * mean[0] + slate[of] @ mean[1:]
                second.add(np.concatenate([predicted[chunk.rows[of]], slate[of]], axis=1), chunk.rows[of], side)

        members = self.settings.members
        delta = np.zeros((1 + members, len(self.content), C), np.float32)
        slope = np.zeros((1 + members, C), np.float32)
        for c, posterior in enumerate(reactions):
            head, delta[:, :, c] = self._members(posterior, 1, c)
            slope[:, c] = head[:, 0]
        theta = np.zeros((1 + members, C, L), np.float32)
        table = np.zeros((1 + members, len(self.content), L), np.float32)
        slopes, errors, effects, shares = np.zeros(L), np.zeros(L), np.ones(L), np.full(L, np.nan)
        user, proxy = self.decisions.user[self.rows], -1
        for label in range(L):
            along = predicted @ index.weights[:, label]
            effects[label] = design_effect(along, self.residual[:, label], user)
        soon = [label for label in range(L) if 0 < labels[label].days <= PROXY_DAYS]
        alone = {label: second.solve(label, index.weights[:, label], float(effects[label])) for label in soon}
        sure = {label: one.gain for label, one in alone.items() if one is not None}
        best = max(sure, key=lambda label: sure[label], default=-1)
        whole = alone[best] if best >= 0 and sure[best] > LEAST_GAIN else None
        if whole is not None:
            proxy, aside = best, second.by_side(best, index.weights[:, best], whole)
        # The proxy goes first: what the others take from it is its members' effects.
        for label in sorted(range(L), key=lambda one: one != proxy):
            extra = int(proxy >= 0 and label != proxy and labels[label].days >= labels[proxy].days)
            ratio = float(np.nanstd(self.residual[:, label]) / np.nanstd(self.residual[:, proxy])) if extra else 0.0
            outcome = alone.get(label)
            if extra or outcome is None:
                column = ratio * aside if extra else None
                outcome = second.solve(label, index.weights[:, label], float(effects[label]), column)
            if outcome is None:
                continue
            slopes[label], errors[label] = outcome.mean[extra], _error(outcome, extra)
            shares[label] = outcome.mean[0] if extra else np.nan
            head, own = self._members(outcome, extra + 1 + C, C + label)
            table[:, :, label] = own
            theta[:, :, label] = head[:, extra + 1 :] + head[:, extra : extra + 1] * index.weights[:, label]
            if extra:
                table[:, :, label] += ratio * head[:, :1] * table[:, :, proxy]
                theta[:, :, label] += ratio * head[:, :1] * theta[:, :, proxy]
        table += np.einsum("mnc,mcl->mnl", delta, theta)
        effect = Effects(
            slopes=torch.from_numpy(theta * slope[:, :, None]),
            table=torch.from_numpy(table),
            position=torch.from_numpy(self.position),
        )
        of_reactions = np.array([posterior.mean[0] for posterior in reactions])
        name = labels[proxy].name if proxy >= 0 else ""
        return effect, FoldReport(index, slopes, errors, effects, of_reactions, name, shares)

    def _members(self, posterior: Posterior, head: int, which: int) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients of the first `head` columns (1 + members, head) and item effects (.., N) of regression `which`.

        A member is drawn from both folds' posteriors, and what is promised is the mean of the two: what each has seen
        errs apart, what none has seen they lack together.
        """
        P, members = self.content.shape[1], self.settings.members
        common = np.random.default_rng([self.common_seed, which])
        # An item that the log hardly shows is as uncertain as the prior says.
        own = posterior.precision[-1] ** -0.5 * common.standard_normal((1 + members, len(self.content)))
        own[0] = 0.0
        # Columns are matched from the end: only one fold may have a proxy in front.
        longest = 2 + len(self.channels.codes) + P + len(self.reference)
        prior = common.standard_normal((members, longest))[:, longest - len(posterior.mean) :]
        draws = np.concatenate([posterior.mean[None], posterior.draws_from(prior, self.rng)])
        own[:, self.reference] = draws[:, head + P :]
        items = draws[:, head : head + P] @ self.content.T + own
        return draws[:, :head].astype(np.float32), items.astype(np.float32)


def reaction_probabilities(network: Network, state: Tensor, item: Tensor) -> Tensor:
    """Probability (R, K, C) of each reaction (but none) to items (R, K, W), each at an average position."""
    logits = network.reactions.to_items(state, item) + network.reactions.position.mean(0)
    return torch.softmax(logits, -1)[..., 1:]


def reactions_anyway(network: Network, state: Tensor, rates: Tensor, tower: Tensor) -> Tensor:
    """Probability (R, C) of each reaction to what is shown anyway: reference items (M, W) at their rates (R, M)."""
    odds = network.reactions.to_catalog(state, tower)  # (1 + C, R, M)
    share = rates / odds.sum(0)
    return torch.einsum("crm,rm->rc", odds[1:], share)


def partial_out(residual: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """`residual` (R, L) less its projection on `controls` (R, W) and a constant, per column over its known rows."""
    design = np.concatenate([np.ones((len(controls), 1)), controls], axis=1).astype(np.float64)
    result = residual.astype(np.float64).copy()
    for column in range(residual.shape[1]):
        known = ~np.isnan(residual[:, column])
        if known.sum() > 4 * design.shape[1]:
            x = design[known]
            gram = x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1])
            result[known, column] -= x @ np.linalg.solve(gram, x.T @ result[known, column])
    return result.astype(np.float32)


def design_effect(x: np.ndarray, residual: np.ndarray, user: np.ndarray) -> float:
    """Variance of sum x r with users as clusters, over that with independent rows; at least 1 (Liang & Zeger, 1986)."""
    known = ~np.isnan(residual)
    score = x[known] * residual[known]
    independent = float(np.sum(score**2))
    if independent <= 0:
        return 1.0
    return max(float(np.sum(np.bincount(user[known], weights=score) ** 2)) / independent, 1.0)


def _error(posterior: Posterior, at: int) -> float:
    unit = np.zeros(len(posterior.mean))
    unit[at] = 1.0
    white = np.linalg.solve(posterior.factor, unit)
    return float(np.sqrt(white @ white))
