"""The scores of an experiment as data: CSV, JSON and Parquet. Numbers are not rounded."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from cruijff_kit import atomic
from cruijff_kit.replicates import Mean
from cruijff_kit.results import Score
from cruijff_kit.results_table import parameter_names


def records(rows: Sequence[Score] | Sequence[Mean]) -> list[dict[str, Any]]:
    """One for each row; the parameters stand after `run`, each in a column of its own, None where a run has no such parameter."""
    names = parameter_names(rows)
    return [_record(row, names) for row in rows]


def _record(row: Score | Mean, names: Iterable[str]) -> dict[str, Any]:
    rest = {field.name: getattr(row, field.name) for field in fields(row) if field.name not in ("run", "params")}
    return {"run": row.run, **{name: row.params.get(name) for name in names}, **rest}


def write_csv(rows: Sequence[Mapping[str, Any]], file: IO[str]) -> None:
    """Empty cells where there is nothing; lists and mappings as JSON."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0] if rows else [])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (bool, dict, list)) else value


def as_json(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """JSON knows neither nan nor infinity: null."""
    return [{name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()} for row in rows]


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A file that is there already is replaced, whole.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    table = pyarrow.table({name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())})
    content = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, content)
    atomic.write_bytes(path, content.getvalue().to_pybytes())


def _column(values: Sequence[Any]) -> Any:
    """Numbers as numbers, where all are; whatever else there is as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds == {bool}:
        return [float(value) if float in kinds and value is not None else value for value in values]
    return [value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str) for value in values]
