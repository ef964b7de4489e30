"""Stages that need one another, made one after the other or several at once.

What does not gain by a second thread is done sooner two at a time: rewards, rollouts, less so adapters. Every stage is
made in a process of its own then, forked off one that has imported everything once; what it prints goes to a file, its
progress to the one display of the parent. A stage that fails stops the others; when the parent dies, by whatever, they
follow. How many threads a stage gets does not depend on what happens to run beside it, so that the same machine makes
the same bytes: all of them where every other stage comes before or after it, else a worker's share.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from data.errors import InputError
from data.progress import Told, tell_instead

LOGS = ".stages"  # folder of a run: what stages printed
TAIL = 15  # lines of it that are shown when one fails
MOST_WORKERS = 4


@dataclass(frozen=True)
class Stage:
    """One artifact of a road.

    make: True when it was made, False when it was there; picklable (a `functools.partial` of a module's function).
    needs: names of the stages before it that must be made first; a name that is not on the same road is not waited for.
    """

    name: str
    make: Callable[[], bool]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taken:
    """What became of a stage. seconds: wall time."""

    name: str
    seconds: float
    made: bool


def workers_here() -> int:
    """How many stages this machine makes at once by default: one a thread, one on a machine with an accelerator."""
    return 1 if torch.cuda.is_available() else min(MOST_WORKERS, torch.get_num_threads())


def travel(stages: Sequence[Stage], workers: int, run: Path) -> list[Taken]:
    """Make the stages, `workers` at once at most, the first ones in the list first.

    Raises InputError as stages do, and RuntimeError with the end of its output when one breaks in its own process.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: give 1 or more")
    for place, stage in enumerate(stages):
        later = {other.name for other in stages[place:]}.intersection(stage.needs)
        if later:
            raise ValueError(f"{stage.name} needs {min(later)}, which comes after it: put it behind")
    if workers == 1:
        return [_made_here(stage) for stage in stages]
    return _SideBySide(stages, workers, run / LOGS).travel()


def _made_here(stage: Stage) -> Taken:
    Console(stderr=True).rule(f"[bold]{stage.name}", align="left")
    started = time.monotonic()
    return Taken(stage.name, made=stage.make(), seconds=time.monotonic() - started)


@dataclass
class _Running:
    stage: Stage
    process: ForkServerProcess
    told: Connection
    bar: TaskID
    started: float = field(default_factory=time.monotonic)


@dataclass
class _SideBySide:
    stages: Sequence[Stage]
    workers: int
    logs: Path
    display: Progress = field(
        default_factory=lambda: Progress(
            TextColumn("{task.fields[stage]}"),
            TextColumn("{task.description}", style="dim"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
    )

    def travel(self) -> list[Taken]:
        self.logs.mkdir(parents=True, exist_ok=True)
        threads = max(1, torch.get_num_threads() // self.workers)
        taken: dict[str, Taken] = {}
        running: dict[str, _Running] = {}
        known = {stage.name for stage in self.stages}
        with _forks(self.stages, threads) as context, self.display:
            try:
                while len(taken) < len(self.stages):
                    for stage in self.stages:
                        ready = all(need in taken for need in stage.needs if need in known)
                        if ready and stage.name not in taken | running and len(running) < self.workers:
                            own = torch.get_num_threads() if _alone(stage, self.stages) else threads
                            running[stage.name] = self._begin(stage, own, context)
                    for name in list(running):
                        done = self._heard(running[name])
                        if done is not None:
                            taken[name] = done
                            del running[name]
                    wait([one.told for one in running.values()], timeout=0.2)
            finally:
                for one in running.values():
                    one.process.terminate()
                    one.process.join()
        return [taken[stage.name] for stage in self.stages]

    def _begin(self, stage: Stage, threads: int, context: multiprocessing.context.ForkServerContext) -> _Running:
        mine, its = context.Pipe(duplex=False)
        process = context.Process(target=_make, args=(stage.make, its, self._log(stage), threads), daemon=False)
        process.start()
        its.close()
        return _Running(stage, process, mine, self.display.add_task("", stage=stage.name, total=None))

    def _heard(self, one: _Running) -> Taken | None:
        """Take in what a stage told; what became of it, when it has ended."""
        with contextlib.suppress(EOFError):  # it has ended, or died
            while one.told.poll():
                match one.told.recv():
                    case Told() as told:
                        self._show(one, told)
                    case bool(made):
                        one.process.join()
                        taken = Taken(one.stage.name, time.monotonic() - one.started, made)
                        self.display.remove_task(one.bar)
                        what = f"{taken.seconds:7.1f} s" if made else "unchanged"
                        self.display.console.print(f"[green]✓[/] {taken.name:<18} {what:>9}", highlight=False)
                        return taken
                    case str(wrong):
                        raise InputError(wrong)
            return None
        one.process.join()
        log = self._log(one.stage)
        said = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL:])
        code = one.process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        raise RuntimeError(f"{one.stage.name} {how}; the end of {log}:\n{said}")

    def _show(self, one: _Running, told: Told) -> None:
        if self.display.tasks[self.display.task_ids.index(one.bar)].description != told.description:
            self.display.reset(one.bar, total=told.total, description=told.description, stage=one.stage.name)
        self.display.update(one.bar, completed=told.completed, total=told.total)

    def _log(self, stage: Stage) -> Path:
        return self.logs / f"{stage.name.replace('/', '-')}.log"


def _alone(stage: Stage, stages: Sequence[Stage]) -> bool:
    """Whether every other stage is made before this one or after it."""
    before: dict[str, set[str]] = {}
    for one in stages:
        before[one.name] = set(one.needs).union(*(before.get(name, ()) for name in one.needs))
    return all(
        stage.name == other.name or other.name in before[stage.name] or stage.name in before[other.name]
        for other in stages
    )


@contextlib.contextmanager
def _forks(stages: Sequence[Stage], threads: int) -> Iterator[multiprocessing.context.ForkServerContext]:
    """Where processes come from: one that has imported what the stages need, and started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted({module_of(stage.make) for stage in stages}))
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")}
    os.environ |= dict.fromkeys(before, str(threads))
    try:
        yield context
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def module_of(make: Callable[[], bool]) -> str:
    """The module in which the function behind `make` is."""
    return module_of(make.func) if isinstance(make, partial) else make.__module__


def _make(make: Callable[[], bool], told: Connection, log: Path, threads: int) -> None:
    """What the process of a stage does."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(threads)
    tell_instead(told.send)
    try:
        told.send(make())
    except InputError as error:
        told.send(str(error))


def _follow_parent() -> None:
    """End when the process that wants this stage has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
