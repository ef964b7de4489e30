"""The one error a person running Longplay should ever have to read: a line that names the thing and the fix."""

import errno
import sys
from collections.abc import Callable
from typing import NoReturn


class InputError(ValueError):
    """Something handed to us is wrong. The message is one line: what, where, and how to mend it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def exit_on_input_error(main: Callable[[], None]) -> None:
    """Run `main`; turn an `InputError` (or a full disk, or a port in use) into one line on stderr and exit code 2."""
    try:
        main()
    except InputError as error:
        _exit(str(error))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _exit(f"the disk is full while writing {error.filename or 'an artifact'}: free space and run again")
        if error.errno == errno.EADDRINUSE:
            _exit(f"the port is already in use ({error}): stop the other server or choose another with --port")
        raise


def _exit(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
