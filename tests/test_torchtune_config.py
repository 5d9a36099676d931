from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from cruijff_kit import torchtune_catalog, yaml_text
from cruijff_kit.errors import ExperimentError
from cruijff_kit.experiment import Experiment, load
from cruijff_kit.schema import Specification
from cruijff_kit.parameters import PARAMETERS
from cruijff_kit.recipe_kinds import other_kind, vision_component
from cruijff_kit.sweep import points
from cruijff_kit.identity import identity
from cruijff_kit.yaml_source import parse_yaml
from tests.tiny_experiment import load_composer, specification, write_experiment, write_spec
from tests.tiny_llama import tiny_base_config

LLAMA = "llama3_1/8B_lora_single_device"
NAMED = {name: torchtune_catalog.read_config(config.path) for name, config in torchtune_catalog.base_configs().items() if config.path.is_file()}
OWN_FOLDERS = {
    name: config["checkpointer"]["checkpoint_dir"]
    for name, config in NAMED.items()
    if other_kind(torchtune_catalog.base_configs()[name].recipe) is None and vision_component(config) is None
}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    return {key: value for name, item in node.items() for key, value in flat(item, f"{prefix}.{name}" if prefix else name).items()}


def changes(old: Any, new: Any) -> dict[str, Any]:
    """The keys of `new` that `old` has not, or has with another value."""
    old, new = flat(old), flat(new)
    assert old.keys() <= new.keys()
    return {key: value for key, value in new.items() if key not in old or old[key] != value}


def tiny(folder: Path, **sections: Any) -> Experiment:
    """The tiny experiment, with no controls or variables but the given ones."""
    spec = {**specification("/models/tiny"), "variables": {}, "controls": {}, **sections}
    if folder.exists():
        write_spec(folder, spec)
    else:
        write_experiment(folder, "/models/tiny", spec)
    return load(folder)


def named(folder: Path, base: str = LLAMA, model_dir: str | None = None, **sections: Any) -> Experiment:
    """An experiment over one of torchtune's own configs; `folder` need not be there."""
    framework = {"base_config": base, "model_dir": model_dir}
    spec = {"experiment": {"name": "n", "framework": "torchtune"}, "framework_config": framework, **sections}
    source = parse_yaml(yaml.safe_dump(spec, sort_keys=False), "experiment.yaml")
    return Experiment(folder, source, Specification.model_validate(source.data))


def composed(experiment: Experiment) -> dict[str, Any]:
    """The torchtune config of the first point."""
    composer = load_composer(experiment)
    settings = {**experiment.controls, **next(points(experiment))}
    return composer.run("run_000", {}, settings).config


def fault(folder: Path) -> str:
    """What is wrong with the base config of the experiment in `folder`."""
    with pytest.raises(ExperimentError) as error:
        load_composer(load(folder))
    return str(error.value)


# Parameters


PARAMETER_VALUES = {
    "learning_rate": 0.5,
    "weight_decay": 0.5,
    "lora_rank": 64,
    "lora_alpha": 99,
    "lora_dropout": 0.5,
    "epochs": 7,
    "batch_size": 7,
    "seed": 7,
    "shuffle": False,
    "dtype": "bf16",
    "device": "cuda",
    "compile": True,
    "clip_grad_norm": 1.5,
    "gradient_accumulation_steps": 7,
    "max_steps_per_epoch": 7,
    "log_every_n_steps": 7,
    "resume_from_checkpoint": True,
    "save_adapter_weights_only": True,
    "max_seq_len": 64,
    "packed": True,
    "train_on_input": True,
    "warmup_steps": 7,
    "activation_checkpointing": True,
    "activation_offloading": True,
    "dataset": {"_component_": "torchtune.datasets.alpaca_dataset"},
}


def test_every_parameter_is_tried():
    assert list(PARAMETER_VALUES) == list(PARAMETERS)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name != "dataset"])
def test_a_parameter_sets_its_torchtune_key_and_no_other(tmp_path, name):
    experiment = tiny(tmp_path / "e")
    composer, value = load_composer(experiment), PARAMETER_VALUES[name]
    assert changes(composer.compose({}), composer.compose({name: value})) == {PARAMETERS[name].key: value}


