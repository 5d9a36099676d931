"""Inspect's logs of one task in its folder: how often they are written, and which are put aside. None is ever removed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_WRITES = 200


def log_buffer(samples: int) -> int:
    """How many finished samples may wait for the log to be written: those are lost if the evaluation is killed.

    Each write copies the whole log, so that their number is what costs. Up to
    200 samples, each is written at once. Inspect writes what has waited for a
    minute in any case.

    Args:
        samples: of the task, all epochs together.
    """
    return max(1, samples // _WRITES)


def set_aside_unreadable(log_dir: Path) -> None:
    """Renames logs that cannot be read, so that the evaluation starts anew where Inspect's eval_set would raise for ever."""
    from inspect_ai.log import read_eval_log

    for path in sorted(log_dir.glob("*.eval")):
        try:
            header = read_eval_log(str(path), header_only=True)
            if header.status != "success":
                read_eval_log(str(path))  # its samples are taken over
        except OSError:
            raise  # the disk's fault, and the log may be whole
        except Exception as error:  # whatever the bytes make zipfile, json and pydantic raise
            print(f"warning: {_set_aside(path, 'unreadable')}: cannot be read, evaluated without it: {error}", file=sys.stderr)


def set_aside_others(log_dir: Path, why: str) -> bool:
    """Renames all logs there, with which Inspect does not go on; whether there were any."""
    paths = sorted(log_dir.glob("*.eval"))
    for path in paths:
        print(f"warning: {_set_aside(path, 'other')}: evaluated without it: {why}", file=sys.stderr)
    return bool(paths)


def set_aside_interrupted(log_dir: Path, log: Any) -> None:
    """Renames the logs that interrupted evaluations left, once `log` holds their samples: whoever reads all logs counts them once."""
    if log.status != "success":
        return
    newest = Path(log.location.removeprefix("file://")).name
    for path in sorted(log_dir.glob("*.eval")):
        if path.name != newest:
            _set_aside(path, "interrupted")


def _set_aside(path: Path, why: str) -> Path:
    """`path` under a name that Inspect does not take for a log's."""
    return path.rename(path.with_name(f"{path.name}.{why}"))
