"""Training a message reward: what is precise first, what is scarce on top of it, each half of the users apart.

1. Of one half: who comes anyway (from held decisions, which chance chose), what is opened, what ends in an opt-out.
2. Of the other half: surprise regressed on difference (R-learner; Robinson 1988, Nie & Wager 2021). An outcome less
   what trees fitted on the first half expect of the situation, on the columns of the move less their mean over all
   moves under mu (`rewards.sending`), each decision counting mu / p with its logged probability p.

What opens foretell is taken as given before the second regression looks: a visit of somebody who would not have come is
a session and an active day, and an opt-out is one. It learns what is wrong with that, and what else a message does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from data.errors import InputError
from data.logistic import fit_logistic
from data.message_log import MessageLog, take_contexts
from data.world.settings import CHANNELS
from rewards.calibration import auc, calibration_error
from rewards.message_features import SLOT_STARTS, Floats, MessageCatalog, Moves, moves, situation
from rewards.messages import (
    GAIN,
    HAZARD,
    HEADS,
    REACHABLE,
    MessageFold,
    MessageReward,
    effect_groups,
    open_columns,
    opt_out_columns,
)
from rewards.objective import LoggingMoments
from rewards.ridge import fit_ridge
from rewards.sending import Sending, fit_sending, importance
from rewards.uplift import trees

LABEL_OF = {
    "caused_sessions": "sessions_1d",
    "active_days_28": "active_days_28",
    "converted_28": "converted_28",
    REACHABLE: "opted_out_28",
}
EFFECTS = HEADS[1:]
# Before any data: what an open of somebody away brings, and what an opt-out costs.
FORETOLD = {("caused_sessions", GAIN): 1.0, ("active_days_28", GAIN): 1.0, (REACHABLE, HAZARD): -1.0}
PRICED = 4_000  # decisions on which prices are found
_CHUNK = 4096


@dataclass(frozen=True)
class MessageRewardSettings:
    """members: draws of the effects per half. weekly_cap: the rule the log's policy kept. prior: of logistic weights,
    in rows of a unit column. rounds: of trees, for what is expected of a situation."""

    members: int = 16
    weekly_cap: int = 3
    prior: float = 2.0
    rounds: int = 150


def train_message_reward(
    log: MessageLog,
    catalog: MessageCatalog,
    settings: MessageRewardSettings = MessageRewardSettings(),
    seed: int = 0,
) -> tuple[MessageReward, dict[str, Any]]:
    """A message reward and what was found on the way (JSON).

    Labels must be as they stood when training may know them (`read_message_log(..., end=...)`). Raises InputError where
    the log has one user only, no propensities, wrong ones, too few sends, half of its users never held or never sent
    anything, or no label that has closed.
    """
    users = len(np.unique(log.user))
    if users < 2:
        raise InputError(f"messages: {users} user in the log is too few: each half of the users needs one, give more")
    if all(np.isnan(log.labels[label]).all() for label in LABEL_OF.values()):
        raise InputError("messages: no outcome of the log has closed: give a log of more than 28 days")
    sending = fit_sending(log, catalog, settings.weekly_cap)
    half = np.random.default_rng(seed).permutation(len(log.user_ids)) % 2
    side = half[log.user]
    _check_halves(log, side)
    weight = importance(log, sending, catalog)
    x = situation(log.contexts)
    made = moves(log.contexts, catalog, log.column[:, None], log.channel[:, None], log.hour[:, None])
    wide = np.concatenate([x, log.past, log.contexts.consent], axis=1)  # what trees read
    folds, told = [], []
    for k in (0, 1):
        teach, ask = np.flatnonzero(side == k), np.flatnonzero(side != k)
        first = _reactions(log, x, made, teach, catalog, settings)
        fold, found = _effects(first, log, x, made, wide, weight, teach, ask, catalog, sending, settings, seed + k)
        folds.append(fold)
        told.append(found)
    seen = np.zeros((len(CHANNELS), len(catalog.domains), len(SLOT_STARTS)))
    sent = ~made.held[:, 0]
    np.add.at(seen, (made.channel[sent, 0], made.domain[sent, 0], made.slot[sent, 0]), 1.0)
    empty = LoggingMoments(HEADS, np.eye(len(HEADS)))
    reward = MessageReward.made(catalog, tuple(folds), sending, seen, empty, 0.0)
    logged = reward.score(log.contexts, log.column[:, None], log.channel[:, None], log.hour[:, None]).slate
    advantages = logged.mean[:, 0].numpy().astype(np.float64)
    reach = float(advantages[:, HEADS.index(REACHABLE)].mean())
    reward = MessageReward.made(
        catalog, tuple(folds), sending, seen, LoggingMoments(HEADS, np.cov(advantages.T)), reach
    )
    asked = np.sort(np.random.default_rng(seed).permutation(len(log))[:PRICED])
    reward = reward.keeping_sends(log.take(asked))
    report = {
        "rows": {"decisions": len(log), "sends": int(sent.sum()), "users": len(log.user_ids)},
        "weights": {"effective": float(weight.sum() ** 2 / (weight**2).sum()), "largest": float(weight.max())},
        "effects": {
            name: {
                "sd_under_logging": float(advantages[:, place].std()),
                "mean_of_sends": float(advantages[sent, place].mean()),
                "halves": [found.get(name) for found in told],
            }
            for place, name in enumerate(HEADS)
        },
        "logged_reach": reach,
        "price": reward.price,
        "settings": asdict(settings),
    }
    return reward, report


def message_quality(reward: MessageReward, log: MessageLog) -> dict[str, Any]:
    """How well opens, visits and opt-outs are foretold on `log`, by channel: predicted, observed, AUC and ECE."""
    sent = np.flatnonzero(log.column >= 0)
    told = log.take(sent)
    scores = reward.score(told.contexts, told.column[:, None], told.channel[:, None], told.hour[:, None])
    found: dict[str, Any] = {}
    for name, truth in (("opens", told.opened), ("opt_out", told.opted_out)):
        share = scores.heads[name][:, 0]
        groups = {"all": np.ones(len(sent), np.bool_)}
        groups |= {channel: told.channel == c for c, channel in enumerate(CHANNELS)}
        found[name] = {group: _measures(share[rows], truth[rows]) for group, rows in groups.items() if rows.any()}
    return found


def _measures(share: Floats, truth: NDArray[np.bool_]) -> dict[str, float | None]:
    return {
        "n": len(share),
        "predicted": float(share.mean()),
        "observed": float(truth.mean()),
        "auc": auc(share, truth.astype(np.float64)) if 0 < truth.sum() < len(truth) else None,
        "ece": calibration_error(share, truth.astype(np.float64)),
    }


def _check_halves(log: MessageLog, side: NDArray[np.integer]) -> None:
    """Raises InputError unless each half of the users has a decision that was held and one that was sent, of days that
    are over."""
    over = ~np.isnan(log.labels["active_today"])
    for what, of in (("held", log.column < 0), ("sent", log.column >= 0)):
        if len(np.unique(side[of & over])) < 2:
            raise InputError(
                f"messages: half of the users or more have no decision that was {what} on a day that is over: effects "
                "are what sending adds to holding, so log for longer, with a policy that does both"
            )


def _reactions(
    log: MessageLog,
    x: Floats,
    made: Moves,
    rows: NDArray[np.int64],
    catalog: MessageCatalog,
    settings: MessageRewardSettings,
) -> MessageFold:
    """The three logistic models of one half; no effects yet."""
    came = log.labels["active_today"]
    held = rows[made.held[rows, 0] & ~np.isnan(came[rows])]
    comes = _fit(x[held], came[held], settings.prior, 1)
    sent = rows[~made.held[rows, 0] & ~np.isnan(came[rows])]  # what was sent today may be opened yet
    of = _take_moves(made, sent)
    anyway = expit(x[sent] @ comes)
    opens = _fit(open_columns(x[sent], of, anyway, catalog)[:, 0], log.opened[sent], settings.prior, len(CHANNELS))
    opts_out = _fit(opt_out_columns(x[sent], of)[:, 0], log.opted_out[sent], settings.prior, len(CHANNELS))
    return MessageFold(comes, opens, opts_out, np.zeros((0, 0, 0)))


def _fit(columns: Floats, outcome: NDArray[np.generic], prior: float, levels: int) -> Floats:
    """Logistic weights with the same prior whatever the columns' units.

    The first `levels` columns are drawn to the log-odds of the mean outcome, so that what is rare stays so where little
    is known; the others to 0.
    """
    size = np.maximum(np.sqrt(np.mean(columns**2, axis=0)), 1e-9)
    centre = np.zeros(columns.shape[1])
    mean = (float(outcome.sum()) + 0.5) / (len(outcome) + 1.0)
    centre[:levels] = np.log(mean / (1.0 - mean)) * size[:levels]
    found: Floats = fit_logistic(columns / size, outcome, np.full(columns.shape[1], prior), centre) / size
    return found


def _take_moves(made: Moves, rows: NDArray[np.int64]) -> Moves:
    return Moves(**{name: value[rows] for name, value in vars(made).items()})


def _effects(
    first: MessageFold,
    log: MessageLog,
    x: Floats,
    made: Moves,
    wide: Floats,
    weight: Floats,
    teach: NDArray[np.int64],
    ask: NDArray[np.int64],
    catalog: MessageCatalog,
    sending: Sending,
    settings: MessageRewardSettings,
    seed: int,
) -> tuple[MessageFold, dict[str, Any]]:
    """The effects found on `ask` with what `teach` says is to be expected."""
    difference = _differences(first, log, x, made, ask, catalog, sending)  # (n, P)
    group = effect_groups(catalog)
    rng = np.random.default_rng(seed)
    effects = np.zeros((1 + settings.members, difference.shape[1], len(EFFECTS)))
    told: dict[str, Any] = {}
    for place, head in enumerate(EFFECTS):
        outcome = log.labels[LABEL_OF[head]] * (-1.0 if head == REACHABLE else 1.0)
        known, there = teach[~np.isnan(outcome[teach])], ~np.isnan(outcome[ask])
        if any(len(np.unique(outcome[of])) < 2 for of in (known, ask[there])):
            continue  # nothing has closed, or nobody ever did it: no effect to be found
        expected = trees(wide[known], outcome[known], weight[known], seed, settings.rounds)
        rows = ask[there]
        surprise = outcome[rows] - expected(wide[rows])
        prior = np.zeros(difference.shape[1])
        for (of, column), size in FORETOLD.items():
            if of == head:
                prior[column] = size
        d, w = difference[there], weight[rows]
        left = surprise - d @ prior
        left -= np.average(left, weights=w)
        size = np.sqrt(np.average(d**2, axis=0, weights=w))
        live = np.flatnonzero(size > 1e-9)  # the log never varies the others, so nothing is said of them
        d, size = d[:, live] / size[live], size[live]
        own = np.unique(group[live], return_inverse=True)[1]
        noise = _noise(d, w * left, log.user[rows], w)
        # Groups of a few columns each: shutting those without evidence cost .06 of the active days that deciding by it
        # gains over three seeds.
        posterior = fit_ridge((d * w[:, None]).T @ d, d.T @ (w * left), noise, own, shutting=False)
        effects[:, :, place] = prior
        effects[0, live, place] += posterior.mean / size
        # Each half sees half of the users; the mean of two has half the variance.
        effects[1:, live, place] += posterior.draws(settings.members, 0.5**0.5, rng) / size
        told[head] = {
            "rows": len(rows),
            "left_over": float(np.sqrt(np.average(left**2, weights=w))),
            "explained_by_situation": float(1.0 - np.var(surprise) / np.var(outcome[rows])),
        }
    return MessageFold(first.comes, first.opens, first.opts_out, effects), told


def _differences(
    first: MessageFold,
    log: MessageLog,
    x: Floats,
    made: Moves,
    rows: NDArray[np.int64],
    catalog: MessageCatalog,
    sending: Sending,
) -> Floats:
    """(n, P) the effect columns of what was decided less their mean over everything under mu."""
    parts = []
    for at in range(0, len(rows), _CHUNK):
        of = rows[at : at + _CHUNK]
        _, _, own = first.read(x[of], _take_moves(made, of), catalog)
        every, mu = sending.every_move(take_contexts(log.contexts, of), catalog)
        _, _, all_moves = first.read(x[of], every, catalog)
        parts.append(own[:, 0] - np.einsum("bn,bnp->bp", mu, all_moves))
    return np.concatenate(parts)


def _noise(d: Floats, score: Floats, user: NDArray[np.integer], weight: Floats) -> float:
    """Noise variance a row such that the coefficients' errors are right for rows that come in clusters of one user.

    The median over columns of the clustered variance of sum d w r, over sum w d^2 (sandwich; Liang & Zeger 1986).
    """
    _, code = np.unique(user, return_inverse=True)
    clustered = np.stack([np.bincount(code, d[:, j] * score) for j in range(d.shape[1])], axis=1)
    ratio = (clustered**2).sum(axis=0) / np.maximum((weight[:, None] * d**2).sum(axis=0), 1e-9)
    return float(np.median(ratio))
