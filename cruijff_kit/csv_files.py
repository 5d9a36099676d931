"""A CSV file as pandas reads it for `datasets`: which cells are no text, and what it fails on."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from cruijff_kit.file_text import Reading, text_of
from cruijff_kit.row_shapes import BOOL, NUMBER, Summary, Tally

# pandas._libs.parsers.STR_NA_VALUES
NULLS = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)  # fmt: skip
CHUNK = 10_000  # rows that datasets reads at once; the first chunk decides on the kind of a column
FLOAT = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(inf|infinity)\s*", re.IGNORECASE)
BOOLS = ("True", "TRUE", "true", "False", "FALSE", "false")
END = "\x1eend\x1e"  # a line of our own, to see whether a quote is open at the end


def read(path: Path, reading: Reading) -> Summary:
    """What the file holds.

    Raises:
        OSError, ValueError: it cannot be read; the text says where.
    """
    csv.field_size_limit(sys.maxsize)
    text = text_of(path.read_bytes(), reading).replace("\r\n", "\n").replace("\r", "\n")
    lines = _lines(text, reading.separator)
    _, header = next(lines, (0, None))
    if header is None:
        raise ValueError("it is empty: the first line names the columns")
    names, kinds = _names(header), [_Kind() for _ in header]
    nulls = NULLS if reading.null_words else frozenset()
    tally = Tally()
    tally.columns.update(dict.fromkeys(names))
    tally.add(_rows(lines, names, kinds, nulls), _AsIs)
    return tally.summary({name: kind.name for name, kind in zip(names, kinds) if kind.name})


def _rows(lines: Iterator[tuple[int, list[str]]], names: list[str], kinds: list[_Kind], nulls: frozenset[str]) -> Iterator[tuple[dict[str, str | None], int]]:
    """Each row and its line; `kinds` learn from the first chunk."""
    width = len(names)
    for number, (line, cells) in enumerate(lines, 1):
        if len(cells) != width:
            if len(cells) > width:
                raise ValueError(f"row {number} (line {line}) has {len(cells)} cells, and the header has {width}: quote what holds a comma")
            cells += [""] * (width - len(cells))
        values = [None if cell in nulls else cell for cell in cells]
        if number <= CHUNK:
            for kind, value in zip(kinds, values):
                kind.meet(value)
        yield dict(zip(names, values)), line


class _AsIs:
    """In place of row_shapes.Lines: what is given is the line."""

    @staticmethod
    def at(line: int) -> int:
        return line


class _Kind:
    """What pandas makes of a column: numbers or truth values where it holds nothing else."""

    def __init__(self) -> None:
        self._numbers = self._bools = True
        self._met = False

    def meet(self, value: str | None) -> None:
        if value is not None and (self._numbers or self._bools):
            self._met = True
            self._numbers = self._numbers and FLOAT.fullmatch(value) is not None
            self._bools = self._bools and value in BOOLS

    @property
    def name(self) -> str | None:
        return None if not self._met else NUMBER if self._numbers else BOOL if self._bools else None


def _lines(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line that it starts at."""
    feed = [*text.removesuffix("\n").split("\n"), END]
    reader = csv.reader((f"{line}\n" for line in feed), delimiter=separator)
    line = 1
    try:
        for cells in reader:
            if reader.line_num == len(feed):
                if cells != [END]:
                    raise ValueError(f"line {line}: a quote is opened and never closed")
                return
            if len(cells) > 1 or (cells and (cells[0].strip() or feed[line - 1].strip())):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: {error}") from None


def _names(header: list[str]) -> list[str]:
    """Column names: pandas numbers those that stand twice and names those that are empty."""
    names: list[str] = []
    for index, name in enumerate(header):
        name, count = name or f"Unnamed: {index}", 0
        unique = name
        while unique in names or (count and unique in header):
            count += 1
            unique = f"{name}.{count}"
        names.append(unique)
    return names
