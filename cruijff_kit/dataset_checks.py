"""What is wrong with the local data of one composed config: files, splits, columns, rows, and how few there are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cruijff_kit import data_files, dataset_columns, dataset_files, training_steps
from cruijff_kit.errors import Fault
from cruijff_kit.file_text import Reading
from cruijff_kit.row_shapes import Summary

SOURCES = ("json", "csv", "parquet")
# Arguments of load_dataset after which a CSV file is another: it is counted by nobody here.
CSV_OPTIONS = ("names", "column_names", "header", "index_col", "usecols", "skiprows", "nrows", "skipfooter", "comment", "quotechar",
               "quoting", "escapechar", "doublequote", "thousands", "decimal", "lineterminator", "na_values", "on_bad_lines",
               "skipinitialspace", "skip_blank_lines", "true_values", "false_values", "features", "dialect", "engine", "encoding_errors")  # fmt: skip


def data_faults(config: Mapping[str, Any], recipe: str = "", gpus: int = 1) -> Iterator[Fault]:
    """What is wrong with the local data files of `config`, if it has any.

    Args:
        recipe: with what it trains; none is a single-device one.
        gpus: those of a training job.
    """
    nodes = _nodes(config)
    found = [_look_into(node) for node in nodes]
    faults = [fault for those, _ in found for fault in those]
    yield from faults
    rows = [count for _, count in found]
    counted = nodes and None not in rows and not any(node.get("packed") for node in nodes)
    if counted and not any(fault.level == "error" for fault in faults):
        yield from training_steps.step_faults(config, sum(rows), recipe, gpus)


def dataset_rows(config: Mapping[str, Any]) -> int | None:
    """How many rows the files have, before they are packed; None where that takes datasets (remote or compressed files)."""
    rows = [_look_into(node)[1] for node in _nodes(config)]
    return None if not rows or None in rows else sum(rows)


def _nodes(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    dataset = config.get("dataset")
    return [node for node in (dataset if isinstance(dataset, list) else [dataset]) if isinstance(node, Mapping)]


def _look_into(node: Mapping[str, Any]) -> tuple[list[Fault], int | None]:
    """The faults of one dataset, and the rows that it would have."""
    if node.get("source") not in SOURCES:
        return [], None
    try:
        paths = dataset_files.paths_by_split(node["data_files"]) if node.get("data_files") is not None else {}
    except ValueError as error:
        return [Fault("dataset.data_files", str(error))], None
    if not paths:
        return _folder_faults(node), None
    local = {path: dataset_files.matches(path) for those in paths.values() for path in those if dataset_files.is_local(path)}
    stats = [(str(file), os.stat(file).st_mtime_ns, os.stat(file).st_size) for files in local.values() for file in files]
    faults, rows = _looked_into(json.dumps(node, default=str), json.dumps(stats))
    return list(faults), rows


def _folder_faults(node: Mapping[str, Any]) -> list[Fault]:
    """Without data_files datasets takes what it finds in data_dir, or else wherever training is started."""
    folder = node.get("data_dir")
    if folder is None:
        return [Fault("dataset", f"source {node['source']} names no file: it needs data_files", "data_files: data/train.jsonl")]
    if isinstance(folder, str) and os.path.isabs(folder) and dataset_files.is_local(folder) and not os.path.isdir(folder):
        return [Fault("dataset.data_dir", f"data_dir not found: {folder}")]
    return []


@lru_cache(maxsize=1024)
def _looked_into(text: str, _stats: str) -> tuple[tuple[Fault, ...], int | None]:
    """Cached by all that it depends on: 4,000 points have few datasets."""
    node = json.loads(text)
    paths = dataset_files.paths_by_split(node["data_files"])
    faults = [*_path_faults(paths), *dataset_columns.argument_faults(node), *_option_faults(node)]
    try:
        dataset_files.ranges_taken(_split(node), dict.fromkeys(paths))
    except dataset_files.SplitFault as error:
        faults.append(Fault("dataset.split", str(error), _split_fix(paths)))
    if faults:
        return tuple(faults), None
    found, first = {}, None
    for split, those in paths.items():
        found[split], first = _read(node, those, faults, first)
    if faults:
        return tuple(faults), None
    counts = {split: _total(files) for split, files in found.items()}
    rows = _taken(node, counts, faults)
    if not faults:
        faults += _row_faults(node, found, dataset_files.ranges_taken(_split(node), counts))
    return tuple(faults), rows


def _path_faults(paths: Mapping[str, list[str]]) -> Iterator[Fault]:
    for path in dict.fromkeys(path for those in paths.values() for path in those if dataset_files.is_local(path)):
        if dataset_files.is_taken_for_a_pattern(path):
            yield Fault("dataset.data_files", f"{path} is taken for a pattern, which does not match it", "rename it: a name holds no *, ? or [")
        elif not dataset_files.matches(path):
            what = f"dataset is a folder: {path}" if os.path.isdir(path) else f"dataset not found: {path}"
            fix = f"name its files: {path}/*.jsonl" if os.path.isdir(path) else "paths start at the folder of experiment.yaml"
            yield Fault("dataset.data_files", what, fix)


def _split(node: Mapping[str, Any]) -> Any:
    """What torchtune gives to datasets: its builders say train, the class under them nothing."""
    return node.get("split", None if dataset_columns.component_name(node) == "TextCompletionDataset" else "train")


def _split_fix(paths: Mapping[str, Any]) -> str:
    return f"split: {next(iter(paths))}" if len(paths) == 1 else f"there are {', '.join(paths)}"


def _option_faults(node: Mapping[str, Any]) -> Iterator[Fault]:
    for name in ("field", "encoding"):
        if not isinstance(node.get(name), str | None):
            yield Fault(f"dataset.{name}", f"{name}: expected text, got {node[name]!r}")


Found = list[tuple[Path, Summary | None]]  # None for what cannot be looked into
First = tuple[Path, Summary] | None


def _read(node: Mapping[str, Any], paths: list[str], faults: list[Fault], before: First) -> tuple[Found, First]:
    """What the files of one split hold, and the first that sets the columns; adds to `faults` what datasets fails on.

    Args:
        before: the first file of the splits before.
    """
    reading, found = _reading(node), []
    first = before if before and before[1].fills else None
    for path in paths:
        for file in dataset_files.matches(path) if dataset_files.is_local(path) else [Path(path)]:
            try:
                summary = data_files.summary(file, reading) if reading and dataset_files.is_local(path) else None
            except (OSError, ValueError) as error:
                faults.append(Fault("dataset.data_files", f"cannot read {file}: {error}"))
                continue
            found.append((file, summary))
            if summary is not None and summary.rows:
                faults += filter(None, [_late_column(file, summary), _other_columns(file, summary, first)])
                first = first or (file, summary)
    return found, first


def _total(files: Found) -> int | None:
    rows = [summary and summary.rows for _, summary in files]
    return None if None in rows else sum(rows)


def _row_faults(node: Mapping[str, Any], found: Mapping[str, Found], taken: list[tuple[str, range | None]]) -> Iterator[Fault]:
    """For each file, the first thing that the dataset cannot be trained on, in the rows that `split` takes of it."""
    for split in dict.fromkeys(name for name, _ in taken):
        ranges, start = [rows for name, rows in taken if name == split], 0
        for file, summary in found[split]:
            if summary is not None:
                own = None if None in ranges else [range(max(rows.start - start, 0), rows.stop - start) for rows in ranges]
                fault = dataset_columns.file_fault(node, file, summary, own)
                yield from [fault] if fault else []
                start += summary.rows


def _late_column(file: Path, summary: Summary) -> Fault | None:
    if summary.late is None:
        return None
    column, row, line = summary.late
    what = f"{file}: row {row} (line {line}) has the column '{column}', which no row of the first 10 MB has: datasets fails on it"
    return Fault("dataset.data_files", what, "give it to every row, or to none")


def _other_columns(file: Path, summary: Summary, first: First) -> Fault | None:
    """datasets fails on a later file with a column that the first lacks; of JSON lines alone it adds what a later one lacks."""
    if first is None:
        return None
    path, columns = first[0], first[1].columns
    added = [name for name in summary.columns if name not in columns]
    lacking = [name for name in columns if name not in summary.columns and not first[1].fills]
    if not added and not lacking:
        return None
    what = f"{file} has other columns than {path}: " + ", ".join([f"{name} more" for name in added] + [f"no {name}" for name in lacking])
    return Fault("dataset.data_files", what, "datasets fails on it: give all files the same columns")


def _reading(node: Mapping[str, Any]) -> Reading | None:
    """How the files are read; None if by options that are not known here."""
    source, encoding = node["source"], node.get("encoding")
    if source == "json":
        return Reading(source, node.get("field"), encoding)
    if source == "csv":
        separator = node.get("sep", node.get("delimiter", ","))
        if any(option in node for option in CSV_OPTIONS) or not isinstance(separator, str) or len(separator) != 1:
            return None
        return Reading(source, None, encoding, separator, bool(node.get("keep_default_na", True) and node.get("na_filter", True)))
    return Reading(source)


def _taken(node: Mapping[str, Any], counts: Mapping[str, int | None], faults: list[Fault]) -> int | None:
    """The rows that `split` takes; a fault more where it takes none."""
    split, files = _split(node), node["data_files"]
    try:
        rows = dataset_files.rows_taken(split, counts)
    except dataset_files.SplitFault as error:
        faults.append(Fault("dataset.split", str(error)))
        return None
    if rows == 0:
        name = files if isinstance(files, str) else "data_files"
        empty = not sum(counts.values())
        what = f"{name} has no rows" if empty else f"split '{split}' takes none of the {sum(counts.values())} rows of {name}"
        faults.append(Fault("dataset.data_files" if empty else "dataset.split", f"{what}: datasets fails on it"))
    return rows
