"""What in a log of decisions broke the rules: every send held against consent, clocks, caps, expiry and budget.

    violations(decisions, standing(users, events), rules)      # {"consent": 0, "quiet_hours": 0, ...}

It shares nothing with `policy.messaging.rules` but the rules themselves: local hours and days are found again from the
logged instants, and sends are counted over the whole log, not among the few that a context remembers.

A decision is held against what was known when it was made (as_of "time"). Between then and the send a listener may opt
out, or fly to another zone; as_of "send_at" finds the sends that must not go out after all: who delivers drops them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.local_time import DEFAULT_ZONE, day_start, local_clock, local_day
from data.world.message_policies import WEEK
from data.world.settings import CHANNELS
from policy.messaging.rules import MessageRules

KINDS = ("unknown_channel", "too_late", "consent", "quiet_hours", "channel_cap", "weekly_cap", "expired", "budget")
STANDING = pl.Schema(
    {
        "user_id": pl.String(),
        "since": pl.Datetime("us", "UTC"),
        "time_zone": pl.String(),
        "consents": pl.List(pl.String()),
    }
)
AsOf = Literal["time", "send_at"]
_ALWAYS = pl.lit(0, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))


def standing(users: pl.DataFrame, events: pl.DataFrame | None = None) -> pl.DataFrame:
    """Time zones and consents over time (STANDING): what `users` say, for ever, less the channels opted out of since.

    consents that are not said are to all channels, as everywhere in Longplay. What holds `since` a time holds after it.
    """
    everything = pl.lit(list(CHANNELS), dtype=pl.List(pl.String))
    said = users.select(
        "user_id",
        since=_ALWAYS,
        time_zone=pl.col("time_zone").fill_null(DEFAULT_ZONE),
        consents=pl.coalesce(pl.col("consents"), everything),
    )
    if events is None:
        return said
    # With each opt-out, all the channels that its user has left up to then.
    left = events.filter((pl.col("action") == "opt_out") & pl.col("surface").is_in(CHANNELS)).sort("user_id", "time")
    gone = [
        pl.when((pl.col("surface") == channel).cum_max().over("user_id")).then(pl.lit(channel)) for channel in CHANNELS
    ]
    left = left.select("user_id", since="time", gone=pl.concat_list(gone))
    after = left.join(said.drop("since"), on="user_id", how="inner").with_columns(
        consents=pl.col("consents").list.set_difference("gone")
    )
    return pl.concat([said, after.select(*STANDING)]).sort("user_id", "since", maintain_order=True)


def violations(
    decisions: pl.DataFrame,
    users: pl.DataFrame,
    rules: MessageRules,
    budgets: Mapping[str, int] | None = None,
    as_of: AsOf = "time",
) -> dict[str, int]:
    """How many sends broke each rule, by KINDS; a send may break several. Parameters and errors as `faults`."""
    found = faults(decisions, users, rules, budgets, as_of)
    return {name: int(found[name].sum()) for name in KINDS}


def faults(
    decisions: pl.DataFrame,
    users: pl.DataFrame,
    rules: MessageRules,
    budgets: Mapping[str, int] | None = None,
    as_of: AsOf = "time",
) -> pl.DataFrame:
    """Which sends broke what: a row a send (a decision with a channel) in the given order, a column of KINDS each.

    decisions: user_id, time, channel, send_at and, where there are any, expires_at. users: as STANDING. budgets: the
    most sends a local day of the decision by each channel. too_late: no send_at, or one before the decision. Caps
    count, in the days of the zone of this send, a user's sends up to it. Raises InputError for a user without standing.
    """
    sends = decisions.filter(pl.col("channel").is_not_null()).with_row_index("send")
    sends = sends.with_columns(send_at=pl.col("send_at").fill_null(pl.col("time")), unsaid=pl.col("send_at").is_null())
    sends = _with_standing(sends, users, as_of).sort("send")
    code = sends["channel"].replace_strict({c: i for i, c in enumerate(CHANNELS)}, default=-1, return_dtype=pl.Int8)
    channel = code.to_numpy()
    clock = local_clock(sends, "send_at")
    hour = clock.dt.hour().to_numpy()
    quiet = np.array([rules.is_quiet(h) for h in range(24)])
    day = sends.select("time_zone", day=local_day(clock) - (WEEK - 1))
    since = day_start(day, pl.col("day")).to_physical().to_numpy()
    when = sends["send_at"].to_physical().to_numpy()
    user = sends["user_id"].rank("dense").to_numpy().astype(np.int64) if sends.height else np.empty(0, np.int64)
    caps = np.append(np.asarray(rules.channel_caps), 0)  # an unknown channel has none
    expired = (
        (pl.col("expires_at") <= pl.col("send_at")).fill_null(False) if "expires_at" in sends.columns else pl.lit(False)
    )
    made = local_day(local_clock(sends)).to_numpy()
    return sends.select(
        unknown_channel=pl.Series(channel < 0),
        too_late=pl.col("unsaid") | (pl.col("send_at") < pl.col("time")),
        consent=~pl.col("consents").list.contains(pl.col("channel")).fill_null(True),
        quiet_hours=pl.Series(quiet[hour]),
        channel_cap=pl.Series(_sent(user * len(caps) + channel, since, when) > caps[channel]),
        weekly_cap=pl.Series(_sent(user, since, when) > rules.weekly_cap),
        expired=expired,
        budget=pl.Series(_over(made, channel, when, budgets or {})),
    )


def _with_standing(sends: pl.DataFrame, users: pl.DataFrame, as_of: AsOf) -> pl.DataFrame:
    """`sends` with the time_zone and consents that held just before; in another order."""
    found = (
        sends.drop("time_zone", "consents", strict=False)
        .sort(as_of)
        .join_asof(
            users.select(*STANDING).sort("since", maintain_order=True),
            left_on=as_of,
            right_on="since",
            by="user_id",
            allow_exact_matches=False,
            check_sortedness=False,
        )
    )
    lost = found.filter(pl.col("time_zone").is_null())
    if lost.height:
        raise InputError(
            f"violations: user {lost['user_id'][0]!r} is sent a message, but nothing is known of them then"
        )
    return found


def _sent(group: NDArray[np.int64], since: NDArray[np.int64], until: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S,) sends of the same group from `since` to `until`, us, which is when each send goes out itself."""
    order = np.lexsort((until, group))
    # Ranks of the moments stand for them, so that group and moment fit into one sortable number.
    moments = np.unique(until)
    keys = group[order] * (len(moments) + 1) + np.searchsorted(moments, until[order])
    low = group * (len(moments) + 1) + np.searchsorted(moments, since)
    high = group * (len(moments) + 1) + np.searchsorted(moments, until)
    found: NDArray[np.int64] = np.searchsorted(keys, high, "right") - np.searchsorted(keys, low, "left")
    return found


def _over(
    day: NDArray[np.integer], channel: NDArray[np.integer], when: NDArray[np.int64], budgets: Mapping[str, int]
) -> NDArray[np.bool_]:
    """(S,) the sends over the budget of their channel and day: the last ones."""
    over = np.zeros(len(day), np.bool_)
    for name, budget in budgets.items():
        rows = np.flatnonzero(channel == CHANNELS.index(name))
        rows = rows[np.lexsort((when[rows], day[rows]))]
        first = np.searchsorted(day[rows], day[rows])
        over[rows] = np.arange(len(rows)) - first >= budget
    return over
