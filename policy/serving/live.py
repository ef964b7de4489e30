"""Following the run while it is served: new items and new adapters are picked up without a restart or a failed request.

    run/catalog, run/policy/*        looked at twice a second
    served/catalogs/<version>/       every catalog that is served, written once
    served/adapters/<name@version>/  every adapter that is served, written once

vLLM reads only what is written once: a version is complete there before the first request names it. A new adapter is
loaded under a name of its own, "name@version", beside the old one; the deployment is replaced whole; and the old one is
unloaded when the requests that began with it have ended. A new base policy needs a restart, and `/ready` says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.errors import InputError
from policy.serving.deployment import BASE, Deployment
from policy.serving.popular import Popular
from policy.serving.service import Refusal, Service, decoded
from policy.serving.supervisor import Supervisor

# A request looks its listener up before it asks vLLM, which is when its patience begins.
_MARGIN_SECONDS = 5.0
Stamps = tuple[tuple[str, int], ...]
_FILES = ("catalog/catalog.npz", "catalog/items.parquet", "policy/*/adapter_config.json", "policy/*/*.safetensors")


def publish(deployment: Deployment, served: Path) -> Deployment:
    """Write the deployment's catalog and adapters where their versions are kept; the deployment that is served."""
    _once(deployment.run / "catalog", served / "catalogs" / deployment.catalog.version)
    folders = {}
    for name, folder in deployment.adapters.items():
        folders[name] = served / "adapters" / deployment.versions[name]
        _once(folder, folders[name])
    return replace(deployment, adapters=folders)


def engine_adapters(deployment: Deployment) -> dict[str, Path]:
    """The adapters that vLLM has to have: its name for each, and its folder."""
    return {deployment.engine_name(name): folder for name, folder in deployment.adapters.items()}


class Live:
    """Replaces a service's deployment when the run changes. supervisor: of the vLLM that a restart has to equip."""

    def __init__(
        self,
        service: Service,
        served: Path,
        adapters: Sequence[str] | None,
        default: str | None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._service = service
        self._served = served
        self._wanted = adapters
        self._default = default
        self._supervisor = supervisor
        self._stamps = self._look()
        self._leaving: set[asyncio.Task[None]] = set()
        self.error: str | None = None

    async def refresh(self) -> bool:
        """Look at the run; True when the deployment was replaced. What is wrong is kept in `error`, the old goes on."""
        if self._service.engine_is_new:
            await self._adopt()
        stamps = self._look()
        if stamps == self._stamps:
            return False
        run = self._service.deployment.run
        self._stamps = ()  # until it is served, or known not to be: whatever fails below is tried again
        try:
            new = await asyncio.to_thread(Deployment.load, run, self._wanted, self._default, self._served / "catalogs")
        except (InputError, OSError) as error:
            self.error = str(error)  # perhaps half written
            return False
        old = self._service.deployment
        if new.versions[BASE].partition("@")[2] != old.versions[BASE].partition("@")[2]:
            self._stamps, self.error = stamps, f"{new.base} has changed: restart the server to serve it"
            return False
        try:
            replaced = await self._replace(old, await asyncio.to_thread(publish, new, self._served))
        except (Refusal, OSError) as error:
            self.error = f"{run} has changed and cannot be served: {error}"
            return False
        self._stamps = stamps
        return replaced

    async def _adopt(self) -> None:
        """Find out what vLLM calls our adapters: it may have run for long, and have had others loaded since."""
        deployment, known = self._service.deployment, False
        self._service.engine_is_new = False  # before it is asked: a request may find otherwise meanwhile
        try:
            listed = await self._service.ask("GET", "/v1/models", seconds=5.0)
            roots = {model["id"]: Path(model["root"]).resolve() for model in decoded(listed)["data"]}
            names = {}
            for name, folder in deployment.adapters.items():
                same = [there for there, root in roots.items() if root == folder.resolve()]
                names[name] = same[0] if same else deployment.versions[name]
                if not same:
                    await self._load(names[name], folder)
            known = True
        except Refusal as error:
            self.error = f"{error.message}: the adapters are not known to be those of the run"
            return
        finally:
            self._service.engine_is_new |= not known
        self._service.deployment = replace(deployment, engine_names=names)
        self.error = None

    async def _load(self, name: str, folder: Path) -> None:
        await self._tell("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})

    async def _replace(self, old: Deployment, new: Deployment) -> bool:
        self.error = None
        if new.versions == old.versions and new.catalog.version == old.catalog.version:
            return False
        names = {
            name: old.engine_name(name) if version == old.versions.get(name) else version
            for name, version in new.versions.items()
        }
        new = replace(new, engine_names=names)
        have, want = engine_adapters(old), engine_adapters(new)
        for name, folder in want.items():
            if name not in have:
                await self._load(name, folder)
        popular = old.popular
        if new.catalog.version != old.catalog.version:
            popular = await asyncio.to_thread(Popular.of, new.catalog, self._service.store)
        self._service.deployment = replace(new, popular=popular)
        if self._supervisor is not None:
            self._supervisor.serve_adapters(want)
        gone = [name for name in have if name not in want]
        task = asyncio.create_task(self._unload(gone))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return True

    async def _unload(self, names: Sequence[str]) -> None:
        await asyncio.sleep(self._service.settings.longest_seconds + _MARGIN_SECONDS)
        for name in names:
            try:
                await self._tell("/v1/unload_lora_adapter", {"lora_name": name})
            except Refusal:
                continue  # it costs a slot, no more; a restart of vLLM begins without it

    async def _tell(self, path: str, body: dict[str, str]) -> None:
        answer = await self._service.ask("POST", path, json.dumps(body).encode())
        if answer.status_code != 200 and "already been loaded" not in answer.text:
            raise Refusal(502, f"vLLM answered {answer.status_code} to {path}: {answer.text[:300]}")

    def _look(self) -> Stamps:
        run = self._service.deployment.run
        found = []
        for pattern in _FILES:
            for path in sorted(run.glob(pattern)):
                try:
                    stat = path.stat()
                except OSError:
                    continue
                found.append((f"{path}:{stat.st_ino}", stat.st_mtime_ns))
        return tuple(found)


def _once(source: Path, place: Path) -> None:
    """Copy a folder to a place that is either whole or not there."""
    if place.is_dir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    shutil.copytree(source, new)
    try:
        os.rename(new, place)
    except OSError:  # another gateway was first
        shutil.rmtree(new, ignore_errors=True)
        if not place.is_dir():
            raise
