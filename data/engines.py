"""Engines: one function over all buckets of a store, one after the other here or spread over a Ray cluster.

The function takes a bucket's number, reads and writes files of that bucket only, and returns how many events it dealt
with. It is the same for every engine, so the bytes are too. On a cluster the run's folder must be on a disk that all
nodes see. A task whose worker dies is given to another one; its files are renamed into place when they are whole
(`write_whole`), so that what the dead worker left is never taken for a result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from data.errors import InputError
from data.progress import progress
from data.store import write_parquet

ENGINES = ("local", "ray")
RETRIES = 3

BucketWork = Callable[[int], int]


def over_buckets(work: BucketWork, buckets: int, events: int, *, engine: str = "local", what: str = "events") -> None:
    """Call `work(bucket)` for every bucket, with a progress bar of `events` (how many there are in all).

    work: must be picklable for the Ray engine (a `functools.partial` of a module's function). Raises InputError for an
    engine that is not known or not installed, and whatever `work` raises.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    run = _on_ray if engine == "ray" else _here
    speed = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), speed)
    with progress(*columns) as bar:
        task = bar.add_task(what, total=events, rate="")
        for dealt_with in run(work, buckets):
            bar.advance(task, dealt_with)
            taken = bar.tasks[task].elapsed or 0.0
            rate = bar.tasks[task].completed / taken if taken else 0.0
            bar.update(task, rate=f"{rate:,.0f} events/s")


def write_whole(frame: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file that is whole or not there, however many workers write it at once."""
    beside = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    write_parquet(frame, beside)
    os.replace(beside, path)


def clear_half_written(folder: Path) -> None:
    """Take away what workers that died in `write_whole` left in `folder`."""
    for left in folder.glob(".*.parquet.*"):
        left.unlink()


def _here(work: BucketWork, buckets: int) -> Iterator[int]:
    for bucket in range(buckets):
        yield work(bucket)


def _on_ray(work: BucketWork, buckets: int) -> Iterator[int]:
    try:
        import ray
    except ImportError:
        raise InputError("engine ray: Ray is not installed: pip install '.[ray]'") from None
    started = not ray.is_initialized()
    if started:
        # With RAY_ADDRESS set it joins that cluster, else it starts one of its own on this machine.
        ray.init(log_to_driver=False, include_dashboard=False)
    task = ray.remote(max_retries=RETRIES, num_cpus=1)(_dealt_with)
    waiting: list[Any] = [task.remote(work, bucket) for bucket in range(buckets)]
    try:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            try:
                yield from ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
    finally:
        for left in waiting:
            ray.cancel(left)
        if started:
            ray.shutdown()


def _dealt_with(work: BucketWork, bucket: int) -> int:
    return work(bucket)
