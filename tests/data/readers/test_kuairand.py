"""The KuaiRand reader, on small files made to its format."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from data.errors import InputError
from data.local_time import local_clock, with_time_zone
from data.readers import kuairand
from tests.data.readers.round_trip import counted, round_trip
from tests.data.readers.samples import SAMPLES, write


def test_the_random_arm_has_its_propensity_and_the_standard_arm_none(tmp_path: Path) -> None:
    write(SAMPLES["kuairand"](), tmp_path)
    logs = kuairand.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    made = store.decisions().sort("decision_id")
    assert made.select("policy", "arm", "propensity", "slate").rows() == [
        ("random", "random", pytest.approx(1 / 7583), ["9"]),
        ("random", "random", pytest.approx(1 / 7583), ["7"]),
        ("tab_1", "standard", None, ["7"]),
        ("tab_1", "standard", None, ["8"]),
        ("tab_4", "standard", None, ["7"]),
    ]
    events = store.events().join(made.select("decision_id", "slate"), on="decision_id")
    assert (events["item_id"] == events["slate"].list.first()).all()
    said = events.filter(pl.col("decision_id").str.starts_with("log_standard")).sort("decision_id", "action")
    assert said.select("action", "seconds").rows() == [
        ("complete", None),
        ("like", None),
        ("play", 12.0),
        ("dislike", None),
        ("skip", pytest.approx(0.9)),
    ]  # the third was shown and not touched: a decision without an event


def test_videos_and_users_are_joined_and_days_are_chinese(tmp_path: Path) -> None:
    write(SAMPLES["kuairand"](), tmp_path)
    logs = kuairand.read(tmp_path)
    video = logs.items.filter(pl.col("item_id") == "7").row(0, named=True)
    assert (video["tags"], video["creator"], video["duration"]) == (["4", "9"], "31", 10.0)
    assert video["released_at"] == datetime(2021, 2, 3, tzinfo=UTC)
    assert logs.items["item_id"].to_list() == ["7", "8", "9"]  # 9 has no features
    assert logs.users is not None
    assert json.loads(logs.users.filter(pl.col("user_id") == "1")["attributes"][0])["register_days"] == 1200
    wall = local_clock(with_time_zone(logs.events.filter(pl.col("user_id") == "1"), logs.users).sort("time"))
    assert wall[0].strftime("%Y%m%d %H") == "20220421 04"  # as date and hourmin say


def test_a_compressed_log_is_read_and_a_broken_row_costs_that_row(tmp_path: Path) -> None:
    write(SAMPLES["kuairand"](), tmp_path)
    log = tmp_path / "log_standard_4_08_to_4_21_pure.csv"
    lines = log.read_bytes().splitlines()
    lines[2] = lines[2].replace(b"1650485100002", b'16"5\xff')
    (tmp_path / (log.name + ".gz")).write_bytes(gzip.compress(b"\n".join(lines)))
    log.unlink()
    logs = kuairand.read(tmp_path)
    reason = "log_standard_4_08_to_4_21_pure: time_ms is not a time in milliseconds since 1970, from 1980 to 2099"
    assert counted(logs) == {reason: 1}
    assert logs.decisions is not None
    assert logs.decisions.height == 4
    round_trip(logs, tmp_path / "s")
    (tmp_path / (log.name + ".gz")).write_bytes(gzip.compress(b"\n".join(lines))[:-12])
    with pytest.raises(InputError, match="truncated"):
        kuairand.read(tmp_path)
