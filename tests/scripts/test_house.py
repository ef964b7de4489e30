"""The shape of the house: imports point up, no rooms without a noun, no file with more than one idea."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("data", "rewards", "policy", "eval", "scripts")  # each may import those before it, never those after
SOURCES = sorted(path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py"))
NAMELESS = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "handler"}
LONGEST = 450


def imported_rooms(source: str) -> set[str]:
    """The rooms that a module imports anywhere in it, also inside functions and by importlib."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            names |= {str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant)}
    return {name.split(".")[0] for name in names} & set(ROOMS)


def test_imported_rooms_sees_every_form_of_import() -> None:
    source = (
        "import data.schema\ndef f():\n    from rewards.model import RewardModel\n    import_module('policy.sft')\n"
    )
    assert imported_rooms(source) == {"data", "rewards", "policy"}
    assert imported_rooms("from dataclasses import dataclass\nimport datasets\n") == set()


@pytest.mark.parametrize("room", ROOMS)
def test_imports_only_point_up(room: str) -> None:
    below = set(ROOMS[ROOMS.index(room) + 1 :]) | ({"scripts"} - {room})
    wrong = {
        str(path.relative_to(ROOT)): sorted(downward)
        for path in (ROOT / room).rglob("*.py")
        if (downward := imported_rooms(path.read_text()) & below)
    }
    assert not wrong, f"{room} may import only what stands above it, of {ROOMS}: {wrong}"


def test_every_file_is_named_for_its_noun() -> None:
    nameless = [
        str(path.relative_to(ROOT)) for path in SOURCES if NAMELESS & {path.stem, *path.relative_to(ROOT).parts}
    ]
    assert not nameless, f"a thing lives in the room whose noun it is: {nameless}"


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    too_long = {path: lines for path, lines in lengths.items() if lines > LONGEST}
    assert not too_long, f"over {LONGEST} lines, so perhaps two ideas: {too_long}"


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not [path for path in silent if not path.startswith("tests")], f"modules without a docstring: {silent}"
