"""YAML text to a tree of nodes with their lines, as YAML 1.2 takes it: `3e-4` is a float and `on` a text.

libyaml parses, twenty times as fast as a parser in Python; PyYAML's composer makes the tree. What could
keep it busy for minutes is refused while it is read: too many values, too deep a nesting, a value within itself.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import Composer, ComposerError
from yaml.events import AliasEvent
from yaml.nodes import Node, ScalarNode

MAX_NODES = 50_000  # 4,000 entries of five paired values are 44,000
MAX_DEPTH = 50
MAX_DIGITS = 100  # Python refuses to read 4,300

TAG = "tag:yaml.org,2002:"
MERGE, TEXT = f"{TAG}merge", f"{TAG}str"

# https://yaml.org/spec/1.2.2/#103-core-schema, and `_` between digits. By the letters that each may start with.
_KINDS = {
    "null": ("~nN", r"~|null|Null|NULL|"),
    "bool": ("tTfF", r"true|True|TRUE|false|False|FALSE"),
    "int": ("-+0123456789", r"[-+]?(0b[01][01_]*|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)"),
    "float": (
        "-+.0123456789",
        r"[-+]?(([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
    ),
    "merge": ("<", r"<<"),
}
_BASES = {"0b": 2, "0o": 8, "0x": 16}
_PLAIN = {TAG + kind for kind in (*_KINDS, "str", "seq", "map")}


TOO_LARGE = "too many or too deeply nested values"


class Refused(Exception):
    """Valid YAML that is not read: too large, or with a directive.

    Args:
        line: from 1.
    """

    def __init__(self, what: str, line: int, fix: str | None = None) -> None:
        super().__init__(what)
        self.what, self.line, self.fix = what, line, fix


def compose(text: str) -> Node | None:
    """The tree of the one document in `text`; None if there is nothing in it.

    Raises:
        yaml.YAMLError: it is no YAML, has more than one document, or an alias within its own anchor.
        ValueError: it holds half of a surrogate pair.
        Refused: it is larger than anyone writes, or has a `%YAML` or `%TAG` line.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def scalar(node: ScalarNode) -> Any:
    """The plain value of a scalar; of a whole number that no file has a use for, only the first digits."""
    text, digits = node.value, node.value.replace("_", "")
    match node.tag.removeprefix(TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            digits = digits.lstrip("+-")
            number = int(digits[2:], _BASES[digits[:2]]) if digits[:2] in _BASES else int(digits[:MAX_DIGITS])
            return -number if text.startswith("-") else number
        case "float":
            return float(digits.replace(".", "") if digits[-1] in "fFnN" else digits)  # `.inf`, which Python writes without the dot
    return text


def line(node: Node) -> int:
    return node.start_mark.line + 1


def foreign_tag(node: Node) -> str | None:
    """The tag that is written at `node`: every one asks for something that is no plain value."""
    return None if node.tag in _PLAIN else node.tag.replace(TAG, "!!")


_PARSER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Limited(Composer):
    """A composer that does not go on with what it must not."""

    def __init__(self, text: str) -> None:
        _PARSER.__init__(self, text)
        Composer.__init__(self)
        self._nodes = 0
        self._open: list[str | None] = []

    def compose_document(self) -> Node:
        start = self.peek_event()
        if start.version or start.tags:
            raise Refused("a YAML directive is not supported: this is YAML 1.2", start.start_mark.line + 1, "remove the line")
        return super().compose_document()

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        event = self.peek_event()
        if isinstance(event, AliasEvent) and event.anchor in self._open:
            raise ComposerError(None, None, f"an alias that contains itself: *{event.anchor}", event.start_mark)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(self._open) > MAX_DEPTH:
            raise Refused(TOO_LARGE, event.start_mark.line + 1)
        self._open.append(event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        if getattr(event, "tag", None) not in (None, "!"):
            node.tag = event.tag if event.tag not in _PLAIN else event.tag.replace(TAG, "!!")
        return node


class _Loader(_Limited, _PARSER):
    yaml_implicit_resolvers = {
        letter: [(TAG + kind, re.compile(rf"(?:{pattern})\Z")) for kind, (letters, pattern) in _KINDS.items() if letter in letters]
        for letter in "".join(letters for letters, _ in _KINDS.values())
    } | {"": [(TAG + "null", re.compile(""))]}
