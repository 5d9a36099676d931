from __future__ import annotations

import time
from pathlib import Path

import pytest

from cruijff_kit.experiment import Experiment
from cruijff_kit.schema import Specification
from cruijff_kit.sweep import check, flatten, is_parameter, points, torchtune_key
from cruijff_kit.yaml_source import parse_yaml

HEAD = """\
experiment: {name: tiny, framework: torchtune}
framework_config: {base_config: base.yaml}
"""


def experiment(text: str) -> Experiment:
    """An experiment whose own sections start at line 3."""
    source = parse_yaml(HEAD + text, "experiment.yaml")
    return Experiment(Path("/experiment"), source, Specification.model_validate(source.data))


def faults(text: str) -> str:
    return "\n".join(str(problem) for problem in check(experiment(text)))


def swept(text: str) -> list[dict]:
    made = experiment(text)
    assert check(made) == []
    return list(points(made))


# The points


def test_the_last_variable_of_the_file_is_the_fastest():
    assert swept("variables: {seed: [2, 1], lora_rank: [8, 16], batch_size: [1, 4]}\n") == [
        {"seed": 2, "lora_rank": 8, "batch_size": 1},
        {"seed": 2, "lora_rank": 8, "batch_size": 4},
        {"seed": 2, "lora_rank": 16, "batch_size": 1},
        {"seed": 2, "lora_rank": 16, "batch_size": 4},
        {"seed": 1, "lora_rank": 8, "batch_size": 1},
        {"seed": 1, "lora_rank": 8, "batch_size": 4},
        {"seed": 1, "lora_rank": 16, "batch_size": 1},
        {"seed": 1, "lora_rank": 16, "batch_size": 4},
    ]


def test_the_parameters_of_a_point_stand_in_the_order_of_the_file():
    (point,) = swept("variables: {seed: [1], lora_rank: [8], batch_size: [4]}\n")
    assert list(point) == ["seed", "lora_rank", "batch_size"]


def test_without_variables_there_is_one_point_that_sets_nothing():
    assert swept("controls: {epochs: 1}\n") == [{}]


def test_paired_values_are_not_crossed_and_lie_flat():
    text = """\
variables:
  adapter:
    - {lora_rank: 8, lora_alpha: 16}
    - {lora_rank: 16, lora_alpha: 64, optimizer.weight_decay: 0.1}
  seed: [1, 2]
"""
    assert swept(text) == [
        {"lora_rank": 8, "lora_alpha": 16, "seed": 1},
        {"lora_rank": 8, "lora_alpha": 16, "seed": 2},
        {"lora_rank": 16, "lora_alpha": 64, "optimizer.weight_decay": 0.1, "seed": 1},
        {"lora_rank": 16, "lora_alpha": 64, "optimizer.weight_decay": 0.1, "seed": 2},
    ]


def test_under_a_parameters_name_a_mapping_is_its_value():
    entries = "[{source: a, split: train}, {source: b, split: train}]"
    assert swept(f"variables: {{dataset: {entries}}}\n") == [
        {"dataset": {"source": "a", "split": "train"}},
        {"dataset": {"source": "b", "split": "train"}},
    ]
    assert swept("variables: {dataset.column_map: [{input: a}]}\n") == [{"dataset.column_map": {"input": "a"}}]


@pytest.mark.parametrize(
    ("exclude", "left"),
    {
        "[{lora_rank: 8}]": [(16, 1), (16, 2)],
        "[{lora_rank: 8, seed: 2}]": [(8, 1), (16, 1), (16, 2)],
        "[{seed: 2, lora_rank: 8}, {lora_rank: 16, seed: 1}]": [(8, 1), (16, 2)],
        "[{lora_rank: 64}]": [(8, 1), (8, 2), (16, 1), (16, 2)],
    }.items(),
)
def test_points_that_a_partial_point_matches_are_left_out(exclude, left):
    text = f"variables: {{lora_rank: [8, 16], seed: [1, 2]}}\nexclude: {exclude}\n"
    assert [tuple(point.values()) for point in swept(text)] == left


