"""One job that evaluates several runs: what `status`, `cancel`, `logs` and the next launch make of it. Slurm's programs are small scripts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cruijff_kit import ownership, paths
from cruijff_kit.cancel import cancel
from cruijff_kit.launches import SentArray, new_launch
from cruijff_kit.stage_state import StageState
from cruijff_kit.sweep_state import look
from tests.test_status import Sweep
from tests.tiny_experiment import specification, write_hollow_model

RUNS = ["run_000", "run_001", "run_002", "run_003"]
LATER = "its job has not come to it yet"
UNTRAINED = "its training has not ended well"


class Queue:
    """What squeue lists, and what scancel was told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._listed, self._told = folder / "listed", folder / "told"
        folder.mkdir()
        for name, does in {"squeue": f"cat '{self._listed}'", "scancel": f"echo $* >> '{self._told}'", "sacct": "true"}.items():
            (folder / name).write_text(f"#!/bin/sh\n{does}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        self.lists()

    def lists(self, *jobs: tuple[str, str, str, SentArray | Path], exit_code: int = 0) -> None:
        """Jobs by name (`12_0` or `15`), state and reason, each of an array that was sent or of a script."""
        text = ""
        for name, state, reason, source in jobs:
            job, _, index = name.partition("_")
            command, comment = ("(null)", source.token) if isinstance(source, SentArray) else (str(source), "(null)")
            text += "\x1f".join([job, index or "N/A", job, state, reason, "0", str(exit_code), command, "tiny", comment]) + "\x1e\n"
        self._listed.write_text(text)

    @property
    def cancelled(self) -> list[str]:
        return self._told.read_text().splitlines() if self._told.exists() else []


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(tmp_path / "bin", monkeypatch)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Five runs: three are trained, one failed to, one was never begun."""
    model = write_hollow_model(tmp_path / "model")
    spec = specification(model)
    spec["variables"] = {"lora_rank": [2, 4, 8, 16, 32]}
    sweep = Sweep(tmp_path / "a sweep", model, spec)
    for run in ("run_000", "run_001", "run_003"):
        sweep.train(run)
    sweep.record("run_002", "train", "failed", reason="no luck")
    return sweep


@pytest.fixture
def group(sweep: Sweep) -> SentArray:
    """The evaluation of the first four as one task, job 12_0."""
    launch = new_launch(sweep.layout.launches)
    array = launch.add("0_eval", "eval", {0: "\n".join(f"{run} {sweep.rows[run].identity} 0123" for run in RUNS)}, 1)
    array.job = 12
    array.folder.mkdir()
    launch.save()
    return array


def evaluations(sweep: Sweep) -> dict[str, StageState]:
    return {run.run: run.eval for run in look(sweep.folder).runs}


def told(sweep: Sweep) -> list[tuple[str, str, str | None]]:
    return [(state.state, state.why, state.job) for state in evaluations(sweep).values()]


NOT_SENT = ("waiting", "", None)


def test_it_waits_for_all_trainings_and_no_launcher_takes_it_for_the_evaluation_of_one(sweep: Sweep, group: SentArray, queue: Queue) -> None:
    queue.lists(("12_0", "PENDING", "Dependency", group))
    assert told(sweep) == [("waiting", "for the trainings of all that it is evaluated with", "12_0")] * 4 + [NOT_SENT]
    assert [(state.is_under_way, state.key) for state in evaluations(sweep).values()] == [(True, None)] * 4 + [(False, None)]
    queue.lists(("12_0", "PENDING", "Resources", group))
    assert [state for state, *_ in told(sweep)] == ["queued", "queued", "waiting", "queued", "waiting"]


def test_of_a_running_one_each_run_is_where_its_record_says_it_is(sweep: Sweep, group: SentArray, queue: Queue) -> None:
    queue.lists(("12_0", "RUNNING", "None", group))
    sweep.record("run_000", "eval", "running", job="12_0", ended_s=None)
    assert told(sweep) == [("running", "", "12_0"), ("queued", LATER, "12_0"), ("waiting", UNTRAINED, "12_0"), ("queued", LATER, "12_0"), NOT_SENT]
    sweep.record("run_000", "eval", "failed", job="12_0", reason="no luck")
    sweep.evaluate("run_001")
    sweep.record("run_001", "eval", "done", job="12_0")
    sweep.record("run_003", "eval", "running", job="12_0", ended_s=None)
    assert told(sweep) == [("failed", "no luck", "12_0"), ("done", "", "12_0"), ("waiting", UNTRAINED, "12_0"), ("running", "", "12_0"), NOT_SENT]
    assert [state.is_under_way for state in evaluations(sweep).values()] == [False, False, True, True, False]


def test_what_failed_in_it_and_was_sent_alone_since_is_where_that_job_is(sweep: Sweep, group: SentArray, queue: Queue) -> None:
    sweep.record("run_000", "eval", "failed", job="12_0", reason="no luck")
    launch = new_launch(sweep.layout.launches)
    alone = launch.add("0_eval", "eval", {0: f"run_000 {sweep.rows['run_000'].identity} 4567"}, 1)
    alone.job = 13
    launch.save()
    queue.lists(("13_0", "PENDING", "Resources", alone), ("12_0", "RUNNING", "None", group))
    assert told(sweep)[:2] == [("queued", "", "13_0"), ("queued", LATER, "12_0")]


def test_when_it_is_over_nothing_is_said_of_one_run_that_happened_to_another(sweep: Sweep, group: SentArray, queue: Queue) -> None:
    """The first is evaluated, the second failed; the third was not trained, and the fourth only later: the job left it out."""
    queue.lists(("12_0", "FAILED", "NonZeroExitCode", group), exit_code=256)
    group.slot(0).log.write_text("Traceback (most recent call last):\nValueError: no luck\nrun_003 is left out: it is not trained\n")
    sweep.evaluate("run_000")
    sweep.record("run_000", "eval", "done", job="12_0")
    sweep.record("run_001", "eval", "failed", job="12_0", reason="no luck")
    left_out = ("failed", "job 12_0 is over and did not evaluate it: its log says why", "12_0")
    assert told(sweep) == [("done", "", "12_0"), ("failed", "no luck", "12_0"), ("waiting", UNTRAINED, None), left_out, NOT_SENT]
    queue.lists(("12_0", "TIMEOUT", "TimeLimit", group))
    assert told(sweep)[3] == ("failed", "time limit: Slurm ended it", "12_0")


def test_its_log_is_that_of_each_of_its_runs(
    sweep: Sweep, group: SentArray, queue: Queue, cruijff: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    queue.lists(("12_0", "RUNNING", "None", group))
    group.slot(0).log.write_text("run_000 capitalize: 12 samples\n")
    sweep.record("run_000", "eval", "running", job="12_0", ended_s=None)
    for run, state in (("run_000", "running"), ("run_003", f"queued, {LATER}")):
        done = cruijff("logs", sweep.folder, run, "--stage", "eval")
        assert (done.stdout, done.stderr) == ("run_000 capitalize: 12 samples\n", f"{run} eval: {state}, job 12_0\n{group.slot(0).log}\n")


def test_cancel_of_one_of_its_runs_leaves_it_alone_and_says_what_ends_it(sweep: Sweep, group: SentArray, queue: Queue) -> None:
    queue.lists(("12_0", "RUNNING", "None", group))
    whole = f"cruijff-kit cancel '{sweep.folder}'"
    assert cancel(sweep.folder, ["run_003"]) == [
        f"run_003 eval: left alone: job 12_0 evaluates run_000, run_001, run_002, run_003 together: {whole} ends it"
    ]  # fmt: skip
    assert queue.cancelled == []
    assert cancel(sweep.folder, [*RUNS, "run_004"]) == [f"{run} eval: job 12_0 cancelled, it was running" for run in RUNS]
    assert queue.cancelled == ["12_[0]"]


def test_cancel_of_everything_ends_it_before_the_trainings_that_it_waits_for(sweep: Sweep, group: SentArray, queue: Queue) -> None:
    launch = new_launch(sweep.layout.launches)
    trainings = launch.add("0_train", "train", {number: f"{run} {sweep.rows[run].identity}" for number, run in enumerate(RUNS)}, 1)
    trainings.job = 11
    launch.save()
    queue.lists(*((f"11_{number}", "RUNNING", "None", trainings) for number in range(4)), ("12_0", "PENDING", "Dependency", group))
    assert len(cancel(sweep.folder)) == 8
    assert queue.cancelled == ["12_[0]", "11_[0-3]"]
    queue.lists()
    assert {(state.state, state.why) for run, state in evaluations(sweep).items() if run in ("run_000", "run_001", "run_003")} == {
        ("cancelled", "cancelled before it ran")
    }


def test_a_job_of_the_evaluations_script_without_an_array_evaluates_every_run(sweep: Sweep, queue: Queue) -> None:
    queue.lists(("15", "RUNNING", "None", sweep.layout.script("train")))
    assert {state.job for state in evaluations(sweep).values()} == {None}
    queue.lists(("15", "RUNNING", "None", sweep.layout.script("eval")))
    assert {(state.state, state.job, state.key) for state in evaluations(sweep).values()} == {("running", "15", None)}
    sweep.evaluate("run_001")
    sweep.layout.record("eval", "run_001").unlink()  # which it keeps none of
    assert told(sweep)[1][0] == "done" and not evaluations(sweep)["run_001"].is_under_way
    assert cancel(sweep.folder, ["run_001"])[0].startswith("run_001 eval: left alone: job 15 evaluates run_000, run_001, run_002, run_003, run_004 together: ")
    assert len(cancel(sweep.folder)) == 5
    assert queue.cancelled == ["15"]


def test_a_process_here_that_evaluates_several_runs_is_not_interrupted_for_one(sweep: Sweep, queue: Queue) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ownership.owned(paths.held(sweep.folder, "eval", "run_000"), runs=["run_000", "run_001"]):
            (left,) = cancel(sweep.folder, ["run_000"])
            assert left.startswith(f"run_000 eval: left alone: process {os.getpid()} evaluates run_000, run_001 together: cruijff-kit cancel ")
            assert cancel(sweep.folder, ["run_000", "run_001"]) == [f"run_000 eval: process {os.getpid()} interrupted"]
    finally:
        signal.signal(signal.SIGINT, before)
