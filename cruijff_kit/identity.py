"""Which trainings are the same: a digest of what a torchtune config trains, wherever it lies."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cruijff_kit import logger_config
from cruijff_kit.config_tree import Config, PerNode, escape, find, move


def normalised(config: Mapping[str, Any], folder: Path) -> Config:
    """What `config` trains: without where its results, its model and its folder lie, and what logs it."""
    where = _model_place(config), str(folder)
    return {key: _normalised(key, node, *where) for key, node in config.items() if key not in ("output_dir", logger_config.KEY)}


def identity(config: Mapping[str, Any], folder: Path) -> str:
    """Digest of what `config` trains, wherever it lies and whatever logs it."""
    where = _model_place(config), str(folder)
    # not left out: with torchtune's usual logger the digest is that of the days when the logger was part of it
    config = {**config, logger_config.KEY: logger_config.USUAL}
    texts = [_text(key, config[key], *where) for key in sorted(config) if key != "output_dir"]
    return hashlib.sha256(f"{{{', '.join(texts)}}}".encode()).hexdigest()[:16]  # as json.dumps of the whole


def _model_place(config: Mapping[str, Any]) -> str | None:
    """The folder of the base weights; None if it is a link in the run's own folder."""
    model = find(config, "checkpointer.checkpoint_dir")
    return model.rstrip("/") if isinstance(model, str) and os.path.isabs(model) else None


@PerNode
def _text(key: str, node: Any, model: str | None, folder: str) -> str:
    return f"{json.dumps(key)}: {json.dumps(_normalised(key, node, model, folder), sort_keys=True, default=str)}"


def _normalised(key: str, node: Any, model: str | None, folder: str) -> Any:
    node = _whole_numbers(node)
    if model is not None:
        node = move(node, model, "<model>")
    elif key == "tokenizer" and isinstance(node, dict):  # where the model lies shows in these paths alone
        paths = {name: "<model>" for name, value in node.items() if isinstance(value, str) and os.path.isabs(value)}
        node = {**node, **paths}
    return move(node, escape(folder), ".")


def _whole_numbers(node: Any) -> Any:
    """16.0 and 16 train the same."""
    if isinstance(node, dict):
        return {key: _whole_numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_whole_numbers(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node
