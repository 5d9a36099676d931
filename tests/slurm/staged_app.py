"""A small Hydra application with two stages, sent to Slurm; what its jobs did is in events.jsonl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

LAUNCHERS = Path(__file__).resolve().parents[2] / "launchers"

CONFIG = """
defaults:
  - override hydra/launcher: staged_slurm
  - override hydra/sweeper: grid
  - _self_
x: 1
seconds: 0
seconds_again: ${seconds}  # of a task that was requeued
fail: null
score: false
stages: [train, eval]
stage: null
value: as it was
cluster:
  train: {gpus_per_node: 1}
  eval: {gpus_per_node: 1}
hydra:
  output_subdir: null
  job: {name: small}
  sweep: {dir: out}
  launcher:
    stages: {train: {needs: null}, eval: {needs: train}}
    folder: ${hydra.runtime.cwd}/slurm
    poll_s: 0.1
"""

APP = """
import json, os, sys, time
import hydra

def note(event, config):
    line = dict(event=event, x=config.x, stage=config.stage, value=config.value, time=time.time(),
                gpu=os.environ.get("CUDA_VISIBLE_DEVICES"), job=os.environ["SLURM_ARRAY_JOB_ID"], index=os.environ["SLURM_ARRAY_TASK_ID"],
                restarts=int(os.environ.get("SLURM_RESTART_COUNT", 0)), pid=os.getpid(), process=int(os.environ["SLURM_PROCID"]))
    with open(os.path.join(os.path.dirname(__file__), "events.jsonl"), "a") as file:
        file.write(json.dumps(line) + "\\n")

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    note("start", config)
    if config.fail == f"second {config.x} {config.stage}" and os.environ["SLURM_PROCID"] == "1":
        raise RuntimeError("the second had no luck")
    time.sleep(config.seconds_again if "SLURM_RESTART_COUNT" in os.environ else config.seconds)
    if config.fail == f"raise {config.x} {config.stage}":
        raise RuntimeError("out of luck")
    if config.fail == f"exit {config.x} {config.stage}":
        sys.exit(7)
    note("end", config)
    return (config.x - 2) ** 2 if config.score else [config.x, config.stage]

if __name__ == "__main__":
    main()
"""


class StagedApp:
    """The application in a folder of its own; `environment` says which Slurm it means."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(CONFIG)
        (folder / "app.py").write_text(APP)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(self.folder / "app.py"), "--multirun", *words]

    @property
    def variables(self) -> dict[str, str]:
        """The environment of its processes."""
        path = os.pathsep.join([str(LAUNCHERS), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path, **self.environment}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), cwd=self.folder, env=self.variables, text=True, capture_output=True, timeout=180, stdin=DEVNULL
        )

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """As run, without waiting for its end."""
        return subprocess.Popen(
            self.command(*words), **{"cwd": self.folder, "env": self.variables, "text": True, "stdout": PIPE, "stderr": PIPE, "stdin": DEVNULL, **options}
        )

    def did(self, *, event: str = "end") -> list[tuple[str, int]]:
        """Each stage and x of the jobs' events, sorted."""
        return sorted((line["stage"], line["x"]) for line in self.events(event=event))

    def events(self, *, event: str = "end", stage: str | None = None) -> list[dict[str, Any]]:
        """What the jobs noted, in order: `start` and `end` of a stage."""
        path = self.folder / "events.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["event"] == event and stage in (None, line["stage"])]
