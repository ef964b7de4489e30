"""The Cookie Cats reader: on a small file made to its format, and, where it is at hand, on the real one."""

from pathlib import Path

import polars as pl
import pytest

from data.outcomes import outcomes
from data.readers import cookie_cats
from tests.data.readers.round_trip import counted, real_log, round_trip
from tests.data.readers.samples import SAMPLES, write


def test_retention_is_read_back_from_the_events(tmp_path: Path) -> None:
    write(SAMPLES["cookie_cats"](), tmp_path)
    store = round_trip(cookie_cats.read(tmp_path), tmp_path / "s")
    made = store.decisions()
    assert made.sort("user_id")["arm"].to_list() == ["gate_30", "gate_30", "gate_40", "gate_40"]
    assert made["propensity"].to_list() == [0.5] * 4
    table = outcomes(store.events(), made, store.users(), store.end).sort("user_id")
    assert table["user_id"].to_list() == ["70", "71", "72", "8"]
    assert table["returned_1d"].to_list() == [False, True, False, True]
    assert table["returned_7d"].to_list() == [False, True, True, True]  # day 1 or day 7: a lower bound
    assert store.labels == ("returned_1d", "returned_7d")


def test_an_unknown_version_or_a_player_there_twice_is_rejected(tmp_path: Path) -> None:
    table = SAMPLES["cookie_cats"]()["cookie_cats.csv"]
    table = table.with_columns(version=pl.Series(["gate_30", "gate_50", "gate_40", "gate_40"]))
    table = table.with_columns(userid=pl.Series(["70", "71", "70", "8"]))
    write({"cookie_cats.csv": table}, tmp_path)
    logs = cookie_cats.read(tmp_path)
    assert counted(logs) == {"version is not gate_30 or gate_40": 1, "userid is there twice": 1}
    round_trip(logs, tmp_path / "s")


def test_the_real_test_has_the_published_retention(tmp_path: Path) -> None:
    logs = cookie_cats.read(real_log("cookie_cats_ab"))
    store = round_trip(logs, tmp_path / "s")
    made = store.decisions()
    assert dict(made["arm"].value_counts().rows()) == {"gate_30": 44_700, "gate_40": 45_489}
    table = outcomes(store.events(), made, store.users(), store.end, labels=["returned_1d"])
    table = table.join(made.select("decision_id", "arm"), on="decision_id")
    on_day_1 = dict(table.group_by("arm").agg(pl.col("returned_1d").mean()).rows())
    assert on_day_1 == {"gate_30": pytest.approx(0.44819, abs=1e-5), "gate_40": pytest.approx(0.44228, abs=1e-5)}
    day = (pl.col("time") - pl.col("time").min()).dt.total_days()
    on_day_7 = store.events().filter(day == 7).join(made, on="user_id")["arm"].value_counts().rows()
    assert {arm: n / {"gate_30": 44_700, "gate_40": 45_489}[arm] for arm, n in on_day_7} == {
        "gate_30": pytest.approx(0.1902, abs=1e-5),
        "gate_40": pytest.approx(0.182, abs=1e-5),
    }
