"""Sessions: cut at gaps, ids kept, and sessions that stand for decisions."""

from datetime import UTC, datetime

import polars as pl

from data.schema import validate
from data.sessions import link_sessions, own_session_ids, session_decisions, sessionize

T = datetime(2024, 5, 1, 9, tzinfo=UTC)


def events(rows: list[tuple[str, float, str | None, str | None]]) -> pl.DataFrame:
    """(user, minutes from T, item, session id) -> events."""
    columns = ["user_id", "minutes", "item_id", "session_id"]
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        time=T + pl.duration(seconds=pl.col("minutes") * 60), surface=pl.lit("home"), action=pl.lit("play")
    )
    return validate(frame.drop("minutes"), "events", "test")


def test_a_gap_of_more_than_half_an_hour_ends_a_session() -> None:
    cut = sessionize(events([("u", 60.1, "a", None), ("u", 0, "a", None), ("u", 30, "b", None), ("v", 31, "a", None)]))
    assert cut["user_id"].to_list() == ["u", "u", "u", "v"]
    ids = cut["session_id"].to_list()
    assert ids[0] == ids[1] != ids[2]
    assert len(set(ids)) == 3
    assert sessionize(cut).equals(cut)
    assert sessionize(events([("u", 0, "a", None), ("u", 20, "b", None)]), gap_minutes=10)["session_id"].n_unique() == 2


def test_ids_that_are_there_are_kept_and_lent_to_neighbours() -> None:
    cut = sessionize(events([("u", 0, "a", None), ("u", 5, "a", "x"), ("u", 9, "b", None), ("u", 99, "b", None)]))
    assert cut["session_id"].to_list()[:3] == ["x", "x", "x"]
    assert cut["session_id"][3] not in ("x", None)


def test_a_session_stands_for_a_decision() -> None:
    log = sessionize(
        events(
            [("u", 0, None, None), ("u", 1, "a", None), ("u", 2, "b", None), ("u", 3, "a", None), ("u", 4, "c", None)]
        )
    )
    made = session_decisions(log, slate_size=2)
    assert made["slate"].to_list() == [["a", "b"]]
    assert made["time"][0] == T
    assert made["decision_id"][0] == log["session_id"][0] == link_sessions(log)["decision_id"][4]
    assert (made["policy"][0], made["propensity"][0]) == ("organic", None)
    assert validate(made, "decisions", "test").equals(made)
    assert session_decisions(sessionize(events([("u", 0, None, None)]))).is_empty()


def test_session_ids_shared_by_users_are_told_apart() -> None:
    log = own_session_ids(sessionize(events([("u", 0, "a", "1"), ("v", 0, "a", "1"), ("w", 99, "a", None)])))
    assert log["session_id"].to_list()[:2] == ["u:1", "v:1"]
    assert log["session_id"][2].startswith("w@")
