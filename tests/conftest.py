"""How the suite is shared among processes (pytest -n): what is costly to set up is set up in one of them."""

import pytest
from xdist.scheduler import LoadScopeScheduling

# Their files share a server, trained rewards, a world that was lived in: each of these rooms stays in one process.
TOGETHER = ("tests/policy/serving/", "tests/rewards/", "tests/data/world/")
# What takes minutes begins first, so that none is left to one process at the end.
LONG = ("tests/scripts/test_run.py", "tests/policy/serving/", "tests/scripts/", "tests/rewards/")


class ByRoom(LoadScopeScheduling):
    """A file goes to one process, or a whole room. (xdist's own groups, --dist loadgroup, do nothing under pytest 9.2:
    they are written into what it no longer reads.)
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((room for room in TOGETHER if nodeid.startswith(room)), nodeid.split("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByRoom:
    return ByRoom(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((at for at, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG)))
