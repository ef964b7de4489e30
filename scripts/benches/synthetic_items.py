"""A made-up catalog of any size, and sessions of people who listen to it: the catalog bench's input.

An item belongs to a theme; its words are mostly the theme's, its creator makes things of one theme, and a session stays
with one theme more often than not. So there is something to find, in words and in company alike.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl

_WORDS, _WORDS_A_THEME, _WORDS_AN_ITEM = 20_000, 60, 8
_SESSION = 5
START = datetime(2024, 2, 1, tzinfo=UTC)


def made_up_items(count: int, seed: int = 0, first: int = 0) -> pl.DataFrame:
    """`count` items of count / 1,000 themes (at least 8), numbered from `first`."""
    rng = np.random.default_rng((seed, first))
    themes = themes_of(count)
    vocabulary = np.random.default_rng(seed).integers(_WORDS, size=(themes, _WORDS_A_THEME))
    theme = np.arange(first, first + count) % themes
    said = vocabulary[theme[:, None], rng.integers(_WORDS_A_THEME, size=(count, _WORDS_AN_ITEM))]
    stray = rng.random(said.shape) < 0.25
    said[stray] = rng.integers(_WORDS, size=int(stray.sum()))
    words = pl.Series(np.char.add("w", np.arange(_WORDS).astype(str)))
    text = words[said.ravel()].reshape((count, _WORDS_AN_ITEM)).arr.join(" ")
    creator = theme * 100 + rng.integers(100, size=count)
    return pl.DataFrame({"number": np.arange(first, first + count), "creator": creator, "text": text}).select(
        item_id="i" + pl.col("number").cast(pl.String),
        kind=pl.lit("track"),
        title="piece " + pl.col("number").cast(pl.String),
        creator="maker " + pl.col("creator").cast(pl.String),
        text="text",
    )


def themes_of(count: int) -> int:
    """How many themes a catalog of `count` items has."""
    return max(8, count // 1000)


def made_up_sessions(items: int, sessions: int, seed: int = 0) -> pl.DataFrame:
    """Events: `sessions` sittings of five plays each, four in five of them of the session's theme."""
    rng = np.random.default_rng((seed, 1))
    themes = themes_of(items)
    theme = rng.integers(themes, size=(sessions, 1))
    of_theme = rng.integers(items // themes, size=(sessions, _SESSION)) * themes + theme
    played = np.where(rng.random(of_theme.shape) < 0.8, of_theme, rng.integers(items, size=of_theme.shape)).ravel()
    session = np.repeat(np.arange(sessions), _SESSION)
    second = np.timedelta64(1_000_000, "us")
    when = (
        np.datetime64(START.replace(tzinfo=None), "us")
        + (session * 60 + np.tile(np.arange(_SESSION), sessions)) * second
    )
    return pl.DataFrame({"session": session, "time": when, "item": played}).select(
        user_id="u" + (pl.col("session") % 100_000).cast(pl.String),
        time=pl.col("time").dt.replace_time_zone("UTC"),
        surface=pl.lit("home"),
        action=pl.lit("play"),
        item_id="i" + pl.col("item").cast(pl.String),
        session_id="s" + pl.col("session").cast(pl.String),
    )
