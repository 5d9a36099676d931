"""What the forms of evaluation cost, on SmolLM2-135M and a sweep of four ranks: `python -m tests.benchmarks.adapters`. Figures only."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from cruijff_kit.disk_space import human, occupied_bytes

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2_capitalize"
COMMAND = Path(sys.executable).with_name("cruijff-kit")
RANKS = [8, 16, 32, 64]
ROWS = 8  # two steps: neither disk nor evaluation depend on how long it was trained
RUNS = [f"run_{number:03}" for number in range(len(RANKS))]
FORMS: dict[str, dict[str, Any]] = {
    "merged model": {"model_format": "hf"},
    "merged for the occasion": {"model_format": "adapter"},
    "on the base model": {"model_format": "adapter", "merge_adapters": False},
    "in turn on one base model": {"model_format": "adapter", "group_by_base": True},
}


def write(folder: Path, evaluation: dict[str, Any], **controls: Any) -> None:
    spec = yaml.safe_load((EXAMPLE / "experiment.yaml").read_text())
    spec["variables"] = {"lora_rank": RANKS}
    spec["controls"] |= {"epochs": 1, **controls}
    spec["evaluation"] |= {"baseline": False, "tasks": spec["evaluation"]["tasks"][:1], **evaluation}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    run([COMMAND, "generate", "--force", folder])


def run(command: list[str | Path]) -> float:
    """The seconds that it took."""
    start = time.perf_counter()
    done = subprocess.run(command, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - start


def trained(folder: Path, **controls: Any) -> Path:
    """The sweep in a new folder, trained."""
    shutil.copytree(EXAMPLE, folder)
    rows = (folder / "data/train.jsonl").read_text().splitlines(keepends=True)[:ROWS]
    (folder / "data/train.jsonl").write_text("".join(rows))
    write(folder, {"model_format": "adapter"}, **controls)
    run([COMMAND, "run", folder, "--multirun", "hydra/launcher=staged_local", "stages=[train]"])
    return folder


def disk(title: str, folder: Path) -> int:
    sizes = [occupied_bytes(folder / "results" / name / "hf_model") for name in RUNS]
    print(f"  {title:<28}{human(sum(sizes)):>12}   a run: {', '.join(map(human, sizes))}")
    return sum(sizes)


def evaluated(folder: Path, form: str) -> float:
    """The seconds a run that its evaluation takes, the program's start included."""
    write(folder, FORMS[form])
    if "group_by_base" in FORMS[form]:
        return run([sys.executable, folder / "configs/eval_group.py"]) / len(RUNS)
    return sum(run([sys.executable, folder / f"configs/eval_{number:03}.py"]) for number in range(len(RUNS))) / len(RUNS)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = trained(Path(temporary) / "merged")
        alone = trained(Path(temporary) / "adapters", save_adapter_weights_only=True)
        print(f"checkpoints of {len(RANKS)} runs of one epoch, ranks {', '.join(map(str, RANKS))}, fp32")
        models, adapters = disk("merged models", folder), disk("adapters alone", alone)
        print(f"  {models / adapters:.0f} times as much\n")
        print("evaluation of 40 samples, seconds a run; each form in a folder of its own scores")
        first = None
        for form in FORMS:
            shutil.rmtree(folder / "eval_results", ignore_errors=True)
            seconds = evaluated(folder, form)
            first = first or seconds
            print(f"  {form:<28}{seconds:>7.1f}   {seconds / first:.2f}", flush=True)


if __name__ == "__main__":
    main()
