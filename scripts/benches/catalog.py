"""The catalog bench."""

from collections.abc import Iterable

from scripts.benches.measure import Measure


def bench_catalog() -> Iterable[Measure]:
    return []
