"""The Amazon reader: on a small log made to its format, and, where it is at hand, on the real one."""

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from data.errors import InputError
from data.readers import amazon
from tests.data.readers.round_trip import counted, real_log, round_trip
from tests.data.readers.samples import BEGIN, SAMPLES, write


def test_a_split_by_time_is_leave_one_out(tmp_path: Path) -> None:
    write(SAMPLES["amazon"](), tmp_path)
    logs = amazon.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    last = logs.events.filter(pl.col("time") == pl.col("time").max()).sort("user_id")
    assert last["item_id"].to_list() == ["2", "0", "1"]  # everybody's last item
    first = logs.events.filter(pl.col("user_id") == "0")
    assert first["item_id"].to_list() == ["0", "1", "2"]
    assert first["time"].to_list() == [BEGIN + timedelta(days=d) for d in range(3)]
    items = store.items()
    assert items["title"].to_list() == ["Beaker", "Tongs", ""]  # item 2 has no entry in the catalogue
    assert items["tags"].to_list()[0] == ["Lab", "Glass"]


def test_a_step_that_names_no_item_is_rejected_and_a_file_of_another_shape_is_named(tmp_path: Path) -> None:
    write(SAMPLES["amazon"](), tmp_path)
    (tmp_path / "S.inter.json").write_text('{"a": [1, null, 2.5, "x\\ud800"], "b": [true, 1]}')
    logs = amazon.read(tmp_path)
    assert counted(logs) == {"item is not an id": 3}
    assert logs.events["item_id"].to_list() == ["1", "x?", "1"]
    round_trip(logs, tmp_path / "s")
    for broken, said in [("[1]", "must be an object"), ('{"a": 3}', "'a', row 0: 3 is not a list"), ("{", "as JSON")]:
        (tmp_path / "S.inter.json").write_text(broken)
        with pytest.raises(InputError, match=said):
            amazon.read(tmp_path)
    (tmp_path / "S.inter.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="JSON"):
        amazon.read(tmp_path)


def test_the_real_log_has_the_published_counts(tmp_path: Path) -> None:
    folder = real_log("amazon_scientific")
    logs = amazon.read(folder)
    assert (logs.events["user_id"].n_unique(), logs.items.height, logs.events.height) == (8_317, 4_344, 58_492)
    assert logs.items["title"].str.len_chars().min() > 0  # type: ignore[operator]
    test = logs.events.filter(pl.col("time") == pl.col("time").max()).select("user_id", "item_id").rows()
    published = json.loads((folder / "Scientific.inter.json").read_text())
    assert dict(test) == {user: str(items[-1]) for user, items in published.items()}
    round_trip(logs, tmp_path / "s")
