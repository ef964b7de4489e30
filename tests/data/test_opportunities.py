"""The registry of opportunities: what it takes, what it refuses and why, and that nothing is kept twice or half."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from data.errors import InputError
from data.opportunities import LONGEST_TEXT, OPPORTUNITIES, OpportunityRegistry, as_signals, for_users, from_signals
from data.schema import as_polars
from data.world.mailroom import signals as said
from tests.data.message_world import played

NOW = datetime(2026, 3, 1, 5, tzinfo=UTC)
LATER = NOW + timedelta(hours=6)


def row(number: int, **changed: object) -> dict[str, object]:
    good: dict[str, object] = {
        "opportunity_id": f"o{number}",
        "domain": "concert",
        "item_id": "m-concert-jazz",
        "user_id": f"u{number}",
        "value": 0.5,
        "created_at": NOW,
        "expires_at": LATER,
        "channels": ["push"],
        "text": "Tonight.",
    }
    return good | changed


def frame(*rows: dict[str, object]) -> pl.DataFrame:
    schema = as_polars(OPPORTUNITIES) | {"value": pl.Float64()}
    return pl.DataFrame(list(rows), schema=schema)


def test_rows_that_are_wrong_are_counted_by_why_and_the_rest_is_kept(tmp_path: Path) -> None:
    registry = OpportunityRegistry(tmp_path / "o", items=["m-concert-jazz"])
    done = registry.submit(
        frame(
            row(0),
            row(1, expires_at=None, channels=None, user_id=None, text=None),
            row(0, value=0.7),
            row(2, domain="spam"),
            row(3, domain="offer"),
            row(4, value=float("nan")),
            row(5, value=None),
            row(6, expires_at=NOW),
            row(7, channels=["push", "fax"]),
            row(8, channels=[]),
            row(9, text="x" * (LONGEST_TEXT + 1)),
            row(10, item_id="m-unknown"),
            row(11, created_at=datetime(1970, 1, 2, tzinfo=UTC)),
            row(12, text="x" * LONGEST_TEXT),
        ),
        "concert",
    )
    assert done.accepted == 3
    assert done.rejected == dict.fromkeys(
        sorted(
            {
                "opportunity_id is there already",
                "unknown domain",
                "submitted by another domain",
                "value is not finite",
                "value is null",
                "expires before it is created",
                "unknown channel",
                "no channel",
                f"text is longer than {LONGEST_TEXT} characters",
                "unknown item_id",
                "created_at is not from 1980 to 2099",
            }
        ),
        1,
    )
    counts = registry.counts()
    assert counts["concert"]["accepted"] == 3
    assert counts["offer"] == {"submitted by another domain": 1}
    assert counts["spam"] == {"unknown domain": 1}
    assert registry.live(NOW)["value"].to_list() == [0.5, 0.5, 0.5]
    assert registry.live(LATER)["opportunity_id"].to_list() == ["o1"]
    assert registry.live(NOW - timedelta(seconds=1)).is_empty()


def test_a_wrong_row_does_not_take_the_id_of_the_good_one_that_follows(tmp_path: Path) -> None:
    registry = OpportunityRegistry(tmp_path / "o")
    assert registry.submit(frame(row(0, value=float("inf")), row(0))).accepted == 1
    assert registry.submit(frame(row(1, channels=[]))).accepted == 0
    assert registry.submit(frame(row(1))).accepted == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (frame(row(0)).drop("value"), "'value' is missing"),
        (frame(row(0)).with_columns(colour=pl.lit("red")), "unknown column 'colour'"),
        (frame(row(0)).with_columns(value=pl.lit("high")), "'value' is String"),
        (frame(row(0)).with_columns(pl.col("created_at").dt.replace_time_zone(None)), "naive times"),
    ],
)
def test_a_table_of_another_shape_is_refused_whole(tmp_path: Path, wrong: pl.DataFrame, says: str) -> None:
    registry = OpportunityRegistry(tmp_path / "o")
    with pytest.raises(InputError, match=says):
        registry.submit(wrong)
    assert registry.live(NOW).is_empty()


def test_what_is_submitted_is_there_after_a_restart_and_the_same_again_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = OpportunityRegistry(tmp_path / "o"), OpportunityRegistry(tmp_path / "o")
    assert one.submit(frame(row(0), row(1))).accepted == 2
    assert other.submit(frame(row(1), row(2))).accepted == 1, "another process sees what the first one kept"
    with monkeypatch.context() as patch:
        patch.setattr("data.opportunities.os.replace", _dies)
        with pytest.raises(KeyboardInterrupt):
            one.submit(frame(row(3)))
    again = OpportunityRegistry(tmp_path / "o")
    assert again.live(NOW)["opportunity_id"].to_list() == ["o0", "o1", "o2"]
    assert [path.name for path in sorted((tmp_path / "o" / "parts").iterdir())] == ["000000.parquet", "000001.parquet"]
    assert again.submit(frame(row(3))).accepted == 1
    assert one.live(NOW).height == 4


def _dies(*_: object) -> None:
    raise KeyboardInterrupt


def test_signals_of_a_simulated_log_become_opportunities_and_signals_again(tmp_path: Path) -> None:
    world, _ = played(40, 2)
    log = world.log()
    assert world.mailroom is not None
    signals = said(world.mailroom)
    table = from_signals(signals, log.items, days=2.0)
    registry = OpportunityRegistry(tmp_path / "o", items=log.items["item_id"].to_list())
    done = registry.submit(table)
    assert done.accepted == table.height == signals.height
    back = as_signals(table, signals["user_id"].unique().to_list())
    assert back.sort("user_id", "time", "item_id").equals(signals.sort("user_id", "time", "item_id"))


def test_what_is_for_everybody_is_told_to_each(tmp_path: Path) -> None:
    registry = OpportunityRegistry(tmp_path / "o")
    registry.submit(frame(row(0), row(1, user_id=None)))
    told = for_users(registry.live(NOW), ["u0", "u9"])
    assert sorted(told.select("user_id", "opportunity_id").rows()) == [("u0", "o0"), ("u0", "o1"), ("u9", "o1")]
