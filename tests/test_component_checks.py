"""Components and keys of composed configs; tests/bad_experiments/ has a file for each kind of fault."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml

from cruijff_kit import component_checks, logger_config
from cruijff_kit.errors import ExperimentError
from cruijff_kit.experiment import load
from cruijff_kit.generate import plan
from cruijff_kit.training_checks import places
from tests.tiny_experiment import load_composer, specification, write_experiment, write_hollow_model, write_spec
from tests.tiny_llama import tiny_base_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny experiment over a model of empty files, with nothing set and no evaluation."""
    write_hollow_model(tmp_path / "model")
    return write_experiment(tmp_path / "e", tmp_path / "model")


def said(folder: Path, base: dict[str, Any] | None = None, framework: dict[str, Any] | None = None, **sections: Any) -> str:
    """The faults, or the warnings where there are none; `base` is merged into the base config's nodes."""
    spec = specification(folder.parent / "model")
    del spec["variables"], spec["controls"], spec["evaluation"]
    config = tiny_base_config(Path("/tmp/tiny-llama"))
    config["dataset"]["data_files"] = "data/train.jsonl"
    for key, value in (base or {}).items():
        config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
    (folder / "base.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_spec(folder, {**spec, **sections, "framework_config": framework or spec["framework_config"]})
    try:
        return "\n".join(str(warning) for warning in plan(folder).warnings)
    except ExperimentError as error:
        return str(error)


def test_faults_of_a_base_config_of_the_users_stand_at_its_lines(folder):
    base = {"optimizer": {"momentum": 0.9}, "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedLoss"}, "epoch": 3}
    assert said(folder, base) == (
        "base.yaml:51  optimizer.momentum\n  torch.optim.AdamW does not accept 'momentum'\n"
        "  it also takes amsgrad, betas, capturable, differentiable, eps, foreach, fused, maximize\n"
        "base.yaml:56  loss._component_\n  there is no 'CEWithChunkedLoss' in torchtune.modules.loss\n  did you mean 'CEWithChunkedOutputLoss'?\n"
        "base.yaml:71  epoch\n  warning: lora_finetune_single_device never reads 'epoch'\n  did you mean 'epochs'?"
    )


@pytest.mark.parametrize(("node", "what"), [(None, "it is not set"), ("DiskLogger", "it is 'DiskLogger'"), ([], "it is []")])
def test_a_logger_that_is_none_stands_at_its_line(node, what, folder):
    place, block = "base.yaml:61  metric_logger\n  ", f"\n{indent(logger_config.USUAL_BLOCK, '  ')}"
    assert said(folder, {"metric_logger": node}) == f"{place}lora_finetune_single_device makes a logger of metric_logger, and {what}{block}"


