"""Values within a torchtune config: by dotted key, by folder, and as OmegaConf's text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

Config = dict[str, Any]


class PerNode:
    """A function of a top-level node of a config, computed once for each node: the configs of a sweep share most of theirs.

    Its arguments are the node's key, the node, which nobody may change afterwards, and whatever else the result depends on.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._known: dict[tuple, tuple[Any, Any]] = {}

    def __call__(self, key: str, node: Any, *others: Hashable) -> Any:
        what = id(node) if isinstance(node, (dict, list)) else (type(node), node)
        place = (key, what, *others)
        if place not in self._known:
            self._known[place] = node, self.function(key, node, *others)  # the node is kept: its id is that of no other
        return self._known[place][1]


def find(config: Any, key: str) -> Any:
    """The value at a dotted key, or None."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return None
        config = config[part]
    return config


def set_dotted(config: Config, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for part in parents:
        config = config.setdefault(part, {})
    config[leaf] = value


def move(node: Any, old: str, new: str) -> Any:
    """`node` with the folder `old` replaced by `new` wherever a path starts with it."""
    if isinstance(node, dict):
        return {key: move(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [move(value, old, new) for value in node]
    if isinstance(node, str) and (node.rstrip("/") == old or node.startswith(f"{old}/")):
        return (new + node[len(old) :]).rstrip("/")
    return node


def is_computed(value: Any) -> bool:
    """Whether `value` is to be computed here; `${output_dir}` is torchtune's own, and stays."""
    return isinstance(value, str) and "${" in value.replace("${output_dir}", "")


def escape(text: str) -> str:
    """`text` so that OmegaConf takes its `${`, and backslashes before it, literally."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return re.sub(r"(\\+)\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", text)


def output_dir_of(config: Mapping[str, Any], key: str) -> Path | None:
    """The folder at `key`, with `${output_dir}` put in; None if it is not set."""
    text = find(config, key)
    if not isinstance(text, str):
        return None
    return Path(os.path.abspath(unescape(text.replace("${output_dir}", config["output_dir"]))))
