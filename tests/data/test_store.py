"""The store and the tables: what goes in comes out, by user; what is wrong is named in one line and writes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data.errors import InputError
from data.ingest import StoreSettings, write_store
from data.logs import Logs
from data.readers import READERS
from data.schema import TABLES, polars_schema, split_rejected, validate
from data.store import LogStore, bucket_of, read_parquet

START = datetime(2024, 5, 1, tzinfo=UTC)


def log(users: int = 5) -> Logs:
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "kind": ["track"] * 3, "title": ["A", "B", "C"]})
    rows: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []
    for u in range(users):
        for k in range(4):
            t = START + timedelta(days=k, hours=u)
            one = {"decision_id": f"d{u}-{k}", "user_id": f"u{u}", "time": t, "surface": "home"}
            made.append(one | {"policy": "p@1", "slate": ["a", "b"], "propensity": 0.25})
            event = {"user_id": f"u{u}", "time": t + timedelta(seconds=1), "surface": "home", "action": "play"}
            rows.append(event | {"item_id": "a", "decision_id": f"d{u}-{k}", "seconds": 30.0})
    zones = pl.DataFrame({"user_id": [f"u{u}" for u in range(users)], "time_zone": "Europe/Stockholm"})
    return Logs(items, pl.DataFrame(rows), pl.DataFrame(made), zones, {"consents": "not asked"})


def change(logs: Logs, table: str, make: Callable[[pl.DataFrame], pl.DataFrame]) -> Logs:
    frames = {name: getattr(logs, name) for name in TABLES}
    frames[table] = make(frames[table])
    return Logs(frames["items"], frames["events"], frames["decisions"], frames["users"], logs.notes)


def set_row(column: str, row: int, value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    def make(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(column, values))

    return make


def test_a_store_gives_back_its_log_by_user(tmp_path: Path) -> None:
    write_store(log(), tmp_path / "s", StoreSettings(buckets=3))
    store = LogStore(tmp_path / "s")
    assert (
        store.events()
        .drop("session_id")
        .sort("user_id", "time")
        .equals(validate(log().events, "events", "log").drop("session_id").sort("user_id", "time"))
    )
    assert store.decisions().height == 20
    assert not store.organic
    assert store.notes == {"consents": "not asked"}
    assert (store.start, store.end) == (START, START + timedelta(days=3, hours=4, seconds=1))
    for bucket in range(3):
        zones = store.users(bucket)
        assert zones is not None
        assert set(store.events(bucket)["user_id"]) == set(zones["user_id"]) == set(store.decisions(bucket)["user_id"])


def test_buckets_are_the_same_everywhere() -> None:
    """CRC-32 has a published check value: 0xCBF43926 for the digits 1 to 9."""
    assert bucket_of(pl.Series(["123456789", "ü", "123456789"]), 0x10000).to_list()[::2] == [0x3926, 0x3926]


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_store(log(), tmp_path / name, StoreSettings(buckets=2))
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) > 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_what_is_rejected_is_counted_and_kept_with_its_reason(tmp_path: Path) -> None:
    logs = change(log(), "events", set_row("seconds", 2, -1.0))
    logs = change(logs, "events", set_row("user_id", 3, None))
    logs = change(logs, "events", lambda events: pl.concat([events, events.head(1)]))
    logs = change(logs, "decisions", set_row("slate", 5, []))
    logs = change(logs, "decisions", set_row("slate", 6, ["a", "a"]))
    write_store(logs, tmp_path / "s")
    store = LogStore(tmp_path / "s")
    rows = read_parquet(tmp_path / "s" / "rejected" / "0000.parquet").rows()
    assert sorted(rows) == [
        ("decisions", 5, "empty slate"),
        ("decisions", 6, "slate repeats an item"),
        ("events", 2, "seconds is negative or not finite"),
        ("events", 3, "user_id is null"),
        ("events", 20, "duplicate event"),
    ]
    assert sum(store.rejected.values()) == 5
    assert store.parts[0]["rows"] == {"items": 3, "events": 18, "decisions": 18, "users": 5}
    assert store.events().height == store.decisions().height == 18


def rename(old: str, new: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.rename({old: new})


WRONG: list[tuple[str, Callable[[pl.DataFrame], pl.DataFrame], list[str]]] = [
    ("events", lambda f: f.clear(), ["no events", "0 rows", "at least 2 users"]),
    ("events", lambda f: f.filter(pl.col("user_id") == "u0"), ["user_id", "1 user only", "'u0'", "at least 2"]),
    ("events", rename("action", "acton"), ["events", "'acton'", "row 0", "did you mean 'action'"]),
    ("events", lambda f: f.drop("action"), ["'action'", "row 0", "missing", "add it"]),
    ("events", lambda f: f.with_columns(zodiac=1), ["unknown column 'zodiac'", "drop it"]),
    (
        "events",
        lambda f: f.with_columns(pl.col("time").dt.replace_time_zone(None)),
        ["'time'", "naive", "row 0", "zone"],
    ),
    ("events", lambda f: f.with_columns(pl.col("time").cast(pl.String)), ["'time'", "row 0", "String", "Datetime"]),
    ("events", lambda f: f.with_columns(pl.lit("long").alias("seconds")), ["'seconds'", "String", "Float32"]),
    ("events", lambda f: f.with_columns(position=pl.lit(2**40)), ["'position'", "row 0", "Int32"]),
    ("events", set_row("action", 7, "plya"), ["'action'", "row 7", "'plya'", "play, skip"]),
    ("events", set_row("surface", 7, "fridge"), ["'surface'", "row 7", "'fridge'"]),
    ("events", set_row("item_id", 9, "zz"), ["events", "'item_id'", "row 9", "'zz'", "add the item"]),
    ("decisions", set_row("slate", 4, ["a", "zz"]), ["decisions", "'slate'", "row 4", "'zz'", "add it"]),
    ("decisions", set_row("propensity", 3, 0.0), ["'propensity'", "row 3", "0.0", "(0, 1]"]),
    ("decisions", set_row("propensity", 3, 2.0), ["'propensity'", "row 3", "2.0", "(0, 1]"]),
    ("decisions", set_row("propensity", 3, float("nan")), ["'propensity'", "row 3", "nan"]),
    ("decisions", set_row("decision_id", 8, "d0-0"), ["'decision_id'", "row 8", "'d0-0'", "twice"]),
    ("items", set_row("kind", 1, "smell"), ["items", "'kind'", "row 1", "'smell'", "track"]),
    ("items", set_row("item_id", 1, "a"), ["items", "'item_id'", "row 1", "'a'", "twice"]),
    ("users", set_row("time_zone", 2, "Mars/Olympus"), ["users", "'time_zone'", "row 2", "IANA"]),
]


@pytest.mark.parametrize(("table", "make", "words"), WRONG)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, table: str, make: Callable[[pl.DataFrame], pl.DataFrame], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        write_store(change(log(), table, make), tmp_path / "s", source="my.log")
    message = str(caught.value)
    assert "\n" not in message
    for word in ["my.log", *words]:
        assert word in message
    assert not (tmp_path / "s").exists()


def test_columns_of_kindred_types_are_taken_as_they_are_meant() -> None:
    times = pl.col("time").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ms")
    events = log().events.with_columns(
        times, pl.col("action").cast(pl.Categorical), pl.col("seconds").cast(pl.Int64), position=pl.lit(None)
    )
    taken = validate(events, "events", "log")
    assert taken.schema == polars_schema("events")
    assert taken.equals(validate(log().events, "events", "log"))
    assert split_rejected(taken, "events")[1].is_empty()


def test_our_own_tables_are_read_back(tmp_path: Path) -> None:
    logs = log()
    for table in TABLES:
        getattr(logs, table).write_parquet(tmp_path / f"{table}.parquet")
    read = READERS["longplay"](tmp_path)
    assert read.events.equals(validate(logs.events, "events", "log"))
    assert read.notes == {}
    for table in ("decisions", "users"):
        (tmp_path / f"{table}.parquet").unlink()
    read = READERS["longplay"](tmp_path)
    assert read.decisions is None
    assert "propensity" in read.notes["decisions"]
    write_store(read, tmp_path / "s")
    store = LogStore(tmp_path / "s")
    assert store.organic
    assert store.decisions()["slate"].to_list() == [["a"]] * 20
    assert store.events()["decision_id"].equals(store.events()["session_id"])


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    logs = log()
    for table in ("items", "events"):
        getattr(logs, table).write_parquet(tmp_path / f"{table}.parquet")
    path = tmp_path / "events.parquet"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"events\.parquet: truncated or not Parquet.*again"):
        READERS["longplay"](tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"events\.parquet: truncated or not Parquet"):
        READERS["longplay"](tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="no events here: add"):
        READERS["longplay"](tmp_path)


def test_a_bad_file_is_named_with_its_column(tmp_path: Path) -> None:
    logs = log()
    logs.items.write_parquet(tmp_path / "items.parquet")
    set_row("action", 7, "plya")(logs.events).write_parquet(tmp_path / "events.parquet")
    with pytest.raises(InputError, match=r"events\.parquet: column 'action', row 7: 'plya'"):
        READERS["longplay"](tmp_path)
    (tmp_path / "evnts.parquet").touch()
    with pytest.raises(InputError, match=r"evnts\.parquet: not one of our tables"):
        READERS["longplay"](tmp_path)


def test_an_item_that_was_rejected_is_missed_where_it_is_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"events: column 'item_id', row 0: 'a' is not in items"):
        write_store(change(log(), "items", set_row("title", 0, None)), tmp_path / "s")


def test_table_types_are_those_of_arrow() -> None:
    for table, schema in TABLES.items():
        empty = pl.from_arrow(schema.empty_table())
        assert isinstance(empty, pl.DataFrame)
        assert polars_schema(table) == empty.schema


def test_what_is_not_a_store_or_one_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no log store here"):
        LogStore(tmp_path)
    write_store(log(), tmp_path / "s")
    facts = tmp_path / "s" / "store.json"
    facts.write_text(facts.read_text().replace('"version": 3', '"version": 7'))
    with pytest.raises(InputError, match=r"version 7.*ingest again"):
        LogStore(tmp_path / "s")


def test_a_log_may_say_that_it_is_complete_for_longer_than_its_last_row(tmp_path: Path) -> None:
    logs = log()
    later = START + timedelta(days=5)
    write_store(Logs(logs.items, logs.events, logs.decisions, end=later), tmp_path / "s")
    assert LogStore(tmp_path / "s").end == later
    with pytest.raises(InputError, match="before its last row"):
        write_store(Logs(logs.items, logs.events, logs.decisions, end=START), tmp_path / "t")
