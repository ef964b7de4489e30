"""Damaged logs, every reader: a row that is broken costs that row; a file that is not the log is one line of words."""

import random
import tempfile
from collections import Counter
from collections.abc import Hashable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.ingest import StoreSettings, write_store
from data.logs import Logs
from data.readers import READERS
from data.schema import validate
from data.store import LogStore
from tests.data.readers.samples import SAMPLES, Tables, as_text, write

# The file that holds what people did; the others describe them and the items.
LOGS = {
    "globo": "clicks.parquet",
    "cdnow": "transactions.parquet",
    "situnes": "interactions.parquet",
    "open_bandit": "random/all/all.csv",
    "hillstrom": "hillstrom.csv",
    "cookie_cats": "cookie_cats.csv",
    "kuairand": "log_standard_4_08_to_4_21_pure.csv",
    "lastfm_1k": "userid-timestamp-artid-artname-traid-traname.tsv",
    "yambda": "listens.parquet",
    "movielens": "ratings.csv",
}
TEXT_JUNK = [b"", b"NaN", b"inf", b"-1", b"1e309", b"9" * 40, b"9999-12-31T23:59:59Z", b"253402300799", b"\xff\xfe\x00"]
TEXT_JUNK += [b'"', b'""",', b"x" * 100_000, b"null", b"-0.0", b"2.5", b"\xf0\x9f\x8e\xb5", b"'; drop", b"1,2,3", b"\t"]
NUMBERS = [0, -1, 1, 255, 2**31, 2**62, -(2**63)]
FLOATS = [float("nan"), float("inf"), -1.0, 1e300, 0.5]
TIMES = [datetime(9999, 12, 31, 23, 59, 59), datetime(1, 1, 1), datetime(1970, 1, 1)]  # noqa: DTZ001
WORDS = ["", "x" * 100_000, "\x00", "NaN", "\U0001f3b5"]


def broken(column: pl.Series, row: int, pick: random.Random) -> pl.Series:
    """The column of a Parquet file with one value that its type allows and its meaning does not, or none."""
    dtype = column.dtype
    if dtype.is_integer():
        values = pl.Series([pick.choice(NUMBERS)]).cast(dtype, strict=False)
    elif dtype.is_float():
        values = pl.Series([pick.choice(FLOATS)]).cast(dtype, strict=False)
    elif isinstance(dtype, pl.Datetime):
        values = pl.Series([pick.choice(TIMES)]).cast(dtype, strict=False)
    elif dtype == pl.Date:
        values = pl.Series([pick.choice([date(9999, 12, 31), date(1, 1, 1)])])
    else:
        values = pl.Series([pick.choice(WORDS)], dtype=pl.String)
    value = values[0] if pick.random() < 0.8 else None
    return column.clone().scatter(row, value)


def happened(logs: Logs) -> Counter[Hashable]:
    """What a log says people did and were shown, as a bag: whom, what, how; times only where rows keep their own."""
    events = validate(logs.events, "events", "the log")
    bag: Counter[Hashable] = Counter(events.select("user_id", "item_id", "action", "value").rows())
    if logs.decisions is not None:
        made = validate(logs.decisions, "decisions", "the log").with_columns(pl.col("slate").list.join("|"))
        bag.update(made.select("decision_id", "user_id", "time", "policy", "slate", "propensity").rows())
    return bag


def stored(logs: Logs, folder: Path) -> None:
    """A log that a reader accepts is one that the store takes, or refuses in words, without losing a row."""
    try:
        write_store(logs, folder, StoreSettings(buckets=1, minimum_users=1))
    except InputError as error:
        assert "there are no events" in str(error)  # noqa: PT017
        return
    store = LogStore(folder)
    assert logs.rejected is not None
    assert store.events_in_all + (sum(store.rejected.values()) - logs.rejected.height) == logs.events.height


def with_log(tables: Tables, name: str, table: pl.DataFrame) -> Tables:
    return tables | {LOGS[name]: table}


