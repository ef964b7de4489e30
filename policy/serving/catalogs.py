"""The catalogs that one vLLM process speaks: a default, others by name, and versions that come while it runs.

    LONGPLAY_CATALOG=runs/demo/catalog                      the default
    LONGPLAY_CATALOGS=podcasts=runs/pods/catalog,shop=...   others, asked for with vllm_xargs {"catalog": "podcasts"}
    LONGPLAY_CATALOG_VERSIONS=runs/demo/served/catalogs     a folder a version, written once, read when asked for
    LONGPLAY_POLICY=runs/demo/policy/sft                    the policy's folder, for decisions about messages

A named folder that is replaced is read again, so new items can be recommended from the next request on. All catalogs
must have the level sizes that the policy was trained for. A version's content never changes, which is why a request is
pinned to one where it is validated: the process that decodes it finds the same.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.catalog import Catalog
from data.errors import InputError
from policy.serving.slate_arguments import DEFAULT_SLATE, CatalogIndex
from policy.vocabulary import Vocabulary

DEFAULT = "LONGPLAY_CATALOG"
NAMED = "LONGPLAY_CATALOGS"
VERSIONS = "LONGPLAY_CATALOG_VERSIONS"
SLATE = "LONGPLAY_SLATE_SIZE"
POLICY = "LONGPLAY_POLICY"
_KEPT = 16


@dataclass(frozen=True)
class Entry:
    """A catalog and the lookups that eligibility needs."""

    catalog: Catalog
    index: CatalogIndex


@dataclass
class ServedCatalogs:
    """Catalogs by name ("" is the default) and by version. folders: by name. versions: where versions appear.

    speaks_of_messages: whether the policy that speaks them has words for messages, too.
    """

    folders: Mapping[str, Path]
    versions: Path | None = None
    slate_size: int = DEFAULT_SLATE
    speaks_of_messages: bool = False
    _known: OrderedDict[str, Entry] = field(default_factory=OrderedDict, init=False)
    _now: dict[str, tuple[int, str]] = field(default_factory=dict, init=False)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> ServedCatalogs:
        """As the variables say. Raises InputError when there is no default or a catalog cannot be read."""
        if not environment.get(DEFAULT):
            raise InputError(f"{DEFAULT} is not set: point it at the catalog folder of the run that is served")
        folders = {"": Path(environment[DEFAULT])}
        for pair in filter(None, environment.get(NAMED, "").split(",")):
            name, equals, folder = pair.partition("=")
            if not (name and equals and folder):
                raise InputError(f"{NAMED}: {pair!r} is not name=folder")
            folders[name] = Path(folder)
        versions = Path(environment[VERSIONS]) if environment.get(VERSIONS) else None
        served = cls(folders, versions, int(environment.get(SLATE, DEFAULT_SLATE)))
        for name in folders:  # one with other level sizes, which the same policy cannot speak, is found out here
            served.find(name)
        if environment.get(POLICY):
            vocabulary = Vocabulary.load(Path(environment[POLICY]), served.find("").catalog)
            served.speaks_of_messages = vocabulary.speaks_of_messages
        return served

    def find(self, name: str) -> Entry:
        """The catalog of that name or version, as it is now. Raises InputError saying which there are."""
        if name in self.folders:
            return self._newest(name)
        if (entry := self._version(name)) is not None:
            return entry
        names = ", ".join(repr(each) for each in self.folders if each)
        known = f"it has {names}" if names else "it has one, asked for without a name"
        raise InputError(f"catalog: this server has no {name!r}, {known}")

    def pinned(self, version: str) -> Entry:
        """The catalog that a request was validated with; the default's newest where that is not to be had any more."""
        return self._version(version) or self._newest("")

    def _version(self, version: str) -> Entry | None:
        if version in self._known:
            self._known.move_to_end(version)
            return self._known[version]
        if self.versions is not None and version.isalnum() and (self.versions / version).is_dir():
            return self._keep(Catalog.load(self.versions / version))
        for name in self.folders:
            if (entry := self._newest(name)).catalog.version == version:
                return entry
        return None

    def _newest(self, name: str) -> Entry:
        folder = self.folders[name]
        held = self._now.get(name)
        try:
            stamp = (folder / "catalog.npz").stat().st_mtime_ns
            if held is None or held[0] != stamp or held[1] not in self._known:
                entry = self._keep(Catalog.load(folder))
                self._now[name] = (stamp, entry.catalog.version)
                return entry
        except (OSError, InputError) as error:
            if held is None or held[1] not in self._known:
                raise InputError(f"{folder} holds no readable catalog ({error}): build it again") from error
        return self._known[self._now[name][1]]

    def _keep(self, catalog: Catalog) -> Entry:
        if self._known:
            sizes = next(iter(self._known.values())).catalog.level_sizes
            if catalog.level_sizes != sizes:
                raise InputError(f"a catalog with level sizes {catalog.level_sizes} came; the policy speaks {sizes}")
        entry = Entry(catalog, CatalogIndex(catalog))
        self._known[catalog.version] = entry
        current = {version for _, version in self._now.values()}
        for version in [version for version in self._known if version not in current][: len(self._known) - _KEPT]:
            del self._known[version]
        return self._known.setdefault(catalog.version, entry)
