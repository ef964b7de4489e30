"""Keeps the model server running: when vLLM ends, it is started again, and recommendations meanwhile come from the last
rung of the ladder.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data.errors import InputError
from policy.serving.engine import Engine, EngineSettings

_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 30.0


class Supervisor:
    """A vLLM child that is started again when it ends, after a pause that doubles as long as starting fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._stopping = threading.Event()
        # The child ends with the thread that started it, so this one lives as long as we do.
        self._thread = threading.Thread(target=self._watch, name="engine-watch", daemon=True)
        self._thread.start()
        self.restarts = 0

    @property
    def pid(self) -> int:
        return self._engine.pid

    @property
    def settings(self) -> EngineSettings:
        return self._settings

    def serve_adapters(self, adapters: Mapping[str, Path]) -> None:
        """With what adapters the next start begins: those that were loaded while it ran would else be missing."""
        self._settings = replace(self._settings, adapters=adapters)

    def stop(self) -> None:
        """End the child for good."""
        self._stopping.set()
        self._engine.stop()
        self._thread.join()

    def _watch(self) -> None:
        pause = _FIRST_SECONDS
        while not self._stopping.wait(0.25):
            if self._engine.running:
                continue
            sys.stderr.write(f"vLLM ended ({self._engine.last_words()}); it is started again\n")
            self._engine.stop()
            self._stopping.wait(pause)
            if self._stopping.is_set():
                return
            try:
                self._engine = Engine(self._settings)
                self.restarts += 1
                self._engine.wait_until_ready()
                pause = _FIRST_SECONDS
            except InputError as error:
                if not self._stopping.is_set():
                    sys.stderr.write(f"error: {error}\n")
                pause = min(pause * 2, _LONGEST_SECONDS)