def test_a_number_is_excluded_however_it_is_written():
    text = "variables: {learning_rate: [1e-3, 3e-4]}\nexclude: [{learning_rate: 0.001}]\n"
    assert swept(text) == [{"learning_rate": 3e-4}]


def test_paired_values_are_excluded_by_the_parameters_that_they_set():
    text = """\
variables:
  adapter: [{lora_rank: 8, lora_alpha: 16}, {lora_rank: 16, lora_alpha: 32}]
  seed: [1, 2]
exclude: [{lora_alpha: 32, seed: 2}]
"""
    assert [(point["lora_alpha"], point["seed"]) for point in swept(text)] == [(16, 1), (16, 2), (32, 1)]


def test_names_and_their_torchtune_keys():
    assert [is_parameter(name) for name in ("lora_rank", "optimizer.lr", "adapter", "_override")] == [True, True, False, False]
    assert torchtune_key("learning_rate") == "optimizer.lr"
    assert torchtune_key("optimizer.fused") == "optimizer.fused"
    assert flatten({"adapter": {"lora_rank": 8}, "seed": 1}) == {"lora_rank": 8, "seed": 1}


# Names and values


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "variables: {lora_rnk: [8, 16]}\n": (
            "experiment.yaml:3  variables.lora_rnk\n  unknown parameter 'lora_rnk'\n  did you mean 'lora_rank'?"
        ),
        "controls: {lora_rnk: 8}\n": (
            "experiment.yaml:3  controls.lora_rnk\n  unknown parameter 'lora_rnk'\n  did you mean 'lora_rank'?"
        ),
        "controls: {lr: 3e-4}\n": "experiment.yaml:3  controls.lr\n  unknown parameter 'lr'",
        "variables: {zzz: [8]}\n": (
            "experiment.yaml:3  variables.zzz\n  'zzz' is no parameter: each of its values must be a mapping"
        ),
        "variables: {zzz: [{}]}\n": (
            "experiment.yaml:3  variables.zzz\n  'zzz' is no parameter: each of its values must be a mapping"
        ),
        "variables:\n  pair:\n    - {lora_rank: 8}\n    - {lora_rnk: 8}\n": (
            "experiment.yaml:6  variables.pair[1].lora_rnk\n  unknown parameter 'lora_rnk'\n  did you mean 'lora_rank'?"
        ),
        "variables: {hydra: [{lora_rank: 8}]}\n": (
            "experiment.yaml:3  variables.hydra\n  'hydra' cannot be the name of a variable\n  use letters, digits and '_'"
        ),
        "variables: {my pair: [{lora_rank: 8}]}\n": (
            "experiment.yaml:3  variables.my pair\n  'my pair' cannot be the name of a variable\n  use letters, digits and '_'"
        ),
    }.items(),
)
def test_a_name_that_is_no_parameter(text, expected):
    assert faults(text) == expected


