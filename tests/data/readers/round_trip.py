"""What every reader's test does: find the real log, and write what was read to a store and read it back."""

import os
from pathlib import Path

import pytest

from data.ingest import StoreSettings, write_store
from data.logs import Logs
from data.schema import validate
from data.store import LogStore


def real_log(folder: str) -> Path:
    """The folder of a public log: in LONGPLAY_DATA, else beside the checkout; the test is skipped where it is not."""
    home = Path(os.environ.get("LONGPLAY_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
    if not (home / folder).is_dir():
        pytest.skip(f"no log at {home / folder}")
    return home / folder


def round_trip(logs: Logs, folder: Path) -> LogStore:
    """The store of `logs`, after checking that it holds every row of them and counts every rejected one."""
    write_store(logs, folder, StoreSettings(buckets=2))
    store = LogStore(folder)
    key = ["user_id", "time", "action", "item_id"]
    wrote, read = (f.select(key).sort(key) for f in (validate(logs.events, "events", "the log"), store.events()))
    assert read.equals(wrote, null_equal=True)
    if logs.decisions is not None:
        assert store.decisions()["decision_id"].sort().equals(logs.decisions["decision_id"].sort())
        propensities = logs.decisions.join(store.decisions(), on="decision_id")
        if "propensity" in logs.decisions.columns:
            assert propensities["propensity"].equals(propensities["propensity_right"], null_equal=True)
    if logs.users is not None:
        users = store.users()
        assert users is not None
        assert users["user_id"].sort().equals(logs.users["user_id"].sort())
    assert store.items()["item_id"].equals(logs.items["item_id"])
    assert logs.rejected is not None
    assert sum(store.rejected.values()) == logs.rejected.height
    assert dict(store.notes) == dict(logs.notes)
    return store


def counted(logs: Logs, column: str = "reason") -> dict[str, int]:
    """How many rows were rejected, by reason."""
    assert logs.rejected is not None
    return dict(logs.rejected[column].value_counts().rows())
