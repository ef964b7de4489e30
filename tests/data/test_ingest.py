"""A log that grows: parts in any order make the log that one ingest would have made, and nothing is there twice."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from data.artifacts import build, extend, holds, manifest
from data.errors import InputError
from data.ingest import append, write_store
from data.logs import Logs
from data.outcomes import outcomes
from data.store import LogStore, read_parquet
from tests.data.test_store import START, log


def days(logs: Logs, first: int, last: int) -> Logs:
    """The rows of `logs` from day `first` up to day `last`."""
    span = pl.col("time").is_between(START + timedelta(days=first), START + timedelta(days=last), closed="left")
    decisions = None if logs.decisions is None else logs.decisions.filter(span)
    return Logs(logs.items, logs.events.filter(span), decisions, logs.users, logs.notes)


def organic(logs: Logs) -> Logs:
    return Logs(logs.items, logs.events.drop("decision_id"), None, logs.users)


@pytest.mark.parametrize("with_decisions", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_in_any_order_make_the_same_log(tmp_path: Path, order: tuple[int, ...], with_decisions: bool) -> None:
    whole = log() if with_decisions else organic(log())
    pieces = [days(whole, 0, 1), days(whole, 1, 3), days(whole, 3, 9)]
    write_store(whole, tmp_path / "one")
    write_store(pieces[order[0]], tmp_path / "parts")
    for piece in order[1:]:
        append(pieces[piece], tmp_path / "parts")
    one, parts = LogStore(tmp_path / "one"), LogStore(tmp_path / "parts")
    assert parts.events().equals(one.events())
    assert parts.decisions().equals(one.decisions())
    assert parts.users() is not None
    assert (parts.start, parts.end, parts.actions) == (one.start, one.end, one.actions)
    assert not parts.rejected
    for b in range(one.buckets):
        both = (outcomes(s.events(b), s.decisions(b), s.users(b), s.end) for s in (one, parts))
        assert next(both).equals(next(both))


def test_rows_that_are_there_are_not_added_again(tmp_path: Path) -> None:
    write_store(days(log(), 0, 2), tmp_path / "s")
    append(days(log(), 1, 3), tmp_path / "s")
    append(days(log(), 0, 3), tmp_path / "s")
    store = LogStore(tmp_path / "s")
    assert store.events().height == store.decisions().height == 15
    assert store.parts[1]["rejected"] == {"decisions: already in the store": 5, "events: already in the store": 5}
    assert store.parts[2]["rejected"] == {"decisions: already in the store": 15, "events: already in the store": 15}
    rows = read_parquet(tmp_path / "s" / "rejected" / "0001.parquet").filter(table="events")["row"]
    assert days(log(), 1, 3).events[rows.to_list()]["time"].max() < START + timedelta(days=2)


def test_another_decision_of_the_same_id_is_rejected(tmp_path: Path) -> None:
    write_store(log(), tmp_path / "s")
    other = log()
    assert other.decisions is not None
    append(Logs(other.items, other.events.head(0), other.decisions.with_columns(propensity=0.5)), tmp_path / "s")
    store = LogStore(tmp_path / "s")
    assert store.rejected == {"decisions: the store has another decision of this decision_id": 20}
    assert set(store.decisions()["propensity"]) == {0.25}


def test_a_late_event_joins_the_sittings_on_both_sides_of_it(tmp_path: Path) -> None:
    one, two = START, START + timedelta(minutes=50)
    rows = [
        {"user_id": u, "time": t, "surface": "home", "action": "play", "item_id": "a"} for u in "uv" for t in (one, two)
    ]
    items = log().items
    write_store(Logs(items, pl.DataFrame(rows)), tmp_path / "s")
    assert LogStore(tmp_path / "s").decisions().height == 4
    late = pl.DataFrame([rows[0] | {"time": START + timedelta(minutes=25), "item_id": "b"}])
    append(Logs(items, late), tmp_path / "s")
    made = LogStore(tmp_path / "s").decisions()
    assert made.filter(user_id="u")["slate"].to_list() == [["a", "b"]]
    assert made.filter(user_id="v").height == 2


def test_the_newest_word_on_items_and_users_counts_and_places_stay(tmp_path: Path) -> None:
    write_store(log(), tmp_path / "s")
    items = pl.DataFrame({"item_id": ["z", "b"], "kind": ["podcast", "track"], "title": ["Z", "B, remastered"]})
    users = pl.DataFrame({"user_id": ["u1"], "time_zone": ["Asia/Tokyo"]})
    event = log().events.head(1).with_columns(item_id=pl.lit("z"), time=START + timedelta(days=9))
    append(Logs(items, event, None, users), tmp_path / "s")
    store = LogStore(tmp_path / "s")
    assert store.items()["item_id"].to_list() == ["a", "b", "c", "z"]
    assert store.items()["title"].to_list() == ["A", "B, remastered", "C", "Z"]
    zones = store.users()
    assert zones is not None
    assert dict(zones.select("user_id", "time_zone").rows())["u1"] == "Asia/Tokyo"
    assert zones.height == 5


def test_what_does_not_fit_the_store_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    write_store(organic(log()), tmp_path / "s")
    before = (tmp_path / "s" / "store.json").read_bytes()
    with pytest.raises(InputError, match=r"next: it has decisions, the store .* has none .*: ingest both"):
        append(log(), tmp_path / "s", source="next")
    stranger = log().events.head(1).with_columns(item_id=pl.lit("zz"))
    with pytest.raises(InputError, match=r"next, events: column 'item_id', row 0: 'zz' is not in items"):
        append(Logs(log().items, stranger.drop("decision_id")), tmp_path / "s", source="next")
    assert (tmp_path / "s" / "store.json").read_bytes() == before
    assert len(list((tmp_path / "s" / "rejected").iterdir())) == 1


def test_an_extended_artifact_is_whole_or_as_it_was(tmp_path: Path) -> None:
    sources = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for source in sources:
        source.write_text(source.name)
    folder = tmp_path / "grown"

    def add(place: Path) -> None:
        (place / f"{len(list(place.iterdir()))}.txt").write_text("part")

    build(folder, config={}, inputs=sources[:1], seed=0, make=add)
    first = (folder / "0.txt").stat().st_ino

    def fail(place: Path) -> None:
        add(place)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        extend(folder, source=sources[1], make=fail)
    assert sorted(path.name for path in folder.iterdir()) == ["0.txt", "manifest.json"]
    assert extend(folder, source=sources[1], make=add)
    assert (folder / "0.txt").stat().st_ino == first  # linked, not copied
    assert [name for name, _ in manifest(folder)["inputs"]] == ["a.txt"]
    assert [name for name, _ in manifest(folder)["added"]] == ["b.txt"]
    assert set(manifest(folder)["outputs"]) == {"0.txt", "1.txt"}
    assert not extend(folder, source=sources[0], make=fail)
    assert holds(folder, {}, sources[1])
    assert not holds(folder, {"reader": "other"}, sources[1])
    assert not build(folder, config={}, inputs=sources[:1], seed=0, make=fail)  # it is what it was, and more
    with pytest.raises(InputError, match=r"has grown since \(by b\.txt\), and making it anew would lose that"):
        build(folder, config={"other": 1}, inputs=sources[:1], seed=0, make=fail)
