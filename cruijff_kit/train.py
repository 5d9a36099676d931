"""The train stage of one run: the command that a user would type, and what must be true before and after it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cruijff_kit import checkpoint, paths, stage_command, torchtune_catalog, training_checks, workspace
from cruijff_kit.errors import CruijffKitError


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        model: folder of the checkpoint that it ends with.
        results: its output_dir.
    """

    run: str
    command: Sequence[str]
    train_config: Path
    results: Path
    model: Path
    folder: Path

    def fault(self) -> str | None:
        """Why this training is not finished, or None."""
        fault = checkpoint.fault(self.model)
        if fault is not None:
            return fault
        difference = checkpoint.differences(self.train_config, self.results, self.folder)
        if difference:
            return difference if isinstance(difference, str) else f"trained with another {', '.join(difference)}"
        return checkpoint.older_than_config(self.model, self.results)


def train(training: Training) -> None:
    """Trains, unless that was done; what another or an unfinished training left is moved aside first.

    Raises:
        CruijffKitError: its data cannot be trained on, the command failed, or it ended well without the
            checkpoint that it should have written.
    """
    with workspace.locked(paths.training(training.folder, training.run)):  # two at once would write one folder
        _train(training)


def _train(training: Training) -> None:
    if training.fault() is None:
        print(f"{training.run} is trained already: {training.model}", flush=True)
        return
    for fault in training_checks.data_faults(torchtune_catalog.read_config(training.train_config)):
        if fault.level == "error":
            raise CruijffKitError(fault.what)
    move_aside(training.results)
    stage_command.run(training.command, training.folder)
    fault = training.fault()
    if fault is not None:
        raise CruijffKitError(f"training ended without its checkpoint: {training.model}: {fault}")


def move_aside(results: Path) -> None:
    """Keeps what lies in `results`, other than links to the base weights, in a folder beside it."""
    left = [path for path in results.iterdir() if not path.is_symlink()] if results.is_dir() else []
    if not left:
        return
    aside = results.with_name(f"{results.name}.{time.strftime('%Y%m%dT%H%M%S')}")
    aside.mkdir()
    for path in left:
        os.rename(path, aside / path.name)
    print(f"moved aside to {aside}: what an earlier training left in {results}", flush=True)
