"""`run --multirun` again: of a finished sweep it does what is missing, and nothing else. Real trainings and evaluations, here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cruijff_kit import records
from cruijff_kit.experiment import load
from cruijff_kit.paths import Layout
from cruijff_kit.train import asides
from tests.tiny_experiment import specification, write_experiment, write_spec

RUNS = ["run_000", "run_001"]
Command = Callable[..., subprocess.CompletedProcess[str]]
LOCAL = ["--multirun", "hydra/launcher=staged_local"]
UNLUCKY = '''

@task
def unlucky():
    import os

    if "NO_LUCK" in os.environ:
        raise ValueError("no luck today")
    return Task(dataset=json_dataset("data/words.jsonl"), solver=generate(), scorer=includes())
'''


class Sweep:
    """A two-point sweep over the tiny model, of which two commands at the same moment did both points."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.spec = folder, specification(model)
        self.spec["evaluation"]["limit"] = 2
        write_experiment(folder, model, self.spec)
        self.layout = Layout.of(load(folder))

    def record(self, stage: str, run: str) -> records.Record:
        record = records.read(self.layout.record(stage, run))
        assert record is not None, (stage, run)
        return record

    def logs(self, task: str) -> dict[str, list[str]]:
        """The .eval files of a task, by run."""
        return {run: sorted(path.name for path in (self.layout.run_eval_results(run) / task).rglob("*.eval")) for run in RUNS}

    def trained(self) -> dict[str, int]:
        """When the weights of each run were written."""
        return {run: next((self.layout.run_results(run) / "hf_model").rglob("model-*.safetensors")).stat().st_mtime_ns for run in RUNS}

    def write_new_task(self, cruijff: Command) -> None:
        with (self.folder / "evals" / "tasks.py").open("a") as file:
            file.write(UNLUCKY)
        self.spec["evaluation"]["tasks"].append({"name": "unlucky", "file": "tasks.py", "function": "unlucky"})
        write_spec(self.folder, self.spec)
        done = cruijff("generate", self.folder)
        assert done.returncode == 0, done.stderr


def left(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What --dry-run shows of each run, in one line."""
    assert done.returncode == 0, done.stderr
    lines = (line.split() for line in done.stdout.splitlines())
    return {words[0]: " ".join(words[2:]) for words in lines if words and words[0] in RUNS}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Sweep:
    made = Sweep(tmp_path_factory.mktemp("missing") / "a sweep", tiny_model)
    command = [Path(sys.executable).with_name("cruijff-kit"), "run", made.folder, *LOCAL]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stdout + stderr
    return made


def test_two_commands_at_the_same_moment_train_and_evaluate_each_point_once(sweep: Sweep) -> None:
    for run in RUNS:
        assert [sweep.record(stage, run).attempt for stage in ("train", "eval")] == [1, 1]
        assert len(list((sweep.layout.run_results(run) / "logs").iterdir())) == 1
    assert [len(names) for names in sweep.logs("capitalize").values()] == [1, 1]
    assert asides(sweep.layout.results) == {}


def test_a_new_task_is_evaluated_alone_and_where_it_failed_only_that_is_done_again(sweep: Sweep, cruijff: Command) -> None:
    before, weights = sweep.logs("capitalize"), sweep.trained()
    sweep.write_new_task(cruijff)
    assert left(cruijff("run", sweep.folder, *LOCAL, "--dry-run")) == dict.fromkeys(RUNS, "eval done unlucky: not evaluated")

    failed = cruijff("run", sweep.folder, *LOCAL, NO_LUCK="1")
    assert failed.returncode == 1
    assert [(sweep.record("eval", run).state, sweep.record("train", run).attempt) for run in RUNS] == [("failed", 1)] * 2
    why = left(cruijff("run", sweep.folder, *LOCAL, "--dry-run"))
    assert all(line.startswith("eval done failed: ") and "no luck today" in line for line in why.values()), why

    done = cruijff("run", sweep.folder, *LOCAL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train: done: run_000, run_001\n" in done.stderr
    assert [len(names) for names in sweep.logs("unlucky").values()] == [1, 1]
    assert (sweep.logs("capitalize"), sweep.trained()) == (before, weights)
    assert "nothing is left to do" in cruijff("run", sweep.folder, *LOCAL).stderr


def test_a_finished_run_is_done_again_when_it_is_named_and_its_results_stay_aside(sweep: Sweep, cruijff: Command) -> None:
    before, weights = sweep.logs("capitalize"), sweep.trained()
    done = cruijff("run", sweep.folder, *LOCAL, "--again", "run_001")
    assert done.returncode == 0, done.stdout + done.stderr
    now = sweep.trained()
    assert now["run_000"] == weights["run_000"] and now["run_001"] > weights["run_001"]
    assert sweep.logs("capitalize")["run_000"] == before["run_000"]
    assert [list(asides(folder)) for folder in (sweep.layout.results, sweep.layout.eval_results)] == [["run_001"]] * 2
    (old,) = asides(sweep.layout.results)["run_001"]
    assert next(old.rglob("model-*.safetensors")).stat().st_mtime_ns == weights["run_001"]
    (scores,) = asides(sweep.layout.eval_results)["run_001"]
    assert sorted(path.name for path in (scores / "capitalize").rglob("*.eval")) == before["run_001"]
    assert [sweep.record(stage, "run_001").attempt for stage in ("train", "eval")] == [1, 1]
    assert {len(sweep.logs(task["name"])["run_001"]) for task in sweep.spec["evaluation"]["tasks"]} == {1}
