"""Composed torchtune configs for the checks that need torch: of the tiny model, and of torchtune's own base configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cruijff_kit import model_check, torchtune_catalog
from cruijff_kit.model_check import Model
from tests.tiny_llama import tiny_base_config

LORA, FULL = "lora_finetune_single_device", "full_finetune_single_device"


def tiny(folder: Path, **model: Any) -> dict[str, Any]:
    """The tiny LoRA config for the weights in `folder`; None takes an argument of the model away."""
    base = tiny_base_config(folder)
    arguments = {**base["model"], **model}
    return {**base, "model": {name: value for name, value in arguments.items() if value is not None}}


def tiny_full(folder: Path, **model: Any) -> dict[str, Any]:
    """The same without adapters."""
    gone = dict.fromkeys(["lora_attn_modules", "apply_lora_to_mlp", "lora_rank", "lora_alpha", "lora_dropout"])
    return tiny(folder, **{"_component_": "torchtune.models.llama3_2.llama3_2", **gone, **model})


def built(made: dict[str, Any], recipe: str = LORA) -> Model:
    model = model_check.build(made, recipe)
    assert isinstance(model, Model), model
    return model


def named(name: str, **model: Any) -> dict[str, Any]:
    """A config of torchtune's own, with other arguments of its model."""
    base = torchtune_catalog.read_config(torchtune_catalog.base_configs()[name].path)
    return {**base, "model": {**base["model"], **model}}
