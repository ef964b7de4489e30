"""How every script is called: flags over a YAML file over defaults, and one line where they are wrong."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from trl import TrlParser

from data.errors import InputError


class ScriptParser(TrlParser):
    """TRL's parser, whose complaints about a configuration file, an unknown option or a value are `InputError`."""

    def parse_args_and_config(self, args: Iterable[str] | None = None, **unused: Any) -> tuple[Any, ...]:
        """The filled dataclasses. Raises InputError for a file that cannot be read and for options there are not."""
        given = list(sys.argv[1:] if args is None else args)
        file = given[given.index("--config") + 1 : given.index("--config") + 2] if "--config" in given else [""]
        if not file:
            raise InputError("--config: no file is named: give the path of a YAML file after it")
        try:
            *filled, of_file, of_line = super().parse_args_and_config(
                given, return_remaining_strings=True, separate_remaining_strings=True
            )
        except InputError:
            raise
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"--config {file[0]}: {error}: give the path of a YAML file") from None
        except ValueError as error:  # a value that the dataclass itself refuses
            raise InputError(f"{error}: see --help") from None
        self._refuse(of_file, f"{file[0]}: ")
        self._refuse(of_line, "")
        return tuple(filled)

    def _refuse(self, left: Sequence[str], where: str) -> None:
        """Raise InputError for what no option took."""
        if not left:
            return
        unknown = next((word for word in left if word.startswith("-")), left[0])
        near = difflib.get_close_matches(unknown.split("=")[0], list(self._option_string_actions), n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"{where}there is no option {unknown}: {meant}--help lists all")
