"""The files that a queued stage will read and that are not copied: data, base weights, task files.

What they held at submission is recorded by digest; a stage that finds another content does not start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cruijff_kit import atomic, dataset_files
from cruijff_kit.config_tree import find, output_dir_of
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.torchtune_config import weight_files

SMALL_SUFFIXES = (".json", ".model", ".txt", ".jinja")  # beside the weights: config and tokenizer
NAMED_ONE_BY_ONE = 100  # files, in the record of a stage
SAID_FROM_BYTES = 5 * 10**9  # what takes longer than a moment to read

Stamp = list  # size in bytes, time of change in ns, SHA-256


def of_dataset(config: Mapping[str, Any]) -> list[Path]:
    """The local data files that a training with this config reads."""
    nodes = config.get("dataset")
    return [file for node in (nodes if isinstance(nodes, list) else [nodes]) for file in _data_files(node)]


def _data_files(node: Any) -> Iterator[Path]:
    if isinstance(node, Mapping) and node.get("data_files") is not None:
        for paths in dataset_files.paths_by_split(node["data_files"]).values():
            yield from (file for path in paths if dataset_files.is_local(path) for file in dataset_files.matches(path))


def of_base_model(config: Mapping[str, Any]) -> list[Path]:
    """The weight files that the checkpointer names, and what lies beside them."""
    folder = output_dir_of(config, "checkpointer.checkpoint_dir")
    if folder is None or not folder.is_dir():
        return []
    folder = folder.resolve()  # the same for all runs, where each has a link to it
    wanted = weight_files(find(config, "checkpointer.checkpoint_files")) or []
    small = [path for path in folder.iterdir() if path.suffix in SMALL_SUFFIXES]
    return sorted(path for path in {*small, *(folder / name for name in wanted)} if path.is_file())


def of_tasks(tasks_dir: Path) -> list[Path]:
    """Everything below the folder of the task files, data included; not what Python leaves there."""
    found = (path for path in tasks_dir.rglob("*") if "__pycache__" not in path.parts and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def record(sets: Mapping[str, Iterable[Path]], folder: Path) -> Path:
    """Writes what the files of each set hold now into a file below `folder`, and returns it.

    A file that is as it was when it was last read here, by size and time, is not read again.
    """
    paths = {name: [str(path) for path in files] for name, files in sets.items()}
    stamps = _stamps(dict.fromkeys(path for files in paths.values() for path in files), folder)
    text = json.dumps({"stamps": stamps, "sets": paths}, sort_keys=True)
    path = folder / f"inputs-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        atomic.write_text(path, text)
    return path


def _stamps(wanted: Iterable[str], folder: Path) -> dict[str, Stamp]:
    known = folder / "digests.json"
    stamps: dict[str, Stamp] = _read(known)
    stale = [path for path in wanted if not _same(path, stamps.get(path))]
    _say_if_long(stale)
    stamps.update({path: _stamp(path) for path in stale})
    if stale:
        with contextlib.suppress(OSError):  # a cache: in a folder that one may only read, all is read again
            atomic.write_json(known, stamps)
    return {path: stamps[path] for path in wanted}


def contents(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path; `folder` as in `record`."""
    return {path: stamp[2] for path, stamp in _stamps([str(file) for file in files], folder).items()}


def data_digest(tasks_folder: Path, folder: Path) -> str:
    """Digest of all files below the folder of a task file that are not Python: names and contents; `folder` as in `record`."""
    held = contents((path for path in of_tasks(tasks_folder) if path.suffix != ".py"), folder)
    names = {os.path.relpath(path, tasks_folder): digest for path, digest in held.items()}
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:16]


def digests(recorded: Path, name: str) -> dict[str, str]:
    """SHA-256 of each file of the set `name`, by its path; of many, one of them all."""
    values = json.loads(recorded.read_text(encoding="utf-8"))
    each = {path: values["stamps"][path][2] for path in values["sets"][name]}
    if len(each) <= NAMED_ONE_BY_ONE:
        return each
    whole = hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()
    return {f"{len(each)} files below {os.path.commonpath(list(each))}": whole}


def check(recorded: Path, name: str) -> None:
    """That the files of the set `name` hold what they held when they were recorded.

    Raises:
        CruijffKitError: one does not, or is gone.
    """
    values = json.loads(recorded.read_text(encoding="utf-8"))
    for path in values["sets"][name]:
        stamp = values["stamps"][path]
        if _same(path, stamp):
            continue
        if not os.path.isfile(path):
            raise CruijffKitError(f"{path} is gone since this was submitted")
        if _stamp(path)[2] != stamp[2]:
            raise CruijffKitError(f"{path} changed since this was submitted: submit it again, if it is what you want to use")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a cache: without it, all is read again
        return {}


def _same(path: str, stamp: Stamp | None) -> bool:
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return stamp is not None and [stat.st_size, stat.st_mtime_ns] == stamp[:2]


def _stamp(path: str) -> Stamp:
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        return [stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]


def _say_if_long(paths: Iterable[str]) -> None:
    total = sum(os.path.getsize(path) for path in paths)
    if total > SAID_FROM_BYTES:
        print(f"reading {total / 1e9:.0f} GB of weights and data once, to know if they change while jobs wait", file=sys.stderr, flush=True)
