"""YAML text to plain values, and from a key's path back to its line.

Reads YAML 1.2 (so `3e-4` is a float and `on` a text), refuses duplicate keys,
tags and cycles, and never builds any object but the plain ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cruijff_kit import yaml_nodes
from cruijff_kit.errors import ExperimentError, Problem

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_KEYS = 1_000  # of one mapping
MAX_TEXT = 100_000  # characters of one text
MAX_INTERPOLATED = 20_000  # characters of all texts with `${`: OmegaConf reads thirty of them in a millisecond


@dataclass(frozen=True)
class YamlSource:
    """The values of a YAML file, and the line (from 1) of each key and list entry.

    Args:
        problems: what is in the file and cannot be a value of `data`, or is there twice.
        origins: where each value stands in the file; empty if everything is where it was.
        whole: the data of the file, where `data` lacks a part of it.
    """

    file: str
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(repr=False)
    problems: tuple[Problem, ...] = ()
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
    try:
        root = yaml_nodes.compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (column {mark.column + 1})" if mark else ""
        what = f"invalid YAML: {error.problem or error.context}{where}"
        raise ExperimentError([Problem(file, what, line=mark.line + 1 if mark else None)]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ExperimentError([Problem(file, f"invalid YAML: {str(error).splitlines()[0]}")]) from None
    except yaml_nodes.Refused as error:
        raise ExperimentError([Problem(file, error.what, line=error.line, fix=error.fix)]) from None
    if not isinstance(root, MappingNode):
        raise ExperimentError([Problem(file, "expected a mapping of keys to values", line=1)])
    plain = _Plain(file)
    data = plain.convert(root, ())
    return YamlSource(file, data, plain.lines, tuple(plain.problems))


class _Plain:
    """Turns nodes into plain values, and remembers the lines."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._nodes = 0
        self._interpolated = 0

    def convert(self, node: Node, path: KeyPath) -> Any:
        self._count(path)
        if tag := yaml_nodes.foreign_tag(node):
            return self._fault(path, f"the YAML tag {tag} is not supported")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return self._list(node, path)
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        plain = {}
        for name, (line, item) in self._items(node, path).items():
            self.lines[*path, name] = line
            plain[name] = self.convert(item, (*path, name))
        return plain

    def _items(self, node: MappingNode, path: KeyPath) -> dict[str, tuple[int, Node]]:
        """The line and value of each key: those of merged mappings first, at the line of the mapping that they are merged into."""
        own: dict[str, tuple[int, Node]] = {}
        merged: dict[str, tuple[int, Node]] = {}
        for key, item in node.value:
            if key.tag == yaml_nodes.MERGE:
                for name, (_, value) in self._merged(item, (*path, "<<")):
                    merged.setdefault(name, (self.lines.get(path, 1), value))
                continue
            name, line = self._key(key, path), yaml_nodes.line(key)
            if name in own:
                self._fault((*path, name), f"the key '{name}' is there twice, the first time in line {own[name][0]}", line=line)
            own.setdefault(name, (line, item))
        if len(own) + len(merged) > MAX_KEYS:
            self._stop(path, f"a mapping of more than {MAX_KEYS:,} keys")
        return {**{name: item for name, item in merged.items() if name not in own}, **own}

    def _merged(self, node: Node, path: KeyPath) -> Iterator[tuple[str, tuple[int, Node]]]:
        for each in node.value if isinstance(node, SequenceNode) else [node]:
            self._count(path)
            if isinstance(each, MappingNode):
                yield from self._items(each, path).items()
            else:
                self._fault(path, "a merge key takes a mapping, or a list of them", line=yaml_nodes.line(each))

    def _key(self, node: Node, path: KeyPath) -> str:
        if isinstance(node, ScalarNode) and node.tag == yaml_nodes.TEXT:
            return node.value
        name = node.value if isinstance(node, ScalarNode) else "?"
        what, fix = ("a mapping or a list is no key", None) if name == "?" else (f"the key {name} is no text", f"write it in quotes: '{name}'")
        self._fault((*path, name), what, fix, line=yaml_nodes.line(node))
        return name

    def _list(self, node: SequenceNode, path: KeyPath) -> list[Any]:
        plain = []
        for index, item in enumerate(node.value):
            self.lines[*path, index] = yaml_nodes.line(item)
            plain.append(self.convert(item, (*path, index)))
        return plain

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        value = yaml_nodes.scalar(node)
        if isinstance(value, float) and not math.isfinite(value):
            self._fault(path, f"{value} is no finite number")
        if isinstance(value, int) and abs(value) >= 2**64:
            self._fault(path, "a whole number of more than 64 bits")
            return 0
        if isinstance(value, str):
            self._interpolated += len(value) if "${" in value else 0
            if len(value) > MAX_TEXT or self._interpolated > MAX_INTERPOLATED:
                self._stop(path, f"more than {MAX_TEXT:,} characters" if len(value) > MAX_TEXT else "too many or too long interpolations")
        return value

    def _count(self, path: KeyPath) -> None:
        self._nodes += 1  # aliases are counted wherever they stand: a few of them make a small file huge
        if self._nodes > yaml_nodes.MAX_NODES or len(path) > yaml_nodes.MAX_DEPTH:
            self._stop(path, yaml_nodes.TOO_LARGE)

    def _stop(self, path: KeyPath, what: str) -> NoReturn:
        raise ExperimentError([*self.problems, Problem(self.file, what, format_key(path), self.lines.get(path))])

    def _fault(self, path: KeyPath, what: str, fix: str | None = None, line: int | None = None) -> None:
        self.problems.append(Problem(self.file, what, format_key(path), line or self.lines.get(path), fix, path=path))
