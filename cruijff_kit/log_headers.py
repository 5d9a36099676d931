"""What Inspect's logs say in their headers, by Inspect's evals_df; kept by size and time of each file, for reading thousands takes seconds."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cruijff_kit import atomic, checkpoint
from cruijff_kit.process_family import held_back

BATCH = 64
STDERR = ("stderr", "bootstrap_stderr")
MEANS = ("accuracy", "mean")
VERSION = 1  # of the file that keeps them


@dataclass(frozen=True)
class Header:
    """A log in short.

    Args:
        fault: why it cannot be read; all else is empty then.
        experiment, run, digest: what our evaluations write into its metadata; empty in a log that is not theirs.
        inspect: the version of Inspect that wrote it.
        total: samples of the task, each epoch by itself; `completed`: those that did not end in error.
        tokens: of all models, in and out.
        scores: for each scorer: its name, the samples that have a score and those that have none, and its metrics: for each its value and
            standard error, None where it has none, to the last digit.
    """

    fault: str = ""
    experiment: str = ""
    run: str = ""
    digest: str = ""
    status: str = ""
    inspect: str = ""
    total: int | None = None
    completed: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    scores: Sequence[Mapping[str, Any]] = field(default_factory=list)


def find(folder: Path) -> Iterator[Path]:
    """Every log of Inspect's below `folder`, the entries of which may be links to other disks."""
    for top in sorted(folder.iterdir()) if folder.is_dir() else ():
        for parent, folders, names in os.walk(top):
            folders.sort()
            yield from (Path(parent, name) for name in sorted(names) if name.endswith(".eval"))


def read(paths: Iterable[Path], kept: Path) -> dict[Path, Header]:
    """The headers of the logs in `paths`.

    Args:
        kept: the file that keeps those which were read before, by Inspect's present version.
    """
    stamps = {path: stamp for path in paths if (stamp := _stamp(path))}
    before = _kept(kept)
    found = {path: before[str(path)][1] for path, stamp in stamps.items() if str(path) in before and before[str(path)][0] == stamp}
    if new := [path for path in stamps if path not in found]:
        found |= {Path(path): Header(**header) for path, header in _read_all(list(map(str, new)))}
        # not the faults: a disk may have its own, which pass
        known = {str(path): [stamps[path], asdict(header)] for path, header in found.items() if not header.fault}
        with contextlib.suppress(OSError):  # a colleague's folder: read anew each time
            atomic.write_text(kept, json.dumps({**_edition(), "logs": known}))
    return found


def _stamp(path: Path) -> list[int] | None:
    """None of a log that is gone."""
    try:
        return checkpoint.file_stamp(path)
    except OSError:
        return None


def _kept(path: Path) -> dict[str, tuple[list[int], Header]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {name: found[name] for name in _edition()} != _edition():
            return {}
        return {name: (stamp, Header(**header)) for name, (stamp, header) in found["logs"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


@cache
def _edition() -> dict[str, Any]:
    return {"version": VERSION, "inspect": metadata.version("inspect_ai")}


def _read_all(paths: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    if len(batches) < 4:  # a process of its own costs Inspect's import, which is that of 500 logs
        for batch in batches:
            yield from _read_batch(batch)
        return
    print(f"reading {len(paths)} logs of Inspect", file=sys.stderr)
    workers = min(len(os.sched_getaffinity(0)), len(batches) // 2)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        with held_back(signal.SIGINT):  # those that are started now: Ctrl-C is for this process
            asked = [pool.submit(_read_batch, batch) for batch in batches]
        for batch, headers in zip(batches, asked, strict=True):
            try:
                yield from headers.result()
            except BrokenProcessPool:  # killed for memory, or started from what is no script: a notebook, a pipe
                yield from _read_batch(batch)
    finally:
        pool.shutdown(cancel_futures=True)


def _read_batch(paths: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    try:
        found = _by_inspect(paths)
    except Exception as error:  # whatever the bytes make zipfile, json and pydantic raise; it ends the whole batch
        if len(paths) == 1:
            return [(paths[0], {"fault": f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"})]
        found = {}
    lacking = [path for path in paths if path not in found]  # of a log and its copy evals_df shows one
    return [*found.items(), *(header for path in lacking for header in _read_batch([path]))]


def _by_inspect(paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    from inspect_ai.analysis import EvalColumn, evals_df

    # as text: pandas would make floats of whole numbers, and columns of the names of scorers
    table = evals_df(list(paths), [EvalColumn("header", path=lambda log: json.dumps(_header(log)))], quiet=True)
    return {path.removeprefix("file://"): json.loads(header) for path, header in zip(table["log"], table["header"], strict=True)}


def _header(log: Any) -> dict[str, Any]:
    from inspect_ai._util.constants import LOG_SCHEMA_VERSION

    if log.version > LOG_SCHEMA_VERSION:
        return {"fault": f"of a newer Inspect: format {log.version} of a log, where {LOG_SCHEMA_VERSION} is the newest known here"}
    ours = log.eval.metadata or {}
    return {
        **{name: str(ours.get(name) or "") for name in ("experiment", "run", "digest")},
        "status": log.status,
        "inspect": log.eval.packages.get("inspect_ai", ""),
        "total": log.results and log.results.total_samples,
        "completed": log.results and log.results.completed_samples,
        "tokens": sum(usage.total_tokens for usage in log.stats.model_usage.values()),
        "seconds": _seconds(log.stats),
        "scores": [_score(score, name) for score, name in _named(log.results.scores if log.results else [])],
    }


def _seconds(stats: Any) -> float | None:
    from datetime import datetime

    try:
        return (datetime.fromisoformat(stats.completed_at) - datetime.fromisoformat(stats.started_at)).total_seconds()
    except (TypeError, ValueError):  # one that did not end
        return None


def _named(scores: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """With names that tell them apart: Inspect's may be those of several scorers, and of several reducers of one."""
    for score in scores:
        alike = [other for other in scores if other.name == score.name]
        scorer = f"{score.scorer}/" if len({other.scorer for other in alike}) > 1 else ""
        reducer = f" ({score.reducer})" if len({other.reducer for other in alike}) > 1 and score.reducer else ""
        yield score, f"{scorer}{score.name}{reducer}"


def _score(score: Any, name: str) -> dict[str, Any]:
    """One scorer's. Inspect's standard error is of the mean of the samples' scores, and of nothing else."""
    whole = {key: metric.name for key, metric in score.metrics.items() if metric.group is None}
    errors = [key for key, name in whole.items() if name in STDERR]
    means = [key for key, name in whole.items() if name in MEANS]
    beside = {key: score.metrics[errors[0]].value for key in means} if len(errors) == 1 else {}
    shown = {key: metric.value for key, metric in score.metrics.items() if key not in (errors if beside else ())}
    return {
        "scorer": name,
        "scored": score.scored_samples,
        "unscored": score.unscored_samples,
        "metrics": {key: [value, beside.get(key)] for key, value in shown.items()},
    }
