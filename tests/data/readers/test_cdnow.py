"""The CDNOW reader: on a small log made to its format, and, where it is at hand, on the real one."""

from datetime import UTC, datetime
from pathlib import Path

from data.ingest import StoreSettings, write_store
from data.outcomes import outcomes
from data.readers import cdnow
from data.store import LogStore
from tests.data.readers.round_trip import counted, real_log, round_trip
from tests.data.readers.samples import SAMPLES, write


def test_orders_of_one_day_are_all_kept(tmp_path: Path) -> None:
    write(SAMPLES["cdnow"](), tmp_path)
    logs = cdnow.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    assert store.events()["value"].sum() == 9.5 + 9.5 + 60 + 20.25
    assert store.end == datetime(1998, 7, 1, tzinfo=UTC)  # its last day is logged to the end
    assert store.decisions().height == 3  # the two orders of one day are one sitting


def test_the_real_log_has_the_published_orders_and_returns(tmp_path: Path) -> None:
    logs = cdnow.read(real_log("cdnow_music_cd_purchases"))
    assert logs.events.height == 69_659
    assert logs.events["user_id"].n_unique() == 23_570
    assert counted(logs) == {}
    write_store(logs, tmp_path / "s", StoreSettings(buckets=1))
    store = LogStore(tmp_path / "s")
    assert store.decisions().height == 67_591  # user-days
    table = outcomes(store.events(), store.decisions(), None, store.end, labels=["returned_7d", "returned_28d"])
    for label, known, rate in [("returned_7d", 67_228, 0.1119), ("returned_28d", 65_779, 0.2957)]:
        assert table[label].drop_nulls().len() == known
        assert abs(float(table[label].mean()) - rate) < 1e-4  # type: ignore[arg-type]
