"""API keys: who may ask, and how often. Only hashes are kept.

    served/keys.json   [{"id": "3f9a11c0", "name": "web", "sha256": "...", "per_second": 50, "burst": 100, ...}]

A key is "lp-<id>-<secret>". The secret has 256 random bits, so one SHA-256 is a safe hash of it: there is nothing to
guess that a slow hash would protect. The file is looked at again when it changes: a key is revoked without a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data.errors import InputError

FILE = "keys.json"
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Key:
    """One client. per_second, burst: how many requests it may make. admin: it may change traffic and blocked items."""

    id: str
    name: str
    sha256: str
    per_second: float = 50.0
    burst: int = 100
    admin: bool = False


@dataclass
class Keys:
    """The keys in a file. Without a file there are none, and nobody is asked for one. For one event loop."""

    file: Path
    clock: Callable[[], float] = time.monotonic
    _keys: dict[str, Key] = field(default_factory=dict, init=False)
    _seen: tuple[int, int] | None = field(default=None, init=False)
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.refresh()

    @property
    def required(self) -> bool:
        """True once there is a file, even one without keys: revoking the last key must not open the server."""
        return self._seen is not None

    def refresh(self) -> None:
        """Read the file if it has changed. Raises InputError for one that is not as `add_key` writes it."""
        try:
            stat = self.file.stat()
        except FileNotFoundError:
            if self._seen is not None:
                raise InputError(f"{self.file} has gone: put it back, or restart to serve without keys") from None
            return
        if (seen := (stat.st_mtime_ns, stat.st_ino)) != self._seen:
            self._keys = {key.id: key for key in _read(self.file)}
            self._seen = seen

    def find(self, presented: str) -> Key | None:
        """The key that was presented, or None. Takes as long for a wrong secret as for a right one."""
        _, _, rest = presented.partition("lp-")
        name, _, _ = rest.partition("-")
        known = self._keys.get(name)
        digest = hashlib.sha256(presented.encode(errors="surrogateescape")).hexdigest()
        same = hmac.compare_digest(digest, known.sha256 if known is not None else _NO_HASH)
        return known if same else None

    def take(self, key: Key) -> float:
        """Take one request from the key's bucket: 0 if it had one, else the seconds until it has."""
        now = self.clock()
        tokens, then = self._buckets.get(key.id, (float(key.burst), now))
        tokens = min(float(key.burst), tokens + (now - then) * key.per_second)
        if tokens < 1:
            self._buckets[key.id] = (tokens, now)
            return (1 - tokens) / key.per_second
        self._buckets[key.id] = (tokens - 1, now)
        return 0.0


def add_key(file: Path, name: str, per_second: float = 50.0, burst: int = 100, admin: bool = False) -> str:
    """Make a key and keep its hash in `file`; the key itself is returned and nowhere kept.

    Raises InputError when the name is taken or a limit is not above 0.
    """
    keys = _read(file) if file.is_file() else []
    if any(key.name == name for key in keys):
        raise InputError(f"{file}: there is a key {name!r} already: choose another name, or revoke it first")
    if per_second <= 0 or burst < 1:
        raise InputError(f"a key that may ask {per_second:g} times a second, {burst} at once, may not ask at all")
    identity = secrets.token_hex(4)
    key = f"lp-{identity}-{secrets.token_urlsafe(32)}"
    new = Key(identity, name, hashlib.sha256(key.encode()).hexdigest(), per_second, burst, admin)
    _write(file, [*keys, new])
    return key


def revoke_key(file: Path, name: str) -> None:
    """Take a key out. Raises InputError when there is none of that name."""
    keys = _read(file) if file.is_file() else []
    kept = [key for key in keys if key.name != name]
    if len(kept) == len(keys):
        raise InputError(f"{file}: there is no key {name!r}: it has {', '.join(k.name for k in keys) or 'none'}")
    _write(file, kept)


def _read(file: Path) -> list[Key]:
    try:
        return [Key(**entry) for entry in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file}: not a list of keys ({error}): make keys with scripts/keys.py") from error


def _write(file: Path, keys: list[Key]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump([asdict(key) for key in keys], out, indent=1)
    os.replace(new, file)
