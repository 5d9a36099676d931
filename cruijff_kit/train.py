"""The train stage of one run: the command that a user would type, and what must be true before and after it."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, epochs, ownership, paths, resume, stage_command, torchtune_catalog, training_checks
from cruijff_kit.config_tree import output_dir_of, unescape
from cruijff_kit.errors import CruijffKitError

# torchtune's recipes, and those of ours that train the same and can go on with what was interrupted
RESUMABLE = {
    name: f"cruijff_kit/recipes/{name}" for name in ("lora_finetune_single_device", "full_finetune_single_device")
}


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        model: folder of the checkpoint that it ends with.
        results: its output_dir.
        adapter: it saves its adapter alone.
    """

    run: str
    command: Sequence[str]
    train_config: Path
    results: Path
    model: Path
    folder: Path
    adapter: bool = False

    @classmethod
    def of(cls, run: str, command: Sequence[str], train_config: Path, values: Mapping[str, Any], folder: Path) -> Training:
        """The training of the config in `train_config`, which holds `values`; `folder` is the experiment's.

        Raises:
            CruijffKitError: the config names no folder for its checkpoints.
        """
        checkpoints = output_dir_of(values, "checkpointer.output_dir")
        if checkpoints is None:
            raise CruijffKitError(f"{train_config} names no checkpointer.output_dir")
        model = checkpoints / f"epoch_{values['epochs'] - 1}"
        return cls(run, command, train_config, Path(unescape(values["output_dir"])), model, folder, checkpoint.saves_adapter_alone(values))

    @property
    def checkpoints(self) -> Path:
        """The folder of the epochs."""
        return self.model.parent

    @property
    def last_epoch(self) -> int:
        """The number of the epoch that it ends with."""
        return int(self.model.name.removeprefix("epoch_"))

    def fault(self) -> str | None:
        """Why this training is not finished, or None."""
        fault = checkpoint.fault(self.model, self.adapter)
        if fault is not None:
            return fault
        difference = checkpoint.differences(self.train_config, self.results, self.folder)
        if difference:
            return difference if isinstance(difference, str) else f"trained with another {', '.join(difference)}"
        return checkpoint.older_than_config(self.model, self.results, self.adapter)

    def state(self) -> resume.State | None:
        """What an interrupted training of this very config and model left to go on from."""
        state = resume.last_state(self.checkpoints)
        if state is None:
            return None
        there = self.train_config, self.results, self.folder, state.config_copy
        return None if checkpoint.differences(*there) or checkpoint.other_model(*there) else state


def earlier_epochs(training: Training, owner: ownership.Ownership, kept: Collection[int] | None) -> epochs.EarlierEpochs:
    """What removes the epochs that are not kept, once nothing needs them; `kept` None for all."""
    _, can_resume = _resumable(training.command)
    return epochs.EarlierEpochs(training.checkpoints, kept, can_resume, owner.check, training.adapter)


def train(training: Training, owner: ownership.Ownership, earlier: epochs.EarlierEpochs) -> None:
    """Trains; goes on from the last finished epoch, and moves aside what it cannot go on from.

    Raises:
        CruijffKitError: its data cannot be trained on, the command failed, it ended well without the
            checkpoint that it should have written, or another copy of this training took over.
    """
    for fault in training_checks.data_faults(torchtune_catalog.read_config(training.train_config)):
        if fault.level == "error":
            raise CruijffKitError(fault.what)
    owner.check()
    command = prepare(training)
    print(f"{training.run} train: {shlex.join(command)}", flush=True)
    stage_command.run(command, training.folder, owner.environment, earlier.remove_meanwhile)
    fault = training.fault()
    if fault is not None:
        raise CruijffKitError(f"training ended without its checkpoint: {training.model}: {fault}")
    earlier.remove_at_the_end(training.last_epoch)


def prepare(training: Training) -> list[str]:
    """The command that trains, or goes on with the training; what stands in its way is moved aside."""
    words, can_resume = _resumable(training.command)
    state = training.state() if can_resume else None
    if state is not None:
        move_aside(training.results, resume.unmatched(training.checkpoints, state))
        resume.reinstate(training.checkpoints, state)
        print(f"{training.run} train: going on after its epoch {state.epochs_run}", flush=True)
        return [*words, f"{checkpoint.RESUME}=True"]
    if move_aside(training.results, _left(training)) and not can_resume:
        print(f"{training.run} train: starting from the beginning: its recipe cannot go on with what was interrupted", flush=True)
    return words


def _resumable(command: Sequence[str]) -> tuple[list[str], bool]:
    """The command with our recipe in the place of torchtune's, if there is one; with torchrun's options there is none."""
    tune, run, recipe, *rest = command
    recipe = RESUMABLE.get(recipe, recipe)
    return [tune, run, recipe, *rest], recipe in RESUMABLE.values()


def _left(training: Training) -> list[Path]:
    """What lies in the results, other than links to the base weights; what a link to another disk holds as well."""
    results, checkpoints = training.results, training.checkpoints
    there = results.iterdir() if results.is_dir() else ()
    left = [path for path in there if not path.is_symlink() and path.name != paths.RECORD]
    if checkpoints.is_dir() and not any(checkpoints.is_relative_to(path) for path in left):
        epochs = [path for path in checkpoints.iterdir() if path.name.startswith(("epoch_", resume.STATE))]
        left += [path for path in epochs if path not in left]
    return left


def move_aside(results: Path, left: Iterable[Path]) -> bool:
    """Keeps `left` in a folder beside `results`, or beside the folder on another disk that a link leads to."""
    root, asides = results.resolve(), {}
    for path in left:
        place = path.parent.resolve()
        top = root if place.is_relative_to(root) else place
        if top not in asides:
            asides[top] = _fresh_folder(results if top == root else top)
        target = asides[top] / place.relative_to(top) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
    for aside in asides.values():
        print(f"moved aside to {aside}: what was in {results}", flush=True)
    return bool(asides)


def asides(place: Path) -> dict[str, list[Path]]:
    """The folders in `place` that `move_aside` made, by the name of what they were moved from."""
    found: dict[str, list[Path]] = {}
    try:
        there = sorted(place.iterdir())
    except OSError:
        return found
    for path in there:
        match = re.fullmatch(r"(.+)\.\d{8}T\d{6}(_\d+)?", path.name)
        if match and path.is_dir() and not path.is_symlink():
            found.setdefault(match[1], []).append(path)
    return found


def _fresh_folder(beside: Path) -> Path:
    """A new folder named after `beside` and the time."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    names = itertools.chain([stamp], (f"{stamp}_{number}" for number in itertools.count(2)))
    folders = (beside.with_name(f"{beside.name}.{name}") for name in names)
    folder = next(folder for folder in folders if not folder.exists())
    folder.mkdir()
    return folder
