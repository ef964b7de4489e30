"""What a policy does at decisions of the training log: the reference that drift is measured against.

Asked of the model server itself, one slate at a time and in the quiet, once for each version; kept in
served/reference/<name@version>.json.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from pathlib import Path

from policy.serving.recommend import draw_as
from policy.serving.service import Refusal, Service
from policy.serving.slate_arguments import SlateArguments

SIZE = 200
_PAUSE_SECONDS = 0.02


async def measure(service: Service, served: Path, size: int = SIZE) -> None:
    """Have a reference for every policy that is served. What cannot be asked now is left for another time."""
    for name, version in service.deployment.versions.items():
        file = served / "reference" / f"{version}.json"
        if version in service.watch.references:
            continue
        if file.is_file():
            service.watch.references[version] = json.loads(file.read_text())
            continue
        try:
            found = await _ask(service, name, size)
        except Refusal:
            return
        if found["log_propensity"]:
            service.watch.references[version] = found
            await asyncio.to_thread(_write, file, found)


async def _ask(service: Service, name: str, size: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"log_propensity": [], "reward": []}
    if service.store is None:
        return found
    store, deployment = service.store, service.deployment
    decisions = await asyncio.to_thread(lambda: store.decisions(0).tail(size))
    arguments = SlateArguments(deployment.slate_size, end=False, catalog=deployment.catalog.version)
    for user_id, when, surface in decisions.select("user_id", "time", "surface").iter_rows():
        while service.admission.in_flight:
            await asyncio.sleep(_PAUSE_SECONDS)
        listener = await service.listeners.look(user_id)
        context = listener.context(deployment.index.row_of, deployment.prompt.history_length, surface, when)
        ids, _ = deployment.prompt.encode(context, None)
        decided = await draw_as(service, deployment, name, ids, arguments, service.settings.answer_seconds)
        found["log_propensity"].append(math.log(decided.propensity) / len(decided.rows))
        if service.forecast is not None:
            foreseen = await asyncio.to_thread(
                service.forecast.of, listener.past, deployment.index.row_of, context, decided.rows
            )
            found["reward"] += [] if foreseen is None else [foreseen["reward"]]
        await asyncio.sleep(_PAUSE_SECONDS)
    return found


def _write(file: Path, found: dict[str, list[float]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    new.write_text(json.dumps(found))
    os.replace(new, file)
