"""The Open Bandit reader: on small files laid out as published, and, where it is at hand, on the real sample."""

from pathlib import Path

import polars as pl
import pytest

from data.errors import InputError
from data.readers import open_bandit
from tests.data.readers.round_trip import counted, real_log, round_trip
from tests.data.readers.samples import SAMPLES, write


def test_an_impression_is_a_decision_on_one_item_with_its_propensity(tmp_path: Path) -> None:
    write(SAMPLES["open_bandit"](), tmp_path)
    logs = open_bandit.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    made = store.decisions().sort("decision_id")
    assert made.select("decision_id", "policy", "arm", "slate", "propensity").rows() == [
        ("bts/men/0", "bts@men", "bts", ["men/0"], 0.0123),
        ("bts/men/1", "bts@men", "bts", ["men/1"], 0.9),
        ("random/all/0", "random@all", "random", ["all/0"], 0.5),
        ("random/all/1", "random@all", "random", ["all/1"], 0.5),
        ("random/all/2", "random@all", "random", ["all/1"], 0.5),
    ]
    clicks = store.events().sort("decision_id").select("decision_id", "action", "position").rows()
    assert clicks == [("bts/men/0", "open", 1), ("random/all/1", "open", 2), ("random/all/2", "open", 1)]
    assert "three-item slate" in store.notes["propensity"]


def test_a_single_file_takes_its_policy_from_its_place(tmp_path: Path) -> None:
    write(SAMPLES["open_bandit"](), tmp_path)
    logs = open_bandit.read(tmp_path / "random" / "all" / "all.csv")
    assert logs.decisions is not None
    assert logs.decisions["policy"].unique().to_list() == ["random@all"]
    stray = tmp_path / "stray.csv"
    stray.write_bytes((tmp_path / "random/all/all.csv").read_bytes())
    with pytest.raises(InputError, match=r"stray\.csv: the name says no policy"):
        open_bandit.read(stray)


def test_a_propensity_that_is_none_is_rejected(tmp_path: Path) -> None:
    tables = SAMPLES["open_bandit"]()
    odds = pl.Series("propensity_score", ["0", "1.5", "0.5"])
    write(tables | {"random/all/all.csv": tables["random/all/all.csv"].with_columns(odds)}, tmp_path)
    logs = open_bandit.read(tmp_path)
    assert counted(logs) == {"random/all: propensity_score is not in (0, 1]": 2}
    round_trip(logs, tmp_path / "s")


def test_the_real_sample_has_the_published_clicks(tmp_path: Path) -> None:
    logs = open_bandit.read(real_log("open_bandit_small"))
    assert logs.decisions is not None
    assert logs.decisions.height == 60_000
    clicks = logs.events.join(logs.decisions.select("decision_id", "policy"), on="decision_id")
    published = {"all": 38, "men": 46, "women": 46}
    for campaign, items in [("all", 80), ("men", 34), ("women", 46)]:
        drawn = logs.decisions.filter(pl.col("policy") == f"random@{campaign}")
        assert drawn["propensity"].unique().to_list() == [pytest.approx(1 / items)]
        assert clicks.filter(pl.col("policy") == f"random@{campaign}").height == published[campaign]
    assert logs.items.height == 80 + 34 + 46
    round_trip(logs, tmp_path / "s")
