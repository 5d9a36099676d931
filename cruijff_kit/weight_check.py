"""Whether the weight files of a checkpointer fit the model: by the names and shapes in their headers.

The names are converted by the very method of torchtune's checkpointer that does it in training,
on tensors of the headers' shapes that have no memory. No weight is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from cruijff_kit import checkpoint
from cruijff_kit.config_tree import find
from cruijff_kit.errors import Fault, closest
from cruijff_kit.model_check import Model, Shape
from cruijff_kit.torchtune_config import HF_CHECKPOINTER, weight_files
from cruijff_kit.visible_text import message

SHOWN = 3

# config.json's sizes, shown where the weights do not fit: they say which model the files are of.
SIZES = ("vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "tie_word_embeddings")


@dataclass(frozen=True)
class Weights:
    """What the weight files of a config came to.

    Args:
        state: `match`, `differ`, or `not checked: …` with the reason.
    """

    state: str
    faults: tuple[Fault, ...] = ()


def check(config: Mapping[str, Any], model: Model, folder: Path) -> Weights:
    """Whether the checkpointer's files in `folder` hold the weights of `model`."""
    component = find(config, "checkpointer._component_")
    files = weight_files(find(config, "checkpointer.checkpoint_files"))
    if component != HF_CHECKPOINTER:
        return Weights(f"not checked: {component} reads no Hugging Face files")
    if not files:
        return Weights("not checked: checkpointer.checkpoint_files names none")
    missing = [name for name in ["config.json", *files] if not (folder / name).is_file()]
    if missing:
        return Weights(f"not checked: {folder} lacks {_first(missing)}")
    if other := [name for name in files if not name.endswith(".safetensors")]:
        return Weights(f"not checked: {_first(other)} is no safetensors file")
    held = _held(folder, tuple(files), str(find(config, "checkpointer.model_type")))
    if isinstance(held, Fault):
        return Weights("differ", (held,))
    faults = tuple(Fault("model", what, _sizes_there(folder)) for what in _differences(model.shapes, held, folder))
    return Weights("differ" if faults else "match", faults)


@cache
def _held(folder: Path, files: tuple[str, ...], model_type: str) -> dict[str, Shape] | Fault:
    """The shape of each weight in `files` by torchtune's name for it, or why torchtune cannot read them."""
    from torchtune.training import ModelType

    if model_type not in ModelType.__members__:
        return Fault("checkpointer.model_type", f"torchtune knows no model_type {model_type!r}", closest(model_type, ModelType.__members__))
    sizes = _sizes(folder)
    if sizes is None:
        return Fault("model_dir", f"{folder}/config.json is no JSON of a model's sizes", "download the model anew")
    try:
        return _converted([folder / name for name in files], sizes, model_type)
    except (AttributeError, NameError, ImportError):  # another torchtune than we know
        raise
    except Exception as error:  # the conversions raise KeyError, RuntimeError and Exception itself
        what = f"torchtune cannot read the weight files in {folder} as {model_type}: {_reason(error)}"
        return Fault("checkpointer.model_type", what, "model_type names the family of the model: LLAMA3, LLAMA3_2, QWEN2, …")


def _sizes(folder: Path) -> dict[str, Any] | None:
    try:
        sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return sizes if isinstance(sizes, dict) else None


def _sizes_there(folder: Path) -> str:
    sizes = _sizes(folder) or {}
    return f"{folder}/config.json has " + ", ".join(f"{name} {sizes[name]}" for name in SIZES if name in sizes)


def _reason(error: Exception) -> str:
    return f"config.json has no {error}" if isinstance(error, KeyError) else message(error)


def _differences(needed: Mapping[str, Shape], held: Mapping[str, Shape], folder: Path) -> Iterable[str]:
    lacking = [name for name in needed if name not in held]
    surplus = [name for name in held if name not in needed]
    other = [name for name in needed if name in held and held[name] != needed[name]]
    if lacking:
        yield f"the model has {_count(lacking)} that the weight files in {folder} lack: {_first(lacking)}"
    if surplus:
        yield f"the weight files in {folder} hold {_count(surplus)} that the model lacks: {_first(surplus)}"
    if other:
        shown = [f"{name} is {list(held[name])} in the files and {list(needed[name])} in the model" for name in other]
        yield f"{_count(other)} of the weight files in {folder} differ in shape: {_first(shown)}"


def _count(names: list[str]) -> str:
    return f"{len(names)} weight{'' if len(names) == 1 else 's'}"


def _first(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _converted(paths: list[Path], sizes: Mapping[str, Any], model_type: str) -> dict[str, Shape]:
    """The shape of each tensor by torchtune's name for it.

    torchtune has no function that converts names alone. Its load_checkpoint is run with a reader of our own in
    place of `safe_torch_load`, on an object without the rest: `__init__` would make the output folder.
    """
    from torchtune.training import MODEL_KEY, FullModelHFCheckpointer, ModelType

    method = FullModelHFCheckpointer.load_checkpoint
    load = FunctionType(method.__code__, {**method.__globals__, "safe_torch_load": _tensors_without_memory})
    checkpointer = object.__new__(FullModelHFCheckpointer)
    checkpointer._checkpoint_paths = paths
    checkpointer._config = sizes
    checkpointer._model_type = ModelType[model_type]
    checkpointer._adapter_checkpoint = None
    checkpointer._should_load_recipe_state = False
    return {name: tuple(tensor.shape) for name, tensor in load(checkpointer)[MODEL_KEY].items()}


def _tensors_without_memory(path: Path) -> dict[str, Any]:
    import torch

    tensors, _ = checkpoint.header(path)
    try:
        return {name: torch.empty(tensor["shape"], device="meta") for name, tensor in tensors.items()}
    except (LookupError, TypeError, RuntimeError):
        raise ValueError(f"the header of {path.name} does not give a shape for each tensor") from None
