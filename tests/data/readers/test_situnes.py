"""The SiTunes reader: on a small log made to its format, and, where it is at hand, on the real one."""

from pathlib import Path

import polars as pl

from data.readers import situnes
from tests.data.readers.round_trip import counted, real_log, round_trip
from tests.data.readers.samples import SAMPLES, write


def test_field_plays_are_decisions_and_ratings_are_likes(tmp_path: Path) -> None:
    write(SAMPLES["situnes"](), tmp_path)
    logs = situnes.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    made = store.decisions().sort("decision_id")
    assert made.select("policy", "arm").rows() == [("unknown", None), ("Rand", "random"), ("Situ-MT", "model")]
    assert made["propensity"].null_count() == 3
    assert store.events()["action"].value_counts().sort("action").rows() == [("dislike", 1), ("like", 2), ("play", 4)]
    seconds = store.events().filter(pl.col("action") == "play")["seconds"]
    assert sorted(seconds.drop_nulls().to_list()) == [61.5, 130.0, 200.0]
    assert store.events().filter(pl.col("action") != "play")["seconds"].null_count() == 3  # or minutes count twice
    assert store.items().filter(pl.col("item_id") == "9")["title"].to_list() == [""]


def test_a_rating_of_seven_stars_is_rejected(tmp_path: Path) -> None:
    tables = SAMPLES["situnes"]()
    rated = tables["interactions.parquet"].with_columns(rating=pl.Series([4, 7, 3, 5]))
    write(tables | {"interactions.parquet": rated}, tmp_path)
    logs = situnes.read(tmp_path)
    assert counted(logs) == {"rating is not 1 to 5": 1}
    round_trip(logs, tmp_path / "s")


def test_the_real_log_has_the_published_arms(tmp_path: Path) -> None:
    logs = situnes.read(real_log("situnes_music"))
    plays = logs.events.filter(pl.col("action") == "play")
    assert (plays.height, plays["user_id"].n_unique(), plays["item_id"].n_unique()) == (2_006, 30, 307)
    assert logs.decisions is not None
    assert logs.decisions.height == 1_406
    assert logs.decisions["arm"].value_counts(sort=True).rows() == [("model", 907), ("random", 422), (None, 77)]
    untitled = logs.items.filter(pl.col("title") == "")["item_id"].implode()
    assert plays.filter(pl.col("item_id").is_in(untitled)).height == 153
    round_trip(logs, tmp_path / "s")
