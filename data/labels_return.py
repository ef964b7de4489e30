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

    returned_{w}d: whether a visit that starts after the decision starts by the end of local day D + w. return_days: the
    local days to the next visit (0: later the same day); where none was seen, the number of local days that were seen
    to their end, D included, without one: the return comes on day return_days or later.
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
    """Per decision row: active_days_7, active_days_28, habit_28.

    active_days_{w}: on how many of local days D + 1 .. D + w a visit starts. habit_28: how many of the four weeks after
    D have three such days or more.
    """
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
    """Per decision row: regularity_28, how far the four weeks D + 1 .. D + 28 repeat each other's hours beyond chance.

    That is `repeated_hours` of them; 0 where none can repeat.
    """
    tomorrow = hour_code(seen.decisions["user"], seen.decisions["day"] + 1, 0)
    value = repeated_hours(visit_hours(seen.starts), tomorrow, 4)
    return pl.DataFrame({"row": seen.decisions["row"], "regularity_28": value.fill_null(0.0).cast(pl.Float32)})


def repeated_hours(
    hours: pl.Series, first: pl.Series, weeks: int, coincidence: float = 1 / _HOURS_PER_WEEK
) -> pl.Series:
    """How far `weeks` weeks repeat each other's hours beyond chance: (N,), null where fewer than two have a visit.

    hours: different `hour_code`s at which a visit starts, sorted (`visit_hours`). first: (N,) the code at which each
    row's first week begins. Let S_k be the hours of the week at which week k has a visit, n_k their number. The
    agreement M = sum over pairs of weeks of |S_k & S_l| is set against what the same numbers of visits would give at
    random hours, E = sum n_k n_l c, and the most they could give, X = sum min(n_k, n_l):

        regularity = (M - E) / (X - E)

    (the form of a chance-corrected agreement, Cohen 1960). `coincidence` c is the chance that two random visits fall
    on the same hour of the week: 1/168 where every hour is as likely. It is 1 for a listener with fixed hours and 0 on
    average for one who comes at random, however often. One who keeps each of their hours with probability q scores q
    where those are many and more where they are few (q = .8: .96 with two hours a week, .85 with twenty), because X
    forgives the weeks that have fewer visits.
    """
    upto = [hours.search_sorted(first + week * _HOURS_PER_WEEK, side="left") for week in range(weeks + 1)]
    n = [(upto[k + 1] - upto[k]).cast(pl.Float64).alias(f"{k}") for k in range(weeks)]
    zero = pl.repeat(0.0, len(first), eager=True)
    agreement, chance, most = zero, zero, zero
    for lag in range(1, weeks):
        repeated = hours.is_in((hours - lag * _HOURS_PER_WEEK).implode()).cast(pl.Float64)
        # repeated[i] says that hour i comes again `lag` weeks later; (T + 1,) with a leading zero.
        total = pl.concat([pl.Series([0.0]), repeated.cum_sum()])
        agreement = agreement + total.gather(upto[weeks - lag]) - total.gather(upto[0])
        for k in range(weeks - lag):
            chance = chance + n[k] * n[k + lag] * coincidence
            most = most + pl.select(pl.min_horizontal(n[k], n[k + lag])).to_series()
    frame = pl.DataFrame({"m": agreement, "e": chance, "x": most})
    value = pl.when(pl.col("x") > pl.col("e")).then((pl.col("m") - pl.col("e")) / (pl.col("x") - pl.col("e")))
    return frame.select(regularity=value).to_series()


def hour_code(user: pl.Series, day: pl.Series, hour: pl.Series | int) -> pl.Series:
    """One number per (user, local day since 1970, hour of the day), Int64, ordered as they are."""
    return user.cast(pl.Int64) * _HOUR_SPAN + day.cast(pl.Int64) * 24 + hour


def visit_hours(starts: pl.DataFrame) -> pl.Series:
    """The different hours at which visits start, as sorted `hour_code`s; `starts` as in `data.visits.Visits`."""
    return hour_code(starts["user"], starts["day"], starts["hour"].cast(pl.Int64) % 24).unique().sort()
