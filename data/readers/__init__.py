"""Readers of logs: one file per source, each a `read(path) -> Logs` that says what it maps and what it cannot fill."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from data.logs import Logs
from data.readers import (
    amazon,
    cdnow,
    cookie_cats,
    globo,
    hillstrom,
    kuairand,
    lastfm_1k,
    longplay,
    movielens,
    open_bandit,
    situnes,
    yambda,
)

READERS: Mapping[str, Callable[[Path], Logs]] = MappingProxyType(
    {
        "longplay": longplay.read,
        "globo": globo.read,
        "cdnow": cdnow.read,
        "amazon": amazon.read,
        "situnes": situnes.read,
        "open_bandit": open_bandit.read,
        "hillstrom": hillstrom.read,
        "cookie_cats": cookie_cats.read,
        "kuairand": kuairand.read,
        "lastfm_1k": lastfm_1k.read,
        "yambda": yambda.read,
        "movielens": movielens.read,
    }
)
