"""Engines: the same bytes here, on a cluster of two nodes, and where a worker dies half-way."""

import os
import signal
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from data.engines import over_buckets, write_whole
from data.errors import InputError
from data.ingest import StoreSettings, write_store
from data.outcomes import OutcomeSettings, _label_bucket, write_outcomes
from data.store import LogStore
from tests.data.test_store import log

BUCKETS = 6
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LogStore:
    folder = tmp_path_factory.mktemp("log")
    write_store(log(users=40), folder, StoreSettings(buckets=BUCKETS))
    return LogStore(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def dies_once(work: partial[int], folder: Path, bucket: int) -> int:
    """As `work`, but the first worker to take bucket 3 is killed with its file half written."""
    killed = folder / "killed"
    if bucket == 3 and not killed.exists():
        killed.touch()
        (folder / f".03.parquet.node.{os.getpid()}").write_bytes(b"PAR1")
        os.kill(os.getpid(), signal.SIGKILL)
    return work(bucket)


def test_a_cluster_writes_the_same_bytes_though_a_worker_dies(store: LogStore, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    write_outcomes(store, tmp_path / "local")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        paths = {"PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1"}
        ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": paths})
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
        write_outcomes(store, tmp_path / "ray", engine="ray")
        assert files(tmp_path / "ray") == files(tmp_path / "local")

        again = tmp_path / "killed"
        again.mkdir()
        labels = tuple(pl.read_json(tmp_path / "local" / "outcomes.json")["labels"][0])
        work = partial(_label_bucket, store.folder, again, OutcomeSettings(), labels)
        over_buckets(partial(dies_once, work, again), BUCKETS, store.events_in_all, engine="ray")
        assert (again / "killed").exists()
        for bucket in range(BUCKETS):
            name = f"{bucket:02d}.parquet"
            assert (again / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_what_a_dead_worker_left_is_not_taken_for_a_result(store: LogStore, tmp_path: Path) -> None:
    (tmp_path / ".03.parquet.node.77").write_bytes(b"PAR1")
    write_outcomes(store, tmp_path)
    assert not list(tmp_path.glob(".*"))
    write_whole(pl.DataFrame({"a": [1]}), tmp_path / "one.parquet")
    assert not list(tmp_path.glob(".*"))


def test_an_unknown_engine_is_one_line() -> None:
    with pytest.raises(InputError, match="unknown engine 'spark': choose one of local, ray"):
        over_buckets(lambda bucket: bucket, 2, 2, engine="spark")
