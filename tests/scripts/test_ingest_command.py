"""scripts/ingest.py: what it brings in, what it adds, and what it must never lose."""

from dataclasses import replace
from pathlib import Path

import pytest

from data.artifacts import fingerprint
from data.errors import InputError
from data.store import LogStore
from scripts.ingest import IngestArguments, stage
from scripts.simulate import SimulateArguments
from scripts.simulate import stage as simulate
from tests.data.test_store import log


def test_a_query_is_asked_again_and_what_it_says_twice_adds_nothing(tmp_path: Path) -> None:
    """Next week's rows are behind the same words."""
    source, run = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    logs = log()
    half = logs.events.height // 2
    tables = {"items": logs.items, "decisions": logs.decisions, "users": logs.users}
    for name, frame in tables.items():
        assert frame is not None
        frame.write_parquet(source / f"{name}.parquet")
    logs.events[:half].write_parquet(tmp_path / "events.parquet")
    described = "".join(f"{name}: {{file: {name}.parquet}}\n" for name in tables)
    (source / "log.yaml").write_text(described + "events: {file: ../events.parquet}\n")
    given = IngestArguments(str(run), str(source))
    assert stage(given)
    logs.events.write_parquet(tmp_path / "events.parquet")
    more = replace(given, append=True)
    assert stage(more)
    store = LogStore(run / "logs")
    assert store.events_in_all == logs.events.height
    before = fingerprint(run / "logs")
    assert stage(more)
    assert fingerprint(run / "logs") == before


def test_a_log_that_grew_is_not_made_anew_by_other_settings_nor_by_a_world(tmp_path: Path) -> None:
    logs, run = log(), str(tmp_path / "run")
    half = logs.events.height // 2
    for name, events in (("one", logs.events[:half]), ("two", logs.events[half:])):
        (tmp_path / name).mkdir()
        logs.items.write_parquet(tmp_path / name / "items.parquet")
        events.drop("decision_id").write_parquet(tmp_path / name / "events.parquet")
    first = IngestArguments(run, str(tmp_path / "one"), buckets=5)
    assert stage(first)
    assert stage(IngestArguments(run, str(tmp_path / "two"), append=True))
    whole = fingerprint(tmp_path / "run" / "logs")
    assert not stage(IngestArguments(run, str(tmp_path / "one")))  # as the road does: it keeps its five buckets
    assert LogStore(tmp_path / "run" / "logs").buckets == 5
    with pytest.raises(InputError, match="has grown since"):
        stage(replace(first, slate_size=3))
    with pytest.raises(InputError, match="a log that was brought in, not simulated"):
        simulate(SimulateArguments(run))
    assert fingerprint(tmp_path / "run" / "logs") == whole
    with pytest.raises(InputError, match="gap_minutes"):
        stage(replace(first, gap_minutes=-1.0))
