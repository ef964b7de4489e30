"""A YAML file that an operator may change while we run: looked at often, read when it has changed.

A wrong one is not used: the last right one stays, and what is wrong is told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from data.errors import InputError

T = TypeVar("T")


class Followed(Generic[T]):
    """value: what the file says, or `absent` where there is none. error: what is wrong with it, if anything is."""

    def __init__(self, file: Path, absent: T) -> None:
        self.file = file
        self.value = absent
        self.error: str | None = None
        self._absent = absent
        self._seen: tuple[int, int] | None = None

    def refresh(self, read: Callable[[Any], T]) -> bool:
        """Read the file again if it has changed; True if it had. `read` raises InputError for what is wrong."""
        try:
            stat = self.file.stat()
            seen = (stat.st_mtime_ns, stat.st_ino)
            if seen == self._seen:
                return False
            written = yaml.safe_load(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            changed = self._seen is not None
            self._seen, self.value, self.error = None, self._absent, None
            return changed
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            self.error = f"{self.file} cannot be read: {str(error).splitlines()[0]}"
            return False
        self._seen = seen
        try:
            self.value, self.error = read(written), None
        except InputError as error:
            self.error = f"{self.file}: {error}"
        return True
