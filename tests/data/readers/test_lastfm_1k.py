"""The Last.fm-1K reader, on small files made to its format."""

import json
from pathlib import Path

import polars as pl

from data.readers import lastfm_1k
from tests.data.readers.round_trip import counted, round_trip
from tests.data.readers.samples import SAMPLES, write

LOG = "userid-timestamp-artid-artname-traid-traname.tsv"


def test_scrobbles_are_plays_and_quotes_are_letters(tmp_path: Path) -> None:
    write(SAMPLES["lastfm_1k"](), tmp_path)
    logs = lastfm_1k.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    assert store.events()["action"].unique().to_list() == ["play"]
    titles = dict(store.items().select("item_id", "title").rows())
    assert titles == {"t-1": "Harbour", '"Nils" / "Again" (live)': '"Again" (live)', "Ödmann / Snö": "Snö"}
    users = store.users()
    assert users is not None
    about = {user: json.loads(text) for user, text in users.select("user_id", "attributes").rows()}
    assert about["user_000001"]["country"] == "Iceland"
    assert about["user_000002"]["age"] == 31


def test_clocks_that_were_wrong_and_tracks_without_a_name_are_rejected(tmp_path: Path) -> None:
    write(SAMPLES["lastfm_1k"](), tmp_path)
    with (tmp_path / LOG).open("ab") as file:
        file.write(b"user_000001\t2011-05-06T07:08:09Z\t\tNils\t\tAgain\n")
        file.write(b"user_000001\t2009-01-02T03:04:05Z\t\tNils\t\t\n")
        file.write(b"user_000001\t9999-12-31T23:59:59Z\t\tNils\t\tAgain\n")
        file.write(b"user_000001\t2009-01-02T03:04:06Z\t\tN\xffls\n")
        file.write(b"user_000001\t2009-01-02T03:04:07Z\t\tN\xffls\t\tAgain\ttoo\tmany\n")
    logs = lastfm_1k.read(tmp_path / LOG)
    assert counted(logs) == {
        "time is after the data set was published": 1,
        "neither traid nor traname": 2,
        "time is not a time from 1980 to 2099": 1,
    }
    assert logs.events.height == 5
    assert "N\ufffdls" in logs.items["creator"].to_list()
    round_trip(logs, tmp_path / "s")


def test_a_first_line_cut_short_costs_that_line_only(tmp_path: Path) -> None:
    write(SAMPLES["lastfm_1k"](), tmp_path)
    lines = (tmp_path / LOG).read_text().splitlines()
    (tmp_path / LOG).write_text("\n".join(["user_000001\t2009", *lines]))
    logs = lastfm_1k.read(tmp_path)
    assert logs.events.height == 4
    assert logs.events.select(pl.col("item_id").null_count()).item() == 0
    assert counted(logs) == {"time is not a time from 1980 to 2099": 1}
