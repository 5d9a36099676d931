"""Local data files: how many rows they have, and whether those are what a dataset component reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

# The columns of torchtune's text datasets, by the name that column_map gives to each.
COLUMNS = {
    "torchtune.datasets.instruct_dataset": ("input", "output"),
    "torchtune.datasets.alpaca_dataset": ("instruction", "output"),
    "torchtune.datasets.alpaca_cleaned_dataset": ("instruction", "output"),
}


@cache
def count_rows(path: Path) -> int | None:
    """The rows of a data file; None where counting needs more than a look (parquet).

    Raises:
        OSError, ValueError: it cannot be read; the text says where.
    """
    if path.suffix.lower() == ".parquet":
        _check_parquet(path)
        return None
    return sum(1 for _ in rows(path))


@cache
def columns(path: Path) -> frozenset[str] | None:
    """The columns of the first row; None if there is none, or it takes more than a look."""
    if path.suffix.lower() == ".parquet":
        return None
    first = next(rows(path), None)
    return None if first is None else frozenset(first)


def missing_columns(dataset: Mapping[str, Any], there: frozenset[str]) -> list[str]:
    """The columns that the dataset component reads and the file lacks; none for a component that is not known."""
    column_map = dataset.get("column_map") or {}
    wanted = [column_map.get(name, name) for name in COLUMNS.get(str(dataset.get("_component_")), ())]
    conversation = dataset.get("conversation_column")
    return [name for name in [*wanted, *([conversation] if conversation else [])] if name not in there]


def rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a .json, .jsonl or .csv file."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is no file")  # a device is read for ever
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json" and text.lstrip()[:1] == "[":
        for number, row in enumerate(json.loads(text), 1):
            yield _checked(row, f"row {number}")
        return
    # not splitlines: U+2028 within a text ends no line of JSON
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _checked(_parsed(line, number), f"line {number}")


def _parsed(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None


def _checked(row: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: expected a mapping of columns to values, got {type(row).__name__}")
    return row


def _check_parquet(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise ValueError("no parquet file: it does not start with PAR1")
