"""Every file name inside an experiment's folder, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cruijff_kit.experiment import Experiment

BASELINE = "base"
HIDDEN = ".cruijff-kit"
RECORD = "record.json"


def conf_dir() -> Path:
    """The packaged Hydra tree: inside the package when installed, beside it in a checkout."""
    return _packaged("conf", "conf")


def quickstart_dir() -> Path:
    """The example that `init` copies: inside the package when installed, in examples/ of a checkout."""
    return _packaged("templates/quickstart", "examples/smollm2_capitalize")


def _packaged(installed: str, checkout: str) -> Path:
    package = Path(__file__).resolve().parent
    return package / installed if (package / installed).is_dir() else package.parent / checkout


def run_id(number: int, total: int) -> str:
    """`run_007`: three digits up to 1,000 runs, then as many as the last number needs."""
    return f"run_{number:0{max(3, len(str(total - 1)))}d}"


def run_number(run: str) -> int:
    return int(run.removeprefix("run_"))


def held(folder: Path, stage: str, run: str) -> Path:
    """What a stage of the run holds while it writes results; `folder` is the experiment's."""
    return folder / HIDDEN / {"train": "training", "eval": "evaluation"}[stage] / run


@dataclass(frozen=True)
class Layout:
    """Where things lie below `folder`; run ids are `run_000`, … or `base`."""

    folder: Path
    configs: Path
    results: Path
    eval_results: Path

    @classmethod
    def of(cls, experiment: Experiment) -> Layout:
        output = experiment.spec.output
        names = (output.configs_dir, output.results_dir, output.eval_results_dir)
        return cls(experiment.folder, *(experiment.path(name) for name in names))

    @property
    def run_mapping(self) -> Path:
        return self.configs / "run_mapping.yaml"

    @property
    def multirun(self) -> Path:
        return self.configs / "multirun.yaml"

    @property
    def hidden(self) -> Path:
        """Hydra's and submitit's own files, and writes that are under way."""
        return self.folder / HIDDEN

    @property
    def launches(self) -> Path:
        """What was sent to Slurm, as conf/hydra/launcher/staged_slurm.yaml has it."""
        return self.hidden / "slurm"

    def script(self, stage: str) -> Path:
        return self.folder / "scripts" / f"{stage}_sweep.sh"

    def train_config(self, run: str) -> Path:
        return self.configs / f"train_{run.removeprefix('run_')}.yaml"

    def eval_script(self, run: str) -> Path:
        return self.configs / f"eval_{run.removeprefix('run_')}.py"

    @property
    def eval_group(self) -> Path:
        """What evaluates all runs in one process, where they are a group."""
        return self.configs / "eval_group.py"

    def run_results(self, run: str) -> Path:
        return self.results / run

    def run_eval_results(self, run: str) -> Path:
        return self.eval_results / run

    def record(self, stage: str, run: str) -> Path:
        """What a stage of the run leaves of how far it came: see records."""
        return (self.run_results(run) if stage == "train" else self.run_eval_results(run)) / RECORD

    def relative(self, path: Path) -> str:
        """`path` as a user in the experiment's folder would type it."""
        return str(path).removeprefix(f"{self.folder}{os.sep}")
