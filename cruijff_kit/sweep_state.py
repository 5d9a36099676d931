"""How far every run of an experiment is: from its files and records, and in two calls at most from Slurm. Writes nothing."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, paths, records, run_mapping, sweep_jobs, workspace
from cruijff_kit.errors import CruijffKitError, Problem, closest
from cruijff_kit.evaluation_state import Evaluations, Found, lacking
from cruijff_kit.experiment import FILE_NAME, Experiment, read
from cruijff_kit.paths import BASELINE, Layout
from cruijff_kit.records import Record
from cruijff_kit.stage_state import DONE, OVER_BADLY, QUEUED, WAITING, StageState, Witnesses, judge
from cruijff_kit.sweep_jobs import SweepJobs
from cruijff_kit.torchtune_catalog import read_config
from cruijff_kit.train import Training

UNTRAINED = "its training has not ended well"


@dataclass(frozen=True)
class RunState:
    """One run.

    Args:
        identity: `base` for the untouched model.
        train: None for the untouched model.
        eval: None where nothing is evaluated.
        unsettled: the tasks without a result of what the folder holds now, and why.
        found: what there is of each task, by its name and the checkpoint; a checkpoint has no name where only the last is evaluated.
        weights_removed: it was trained, and somebody removed its weights since.
    """

    run: str
    params: Mapping[str, Any]
    identity: str
    train: StageState | None
    eval: StageState | None
    unsettled: Mapping[str, str] = field(default_factory=dict)
    weights_removed: bool = False
    found: Mapping[tuple[str, str], Found] = field(default_factory=dict)

    @property
    def stages(self) -> dict[str, StageState]:
        return {name: state for name, state in (("train", self.train), ("eval", self.eval)) if state is not None}


@dataclass(frozen=True)
class SweepState:
    """An experiment.

    Args:
        names: of all runs, also those that were not looked at.
        notes: what the reader should know of how this was found out.
    """

    experiment: Experiment
    layout: Layout
    runs: list[RunState]
    names: list[str]
    jobs: SweepJobs
    evaluations: Evaluations
    notes: list[str]

    def run(self, name: str) -> RunState | None:
        return next((each for each in self.runs if each.run == name), None)


def look(folder: Path, only: Collection[str] | None = None) -> SweepState:
    """The state of the experiment in `folder`.

    Args:
        only: the runs to look at; None for all that are points of the sweep or came from overrides.

    Raises:
        ExperimentError: experiment.yaml or run_mapping.yaml cannot be read.
        CruijffKitError: nothing was generated yet.
    """
    experiment, problems, layout, mapping = _read(folder)
    jobs = sweep_jobs.look(layout)
    runs = [(row.id, row.told_apart(experiment.controls), row.identity) for row in mapping.rows if not row.retired]
    if experiment.spec.evaluation.enabled and experiment.spec.evaluation.baseline:
        runs.insert(0, (BASELINE, {}, BASELINE))
    evaluations = Evaluations(experiment, layout)
    observer = _Observer(experiment, layout, jobs, evaluations)
    states = [observer.run(*each) for each in runs if only is None or each[0] in only]
    if unclear := list(observer.unclear(states)):
        jobs.ask_how_ended(unclear)
        states = [observer.run(each.run, each.params, each.identity) if _any_over(each) else each for each in states]
    notes = [*_notes(experiment, mapping, jobs, len(problems)), *_other_model(layout, states)]
    return SweepState(experiment, layout, states, [run for run, *_ in runs], jobs, evaluations, notes)


def no_such_run(run: str, names: Iterable[str]) -> CruijffKitError:
    """What to raise where none of `names` is meant."""
    hint = closest(run, names)
    return CruijffKitError(f"there is no run '{run}'" + (f": {hint}" if hint else ""))


def identities(folder: Path) -> tuple[Layout, dict[str, str]]:
    """Where things lie, and the identity of every run that ever was one, and of the untouched model.

    Raises:
        As look.
    """
    _, _, layout, mapping = _read(folder)
    return layout, {BASELINE: BASELINE, **{row.id: row.identity for row in mapping.rows}}


def _read(folder: Path) -> tuple[Experiment, list[Problem], Layout, run_mapping.RunMapping]:
    experiment, problems = read(folder)
    layout = Layout.of(experiment)
    mapping = run_mapping.read(layout)
    if mapping is None:
        raise CruijffKitError(f"nothing was generated there yet: cruijff-kit generate {shlex.quote(str(folder))}")
    return experiment, problems, layout, mapping


def _other_model(layout: Layout, runs: Sequence[RunState]) -> Iterator[str]:
    """That the first run that is trained was trained from another folder: the same model moved, or another one."""
    for run in runs:
        if run.train is not None and run.train.state == DONE and not run.weights_removed:
            with suppress(OSError, ValueError, LookupError):
                there = checkpoint.other_model(layout.train_config(run.run), layout.run_results(run.run), layout.folder)
                if there:
                    yield f"{run.run} was trained from the model in {there}, not the one named now: if it is another one, --again trains anew"
            return


def _any_over(run: RunState) -> bool:
    return any(state.state in OVER_BADLY for state in run.stages.values())


def _notes(experiment: Experiment, mapping: run_mapping.RunMapping, jobs: SweepJobs, faults: int) -> Iterator[str]:
    if jobs.fault is not None:
        yield f"Slurm could not be asked, so this is from records and files alone: {jobs.fault}"
    yield from jobs.unreadable
    if mapping.experiment_dir != str(experiment.folder):
        yield f"this folder was moved or copied from {mapping.experiment_dir}: cruijff-kit generate --force"
    if faults:
        yield f"{FILE_NAME} has {faults} fault{'s' if faults > 1 else ''} now: cruijff-kit check says which"


class _Observer:
    """Looks at one run after the other; what many share is looked at once."""

    def __init__(self, experiment: Experiment, layout: Layout, jobs: SweepJobs, evaluations: Evaluations) -> None:
        self._layout, self._jobs, self._host = layout, jobs, socket.gethostname()
        self._experiment, self._evaluations = experiment, evaluations

    @cached_property
    def _latest(self) -> dict[tuple[str, str, str], sweep_jobs.Sent]:
        return self._jobs.latest()

    @cached_property
    def _sent(self) -> set[str]:
        return {str(each.slot) for each in self._jobs.sent}

    def run(self, run: str, params: Mapping[str, Any], identity: str) -> RunState:
        removed, train = False, None
        if run != BASELINE:
            seen = self._witnesses(run, "train", identity)
            removed = self._is_removed(run, seen.record)
            train = judge(seen, lambda: removed or self._is_trained(run, seen.record), lambda: "its weights are not those that it ended with")
        if not self._experiment.spec.evaluation.enabled:
            return RunState(run, params, identity, train, None, weights_removed=removed)
        found = self._evaluations.found(run, None if run == BASELINE else identity)
        unsettled = lacking(found)
        seen = self._witnesses(run, "eval", identity)
        evaluated = judge(seen, lambda: not unsettled, lambda: "; ".join(f"{task}: {why}" for task, why in unsettled.items()))
        if train is not None and train.state in OVER_BADLY and evaluated.started_s is None:
            evaluated = _of_untrained(evaluated)
        return RunState(run, params, identity, train, evaluated, unsettled, removed, found)

    def unclear(self, runs: Sequence[RunState]) -> Iterator[sweep_jobs.Sent]:
        """The tasks of which only the accounting may know how they ended."""
        for each in runs:
            for stage, state in each.stages.items():
                sent = self._latest.get((each.run, stage, each.identity))
                if sent is not None and state.state in OVER_BADLY and state.job == str(sent.slot):
                    yield sent

    def _witnesses(self, run: str, stage: str, identity: str) -> Witnesses:
        record = records.read(self._layout.record(stage, run))
        sent, task = self._latest.get((run, stage, identity)), self._jobs.live.get((run, stage))
        if record is not None and (record.config != identity or sent is not None and record.job != str(sent.slot) and record.job in self._sent):
            record = None  # another run's, or of an earlier job than the latest: clocks of nodes may differ, this does not
        if sent is None or task is None or (task.job, task.index) != (sent.slot.job, sent.slot.index):
            task = task if sent is None or self._is_by_hand(task) else None
        return Witnesses(
            record=record,
            slot=sent.slot if sent else None,
            sent_s=sent.sent_s if sent else 0.0,
            task=task,
            key=sent.key if sent and task and str(task) == str(sent.slot) and not sent.is_shared else None,
            ended=self._jobs.ended.get((sent.slot.job, sent.slot.index)) if sent else None,
            held=workspace.is_held(paths.held(self._layout.folder, stage, run)),
            here=record is None or record.host == self._host,
            slurm=self._jobs.fault is None,
            shared=self._jobs.is_shared(task) if task else sent is not None and sent.is_shared,
        )

    def _is_by_hand(self, task: Any) -> bool:
        return task is not None and str(task) not in self._sent

    def _is_removed(self, run: str, record: Record | None) -> bool:
        if record is None or record.state != records.DONE or not record.weights:
            return False
        return not (self._layout.run_results(run) / str(record.weights.get("model"))).exists()

    def _is_trained(self, run: str, record: Record | None) -> bool:
        results = self._layout.run_results(run)
        if record is not None and record.state == records.DONE and record.weights and checkpoint.is_sealed(record.weights, results):
            return True
        return _is_trained(self._layout, run)


def _of_untrained(found: StageState) -> StageState:
    """How far an evaluation is whose training failed."""
    if found.state in OVER_BADLY:
        return StageState(WAITING, UNTRAINED)  # Slurm dropped it, or it was cleared, or its job came to it in vain
    if found.state == QUEUED and found.in_slurm:
        return replace(found, state=WAITING, why=UNTRAINED)  # in a job that evaluates others too
    return found


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _is_trained(layout: Layout, run: str) -> bool:
    """By a look at all of it: of what was trained by hand, and what was copied, no record tells."""
    results, train_config = layout.run_results(run), layout.train_config(run)
    if not train_config.is_file() or not any(path.name != paths.RECORD and not path.is_symlink() for path in _entries(results)):
        return False
    try:
        return Training.of(run, (), train_config, read_config(train_config), layout.folder).fault() is None
    except (OSError, CruijffKitError):
        return False