def test_a_dotted_path_sets_itself(tmp_path):
    composer = load_composer(tiny(tmp_path / "e"))
    settings = {"optimizer.betas": [0.9, 0.95], "model.lora_attn_modules": ["q_proj"], "profiler.enabled": False}
    assert changes(composer.compose({}), composer.compose(settings)) == settings


def test_a_control_may_name_the_runs_own_folder(tmp_path):
    settings = {"metric_logger.log_dir": "${output_dir}/elsewhere"}
    run = load_composer(tiny(tmp_path / "e", controls=settings)).run("run_000", {}, settings)
    assert run.config["metric_logger"]["log_dir"] == "${output_dir}/elsewhere"


def test_composing_changes_neither_the_base_config_nor_the_settings(tmp_path):
    composer = load_composer(tiny(tmp_path / "e", controls={"_override": {"model": {"rope_base": 1}}}))
    settings = {"dataset": {"source": "json", "column_map": {"input": "a"}}, "packed": True, "lora_rank": 64}
    before = copy.deepcopy((composer.base, settings))
    first = composer.compose(settings)
    assert (composer.base, settings) == before
    assert first["dataset"] == {"source": "json", "column_map": {"input": "a"}, "packed": True}


def test_a_raw_key_of_one_point_changes_no_other(tmp_path):
    composer = load_composer(tiny(tmp_path / "e"))
    settings = {"tokenizer.prompt_template": {"user": ["a", "b"]}}
    first = composer.run("run_000", {}, settings)
    composer.run("run_001", {}, settings, {"tokenizer": {"prompt_template": {"system": ["c", "d"]}}})
    assert first.config["tokenizer"]["prompt_template"] == settings["tokenizer.prompt_template"] == {"user": ["a", "b"]}
    assert composer.run("run_002", {}, settings).identity == first.identity


def test_a_raw_null_at_the_root_takes_effect(tmp_path):
    composer = load_composer(tiny(tmp_path / "e"))
    assert composer.compose({"max_steps_per_epoch": 3}, {"max_steps_per_epoch": None})["max_steps_per_epoch"] is None


def test_points_share_the_nodes_that_are_the_same(tmp_path):
    composer = load_composer(tiny(tmp_path / "e"))
    configs = [composer.compose({"lora_rank": rank, "seed": seed}) for rank, seed in ((8, 1), (8, 2), (16, 2))]
    assert configs[0]["model"] is configs[1]["model"] and configs[1]["optimizer"] is configs[2]["optimizer"]
    assert [(config["model"]["lora_rank"], config["seed"]) for config in configs] == [(8, 1), (8, 2), (16, 2)]


def test_the_config_is_sorted_as_the_base_config_is(tmp_path):
    config = composed(tiny(tmp_path / "e", controls={"lora_rank": 64, "epochs": 3, "learning_rate": 1.0}))
    base = tiny_base_config(Path("/tmp/tiny-llama"))
    assert list(config) == list(base)
    assert [list(config[key]) for key in ("model", "optimizer", "checkpointer")] == [
        list(base[key]) for key in ("model", "optimizer", "checkpointer")
    ]


def test_output_dir_is_the_runs_own_and_interpolations_of_it_stay(tmp_path):
    composer = load_composer(tiny(tmp_path / "e"))
    config = composer.run("run_012", {}, {}).config
    assert config["output_dir"] == f"{tmp_path}/e/results/run_012"
    assert config["checkpointer"]["output_dir"] == "${output_dir}/hf_model"
    assert config["metric_logger"]["log_dir"] == "${output_dir}/logs"


# The dataset


def test_a_local_file_keeps_the_component_and_is_made_absolute(tmp_path):
    experiment = tiny(tmp_path / "e")
    for name, kind in {"x.json": "json", "x.jsonl": "json", "x.csv": "csv", "x.parquet": "parquet"}.items():
        config = load_composer(experiment).compose({"dataset": f"data/{name}"})
        assert config["dataset"] == {
            "_component_": "torchtune.datasets.instruct_dataset",
            "source": kind,
            "data_files": f"{tmp_path}/e/data/{name}",
            "split": "train",
            "packed": False,
            "train_on_input": False,
        }


