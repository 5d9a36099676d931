"""Rows of data by their shape: the columns of a row, and the kind of value in each.

Whatever is asked of a file's rows is asked of its few shapes, so that a file is read once. What a dataset
component wants of them is known to dataset_columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

TEXT, NULL, NUMBER, BOOL, MAPPING, LIST, DATE = "text", "null", "a number", "true or false", "a mapping", "a list", "a date"
PARTS = "parts of text"  # a list of {"type": "text", "text": …}
UNKNOWN = "what was not looked into"
KINDS = {str: TEXT, type(None): NULL, int: NUMBER, float: NUMBER, bool: BOOL, dict: MAPPING, list: LIST}


# pyarrow reads a JSON column of nothing else as timestamps
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")


class Message(NamedTuple):
    """The shape of one message: its author in either style, and the kind of what it says."""

    sender: str | None
    value: str
    role: str | None
    content: str


@dataclass(frozen=True)
class Shape:
    """Rows alike: the kind of value by column; for a list of mappings, a tuple with a Message for each.

    Args:
        row: number of the first one, from 1; None where that is not known.
        line: where that one starts in the file, if lines mean anything in it.
    """

    kinds: Mapping[str, Any]
    count: int
    row: int | None = None
    line: int | None = None


@dataclass(frozen=True)
class Summary:
    """A whole file.

    Args:
        late: a column that the first batch lacks, with the row and line where it first stands; datasets fails on it.
        fills: datasets gives later files the columns that they lack and this one has.
    """

    rows: int
    columns: tuple[str, ...]
    shapes: tuple[Shape, ...]
    late: tuple[str, int, int] | None = None
    fills: bool = False


class Tally:
    """Counts rows by shape, and notes which text columns datasets would not read as text."""

    def __init__(self) -> None:
        self.rows = 0
        self.columns: dict[str, None] = {}
        self.late: tuple[str, int, int] | None = None
        self._first_batch = True
        self._seen: dict[Any, list[Any]] = {}
        self._dates: set[str] = set()
        self._judged: set[str] = set()

    def add(self, rows: Iterable[tuple[Mapping[str, Any], int | None]], lines: Lines | None = None) -> None:
        """Adds rows with the offset of each in the text of `lines`."""
        seen, number = self._seen, self.rows
        for row, offset in rows:
            number += 1
            kinds = tuple(map(type, row.values()))
            if list in kinds:
                kinds = tuple(_list(value) if type(value) is list else type(value) for value in row.values())
            entry = seen.get((*row, kinds))
            if entry is None:
                entry = seen[*row, kinds] = [0, row, number, lines and lines.at(offset), kinds]
                self._meet(entry)
            entry[0] += 1
            if self._dates:
                self._dates = {name for name in self._dates if row.get(name) is None or _is_timestamp(row[name])}
        self.rows = number

    def end_batch(self) -> None:
        self._first_batch = False

    def _meet(self, entry: list[Any]) -> None:
        """Notes what the first row of a new shape brings."""
        _, row, number, line, _ = entry
        for name, value in row.items():
            if self._first_batch and name not in self._judged and value is not None:
                self._judged.add(name)
                if _is_timestamp(value):
                    self._dates.add(name)
            if not self._first_batch and name not in self.columns and self.late is None:
                self.late = (name, number, line)
            self.columns.setdefault(name)
        entry[1] = tuple(row)

    def summary(self, typed: Mapping[str, str] | None = None, fills: bool = False) -> Summary:
        """The whole; `typed` gives columns of text that will be read as another kind."""
        typed = typed if typed is not None else dict.fromkeys(self._dates, DATE)
        shapes = []
        for count, names, row, line, kinds in self._seen.values():
            named = {name: _kind(kind) for name, kind in zip(names, kinds)}
            for name in typed.keys() & named.keys():
                named[name] = typed[name] if named[name] == TEXT else named[name]
            shapes.append(Shape(named, count, row, line))
        return Summary(self.rows, tuple(self.columns), tuple(shapes), self.late, fills)


class Lines:
    """Line numbers of offsets that only grow."""

    def __init__(self, text: str, first: int = 1) -> None:
        self._text, self._offset, self.line = text, 0, first

    def at(self, offset: int) -> int:
        self.line += self._text.count("\n", self._offset, offset)
        self._offset = offset
        return self.line


def _list(value: list[Any]) -> Any:
    if value and type(value[0]) is not dict:
        return LIST
    return tuple([_message(item) if type(item) is dict else type(item) for item in value])


def _message(item: Mapping[str, Any]) -> tuple[Any, ...]:
    """A Message in the making: a text where there is one, and else its type; this is done for every message."""
    sender, role, content = item.get("from"), item.get("role"), item.get("content")
    said = PARTS if type(content) is list and _is_text_parts(content) else type(content)
    return (sender if type(sender) is str else type(sender), type(item.get("value")), role if type(role) is str else type(role), said)


def _is_text_parts(content: list[Any]) -> bool:
    return bool(content) and all(type(part) is dict and part.get("type") == "text" and type(part.get("text")) is str for part in content)


def _kind(kind: Any) -> Any:
    """The kind that a type, or a list of messages in the making, stands for."""
    if type(kind) is not tuple:
        return KINDS.get(kind, kind)
    return tuple(Message(_author(item[0]), KINDS[item[1]], _author(item[2]), KINDS.get(item[3], item[3])) if type(item) is tuple else KINDS[item] for item in kind)


def _author(value: Any) -> str | None:
    return value[:40] if type(value) is str else None if value is type(None) else KINDS[value]


def _is_timestamp(value: Any) -> bool:
    if type(value) is not str or not TIMESTAMP.fullmatch(value):
        return False
    try:
        date.fromisoformat(value[:10])
    except ValueError:
        return False
    return True
