"""What the comparison of training and evaluation prompts depends on, as a digest: the same for runs that share it all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cruijff_kit import dataset_files, inputs, offline, torchtune_catalog
from cruijff_kit.checkpoint import ADAPTER_PREFIX, sha256
from cruijff_kit.config_tree import output_dir_of

PACKAGES = ("cruijff-kit", "torchtune", "transformers", "tokenizers", "datasets", "inspect-ai")
CODE = ("_component_", "prompt_template")  # keys whose value names Python objects
KNOWN_CODE = ("torchtune.", "cruijff_kit.")  # which reads nothing beside its arguments
FILES = ("json", "csv", "parquet", "text", "arrow")  # what `source` says where the data is in files
TEMPLATES = "additional_chat_templates"  # transformers 5: of a tokenizer with several


def digest(train_config: Path, model_dir: Path, hidden: Path) -> str | None:
    """None where not all of it can be known: a component of the user's may read anything.

    Args:
        hidden: where what data files hold is remembered.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = torchtune_catalog.read_config(train_config)
        tree = OmegaConf.create(config)
        nodes = {name: OmegaConf.to_container(tree[name], resolve=True) for name in ("tokenizer", "dataset")}
        datasets = nodes["dataset"] if isinstance(nodes["dataset"], list) else [nodes["dataset"]]
        of_hub = [node for node in datasets if node.get("source") not in FILES]
        if not (all(str(name).startswith(KNOWN_CODE) for name in _code(nodes)) and all(map(_is_data_known, datasets))):
            return None
        what = {
            "tokenizer": _held(nodes["tokenizer"]),
            "dataset": nodes["dataset"],
            "data": inputs.contents(inputs.of_dataset(config), hidden),
            "hub": _fetched_datasets() if of_hub else [],
            "base": str((output_dir_of(config, "checkpointer.checkpoint_dir") or Path()).resolve()),
            "evaluated": _tokenizer_files(model_dir),
            "versions": {name: metadata.version(name) for name in PACKAGES},
        }
    except (OSError, ValueError, LookupError, AttributeError, yaml.YAMLError, OmegaConfBaseException, ImportError):
        return None  # the comparison itself says what is wrong
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _code(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in CODE and isinstance(value, str):
                yield value
            yield from _code(value)
    elif isinstance(node, list):
        for value in node:
            yield from _code(value)


def _is_data_known(node: Mapping[str, Any]) -> bool:
    """Whether the data is in files that are named, or in datasets' cache, and nowhere else."""
    if node.get("source") not in FILES:
        return offline.is_offline() and node.get("data_dir") is None and not os.path.exists(str(node.get("source")))
    if node.get("data_files") is None:
        return False
    paths = [path for paths in dataset_files.paths_by_split(node["data_files"]).values() for path in paths]
    return all(map(dataset_files.is_local, paths))


def _held(node: Any) -> Any:
    """`node` with each path in it that leads somewhere replaced by where that is and what it holds."""
    if isinstance(node, Mapping):
        return {key: _held(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_held(value) for value in node]
    path = Path(node).expanduser() if isinstance(node, str) else None
    if path is None or not path.exists():
        return node
    return [str(path.resolve()), _tokenizer_files(path) if path.is_dir() else sha256(path)]


def _tokenizer_files(folder: Path) -> dict[str, str]:
    """What the files beside the weights hold, by name; not that of an adapter, which no tokenizer reads."""
    small = [path for path in (*folder.iterdir(), *folder.glob(f"{TEMPLATES}/*")) if path.suffix in inputs.SMALL_SUFFIXES and path.is_file()]
    return {str(path.relative_to(folder)): sha256(path) for path in small if not path.name.startswith(ADAPTER_PREFIX)}


def _fetched_datasets() -> list[str]:
    """The datasets of the Hub that were fetched: each version is a folder of datasets' cache (5.2). Which of them is read only their component knows."""
    from huggingface_hub.constants import HF_HOME

    root = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME, "datasets"))
    found = (path.relative_to(root) for path in root.glob("*/*/*/*") if path.is_dir())
    return sorted(str(path) for path in found if path.parts[0] not in FILES)
