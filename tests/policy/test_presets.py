"""Presets: the budgets are what was asked for, and the pretrained one is a model that can be trained."""

import pytest
import torch
from transformers.trainer_utils import validate_quantization_for_training

from data.errors import InputError
from policy.presets import base_model, preset
from tests.policy.conftest import MakeCatalog


def test_changes_are_typed_and_named() -> None:
    changed = preset("nano", ["sft_slates=12", "dpo_lr=0.5", "bfloat16=true"])
    assert (changed.sft_slates, changed.dpo_lr, changed.bfloat16) == (12, 0.5, True)
    with pytest.raises(InputError, match="sft_slates takes a int"):
        preset("nano", ["sft_slates=many"])
    with pytest.raises(InputError, match="give field=value"):
        preset("nano", ["slates=3"])


def test_smollm2_knows_english_and_may_be_trained(make_catalog: MakeCatalog) -> None:
    """Its weights come out of a quantised file: they must be right, and nothing may say any more that they were."""
    model, tokenizer = base_model(preset("smollm2"), make_catalog(20), 0)
    validate_quantization_for_training(model)  # what a trainer asks first; raises
    assert not hasattr(model.config, "quantization_config")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        likeliest = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(likeliest).strip() == "Paris"