def test_a_base_config_without_a_logger_is_named(folder):
    config = tiny_base_config(Path("/tmp/tiny-llama"))
    del config["metric_logger"]
    (folder / "base.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with pytest.raises(ExperimentError) as error:
        plan(folder)
    assert str(error.value) == (
        "experiment.yaml:6  framework_config.base_config\n"
        "  metric_logger: lora_finetune_single_device makes a logger of metric_logger, and it is not set\n"
        f"{indent(logger_config.USUAL_BLOCK, '  ')}"
    )


def test_an_argument_that_a_logger_ignores_is_a_fault_where_it_is_nearly_another(folder):
    assert said(folder, {"metric_logger": {"log_dri": "/x", "project": "of another logger", "dir": "/y"}}) == (
        "base.yaml:64  metric_logger.log_dri\n"
        "  torchtune.training.metric_logging.DiskLogger does not accept 'log_dri'\n  did you mean 'log_dir'?"
    )


def test_a_logger_that_stands_elsewhere_in_the_config_is_one(folder):
    config = {"ours": logger_config.USUAL, "metric_logger": "${ours}"}
    assert said(folder, config) == ""


def test_an_argument_that_nobody_gives_is_missed_where_the_component_is_named(folder):
    tokenizer = {"_component_": "torchtune.models.llama3.llama3_tokenizer", "max_seq_len": None}
    assert said(folder, controls={"tokenizer._component_": tokenizer["_component_"], "_override": {"tokenizer": {"max_seq_len": None}}}) == ""
    base = {"tokenizer": None}
    config = {"_override": {"tokenizer": tokenizer}}
    assert said(folder, base, controls=config) == (
        "experiment.yaml:12  controls._override.tokenizer._component_\n"
        "  torchtune.models.llama3.llama3_tokenizer needs path, which neither the config nor lora_finetune_single_device gives\n"
        "  set tokenizer.path"
    )


def test_what_the_recipe_gives_by_place_or_by_name_is_not_missed(folder):
    """params of the optimizer; optimizer and num_training_steps of the scheduler; tokenizer of each dataset."""
    one = {"_component_": "torchtune.datasets.instruct_dataset", "source": "x/y"}
    assert said(folder, controls={"_override": {"dataset": [one, one]}}) == ""
    assert said(folder, controls={"_override": {"dataset": [one, {**one, "source": None, "sources": 1, "packed": True}]}}) == ""
    del one["source"]
    assert said(folder, controls={"_override": {"dataset": [one]}}).splitlines()[1:] == [
        "  torchtune.datasets.instruct_dataset needs source, which neither the config nor lora_finetune_single_device gives",
        "  set dataset[0].source",
    ]


def test_keys_that_torchtunes_own_config_has_and_nobody_reads_are_no_news(folder):
    """llama2/7B_qlora sets fsdp, which its recipe never reads."""
    framework = {"base_config": "llama2/7B_qlora", "model_dir": str(folder.parent / "model")}
    assert "fsdp" not in said(folder, framework=framework)
    override = {"_override": {"fsdp": {"cpu_offload": True}}}
    composer = load_composer(load(folder))
    assert component_checks.check(composer, [composer.run("run_000", {}, {})], {}) == []
    said(folder, framework=framework, controls=override)
    composer = load_composer(load(folder))
    (problem,) = component_checks.check(composer, [composer.run("run_000", {}, {})], places(composer.experiment))
    assert str(problem) == (
        "experiment.yaml:10  controls._override.fsdp\n  warning: lora_finetune_distributed never reads 'fsdp'"
    )


def test_a_key_that_another_one_refers_to_is_read(folder):
    override = {"steps": 3, "lr_scheduler": {"num_warmup_steps": "${steps}"}}
    assert said(folder, controls={"_override": override}) == ""
    assert said(folder, {"warm": {"up": 3}, "lr_scheduler": {"num_warmup_steps": "${warm.up}"}}) == ""


def test_a_dotted_path_below_a_node_that_only_the_recipe_knows(folder):
    assert said(folder, controls={"profiler.enabled": False}) == ""
    assert said(folder, controls={"profilr.enabled": False}) == (
        "experiment.yaml:10  controls.profilr.enabled\n"
        "  'profilr.enabled' is not read with the base config base.yaml\n  did you mean 'profiler'?"
    )


def test_a_setting_of_a_key_that_only_the_base_config_has_is_a_warning(folder):
    assert said(folder, {"quantizer": {"groupsize": 32}}, variables={"quantizer.groupsize": [32, 64]}) == (
        "experiment.yaml:10  variables.quantizer.groupsize\n  warning: lora_finetune_single_device never reads 'quantizer'"
    )


def test_components_in_the_experiments_folder_are_left_alone(folder):
    (folder / "losses.py").write_text("class Mine: ...\n")
    assert said(folder, controls={"_override": {"loss": {"_component_": "losses.Other", "a": 1}}}) == ""
    assert said(folder, controls={"_override": {"loss": {"_component_": "lozzes.Other"}}}) == (
        "experiment.yaml:12  controls._override.loss._component_\n"
        "  lozzes.Other is of the package lozzes, which is not installed\n  pip install lozzes"
    )


@pytest.mark.parametrize("component", ["", "a b", "3.x", 3, ["torch"], {"a": 1}], ids=str)
def test_a_component_that_cannot_be_one_is_a_fault_of_the_users(folder, component):
    report = said(folder, controls={"_override": {"loss": {"_component_": component}}})
    assert f"{component!r} is no dotted path of a component" in report
    assert report.startswith("experiment.yaml:")


def test_a_recipe_that_hands_its_config_on_has_no_unread_keys(folder):
    (folder / "mine.py").write_text("def main(cfg):\n    cfg.epochs\n    run(**cfg)\n")
    framework = {"base_config": "base.yaml", "recipe": "mine", "model_dir": str(folder.parent / "model")}
    assert said(folder, {"nonsense": 1}, framework) == ""
    (folder / "mine2.py").write_text("def main(cfg):\n    cfg.epochs\n    print(cfg)\n")
    report = said(folder, {"nonsense": 1}, {**framework, "recipe": "mine2"})
    assert "base.yaml:70  nonsense\n  warning: mine2 never reads 'nonsense'" in report


def test_what_a_recipe_of_ones_own_takes_out_or_puts_in_is_no_fault(folder):
    code = "from torchtune import config\ndef main(cfg):\n    {}\n    config.instantiate(cfg.optimizer, 1)\n    config.instantiate(cfg.dataset, 1)\n"
    (folder / "careful.py").write_text(code.format("cfg.optimizer.pop('warm'); cfg.dataset.source = 'x'"))
    (folder / "careless.py").write_text(code.format("pass"))
    framework = {"base_config": "base.yaml", "model_dir": str(folder.parent / "model")}
    controls = {"dataset": {"_component_": "torchtune.datasets.instruct_dataset"}, "_override": {"optimizer": {"warm": 1}}}
    report = said(folder, framework={**framework, "recipe": "careful"}, controls=controls)
    assert "AdamW" not in report
    assert "instruct_dataset" not in report
    report = said(folder, framework={**framework, "recipe": "careless"}, controls=controls)
    assert "torch.optim.AdamW does not accept 'warm'" in report
    assert "torchtune.datasets.instruct_dataset needs source, which neither the config nor careless gives" in report


def test_a_fault_from_the_command_line_is_said_there(folder):
    said(folder)
    composer = load_composer(load(folder))
    run = composer.run("run_009", {"optimizer._component_": "torch.optim.AdanW"}, {}, {"optimizer": {"_component_": "torch.optim.AdanW"}})
    (problem,) = component_checks.check(composer, [run], {})
    assert str(problem) == "command line  optimizer._component_\n  there is no 'AdanW' in torch.optim\n  did you mean 'AdamW'?"


def test_a_fault_that_many_runs_share_is_said_once(folder):
    report = said(folder, variables={"seed": list(range(1, 9))}, controls={"_override": {"optimizer": {"momentum": 1}}})
    assert report.count("does not accept 'momentum'") == 1
