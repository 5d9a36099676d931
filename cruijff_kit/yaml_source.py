"""YAML text to plain values, and from a key's path back to its line.

Reads YAML 1.2 (so `3e-4` is a float and `on` a string), refuses duplicate keys,
tags and cycles, and never builds any object but the plain ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cruijff_kit.errors import ExperimentError, Problem

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_NODES = 200_000  # aliases of aliases of aliases can make a small file huge


@dataclass(frozen=True)
class YamlSource:
    """The values of a YAML file, and the line (from 1) of each key and list entry.

    Args:
        origins: where each value stands in the file; empty if everything is where it was.
        whole: the data of the file, where `data` lacks a part of it.
    """

    file: str
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(repr=False)
    origins: Mapping[KeyPath, KeyPath] = field(default_factory=dict, repr=False)
    whole: Mapping[str, Any] | None = field(default=None, repr=False)

    def line(self, path: KeyPath) -> int | None:
        """The line of a path in the file, or of its nearest parent that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: KeyPath, what: str, fix: str | None = None, level: str = "error") -> Problem:
        path = self.origin(path)
        return Problem(self.file, what, format_key(path), self.line(path), fix, level, path)

    def origin(self, path: KeyPath) -> KeyPath:
        """Where what stands at `path` in the data stands in the file."""
        for length in range(len(path), 0, -1) if self.origins else ():
            if path[:length] in self.origins:
                return (*self.origins[path[:length]], *path[length:])
        return path

    def without(self, paths: Iterable[KeyPath]) -> YamlSource:
        """The same less what stands at `paths` in the file; what is left is still known by its place there."""
        drop, origins = set(paths), {}

        def kept(node: Any, here: KeyPath, place: KeyPath) -> Any:
            origins[place] = self.origin(here)
            if isinstance(node, dict):
                return {key: kept(node[key], (*here, key), (*place, key)) for key in node if self.origin((*here, key)) not in drop}
            if isinstance(node, list):
                left = [index for index in range(len(node)) if self.origin((*here, index)) not in drop]
                return [kept(node[index], (*here, index), (*place, new)) for new, index in enumerate(left)]
            return node

        return replace(self, data=kept(self.data, (), ()), origins=origins, whole=self.whole or self.data)

    def with_value(self, path: KeyPath, value: Any) -> YamlSource:
        """The same with `value` at `path` of the data, in a mapping that is there."""
        data = copy.deepcopy(self.data)
        node: Any = data
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
        return replace(self, data=data)


