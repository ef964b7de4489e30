"""The Globo reader: on a small log made to its format, and, where it is at hand, on the real one."""

import os
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from data.errors import InputError
from data.ingest import StoreSettings, write_store
from data.outcomes import outcomes
from data.readers import globo
from data.store import LogStore

START = datetime(2017, 10, 2, 12)  # naive, as published  # noqa: DTZ001


def clicks() -> pl.DataFrame:
    late = datetime(2017, 11, 13)  # noqa: DTZ001
    rows = [
        (7, 100, START, 5, START),
        (7, 100, START, 9, late),  # a click stamped weeks late
        (7, 100, START, 9, late),
        (7, 101, datetime(2017, 10, 3, 1), 5, datetime(2017, 10, 3, 1)),  # noqa: DTZ001
        (8, 102, START, 11, START),
        (8, 102, START, None, START),
    ]
    frame = pl.DataFrame(rows, ["user_id", "session_id", "session_start", "article_id", "click_ts"], orient="row")
    return frame.cast({"user_id": pl.UInt32, "article_id": pl.UInt32}).with_columns(environment=pl.lit(4))


def test_clicks_become_plays_in_the_order_of_their_session(tmp_path: Path) -> None:
    clicks().write_parquet(tmp_path / "clicks.parquet")
    logs = globo.read(tmp_path)
    first = logs.events.filter(pl.col("session_id") == "100")
    assert first["item_id"].to_list() == ["5", "9"]
    assert first["time"].to_list() == [
        START.replace(tzinfo=UTC),
        START.replace(tzinfo=UTC, microsecond=1),
    ]
    assert logs.rejected is not None
    assert sorted(logs.rejected.rows()) == [
        ("events", 2, "the same click twice"),
        ("events", 5, "article_id is null"),
    ]
    assert {"propensity", "decisions", "title"} <= set(logs.notes)
    write_store(logs, tmp_path / "s", StoreSettings(buckets=2))
    store = LogStore(tmp_path / "s")
    assert sum(store.rejected.values()) == 2
    made = store.decisions()
    assert made.filter(pl.col("decision_id").str.ends_with(":100"))["slate"].to_list() == [["5", "9"]]
    assert made["propensity"].null_count() == made.height == 3
    table = outcomes(store.events(), made, store.users(), store.end)
    # 12:00 on 2 October; the next session is at 22:00 of the same day in Brasilia.
    assert table.filter(pl.col("decision_id").str.ends_with(":100"))["return_days"].to_list() == [0]


def test_a_file_that_is_not_the_log_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    clicks().drop("session_start").write_parquet(path)
    with pytest.raises(InputError, match=r"x\.parquet: column 'session_start' .* missing"):
        globo.read(path)
    clicks().with_columns(pl.col("session_start").cast(pl.String)).write_parquet(path)
    with pytest.raises(InputError, match=r"x\.parquet: column 'session_start' .* is String"):
        globo.read(path)
    with pytest.raises(InputError, match="no such file"):
        globo.read(tmp_path / "gone.parquet")


def test_the_real_log_has_the_published_return_rates(tmp_path: Path) -> None:
    """A user-day counts as returned when the same user is active again within k days: 28.82% and 70.73% in all."""
    home = Path(os.environ.get("LONGPLAY_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
    path = home / "globo_news_clicks" / "clicks_sample_1in32_users.parquet"
    if not path.exists():
        pytest.skip(f"no Globo log at {path}")
    logs = globo.read(path)
    assert logs.events.height == 92385
    write_store(logs, tmp_path / "s", StoreSettings(buckets=4))
    store = LogStore(tmp_path / "s")
    table = outcomes(store.events(), store.decisions(), store.users(), store.end)
    # Per user-day, from its last session on: later sessions of the same day are no return on another day.
    days = table.sort("time").unique(["user_id", "local_day"], keep="last")
    for window, published in [(1, 0.2882), (7, 0.7073)]:
        rate = days[f"returned_{window}d"].mean()
        assert rate == pytest.approx(published, abs=0.02)
