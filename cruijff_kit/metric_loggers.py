"""Metric loggers for torchtune: each keeps metrics.csv on disk, whatever else it sends the numbers to.

A config names one as `_component_` of metric_logger. Imported by torchtune in a training, and by nothing
of ours: it imports torch. What reads the file is training_metrics.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torchtune.training import metric_logging
from torchtune.training.metric_logging import MetricLoggerInterface, Scalar
from torchtune.utils import get_world_size_and_rank

from cruijff_kit import atomic
from cruijff_kit.training_metrics import CSV, STEP


class MetricsTable:
    """The file metrics.csv: a row a step, a column a metric. A training that goes on adds to it.

    Args:
        folder: where it lies; made if need be. Of several processes the first alone writes.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder) / CSV
        self._columns: list[str] = []
        _, rank = get_world_size_and_rank()
        self._writes = rank == 0
        if self._writes:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._columns = self._mended()

    def add(self, values: Mapping[str, Scalar], step: int) -> None:
        """Adds a row, which is on disk at once."""
        if not self._writes:
            return
        new = [name for name in values if name not in self._columns]
        if new or not self._columns:
            self._widen(new)
        cells = [step, *(float(values[name]) if name in values else "" for name in self._columns[1:])]
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines([cells]))

    def _mended(self) -> list[str]:
        """The columns that are there, once what a kill left of a last row is taken away."""
        if not self._path.exists():
            return []
        text = self._path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            atomic.write_text(self._path, whole)
        return next(csv.reader(whole.splitlines()), [])

    def _widen(self, new: list[str]) -> None:
        """Writes the file with more columns, of which the rows that are there have no values."""
        rows = list(csv.reader(self._path.read_text(encoding="utf-8").splitlines()))[1:] if self._columns else []
        self._columns = [*(self._columns or [STEP]), *new]
        rows = [row + [""] * (len(self._columns) - len(row)) for row in rows]
        atomic.write_text(self._path, _lines([self._columns, *rows]))


def _lines(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class CSVLogger(MetricLoggerInterface):
    """Logs to log_dir/metrics.csv alone.

    Args:
        log_dir: folder of the file.
    """

    def __init__(self, log_dir: str) -> None:
        self._table = MetricsTable(log_dir)

    def log(self, name: str, data: Scalar, step: int) -> None:
        self._table.add({name: data}, step)

    def log_config(self, config: DictConfig) -> None:
        metric_logging.save_config(config)

    def log_dict(self, payload: Mapping[str, Scalar], step: int) -> None:
        self._table.add(payload, step)

    def close(self) -> None:
        """Nothing is left to be written."""


class WandBLogger(metric_logging.WandBLogger):
    """torchtune's logger for Weights & Biases, which keeps log_dir/metrics.csv too.

    Args:
        log_dir: folder of that file, and of W&B's own.
        kwargs: for torchtune's logger, which hands them to wandb.init.
    """

    def __init__(self, log_dir: str, project: str = "torchtune", entity: str | None = None, group: str | None = None, **kwargs: Any) -> None:
        super().__init__(project=project, entity=entity, group=group, log_dir=log_dir, **kwargs)
        self._table = MetricsTable(self.log_dir)

    def log(self, name: str, data: Scalar, step: int) -> None:
        self._table.add({name: data}, step)
        super().log(name, data, step)

    def log_dict(self, payload: Mapping[str, Scalar], step: int) -> None:
        self._table.add(payload, step)
        super().log_dict(payload, step)


class TensorBoardLogger(metric_logging.TensorBoardLogger):
    """torchtune's logger for TensorBoard, which keeps log_dir/metrics.csv too.

    Args:
        log_dir: folder of that file; the event files lie below it.
        organize_logs: each start has a folder of its own for them.
    """

    def __init__(self, log_dir: str, organize_logs: bool = True) -> None:
        super().__init__(log_dir=log_dir, organize_logs=organize_logs)
        self._table = MetricsTable(log_dir)

    def log_dict(self, payload: Mapping[str, Scalar], step: int) -> None:
        self._table.add(payload, step)
        for name, value in payload.items():
            super().log(name, value, step)

    def log(self, name: str, data: Scalar, step: int) -> None:
        self._table.add({name: data}, step)
        super().log(name, data, step)
