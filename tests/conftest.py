"""How the suite is shared among processes (pytest -n): what is costly to set up is set up in one of them."""

import pytest

# Fixtures that several files share and that take seconds or more: the files that use them stay together.
SHARED = {"server": "server", "confounded": "trained rewards", "null": "trained rewards"}
SHARED |= {"clickbait": "lived worlds", "lived": "lived worlds"}
# Files that take minutes begin first, so that none is left to one process at the end.
LONG = ("tests/scripts/test_run.py", "tests/policy/serving", "tests/scripts")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        return next((place for place, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG))

    together: dict[str, str] = {}
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in SHARED:
                together[item.location[0]] = SHARED[fixture]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(together.get(item.location[0], item.location[0])))
    items.sort(key=turn)
