"""Trained weights on disk: whether they are whole, whose they are, and what their digest is. No torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cruijff_kit import torchtune_catalog, workspace
from cruijff_kit.config_tree import find, unescape
from cruijff_kit.identity import identity, normalised

INDEX = "model.safetensors.index.json"
CONFIG_COPY = "torchtune_config.yaml"
ADAPTER_PREFIX = "adapter_"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # as peft reads them; torchtune writes the config last
RESUME = "resume_from_checkpoint"
UNFINISHED = ".unfinished"  # our recipes leave it in an epoch's folder until all of its files are written


def saves_adapter_alone(config: Mapping[str, Any]) -> bool:
    """Whether a training with this torchtune config saves its LoRA adapter and no merged model."""
    return bool(config.get("save_adapter_weights_only")) and torchtune_catalog.is_lora(config)


def fault(folder: Path, adapter: bool = False) -> str | None:
    """What the Hugging Face model in `folder` lacks, or the adapter, or None if it is whole.

    A shard is whole when its length is what its safetensors header says:
    torchtune leaves no mark that a save was finished.
    """
    if not folder.is_dir():
        return "there is no such folder"
    if (folder / UNFINISHED).exists():
        return "its save was interrupted"
    if adapter:
        return _adapter_fault(folder)
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    try:
        names = shards(folder)
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        return f"{INDEX} cannot be read: {error}"
    if not names:
        return "there is no safetensors file"
    return next(filter(None, (_shard_fault(folder / name) for name in names)), None)


def _adapter_fault(folder: Path) -> str | None:
    config, weights = ADAPTER_FILES
    if not (folder / config).is_file():
        return f"{config} is missing"
    try:
        settings = json.loads((folder / config).read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
            return f"{config} is of no LoRA adapter"
    except (OSError, ValueError) as error:
        return f"{config} cannot be read: {error}"
    return _shard_fault(folder / weights)


def weights(folder: Path, adapter: bool = False) -> list[str]:
    """The names of the files that hold what was trained: the shards of the model, or the adapter's weights and their scale."""
    return list(ADAPTER_FILES) if adapter else shards(folder)


def shards(folder: Path) -> list[str]:
    """The names of the weight files, from the index if there is one."""
    index = folder / INDEX
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a shard's name is no text")
        return sorted(names)
    return sorted(path.name for path in folder.glob("model*.safetensors"))


def header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The dtype, shape and data_offsets of each tensor of a safetensors file, and where its data starts.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no safetensors file, or was cut off within the header.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            found = json.loads(file.read(length))
        return {name: tensor for name, tensor in found.items() if name != "__metadata__"}, 8 + length
    except (struct.error, AttributeError, OverflowError, MemoryError):
        raise ValueError(f"{path.name} is no safetensors file, or was cut off") from None


def bytes_in(path: Path, dtype: str) -> int:
    """What the weights of a safetensors file take in this dtype, `fp32`, by its header.

    Raises:
        OSError, ValueError, LookupError, TypeError: the header cannot be read.
    """
    tensors, _ = header(path)
    return sum(math.prod(tensor["shape"]) for tensor in tensors.values()) * torchtune_catalog.ELEMENT_BYTES[dtype]


def _shard_fault(path: Path) -> str | None:
    try:
        tensors, start = header(path)
        expected = start + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (OSError, ValueError, LookupError, TypeError):
        return f"{path.name} is no safetensors file, or was cut off"
    return None if size == expected else f"{path.name} has {size:,} bytes and should have {expected:,}"


def differences(train_config: Path, results: Path, folder: Path, copy: Path | None = None) -> dict[str, Any] | str:
    """What the training in `results` was given otherwise than `train_config` says: key to its value there.

    Empty if nothing; a text if torchtune's own copy of its config cannot be read.
    `folder` is the experiment's; it may have been elsewhere when that was trained.
    `copy` is another copy of that config than torchtune's last.
    """
    try:
        trained, was = _trained(results, folder, copy)
    except FileNotFoundError:
        return f"{CONFIG_COPY}, torchtune's copy of its config, is missing"
    except Exception as error:  # a copy that was cut off is no YAML, in any of many ways
        return f"{CONFIG_COPY} cannot be read: {error}"
    there = _flat(normalised(trained, was))
    here = _flat(normalised(_first_attempt(torchtune_catalog.read_config(train_config)), folder))
    return {key: there.get(key) for key in sorted({*there, *here}) if there.get(key) != here.get(key)}