def test_a_hub_id_replaces_the_source(tmp_path):
    config = composed(named(tmp_path / "e", controls={"dataset": "yahma/alpaca-cleaned"}))
    assert config["dataset"] == {
        "_component_": "torchtune.datasets.alpaca_cleaned_dataset",
        "packed": False,
        "source": "yahma/alpaca-cleaned",
    }


def test_a_hub_id_leaves_no_local_file_of_the_base_config_behind(tmp_path):
    config = composed(tiny(tmp_path / "e", controls={"dataset": "yahma/alpaca-cleaned"}))
    assert config["dataset"]["source"] == "yahma/alpaca-cleaned"
    assert "data_files" not in config["dataset"]


def test_a_mapping_replaces_the_whole_node(tmp_path):
    node = {"_component_": "torchtune.datasets.chat_dataset", "source": "a/b", "conversation_column": "c"}
    assert composed(tiny(tmp_path / "e", controls={"dataset": node}))["dataset"] == node


def test_packed_and_train_on_input_are_set_in_the_dataset_that_is_chosen(tmp_path):
    for dataset in ("data/x.json", {"_component_": "torchtune.datasets.alpaca_dataset"}):
        controls = {"train_on_input": True, "packed": True, "max_seq_len": 64, "dataset": dataset}
        node = composed(tiny(tmp_path / "e", controls=controls))["dataset"]
        assert (node["packed"], node["train_on_input"]) == (True, True)


@pytest.mark.parametrize("path", ["https://x.org/a.json", "hf://datasets/a/b.parquet", "/data/a.json"])
def test_an_address_or_an_absolute_path_stays_as_it_is(tmp_path, path):
    assert composed(tiny(tmp_path / "e", controls={"dataset": path}))["dataset"]["data_files"] == path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("data/a.jsonl", "{folder}/data/a.jsonl"),
        (["data/a.jsonl", "/b.jsonl"], ["{folder}/data/a.jsonl", "/b.jsonl"]),
        ({"train": "data/a.jsonl"}, {"train": "{folder}/data/a.jsonl"}),
    ],
)
def test_relative_data_files_are_absolute_in_whatever_form_they_are_given(tmp_path, files, expected):
    node = {"_component_": "torchtune.datasets.instruct_dataset", "source": "json", "data_files": files}
    written = composed(tiny(tmp_path / "e", controls={"dataset": node}))["dataset"]["data_files"]
    assert json.dumps(written) == json.dumps(expected).replace("{folder}", f"{tmp_path}/e")


# The model's folder


def test_model_dir_takes_the_place_of_the_base_configs_folder_wherever_it_stands(tmp_path):
    config = composed(named(tmp_path / "e", model_dir="weights/llama"))
    assert config["checkpointer"]["checkpoint_dir"] == f"{tmp_path}/e/weights/llama"
    assert config["tokenizer"]["path"] == f"{tmp_path}/e/weights/llama/original/tokenizer.model"


def test_nothing_of_a_named_config_points_at_its_own_folder_any_more():
    left = {}
    for base, own in OWN_FOLDERS.items():
        config = load_composer(named(Path("/e"), base, "/models/mine")).compose({})
        assert config["checkpointer"]["checkpoint_dir"] == "/models/mine"
        paths = [value for value in flat(config).values() if isinstance(value, str)]
        left[base] = [path for path in paths if f"{path}/".startswith(f"{own.rstrip('/')}/")]
    assert len(left) == 118
    assert {base: paths for base, paths in left.items() if paths} == {}


