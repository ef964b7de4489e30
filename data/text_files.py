"""Text files as tables: every value as the text it is, whatever the bytes, .gz and .zst unpacked."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from data.errors import InputError

NO_SEPARATOR = "\x1f"
"""The separator of units, which no text holds: with it a line is one value."""


def read_text(
    file: Path, names: Sequence[str] | None, separator: str, *, header: bool = True, quote: str | None = None
) -> pl.DataFrame:
    """The columns `names` of a text file, those that are there (None: all), every one as text.

    Without a `header`, `names` name the columns from the left. `quote` is needed only where a value may hold the
    separator: a stray quote then costs the rows up to the next one. Bytes that are not UTF-8 are replaced. Raises
    InputError when the file is not there, empty, or no table of text.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file: check the path")
    try:
        lazy = pl.scan_csv(
            file,
            separator=separator,
            has_header=header,
            schema=None if header or names is None else dict.fromkeys(names, pl.String),
            missing_columns="raise" if header else "insert",  # or a first line cut short would set the width
            extra_columns="raise" if header else "ignore",
            quote_char=quote,
            infer_schema=False,  # text all through: what a value is, its column's kind decides, one by one
            encoding="utf8-lossy",
            truncate_ragged_lines=True,
            glob=False,
        )
        there = {name.strip(' "'): name for name in reversed(lazy.collect_schema().names())}
        asked = list(reversed(there)) if names is None else [name for name in names if name in there]
        bare = separator == "," and quote is None
        columns = [
            _unquoted(pl.col(there[name])).alias(name) if bare else pl.col(there[name]).alias(name) for name in asked
        ]
        return lazy.select(columns).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        why = (str(error).splitlines() or [""])[0]
        raise InputError(f"{file}: empty, truncated or not a table of text ({why}): write or copy it again") from None


def _unquoted(value: pl.Expr) -> pl.Expr:
    # Some exports quote every value; read without quoting, these hold the separator nowhere.
    return pl.when(value.str.contains('^"[^"]*"$')).then(value.str.strip_chars('"')).otherwise(value)