def format_key(path: KeyPath) -> str:
    """`variables.adapter[1].lora_rank`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path to each value below `node` that is no mapping, and the value."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif path:
        yield path, node


def read_yaml(path: Path) -> YamlSource:
    """The mapping in `path`.

    Raises:
        ExperimentError: the file is missing, too large, not UTF-8, not YAML, or not a mapping.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ExperimentError([Problem(path.name, f"{size:,} bytes: an experiment has at most {MAX_BYTES:,}")])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        fix = f"write one there, or name the folder that holds it: {path.parent}"
        raise ExperimentError([Problem(path.name, "no such file", fix=fix)]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError([Problem(path.name, f"cannot be read: {error}")]) from None
    return parse_yaml(text, path.name)


def parse_yaml(text: str, file: str) -> YamlSource:
    """The mapping that `text` holds; `file` is the name used in messages."""
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        _refuse_directives_and_cycles(text, file)
        document = _loader().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (column {mark.column + 1})" if mark else ""
        what = f"invalid YAML: {error.problem or error.context}{where}"
        raise ExperimentError([Problem(file, what, line=mark.line + 1 if mark else None)]) from None
    except (YAMLError, ValueError, RecursionError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ExperimentError([Problem(file, f"invalid YAML: {first[0]}")]) from None
    if not isinstance(document, Mapping):
        raise ExperimentError([Problem(file, "expected a mapping of keys to values", line=1)])
    plain = _Plain(file)
    data = plain.convert(document, ())
    if plain.problems:
        raise ExperimentError(plain.problems)
    return YamlSource(file, data, plain.lines)


def _loader() -> Any:
    """ruamel's loader that keeps lines, with dates as the text that they are."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import RoundTripConstructor

    class Constructor(RoundTripConstructor):
        pass

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", RoundTripConstructor.construct_yaml_str)
    loader = YAML(typ="rt")
    loader.Constructor = Constructor
    return loader


def _refuse_directives_and_cycles(text: str, file: str) -> None:
    """A `%YAML 1.1`, where yes is true, and an alias inside its own anchor, read as null or for ever."""
    from ruamel.yaml import YAML
    from ruamel.yaml.events import (
        AliasEvent,
        CollectionEndEvent,
        CollectionStartEvent,
        DocumentStartEvent,
    )

    open_anchors: list[str | None] = []
    for event in YAML(typ="rt").parse(text):
        if isinstance(event, DocumentStartEvent) and (event.version or event.tags):
            what, fix = "a YAML directive is not supported: this is YAML 1.2", "remove the line"
            directive = text.rfind("\n%", 0, event.start_mark.index) + 1  # the mark is of the `---` below it
            raise ExperimentError([Problem(file, what, line=text.count("\n", 0, directive) + 1, fix=fix)])
        if isinstance(event, CollectionStartEvent):
            open_anchors.append(event.anchor)
        elif isinstance(event, CollectionEndEvent):
            open_anchors.pop()
        elif isinstance(event, AliasEvent) and event.anchor in open_anchors:
            what = f"an alias that contains itself: *{event.anchor}"
            raise ExperimentError([Problem(file, what, line=event.start_mark.line + 1)])


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


class _Plain:
    """Turns ruamel's round-trip values into plain ones, and remembers the lines."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._nodes = 0

    def convert(self, value: Any, path: KeyPath) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > 50:
            raise ExperimentError([Problem(self.file, "too many or too deeply nested values", format_key(path))])
        if isinstance(value, (Mapping, list)):
            if value.tag.value is not None:
                return self._unsupported(value, path)
            return self._mapping(value, path) if isinstance(value, Mapping) else self._list(value, path)
        return self._scalar(value, path)

    def _mapping(self, value: Any, path: KeyPath) -> dict[str, Any]:
        plain = {}
        for key, item in value.items():
            here = (*path, str(key))
            self.lines[here] = value.lc.key(key)[0] + 1 if key in (value.lc.data or {}) else self.lines.get(path, 1)
            if not isinstance(key, str):
                self._fault(here, f"the key {key!r} is no text", f"write it in quotes: '{key}'")
            plain[str(key)] = self.convert(item, here)
        return plain

    def _list(self, value: Any, path: KeyPath) -> list[Any]:
        plain = []
        for index, item in enumerate(value):
            here = (*path, index)
            self.lines[here] = value.lc.item(index)[0] + 1 if index in (value.lc.data or {}) else self.lines.get(path, 1)
            plain.append(self.convert(item, here))
        return plain

    def _scalar(self, value: Any, path: KeyPath) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if type(value).__name__ == "ScalarBoolean":  # one with an anchor; an int to isinstance
            return bool(value)
        if isinstance(value, float) and not math.isfinite(value):
            self._fault(path, f"{float(value)} is no finite number")
        if isinstance(value, str) and not _is_storable(value):
            self._fault(path, f"{value!r} is no text that a file can hold")
        for kind in (str, int, float):
            if isinstance(value, kind):
                return kind(value)
        return self._unsupported(value, path)

    def _unsupported(self, value: Any, path: KeyPath) -> None:
        self._fault(path, f"a YAML tag or a value of type {type(value).__name__} is not supported")

    def _fault(self, path: KeyPath, what: str, fix: str | None = None) -> None:
        line = self.lines.get(path)
        self.problems.append(Problem(self.file, what, format_key(path), line, fix))