@pytest.mark.parametrize(
    "name", ["experiment_dir", "evaluation", "cluster", "torchtune", "stage", "stages", "run", "commands", "hydra", "defaults"]
)
def test_a_pair_is_not_called_what_the_hydra_config_has_already(name):
    assert faults(f"variables: {{{name}: [{{lora_rank: 8}}]}}\n") == (
        f"experiment.yaml:3  variables.{name}\n  '{name}' cannot be the name of a variable\n  use letters, digits and '_'"
    )


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("learning_rate", ["0", "-1", "'1e-3'", "true", "null", "[1]"], "a number above 0"),
        ("weight_decay", ["-0.1", "x", "null"], "a number of at least 0"),
        ("lora_rank", ["0", "8.0", "'8'", "true", "null"], "a whole number of at least 1"),
        ("lora_alpha", ["0", "x", "null"], "a number above 0"),
        ("lora_dropout", ["-0.1", "1.1", "x"], "a number from 0 to 1"),
        ("epochs", ["0", "1.5", "null"], "a whole number of at least 1"),
        ("batch_size", ["0", "2.0"], "a whole number of at least 1"),
        ("seed", ["-1", "1.0", "x"], "a whole number of at least 0"),
        ("shuffle", ["yes", "1", "null"], "true or false"),
        ("dtype", ["float32", "null", "32"], "fp32, bf16 or fp16"),
        ("device", ["0", "''", "null"], "text"),
        ("compile", ["on", "1"], "true or false"),
        ("clip_grad_norm", ["0", "x", "-1"], "a number above 0, or 'inf'"),
        ("gradient_accumulation_steps", ["0", "null"], "a whole number of at least 1"),
        ("max_steps_per_epoch", ["0", "2.5"], "a whole number of at least 1"),
        ("log_every_n_steps", ["0"], "a whole number of at least 1"),
        ("resume_from_checkpoint", ["yes"], "true or false"),
        ("save_adapter_weights_only", ["1"], "true or false"),
        ("max_seq_len", ["0", "'256'"], "a whole number of at least 1"),
        ("packed", ["yes"], "true or false"),
        ("train_on_input", ["no"], "true or false"),
        ("warmup_steps", ["-1", "0.1", "null"], "a whole number of at least 0"),
        ("activation_checkpointing", ["off"], "true or false"),
        ("activation_offloading", ["off"], "true or false"),
        ("dataset", ["''", "3", "null", "[a]"], "a file, a Hub id or a mapping"),
    ],
)
def test_a_value_of_the_wrong_type_is_said_at_its_place(name, values, kind):
    for text in values:
        value = parse_yaml(f"a: {text}\n", "a").data["a"]
        said = f"  expected {kind}, got {value!r}"
        assert faults(f"controls:\n  {name}: {text}\n") == f"experiment.yaml:4  controls.{name}\n{said}"
        assert faults(f"variables:\n  {name}:\n    - {text}\n") == f"experiment.yaml:5  variables.{name}[0]\n{said}"
        pair = f"variables:\n  pair:\n    - {{{name}: {text}}}\n"
        assert faults(pair) == f"experiment.yaml:5  variables.pair[0].{name}\n{said}"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("learning_rate", "1, 3e-4"),
        ("weight_decay", "0, 0.1"),
        ("lora_alpha", "16, 16.5"),
        ("lora_dropout", "0, 1, 0.05"),
        ("seed", "0, null"),
        ("dtype", "fp32, bf16, fp16"),
        ("clip_grad_norm", "1, 0.5, 'inf', null"),
        ("max_steps_per_epoch", "1, null"),
        ("max_seq_len", "256, null"),
        ("warmup_steps", "0, 10"),
        ("dataset", "yahma/alpaca-cleaned, data/x.jsonl, {source: a}"),
        ("optimizer.anything", "1, x, null, [1], {a: 1}"),
    ],
)
def test_a_value_of_the_right_type_is_no_fault(name, values):
    assert faults(f"variables:\n  {name}: [{values}]\n") == ""


def test_a_control_may_be_computed_and_a_variable_may_not():
    assert faults("controls: {lora_alpha: '${mul:2,${lora_rank}}'}\n") == ""
    expected = "a variable's values are plain\n  compute it in a control: ${mul:2,${lora_rank}}"
    assert faults("variables: {lora_alpha: ['${mul:2,${lora_rank}}']}\n") == (
        f"experiment.yaml:3  variables.lora_alpha[0]\n  {expected}"
    )
    assert faults("variables: {pair: [{lora_alpha: '${lora_rank}'}]}\n") == (
        f"experiment.yaml:3  variables.pair[0].lora_alpha\n  {expected}"
    )


def test_a_value_inside_a_variables_mapping_is_plain_too():
    said = faults("variables: {dataset: [{source: '${lora_rank}'}]}\n")
    assert said.startswith("experiment.yaml:3  variables.dataset[0]")


