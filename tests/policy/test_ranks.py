"""One rank or two: the same losses and the same weights; and the launch files that docs/train.md names are read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from tests.policy.serving.tiny_run import build

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "scripts" / "configs"


def trained(run: Path, out: Path, ranks: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", "29517"]
    if ranks == 1:
        command = [sys.executable]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    script = [str(ROOT / "tests" / "policy" / "trained_on_ranks.py"), str(run), str(out)]
    done = subprocess.run(
        command + script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.nightly
def test_two_ranks_give_the_losses_and_weights_of_one(tmp_path) -> None:
    build(tmp_path / "run", decisions=True)
    for ranks in (1, 2):
        trained(tmp_path / "run", tmp_path / f"on-{ranks}", ranks)
        assert (tmp_path / f"on-{ranks}" / "built" / "by").read_text() == "0", "the first rank writes"
    made = [json.loads((tmp_path / "on-2" / f"made-{rank}.json").read_text()) for rank in (0, 1)]
    assert made == [[True, False], [False, False]]
    for method, told in {
        "sft": ("loss", "grad_norm"),
        "grpo": ("loss", "reward", "kl", "grad_norm"),
        "dpo": ("loss", "rewards/margins", "grad_norm"),
    }.items():
        folders = [tmp_path / "on-1" / f"{method}-0", *(tmp_path / "on-2" / f"{method}-{rank}" for rank in (0, 1))]
        logs = [[json.loads(line) for line in (f / "training.jsonl").read_text().splitlines()] for f in folders]
        steps = [[line for line in log if "loss" in line] for log in logs]
        assert len(steps[0]) >= 3
        for one, two in zip(steps[0], steps[1], strict=True):
            for name in told:
                assert two[name] == pytest.approx(one[name], rel=1e-3, abs=2e-5), (method, name, one["step"])
        # A whole model is written by the first rank only, also by transformers; an adapter by both, alike.
        weights = [load_file(file) for folder in folders for file in folder.glob("*model.safetensors")]
        assert len(weights) == (2 if method == "sft" else 3)
        for name, weight in weights[0].items():
            assert (weight - weights[1][name]).abs().max() < 1e-3, (method, name)
            assert (weights[1][name] == weights[-1][name]).all(), "ranks hold the same weights"


@pytest.mark.parametrize(
    ("name", "kind", "ranks"), [("accelerate_cpu", "MULTI_CPU", 2), ("accelerate_fsdp", "FSDP", 8)]
)
def test_launch_files_are_read_by_accelerate(name, kind, ranks) -> None:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert config.num_processes == ranks
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.mixed_precision == "bf16"
