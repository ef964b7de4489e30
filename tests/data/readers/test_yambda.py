"""The Yambda reader, on small files made to its format: flat, sequential and multi_event."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from data.errors import InputError
from data.readers import yambda
from tests.data.readers.round_trip import counted, round_trip
from tests.data.readers.samples import BEGIN, SAMPLES, write


def test_listens_say_how_far_and_who_chose(tmp_path: Path) -> None:
    write(SAMPLES["yambda"](), tmp_path)
    logs = yambda.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    wanted = [
        ("100", 50, "home", "complete", "1", 200.0),
        ("100", 55, "home", "like", "1", None),
        ("100", 260, "other", "skip", "2", pytest.approx(36.0)),
        ("200", 50, "other", "play", "1", pytest.approx(120.0)),
        ("200", 90_000, "home", "complete", "3", pytest.approx(93.6)),
        ("200", 90_010, "home", "like", "3", None),
        ("200", 95_000, "other", "dislike", "2", None),
    ]
    events = store.events().sort("user_id", "time").drop("session_id", "decision_id", "position", "value")
    rows = [(user, (time - BEGIN) // timedelta(seconds=1), *rest) for user, time, *rest in events.rows()]
    assert rows == wanted
    made = store.decisions().sort("decision_id")
    assert made.select("policy", "slate", "propensity").rows() == [
        ("yandex_music", ["1"], None),
        ("yandex_music", ["3"], None),
    ]
    items = store.items().sort("item_id").select("item_id", "creator", "duration").rows()
    assert items == [("1", "70", 200.0), ("2", "71", 180.0), ("3", None, 90.0)]


def test_the_sequential_layout_says_the_same(tmp_path: Path) -> None:
    tables = SAMPLES["yambda"]()
    write(tables, tmp_path / "flat")
    lists = {
        n: t if "mapping" in n else t.group_by("uid", maintain_order=True).agg(pl.all()) for n, t in tables.items()
    }
    write(lists, tmp_path / "sequential")
    flat, sequential = yambda.read(tmp_path / "flat"), yambda.read(tmp_path / "sequential")
    assert flat.events.equals(sequential.events)
    uneven = lists["likes.parquet"].with_columns(pl.col("timestamp").list.concat(pl.lit(7, dtype=pl.UInt32)))
    write({"likes.parquet": uneven}, tmp_path / "sequential")
    with pytest.raises(InputError, match=r"likes\.parquet: columns .* not of one length"):
        yambda.read(tmp_path / "sequential")


def test_multi_event_is_read_where_it_stands_alone_and_what_is_taken_back_is_counted(tmp_path: Path) -> None:
    tables = SAMPLES["yambda"]()
    kinds = {"listens.parquet": "listen", "likes.parquet": "like", "dislikes.parquet": "unlike"}
    parts = [tables[name].with_columns(event_type=pl.lit(kind)) for name, kind in kinds.items()]
    multi = pl.concat(parts, how="diagonal").with_columns(pl.col("event_type").cast(pl.Categorical))
    write({"multi_event.parquet": multi}, tmp_path)
    logs = yambda.read(tmp_path)
    assert logs.events.height == 6
    assert counted(logs) == {"not a listen, like or dislike: no action of ours": 1}
    round_trip(logs, tmp_path / "s")


def test_likes_alone_have_no_decisions(tmp_path: Path) -> None:
    write({"likes.parquet": SAMPLES["yambda"]()["likes.parquet"]}, tmp_path)
    logs = yambda.read(tmp_path / "likes.parquet")
    assert logs.decisions is None
    assert logs.events["action"].to_list() == ["like", "like"]
    round_trip(logs, tmp_path / "s")
