"""`run` composes exactly the sweep in the file, whatever the file holds; an override changes what it names and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from tests.tiny_experiment import specification, write_experiment, write_hollow_model

DATASET = {"_component_": "torchtune.datasets.instruct_dataset", "source": "json", "data_files": "data/train.jsonl", "split": "train"}

SWEEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no variables": {"variables": {}, "controls": {"lora_rank": 2}},
    "a dotted control": {"controls": {"learning_rate": None, "optimizer.lr": 5e-3}},
    "a dotted variable": {"variables": {"optimizer.weight_decay": [0.1, 0.2]}, "controls": {"lora_rank": 2}},
    "pairs that set other names": {
        "variables": {"pair": [{"lora_rank": 2, "lora_alpha": 4}, {"learning_rate": 1e-3}]},
        "controls": {"lora_alpha": None, "learning_rate": None},
    },
    "a dataset as a mapping": {"controls": {"dataset": DATASET}},
    "datasets as mappings": {
        "variables": {"dataset": [DATASET, {**DATASET, "train_on_input": True}]},
        "controls": {"dataset": None, "lora_rank": 2},
    },
    "a component": {"variables": {"optimizer._component_": ["torch.optim.AdamW", "torch.optim.SGD"]}, "controls": {"lora_rank": 2}},
    "an exclusion within pairs": {
        "variables": {"pair": [{"lora_rank": 2}, {"lora_rank": 4}], "seed": [1, 2]},
        "controls": {"seed": None},
        "exclude": [{"lora_rank": 4, "seed": 2}],
    },
    "an exclusion": {"variables": {"lora_rank": [2, 4], "seed": [1, 2]}, "controls": {"seed": None}, "exclude": [{"seed": 2, "lora_rank": 2}]},
    "nothing, text and lists": {
        "variables": {"max_seq_len": [None, 64], "model.lora_attn_modules": [["q_proj"], ["q_proj", "v_proj"]], "clip_grad_norm": ["inf", 1.0]},
        "controls": {"lora_rank": 2},
    },
    "an override that is merged last": {"controls": {"_override": {"optimizer": {"weight_decay": 0.5}}}},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that has the model's file names, which is all that is looked at before training."""
    return write_hollow_model(tmp_path / "model")


def written(folder: Path, model: Path, change: dict[str, Any]) -> Path:
    spec = specification(model)
    controls = {**spec["controls"], **change.get("controls", {})}
    spec.update({key: value for key, value in change.items() if key != "controls"})
    spec["controls"] = {name: value for name, value in controls.items() if value is not None}
    return write_experiment(folder, model, spec)


def rows(folder: Path) -> list[tuple[str, dict[str, Any], bool]]:
    mapping = yaml.safe_load((folder / "configs/run_mapping.yaml").read_text())
    return [(row["id"], row["params"], row.get("added", False)) for row in mapping["runs"]]


@pytest.mark.parametrize("name", SWEEPS)
def test_run_adds_no_run_to_the_sweep_in_the_file(name: str, tmp_path: Path, model: Path, cruijff: Callable[..., CompletedProcess[str]]) -> None:
    folder = written(tmp_path / "e", model, SWEEPS[name])
    assert cruijff("generate", folder).returncode == 0
    before = rows(folder)
    for mode in ([], ["--multirun", "hydra/launcher=staged_local"]):
        done = cruijff("run", folder, *mode, "stages=[]")
        assert done.returncode == 0, done.stderr
        assert rows(folder) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weight_decay=0.1"], "'weight_decay' is set by controls._override, which is merged last\n  torchtune.optimizer.weight_decay=… beats it"),
        (["torchtune.output_dir=/x"], "'output_dir' is the run's own folder: results_dir in experiment.yaml says where they lie"),
        (["torchtune.checkpointer.checkpoint_dir=/x"], "'checkpointer.checkpoint_dir' is the model's folder: set framework_config.model_dir"),
        (["evaluation.baseline=true"], "experiment.yaml has no baseline to run\n  set evaluation.baseline there, and generate"),
        (["lora_rank=9", "evaluation.limit=0"], "evaluation.limit\n  Input should be greater than or equal to 1, got 0"),
        (["stages=eval"], "stages=eval: expected a list of train and eval: stages=[eval]"),
    ],
)
def test_an_override_without_effect_is_an_error(
    words: list[str], message: str, tmp_path: Path, model: Path, cruijff: Callable[..., CompletedProcess[str]]
) -> None:
    folder = written(tmp_path / "e", model, SWEEPS["an override that is merged last"])
    done = cruijff("run", folder, *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert [added for _, _, added in rows(folder)] == [False, False]


@pytest.mark.parametrize("key", ["learning_rate", "torchtune.optimizer.lr"])
def test_a_value_has_the_type_of_its_parameter_by_every_name(key: str, tmp_path: Path, model: Path, cruijff: Callable[..., CompletedProcess[str]]) -> None:
    done = cruijff("run", written(tmp_path / "e", model, {}), f"{key}=fast")
    assert done.returncode == 1
    assert f"command line  {key}\n  expected a number above 0, got 'fast'\n" in done.stderr


def test_a_run_from_an_override_keeps_its_number_when_the_sweep_grows(
    tmp_path: Path, model: Path, cruijff: Callable[..., CompletedProcess[str]]
) -> None:
    folder = written(tmp_path / "e", model, {})
    assert cruijff("run", folder, "stages=[]", "lora_rank=8").returncode == 0
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    spec["variables"]["lora_rank"] = [2, 4, 16, 8]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    for _ in range(2):
        assert cruijff("generate", "--force", folder).returncode == 0
        assert [(run, params["lora_rank"]) for run, params, _ in rows(folder)] == [
            ("run_000", 2), ("run_001", 4), ("run_003", 16), ("run_002", 8)
        ]  # fmt: skip
    assert cruijff("run", folder, "--multirun", "hydra/launcher=staged_local", "stages=[]").returncode == 0


FORM = {
    "+lora_rnk=3": "command line  lora_rnk\n  unknown parameter 'lora_rnk'\n  did you mean 'lora_rank'?",
    "++foo=1": "command line  foo\n  unknown parameter 'foo'",
    "~seed": "command line  seed\n  'seed' cannot be taken away\n  seed=VALUE sets it",
    "run=run_000": "command line  run\n  'run' is set by cruijff-kit",
    "stage=train": "command line  stage\n  'stage' is set by cruijff-kit",
    "evaluation=null": "command line  evaluation\n  expected settings, got None",
    "evaluation.tasks=3": "command line  evaluation.tasks\n  expected names of tasks, got 3",
    "stages=null": "stages=None: expected a list of train and eval: stages=[eval]",
}


def test_a_key_that_nothing_reads_or_that_is_taken_away_is_a_fault(tmp_path, model, cruijff):
    folder = write_experiment(tmp_path / "e", model)
    for word, said in FORM.items():
        done = cruijff("run", folder, word)
        assert done.returncode == 1
        assert done.stderr.endswith(f"{said}\n"), word
