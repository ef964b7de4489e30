"""Scripts' arguments: a wrong one is told in one line, whether it comes from the line or from a file."""

import importlib
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data.errors import InputError
from scripts.command_line import ScriptParser

CONFIGS = Path(__file__).resolve().parents[2] / "scripts" / "configs"
EXAMPLES = sorted(file for file in CONFIGS.glob("*.yaml") if not file.stem.startswith("accelerate_"))


@dataclass
class Arguments:
    run: str = field(default="runs/demo", metadata={"help": "run folder"})
    listeners: int = field(default=300, metadata={"help": "how many"})

    def __post_init__(self) -> None:
        if self.listeners < 1:
            raise ValueError(f"--listeners {self.listeners}: give one or more")


def parsed(*words: str) -> Arguments:
    (arguments,) = ScriptParser((Arguments,)).parse_args_and_config(words)
    assert isinstance(arguments, Arguments)
    return arguments


def test_flags_go_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("run: runs/other\nlisteners: 7\n")
    assert parsed() == Arguments("runs/demo", 300)
    assert parsed("--config", str(file)) == Arguments("runs/other", 7)
    assert parsed("--config", str(file), "--listeners", "9") == Arguments("runs/other", 9)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--listners", "5"], r"there is no option --listners: did you mean --listeners\?"),
        (["--listners=5"], r"did you mean --listeners\?"),
        (["--zzz", "5"], r"there is no option --zzz: --help lists all"),
        (["stray"], r"there is no option stray"),
        (["--config"], r"--config: no file is named"),
        (["--config", "nowhere.yaml"], r"--config nowhere\.yaml: .*No such file"),
        (["--listeners", "0"], r"--listeners 0: give one or more"),
    ],
)
def test_a_wrong_word_is_told_in_one_line(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        parsed(*words)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listners: 5\n", r"some\.yaml: there is no option --listners: did you mean --listeners\?"),
        ("run: [unclosed\n", r"--config .*some\.yaml: .*give the path of a YAML file"),
        ("just words\n", r"must contain a YAML mapping"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        parsed("--config", str(file))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_names_its_script_and_has_only_options_of_it(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = re.search(r"scripts/(\w+)\.py((?: [a-z]+)?) --config", example.read_text().splitlines()[0])
    assert used, "the first line says how the file is used"
    script = importlib.import_module(f"scripts.{used[1]}")
    monkeypatch.setattr(sys, "argv", [script.__name__, *used[2].split(), "--config", str(example), "--no_such_thing"])
    with pytest.raises(InputError, match=r"^there is no option --no_such_thing"):
        script.main()
