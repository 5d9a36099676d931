"""How long `status` takes, on a real Slurm, beside the least that its parts take: `python -m tests.benchmarks.status`. Figures only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cruijff_kit.experiment import load
from cruijff_kit.launches import new_launch
from cruijff_kit.paths import Layout
from cruijff_kit.run_mapping import read
from tests import finished_runs
from tests.slurm.private_slurm import PrivateSlurm
from tests.tiny_experiment import specification, write_experiment
from tests.tiny_llama import make_tiny_llama

COMMAND = Path(sys.executable).with_name("cruijff-kit")


def sweep(folder: Path, runs: int, slurm: PrivateSlurm, model: Path) -> Layout:
    """Half of the runs trained and evaluated, three tenths in Slurm's queue, a tenth failed, and a tenth not begun."""
    spec = specification(model)
    del spec["controls"]["seed"]
    spec["variables"] = {"seed": list(range(runs))}
    spec["controls"].update(lora_rank=2, lora_alpha=4)
    write_experiment(folder, model, spec)
    subprocess.run([COMMAND, "generate", "--yes", folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    layout = Layout.of(load(folder))
    rows = read(layout).rows
    for row in rows[: runs // 2]:
        finished_runs.train(layout, row.id, row.identity)
        finished_runs.evaluate(layout, row.id, row.identity)
    for row in rows[runs // 2 : runs // 2 + runs // 10]:
        finished_runs.record(layout, row.id, "train", row.identity, state="failed", reason="tune exited with 1: ValueError: no luck", exit_code=1)
    _queue(layout, [f"{row.id} {row.identity}" for row in rows[-(3 * runs // 10 or 1) :]], slurm)
    return layout


def _queue(layout: Layout, keys: list[str], slurm: PrivateSlurm) -> None:
    for start in range(0, len(keys), 1000):
        part = dict(enumerate(keys[start : start + 1000]))
        launch = new_launch(layout.launches)
        array = launch.add("0_train", "train", part, 1)
        array.folder.mkdir()
        (array.folder / "submission.sh").write_text("#!/bin/sh\nsleep 1000\n")
        words = ["sbatch", "--parsable", "--hold", f"--array=0-{len(part) - 1}", f"--comment={array.token}", str(array.folder / "submission.sh")]
        array.job = int(slurm.run(*words))
        launch.save()


def shortest(command: list[str | Path], environment: dict[str, str], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, PrivateSlurm(Path(name) / "slurm") as slurm:
        folder, model = Path(name), make_tiny_llama(Path(name) / "model")
        nothing = shortest([sys.executable, "-c", "import rich.console, rich.table, pydantic, omegaconf, yaml"], {})
        asked = shortest(["squeue", "--states=all"], slurm.environment)
        print(f"its libraries alone: {nothing:.2f} s; one squeue: {asked:.2f} s; load {os.getloadavg()[0]:.1f}")
        for runs in (4, 1000, 4000):
            layout = sweep(folder / str(runs), runs, slurm, model)
            took = shortest([COMMAND, "status", layout.folder], slurm.environment)
            data = shortest([COMMAND, "status", "--json", layout.folder], slurm.environment)
            print(f"{runs:5} runs: status {took:.2f} s, --json {data:.2f} s", flush=True)


if __name__ == "__main__":
    main()
