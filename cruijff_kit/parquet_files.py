"""A parquet file by its footer: rows, columns, and how many cells of a column are null; no cell is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cruijff_kit.row_shapes import BOOL, DATE, MAPPING, NULL, NUMBER, TEXT, UNKNOWN, Shape, Summary

if TYPE_CHECKING:
    import pyarrow


def read(path: Path) -> Summary | None:
    """What the file holds; None without pyarrow.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise ValueError("no parquet file: it does not start with PAR1")
    try:
        import pyarrow.parquet  # 0.25 s
    except ImportError:
        return None
    file = pyarrow.parquet.ParquetFile(path)
    rows, schema = file.metadata.num_rows, file.schema_arrow
    kinds = {field.name: _kind(field.type) for field in schema}
    unknown = dict.fromkeys(kinds, UNKNOWN)
    shapes = [Shape({**unknown, name: NULL}, count) for name, count in _nulls(file.metadata, kinds) if count]
    return Summary(rows, tuple(kinds), (Shape(kinds, rows), *shapes))


def _nulls(metadata: pyarrow.parquet.FileMetaData, names: dict[str, str]) -> list[tuple[str, int]]:
    """How many rows have null in a column that is not nested, where the file says it."""
    counts = dict.fromkeys(names, 0)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(metadata.num_columns):
            column = row_group.column(index)
            if column.path_in_schema in counts and column.statistics is not None:
                counts[column.path_in_schema] += column.statistics.null_count or 0
    return list(counts.items())


def _kind(type_: pyarrow.DataType) -> str:
    from pyarrow import types

    if types.is_dictionary(type_):
        return _kind(type_.value_type)
    tests = {
        TEXT: (types.is_string, types.is_large_string, types.is_string_view),
        NUMBER: (types.is_integer, types.is_floating, types.is_decimal),
        BOOL: (types.is_boolean,),
        NULL: (types.is_null,),
        DATE: (types.is_date, types.is_timestamp),
        MAPPING: (types.is_struct, types.is_map),
    }
    return next((kind for kind, those in tests.items() if any(test(type_) for test in those)), UNKNOWN)
