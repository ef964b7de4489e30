"""Sources: the same log out of any of them, and a damaged row costs that row only."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
import yaml

from data.errors import InputError
from data.ingest import append, write_store
from data.readers import READERS
from data.schema import TABLES, validate
from data.sources import read_file, read_source
from data.store import read_parquet
from tests.data.test_store import log


def given(table: str) -> pl.DataFrame:
    frame = getattr(log(), table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(
        *(pl.col(name).list.join("|") for name in lists), *(pl.col(name).dt.to_string("iso:strict") for name in times)
    )


def delimited(frame: pl.DataFrame, separator: str) -> bytes:
    return as_text(frame).write_csv(separator=separator).encode()


def json_lines(frame: pl.DataFrame) -> bytes:
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    rows = frame.with_columns(pl.col(name).dt.to_string("iso:strict") for name in times).to_dicts()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FORMS: dict[str, Callable[[pl.DataFrame], bytes]] = {
    "csv": lambda frame: delimited(frame, ","),
    "tsv": lambda frame: delimited(frame, "\t"),
    "jsonl": json_lines,
}


def write(path: Path, data: bytes) -> None:
    packed = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.output_stream(str(path), compression=packed) as out:
        out.write(data)


def same_log(folder: Path) -> None:
    read = READERS["longplay"](folder)
    for table in TABLES:
        assert getattr(read, table).equals(validate(given(table), table, "log")), table
    assert read.rejected is not None
    assert read.rejected.is_empty()


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_log_out_of_every_format(tmp_path: Path, form: str, packed: str) -> None:
    for table in TABLES:
        write(tmp_path / f"{table}.{form}{packed}", FORMS[form](given(table)))
    same_log(tmp_path)


def test_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    for table in ("items", "decisions", "users"):
        given(table).write_parquet(tmp_path / f"{table}.parquet")
    (tmp_path / "events").mkdir()
    events = given("events")
    events[:7].write_parquet(tmp_path / "events" / "1.parquet")
    write(tmp_path / "events" / "2.csv.gz", delimited(events[7:9], ","))
    write(tmp_path / "events" / "3.jsonl", json_lines(events[9:].drop("seconds")) + b"{torn\n")
    read = READERS["longplay"](tmp_path)
    wanted = validate(events, "events", "log").with_columns(seconds=pl.when(pl.int_range(pl.len()) < 9).then("seconds"))
    assert read.events.equals(wanted)
    assert read.rejected is not None
    assert read.rejected.rows() == [("events", events.height, "the line is not JSON")]


def test_a_row_that_cannot_be_read_costs_that_row_only(tmp_path: Path) -> None:
    lines = [
        "user_id,time,surface,action,item_id,position,seconds",
        "u0,2024-05-01T08:00:00+02:00,home,play,a,1,30.5",
        "u0,yesterday,home,play,a,1,30",
        "u1,2024-05-01 06:00:00Z,home,play,a,first,30",
        "u1,2024-05-01T06:00:01.25Z,home,play,a,,",
        "u2,2024-05-01T06:00:02Z,home,play,a,2,long",
    ]
    (tmp_path / "events.csv").write_bytes("\n".join(lines).encode() + b"\nu3,2024-05-01T06:00:03Z,home,play,\xff,,\n")
    frame, rejected = read_file(tmp_path / "events.csv", "events")
    assert frame["time"].dt.strftime("%H:%M:%S%.3f").to_list() == ["06:00:00.000", "06:00:01.250", "06:00:03.000"]
    assert frame["position"].to_list() == [1, None, None]
    assert sorted(rejected.rows()) == [
        ("events", 1, "time is not a time (ISO 8601 with its zone)"),
        ("events", 2, "position is not a whole number"),
        ("events", 4, "seconds is not a number"),
    ]


def test_a_broken_list_costs_its_row_and_an_empty_title_nothing(tmp_path: Path) -> None:
    lines = [
        "item_id,kind,title,tags",
        "a,track,,[live]",
        'b,track,,"[""x"", ""y""]"',
        "c,track,,p|q",
        "d,track,,[oops",
    ]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    frame, rejected = read_file(tmp_path / "items.csv", "items")
    assert frame["tags"].to_list() == [["x", "y"], ["p", "q"]]
    assert frame["title"].to_list() == ["", ""]
    assert rejected.rows() == [("items", 0, "tags is not a list"), ("items", 3, "tags is not a list")]
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": "a", "kind": "track", "title": "\\ud83d"}\n{"item_id": "b", "kind": "track", "title": "B"}\n'
    )
    frame, rejected = read_file(tmp_path / "items.jsonl", "items")
    assert frame["item_id"].to_list() == ["a", "b"]
    assert rejected.is_empty()


def test_a_rejected_row_is_named_by_its_place_in_the_source(tmp_path: Path) -> None:
    """Also one that is found out only after rows before it were left out."""
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "items.csv").write_text("item_id,kind,title\na,track,A\n")
    lines = ["user_id,time,surface,action,item_id,seconds"]
    lines += ["u0,yesterday,home,play,a,1", "u0,2024-05-01T08:00:00Z,home,play,a,1", "u1,never,home,play,a,1"]
    lines += ["u1,2024-05-01T09:00:00Z,home,play,a,-5", "u2,2024-05-01T09:00:00Z,home,play,a,2"]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    logs = READERS["longplay"](folder)
    write_store(logs, tmp_path / "s")
    append(logs, tmp_path / "s")
    parts = [read_parquet(tmp_path / "s" / "rejected" / f"000{part}.parquet").sort("row").rows() for part in (0, 1)]
    torn = "time is not a time (ISO 8601 with its zone)"
    assert parts[0] == [
        ("events", 0, torn),
        ("events", 2, torn),
        ("events", 3, "seconds is negative or not finite"),
    ]
    assert [row for row in parts[1] if row[2] == "already in the store"] == [
        ("events", 1, "already in the store"),
        ("events", 4, "already in the store"),
    ]


def test_times_without_a_zone_stop_the_import(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "user_id,time,surface,action\nu,2024-05-01T08:00:00Z,home,play\nu,2024-05-01 08:00:00,home,play\n"
    )
    with pytest.raises(InputError, match=r"events\.csv: column 'time', row 1: '2024-05-01 08:00:00' has no zone: say"):
        read_file(tmp_path / "events.csv", "events")


def test_a_duckdb_query(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(tmp_path / "log.db")) as connection:
        for table in TABLES:
            frame = given(table)
            connection.register("frame", frame.to_arrow())
            connection.execute(f"create table {table} as select * from frame")
    sources = {table: {"duckdb": "log.db", "query": f"select * from {table} order by rowid"} for table in TABLES}
    (tmp_path / "log.yaml").write_text(yaml.safe_dump(sources))
    same_log(tmp_path / "log.yaml")
    with pytest.raises(InputError, match=r"log\.db: the query failed \(.*nothing.*\): mend it"):
        read_source({"duckdb": "log.db", "query": "select * from nothing"}, "items", tmp_path)
    with pytest.raises(InputError, match="the query failed"):  # read-only
        read_source({"duckdb": "log.db", "query": "drop table items"}, "items", tmp_path)


def test_a_hugging_face_dataset(tmp_path: Path) -> None:
    (tmp_path / "plays").mkdir()
    given("events").write_parquet(tmp_path / "plays" / "train.parquet")
    frame, _ = read_source({"dataset": "plays", "split": "train"}, "events", tmp_path)
    assert validate(frame, "events", "plays").equals(validate(given("events"), "events", "log"))
    with pytest.raises(InputError, match="split 'test': cannot be loaded"):
        read_source({"dataset": "plays", "split": "test"}, "events", tmp_path)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server of our own, gone after the tests."""
    pytest.importorskip("adbc_driver_postgresql")
    pg_ctl = shutil.which("pg_ctl") or max(glob("/usr/lib/postgresql/*/bin/pg_ctl"), default=None)
    if pg_ctl is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="longplay-postgresql-"))
    user = None
    if os.getuid() == 0:  # as which it refuses to run
        shutil.chown(folder, "nobody")
        user = "nobody"

    def tell(*words: str) -> None:
        subprocess.run(
            [pg_ctl, "-D", str(folder / "data"), "-s", "-w", "-t", "60", *words],
            check=True, user=user, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    try:
        tell("initdb", "-o", "--auth=trust --username=reader --no-sync --encoding=UTF8")
        tell("start", "-l", str(folder / "log"), "-o", f"-p {port} -h 127.0.0.1 -k '' -F")
        yield f"postgresql://reader@127.0.0.1:{port}/postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            tell("stop", "-m", "immediate")
        shutil.rmtree(folder, ignore_errors=True)


def test_a_postgresql_query(tmp_path: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from adbc_driver_postgresql import dbapi

    monkeypatch.setenv("LISTENING", postgresql)
    with dbapi.connect(postgresql) as connection, connection.cursor() as cursor:
        for table in TABLES:
            cursor.adbc_ingest(table, given(table).with_row_index("nth").to_arrow(compat_level=pl.CompatLevel.oldest()))
        connection.commit()
    sources = {
        table: {
            "postgresql": "LISTENING",
            "query": f"select {', '.join(given(table).columns)} from {table} order by nth",
        }
        for table in TABLES
    }
    (tmp_path / "log.yaml").write_text(yaml.safe_dump(sources))
    same_log(tmp_path / "log.yaml")
    with pytest.raises(InputError, match="the database of LISTENING: the query failed"):
        read_source({"postgresql": "LISTENING", "query": "select nothing"}, "events", tmp_path)


def test_an_address_that_leads_nowhere_does_not_tell_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adbc_driver_postgresql")
    monkeypatch.setenv("NOWHERE", "postgresql://me:hunter2@127.0.0.1:1/log")
    with pytest.raises(InputError, match="the database of NOWHERE") as caught:
        read_source({"postgresql": "NOWHERE", "query": "select 1"}, "events", Path())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"file": "events.csv", "query": "select 1"}, "unknown key 'query'"),
        ({"query": "select 1"}, "exactly one of file, duckdb, postgresql, dataset"),
        ({"duckdb": "log.db"}, "duckdb needs 'query'"),
        ({"file": "events.xls"}, "not a kind of file"),
        ({"file": "events.csv"}, "no such file"),
        ({"postgresql": "NOT_SET", "query": "select 1"}, "NOT_SET is not set"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line(tmp_path: Path, source: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_source(source, "events", tmp_path)