def test_a_folder_that_only_begins_alike_is_another(tmp_path):
    folder = tmp_path / "e"
    tiny(folder)
    base = tiny_base_config(Path("/tmp/tiny-llama"))
    base["tokenizer"]["path"] = "/tmp/tiny-llama-2/tokenizer"
    base["checkpointer"]["checkpoint_dir"] = "/tmp/tiny-llama/"
    (folder / "base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    config = composed(load(folder))
    assert config["tokenizer"]["path"] == "/tmp/tiny-llama-2/tokenizer"
    assert config["checkpointer"]["checkpoint_dir"] == "/models/tiny"


def test_without_model_dir_the_base_configs_own_folder_stays(tmp_path):
    config = composed(named(tmp_path / "e"))
    assert config["checkpointer"]["checkpoint_dir"] == "/tmp/Meta-Llama-3.1-8B-Instruct"
    assert load_composer(named(tmp_path / "e")).model_dir == "/tmp/Meta-Llama-3.1-8B-Instruct"


# _override


def test_override_is_merged_last_and_deep(tmp_path):
    controls = {"learning_rate": 0.5, "_override": {"optimizer": {"lr": 0.25}, "profiler": {"enabled": True}, "epochs": 9}}
    plain = load_composer(tiny(tmp_path / "e")).compose({})
    config = load_composer(tiny(tmp_path / "e", controls=controls)).compose({"learning_rate": 0.5})
    assert changes(plain, config) == {"optimizer.lr": 0.25, "profiler.enabled": True, "epochs": 9}


def test_override_is_taken_as_it_is(tmp_path):
    override = {"checkpointer": {"output_dir": "${output_dir}/x"}, "model": {"lora_attn_modules": []}, "dataset": {"data_files": None}}
    config = composed(tiny(tmp_path / "e", controls={"_override": override}))
    assert config["checkpointer"]["output_dir"] == "${output_dir}/x"
    assert config["model"]["lora_attn_modules"] == []
    assert config["dataset"]["data_files"] is None


def test_a_changed_component_keeps_only_the_arguments_that_it_accepts(tmp_path):
    override = {"optimizer": {"_component_": "torch.optim.SGD", "momentum": 0.9}}
    config = composed(named(tmp_path / "e", controls={"_override": override}))
    assert config["optimizer"] == {"_component_": "torch.optim.SGD", "weight_decay": 0.01, "lr": 0.0003, "fused": True, "momentum": 0.9}
    override = {"optimizer": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}}
    config = composed(named(tmp_path / "e", controls={"_override": override}))
    assert config["optimizer"] == {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}


def test_a_component_that_is_not_found_keeps_them_all(tmp_path):
    override = {"optimizer": {"_component_": "not_installed.Adam"}}
    config = composed(tiny(tmp_path / "e", controls={"_override": override}))
    assert config["optimizer"] == {"_component_": "not_installed.Adam", "lr": 0.01, "weight_decay": 0.01}


def test_raw_keys_are_merged_over_override(tmp_path):
    composer = load_composer(tiny(tmp_path / "e", controls={"_override": {"optimizer": {"lr": 0.25}}}))
    config = composer.run("run_000", {}, {}, {"optimizer": {"lr": 0.125}}).config
    assert config["optimizer"]["lr"] == 0.125


# Computed controls


def test_a_control_is_computed_for_each_point(tmp_path):
    controls = {"lora_alpha": "${mul:2,${lora_rank}}", "warmup_steps": "${min:10,${max:${seed},3}}", "epochs": 1}
    experiment = tiny(tmp_path / "e", variables={"lora_rank": [8, 16], "seed": [1, 5, 99]}, controls=controls)
    composer = load_composer(experiment)
    runs = [composer.run("run_000", params, {**experiment.controls, **params}) for params in points(experiment)]
    assert [(run.config["model"]["lora_alpha"], run.config["lr_scheduler"]["num_warmup_steps"]) for run in runs] == [
        (16, 3), (16, 5), (16, 10), (32, 3), (32, 5), (32, 10),
    ]  # fmt: skip
    assert runs[0].settings == {"lora_alpha": 16, "warmup_steps": 3, "epochs": 1, "lora_rank": 8, "seed": 1}


def test_a_control_may_be_computed_from_another_and_from_the_base_config(tmp_path):
    controls = {"lora_alpha": "${mul:2,${lora_rank}}", "batch_size": "${add:${lora_alpha},${epochs}}"}
    config = composed(tiny(tmp_path / "e", controls=controls))
    assert config["model"]["lora_alpha"] == 8
    assert config["batch_size"] == 9


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${add:1,2,3}", 6),
        ("${sub:5,2}", 3),
        ("${mul:2,3,4}", 24),
        ("${div:3,2}", 1.5),
        ("${floordiv:7,2}", 3),
        ("${min:3,1,2}", 1),
        ("${max:3,1,2}", 3),
        ("${lora_rank}", 4),
        ("${mul:0.5,${learning_rate}}", 0.005),
    ],
)
def test_the_arithmetic_of_a_computed_control(tmp_path, text, value):
    config = composed(tiny(tmp_path / "e", controls={"lora_alpha": text}))
    assert config["model"]["lora_alpha"] == value
    assert type(config["model"]["lora_alpha"]) is type(value)


