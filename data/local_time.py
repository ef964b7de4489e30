"""Local clocks: when it is what day and hour for a user, through time zones and daylight saving."""

import polars as pl

DEFAULT_ZONE = "UTC"


def with_time_zone(frame: pl.DataFrame, users: pl.DataFrame | None) -> pl.DataFrame:
    """`frame` (with a user_id) and the `time_zone` of each row's user; UTC where users do not say."""
    if users is None or "time_zone" not in users.columns:
        return frame.with_columns(time_zone=pl.lit(DEFAULT_ZONE))
    zones = users.select("user_id", "time_zone")
    joined = frame.join(zones, on="user_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("time_zone").fill_null(DEFAULT_ZONE))


def local_clock(frame: pl.DataFrame, column: str = "time") -> pl.Series:
    """The wall clock of `column` (UTC instants) in each row's `time_zone`, as naive datetimes."""
    zones = frame["time_zone"].unique().sort().to_list()
    if not zones:
        return pl.Series("local", [], dtype=pl.Datetime("us"))
    wall = pl.lit(None, dtype=pl.Datetime("us"))
    for zone in zones:
        here = pl.col(column).dt.convert_time_zone(zone).dt.replace_time_zone(None)
        wall = here if len(zones) == 1 else pl.when(pl.col("time_zone") == zone).then(here).otherwise(wall)
    return frame.select(wall.alias("local")).to_series()


def local_day(wall: pl.Series) -> pl.Series:
    """Days since 1970-01-01 on the local calendar (Int32)."""
    return wall.dt.date().cast(pl.Int32)


def hour_of_week(wall: pl.Series) -> pl.Series:
    """0 (Monday 00:00-00:59) to 167 (Sunday 23:00-23:59), Int16."""
    return (wall.dt.weekday().cast(pl.Int16) - 1) * 24 + wall.dt.hour().cast(pl.Int16)


def day_start(frame: pl.DataFrame, day: pl.Expr) -> pl.Series:
    """The UTC instant at which a local `day` (days since 1970) begins in each row's `time_zone`.

    Where clocks jump over midnight the day begins at the first moment that exists.
    """
    zones = frame["time_zone"].unique().sort().to_list()
    if not zones:
        return pl.Series("instant", [], dtype=pl.Datetime("us", "UTC"))
    midnight = day.cast(pl.Date).cast(pl.Datetime("us"))
    instant = pl.lit(None, dtype=pl.Datetime("us", "UTC"))
    for zone in zones:
        exact = midnight.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        # A gap is at most an hour wide wherever it has begun at midnight.
        after = (midnight + pl.duration(hours=1)).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        here = pl.coalesce(exact, after).dt.convert_time_zone("UTC")
        instant = here if len(zones) == 1 else pl.when(pl.col("time_zone") == zone).then(here).otherwise(instant)
    return frame.select(instant.alias("instant")).to_series()
