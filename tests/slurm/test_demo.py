"""What `make demo` promises, on the real SmolLM2-135M: both fine-tuned models beat the untouched one, here and on Slurm."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.private_slurm import PrivateSlurm

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2_capitalize"


@pytest.fixture(scope="module")
def demo(
    tmp_path_factory: pytest.TempPathFactory, cruijff: Callable[..., subprocess.CompletedProcess[str]], python_path: str | None
) -> tuple[Path, str]:
    """The example, trained and evaluated, and what `run --multirun` printed. The model is made by `make test`."""
    folder = tmp_path_factory.mktemp("demo") / EXAMPLE.name
    shutil.copytree(EXAMPLE, folder)
    done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local", PYTHONPATH=python_path or "")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def printed(output: str) -> dict[tuple[str, str], list[str]]:
    """The rows of the table by run and task: metric, value, stderr and samples."""
    rows = [line.split() for line in output.splitlines() if line.strip().startswith(("base ", "run_"))]
    return {(row[0], next(word for word in row if word.startswith("capitalize"))): row[-4:] for row in rows}


def test_both_fine_tuned_models_score_higher_than_the_untouched_one(demo: tuple[Path, str]) -> None:
    rows = printed(demo[1])
    assert {run for run, _ in rows} == {"base", "run_000", "run_001"}
    scores = {run: float(values[1]) for (run, task), values in rows.items() if task == "capitalize"}
    assert scores["run_000"] > scores["base"]
    assert scores["run_001"] > scores["base"]


def test_the_printed_scores_are_those_of_inspects_logs(demo: tuple[Path, str]) -> None:
    from inspect_ai.log import read_eval_log

    folder, output = demo
    for (run, task), (metric, value, stderr, samples) in printed(output).items():
        (path,) = (folder / "eval_results" / run / task).rglob("*.eval")
        log = read_eval_log(str(path))
        metrics = log.results.scores[0].metrics
        assert (value, stderr) == (f"{metrics[metric].value:.4f}", f"{metrics['stderr'].value:.4f}")
        assert int(samples) == len(log.samples) == log.results.completed_samples


def test_on_slurm_the_scores_of_a_point_are_the_same(
    demo: tuple[Path, str], slurm: PrivateSlurm, tmp_path: Path, cruijff: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = tmp_path / EXAMPLE.name
    shutil.copytree(EXAMPLE, folder)
    words = ["hydra/launcher=staged_slurm", "hydra.launcher.wait=true", "lora_rank=4", "evaluation.tasks=[capitalize]", "evaluation.baseline=false"]
    done = cruijff("run", folder, "--multirun", *words, **slurm.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    point = ("run_000", "capitalize")
    assert printed(done.stdout)[point] == printed(demo[1])[point]