def test_a_computed_control_reads_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    config = composed(tiny(tmp_path / "e", controls={"dataset": "${oc.env:DATA}/x.jsonl"}))
    assert config["dataset"]["data_files"] == "/data/x.jsonl"


# What the base config is


def test_a_named_config_brings_its_recipe_and_its_download_line(tmp_path):
    composer = load_composer(named(tmp_path / "e"))
    assert (composer.recipe, composer.base_name) == ("lora_finetune_single_device", LLAMA)
    assert composer.download == (
        "tune download meta-llama/Meta-Llama-3.1-8B-Instruct --output-dir /tmp/Meta-Llama-3.1-8B-Instruct"
        ' --ignore-patterns "original/consolidated.00.pth"'
    )


def test_base_settings_are_the_parameters_that_apply_with_the_base_configs_values(tmp_path):
    settings = load_composer(tiny(tmp_path / "e", controls={"_override": {"epochs": 5}})).base_settings
    assert list(settings) == list(PARAMETERS)
    expected = {"learning_rate": 0.01, "lora_rank": 4, "epochs": 5, "max_seq_len": None, "packed": False, "dataset": None, "device": "cpu"}
    assert {name: settings[name] for name in expected} == expected
    full = load_composer(named(tmp_path / "f", "llama3_1/8B_full_single_device")).base_settings
    assert not {"lora_rank", "lora_alpha", "lora_dropout", "save_adapter_weights_only"} & full.keys()


def framework(folder: Path, **keys: Any) -> Path:
    """The folder of a tiny experiment with another `framework_config`."""
    return write_experiment(folder, "/models/tiny", {**specification("/models/tiny"), "framework_config": keys})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"base_config": "llama3_1/8B_lora_single_devic"},
            "experiment.yaml:6  framework_config.base_config\n  base config 'llama3_1/8B_lora_single_devic' not found\n"
            "  did you mean 'llama3_1/8B_lora_single_device'?\n  `tune ls` lists them all",
        ),
        (
            {"base_config": "zzzzzzzz"},
            "experiment.yaml:6  framework_config.base_config\n  base config 'zzzzzzzz' not found\n"
            "  a torchtune config, or a .yaml file\n  `tune ls` lists them all",
        ),
        (
            {"base_config": "base.yaml"},
            "experiment.yaml:5  framework_config\n  missing required key 'recipe'\n"
            "  a base config of your own needs the recipe that reads it",
        ),
        (
            {"base_config": "bas.yaml", "recipe": "lora_finetune_single_device"},
            "experiment.yaml:6  framework_config.base_config\n  base config not found: {folder}/bas.yaml\n"
            "  `tune ls` lists torchtune's own",
        ),
        (
            {"base_config": "base.yaml", "recipe": "lora_finetune_single_devise"},
            "experiment.yaml:7  framework_config.recipe\n  recipe 'lora_finetune_single_devise' not found\n"
            "  did you mean 'lora_finetune_single_device'?",
        ),
        (
            {"base_config": LLAMA, "recipe": "zzzzzzzz"},
            "experiment.yaml:7  framework_config.recipe\n  recipe 'zzzzzzzz' not found",
        ),
        (
            {"base_config": LLAMA, "recipe": "z" * 300},
            f"experiment.yaml:7  framework_config.recipe\n  recipe '{'z' * 300}' not found",
        ),
    ],
)
def test_a_base_config_or_recipe_that_is_not_there(tmp_path, keys, expected):
    assert fault(framework(tmp_path / "e", **keys)) == expected.replace("{folder}", f"{tmp_path}/e")