def _trained(results: Path, folder: Path, copy: Path | None = None) -> tuple[dict[str, Any], Path]:
    """torchtune's copy of the config, and where the experiment's folder was then."""
    trained = _first_attempt(torchtune_catalog.read_config(copy or results / CONFIG_COPY))
    below = results.relative_to(folder).parts
    then = Path(unescape(str(trained.get("output_dir"))))
    return trained, then.parents[len(below) - 1] if then.parts[-len(below) :] == below else folder


def _first_attempt(config: dict[str, Any]) -> dict[str, Any]:
    """`config` as it was before its training was interrupted: going on with a training makes no other one of it."""
    return {**config, RESUME: False} if config.get(RESUME) is True else config


def trained_identity(results: Path, folder: Path) -> str | None:
    """The identity of the run that was trained in `results`; None if no copy of its config tells."""
    import yaml

    try:
        return identity(*_trained(results, folder))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def other_model(train_config: Path, results: Path, folder: Path, copy: Path | None = None) -> str | None:
    """The folder of the base model in training, if it is another now: the model was moved, or is another one."""
    trained, was = _trained(results, folder, copy)
    there = _model_places(trained, was)
    return there[0] if there != _model_places(torchtune_catalog.read_config(train_config), folder) else None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _model_places(config: Mapping[str, Any], folder: Path) -> list[str]:
    """Absolute paths of the base weights and the tokenizer, relative within the experiment's folder."""
    texts = [find(config, "checkpointer.checkpoint_dir"), *(config.get("tokenizer") or {}).values()]
    places = [Path(unescape(text)) for text in texts if isinstance(text, str) and text.startswith("/")]
    return [str(place.relative_to(folder) if place.is_relative_to(folder) else place) for place in places]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def older_than_config(model: Path, results: Path, adapter: bool = False) -> str | None:
    """That torchtune wrote its copy of the config, as it does when it starts, before it wrote these weights.

    A training that was started again and cut short leaves the new config beside the old weights.
    """
    started = (results / CONFIG_COPY).stat().st_mtime_ns
    if all((model / name).stat().st_mtime_ns >= started for name in weights(model, adapter)):
        return None
    return f"it is older than the training that {CONFIG_COPY} is of: train it again"


def model_files(folder: Path) -> Iterator[Path]:
    """The files that make the model: all but adapters, which transformers would load on top of merged weights."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith((ADAPTER_PREFIX, ".")):
            yield path


def digest(folder: Path, adapter: bool = False) -> str:
    """Digest of the files that make the model, or the adapter: names and contents."""
    whole = hashlib.sha256()
    for path in [folder / name for name in ADAPTER_FILES] if adapter else model_files(folder):
        whole.update(f"{path.name} {sha256(path)}\n".encode())
    return whole.hexdigest()


def stamp(folder: Path, adapter: bool = False) -> dict[str, list[int]]:
    """Size and time of each weight file: a cheap sign that the weights are still those that were hashed.

    Raises:
        OSError: there are none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    return {name: file_stamp(folder / name) for name in weights(folder, adapter)}


def file_stamp(path: Path) -> list[int]:
    """Size and time: a cheap sign that a file is still what it was."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def seal(model: Path, results: Path, adapter: bool = False) -> dict[str, Any]:
    """What tells later, at the price of a few looks, that a finished training is still as it was: see is_sealed."""
    return {"model": os.path.relpath(model, results), "shards": stamp(model, adapter), CONFIG_COPY: file_stamp(results / CONFIG_COPY)}


def is_sealed(sealed: Mapping[str, Any], results: Path) -> bool:
    """Whether neither the weights in `results` nor torchtune's copy of their config were written since."""
    try:
        model, adapter = results / sealed["model"], set(sealed["shards"]) == set(ADAPTER_FILES)
        return stamp(model, adapter) == sealed["shards"] and file_stamp(results / CONFIG_COPY) == sealed[CONFIG_COPY]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def without_adapter(folder: Path, view: Path) -> None:
    """Makes `view` the model of `folder` without its adapter files: links to the others, or to the folder."""
    view.parent.mkdir(parents=True, exist_ok=True)
    if not any(path.name.startswith(ADAPTER_PREFIX) for path in folder.iterdir()):
        if view.is_dir() and not view.is_symlink():
            shutil.rmtree(view)  # links of ours, to a model that had an adapter
        workspace.link(view, str(folder))
        return
    if view.is_symlink():
        view.unlink()
    view.mkdir(exist_ok=True)
    wanted = {path.name: path for path in model_files(folder)}
    for path in view.iterdir():
        if path.name not in wanted and not path.name.startswith("."):
            path.unlink(missing_ok=True)
    for name, target in wanted.items():
        workspace.link(view / name, str(target))
