"""Which trainings are the same: a digest of what a torchtune config trains, wherever it lies."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cruijff_kit.config_tree import Config, escape, find, move


def normalised(config: Mapping[str, Any], folder: Path) -> Config:
    """What `config` trains: without where its results, its model and its folder lie."""
    what = _whole_numbers({key: value for key, value in config.items() if key != "output_dir"})
    model = find(config, "checkpointer.checkpoint_dir")
    if isinstance(model, str) and os.path.isabs(model):
        return move(move(what, model.rstrip("/"), "<model>"), escape(str(folder)), ".")
    # a link in the run's own folder: where the model lies shows in the tokenizer's paths alone
    tokenizer = what.get("tokenizer")
    if isinstance(tokenizer, dict):
        paths = {key: "<model>" for key, value in tokenizer.items() if isinstance(value, str) and os.path.isabs(value)}
        what["tokenizer"] = {**tokenizer, **paths}
    return move(what, escape(str(folder)), ".")


def identity(config: Mapping[str, Any], folder: Path) -> str:
    """Digest of what `config` trains, wherever it lies."""
    text = json.dumps(normalised(config, folder), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _whole_numbers(node: Any) -> Any:
    """16.0 and 16 train the same."""
    if isinstance(node, dict):
        return {key: _whole_numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_whole_numbers(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node
