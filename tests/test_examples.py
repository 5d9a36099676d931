"""The examples: every one generates, and torchtune accepts what comes out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = sorted(path.parent for path in (Path(__file__).parent.parent / "examples").rglob("experiment.yaml"))

def test_there_are_examples() -> None:
    assert [path.name for path in EXAMPLES] == ["lora_rank_with_eval", "smollm2_capitalize"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_generates_wherever_it_is_copied_and_torchtune_accepts_its_configs(
    example: Path, tmp_path: Path, cruijff: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = tmp_path / "copy of it"
    shutil.copytree(example, folder)
    done = cruijff("generate", folder)
    assert done.returncode == 0, done.stderr
    configs = sorted(folder.glob("configs/train_*.yaml"))
    assert len(configs) == {"lora_rank_with_eval": 4, "smollm2_capitalize": 2}[example.name]
    validate(configs)


def validate(configs: list[Path]) -> None:
    """What `tune validate` does with each config, in this process: the import of torchtune takes seconds."""
    from omegaconf import OmegaConf
    from torchtune.config import validate

    for path in configs:
        validate(OmegaConf.load(path))


def test_tune_validate_passes_on_a_config_of_the_rank_study(
    tmp_path: Path, cruijff: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = tmp_path / "seed"
    shutil.copytree(EXAMPLES[0], folder)
    done = cruijff("generate", folder)
    assert done.stdout == (
        "✓ Generated 4 training configs (train_000.yaml to train_003.yaml)\n"
        "✓ Generated 4 evaluation scripts (eval_000.py to eval_003.py)\n"
        "✓ Validated all evaluation tasks\n"
    )
    tune = Path(sys.executable).with_name("tune")
    validated = subprocess.run([tune, "validate", folder / "configs/train_000.yaml"], text=True, capture_output=True)
    assert validated.returncode == 0 and "Config is well-formed!" in validated.stdout, validated.stderr
