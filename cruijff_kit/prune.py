"""`prune`: what finished trainings have no more use for, and what was moved aside: what it occupies, and its removal."""

from __future__ import annotations

import shlex
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import epochs, evaluated_epochs, ownership, paths, run_mapping, torchtune_catalog, train, workspace
from cruijff_kit.disk_space import occupied_bytes
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.experiment import load
from cruijff_kit.generate import check_place
from cruijff_kit.paths import Layout
from cruijff_kit.train import Training


@dataclass(frozen=True)
class Folder:
    """A folder that can go.

    Args:
        aside: `train` moved it out of its way: nothing reads it, and nobody knows whether it is wanted.
    """

    run: str
    path: Path
    size: int
    aside: bool

    def as_dict(self) -> dict[str, Any]:
        return {"run": self.run, "path": str(self.path), "bytes": self.size, "aside": self.aside}


@dataclass
class Found:
    """What can go.

    Args:
        wanted: `evaluation.checkpoint`: the epochs that evaluations read stay.
        left_alone: runs of which nothing is touched, and why.
    """

    layout: Layout
    wanted: str | list[int] = "last"
    folders: list[Folder] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)


def find(folder: Path, names: Sequence[str] = ()) -> Found:
    """What can go of the runs `names`, of all if there are none.

    Raises:
        CruijffKitError: experiment.yaml is wrong, nothing was generated, the folder was moved, or there is no such run.
    """
    layout, runs, wanted = _generated(folder)
    unknown = [name for name in names if name not in runs]
    if unknown:
        raise CruijffKitError(f"there is no {unknown[0]}: the runs are in {layout.relative(layout.run_mapping)}")
    asides = cache(train.asides)
    earlier = [name for name in asides(layout.results) if name.startswith("run_") and name not in runs]  # the sweep was longer once
    found = Found(layout, wanted)
    for run in dict.fromkeys(names or [*runs, *earlier]):
        held = _in_training(paths.held(layout.folder, "train", run))
        why, places = ("it is being trained", _Places()) if held else _look_at(layout, run, wanted)
        if why and (run in names or _has_results(layout.run_results(run))):
            found.left_alone[run] = why
        moved = dict.fromkeys(path for beside in places.beside for path in asides(beside.parent).get(beside.name, ()))
        found.folders += [Folder(run, path, occupied_bytes(path), False) for path in places.unneeded]
        found.folders += [Folder(run, path, occupied_bytes(path), True) for path in moved]
    return found


def _generated(folder: Path) -> tuple[Layout, list[str], str | list[int]]:
    """Where things lie, by the path that the configs were generated for, the runs, and the checkpoints that are evaluated."""
    layout = Layout.of(load(folder))
    mapping = run_mapping.read(layout)
    if mapping is None:
        raise CruijffKitError(f"nothing was generated yet: cruijff-kit generate {shlex.quote(str(layout.folder))}")
    check_place(Path(mapping.experiment_dir), layout.folder)
    experiment = load(Path(mapping.experiment_dir))
    return Layout.of(experiment), [row.id for row in mapping.rows], experiment.spec.evaluation.checkpoint


@dataclass(frozen=True)
class _Places:
    """Where things of one run lie.

    Args:
        unneeded: what its finished training has no more use for.
        beside: the folders beside which something of it may have been moved.
    """

    unneeded: Sequence[Path] = ()
    beside: Sequence[Path] = ()


def _look_at(layout: Layout, run: str, wanted: str | list[int]) -> tuple[str | None, _Places]:
    """Why none of a run's results is to be removed, if so, and its places; `wanted` are the checkpoints that are evaluated."""
    results = layout.run_results(run)
    try:
        training = _training(layout, run)
        fault = training and training.fault()
    except _UNREADABLE as error:
        return f"its config cannot be read: {error}", _Places(beside=[results])
    if training is None:
        return "it has no config any more", _Places(beside=[results])
    if not str(training.checkpoints).startswith(str(results)):
        return f"its checkpoints are not below {layout.relative(results)}", _Places(beside=[results])
    elsewhere = training.checkpoints.resolve()
    beside = [results] if elsewhere.is_relative_to(results.resolve()) else [results, elsewhere]
    if fault is not None:
        return f"its training is not finished: {fault}", _Places(beside=beside)
    last = training.last_epoch
    return None, _Places(epochs.unneeded_at_the_end(training.checkpoints, last, evaluated_epochs.staying(last + 1, wanted)), beside)


_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, CruijffKitError)


def _training(layout: Layout, run: str) -> Training | None:
    """The training of a run; None of one that is no longer in the sweep."""
    import yaml

    path = layout.train_config(run)
    try:
        return Training.of(run, (), path, torchtune_catalog.read_config(path), layout.folder) if path.is_file() else None
    except yaml.YAMLError as error:
        raise CruijffKitError(" ".join(str(error).split())) from None


def _in_training(folder: Path) -> bool:
    """Whether somebody may be training: where no lock reaches across nodes, whoever has not said that it is over."""
    owner = ownership.read(folder / ownership.FILE)
    return workspace.is_held(folder) or (owner is not None and not owner.ended and owner.host != socket.gethostname())


def _has_results(results: Path) -> bool:
    try:
        return any(not path.is_symlink() for path in results.iterdir())
    except OSError:
        return False


def remove(found: Found, folders: Iterable[Folder]) -> Iterator[tuple[Folder, str | None]]:
    """Removes each of `folders` that can still go; yields it with what stood in the way, if anything did."""
    layout = found.layout
    by_run: dict[str, list[Folder]] = {}
    for folder in folders:
        by_run.setdefault(folder.run, []).append(folder)
    for run, of_run in by_run.items():
        held = paths.held(layout.folder, "train", run)
        if _in_training(held):
            yield from ((folder, "its run is being trained now") for folder in of_run)
            continue
        with workspace.locked(held):
            why, places = _look_at(layout, run, found.wanted)  # the answer may have taken hours
            for folder in of_run:
                can_go = folder.aside or folder.path in places.unneeded
                yield folder, _removed(folder) if can_go else why or "it is gone, or needed again"


def _removed(folder: Folder) -> str | None:
    """Why it could not be removed, or None."""
    try:
        if folder.aside:
            shutil.rmtree(folder.path)  # what a kill leaves of it is found again by its name, and passes for nothing
        else:
            epochs.remove(folder.path)
        return None
    except OSError as error:
        return str(error)
