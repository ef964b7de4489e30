"""Where the real logs lie, for the tests that can use them."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_logs() -> Path:
    """The folder of public logs; the test is skipped, saying so, where there is none."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("LONGPLAY_DATA", str(beside)))
    if not folder.is_dir():
        pytest.skip(f"no public logs at {folder}; set LONGPLAY_DATA to their folder")
    return folder
