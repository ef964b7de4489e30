"""Readers of logs: one file per source, each a `read(path) -> Logs` that says what it maps and what it cannot fill."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from data.logs import Logs
from data.readers import globo, longplay

READERS: Mapping[str, Callable[[Path], Logs]] = MappingProxyType({"globo": globo.read, "longplay": longplay.read})
