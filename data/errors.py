"""The one error a person running Longplay should ever have to read: a line that names the thing and the fix."""

import errno
import os
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
    except Exception as error:
        if _disk_is_full(error):
            _exit("the disk is full: free some space and run again; what was half written is cleared away")
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            _exit(f"the port is already in use ({error}): stop the other server or choose another with --port")
        raise


def _disk_is_full(error: BaseException | None) -> bool:
    # Polars and torch wrap the system's error in their own, or raise over it.
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _exit(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
