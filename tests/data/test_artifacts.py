"""Artifacts: made once, made again when something changed, and whole whatever is killed when."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.artifacts import build, fingerprint, manifest, run_lock
from data.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

BUILDER = """
import sys, time
from pathlib import Path
from data.artifacts import build
run, pace = Path(sys.argv[1]), float(sys.argv[2])
def make(folder):
    for k in range(20):
        (folder / f"part-{k:02d}.bin").write_bytes(bytes([k]) * 4096)
        time.sleep(pace)
made = build(run / "thing", config={"size": 20}, inputs=[run / "input.txt"], seed=1, make=make)
print("made" if made else "kept")
"""


def write(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)

    return make


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_artifact_is_made_once_and_again_when_something_changed(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("one")
    thing = tmp_path / "run" / "thing"

    def go(text: str, *, size: int = 1, seed: int = 0) -> bool:
        return build(thing, config={"size": size, "rate": (1, 2)}, inputs=[source], seed=seed, make=write(text))

    assert go("first")
    assert not go("never written")
    assert (thing / "sub" / "a.txt").read_text() == "first"
    assert go("by config", size=2)
    assert go("by seed", size=2, seed=1)
    source.write_text("two")
    assert go("by input", size=2, seed=1)
    assert not go("never written", size=2, seed=1)
    assert (thing / "sub" / "a.txt").read_text() == "by input"
    assert names(thing.parent) == ["thing"]
    facts = manifest(thing)
    assert facts["outputs"] == {"sub/a.txt": fingerprint(thing / "sub" / "a.txt")}
    assert facts["inputs"] == [["in.txt", fingerprint(source)]]
    assert facts["seed"] == 1
    assert facts["wall_seconds"] >= 0
    assert "polars" in facts["packages"]


def test_what_is_built_on_an_artifact_follows_its_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    def go(text: str, seed: int) -> bool:
        build(first, config={}, inputs=[], seed=seed, make=write(text))
        return build(second, config={}, inputs=[first], seed=0, make=write("on top"))

    assert go("a", 0)
    assert not go("a", 1)  # made again, but the same: what is above it stands
    assert go("b", 2)


def test_a_failed_build_leaves_the_old_artifact_and_nothing_else(tmp_path: Path) -> None:
    thing = tmp_path / "thing"
    build(thing, config={}, inputs=[], seed=0, make=write("old"))

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise InputError("no")

    with pytest.raises(InputError):
        build(thing, config={"new": 1}, inputs=[], seed=0, make=fail)
    assert (thing / "sub" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["thing"]


def run_builder(run: Path, pace: float) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BUILDER, str(run), str(pace)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_build_that_is_killed_and_run_again_ends_in_the_same_bytes(tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for run in (calm, rough):
        run.mkdir()
        (run / "input.txt").write_text("input")
    assert run_builder(calm, 0).communicate()[0] == "made\n"
    killed = 0
    for parts in (1, 7, 19):
        builder = run_builder(rough, 0.05)
        deadline = time.monotonic() + 60
        while len(list(rough.glob(".thing.making-*/part-*"))) < parts and time.monotonic() < deadline:
            time.sleep(0.005)
        builder.send_signal(signal.SIGKILL)
        builder.wait()
        assert not (rough / "thing").exists()
        killed += len(list(rough.glob(".thing.making-*"))) == 1
    assert killed == 3  # every build cleared what the one before it left
    assert run_builder(rough, 0).communicate()[0] == "made\n"
    assert run_builder(rough, 0).communicate()[0] == "kept\n"
    assert names(rough) == ["input.txt", "thing"]
    assert fingerprint(rough / "thing") == fingerprint(calm / "thing")
    assert names(rough / "thing") == names(calm / "thing")
    for name in names(calm / "thing"):
        if name != "manifest.json":  # it holds the wall time
            assert (rough / "thing" / name).read_bytes() == (calm / "thing" / name).read_bytes()


def test_two_builds_of_one_artifact_at_once_are_refused_and_others_beside_it_are_not(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("input")
    builder = run_builder(tmp_path, 0.2)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".thing.making-*/part-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(InputError, match=r"thing: another process is making it: wait"):
        build(tmp_path / "thing", config={}, inputs=[], seed=0, make=write("never written"))
    assert build(tmp_path / "other", config={}, inputs=[], seed=0, make=write("beside it"))
    assert builder.communicate(timeout=60)[0] == "made\n"
    assert names(tmp_path) == ["input.txt", "other", "thing"]


def test_of_many_builds_that_start_together_all_are_whole_and_one_is_kept(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("input")
    builders = [run_builder(tmp_path, 0.01) for _ in range(4)]
    said = [builder.communicate(timeout=120)[0] for builder in builders]
    assert "made\n" in said
    assert set(said) <= {"made\n", "kept\n", ""}  # "": refused, as another was at it
    assert names(tmp_path) == ["input.txt", "thing"]
    assert len(manifest(tmp_path / "thing")["outputs"]) == 20


def test_a_kill_between_the_two_renames_gives_the_old_artifact_back(tmp_path: Path) -> None:
    thing = tmp_path / "thing"
    build(thing, config={}, inputs=[], seed=0, make=write("old"))
    thing.rename(tmp_path / ".thing.old-1")
    assert not build(thing, config={}, inputs=[], seed=0, make=write("never written"))
    assert names(tmp_path) == ["thing"]


def test_a_folder_of_another_version_or_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    thing = tmp_path / "thing"
    build(thing, config={}, inputs=[], seed=0, make=write("old"))
    path = thing / "manifest.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"format_version": 99}))
    with pytest.raises(InputError, match=r"thing was made by format version 99.*delete the folder"):
        build(thing, config={}, inputs=[], seed=0, make=write("new"))
    path.unlink()
    with pytest.raises(InputError, match=r"not an artifact"):
        build(thing, config={}, inputs=[], seed=0, make=write("new"))
    assert (thing / "sub" / "a.txt").read_text() == "old"
    with pytest.raises(InputError, match="no such file"):
        build(tmp_path / "other", config={}, inputs=[tmp_path / "gone"], seed=0, make=write("x"))
    assert names(tmp_path) == ["thing"]


def test_two_runs_at_once_are_refused_and_a_killed_holder_frees_its_run(tmp_path: Path) -> None:
    hold = "import sys,time;from pathlib import Path;from data.artifacts import run_lock\n"
    hold += "with run_lock(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", hold, str(tmp_path / "run")]
    holder = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"another run.*process {holder.pid}"), run_lock(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    with run_lock(tmp_path / "run"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to fill")
@pytest.mark.parametrize(
    "write",
    ["polars.DataFrame({'a': range(99999)}).write_parquet('/dev/full')", "open('/dev/full', 'w').write('x' * 99999)"],
)
def test_a_full_disk_is_one_line(write: str) -> None:
    script = f"import polars\nfrom data.errors import *\nexit_on_input_error(lambda: {write})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the disk is full")
    assert ended.stderr.count("\n") == 1


def test_an_input_error_ends_a_script_with_one_line_and_code_2() -> None:
    script = "from data.errors import *\ndef main(): raise InputError('x.parquet: no\\n such file')\n"
    script += "exit_on_input_error(main)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (2, "error: x.parquet: no such file\n", "")
