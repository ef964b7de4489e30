"""One day of messages for a population: what may be sent to whom and what it is worth, and the decisions of a plan.

    moves = day_moves(contexts, user_ids, legal, values, rules, items, drawing)     # a row a user, bucket by bucket
    made = decide(moves, budgets, drawing)                                          # made.decisions, made.plan

The plan decides about everybody who is not held out. With `explore` above 0, who a salted hash picks gets any allowed
message, or none, alike instead; the plan is made as if nobody was picked, within what the budgets leave once the most
that exploring can plausibly send is set aside. So nobody's plan depends on who is picked, and the probability of every
decision is exact: (1 - explore) where it is the planned one, plus explore / (allowed messages + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.world.environment import MessageContexts
from data.world.opportunities import HOLD_ID
from data.world.settings import CHANNELS
from policy.assignment import arm_of, place
from policy.messaging.planner import BestMoves, Plan, plan
from policy.messaging.rules import MessageRules, hour_starts
from rewards.messages import MessageReward

POLICY, HOLDOUT, PLANNED = "planned@1", "holdout", "messages"
MESSAGE_MOVES = pl.Schema(
    {
        "user_id": pl.String(),
        "time": pl.Datetime("us", "UTC"),
        "arm": pl.String(),
        "candidates": pl.List(pl.String()),
        "allowed": pl.Int32(),  # messages that may be sent
    }
    | {
        f"{channel}_{name}": kind
        for channel in CHANNELS
        for name, kind in (
            ("share", pl.Float64()),  # of what may be decided, holding included, that goes by the channel
            ("value", pl.Float64()),
            ("item", pl.String()),
            ("send_at", pl.Datetime("us", "UTC")),
        )
    }
    | {"explores": pl.Boolean(), "channel": pl.Int8(), "item": pl.String(), "send_at": pl.Datetime("us", "UTC")}
)
Values = Callable[[MessageContexts, NDArray[np.bool_]], NDArray[np.float64]]
"""(contexts, allowed (B, M, channels, hours)) -> what each is worth beside holding, in the same shape."""


@dataclass(frozen=True)
class Drawing:
    """Who is held out and who explores on a `day`, by hashes salted with `salt`: the same at every try."""

    day: str
    holdout: float = 0.0
    explore: float = 0.0
    salt: str = "messages"

    def __post_init__(self) -> None:
        for name in ("holdout", "explore"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name}={getattr(self, name)}: give a share from 0 to below 1")

    def arm(self, user_id: str) -> str:
        """The arm of a user, the same every day."""
        if self.holdout == 0.0:
            return PLANNED
        return arm_of(f"{self.salt}/{HOLDOUT}", user_id, {HOLDOUT: self.holdout, PLANNED: 1.0 - self.holdout})

    def luck(self, user_id: str) -> tuple[bool, float]:
        """Whether a user explores on the day, and a number in [0, 1) for what."""
        explores = place(f"{self.salt}/explore/{self.day}", user_id) < self.explore
        return explores, place(f"{self.salt}/draw/{self.day}", user_id)


@dataclass(frozen=True)
class PlannedDay:
    """Decisions, in the columns of DECISIONS that they fill; the plan behind them; who explored."""

    decisions: pl.DataFrame
    plan: Plan
    explored: int


def reward_values(reward: MessageReward, rules: MessageRules) -> Values:
    """What a message reward is sure of."""

    def values(contexts: MessageContexts, legal: NDArray[np.bool_]) -> NDArray[np.float64]:
        batch, most, channels, _ = legal.shape
        grids = np.meshgrid(np.arange(most), np.arange(channels), np.array(rules.hours), indexing="ij")
        column, channel, hour = (np.broadcast_to(grid.ravel(), (batch, grid.size)) for grid in grids)
        column = np.where(np.take_along_axis(contexts.eligible, column, axis=1) >= 0, column, -1)
        return reward.score(contexts, column, channel, hour).lower.reshape(legal.shape)

    return values


def day_moves(
    contexts: MessageContexts,
    user_ids: pl.Series,
    legal: NDArray[np.bool_],
    values: Values,
    rules: MessageRules,
    items: pl.Series,
    drawing: Drawing,
) -> pl.DataFrame:
    """MESSAGE_MOVES of B users: the best allowed message by each channel, and what exploring would draw.

    legal (B, M, channels, hours) as `policy.messaging.rules.allowed`; items: ids by number in contexts.eligible.
    """
    batch, most, channels, hours = legal.shape
    worth = np.where(legal, values(contexts, legal), -np.inf)
    starts = hour_starts(contexts, rules.hours)
    rows = np.arange(batch)
    count = legal.reshape(batch, -1).sum(axis=1)
    luck = [drawing.luck(user) for user in user_ids.to_list()]
    columns: dict[str, object] = {
        "user_id": user_ids,
        "time": _times(contexts.time),
        "arm": [drawing.arm(user) for user in user_ids.to_list()],
        "candidates": [[items[i] for i in row if i >= 0] + [HOLD_ID] for row in contexts.eligible.tolist()],
        "allowed": count,
    }

    def named(
        column: NDArray[np.integer], hour: NDArray[np.integer], there: NDArray[np.bool_]
    ) -> tuple[pl.Series, ...]:
        item = items.gather(
            pl.Series(np.where(there, contexts.eligible[rows, column], -1)).cast(pl.UInt32, strict=False)
        )
        return item, _times(np.where(there, starts[rows, hour], -1))

    for c, channel in enumerate(CHANNELS):
        flat = worth[:, :, c].reshape(batch, -1)
        at = flat.argmax(axis=1)
        best = flat[rows, at]
        columns[f"{channel}_share"] = legal[:, :, c].reshape(batch, -1).sum(axis=1) / (count + 1)
        columns[f"{channel}_value"] = best
        columns[f"{channel}_item"], columns[f"{channel}_send_at"] = named(at // hours, at % hours, best > -np.inf)
    explores = np.array([one for one, _ in luck], np.bool_)
    drawn = (np.array([u for _, u in luck]) * (count + 1)).astype(np.int64)  # `count` is to hold
    sends = explores & (drawn < count)
    # The place of the drawn one among all messages: where the count of allowed ones passes it.
    nth = (legal.reshape(batch, -1).cumsum(axis=1) <= np.minimum(drawn, count - 1)[:, None]).sum(axis=1)
    nth = np.minimum(nth, most * channels * hours - 1)
    column, rest = np.divmod(nth, channels * hours)
    columns["explores"] = explores
    columns["channel"] = np.where(sends, rest // hours, -1).astype(np.int8)
    columns["item"], columns["send_at"] = named(column, rest % hours, sends)
    return pl.DataFrame(columns).select(pl.col(name).cast(kind) for name, kind in MESSAGE_MOVES.items())


def decide(moves: pl.DataFrame, budgets: Mapping[str, int | None], drawing: Drawing) -> PlannedDay:
    """The decisions of a day about everybody in `moves` (MESSAGE_MOVES), in its order.

    budgets: the most sends by channel; None or not named: no limit. Raises InputError where exploring alone could
    spend a budget.
    """
    unknown = sorted(set(budgets) - set(CHANNELS))
    if unknown:
        raise InputError(f"budgets: there is no channel {unknown[0]!r}: choose of {', '.join(CHANNELS)}")
    users = moves.height
    open_to = (moves["arm"] == PLANNED).to_numpy()
    explores = moves["explores"].to_numpy() & open_to
    drawn = np.where(explores, moves["channel"].to_numpy(), -1)
    room = [
        _left(
            budgets.get(name),
            drawing.explore * float(moves[f"{name}_share"].to_numpy()[open_to].sum()),
            drawn == c,
            name,
        )
        for c, name in enumerate(CHANNELS)
    ]
    value = np.stack([moves[f"{name}_value"].to_numpy() for name in CHANNELS], axis=1)
    value = np.where(open_to[:, None], value, -np.inf)
    made = plan(BestMoves(value, np.zeros(value.shape, np.int32)), room)
    wanted = made.channel.astype(np.int64)
    planned = pl.DataFrame({"wanted": wanted}).hstack(moves).select(_of("item"), _of("send_at"))
    final = moves.select(
        item=pl.when(pl.Series(explores)).then("item").otherwise(planned["item"]),
        send_at=pl.when(pl.Series(explores)).then("send_at").otherwise(planned["send_at"]),
        channel=pl.Series(np.where(explores, drawn, wanted)),
    )
    as_planned = (
        final["item"].eq_missing(planned["item"])
        & final["send_at"].eq_missing(planned["send_at"])
        & (final["channel"] == pl.Series(wanted))
    ).to_numpy()
    either = drawing.explore / (moves["allowed"].to_numpy() + 1)
    propensity = np.where(open_to, (1.0 - drawing.explore) * as_planned + either, 1.0)
    code = pl.Series(final["channel"]).cast(pl.UInt32, strict=False)
    channel = pl.Series(CHANNELS, dtype=pl.String).gather(code)
    decisions = moves.select(
        decision_id=pl.format("p{}-{}", pl.lit(drawing.day), "user_id"),
        user_id="user_id",
        time="time",
        surface=channel.fill_null("other"),
        policy=pl.when(pl.col("arm") == PLANNED).then(pl.lit(POLICY)).otherwise(pl.lit(f"{HOLDOUT}@1")),
        slate=pl.concat_list(final["item"].fill_null(HOLD_ID)) if users else pl.lit([], dtype=pl.List(pl.String)),
        propensity=pl.Series(np.minimum(propensity, 1.0)),
        candidates="candidates",
        arm="arm",
        channel=channel,
        send_at=final["send_at"],
    )
    return PlannedDay(decisions, made, int(explores.sum()))


def _left(budget: int | None, expected: float, drawn: NDArray[np.bool_], channel: str) -> int | None:
    """What a budget leaves to the plan: all but what exploring sends at most, six standard deviations over its mean."""
    if budget is None or expected == 0.0:
        return budget
    aside = int(np.ceil(expected + 6.0 * np.sqrt(expected) + 6.0))
    if max(aside, int(drawn.sum())) > budget:
        raise InputError(
            f"budget of {budget} by {channel}: exploring could send {aside}: give a higher one, or explore less"
        )
    if drawn.sum() > aside:
        raise InputError(f"exploring drew {drawn.sum()} by {channel}, over {aside}: try another salt")
    return budget - aside


def _of(name: str) -> pl.Expr:
    """Column `name` of the channel in `wanted`; null where it is held."""
    found = pl.lit(None, dtype=MESSAGE_MOVES[name])
    for c, channel in enumerate(CHANNELS):
        found = pl.when(pl.col("wanted") == c).then(pl.col(f"{channel}_{name}")).otherwise(found)
    return found.alias(name)


def _times(us: NDArray[np.int64]) -> pl.Series:
    """Instants, null for -1."""
    times = pl.Series(us).cast(pl.Datetime("us", "UTC"))
    return pl.select(pl.when(pl.Series(us) >= 0).then(times)).to_series()
