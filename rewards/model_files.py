"""The folder of a trained reward: model.json, beside it tensors; and what is said of one that is broken."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from data.errors import InputError


@contextmanager
def reading(folder: Path, what: str, fix: str) -> Iterator[None]:
    """Turn what a missing or broken file of `folder` raises into an InputError that names `what` it is and a fix."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        missing = Path(error.filename or "model.safetensors").name
        raise InputError(f"{folder}: no {what} ({missing} is missing): {fix}") from None
    except KeyError as error:
        raise InputError(f"{folder}: a broken {what} ({error} is missing): delete it and {fix}") from None
    except (json.JSONDecodeError, SafetensorError, AttributeError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}: a broken {what} ({error}): delete it and {fix}") from None


def read_facts(folder: Path, what: str, written_as: int, fix: str) -> dict[str, Any]:
    """What model.json says. Raises InputError when it is of another format than `written_as`."""
    facts = json.loads((folder / "model.json").read_text())
    if not isinstance(facts, dict):
        raise InputError(f"{folder}: a broken {what} (model.json is no object): delete it and {fix}")
    if facts.get("format") != written_as:
        raise InputError(f"{folder}: a {what} of format {facts.get('format')}, this reads {written_as}: {fix}")
    return facts
