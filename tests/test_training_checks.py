from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cruijff_kit import torchtune_catalog
from cruijff_kit.errors import ExperimentError
from cruijff_kit.plan import plan
from cruijff_kit.sweep import Run
from cruijff_kit.torchtune_config import weight_files
from cruijff_kit.training_checks import HF_CHECKPOINTER_BLOCK
from tests.tiny_experiment import specification, write_experiment, write_hollow_model, write_spec
from tests.tiny_llama import tiny_base_config

LLAMA = "llama3_1/8B_lora_single_device"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny experiment over a model of empty files, with nothing set and no evaluation; sections start at line 9."""
    model = write_hollow_model(tmp_path / "model")
    folder = write_experiment(tmp_path / "e", model)
    change(folder)
    return folder


def change(folder: Path, base: dict[str, Any] | None = None, **sections: Any) -> None:
    """Writes experiment.yaml anew, with other sections, and with keys merged into the base config."""
    spec = specification(folder.parent / "model")
    del spec["variables"], spec["controls"], spec["evaluation"]
    config = tiny_base_config(Path("/tmp/tiny-llama"))
    config["dataset"]["data_files"] = "data/train.jsonl"
    for key, value in (base or {}).items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "base.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    framework = {**spec["framework_config"], **sections.pop("framework_config", {})}
    framework = {key: value for key, value in framework.items() if value is not None}
    write_spec(folder, {**spec, "framework_config": framework, **sections})


def said(folder: Path, base: dict[str, Any] | None = None, to_run: bool = False, **sections: Any) -> str:
    """The faults, or the warnings where there are none."""
    change(folder, base, **sections)
    try:
        return "\n".join(str(warning) for warning in plan(folder, weights=to_run).warnings)
    except ExperimentError as error:
        return str(error)


def composed(folder: Path, **sections: Any) -> list[Run]:
    change(folder, **sections)
    return plan(folder).runs


EVALUATION = {
    "enabled": True,
    "framework": "inspect",
    "tasks_dir": "evals",
    "tasks": [{"name": "capitalize", "file": "tasks.py", "function": "capitalize"}],
}


def test_the_tiny_experiment_has_no_fault(folder):
    assert said(folder) == ""


# Names


def test_rank_and_alpha_are_set_together(folder):
    assert said(folder, controls={"lora_rank": 8}) == (
        "experiment.yaml:10  controls.lora_rank\n  'lora_rank' is set and 'lora_alpha' is not\n"
        "  set lora_alpha too: LoRA scales by lora_alpha / lora_rank\n  lora_alpha: ${mul:2,${lora_rank}}"
    )
    assert said(folder, variables={"lora_alpha": [8, 16]}) == (
        "experiment.yaml:10  variables.lora_alpha\n  'lora_alpha' is set and 'lora_rank' is not\n"
        "  set lora_rank too: LoRA scales by lora_alpha / lora_rank"
    )
    assert said(folder, variables={"lora_alpha": [8, 16]}, controls={"lora_rank": 8}) == ""
    assert said(folder, variables={"adapter": [{"lora_rank": 8, "lora_alpha": 16}]}) == ""


def test_each_pair_sets_both_rank_and_alpha(folder):
    entries = [{"lora_rank": 8, "lora_alpha": 16}, {"lora_rank": 16}]
    assert "'lora_rank' is set and 'lora_alpha' is not" in said(folder, variables={"adapter": entries})


@pytest.mark.parametrize("name", ["lora_rank", "lora_alpha"])
def test_a_lora_parameter_needs_a_lora_config(folder, name):
    framework = {"base_config": "llama3_1/8B_full_single_device", "recipe": None, "model_dir": None}
    report = said(folder, framework_config=framework, controls={"lora_rank": 8, "lora_alpha": 16})
    line = {"lora_rank": 8, "lora_alpha": 9}[name]
    assert (
        f"experiment.yaml:{line}  controls.{name}\n"
        f"  '{name}' needs a LoRA config, and llama3_1/8B_full_single_device is none"
    ) in report


def test_a_name_that_is_no_parameter_is_reported_once(folder):
    assert said(folder, controls={"lora_rnk": 8}) == (
        "experiment.yaml:10  controls.lora_rnk\n  unknown parameter 'lora_rnk'\n  did you mean 'lora_rank'?"
    )
    assert said(folder, variables={"lora_rnk": [8, 16]}) == (
        "experiment.yaml:10  variables.lora_rnk\n  unknown parameter 'lora_rnk'\n  did you mean 'lora_rank'?"
    )
    assert said(folder, variables={"adapter": ["a", "b"]}) == (
        "experiment.yaml:10  variables.adapter\n  'adapter' is no parameter: each of its values must be a mapping"
    )


def test_a_parameter_that_the_base_config_has_no_place_for(folder):
    dataset = {"_component_": "torchtune.datasets.PackedDataset", "max_seq_len": 5}
    assert said(folder, controls={"dataset": dataset, "optimizer.lrr": 1, "optimizr.lr": 1, "epochs.x": 1}) == (
        "experiment.yaml:13  controls.optimizer.lrr\n"
        "  'optimizer.lrr' is not read with the base config base.yaml\n  did you mean 'lr'?\n"
        "experiment.yaml:14  controls.optimizr.lr\n"
        "  'optimizr.lr' is not read with the base config base.yaml\n  did you mean 'optimizer'?\n"
        "experiment.yaml:15  controls.epochs.x\n"
        "  'epochs.x' is not read with the base config base.yaml\n  'epochs' has no keys in the base config"
    )


def test_a_short_name_says_the_key_that_it_stands_for(folder):
    optimizer = {"optimizer": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}}
    assert said(folder, controls={"weight_decay": 0.1, "_override": optimizer}) == (
        "experiment.yaml:10  controls.weight_decay\n"
        "  'weight_decay' sets optimizer.weight_decay, which is not read with the base config base.yaml\n"
        "  torchtune.modules.loss.CEWithChunkedOutputLoss takes ignore_index, num_output_chunks\n"
        "experiment.yaml:12  controls._override.optimizer\n"
        "  warning: torchtune.modules.loss.CEWithChunkedOutputLoss does not accept lr, weight_decay: dropped"
    )


# _override


def test_arguments_that_a_new_component_does_not_accept_are_dropped_with_a_warning(folder):
    override = {
        "checkpointer": {"_component_": "torchtune.training.FullModelTorchTuneCheckpointer"},
        "optimizer": {"_component_": "torch.optim.LBFGS"},
    }
    assert said(folder, controls={"_override": override}) == (
        "experiment.yaml:13  controls._override.optimizer\n  warning: torch.optim.LBFGS does not accept weight_decay: dropped"
    )
    config = plan(folder).runs[0].config
    assert config["optimizer"] == {"_component_": "torch.optim.LBFGS", "lr": 0.01}


def test_a_component_that_is_said_again_drops_nothing(folder):
    override = {"optimizer": {"_component_": "torch.optim.AdamW", "lr": 1}}
    assert said(folder, controls={"_override": override}) == ""


def test_what_is_read_at_the_root_does_not_stand_below_checkpointer(folder):
    override = {"checkpointer": {"save_adapter_weights_only": True}}
    assert said(folder, controls={"_override": override}) == (
        "experiment.yaml:12  controls._override.checkpointer.save_adapter_weights_only\n"
        "  torchtune reads save_adapter_weights_only at the root, and fails on it below checkpointer\n"
        "  add under controls:\n    save_adapter_weights_only: true"
    )


@pytest.mark.parametrize(
    "override",
    [
        {"checkpointer": 3},
        {"checkpointer": None},
        {"checkpointer": {"checkpoint_dir": None}},
        {"checkpointer": {"checkpoint_dir": 3}},
        {"checkpointer": {"checkpoint_dir": {"x": "${output_dir}/checkpoints"}}},
        {"max_steps_per_epoch": {"x": 1}},
        {"checkpointer": {"checkpoint_dir": "n" * 300}},
        {"checkpointer": {"checkpoint_files": ["n" * 300]}},
        {"checkpointer": {"checkpoint_files": {"a": 1}}},
        {"checkpointer": {"checkpoint_files": {"filename_format": "x{}", "max_filename": "many"}}},
        {"checkpointer": {"checkpoint_files": "model.safetensors"}},
        {"checkpointer": {"checkpoint_files": 3}},
        {"checkpointer": {"output_dir": None}},
        {"epochs": "three"},
        {"epochs": 0},
        {"batch_size": "two"},
        {"gradient_accumulation_steps": [1]},
        {"lr_scheduler": {"num_warmup_steps": "ten"}},
        {"tokenizer": 3},
    ],
    ids=str,
)
def test_an_override_with_a_value_that_cannot_be_is_a_fault_of_the_users(folder, override):
    """Whatever else is said, it is at its line or at a section that the file has, and nobody sees a traceback."""
    report = said(folder, controls={"_override": override}, evaluation=EVALUATION)
    assert report.startswith("experiment.yaml:")
    assert "warning" not in report.split("\n")[1]


# Runs


def test_two_points_that_compose_to_the_same_config(folder):
    variables = {"lora_alpha": [16, 16.0, 8], "seed": [1]}
    assert said(folder, variables=variables, controls={"lora_rank": 8}) == (
        "experiment.yaml:9  variables\n  run_001 and run_000 compose to the same torchtune config\n  remove one of the two points"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    {
        "${mul:2,${lora_rnk}}": "Interpolation key 'lora_rnk' not found",
        "${lora_alpha}": "Recursive interpolation detected",
        "${nul:2}": "Unsupported interpolation type nul",
        "${div:1,0}": "ZeroDivisionError raised while resolving interpolation: division by zero",
        "${mul:a,1000000000}": "TypeError raised while resolving interpolation: 'a' is no number",
        "${mul:true,2}": "TypeError raised while resolving interpolation: 'True' is no number",
        "${mul:1e308,1e308}": "OverflowError raised while resolving interpolation: the result is too large, or no number",
        "${mul:" + "9" * 4000 + ",10}": "OverflowError raised while resolving interpolation: the result is too large, or no number",
        "${mul:2," * 300 + "1" + "}" * 300: "maximum recursion depth exceeded in comparison",
        "${oc.env:NOT_SET_ANYWHERE}": (
            "KeyError raised while resolving interpolation: \"Environment variable 'NOT_SET_ANYWHERE' not found\""
        ),
    }.items(),
)
def test_a_control_that_does_not_resolve(folder, text, reason):
    assert said(folder, controls={"lora_alpha": text, "lora_rank": 8}) == (
        f"experiment.yaml:10  controls.lora_alpha\n  does not resolve: {reason}"
    )


def test_a_computed_mapping_or_list_is_a_plain_one(folder):
    (run,) = composed(folder, controls={"optimizer.betas": "${oc.create:[1, {a: 2}]}"})
    assert run.config["optimizer"]["betas"] == [1, {"a": 2}]
    assert type(run.config["optimizer"]["betas"]) is list


@pytest.mark.parametrize("text", ["scripts", "configs", "results/x", "made"])
def test_a_folder_that_generate_makes_is_no_hub_id_even_before_it_is_there(folder, text):
    fault = said(folder, controls={"dataset": text}, output={"eval_results_dir": "made/scores"})
    assert f"\n  '{text}' is neither a Hub id nor a file of a known kind\n" in fault


def test_a_recipe_of_ones_own_that_merges_into_the_live_weights_is_no_recipe_for_a_cpu(folder):
    source = torchtune_catalog.recipes()["lora_finetune_single_device"].read_text()
    (folder / "mine.py").write_text(source)
    framework = {"base_config": "base.yaml", "recipe": "mine", "model_dir": str(folder.parent / "model")}
    assert said(folder, framework_config=framework, controls={"epochs": 2}) == (
        "experiment.yaml:10  controls.epochs\n"
        "  on a CPU mine merges LoRA into the weights that it goes on training: every epoch after the first starts wrong\n"
        "  train one epoch, or set save_adapter_weights_only: true, or train on a GPU"
    )
    for controls in ({"epochs": 1}, {"epochs": 2, "save_adapter_weights_only": True}, {"epochs": 2, "device": "cuda"}):
        assert said(folder, framework_config=framework, controls=controls) == ""


def test_the_gpus_of_the_profile_share_the_rows(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CRUIJFF_KIT_CONF", str(tmp_path / "conf"))
    (tmp_path / "conf/cluster").mkdir(parents=True)
    (tmp_path / "conf/cluster/big.yaml").write_text("train: {nodes: 4, gpus_per_node: 4}\n")
    recipe = {"base_config": "base.yaml", "recipe": "lora_finetune_distributed", "model_dir": str(folder.parent / "model")}
    assert said(folder, framework_config=recipe) == ""
    with pytest.raises(ExperimentError) as error:
        plan(folder, cluster="big")
    what = "12 rows are fewer than batch_size 2 × gradient_accumulation_steps 1 × 16 GPUs: no optimizer step would be taken"
    assert what in str(error.value)


def test_a_device_is_no_data_file_and_is_not_read(folder):
    dataset = {"_component_": "torchtune.datasets.instruct_dataset", "source": "json", "data_files": "/dev/zero", "split": "train"}
    assert "controls.dataset\n  dataset not found: /dev/zero\n" in said(folder, controls={"dataset": dataset})


@pytest.mark.parametrize("text", ["${mul:2", "${mul:2,${lora_rank}"])
def test_a_control_whose_brackets_do_not_match(folder, text):
    said_of_it = said(folder, controls={"lora_alpha": text, "lora_rank": 8})
    assert said_of_it.startswith("experiment.yaml:10  controls.lora_alpha\n  does not resolve: ")


def test_only_the_controls_that_do_not_resolve_are_named(folder):
    controls = {"lora_rank": 8, "lora_alpha": "${mul:2,${lora_rank}}", "warmup_steps": "${floordiv:${stepz},2}"}
    assert said(folder, controls=controls) == (
        "experiment.yaml:12  controls.warmup_steps\n  does not resolve: Interpolation key 'stepz' not found"
    )


def test_every_control_that_does_not_resolve_is_named(folder):
    controls = {"lora_rank": 8, "lora_alpha": "${a}", "warmup_steps": "${b}"}
    assert said(folder, controls=controls) == (
        "experiment.yaml:11  controls.lora_alpha\n  does not resolve: Interpolation key 'a' not found\n"
        "experiment.yaml:12  controls.warmup_steps\n  does not resolve: Interpolation key 'b' not found"
    )


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("batch_size", "${div:8,4}", "expected a whole number of at least 1, got 2.0"),
        ("epochs", "${sub:1,1}", "expected a whole number of at least 1, got 0"),
        ("warmup_steps", "${mul:0.1,5}", "expected a whole number of at least 0, got 0.5"),
        ("shuffle", "${epochs}", "expected true or false, got 1"),
        ("device", "${epochs}", "expected text, got 1"),
        ("learning_rate", "${oc.env:HOME}", f"expected a number above 0, got {os.environ['HOME']!r}"),
        ("dataset", "${epochs}", "expected a file, a Hub id or a mapping, got 1"),
    ],
)
def test_a_control_that_computes_to_a_value_of_the_wrong_type(folder, name, text, fault):
    assert said(folder, controls={name: text}) == f"experiment.yaml:10  controls.{name}\n  {fault}"


@pytest.mark.parametrize(
    "controls",
    [
        {"dataset": {"_component_": "torchtune.datasets.instruct_dataset", "source": "json", "data_files": "${oc.env:NOT_SET_ANYWHERE}/x.jsonl"}},
        {"dataset": {"_component_": "torchtune.datasets.instruct_dataset", "source": "${nothing}"}},
        {"dataset.data_files": "${oc.env:NOT_SET_ANYWHERE}/x.jsonl"},
        {"_override": {"dataset": {"data_files": "${nothing}/x.jsonl"}}},
        {"_override": {"metric_logger": {"log_dir": "${nothing}/logs"}}},
    ],
    ids=str,
)  # fmt: skip
def test_an_interpolation_anywhere_else_that_does_not_resolve(folder, controls):
    assert said(folder, controls=controls).startswith("experiment.yaml:1")


def test_a_dataset_may_be_computed_from_a_variable(folder):
    for seed in (1, 2):
        (folder / "data" / f"train_{seed}.jsonl").write_text((folder / "data" / "train.jsonl").read_text())
    assert said(folder, variables={"seed": [1, 2]}, controls={"dataset": "data/train_${seed}.jsonl"}) == ""
    paths = [run.config["dataset"]["data_files"] for run in plan(folder).runs]
    assert paths == [f"{folder}/data/train_1.jsonl", f"{folder}/data/train_2.jsonl"]


def test_packed_needs_the_length_to_pack_to(folder):
    fault = "packed needs max_seq_len, the length to pack to\n  add under controls:\n    max_seq_len: 2048"
    assert said(folder, controls={"packed": True}) == f"experiment.yaml:10  controls.packed\n  {fault}"
    assert said(folder, {"dataset": {"packed": True}}) == f"experiment.yaml:6  framework_config.base_config\n  {fault}"
    assert said(folder, controls={"packed": True, "max_seq_len": 64}) == ""


def test_a_fault_that_several_runs_share_is_said_once(folder):
    report = said(folder, variables={"seed": [1, 2, 3]}, controls={"packed": True})
    assert report.count("packed needs max_seq_len") == 1


def test_adapters_alone_cannot_be_evaluated_as_merged_weights(folder):
    assert said(folder, controls={"save_adapter_weights_only": True}, evaluation=EVALUATION) == (
        "experiment.yaml:10  controls.save_adapter_weights_only\n"
        "  model_format hf evaluates merged weights, and save_adapter_weights_only saves none"
    )
    assert said(folder, controls={"save_adapter_weights_only": True}) == ""


def test_a_cpu_run_of_several_epochs_has_a_recipe_that_does_not_corrupt_the_model(folder):
    assert said(folder, controls={"epochs": 2}) == ""
    assert plan(folder).runs[0].recipe == "cruijff_kit/recipes/lora_finetune_single_device"
    assert said(folder, controls={"epochs": 2, "device": "cuda"}) == ""
    assert plan(folder).runs[0].recipe == "lora_finetune_single_device"


# Data


def test_a_dataset_that_is_not_there(folder):
    fix = "paths start at the folder of experiment.yaml"
    assert said(folder, controls={"dataset": "data/trian.jsonl"}) == (
        f"experiment.yaml:10  controls.dataset\n  dataset not found: {folder}/data/trian.jsonl\n  {fix}"
    )
    assert said(folder, variables={"dataset": ["data/train.jsonl", "yahma/data", "data/x.csv"]}) == (
        f"experiment.yaml:13  variables.dataset[2]\n  dataset not found: {folder}/data/x.csv\n  {fix}"
    )
    assert said(folder, {"dataset": {"data_files": "/x.jsonl"}}) == (
        f"experiment.yaml:6  framework_config.base_config\n  dataset not found: /x.jsonl\n  {fix}"
    )


def test_a_dataset_that_is_not_parseable(folder):
    path = folder / "data" / "broken.json"
    path.write_text('[{"input": "a"},\n')
    report = said(folder, controls={"dataset": "data/broken.json"})
    assert report.startswith(f"experiment.yaml:10  controls.dataset\n  cannot read {path}: ")
    assert "Expecting value" in report
    latin = folder / "data" / "latin.jsonl"
    latin.write_bytes(b'{"input": "\xe9"}\n')
    assert said(folder, controls={"dataset": "data/latin.jsonl"}) == (
        f"experiment.yaml:10  controls.dataset\n  cannot read {latin}: line 1: byte 0xe9 is no utf-8 text"
    )


def test_a_broken_line_is_named_by_its_number(folder):
    good = '{"input": "a", "output": "b"}\n'
    (folder / "data" / "broken.jsonl").write_text(good * 4 + '{"input": "a", "output": }\n' + good)
    report = said(folder, controls={"dataset": "data/broken.jsonl"})
    assert report.startswith(f"experiment.yaml:10  controls.dataset\n  cannot read {folder}/data/broken.jsonl: ")
    assert "line 5" in report
    assert "line 1 " not in report


@pytest.mark.parametrize(("name", "content"), [("x.csv", b"\xff\xfe\x00"), ("x.parquet", b"no parquet"), ("x.jsonl", b"3\n" * 9)])
def test_a_dataset_of_another_kind_that_is_not_parseable(folder, name, content):
    (folder / "data" / name).write_bytes(content)
    report = said(folder, controls={"dataset": f"data/{name}"})
    assert report.startswith(f"experiment.yaml:10  controls.dataset\n  cannot read {folder}/data/{name}: ")


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "x.jsonl": '{"prompt": "a", "output": "b"}\n' * 4,
        "x.json": json.dumps([{"input": "a", "answer": "b"}] * 4),
        "x.csv": "question,answer\na,b\nc,d\ne,f\ng,h\n",
    }.items(),
)
def test_a_dataset_lacks_the_columns_that_its_component_reads(folder, name, text):
    (folder / "data" / name).write_text(text)
    assert said(folder, controls={"dataset": f"data/{name}"}).startswith("experiment.yaml:10  controls.dataset\n")


def test_the_columns_may_have_other_names_that_column_map_gives(folder):
    (folder / "data" / "x.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 4)
    controls = {"dataset": "data/x.jsonl", "dataset.column_map": {"input": "question", "output": "answer"}}
    assert said(folder, controls=controls) == ""


@pytest.mark.parametrize("text", ["data", "data/train.txt", "./data/train", "a/b/c", "../x", "~/x"])
def test_a_dataset_that_is_neither_a_file_of_a_known_kind_nor_a_hub_id(folder, text):
    assert said(folder, controls={"dataset": text}) == (
        f"experiment.yaml:10  controls.dataset\n  '{text}' is neither a Hub id nor a file of a known kind\n"
        "  files end in .json, .jsonl, .csv, .parquet"
    )


# Steps


def test_fewer_rows_than_one_step_takes(folder):
    assert said(folder, variables={"batch_size": [4, 8]}, controls={"gradient_accumulation_steps": 2}) == (
        "experiment.yaml:14  controls.gradient_accumulation_steps\n"
        "  12 rows are fewer than batch_size 8 × gradient_accumulation_steps 2: no optimizer step would be taken\n"
        "  lower batch_size or gradient_accumulation_steps"
    )
    assert said(folder, variables={"batch_size": [6]}, controls={"gradient_accumulation_steps": 2}) == ""


@pytest.mark.parametrize("empty", ["", "\n\n"])
def test_a_file_without_rows(folder, empty):
    (folder / "data" / "x.jsonl").write_text(empty)
    assert said(folder, controls={"dataset": "data/x.jsonl"}) == (
        f"experiment.yaml:10  controls.dataset\n  {folder}/data/x.jsonl has no rows: datasets fails on it"
    )


def test_rows_are_not_counted_where_they_are_packed_or_lie_elsewhere(folder):
    controls = {"batch_size": 100, "packed": True, "max_seq_len": 64}
    assert said(folder, controls=controls) == ""
    assert said(folder, controls={"batch_size": 100, "dataset": "https://x.org/a.jsonl"}) == ""


@pytest.mark.parametrize(
    ("controls", "total"),
    [
        ({"warmup_steps": 6}, 6),
        ({"warmup_steps": 100, "epochs": 2, "batch_size": 4}, 6),
        ({"warmup_steps": 100, "epochs": 2, "max_steps_per_epoch": 2}, 4),
        ({"warmup_steps": 100, "gradient_accumulation_steps": 3, "epochs": 50}, 100),
    ],
)
def test_a_warm_up_that_never_ends_is_a_warning(folder, controls, total):
    steps = controls["warmup_steps"]
    assert said(folder, controls=controls) == (
        f"experiment.yaml:10  controls.warmup_steps\n"
        f"  warning: warm-up takes {steps} steps and the run has {total}: the learning rate is never reached\n"
        f"  add under controls:\n    warmup_steps: {total // 10}"
    )
    assert said(folder, controls={**controls, "warmup_steps": total - 1}) == ""


# Weights


def test_weights_that_the_checkpointer_names_and_model_dir_lacks(folder):
    (folder.parent / "model" / "model.safetensors").unlink()
    fix = "set framework_config.model_dir to the folder of the weights"
    assert said(folder) == f"experiment.yaml:8  framework_config.model_dir\n  {folder.parent}/model lacks model.safetensors\n  {fix}"
    assert said(folder, framework_config={"model_dir": "nowhere"}) == (
        f"experiment.yaml:8  framework_config.model_dir\n  {folder}/nowhere lacks config.json, model.safetensors\n  {fix}"
    )


def test_weights_of_a_named_config_are_a_warning_with_the_line_that_downloads_them_until_they_are_needed(folder):
    framework = {"base_config": LLAMA, "recipe": None, "model_dir": None}
    place = "experiment.yaml:6  framework_config.base_config\n  "
    lacks = "/tmp/Meta-Llama-3.1-8B-Instruct lacks config.json, " + ", ".join(
        f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)
    )
    download = (
        "tune download meta-llama/Meta-Llama-3.1-8B-Instruct --output-dir /tmp/Meta-Llama-3.1-8B-Instruct"
        ' --ignore-patterns "original/consolidated.00.pth"'
    )
    assert said(folder, framework_config=framework) == f"{place}warning: {lacks}\n  {download}"
    assert said(folder, framework_config=framework, to_run=True) == f"{place}{lacks}\n  {download}"


def test_weights_are_looked_for_in_model_dir_where_the_config_links_to_it(folder):
    override = {"checkpointer": {"checkpoint_dir": "${output_dir}/checkpoints"}}
    assert said(folder, controls={"_override": override}) == ""
    override = {"checkpointer": {"checkpoint_dir": str(folder / "elsewhere")}}
    report = said(folder, controls={"_override": override})
    assert f"{folder}/elsewhere lacks config.json, model.safetensors" in report


def test_a_meta_checkpoint_has_no_config_json(folder):
    (folder.parent / "model" / "consolidated.00.pth").touch()
    (folder.parent / "model" / "config.json").unlink()
    framework = {"base_config": "llama3/8B_lora_single_device", "recipe": None}
    assert said(folder, framework_config=framework) == ""


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (["a.safetensors", "b.safetensors"], ["a.safetensors", "b.safetensors"]),
        (None, []),
        (
            {"filename_format": "model-{}-of-{}.safetensors", "max_filename": "00003"},
            [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)],
        ),
        ({"filename_format": "pytorch_model_{}-{}.bin", "max_filename": 2}, ["pytorch_model_1-2.bin", "pytorch_model_2-2.bin"]),
    ],
)
def test_the_names_of_the_weight_files(spec, names):
    assert weight_files(spec) == names


# Evaluation


def test_evaluation_needs_a_hugging_face_checkpointer(folder):
    override = {"checkpointer": {"_component_": "torchtune.training.FullModelTorchTuneCheckpointer"}}
    assert said(folder, controls={"_override": override}, evaluation=EVALUATION) == (
        "experiment.yaml:12  controls._override.checkpointer._component_\n"
        "  evaluation needs a Hugging Face checkpointer, and this is torchtune.training.FullModelTorchTuneCheckpointer\n"
        "  add under controls:\n"
        "    _override:\n"
        "      checkpointer:\n"
        "        _component_: torchtune.training.FullModelHFCheckpointer\n"
        "        checkpoint_dir: ${output_dir}/checkpoints\n"
        "        output_dir: ${output_dir}/hf_model"
    )
    assert said(folder, controls={"_override": override}) == ""


def test_every_runs_checkpointer_and_weights_are_looked_at(folder):
    components = ["torchtune.training.FullModelHFCheckpointer", "torchtune.training.FullModelTorchTuneCheckpointer"]
    variables = {"checkpointer._component_": components, "checkpointer.checkpoint_files": [["model.safetensors"], ["absent.safetensors"]]}
    report = said(folder, variables=variables, evaluation=EVALUATION)
    assert "evaluation needs a Hugging Face checkpointer, and this is torchtune.training.FullModelTorchTuneCheckpointer" in report
    assert f"{folder.parent / 'model'} lacks absent.safetensors" in report


def test_a_folder_of_weights_that_is_no_text_is_a_fault(folder):
    assert said(folder, controls={"checkpointer.checkpoint_dir": 5}) == (
        "experiment.yaml:10  controls.checkpointer.checkpoint_dir\n  expected a folder, got 5"
    )


def test_a_control_character_of_the_data_does_not_reach_the_terminal(folder):
    (folder / "data" / "odd.jsonl").write_text(json.dumps({"\x1b[31mred": "x"}) + "\n")
    assert "it has \\x1b[31mred" in said(folder, controls={"dataset": "data/odd.jsonl"})


def test_the_block_that_is_named_is_what_mends_it(folder):
    base = {"checkpointer": {"_component_": "torchtune.training.FullModelTorchTuneCheckpointer"}}
    assert said(folder, base, evaluation=EVALUATION) != ""
    controls = yaml.safe_load(HF_CHECKPOINTER_BLOCK.split("\n", 1)[1])
    assert said(folder, base, controls=controls, evaluation=EVALUATION) == ""