@pytest.mark.parametrize("recipe", ["no_such_package.recipe", "cruijff_kit.recipes.no_such_recipe", "recipes/mine.py", "./mine.py"])
def test_a_recipe_that_tune_run_could_not_import_is_a_fault(tmp_path, recipe):
    said = fault(framework(tmp_path / "e", base_config="base.yaml", recipe=recipe))
    assert said.startswith("experiment.yaml:7  framework_config.recipe\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "- 1\n": "cannot read {path}: a config is a mapping of keys to values, this is a list",
        "": "'base.yaml' has no checkpointer.checkpoint_dir\n  name the folder of the base weights there",
        "checkpointer: 3\n": "'base.yaml' has no checkpointer.checkpoint_dir\n  name the folder of the base weights there",
        "checkpointer: {checkpoint_dir: null}\n": "'base.yaml' has no checkpointer.checkpoint_dir\n  name the folder of the base weights there",
    }.items(),
)
def test_a_base_config_of_the_users_that_cannot_be_used(tmp_path, text, expected):
    folder = write_experiment(tmp_path / "e", "/models/tiny")
    (folder / "base.yaml").write_text(text)
    expected = expected.replace("{path}", str(folder / "base.yaml"))
    assert fault(folder) == f"experiment.yaml:6  framework_config.base_config\n  {expected}"


def test_a_base_config_that_is_no_yaml_says_where(tmp_path):
    folder = write_experiment(tmp_path / "e", "/models/tiny")
    (folder / "base.yaml").write_text("a: [1\nb: 2\n")
    said = fault(folder)
    assert said.startswith(f"experiment.yaml:6  framework_config.base_config\n  cannot read {folder}/base.yaml: ")
    assert f'in "{folder}/base.yaml", line 2, column 2' in said


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("model_dir", "${oc.env:NOT_SET_ANYWHERE}/x", "experiment.yaml:7  framework_config.model_dir"),
        ("model_dir", "~no_such_user_here/x", "experiment.yaml:7  framework_config.model_dir"),
        ("base_config", "${oc.env:NOT_SET_ANYWHERE}/x.yaml", "experiment.yaml:6  framework_config.base_config"),
    ],
)
def test_a_path_that_does_not_resolve_is_a_fault_with_its_line(tmp_path, key, value, place):
    keys = {"base_config": LLAMA, **{key: value}}
    if key == "base_config":
        keys["recipe"] = "lora_finetune_single_device"
    assert fault(framework(tmp_path / "e", **keys)).startswith(f"{place}\n")


