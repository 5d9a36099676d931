"""What a training logged, step by step, from the files of its logger: torchtune's DiskLogger, or one of ours that keeps a CSV.

Read for every row of a table, and while jobs run: plain string work, nothing heavy. A training that
went on after a kill has logged some steps twice; what counts is what led to the weights that are there.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cruijff_kit import log_follow, logger_config
from cruijff_kit.logger_config import LOG_DIR

CSV = "metrics.csv"
STEP = "step"  # its first column
TAIL_BYTES = 4096  # some lines
LONG_TAIL_BYTES = 1 << 20  # where these hold no loss
_CONFIG_COPY = "torchtune_config.yaml"  # torchtune's, metric_logging.save_config

Metrics = list[tuple[int, dict[str, float]]]


def read(run_results: Path) -> Metrics:
    """Each step that was logged, in order, with its values: loss, lr, tokens_per_second_per_gpu, …

    Empty where there is nothing that can be read. Where a training began again at a step, what was logged before of
    this and later steps is left out. Empty too where it was resumed and counted its steps from 1 again, as torchtune's
    lora_finetune_single_device does by itself (0.6.1, `global_step` in setup): nobody can tell what step was which.
    """
    config = _config_copy(run_results)
    metrics: Metrics = []
    again = False  # whether the last beginning was one from the first step
    for path in _files(run_results, config):
        for step, values in _rows(path, _text(path)):
            if not metrics or step > metrics[-1][0]:
                metrics.append((step, values))
            elif step == metrics[-1][0]:
                metrics[-1][1].update(values)
            else:
                while metrics and metrics[-1][0] >= step:
                    metrics.pop()
                again = not metrics
                metrics.append((step, values))
    return [] if again and re.search(r"^resume_from_checkpoint: true$", config, re.MULTILINE) else metrics


def last(run_results: Path) -> dict[str, float]:
    """The values that were logged last, from as far back as one of them is a loss; empty before the first.

    Read from the end. A training that went on has a file without a line until its first step, and a line may hold other metrics alone.
    """
    values: dict[str, float] = {}
    for path in reversed(_files(run_results, _config_copy(run_results))):
        for size in (TAIL_BYTES, LONG_TAIL_BYTES):
            for _, logged in reversed(list(_rows(path, _end(path, size)))):
                values = {**logged, **values}
                if "loss" in values:
                    return values
    return values


def loss_at(metrics: Sequence[tuple[int, Mapping[str, float]]], epoch: str, epochs: int | None) -> float | None:
    """The last loss that was logged up to the end of `epoch` of a finished training: that of one step, not of the epoch.

    None if none was, or if where the epoch ends cannot be told.

    Args:
        epoch: `epoch_0`, …, as torchtune names it; empty for the last.
        epochs: how many the training has; None if that is not known.
    """
    end: float = math.inf
    if epoch and epoch != f"epoch_{(epochs or 0) - 1}":
        steps = _steps_per_epoch([step for step, _ in metrics], epochs)
        number = epoch.removeprefix("epoch_")
        if steps is None or not number.isdecimal():
            return None
        end = steps * (int(number) + 1)
    return next((values["loss"] for step, values in reversed(metrics) if step <= end and "loss" in values), None)


def _steps_per_epoch(logged: Sequence[int], epochs: int | None) -> int | None:
    """Of a finished training: every epoch has as many. With log_every_n_steps n up to n - 1 steps follow the last that was logged."""
    if not logged or not epochs:
        return None
    every = math.gcd(*logged)  # n, or a multiple of it
    if every <= 0:
        return None
    totals = [total for total in range(logged[-1], logged[-1] + every) if total % epochs == 0]
    return totals[0] // epochs if len(totals) == 1 else None


def _config_copy(run_results: Path) -> str:
    return _text(run_results / _CONFIG_COPY)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _end(path: Path, size: int) -> str:
    """The last `size` bytes; of a CSV below its header: their first line is the header itself, or not whole."""
    text = log_follow.tail(path, size)
    return _first_line(path, size) + text.partition("\n")[2] if path.suffix == ".csv" else text


def _first_line(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            return file.readline(size).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _files(run_results: Path, config: str) -> list[Path]:
    """The logger's files in the order in which they were written: each start of a DiskLogger makes one, log_UNIXTIME.txt.

    Empty where other runs' files may lie too, whose numbers cannot be told from this one's: the folder must be one that
    no other run has, below `run_results` or named after it.
    """
    logger, own = _logger(config), os.path.abspath(run_results)
    folder = Path(logger_config.folder(logger, own))
    if not folder.is_absolute() or f"{own}/" not in f"{folder}/":
        return []
    names = re.compile(rf"log_.*\.txt|{re.escape(CSV)}|{re.escape(str(logger.get('filename') or CSV))}")
    try:
        with os.scandir(folder) as there:
            found = sorted((_written(entry), entry.name) for entry in there if names.fullmatch(entry.name))
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return []
    return [folder / name for _, name in found]


def _logger(config: str) -> Mapping[str, Any]:
    """The node metric_logger of torchtune's copy of the config, of which nothing else is parsed: that takes milliseconds."""
    block = re.search(r"^metric_logger:\n((?:[ \-].*\n)+)", config, re.MULTILINE)
    if block is None or f"\n  log_dir: {LOG_DIR}\n" in f"\n{block[1]}" and not re.search(r"^  (?:dir|filename):", block[1], re.MULTILINE):
        return {}
    import yaml

    try:
        node = yaml.load(block[1], getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return {}
    return node if isinstance(node, dict) else {}


def _written(entry: os.DirEntry) -> float:
    """When the file was begun, where its name says so, or else when it was last written."""
    name = re.fullmatch(r"log_(\d{1,15})\.txt", entry.name)
    try:
        return float(name[1]) if name else entry.stat().st_mtime
    except OSError:  # a link that leads nowhere
        return 0.0


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, float]]]:
    """The whole lines of a file's text; what a kill left of the last is none."""
    lines = text.split("\n")[:-1]
    return _of_csv(lines) if path.suffix == ".csv" else _of_disk_logger(lines)


def _of_disk_logger(lines: Sequence[str]) -> Iterator[tuple[int, dict[str, float]]]:
    for line in lines:
        step, _, pairs = line.partition(" | ")
        if not step.startswith("Step "):
            continue
        try:
            number = int(step[5:])
        except ValueError:
            continue
        values = {}
        for pair in pairs.split():
            name, colon, value = pair.rpartition(":")
            try:
                if colon:
                    values[name] = float(value)
            except ValueError:
                continue
        yield number, values


def _of_csv(lines: Sequence[str]) -> Iterator[tuple[int, dict[str, float]]]:
    rows = csv.reader(lines)
    try:
        header = next(rows, [])
        for row in rows if header[:1] == [STEP] else ():
            if len(row) != len(header):
                continue
            try:
                yield int(row[0]), {name: float(cell) for name, cell in zip(header[1:], row[1:]) if cell}
            except ValueError:
                continue
    except csv.Error:  # a line that is no row of a table: what came before it counts
        return
