"""A dataset of a torchtune config over its first rows only, whatever its size.

Files on this machine are read as far as those rows go, and leave no trace in a cache. A dataset of the Hub is read
from the cache, where it is.
A component that does not take torchtune's `source` and `split` is built as training builds it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cruijff_kit import offline
from cruijff_kit.dataset_checks import dataset_rows
from cruijff_kit.config_tree import escape

ROWS = 8

_SLICE = re.compile(r"(?P<split>\w[\w.-]*)(\[(?P<start>\d*):(?P<stop>\d*)(?P<percent>%?)\])?")  # train, train[10:], train[:5%]


class NotHereError(Exception):
    """The data is on no disk of this machine."""


@dataclass(frozen=True)
class FirstRows:
    """The first rows of a dataset, as its component makes them.

    Args:
        start: the number of the first of them, from 1.
        rows: how many the whole dataset has; None where counting takes more than a look.
    """

    dataset: Any
    start: int
    rows: int | None


@dataclass(frozen=True)
class _Source:
    """What `load_dataset` would be given: its arguments, and the split in its parts; no split for what we cannot cut."""

    arguments: dict[str, Any]
    text: str
    split: str | None
    start: int
    stop: int | None

    @property
    def path(self) -> str:
        return str(self.arguments["path"])

    @property
    def files(self) -> list[str]:
        given = [self.arguments.get(name) for name in ("data_files", "data_dir")]
        return [text for value in given for text in _texts(value)]

    @property
    def is_remote(self) -> bool:
        return any("://" in text for text in [self.path, *self.files])

    @property
    def is_local(self) -> bool:
        return bool(self.files) and self.path in _file_formats() or Path(self.path).is_dir()


def first_rows(node: Any, tokenizer: Any, cache: Path) -> FirstRows:
    """The first rows of the dataset that `node` of a torchtune config describes; `node` is changed.

    Args:
        cache: an empty folder, to be kept for as long as the rows are used.

    Raises:
        NotHereError: it would have to be fetched.
        Exception: whatever the component raises.
    """
    component = _component(node)
    parameters = inspect.signature(component).parameters
    if node.get("packed"):
        node.packed = False  # packing tokenizes the whole dataset
    source = _source(node, parameters)
    if source is None:
        return _as_it_is(node, tokenizer)
    if source.is_remote and offline.is_offline():
        raise NotHereError(next(text for text in [source.path, *source.files] if "://" in text))
    if source.is_local:
        return _of_files(node, tokenizer, source, set(parameters), cache)
    return _of_hub(node, tokenizer, source)


def _component(node: Any) -> Any:
    from torchtune.config._utils import _get_component_from_path

    return _get_component_from_path(node["_component_"])


def _source(node: Any, parameters: Mapping[str, inspect.Parameter]) -> _Source | None:
    """None for a component that does not hand its arguments on to load_dataset as torchtune's do."""
    from omegaconf import OmegaConf

    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not passes_on or not {"source", "split"} <= parameters.keys():
        return None
    given: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    default = {name: parameters[name].default for name in ("source", "split")}
    path, text = given.get("source", default["source"]), str(given.get("split", default["split"]))
    others = {name: value for name, value in given.items() if name not in parameters and name != "_component_"}
    parts = _SLICE.fullmatch(text)
    if parts is None or (parts["percent"] and parts["start"]):
        return _Source({"path": path, **others}, text, None, 0, None)
    stop = int(parts["stop"]) if parts["stop"] and not parts["percent"] else None
    return _Source({"path": path, **others}, text, parts["split"], int(parts["start"] or 0), stop)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value or ()
    return [text for each in values for text in _texts(each)]


def _file_formats() -> set[str]:
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return set(_PACKAGED_DATASETS_MODULES)


def _as_it_is(node: Any, tokenizer: Any) -> FirstRows:
    dataset = _instantiate(node, tokenizer)
    return FirstRows(dataset, 1, len(dataset))


def _of_files(node: Any, tokenizer: Any, source: _Source, parameters: set[str], cache: Path) -> FirstRows:
    """The first rows go into a file of their own, and the component reads that."""
    from omegaconf import OmegaConf

    rows = dataset_rows({"dataset": OmegaConf.to_container(node, resolve=True)})
    file = cache / "first_rows.parquet"
    _read(source, cache).to_parquet(file)
    for name in [name for name in node if name not in parameters and name != "_component_"]:
        node.pop(name)  # they were for reading the files
    node.source, node.split = "parquet", "train"
    node.data_files, node.cache_dir = escape(str(file)), escape(str(cache))
    return FirstRows(_instantiate(node, tokenizer), source.start + 1, rows)


def _read(source: _Source, cache: Path) -> Any:
    from datasets import Dataset, load_dataset

    arguments = {**source.arguments, "cache_dir": str(cache)}
    if source.split is None:  # such a split can be cut only from the whole
        whole = load_dataset(split=source.text, **arguments)
        return whole.select(range(min(ROWS, len(whole))))
    rows = load_dataset(split=source.split, streaming=True, **arguments)
    wanted = ROWS if source.stop is None else max(0, min(ROWS, source.stop - source.start))
    first = list(rows.skip(source.start).take(wanted))
    if not first:
        raise ValueError(f"{source.text} of {', '.join(source.files) or source.path} has no rows")
    return Dataset.from_list(first, features=rows.features)


def _sliced(rows: int, source: _Source) -> int:
    stop = rows if source.stop is None else min(rows, source.stop)
    return max(0, stop - source.start)


def _of_hub(node: Any, tokenizer: Any, source: _Source) -> FirstRows:
    if source.split is not None and source.text == source.split:
        node.split = f"{source.split}[:{ROWS}]"
    try:
        dataset = _instantiate(node, tokenizer)
    except Exception as error:
        if offline.is_missing(error):
            raise NotHereError(source.path) from error
        raise
    splits = getattr(getattr(getattr(dataset, "_data", None), "info", None), "splits", None) or {}
    counted = source.split is not None and source.split in splits and "%" not in source.text
    rows = _sliced(splits[source.split].num_examples, source) if counted else None
    return FirstRows(dataset, source.start + 1, rows)


def _instantiate(node: Any, tokenizer: Any) -> Any:
    from torchtune import config

    return config.instantiate(node, tokenizer)
