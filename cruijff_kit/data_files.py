"""What a local data file holds, read as `datasets` would read it, and read once as long as it stays as it is.

Nothing here imports `datasets`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from cruijff_kit import csv_files, json_files, parquet_files
from cruijff_kit.file_text import Reading
from cruijff_kit.row_shapes import Summary

COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # datasets unpacks them


def summary(path: Path, reading: Reading) -> Summary | None:
    """What `path` holds; None where that takes more than a look (a compressed file, no pyarrow).

    Raises:
        OSError, ValueError: it cannot be read; the text says where.
    """
    stat = os.stat(path)
    return _summary(path, reading, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _summary(path: Path, reading: Reading, _size: int, _changed: int) -> Summary | None:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(COMPRESSED):
        return None
    if reading.source == "parquet":
        return parquet_files.read(path)
    return (csv_files if reading.source == "csv" else json_files).read(path, reading)
