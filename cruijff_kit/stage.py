"""One stage of one run, where it runs: held against other copies, recorded, and done by a command that a user could type."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit import checkpoint, distributed, evaluation_results, frozen, inputs, ownership, paths, provenance, records, stage_command
from cruijff_kit.evaluate_group import RECORDED
from cruijff_kit.records import Record
from cruijff_kit.torchtune_catalog import read_config
from cruijff_kit.train import Training, earlier_epochs, move_aside, train

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(config: DictConfig, stage: str) -> float | None:
    """Runs a stage as a prepared config has it; returns the objective of an evaluation, where one is set.

    Raises:
        CruijffKitError: it failed.
    """
    folder = Path(config.experiment_dir)
    if "frozen" in config:
        frozen.thaw(folder, config.frozen.files)
    if int(os.environ.get("SLURM_PROCID") or 0) > 0:  # of several nodes the first one looks after the folder, and evaluates
        if stage == "train" and (training := _training(config)).fault() is not None:
            stage_command.run(training.command, folder)
        return None
    with ownership.owned(paths.held(folder, stage, config.get("held", config.run))) as owner:
        if "runs" in config:
            _evaluate_group(config, owner)
            return None
        if stage == "train":
            _train(config, owner)
            return None
        _set_aside(config, Path(config.scores), Path(config.scores))
        with _recorded(config, stage, Path(config.scores), asked=list(config.commands.eval[2:])):
            print(f"{config.run} {stage}: {shlex.join(config.commands[stage])}", flush=True)
            stage_command.run(list(config.commands[stage]), folder, owner.environment, owner.check)
    return evaluation_results.objective(Path(config.scores, config.last), config.evaluation.objective) if config.evaluation.objective else None


def _train(config: DictConfig, owner: ownership.Ownership) -> None:
    training = _training(config)
    _set_aside(config, training.results, training.results, Path(config.scores))
    earlier = earlier_epochs(training, owner, None if config.kept_epochs is None else list(config.kept_epochs))
    if training.fault() is None:
        print(f"{training.run} is trained already: {training.model}", flush=True)
        earlier.remove_at_the_end(training.last_epoch)  # what a kill has left
        return

    def seal(record: Record) -> Record:
        return replace(record, weights=checkpoint.seal(training.model, training.results, training.adapter))

    with _recorded(config, "train", training.results, seal, epochs=read_config(training.train_config)["epochs"]):
        train(training, owner, earlier)


def _evaluate_group(config: DictConfig, owner: ownership.Ownership) -> None:
    """Evaluates several runs in one process, which holds each in its turn and keeps its record."""
    folder, command = Path(config.experiment_dir), list(config.commands.eval)
    for scores in config.runs.scores:
        _set_aside(config, Path(scores), Path(scores))
    recorded, name = Path(config.inputs.recorded), config.inputs.eval
    inputs.check(recorded, name)
    known = {"log": _log(), "git": config.git and dict(config.git), "anew": config.anew, "asked": list(config.runs.words)}
    known |= {"recorded": str(recorded), "inputs": name}
    print(f"{config.run} eval: {shlex.join(command)}", flush=True)
    stage_command.run(command, folder, {**owner.environment, RECORDED: json.dumps(known)}, owner.check)


def _training(config: DictConfig) -> Training:
    train_config = Path(config.commands.train[-1])
    command = distributed.on_node(list(config.commands.train), os.environ)
    return Training.of(config.run, command, train_config, read_config(train_config), Path(config.experiment_dir))


@contextmanager
def _recorded(
    config: DictConfig, stage: str, results: Path, finish: Callable[[Record], Record] = lambda record: record, **known: Any
) -> Iterator[None]:  # fmt: skip
    """Keeps the stage's record, in which what it reads is as it was when this was sent, or it does not begin."""
    path, owner = results / paths.RECORD, ownership.Owner.here()
    recorded, name = Path(config.inputs.recorded), config.inputs[stage]
    known |= {"job": owner.job, "restart": owner.restart, "log": _log(), "git": config.git and dict(config.git), "anew": config.get("anew") or ""}

    fresh = records.fresh(path, config.run, stage, config.identity, **known)
    with records.kept(path, fresh, lambda: provenance.surroundings(recorded, name), finish):
        if "frozen" in config:
            inputs.check(recorded, name)
        yield


def _set_aside(config: DictConfig, results: Path, *folders: Path) -> None:
    """Moves what is to be done again to folders beside it; a job that was restarted since has done so before."""
    anew, record = config.get("anew"), records.read(results / paths.RECORD)
    if not anew or record is not None and record.anew == anew:
        return
    for folder in folders:
        if folder.is_dir():
            move_aside(folder, [path for path in folder.iterdir() if not path.is_symlink()])


def _log() -> str | None:
    """Where submitit has this job's output go; None outside of its jobs."""
    import submitit

    try:
        return str(submitit.JobEnvironment().paths.stdout.absolute())
    except RuntimeError:
        return None