@pytest.mark.parametrize(
    ("values", "index", "shown"),
    [
        ("[8, 16, 8]", 2, "8"),
        ("[null, null]", 1, "None"),
        ("[{a: 1}, {a: 1}]", 1, "{'a': 1}"),
    ],
)
def test_a_value_that_is_there_twice(values, index, shown):
    assert faults(f"variables: {{model.x: {values}}}\n") == (
        f"experiment.yaml:3  variables.model.x[{index}]\n  {shown} is there twice"
    )


def test_true_and_1_are_two_values():
    assert faults("variables: {model.x: [1, true]}\n") == ""


# Set once


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "variables: {lora_rank: [8]}\ncontrols: {lora_rank: 8}\n": (
            "experiment.yaml:4  controls.lora_rank\n  'lora_rank' is a variable too\n  keep it in one of the two"
        ),
        "variables: {learning_rate: [1]}\ncontrols: {optimizer.lr: 1}\n": (
            "experiment.yaml:4  controls.optimizer.lr\n  'optimizer.lr' is a variable too\n  keep it in one of the two"
        ),
        "variables: {pair: [{epochs: 1}, {seed: 2}]}\ncontrols: {seed: 8}\n": (
            "experiment.yaml:4  controls.seed\n  'seed' is a variable too\n  keep it in one of the two"
        ),
        "variables: {seed: [1], pair: [{epochs: 1}, {seed: 2}]}\n": (
            "experiment.yaml:3  variables.pair\n  'seed' is also set by the variable 'seed'"
        ),
        "variables: {learning_rate: [1], optimizer.lr: [2]}\n": (
            "experiment.yaml:3  variables.optimizer.lr\n  'optimizer.lr' is also set by the variable 'learning_rate'"
        ),
        "variables: {learning_rate: [1]}\ncontrols:\n  _override:\n    optimizer: {lr: 2}\n": (
            "experiment.yaml:6  controls._override.optimizer.lr\n"
            "  'optimizer.lr' is set by the variable 'learning_rate', and _override is merged last\n"
            "  remove one of the two"
        ),
        "variables: {lora_rank: [8]}\ncontrols:\n  _override:\n    model: 3\n": (
            "experiment.yaml:6  controls._override.model\n"
            "  'model' is set by the variable 'lora_rank', and _override is merged last\n"
            "  remove one of the two"
        ),
        "variables: {dataset: [a, b]}\ncontrols:\n  _override:\n    dataset: {split: x}\n": (
            "experiment.yaml:6  controls._override.dataset.split\n"
            "  'dataset.split' is set by the variable 'dataset', and _override is merged last\n"
            "  remove one of the two"
        ),
    }.items(),
)
def test_a_parameter_that_two_places_set(text, expected):
    assert faults(text) == expected


def test_two_controls_do_not_set_one_key():
    assert faults("controls:\n  learning_rate: 1e-3\n  optimizer.lr: 1e-4\n").startswith("experiment.yaml:5  controls.optimizer.lr\n")


def test_neighbours_of_a_variable_may_be_overridden():
    text = "variables: {lora_rank: [8]}\ncontrols: {_override: {model: {lora_rank_x: 1, lora_attn_modules: [q_proj]}, loss: {}}}\n"
    assert faults(text) == ""


def test_pairs_with_other_parameters_and_pairs_of_one_entry_are_no_fault():
    assert faults("variables: {a: [{seed: 1}, {epochs: 2}], b: [{batch_size: 1, lora_rank: 2}]}\n") == ""


# Exclusions


