"""An experiment's sweep on a real Slurm: trained, evaluated, and protected against what changes while it waits."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cruijff_kit import inputs
from tests.slurm.private_slurm import PrivateSlurm
from tests.tiny_experiment import specification, write_experiment

SLURM = "hydra/launcher=staged_slurm"


class Sweep:
    """A generated experiment over the tiny model, on one Slurm, or none."""

    def __init__(self, folder: Path, slurm: PrivateSlurm | None, spec: dict, prepare: Callable[[Path], None] = lambda folder: None) -> None:
        self.folder, self.slurm = folder, slurm
        write_experiment(folder, spec["framework_config"]["model_dir"], spec)
        prepare(folder)
        done = self.command("generate", folder)
        assert done.returncode == 0, done.stderr

    def command(self, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("cruijff-kit")), *map(str, words)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(self.slurm.environment if self.slurm else {}), **environment}
        return subprocess.run(command, env=variables, text=True, capture_output=True, stdin=subprocess.DEVNULL)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.command("run", self.folder, "--multirun", SLURM, *words, **environment)

    @property
    def launches(self) -> list[dict]:
        """launch.json of each launch, the first first."""
        files = sorted((self.folder / ".cruijff-kit" / "slurm").glob("*/launch.json"))
        return [json.loads(file.read_text()) for file in files]

    def logs(self, stage: str) -> str:
        """All that the jobs of a stage said."""
        files = (self.folder / ".cruijff-kit" / "slurm").glob(f"*/*_{stage}/*_log.out")
        return "\n".join(file.read_text() for file in sorted(files))

    def results(self, run: str) -> dict:
        return json.loads((self.folder / "eval_results" / run / "capitalize" / "results.json").read_text())

    def wait(self, timeout_s: float = 240) -> None:
        """Until none of this Slurm's jobs waits or runs."""
        self.slurm.wait_until_idle(timeout_s)


@pytest.fixture
def sweep(tmp_path: Path, tiny_model: Path, slurm: PrivateSlurm) -> Sweep:
    return Sweep(tmp_path / "a sweep", slurm, specification(tiny_model))


def test_a_sweep_is_trained_and_evaluated_from_what_it_was_when_it_was_sent(tmp_path, tiny_model, slurm):
    """With the baseline, which no training comes before; and sent again, which sends nothing."""
    spec = specification(tiny_model)
    spec["evaluation"]["baseline"] = True
    sweep = Sweep(tmp_path / "a sweep", slurm, spec)
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")  # all of it waits
    try:
        sent = sweep.run()
        assert sent.returncode == 0, sent.stderr
        again = sweep.run("hydra.launcher.poll_s=0.5")
        assert again.returncode == 0, again.stderr
        (launch,) = sweep.launches
        jobs = [array["job"] for array in launch["arrays"]]
        assert [(array["name"], len(array["tasks"])) for array in launch["arrays"]] == [("0_eval", 1), ("1_train", 2), ("2_eval", 2)]
        assert f"job {jobs[1]}: 2 train, sent before\n" in again.stdout
        for path in (sweep.folder / "configs").iterdir():
            path.write_text("nonsense")
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    sweep.wait()
    assert {job: set(slurm.states(str(job)).values()) for job in jobs} == dict.fromkeys(jobs, {"COMPLETED"})
    assert [sweep.results(run)["status"] for run in ("base", "run_000", "run_001")] == ["success"] * 3
    assert [sweep.results(run)["params"] for run in ("run_000", "run_001")] == [{"lora_rank": 2}, {"lora_rank": 4}]


@pytest.fixture(scope="module")
def first_trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, slurm: PrivateSlurm) -> Sweep:
    """A sweep of which the first run was trained, and not evaluated."""
    sweep = Sweep(tmp_path_factory.mktemp("trained") / "a sweep", slurm, specification(tiny_model))
    done = sweep.run("stages=[train]", "lora_rank=2", "hydra.launcher.wait=true")
    assert done.returncode == 0, done.stderr
    return sweep


@pytest.fixture
def half(first_trained: Sweep, tmp_path: Path) -> Sweep:
    """A copy of that sweep, which knows its new place and of no launch."""
    half = copy.copy(first_trained)
    half.folder = shutil.copytree(first_trained.folder, tmp_path / "half a sweep", symlinks=True, ignore=shutil.ignore_patterns(".cruijff-kit"))
    done = half.command("generate", "--force", half.folder)
    assert done.returncode == 0, done.stderr
    return half


