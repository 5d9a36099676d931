"""How long a sweep takes to be accepted by Slurm, and its jobs to run: `python -m tests.benchmarks.slurm`. Figures only."""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tests.slurm.private_slurm import PrivateSlurm, wait_until
from tests.slurm.staged_app import CONFIG, StagedApp
from tests.tiny_experiment import specification, write_experiment
from tests.tiny_llama import make_tiny_llama

NO_GPUS = ["cluster.train.gpus_per_node=0", "cluster.eval.gpus_per_node=0"]
TRAININGS_S = (1, 2, 3, 4, 5, 6, 8, 10)
EVALUATION_S = 1
GPUS = 4
RESOLVER = f"""from omegaconf import OmegaConf
OmegaConf.register_new_resolver("took", lambda x, stage: {EVALUATION_S} if stage == "eval" else int(x), replace=True)
"""


def accepted_s(app: StagedApp, points: int) -> float:
    """From the start of the command to Slurm's word for every point."""
    start = time.perf_counter()
    done = app.run(f"x=range({points})", *NO_GPUS)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start


def submitit_point_s(folder: Path, few: int = 10, more: int = 60) -> float:
    """What hydra-submitit-launcher, with Hydra's own sweeper, takes for each further point before it calls sbatch."""
    folder.mkdir()
    sbatch, called = folder / "sbatch", folder / "called"
    sbatch.write_text(f'#!/bin/sh\ndate +%s.%N >"{called}"\nexit 1\n')
    sbatch.chmod(0o755)
    app = StagedApp(folder / "app", {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})
    text = CONFIG.replace("staged_slurm", "submitit_slurm").replace("hydra/sweeper: grid", "hydra/sweeper: basic")
    (app.folder / "config.yaml").write_text(text[: text.index("  launcher:\n")])
    took = []
    for points in (few, more):
        start = time.time()
        done = app.run("x=" + ",".join(map(str, range(points))))
        assert called.exists(), done.stderr
        took.append(float(called.read_text()) - start)
        called.unlink()
    return (took[1] - took[0]) / (more - few)


def experiment_s(folder: Path, slurm: PrivateSlurm) -> float:
    """As accepted_s, for an experiment of ten ranks and a hundred seeds over the tiny model."""
    spec = specification(make_tiny_llama(folder / "model"))
    del spec["controls"]["seed"]
    spec["variables"] = {"lora_rank": list(range(1, 11)), "seed": list(range(100))}
    write_experiment(folder / "experiment", folder / "model", spec)
    command = [sys.executable, "-c", "import sys; from cruijff_kit.cli import main; sys.exit(main())"]
    variables = {**os.environ, **slurm.environment}
    run = [*command, "run", str(folder / "experiment"), "--multirun", "hydra/launcher=staged_slurm"]
    subprocess.run([*command, "generate", "--yes", str(folder / "experiment")], env=variables, check=True, capture_output=True)
    start = time.perf_counter()
    done = subprocess.run(run, env=variables, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start


def listed_s(durations: Sequence[float]) -> float:
    """How long jobs take that start in this order, each on the first GPU that is free."""
    free = [0.0] * GPUS
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def makespan(app: StagedApp, slurm: PrivateSlurm) -> tuple[float, dict[str, list[float]]]:
    """From the first start to the last end, and how long each point's jobs took, their own start-up included. Slurm's times: whole seconds."""
    app_py, config = app.folder / "app.py", app.folder / "config.yaml"
    app_py.write_text(RESOLVER + app_py.read_text())
    config.write_text(config.read_text().replace("seconds: 0", "seconds: ${took:${x},${stage}}"))
    done = app.run("x=" + ",".join(map(str, TRAININGS_S)))
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not slurm.run("squeue", "--noheader"), 180, "all jobs have ended")
    assert len(app.events()) == 2 * len(TRAININGS_S)
    listing = slurm.run("squeue", "--noheader", "--array", "--states=all", "--sort=i", "--format=%j %S %e").splitlines()
    jobs = [(name, *map(datetime.fromisoformat, times)) for name, *times in map(str.split, listing)]
    took = {stage: [(end - start).total_seconds() for name, start, end in jobs if name == f"small-{stage}"] for stage in ("train", "eval")}
    return (max(end for *_, end in jobs) - min(start for _, start, _ in jobs)).total_seconds(), took


def print_makespan(app: StagedApp, slurm: PrivateSlurm) -> None:
    took, stages = makespan(app, slurm)
    chains = [sum(pair) for pair in zip(stages["train"], stages["eval"], strict=True)]
    barred = listed_s(stages["train"]) + listed_s(stages["eval"])
    bound = max(sum(chains) / GPUS, max(chains))
    print(f"8 points on {GPUS} GPUs            {took:7.1f} s    all training first: {barred:.1f} s    no schedule is below {bound:.1f} s", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, PrivateSlurm(Path(name) / "slurm") as slurm:
        folder = Path(name)
        print(f"load average                  {os.getloadavg()[0]:7.1f}", flush=True)
        print_makespan(StagedApp(folder / "makespan", slurm.environment), slurm)
        slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")  # nothing starts beside what is measured
        ours, theirs = accepted_s(StagedApp(folder / "trivial", slurm.environment), 1000), submitit_point_s(folder / "submitit")
        print(f"1,000 points accepted         {ours:7.2f} s    {ours:.2f} ms a point, all told", flush=True)
        print(f"hydra-submitit-launcher       {theirs * 1000:7.1f} ms a point before sbatch    {theirs * 1000 / ours:.0f} times as much", flush=True)
        experiment = experiment_s(folder / "tiny", slurm)
        print(f"1,000 points of an experiment {experiment:7.2f} s    {experiment:.2f} ms a point    {theirs * 1000 / experiment:.0f} times less", flush=True)


if __name__ == "__main__":
    main()
