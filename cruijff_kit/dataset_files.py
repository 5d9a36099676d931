"""Which files `datasets` would read for a dataset node, by split, and what a `split` takes of them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cruijff_kit.config_tree import unescape

MAGIC = re.compile(r"[*?[]")
INTERPOLATION = re.compile(r"(?<!\\)(\\\\)*\$\{")
# datasets/arrow_reader.py, _SUB_SPEC_RE and _ADDITION_SEP_RE
PLUS = re.compile(r"\s*\+\s*")
PART = re.compile(
    r"(?P<split>\w+(?:\.\w+)*)"
    r"(?:\[(?P<start>-?[\d_]+)?(?P<start_pct>(?<=\d)%)?:(?P<stop>-?[\d_]+)?(?P<stop_pct>(?<=\d)%)?\])?"
    r"(?:\((?P<rounding>closest|pct1_dropremainder)\))?"
)


class SplitFault(ValueError):
    """Why datasets would fail on a `split`."""


def paths_by_split(data_files: Any) -> dict[str, list[str]]:
    """The paths and patterns of `data_files`, as they are written, by split.

    Raises:
        ValueError: it is nothing that datasets takes.
    """
    splits = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    found = {}
    for split, value in splits.items():
        paths = value if isinstance(value, list) else [value]
        if not paths or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"data_files: expected a path, a list of paths, or either by split, got {data_files!r}")
        found[str(split)] = [unescape(path) if not INTERPOLATION.search(path) else path for path in paths]
    if not found:
        raise ValueError("data_files: expected a path, a list of paths, or either by split, got nothing")
    return found


def is_local(path: str) -> bool:
    """Whether this is a path here; a URL is not, and neither is one that torchtune is yet to resolve."""
    return "://" not in path and not INTERPOLATION.search(path)


def matches(path: str) -> list[Path]:
    """The files that a path or pattern names; none if it names nothing."""
    if not MAGIC.search(path):
        return [Path(path)] if os.path.isfile(path) else []
    return [Path(file) for file in sorted(glob.glob(path, recursive=True)) if os.path.isfile(file)]


def is_taken_for_a_pattern(path: str) -> bool:
    """Whether a file of just this name is there, and is not among those that the name matches."""
    return MAGIC.search(path) is not None and os.path.isfile(path) and Path(path) not in matches(path)


def ranges_taken(split: Any, rows: Mapping[str, int | None]) -> list[tuple[str, range | None]]:
    """What `split` takes of each split that it names: rows from 0, or None where there is an unknown number of them.

    Raises:
        SplitFault: datasets would fail on it.
    """
    if not isinstance(split, str):
        raise SplitFault(f"expected the name of a split, got {split!r}")
    if split == "all" and "all" not in rows:
        return [(name, None if total is None else range(total)) for name, total in rows.items()]
    return [_part(text, split, rows) for text in PLUS.split(split)]


def rows_taken(split: Any, rows: Mapping[str, int | None]) -> int | None:
    """How many rows that are; None where they are not known."""
    ranges = [taken for _, taken in ranges_taken(split, rows)]
    return None if None in ranges else sum(len(taken) for taken in ranges)


def _part(text: str, split: str, rows: Mapping[str, int | None]) -> tuple[str, range | None]:
    """The rows of one name, with or without a slice."""
    match = PART.fullmatch(text)
    if match is None:
        raise SplitFault(f"split {split!r} is none: it is written like train, train[:100] or train[:50%]")
    if match["split"] not in rows:
        raise SplitFault(f"there is no split '{match['split']}': datasets calls these files {', '.join(rows)}")
    percent, total = bool(match["start_pct"] or match["stop_pct"]), rows[match["split"]]
    bounds = [int(match[name]) if match[name] else None for name in ("start", "stop")]
    if percent and any(bound is not None and abs(bound) > 100 for bound in bounds):
        raise SplitFault(f"split {split!r}: a percentage is at most 100")
    if match["rounding"] and not percent:
        raise SplitFault(f"split {split!r}: {match['rounding']} rounds percentages, and there are none")
    if total is None:
        return match["split"], None
    drops = match["rounding"] == "pct1_dropremainder"
    if drops and total < 100:
        raise SplitFault(f"split {split!r}: pct1_dropremainder needs 100 rows, and there are {total}")
    if percent:
        bounds = [bound if bound is None else bound * (total // 100) if drops else round(bound * total / 100) for bound in bounds]
    return match["split"], range(*slice(*bounds).indices(total))
