"""Sweeps that lose their controller, their node, their job or their time, and end with the weights of one that lost nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cruijff_kit import checkpoint
from tests.slurm.configuration import Settings
from tests.slurm.conftest import started
from tests.slurm.private_slurm import PrivateSlurm, wait_until
from tests.slurm.test_sweep import Sweep
from tests.tiny_experiment import specification
from tests.tiny_llama import WORDS

EPOCHS = 6
ROWS_OF_A_WORD = 6
STEPS = ROWS_OF_A_WORD * len(WORDS) // 2  # of an epoch, in batches of two
# A training that takes as long as STEP_S says, and no processor's time for that: after its first epoch, which is to be whole,
# and not where it goes on from an epoch, for then it has been disturbed.
SLOW = f"""
import os, time
from torchtune.training.metric_logging import DiskLogger

class SlowLogger(DiskLogger):
    first = None

    def log_dict(self, payload, step):
        self.first = self.first or step
        if self.first == 1 and step > {STEPS}:
            time.sleep(float(os.environ.get("STEP_S", "0")))
        super().log_dict(payload, step)
"""


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """One that may be broken, and gives a silent node up soon."""
    yield from started(Settings(accounting=True, slurmd_timeout_s=5, message_timeout_s=3), tmp_path_factory)


def slow_sweep(folder: Path, tiny_model: Path, slurm: PrivateSlurm) -> Sweep:
    """Two points, whose steps take as long as the environment says."""
    folder.mkdir(parents=True)
    (folder / "slow.py").write_text(SLOW)  # trainings start in the experiment's folder, and find its modules
    spec = specification(tiny_model)
    spec["controls"]["_override"] = {"metric_logger": {"_component_": "slow.SlowLogger"}}
    spec["controls"].update({"epochs": EPOCHS, "lora_dropout": 0.1, "warmup_steps": 3, "learning_rate": 1e-3})
    sweep = Sweep(folder, slurm, spec)
    lines = [json.dumps({"input": f"Capitalize: {word} {n}", "output": word.capitalize()}) for n in range(ROWS_OF_A_WORD) for word in WORDS]
    (folder / "data" / "train.jsonl").write_text("\n".join(lines) + "\n")
    return sweep


def weights(folder: Path, run: str) -> str:
    return checkpoint.digest(folder / "results" / run / "hf_model" / f"epoch_{EPOCHS - 1}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, str]:
    """The weights of both points of the slow sweep, trained here in one go."""
    sweep = slow_sweep(tmp_path_factory.mktemp("undisturbed") / "sweep", tiny_model, None)
    done = sweep.command("run", sweep.folder, "--multirun", "hydra/launcher=staged_local", "hydra.launcher.max_parallel=2", "stages=[train]")
    assert done.returncode == 0, done.stderr
    return {run: weights(sweep.folder, run) for run in ("run_000", "run_001")}


def finished(sweep: Sweep, run: str, epoch: int) -> bool:
    folder = sweep.folder / "results" / run / "hf_model"
    return (folder / f"epoch_{epoch}").is_dir() and not (folder / f"epoch_{epoch}" / ".unfinished").exists()


def check_evaluated(sweep: Sweep, expected: dict[str, str]) -> None:
    for run, digest in expected.items():
        assert weights(sweep.folder, run) == digest
        results = sweep.results(run)
        assert (results["status"], results["trained_with"]) == ("success", {})
        assert len(list((sweep.folder / "eval_results" / run / "capitalize").glob("*/*.eval"))) == 1


def test_a_lost_controller_a_lost_node_and_a_requeued_job(tmp_path, tiny_model, slurm, undisturbed):
    sweep = slow_sweep(tmp_path / "sweep", tiny_model, slurm)
    whole_node = [f"cluster.{stage}.cpus_per_task=4" for stage in ("train", "eval")]
    sent = sweep.run(*whole_node, STEP_S="0.15")  # 27 s: longer than it takes to give up a node
    assert sent.returncode == 0, sent.stderr
    train = sweep.launches[0]["arrays"][0]["job"]
    nodes = lambda: dict(line.split() for line in slurm.run("squeue", "--noheader", "--array", f"--jobs={train}", "--format=%K %N", "--states=RUNNING").splitlines())  # noqa: E731
    wait_until(lambda: len(nodes()) == 2 and finished(sweep, "run_000", 0) and finished(sweep, "run_001", 0), 120, "both have an epoch")
    where = {node: index for index, node in nodes().items()}
    slurm.kill_controller()
    time.sleep(2)
    slurm.start_controller()
    slurm.kill_node("node1")  # its job goes on, and Slurm starts another copy of it when the node has been silent
    slurm.run("scontrol", "requeue", f"{train}_{where['node0']}")
    wait_until(lambda: "node1" not in nodes().values() and len(nodes()) >= 1, 120, "the node is given up")
    slurm.start_node("node1")
    sweep.wait(300)
    check_evaluated(sweep, undisturbed)
    assert sweep.logs("train").count("going on after its epoch") >= 2


def test_a_training_that_runs_out_of_time_goes_on_after_its_last_epoch(tmp_path, tiny_model, slurm, undisturbed):
    """Slurm tells it some time between half a minute and five seconds before the limit."""
    sweep = slow_sweep(tmp_path / "sweep", tiny_model, slurm)
    train = ["cluster.train.timeout_min=1", "cluster.train.signal_delay_s=5", "cluster.train.max_num_timeout=9"]
    sent = sweep.run("lora_rank=2", *train, "hydra.launcher.wait=true", STEP_S="0.3")  # 54 s
    assert sent.returncode == 0, sent.stdout + sent.stderr
    check_evaluated(sweep, {"run_000": undisturbed["run_000"]})
    said = sweep.logs("train")
    assert "out of time, or preempted: requeueing job" in said and "going on after its epoch" in said