@pytest.mark.parametrize("name", LOGS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_broken_row_costs_that_row(name: str, seed: int) -> None:
    """What is read of a file with one damaged row includes all that is read of it with that row empty."""
    pick = random.Random(seed)
    tables, log = SAMPLES[name](), LOGS[name]
    table = tables[log]
    row = pick.randrange(table.height)
    empty = pl.DataFrame([column.clone().scatter(row, None) for column in table])
    with tempfile.TemporaryDirectory() as folder:
        whole, hurt = Path(folder) / "whole", Path(folder) / "hurt"
        write(with_log(tables, name, empty), whole)
        column = pick.randrange(table.width)
        if log.endswith(".parquet"):
            damaged = table.with_columns(broken(table.to_series(column), row, pick))
            write(with_log(tables, name, damaged), hurt)
        else:
            write(tables, hurt)
            lines = as_text(log, table).split(b"\n")
            line = row + len(lines) - 1 - table.height
            cells = lines[line].split(b"\t" if log.endswith("tsv") else b",")
            cells[column] = pick.choice([*TEXT_JUNK, pick.randbytes(pick.randrange(40)).replace(b"\n", b"")])
            lines[line] = (b"\t" if log.endswith("tsv") else b",").join(cells)
            (hurt / log).write_bytes(b"\n".join(lines))
        logs = READERS[name](hurt)
        missing = happened(READERS[name](whole)) - happened(logs)
        assert not missing, (missing, logs.rejected)
        stored(logs, Path(folder) / "store")


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_file_of_noise_is_a_log_or_one_line_of_words(name: str, seed: int) -> None:
    """Any one file of the log cut short, overwritten in places, or made of random bytes."""
    pick = random.Random(seed)
    tables = SAMPLES[name]()
    with tempfile.TemporaryDirectory() as folder:
        write(tables, Path(folder) / "in")
        file = Path(folder) / "in" / pick.choice(list(tables))
        data = bytearray(file.read_bytes())
        damage = pick.randrange(4)
        if damage == 0:
            data = data[: pick.randrange(len(data))]
        elif damage == 1:
            data = bytearray(pick.randbytes(pick.randrange(300)))
        elif damage == 2:
            for _ in range(pick.randrange(1, 6)):
                data[pick.randrange(len(data))] = pick.choice(b'\x00\xff",\n\t{[019')
        else:
            data += pick.randbytes(pick.randrange(1, 200))
        file.write_bytes(bytes(data))
        try:
            logs = READERS[name](Path(folder) / "in")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
        stored(logs, Path(folder) / "store")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_noise_in_our_own_tables_is_a_log_or_one_line_of_words(seed: int) -> None:
    pick = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        write(SAMPLES["cookie_cats"](), Path(folder))
        made = READERS["cookie_cats"](Path(folder))
        assert made.decisions is not None
        tables = {"items.parquet": made.items, "events.parquet": made.events, "decisions.parquet": made.decisions}
        write(tables, Path(folder) / "ours")
        file = Path(folder) / "ours" / pick.choice(list(tables))
        data = bytearray(file.read_bytes())
        data[pick.randrange(len(data))] = pick.randrange(256)
        file.write_bytes(bytes(data[: pick.randrange(len(data))] if pick.random() < 0.3 else data))
        try:
            read = READERS["longplay"](Path(folder) / "ours")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
        assert read.events.height <= made.events.height


@pytest.mark.parametrize("name", [name for name in LOGS if LOGS[name].endswith(".parquet")])
def test_a_parquet_column_of_another_type_is_named(name: str, tmp_path: Path) -> None:
    tables, log = SAMPLES[name](), LOGS[name]
    for column in ("user_id", "customer_id", "uid"):
        if column in tables[log].columns:
            write(with_log(tables, name, tables[log].with_columns(pl.lit("x").alias(column))), tmp_path)
            with pytest.raises(
                InputError, match=rf"{log}: column '{column}' \(row 0\) is String, must be a whole number"
            ):
                READERS[name](tmp_path)
            write(with_log(tables, name, tables[log].drop(column)), tmp_path)
            with pytest.raises(InputError, match=rf"{log}: column '{column}' \(row 0\) is missing"):
                READERS[name](tmp_path)


@pytest.mark.parametrize("name", SAMPLES)
def test_notes_and_rejections_are_said_by_every_reader(name: str, tmp_path: Path) -> None:
    write(SAMPLES[name](), tmp_path)
    logs = READERS[name](tmp_path)
    assert {"time", "propensity"} & set(logs.notes)
    assert all(note == " ".join(note.split()) for note in logs.notes.values())
    assert logs.rejected is not None
    assert logs.rejected.is_empty()
    assert all(moment.tzinfo == UTC or moment.utcoffset() is not None for moment in logs.events["time"].to_list())
    assert "left null" not in logs.notes