@pytest.mark.parametrize(
    ("exclude", "expected"),
    {
        "[{lora_rnk: 8}]": "exclude[0].lora_rnk\n  'lora_rnk' is no variable\n  did you mean 'lora_rank'?",
        "[{lora_rank: 8}, {epochs: 1}]": "exclude[1].epochs\n  'epochs' is no variable",
        "[{pair: 8}]": "exclude[0].pair\n  'pair' is no variable",
        "[{pair: {seed: 1}}]": "exclude[0].pair\n  'pair' is no variable",
        "[{lora_rank: 8}, {seed: 1}]": "exclude\n  every point of the sweep is excluded",
        "[{}]": "exclude\n  every point of the sweep is excluded",
    }.items(),
)
def test_a_fault_of_an_exclusion(exclude, expected):
    text = f"variables: {{lora_rank: [8, 16], pair: [{{seed: 1}}]}}\nexclude: {exclude}\n"
    assert faults(text) == f"experiment.yaml:4  {expected}"


@pytest.mark.parametrize("entry", ["x", "1.5", "[seed]"])
def test_an_exclusion_beside_a_variable_that_is_none_is_looked_at_all_the_same(entry):
    text = f"variables: {{pair: [{entry}], seed: [1]}}\nexclude: [{{seed: 1}}]\n"
    assert faults(text) == "experiment.yaml:3  variables.pair\n  'pair' is no parameter: each of its values must be a mapping"


def test_a_sweep_of_more_points_than_can_be_composed_is_a_fault():
    text = "variables:\n" + "".join(f"  {name}: [{', '.join(map(str, range(1, 1001)))}]\n" for name in ("seed", "epochs", "lora_rank", "batch_size"))
    said = "experiment.yaml:3  variables\n  1,000,000,000,000 points: a sweep has at most 10,000, those included that are excluded\n  list fewer values"
    assert faults(text) == said


def test_thousands_of_values_are_compared_at_once():
    text = f"variables: {{seed: [{', '.join(map(str, range(10_000)))}]}}\n"
    made = experiment(text)
    start = time.process_time()
    assert check(made) == []
    assert time.process_time() - start < 1


def test_an_exclusion_without_variables_is_of_nothing():
    assert faults("exclude: [{lora_rank: 8}]\n") == "experiment.yaml:3  exclude[0].lora_rank\n  'lora_rank' is no variable"


# Mappings that are swept


@pytest.mark.parametrize(
    "value", ["{source: a/b, 'KEY': 1}", "{source: a/b, column_map: {'KEY': x}}", "{source: a/b, filters: [[{'KEY': x}]]}"]
)
@pytest.mark.parametrize("key", ["é", "#", "true", "NULL", "0", "-1", "1.5", "+.5", "1e-5", "1_0", "inf", "-Inf", "+nan"])
def test_a_key_that_a_multirun_cannot_hold_is_a_fault_however_deep(value, key):
    assert faults(f"variables: {{dataset: [c/d, {value.replace('KEY', key)}]}}\n") == (
        f"experiment.yaml:3  variables.dataset[1]\n  a mapping that is swept cannot have the key {key!r}\n"
        "  use ASCII letters, digits and '_'"
    )


@pytest.mark.parametrize("key", ["e", "_", "-", "..", "e1", "1e", "info", "nullable", "x1.5", "2024-01-01"])
def test_a_key_that_only_resembles_a_number_or_a_word_is_no_fault(key):
    assert faults(f"variables: {{dataset: [c/d, {{source: a/b, '{key}': 1}}]}}\n") == ""


def test_all_faults_are_said_together():
    text = """\
variables:
  lora_rank: [8, 0, 8]
  adapter: [8]
controls:
  lora_rank: 4
  epoch: 1
exclude:
  - {seed: 1}
"""
    assert faults(text) == """\
experiment.yaml:8  controls.epoch
  unknown parameter 'epoch'
  did you mean 'epochs'?
experiment.yaml:4  variables.lora_rank[1]
  expected a whole number of at least 1, got 0
experiment.yaml:4  variables.lora_rank[2]
  8 is there twice
experiment.yaml:5  variables.adapter
  'adapter' is no parameter: each of its values must be a mapping
experiment.yaml:7  controls.lora_rank
  'lora_rank' is a variable too
  keep it in one of the two
experiment.yaml:10  exclude[0].seed
  'seed' is no variable"""