def test_a_base_config_whose_checkpoint_dir_is_computed_needs_model_dir(tmp_path):
    folder = tmp_path / "e"
    base = tiny_base_config(Path("/tmp/tiny-llama"))
    base["checkpointer"]["checkpoint_dir"] = "${output_dir}/base"
    spec = specification("/models/tiny")
    del spec["framework_config"]["model_dir"]
    write_experiment(folder, "/models/tiny", spec)
    (folder / "base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    assert fault(folder).startswith("experiment.yaml:")


# The recipe


@pytest.mark.parametrize(
    ("recipe", "controls", "expected"),
    [
        ("lora_finetune_single_device", {"device": "cpu"}, "cruijff_kit/recipes/lora_finetune_single_device"),
        ("lora_finetune_single_device", {"device": "cuda"}, "lora_finetune_single_device"),
        ("lora_finetune_single_device", {"device": "cpu", "save_adapter_weights_only": True}, "lora_finetune_single_device"),
        ("full_finetune_single_device", {"device": "cpu"}, "full_finetune_single_device"),
        ("cruijff_kit.recipes.lora_finetune_single_device", {"device": "cuda"}, "cruijff_kit/recipes/lora_finetune_single_device"),
    ],
)
def test_on_a_cpu_torchtunes_lora_recipe_is_replaced_by_ours(tmp_path, recipe, controls, expected):
    spec = {**specification("/models/tiny"), "variables": {}, "controls": controls}
    spec["framework_config"]["recipe"] = recipe
    write_experiment(tmp_path / "e", "/models/tiny", spec)
    assert load_composer(load(tmp_path / "e")).run("run_000", {}, controls).recipe == expected


# Identity


def identity_of(experiment: Experiment, run_id: str = "run_000", **settings: Any) -> str:
    return load_composer(experiment).run(run_id, {}, settings).identity


def test_a_run_is_the_same_wherever_its_results_its_folder_and_its_model_lie(tmp_path):
    here = tiny(tmp_path / "here")
    same = identity_of(here, dataset="data/train.jsonl")
    assert identity_of(here, "run_007", dataset="data/train.jsonl") == same
    assert identity_of(tiny(tmp_path / "there ${x}"), dataset="data/train.jsonl") == same
    assert identity_of(tiny(tmp_path / "results", output={"results_dir": "other"}), dataset="data/train.jsonl") == same
    assert identity_of(here, dataset=f"{tmp_path}/here/data/train.jsonl") == same
    for number, model in enumerate(("/elsewhere", "model", "~/model", f"{tmp_path}/model/x/")):
        write_experiment(tmp_path / f"m{number}", model, {**specification(model), "variables": {}, "controls": {}})
        assert identity_of(load(tmp_path / f"m{number}"), dataset="data/train.jsonl") == same


def test_a_run_of_a_named_config_is_the_same_wherever_the_model_lies():
    assert len(OWN_FOLDERS) == 118
    here = {base: identity_of(named(Path("/e"), base, "/models/a")) for base in OWN_FOLDERS}
    there = {base: identity_of(named(Path("/f"), base, "/b"), "run_001") for base in OWN_FOLDERS}
    assert [base for base in here if here[base] != there[base]] == []


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_makes_another_run(tmp_path, name):
    experiment = tiny(tmp_path / "e")
    assert identity_of(experiment) != identity_of(experiment, **{name: PARAMETER_VALUES[name]})


def test_everything_else_that_is_trained_makes_another_run(tmp_path):
    folder = tmp_path / "e"
    seen = {identity_of(tiny(folder))}
    overrides = [
        {"model": {"rope_base": 5}},
        {"model": {"lora_attn_modules": ["q_proj"]}},
        {"model": {"_component_": "torchtune.models.llama3_2.llama3_2"}},
        {"optimizer": {"_component_": "torch.optim.Adam"}},
        {"optimizer": {"betas": [0.9, 0.95]}},
        {"dataset": {"split": "train[:5]"}},
        {"dataset": {"data_files": "data/other.jsonl"}},
        {"dataset": {"column_map": {"input": "a"}}},
        {"tokenizer": {"_component_": "torchtune.models.llama3.llama3_tokenizer"}},
        {"checkpointer": {"model_type": "LLAMA3"}},
        {"checkpointer": {"checkpoint_files": ["other.safetensors"]}},
        {"loss": {"num_output_chunks": 4}},
        {"loss": None},
    ]
    for override in overrides:
        seen.add(identity_of(tiny(folder, controls={"_override": override})))
    assert len(seen) == 1 + len(overrides)


@pytest.mark.parametrize(("one", "other"), [(16, 16.0), (1, 1.0), (0, 0.0)])
def test_a_whole_number_is_the_same_with_and_without_a_point(tmp_path, one, other):
    experiment = tiny(tmp_path / "e")
    raw = [load_composer(experiment).run("run_000", {}, {}, {"model": {"lora_alpha": value}}) for value in (one, other)]
    assert raw[0].identity == raw[1].identity


@pytest.mark.parametrize(("one", "other"), [(1, True), (16, "16"), (None, "null"), (0, None), (0.1, 0.1000001), ([], {})])
def test_values_of_another_type_are_others(tmp_path, one, other):
    experiment = tiny(tmp_path / "e")
    raw = [load_composer(experiment).run("run_000", {}, {}, {"model": {"x": value}}) for value in (one, other)]
    assert raw[0].identity != raw[1].identity


NASTY = ["", " ", "yes", "1e-5", "0x1F", "010", "1_0", "2025-01-01", "1:30", "null", "~", ".inf", "- a", "a: b", "a #b", "x\ny\n",
         "x\r\ny", "\t", "'", '"', "\\", "\\n", "$x", "{a}", "[a]", "&a", "*a", "!t", "%d", "@x", "`x`", "|", ">", "---", "...",
         "=", "<<", "é", "😀", "\u2028", "\x85", "\ufeff", "\x07", "\x00", "\x1b[0m", "x" * 3000]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({}, "e"),
        ({"learning_rate": 1e-5, "weight_decay": 1e16, "lora_alpha": 16.0, "seed": None, "lora_dropout": 0.0}, "e"),
        ({"dataset": {"source": "json", "column_map": {f"k{index}": text for index, text in enumerate(NASTY)}}}, "e"),
        ({"dataset": {"source": "json", "names": [*NASTY, [], {}, None, 5e-324, -0.0, 10**30]}}, "e"),
        ({"dataset": {"source": "json", "column_map": {text: 1 for text in NASTY if text}}}, "e"),
        ({"dataset": "data/é 😀 'x'.jsonl"}, "e"),
        ({"dataset": "data/train.jsonl"}, "a b"),
        ({"dataset": "data/train.jsonl"}, "${x}"),
        ({"dataset": "data/train.jsonl"}, "a\nb#: 'c\""),
        ({"dataset": "data/train.jsonl"}, "\\${x}\\"),
    ],
)  # fmt: skip
def test_the_written_config_read_back_is_the_run_for_us_and_for_torchtune(tmp_path, settings, folder):
    experiment = tiny(tmp_path / folder)
    run = load_composer(experiment).run("run_000", {}, settings)
    path = tmp_path / "train.yaml"
    path.write_text(yaml_text.dump_yaml(run.config), encoding="utf-8")
    read = torchtune_catalog.read_config(path)
    assert read == run.config
    assert identity(read, experiment.folder) == run.identity
    loaded = OmegaConf.load(path)
    assert OmegaConf.to_container(loaded, resolve=False) == run.config
    assert loaded.output_dir == f"{experiment.folder}/results/run_000"
    assert loaded.checkpointer.output_dir == f"{experiment.folder}/results/run_000/hf_model"


