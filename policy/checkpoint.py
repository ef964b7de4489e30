"""A policy on disk: the folder that training writes, evaluation reads and vLLM serves.

    runs/demo/policy/sft/   a whole model (merged, catalog vocabulary inside), tokenizer, vocabulary.json, policy.json
    runs/demo/policy/dpo/   a LoRA adapter over ../sft

`policy.json` records what the weights were trained to speak (catalog version, slate size, history length, preset), so
that a policy is never paired with another catalog.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from data.catalog import Catalog
from data.errors import InputError
from policy.grammar import SlateGrammar
from policy.hearing import Hearing
from policy.language_model import LegalSlateModel, causal_model, constrain
from policy.prompt import Prompt
from policy.vocabulary import Vocabulary

SETTINGS = "policy.json"


@dataclass(frozen=True)
class PolicySettings:
    """What a policy's weights presuppose. slate_size: items per slate. history_length: interactions in a prompt."""

    preset: str
    catalog: str
    slate_size: int
    history_length: int


@dataclass(frozen=True)
class Speaker:
    """A loaded policy with all that turns contexts into slates: model, tokenizer, prompt and grammar of one catalog."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    prompt: Prompt
    grammar: SlateGrammar
    catalog: Catalog
    settings: PolicySettings

    @property
    def legal(self) -> LegalSlateModel:
        """The constrained model (with whichever adapter is active)."""
        return causal_model(self.model)

    @cached_property
    def hearing(self) -> Hearing:
        """What words ask for in this catalog."""
        return Hearing(self.catalog)


def speaker(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    catalog: Catalog,
    settings: PolicySettings,
) -> Speaker:
    """Bind a model to a catalog: build the grammar, constrain the model, set up the prompt."""
    grammar = SlateGrammar.of(vocabulary, settings.slate_size)
    constrain(model, grammar)
    return Speaker(
        model=model,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        prompt=Prompt(vocabulary, tokenizer, settings.history_length),
        grammar=grammar,
        catalog=catalog,
        settings=settings,
    )


def save_speaker(spoken: Speaker, folder: Path) -> None:
    """Write a whole servable model. Call it inside `data.artifacts.build`, which makes the write atomic."""
    model = causal_model(spoken.model)
    model.config._name_or_path = ""  # a path of the machine it was trained on is nobody's business
    model.save_pretrained(folder)
    spoken.tokenizer.save_pretrained(folder)
    spoken.vocabulary.save(folder)
    (folder / SETTINGS).write_text(json.dumps(asdict(spoken.settings), indent=1, sort_keys=True) + "\n")


def load_speaker(folder: Path, catalog: Catalog, adapter: Path | None = None, trainable: bool = False) -> Speaker:
    """Load a base policy and, with `adapter`, a LoRA adapter on top. It is merged into the base, which draws a third
    faster, unless it is to be trained.

    Raises InputError when either folder is missing or incomplete, or was trained for another catalog.
    """
    if not (folder / SETTINGS).is_file():
        raise InputError(f"no policy in {folder}: train it first (scripts/train_sft.py)")
    settings = PolicySettings(**json.loads((folder / SETTINGS).read_text()))
    if settings.catalog != catalog.version:
        raise InputError(
            f"{folder} speaks catalog {settings.catalog}, this catalog is {catalog.version}: "
            "retrain it or pass its catalog"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    spoken = speaker(model, tokenizer, Vocabulary.load(folder, catalog), catalog, settings)
    if adapter is None:
        return spoken
    if not (adapter / "adapter_config.json").is_file():
        raise InputError(f"no adapter in {adapter}: train it first (scripts/train_dpo.py, scripts/train_ppo.py)")
    adapted = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    if not trainable:
        adapted.eval()
        adapted.merge_adapter()
    return replace(spoken, model=adapted)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write a LoRA adapter that vLLM can load over the base policy."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = "../sft"
        config.inference_mode = True
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # a generated model card that names no facts of this run
    path = folder / "adapter_config.json"
    facts = json.loads(path.read_text())
    facts["target_modules"] = sorted(facts["target_modules"])  # a set: its order changes from process to process
    path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
