"""How users come into an experiment: at so many a day, or as a log says that new ones appear."""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from data.errors import InputError


@dataclass(frozen=True)
class Traffic:
    """Users in the experiment by the end of day 1, 2, ...; `after` that many new ones a day."""

    cumulative: tuple[float, ...]
    after: float

    @classmethod
    def flat(cls, daily: float) -> Traffic:
        """The same number of new users every day; raises InputError unless it is above zero."""
        if not (math.isfinite(daily) and daily > 0):
            raise InputError(f"daily_users is {daily}; give how many new users enter a day")
        return cls((), daily)

    @classmethod
    def of_log(cls, user: pl.Series, time: pl.Series, share: float = 1.0) -> Traffic:
        """First sightings by day from the log's start; after its end, as many a day as in its last week.

        In a log of a running service most users are there within days, and later days add few: enrolment is no straight
        line. share: of users who are let into the experiment.
        """
        if not 0 < share <= 1:
            raise InputError(f"share of traffic is {share}; it lies in (0, 1]")
        days = pl.DataFrame({"user": user, "time": time}).group_by("user").agg(pl.col("time").min())["time"]
        day = (days - days.min()).dt.total_days()
        last = int((time - time.min()).dt.total_days().to_numpy().max())
        new = pl.DataFrame({"day": range(last + 1)}).join(day.alias("day").value_counts(), on="day", how="left")
        counts = new["count"].fill_null(0)
        cumulative = tuple(share * float(total) for total in counts.cum_sum())
        week = counts.tail(min(7, max(1, last)))
        return cls(cumulative, share * float(week.sum()) / len(week))

    def users_after(self, days: int) -> float:
        """How many users have entered by the end of `days` days."""
        if days <= len(self.cumulative):
            return self.cumulative[days - 1] if days else 0.0
        start = self.cumulative[-1] if self.cumulative else 0.0
        return start + (days - len(self.cumulative)) * self.after

    def days_for(self, users: float) -> int:
        """Days until that many have entered; raises InputError when they never will."""
        for day, total in enumerate(self.cumulative, start=1):
            if total >= users:
                return day
        start = self.cumulative[-1] if self.cumulative else 0.0
        if self.after <= 0:
            raise InputError(
                f"traffic: {users:,.0f} users are needed, and no more than {start:,.0f} ever come: plan for a larger "
                "effect, add a covariate, or open the experiment to more people"
            )
        return len(self.cumulative) + math.ceil((users - start) / self.after - 1e-9)
