"""Every config that the installed torchtune lists: those of text fine-tuning generate, the others are refused."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from cruijff_kit import recipe_kinds
from cruijff_kit.errors import ExperimentError, Problem
from cruijff_kit.experiment import load
from cruijff_kit.generate import generate, plan
from cruijff_kit.recipe_kinds import OTHER_KINDS, other_kind, vision_component
from cruijff_kit.torchtune_catalog import base_configs, read_config, recipes
from tests.tiny_experiment import load_composer

TEXT, ALL = 118, 156
NOT_IN_THE_PACKAGE = {"llama2/7B_full_early_exit"}
# By the package that their optimizer is of.
WANTED = {
    "bitsandbytes": {
        "code_llama2/7B_full_low_memory",
        "llama2/7B_full_low_memory",
        "llama3/8B_full_single_device",
        "llama3_1/8B_full_single_device",
        "llama3_2/1B_full_single_device",
        "llama3_2/3B_full_single_device",
        "mistral/7B_full_low_memory",
        "phi3/mini_full_low_memory",
        "phi4/14B_full_low_memory",
        "qwen2/1.5B_full_single_device",
        "qwen2/7B_full_single_device",
        "qwen2_5/1.5B_full_single_device",
        "qwen2_5/3B_full_single_device",
        "qwen2_5/7B_full_single_device",
    }
}
FIX = "cruijff-kit sweeps supervised fine-tuning on text"

REFUSED = {
    "llama2/7B_lora_dpo_single_device": "belongs to lora_dpo_single_device, which learns from preferences",
    "mistral/7B_full_ppo_low_memory": "belongs to ppo_full_finetune_single_device, which learns from rewards, by reinforcement",
    "qwen2/1.5_to_0.5B_KD_lora_distributed": "belongs to knowledge_distillation_distributed, which distils one model into another",
    "generation": "belongs to generate, which generates text, and trains nothing",
    "llama3_2_vision/11B_generation_v2": "belongs to dev/generate_v2, which generates text, and trains nothing",
    "eleuther_evaluation": "belongs to eleuther_eval, which evaluates a model, and trains nothing",
    "quantization": "belongs to quantize, which quantizes a model, and trains nothing",
    "llama3_2_vision/11B_full_single_device": "is of a model that sees images: torchtune.models.llama3_2_vision.llama3_2_vision_11b",
    "dev/11B_lora_multi_dataset": "is of a model that sees images: torchtune.models.llama3_2_vision.lora_llama3_2_vision_11b",
}


def write(folder: Path, name: str, **framework: str) -> Path:
    """A folder with nothing but an experiment.yaml: one variable, over the config `name`."""
    folder.mkdir(parents=True)
    spec = {
        "experiment": {"name": "every", "framework": "torchtune"},
        "framework_config": {"base_config": name, **framework},
        "variables": {"learning_rate": [1e-4]},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder


def faults(folder: Path) -> list[Problem]:
    try:
        return [problem for problem in plan(folder).warnings if problem.level == "error"]
    except ExperimentError as error:
        return [problem for problem in error.problems if problem.level == "error"]


def is_text(name: str) -> bool:
    config = base_configs()[name]
    return other_kind(config.recipe) is None and config.path.is_file() and vision_component(read_config(config.path)) is None


@pytest.fixture(scope="module")
def text_configs() -> list[str]:
    return [name for name in base_configs() if is_text(name)]


def test_118_of_156_configs_are_text_fine_tuning_and_every_recipe_has_a_kind(text_configs):
    assert (len(text_configs), len(base_configs())) == (TEXT, ALL)
    assert Counter(base_configs()[name].recipe for name in text_configs) == {
        "full_finetune_single_device": 16,
        "full_finetune_distributed": 25,
        "lora_finetune_single_device": 39,
        "lora_finetune_distributed": 32,
        "qat_distributed": 2,
        "qat_lora_finetune_distributed": 4,
    }
    fine_tuning = {base_configs()[name].recipe for name in text_configs}
    dev = {"dev/early_exit_finetune_distributed", "dev/lora_finetune_distributed_multi_dataset"}
    assert set(recipes()) == fine_tuning | dev | (OTHER_KINDS.keys() - {"dev/grpo_full_finetune_distributed"})


def test_every_text_config_generates_and_passes_torchtunes_own_validation(text_configs, tmp_path):
    """A config that wants a package which is not here is refused, with its name, for what torchtune says too."""
    from omegaconf import OmegaConf
    from torchtune.config import validate
    from torchtune.config._errors import InstantiationError

    passed, wanting = [], {package: set() for package in WANTED}
    for name in text_configs:
        folder = write(tmp_path / name, name)
        component = read_config(base_configs()[name].path)["optimizer"]["_component_"]
        package = component.split(".")[0]
        if package in WANTED and find_spec(package) is None:
            what = f"optimizer: {component} is of the package {package}, which is not installed"
            assert [(problem.what, problem.fix) for problem in faults(folder)] == [(what, f"pip install {package}")]
            run = load_composer(load(folder)).run("run_000", {}, {"learning_rate": 1e-4})
            with pytest.raises(InstantiationError, match=package):
                validate(OmegaConf.create(run.config))
            wanting[package].add(name)
        else:
            generate(folder)
            config = OmegaConf.create(read_config(folder / "configs" / "train_000.yaml"))
            assert config.optimizer.lr == 1e-4
            validate(config)
            passed.append(name)
    print(f"{len(passed)} pass, {', '.join(f'{len(names)} want {package}' for package, names in wanting.items())}, "
          f"{len(NOT_IN_THE_PACKAGE)} not in the package")  # fmt: skip
    assert wanting == {package: names if find_spec(package) is None else set() for package, names in WANTED.items()}
    assert len(passed) + sum(map(len, wanting.values())) == TEXT
    assert {name for name in base_configs() if not base_configs()[name].path.is_file()} == NOT_IN_THE_PACKAGE


@pytest.mark.parametrize(("name", "reason"), REFUSED.items(), ids=REFUSED)
def test_a_config_of_another_kind_is_refused_with_the_reason(name, reason, tmp_path):
    (problem,) = faults(write(tmp_path / "e", name))
    assert str(problem) == f"experiment.yaml:5  framework_config.base_config\n  base config '{name}' {reason}\n  {FIX}"


def test_a_config_that_is_listed_and_not_there_is_refused(tmp_path):
    (problem,) = faults(write(tmp_path / "e", "llama2/7B_full_early_exit"))
    assert str(problem) == (
        "experiment.yaml:5  framework_config.base_config\n"
        "  base config 'llama2/7B_full_early_exit' is listed by torchtune, and not in its package\n"
        "  take another of `tune ls`"
    )


def test_every_other_config_is_refused_for_one_of_these_reasons(text_configs, tmp_path):
    others = [name for name in base_configs() if name not in text_configs]
    assert len(others) == ALL - TEXT
    kinds = Counter()
    for name in others:
        (problem,) = faults(write(tmp_path / name, name))
        assert problem.key == "framework_config.base_config"
        kinds[problem.what.removeprefix(f"base config '{name}' ").split(": ")[0].split(", which ")[-1]] += 1
    assert kinds == {
        "learns from preferences": 5,
        "learns from rewards, by reinforcement": 1,
        "distils one model into another": 4,
        "generates text, and trains nothing": 6,
        "evaluates a model, and trains nothing": 10,
        "quantizes a model, and trains nothing": 1,
        "is of a model that sees images": 10,
        "is listed by torchtune, and not in its package": 1,
    }


@pytest.mark.parametrize("recipe", ["lora_dpo_single_device", "recipes/lora_dpo_single_device", "recipes.lora_dpo_single_device"])
def test_a_recipe_of_another_kind_is_refused_with_a_config_of_ones_own(recipe, tmp_path):
    folder = write(tmp_path / "e", "base.yaml", recipe=recipe)
    (folder / "base.yaml").write_text("checkpointer: {checkpoint_dir: /x}\n")
    (problem,) = faults(folder)
    assert str(problem) == (
        f"experiment.yaml:6  framework_config.recipe\n  recipe '{recipe}' learns from preferences\n  {FIX}"
    )


def test_images_are_seen_wherever_the_component_is_named():
    seen = "torchtune.datasets.multimodal.the_cauldron_dataset"
    assert vision_component({"dataset": [{"_component_": seen}]}) == seen
    assert vision_component({"tokenizer": {"_component_": "torchtune.models.llama3_2_vision._transform.Llama3VisionTransform"}})
    assert vision_component({"model": {"_component_": "torchtune.models.llama3.llama3_8b"}, "dataset": None}) is None
    assert recipe_kinds.other_kind("mine.lora_dpo_single_device") is None
