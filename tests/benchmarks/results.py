"""How long `results` takes for a finished sweep of so many runs and three tasks: `python -m tests.benchmarks.results`. Figures only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cruijff_kit.experiment import load
from cruijff_kit.paths import Layout
from cruijff_kit.run_mapping import read
from tests import finished_runs, made_up_logs
from tests.benchmarks.status import COMMAND, shortest
from tests.tiny_experiment import specification, write_experiment
from tests.tiny_llama import make_tiny_llama

TASKS = 3


def sweep(folder: Path, runs: int, model: Path) -> Layout:
    """All runs trained and evaluated."""
    spec = specification(model)
    del spec["controls"]["seed"]
    spec["variables"] = {"lora_rank": [2, 4], "seed": list(range(runs // 2))}
    spec["evaluation"]["tasks"] = [{"name": f"capitalize_{number}", "file": "tasks.py", "function": "capitalize"} for number in range(TASKS)]
    write_experiment(folder, model, spec)
    subprocess.run([COMMAND, "generate", "--yes", folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    layout = Layout.of(load(folder))
    for row in read(layout).rows:
        finished_runs.train(layout, row.id, row.identity)
        finished_runs.evaluate(layout, row.id, row.identity)
    made_up_logs.write(layout, lambda run, task: (int(run.removeprefix("run_")) * 7 + len(task)) % 100 / 100)
    return layout


def first(layout: Layout) -> float:
    """Of the command that has read none of the logs before."""
    (layout.hidden / "logs.json").unlink(missing_ok=True)
    start = time.perf_counter()
    subprocess.run([COMMAND, "results", layout.folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), make_tiny_llama(Path(name) / "model")
        inspect = shortest([sys.executable, "-c", "import inspect_ai.analysis, pandas"], {})
        print(f"Inspect's import alone: {inspect:.2f} s; load {os.getloadavg()[0]:.1f}")
        for runs in (4, 1000, 4000):
            layout = sweep(folder / str(runs), runs, model)
            anew = first(layout)
            again = shortest([COMMAND, "results", layout.folder], {})
            print(f"{runs:5} runs x {TASKS} tasks: results {anew:.2f} s the first time, {again:.2f} s after", flush=True)


if __name__ == "__main__":
    main()
