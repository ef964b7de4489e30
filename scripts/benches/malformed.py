"""Requests made up from a server's OpenAPI page, as they should be and as they should not (schemathesis)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Unsatisfiable


@dataclass
class Sent:
    """requests: how many of each operation. faults: those that the server took for its own (5xx), as curl commands."""

    requests: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def ask_askew(url: str, examples: int, modes: Sequence[str] = ("positive", "negative")) -> Sent:
    """Send `examples` requests of each mode to every operation of the server at `url`."""
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.core.control import SkipTest
    from schemathesis.core.result import Err

    calm = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    sent = Sent()
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        if isinstance(found, Err):
            raise found.err()
        operation = found.ok()

        def ask(case: Any) -> None:
            answer = case.call(timeout=60)
            sent.requests[f"{case.method} {case.path}"] += 1
            if answer.status_code >= 500:
                sent.faults.append(f"{answer.status_code} {answer.text[:200]}: {case.as_curl_command()}")

        for mode in modes:
            try:
                calm(given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))(ask))()
            except (Unsatisfiable, SkipTest):
                continue  # nothing about it can be wrong
    return sent
