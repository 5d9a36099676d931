"""What would go wrong between the loggers of several runs. That a logger can be made at all: component_checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cruijff_kit import logger_config
from cruijff_kit.config_tree import is_computed
from cruijff_kit.errors import Fault


def shared_folders(configs: Iterable[Mapping[str, Any]]) -> Iterator[Fault]:
    """Each folder in which the loggers of several runs would write, where `configs` say which it is."""
    shared: dict[str, list[Mapping[str, Any]]] = {}
    for number, config in enumerate(configs):
        node = config.get(logger_config.KEY)
        if isinstance(node, Mapping) and not is_computed(logger_config.place(node)[1]):
            shared.setdefault(logger_config.folder(node, f"/{number}"), []).append(node)
    for nodes in shared.values():
        key, place = logger_config.place(nodes[0])
        if len(nodes) > 1:
            lie = "in one file" if logger_config.writes_one_file(nodes[0]) else "together"
            what = f"{key} is {place}: what {len(nodes)} runs log would lie there {lie}, and no table could show a run's loss from there"
            yield Fault(f"{logger_config.KEY}.{key}", what, f"{key}: {logger_config.LOG_DIR} gives each run its own", "warning")
