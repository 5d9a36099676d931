"""Which of torchtune's recipes and configs are supervised fine-tuning on text, and what the others are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cruijff_kit.source_names import Definition, find

WHAT_WE_SWEEP = "cruijff-kit sweeps supervised fine-tuning on text"

_PREFERENCES = "learns from preferences"
_REINFORCEMENT = "learns from rewards, by reinforcement"
_DISTILLATION = "distils one model into another"
_GENERATION = "generates text, and trains nothing"

# Those that torchtune 0.6.1 lists, and one that it ships and does not list; a recipe that is not here is taken to fine-tune.
OTHER_KINDS = {
    "lora_dpo_single_device": _PREFERENCES,
    "lora_dpo_distributed": _PREFERENCES,
    "full_dpo_distributed": _PREFERENCES,
    "ppo_full_finetune_single_device": _REINFORCEMENT,
    "dev/grpo_full_finetune_distributed": _REINFORCEMENT,
    "knowledge_distillation_single_device": _DISTILLATION,
    "knowledge_distillation_distributed": _DISTILLATION,
    "generate": _GENERATION,
    "dev/generate_v2": _GENERATION,
    "dev/generate_v2_distributed": _GENERATION,
    "eleuther_eval": "evaluates a model, and trains nothing",
    "quantize": "quantizes a model, and trains nothing",
}


def other_kind(recipe: str) -> str | None:
    """What `recipe` does instead of fine-tuning, or None; it may be named as a module of torchtune's folder `recipes` too."""
    return OTHER_KINDS.get(recipe.replace(".", "/").removeprefix("recipes/"))


def vision_component(config: Mapping[str, Any]) -> str | None:
    """The first component of `config` that is of a model of images, or of data for one."""
    parts = (config.get(name) for name in ("model", "tokenizer", "dataset", "datasets"))
    return next((component for part in parts for component in _components(part) if _sees(component)), None)


def _components(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping) and isinstance(node.get("_component_"), str):
        yield node["_component_"]
    for value in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _components(value)


def _sees(component: str) -> bool:
    """By the packages that name it and define it: torchtune keeps images to some, such as datasets.multimodal."""
    found = find(component)
    modules = [component, found.module.name if isinstance(found, Definition) else ""]
    parts = {part.strip("_") for module in modules for part in module.split(".")}
    return any(part in ("multimodal", "clip") or part.endswith("_vision") for part in parts)
