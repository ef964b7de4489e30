"""What all TRL trainers here share: arguments that suit the machine, a progress bar, a record of what was logged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, PeftModel, get_peft_model
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from data.artifacts import build
from data.catalog import Catalog
from data.progress import progress
from policy.checkpoint import Speaker, load_speaker
from policy.presets import Preset

METRICS = "training.jsonl"


def build_on_ranks(
    folder: Path,
    *,
    config: Mapping[str, object],
    inputs: Sequence[Path],
    seed: int,
    make: Callable[[Path], None],
) -> bool:
    """`data.artifacts.build` where several ranks train together (torchrun, accelerate launch).

    The first rank looks whether there is anything to make, and writes it; the others make along, into folders that are
    thrown away. True on the first rank when it was made.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes == 1:
        return build(folder, config=config, inputs=inputs, seed=seed, make=make)
    if not state.is_main_process:
        if broadcast_object_list([None])[0]:
            with TemporaryDirectory() as thrown_away:
                make(Path(thrown_away))
        return False
    told = []

    def make_together(temporary: Path) -> None:
        told.append(broadcast_object_list([True]))
        make(temporary)

    made = build(folder, config=config, inputs=inputs, seed=seed, make=make_together)
    if not told:
        broadcast_object_list([False])
    return made


def machine_arguments(preset: Preset, output: Path, seed: int) -> dict[str, Any]:
    """Arguments of `transformers.TrainingArguments` that follow from machine and preset, not from the method."""
    accelerator = torch.cuda.is_available()
    return {
        "output_dir": str(output),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not accelerator,
        "bf16": preset.bfloat16,
        "dataloader_pin_memory": accelerator,
        "dataloader_num_workers": 0,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 10,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "max_grad_norm": 1.0,
    }


def trainer_defaults() -> dict[str, Any]:
    """Defaults of a trainer's command line on this machine (TRL's own want a GPU with bfloat16)."""
    return {"use_cpu": not torch.cuda.is_available(), "bf16": False}


def overridden(given: TrainingArguments | None) -> dict[str, Any]:
    """What a command line or YAML file changed of a trainer's arguments: the fields that are not at their defaults."""
    if given is None:
        return {}
    plain = type(given)(output_dir=given.output_dir, **trainer_defaults())
    names = [field.name for field in fields(given) if field.init and field.name != "output_dir"]
    changed = {name: getattr(given, name) for name in names if getattr(given, name) != getattr(plain, name)}
    return json.loads(json.dumps(changed, default=str))  # type: ignore[no-any-return]


def adapter(preset: Preset) -> LoraConfig:
    """LoRA on every linear layer of the trunk: attention and MLP, never embeddings or head, which vLLM would refuse."""
    return LoraConfig(
        r=preset.lora_rank,
        lora_alpha=2 * preset.lora_rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )


def speaker_to_tune(
    base: Path, catalog: Catalog, start: Path | None, preset: Preset, seed: int
) -> tuple[Speaker, PeftModel]:
    """The policy in `base` with a trainable adapter, that of `start` or a fresh one, and the model; sets every seed."""
    spoken = load_speaker(base, catalog, start, trainable=True)
    set_seed(seed)
    model = get_peft_model(spoken.legal, adapter(preset)) if start is None else spoken.model
    assert isinstance(model, PeftModel)
    return replace(spoken, model=model), model


class ProgressBar(TrainerCallback):
    """One line on the terminal: what trains, how far, the loss, the time left."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.bar = progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar.start()
        self.task = self.bar.add_task(self.description, total=state.max_steps, note="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        shown = [key for key in ("loss", "rewards/margins", "objective/scores", "objective/kl") if key in (logs or {})]
        if self.bar is not None and self.task is not None and logs:
            note = "  ".join(f"{key.split('/')[-1]} {float(logs[key]):.3g}" for key in shown)
            self.bar.update(self.task, note=note)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def with_progress(trainer: Trainer, description: str) -> Trainer:
    """Replace the trainer's own printing by one progress line."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(ProgressBar(description))
    return trainer


def write_metrics(trainer: Trainer, folder: Path, stage: str) -> None:
    """Append the trainer's log, one JSON object per line, to `training.jsonl` in the policy's folder.

    Wall-clock figures are left out: the same seed writes the same bytes, and the manifest has the time.
    """
    clock = ("runtime", "per_second", "eps", "total_flos", "step_time")
    with (folder / METRICS).open("a") as out:
        for entry in trainer.state.log_history:
            kept = {key: value for key, value in entry.items() if not any(word in key for word in clock)}
            out.write(json.dumps({"stage": stage, **kept}, sort_keys=True) + "\n")
