"""Labels of coming back: time to return, return within a window, active days, habit, regularity.

Day counts run over local days D + 1 .. D + w, where D is the day of the decision: D itself is active already, by the
visit the decision was made in. A return may also happen on D, in a later visit: then return_days is 0. So
`returned_w` is `return_days <= w`, monotone in w, and `active_days_w` lies in 0 .. w.
"""

import polars as pl

from data.visits import Visits

HABIT_DAYS = 3
_DAY_SPAN = 1 << 20  # days since 1970 stay far below
_HOUR_SPAN = _DAY_SPAN * 24
_HOURS_PER_WEEK = 168


def returns(seen: Visits) -> pl.DataFrame:
    """Per decision row: return_time, return_days, return_observed, returned_{1,7,14,28}d (windows not yet masked).

    return_days is the local days to the next visit (0: later the same day). Where none was seen it is the number of
    local days that were seen to their end, D included, without one: the return comes on day return_days or later.
    """
    after = seen.decisions.select("row", "user", "time", "day", "today").sort("time")
    visit = seen.starts.select("user", return_time="time", return_day="day").sort("return_time")
    found = after.join_asof(
        visit,
        left_on="time",
        right_on="return_time",
        by="user",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
        coalesce=False,
    )
    observed = pl.col("return_time").is_not_null()
    days = pl.when(observed).then(pl.col("return_day") - pl.col("day")).otherwise(pl.col("today") - pl.col("day"))
    found = found.with_columns(return_days=days.cast(pl.Int32), return_observed=observed)
    within = [
        (pl.col("return_observed") & (pl.col("return_days") <= w)).alias(f"returned_{w}d") for w in (1, 7, 14, 28)
    ]
    return found.select("row", "return_time", "return_days", "return_observed", *within)


def active_days(seen: Visits) -> pl.DataFrame:
    """Per decision row: active_days_7, active_days_28 (days with a visit) and habit_28 (weeks with >= 3 of them)."""
    days = (seen.starts["user"] * _DAY_SPAN + seen.starts["day"]).unique().sort()
    base = seen.decisions["user"] * _DAY_SPAN + seen.decisions["day"]
    upto = [days.search_sorted(base + 7 * week, side="right").cast(pl.Int32) for week in range(5)]
    weeks = [upto[k + 1] - upto[k] for k in range(4)]
    habit = sum(
        ((week >= HABIT_DAYS).cast(pl.Int8) for week in weeks), start=pl.repeat(0, len(base), dtype=pl.Int8, eager=True)
    )
    return pl.DataFrame(
        {
            "row": seen.decisions["row"],
            "active_days_7": weeks[0].cast(pl.Int16),
            "active_days_28": (upto[4] - upto[0]).cast(pl.Int16),
            "habit_28": habit,
        }
    )


def regularity(seen: Visits) -> pl.DataFrame:
    """Per decision row: regularity_28, how far the next four weeks repeat each other's hours beyond chance.

    Let S_k be the hours of the week at which week k (days D + 7k + 1 .. D + 7k + 7) has a visit, n_k their number. The
    agreement M = sum over pairs of weeks of |S_k & S_l| is set against what the same numbers of visits would give at
    hours drawn at random, E = sum n_k n_l / 168, and the most they could give, X = sum min(n_k, n_l):

        regularity = (M - E) / (X - E)

    (the form of a chance-corrected agreement, Cohen 1960). It is 1 for a listener with fixed hours, 0 on average for
    one who comes at random however often, and 0 where fewer than two weeks have a visit: nothing repeats.
    """
    hour = seen.starts["hour"].cast(pl.Int64) % 24
    slots = (seen.starts["user"] * _HOUR_SPAN + seen.starts["day"].cast(pl.Int64) * 24 + hour).unique().sort()
    tomorrow = seen.decisions["user"] * _HOUR_SPAN + (seen.decisions["day"].cast(pl.Int64) + 1) * 24
    upto = [slots.search_sorted(tomorrow + week * _HOURS_PER_WEEK, side="left") for week in range(5)]
    n = [(upto[k + 1] - upto[k]).cast(pl.Float64) for k in range(4)]
    zero = pl.repeat(0.0, len(tomorrow), eager=True)
    agreement, chance, most = zero, zero, zero
    for lag in (1, 2, 3):
        repeated = slots.is_in((slots - lag * _HOURS_PER_WEEK).implode()).cast(pl.Float64)
        # repeated[i] says that slot i comes again `lag` weeks later; (T + 1,) with a leading zero.
        total = pl.concat([pl.Series([0.0]), repeated.cum_sum()])
        agreement = agreement + total.gather(upto[4 - lag]) - total.gather(upto[0])
        for k in range(4 - lag):
            chance = chance + n[k] * n[k + lag] / _HOURS_PER_WEEK
            most = most + pl.DataFrame({"a": n[k], "b": n[k + lag]}).select(pl.min_horizontal("a", "b")).to_series()
    frame = pl.DataFrame({"row": seen.decisions["row"], "m": agreement, "e": chance, "x": most})
    value = pl.when(pl.col("x") > pl.col("e")).then((pl.col("m") - pl.col("e")) / (pl.col("x") - pl.col("e")))
    return frame.select("row", regularity_28=value.otherwise(0.0).cast(pl.Float32))