def test_a_checkpoint_dir_below_output_dir_is_a_link_in_the_runs_results():
    override = {"checkpointer": {"checkpoint_dir": "${output_dir}/checkpoints"}}
    composer = load_composer(named(Path("/a ${b}"), controls={"_override": override}))
    assert composer.checkpoint_link(composer.run("run_003", {}, {}).config) == Path("/a ${b}/results/run_003/checkpoints")
    plain = load_composer(named(Path("/e")))
    assert plain.checkpoint_link(plain.run("run_003", {}, {}).config) is None


@pytest.mark.parametrize("place", ["${output_dir}", "${output_dir}/", "${output_dir}/.", "${output_dir}/../..", "${output_dir}/../../../../x"])
def test_a_checkpoint_dir_that_is_not_below_output_dir_is_no_link(tmp_path, place):
    composer = load_composer(named(tmp_path / "e", controls={"_override": {"checkpointer": {"checkpoint_dir": place}}}))
    assert composer.checkpoint_link(composer.run("run_003", {}, {}).config) is None


# Names that nothing reads


@pytest.mark.parametrize(
    ("key", "hint"),
    {
        "optimizer.lr": None,
        "optimizer.betas": None,
        "model.lora_rank": None,
        "dataset.column_map": None,
        "dataset.name": None,  # of **kwargs
        "epochs": None,
        "profiler.enabled": None,  # a node that the base config has not, and that the recipe makes
        "profilr.enabled": "did you mean 'profiler'?",
        "optimizer_in_bwd": "did you mean 'optimizer'?",
        "zzz": "",
        "epoch": "did you mean 'epochs'?",
        "optimizer.lrr": "did you mean 'lr'?",
        "optimizr.lr": "did you mean 'optimizer'?",
        "zzz.yyy": "there is no 'zzz' in the base config",
        "epochs.x": "'epochs' has no keys in the base config",
        "checkpointer.zzz": (
            "torchtune.training.FullModelHFCheckpointer takes adapter_checkpoint, checkpoint_dir, checkpoint_files, model_type,"
            " output_dir, recipe_checkpoint, resume_from_checkpoint, safe_serialization, should_load_recipe_state"
        ),
    }.items(),
)
def test_whether_anything_reads_a_key(tmp_path, key, hint):
    assert load_composer(tiny(tmp_path / "e")).key_fault(key) == hint
