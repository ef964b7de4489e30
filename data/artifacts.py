"""Artifacts: folders that are whole or not there, and that are made again only when something changed.

    build(runs/demo/outcomes, config={...}, inputs=[runs/demo/logs], seed=0, make=write)

runs `write(temporary)`, adds manifest.json (inputs and outputs with hashes, config, package versions, seed, commit,
wall time) and renames the whole into place. A second call with the same config, seed and inputs returns at once. A
process killed at any point leaves the old artifact or the new one: the folder itself is only ever renamed. What a
killed run left beside it (`.name.making-*`, `.name.old-*`) the next build clears away; while the maker lives, it holds
its half-made folder, and a second build of the same artifact is refused.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import InputError

FORMAT_VERSION = 1
PATIENCE_SECONDS = 2.0
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "polars", "pyarrow", "numpy", "scikit-learn")


def build(
    folder: Path,
    *,
    config: Mapping[str, object],
    inputs: Sequence[Path],
    seed: int,
    make: Callable[[Path], None],
) -> bool:
    """Make the artifact `folder` by `make(temporary folder)` unless it is there for the same config, seed and inputs.

    Returns True when it was made, False when it was there, also where it has grown since (`extend`). `config` must be
    JSON. Raises InputError when an input is missing, when the folder was written by another version of Longplay, when
    it is there and is no artifact, when making it anew would lose what it has grown by, and when another process is
    making it.
    """
    folder = Path(folder)
    _recover(folder)
    key = _key(config, inputs, seed)
    if folder.exists():
        have = manifest(folder)
        if all(have.get(name) == value for name, value in key.items()):
            return False
        if have.get("added"):
            parts = ", ".join(name for name, _ in have["added"])
            fix = "give the settings and source that it began with, or delete the folder to begin anew"
            raise InputError(f"{folder} has grown since (by {parts}), and making it anew would lose that: {fix}")
    _make(folder, key, make)
    return True


def extend(folder: Path, *, source: Path, make: Callable[[Path], None], again: bool = False) -> bool:
    """Add `source` to an artifact that grows: `make(folder)` adds files to it, or replaces some.

    The manifest says under "added" what came after the inputs it was built with. `make` gets a copy of the artifact
    whose files are hard links to the old ones: it must never write into one, only rename another over it. Returns
    False, and makes nothing, when the artifact has an input of the same bytes already, unless `again` says that the
    source may have more to say by now. Raises InputError when there is no such artifact or no such source.
    """
    folder = Path(folder)
    _recover(folder)
    have = manifest(folder)
    new = [Path(source).name, fingerprint(source)]
    added = have.get("added", [])
    if not again and any(new[1] == old for _, old in [*have["inputs"], *added]):
        return False

    def grow(temporary: Path) -> None:
        for name in have["outputs"]:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _link(folder / name, temporary / name)
        make(temporary)

    key = {name: have[name] for name in ("format_version", "config", "seed", "inputs")}
    _make(folder, key | {"added": [*added, new]}, grow, known=have["outputs"])
    return True


def _make(
    folder: Path, key: Mapping[str, Any], make: Callable[[Path], None], known: Mapping[str, str] | None = None
) -> None:
    """Make the artifact in a temporary folder and rename it into place. known: hashes of files that are linked."""
    temporary, claim = _claim(folder)

    def hash_of(name: str) -> str:
        if known is not None and name in known and (temporary / name).samefile(folder / name):
            return known[name]
        return fingerprint(temporary / name)

    try:
        started = time.monotonic()
        make(temporary)
        facts = dict(key) | {
            "outputs": {name: hash_of(name) for name in _files(temporary)},
            "packages": _versions(),
            "commit": _commit(),
            "wall_seconds": round(time.monotonic() - started, 3),
        }
        (temporary / "manifest.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        _sync(temporary)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(claim)


def _claim(folder: Path) -> tuple[Path, int]:
    """A temporary folder to make `folder` in, and the descriptor by which this process holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _held(folder.parent):
        _sweep(folder)
        temporary = folder.parent / f".{folder.name}.making-{uuid.uuid4().hex}"
        temporary.mkdir()
        claim = os.open(temporary, os.O_RDONLY)
        fcntl.flock(claim, fcntl.LOCK_EX)
    return temporary, claim


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Wait for the lock on a folder, for as long as renames take. The system frees it when its holder is killed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _in_use(folder: Path) -> bool:
    """Whether a living process holds a folder and goes on to: one whose parent was killed ends a moment later."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # its maker has just given up
        return False
    patience = time.monotonic() + PATIENCE_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            except BlockingIOError:
                if time.monotonic() > patience:
                    return True
                time.sleep(0.05)
    finally:
        os.close(descriptor)


def _link(old: Path, new: Path) -> None:
    """`new` as a hard link to `old`; a copy where the file system has none."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def holds(folder: Path, config: Mapping[str, object], source: Path) -> bool:
    """Whether `folder` is an artifact of this config that has grown by `source`."""
    if not Path(folder).is_dir():
        return False
    have = manifest(folder)
    return have["config"] == dict(config) and fingerprint(source) in [old for _, old in have.get("added", [])]


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact; raises InputError where there is none, or one of another version."""
    path = Path(folder) / "manifest.json"
    fix = "delete the folder, or choose another run name, and run again"
    try:
        facts = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder}: not an artifact of Longplay (no manifest.json): {fix}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path} is not JSON: {fix}") from None
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(f"{folder} was made by format version {version}, this is version {FORMAT_VERSION}: {fix}")
    return dict(facts)


def fingerprint(path: Path) -> str:
    """SHA-256 of a file; of an artifact folder, the hash of its outputs' names and hashes; of another, of its files.

    Raises InputError when there is nothing at `path`.
    """
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder: make it first, or check the path")
    if (path / "manifest.json").is_file():
        outputs = manifest(path)["outputs"]
    else:
        outputs = {name: fingerprint(path / name) for name in _files(path)}
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold `run` for this process; raises InputError when another process holds it. A killed holder frees it."""
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            fix = "wait for it to end, or choose another run name"
            raise InputError(f"{run}: another run is working in this folder (process {holder}): {fix}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _key(config: Mapping[str, object], inputs: Sequence[Path], seed: int) -> dict[str, Any]:
    """What decides whether an artifact is up to date, in the form in which JSON gives it back."""
    # Inputs are known by position and name, not by where they lie: a run folder may be moved.
    prints = [[Path(path).name, fingerprint(path)] for path in inputs]
    key = {"format_version": FORMAT_VERSION, "config": dict(config), "inputs": prints, "seed": seed}
    try:
        return dict(json.loads(json.dumps(key, sort_keys=True)))
    except TypeError as error:
        raise TypeError(f"config of an artifact must be JSON: {error}") from None


def _replace(temporary: Path, folder: Path) -> None:
    """Put `temporary` in the place of `folder`; a kill between the two renames is undone by `_recover`."""
    old = folder.parent / f".{folder.name}.old-{uuid.uuid4().hex}"
    with _held(folder.parent):
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Clear what a killed build left: half-made folders go, an old artifact without a successor comes back.

    Raises InputError when the build lives.
    """
    if not folder.parent.is_dir():
        return
    with _held(folder.parent):
        _sweep(folder)


def _sweep(folder: Path) -> None:
    for left in sorted(folder.parent.glob(f".{folder.name}.old-*")):
        if not folder.exists() and (left / "manifest.json").is_file():
            left.rename(folder)
        else:
            shutil.rmtree(left, ignore_errors=True)
    for left in folder.parent.glob(f".{folder.name}.making-*"):
        if _in_use(left):
            raise InputError(f"{folder}: another process is making it: wait for it to end, and run again")
        shutil.rmtree(left, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _sync(folder: Path) -> None:
    """Have the files on the disk before the rename that makes them the artifact."""
    for name in _files(folder):
        descriptor = os.open(folder / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
