"""The MovieLens reader, on small files made to both of its formats."""

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from data.errors import InputError
from data.readers import movielens
from tests.data.readers.round_trip import counted, round_trip
from tests.data.readers.samples import SAMPLES, write


def test_stars_are_likes_and_dislikes(tmp_path: Path) -> None:
    write(SAMPLES["movielens"](), tmp_path)
    logs = movielens.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    said = store.events().sort("user_id", "time").select("item_id", "action", "value").rows()
    assert said == [("10", "like", 4.0), ("20", "dislike", 0.5), ("10", "play", 3.0), ("30", "like", 5.0)]
    films = store.items().select("item_id", "title", "tags").rows()
    assert films == [("10", "Lantern, The (1995)", ["Drama", "Comedy"]), ("20", "Tide (1999)", None), ("30", "", None)]


def test_the_older_format_says_the_same_and_latin_letters_live(tmp_path: Path) -> None:
    tables = SAMPLES["movielens"]()
    write(tables, tmp_path / "new")
    write({name.replace("csv", "dat"): table for name, table in tables.items()}, tmp_path / "old")
    movies = tmp_path / "old" / "movies.dat"
    text = movies.read_bytes().decode().replace("Tide", "Tidé: Part 2")
    movies.write_bytes(text.encode("latin-1"))
    new, old = movielens.read(tmp_path / "new"), movielens.read(tmp_path / "old")
    assert new.events.equals(old.events)
    assert old.items["title"].to_list() == ["Lantern, The (1995)", "Tidé: Part 2 (1999)", ""]
    round_trip(old, tmp_path / "s")


def test_broken_rows_are_counted_and_a_strange_file_is_named(tmp_path: Path) -> None:
    write(SAMPLES["movielens"](), tmp_path)
    with (tmp_path / "ratings.csv").open("ab") as file:
        file.write(b"3,10,11,1500000000\n3,10,nan,1500000000\n3,,4,1500000000\n3,10,4,253402300799\n" + b"x" * 70_000)
    with (tmp_path / "movies.csv").open("ab") as file:
        file.write(b'40,"Bell, ""The"" (2001)",Drama\n20,Again,Drama\n50,"never closed\n60,Fine (2002),War\n')
    logs = movielens.read(tmp_path)
    assert counted(logs) == {
        "rating is not 0.5 to 5": 1,
        "rating is not a finite number": 1,
        "movieId is null": 2,
        "timestamp is not a time in seconds since 1970, from 1980 to 2099": 1,
        "userId is not a whole number": 1,
        "movieId is there twice": 1,
    }
    assert logs.events.height == 4
    titles = dict(logs.items.select("item_id", "title").rows())
    assert titles["40"] == 'Bell, "The" (2001)'
    assert titles["60"] == "Fine (2002)"
    round_trip(logs, tmp_path / "s")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\na,b,c,d\n")
    with pytest.raises(InputError, match=r"ratings\.csv: column 'userId', row 0: .*'a'.* no other row can be used"):
        movielens.read(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        movielens.read(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no ratings\.csv or ratings\.dat here"):
        movielens.read(tmp_path / "empty")


def test_compressed_files_say_the_same(tmp_path: Path) -> None:
    write(SAMPLES["movielens"](), tmp_path)
    plain = movielens.read(tmp_path)
    for suffix, packed in [(".gz", gzip.compress), (".zst", lambda data: pa.compress(data, "zstd", asbytes=True))]:
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        for name in ("ratings.csv", "movies.csv"):
            (folder / (name + suffix)).write_bytes(packed((tmp_path / name).read_bytes()))
        again = movielens.read(folder)
        assert again.events.equals(plain.events)
        assert again.items.equals(plain.items)


def test_a_catalogue_alone_is_not_needed(tmp_path: Path) -> None:
    write(SAMPLES["movielens"](), tmp_path)
    (tmp_path / "movies.csv").unlink()
    logs = movielens.read(tmp_path / "ratings.csv")
    assert logs.items.select(pl.col("title").unique()).item() == ""
    round_trip(logs, tmp_path / "s")