def test_what_is_trained_already_is_only_evaluated(half):
    rest = half.run("hydra.launcher.wait=true")
    assert rest.returncode == 0, rest.stderr
    assert rest.stderr.startswith("train: done: run_000\n")
    stages = [(array["stage"], list(array["tasks"].values())) for array in half.launches[0]["arrays"]]
    assert [(stage, len(keys)) for stage, keys in stages] == [("eval", 1), ("train", 1), ("eval", 1)]
    assert "run_000" in stages[0][1][0] and "run_001" in stages[1][1][0]
    assert "run_000" in rest.stdout and "run_001" in rest.stdout  # the table of scores


@pytest.mark.parametrize(
    ("name", "stage", "rank", "run"), [("data/train.jsonl", "train", 4, "run_001"), ("evals/data/words.jsonl", "eval", 2, "run_000")]
)
def test_an_input_that_changes_while_jobs_wait_fails_them_with_that_reason(half, slurm, name, stage, rank, run):
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        assert half.run(f"lora_rank={rank}").returncode == 0
        path = half.folder / name
        path.write_text(path.read_text().replace("apple", "plums"))
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    half.wait()
    job = next(array["job"] for array in half.launches[0]["arrays"] if array["stage"] == stage)
    assert slurm.states(str(job)) == {"0": "FAILED"}
    assert f"{path} changed since this was submitted: submit it again, if it is what you want to use" in half.logs(stage)
    assert not list((half.folder / "eval_results" / run).glob("*/*.json"))


def test_a_file_that_was_only_touched_has_not_changed(sweep):
    recorded = inputs.record({"all": [sweep.folder / "data" / "train.jsonl"]}, sweep.folder)
    (sweep.folder / "data" / "train.jsonl").touch()
    inputs.check(recorded, "all")


def test_the_objective_is_what_a_point_returns(half):
    done = half.run("hydra.launcher.wait=true", "lora_rank=2", "evaluation.objective=capitalize/exact/stdev")
    assert done.returncode == 1
    hold = "evaluation.objective is capitalize/exact/stdev, and the results of run_000 hold capitalize/exact/mean, capitalize/exact/stderr"
    assert hold in done.stdout


ERRORS = {
    "a bad partition": (["cluster.eval.partition=nope"], "stage eval: srun: error: invalid partition specified: nope"),
    "an impossible gres": (["cluster.train.gpus_per_node=99"], "stage train: srun: error: "),
    "an unknown key": (["cluster.train.partion=gpu"], "did you mean 'cluster.train.partition'?"),
    "an unknown profile": (["cluster=defualt"], "did you mean 'default'?"),
}


@pytest.mark.parametrize(("words", "said"), ERRORS.values(), ids=ERRORS)
def test_what_slurm_would_not_take_is_one_message_and_nothing_is_sent(sweep, slurm, words, said):
    done = sweep.run(*words)
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert slurm.run("squeue", "--noheader") == ""
    assert sweep.launches == []


def test_a_machine_with_sbatch_and_no_gpu_wants_a_launcher_named(sweep):
    done = sweep.command("run", sweep.folder, "--multirun", CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "this machine has sbatch and no GPU: say where the sweep is to run\n"
        "  hydra/launcher=staged_slurm    on the cluster\n"
        "  hydra/launcher=staged_local    here\n"
    )


def test_without_sbatch_it_is_said_so(sweep, tmp_path):
    (tmp_path / "bin").mkdir()
    done = sweep.run(PATH=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert "was not found: is this a login node of the cluster?" in done.stderr


def test_a_controller_that_is_down_is_said_so(sweep):
    done = sweep.run(SLURM_CONF=str(sweep.folder / "none.conf"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_number_whose_training_is_queued_is_given_to_no_other_run(sweep, slurm):
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        assert sweep.run("lora_rank=2").returncode == 0
        spec = yaml.safe_load((sweep.folder / "experiment.yaml").read_text())
        spec["variables"] = {"lora_rank": [3, 4]}
        (sweep.folder / "experiment.yaml").write_text(yaml.safe_dump(spec))
        done = sweep.command("generate", sweep.folder, "--force")
        kept = sweep.command("generate", sweep.folder, "--keep-ids")
    finally:
        slurm.run("scancel", *(str(array["job"]) for array in sweep.launches[0]["arrays"]))
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    assert done.returncode == 1
    assert "run_000 is in Slurm's queue with the training of lora_rank=2, and would be lora_rank=3" in done.stderr
    assert kept.returncode == 0, kept.stderr
