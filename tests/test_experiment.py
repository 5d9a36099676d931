from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from cruijff_kit.errors import ExperimentError
from cruijff_kit.experiment import Experiment, load

MINIMAL = """\
experiment:
  name: tiny
  framework: torchtune
framework_config:
  base_config: base.yaml
"""

EVALUATION = """\
evaluation:
  enabled: true
  framework: inspect
  tasks_dir: evals/
  tasks:
    - {name: one, file: a.py, function: one}
"""


def loaded(folder: Path, text: str) -> Experiment:
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    return load(folder)


def faults(folder: Path, text: str) -> str:
    with pytest.raises(ExperimentError) as error:
        loaded(folder, text)
    return str(error.value)


# What is read


def test_the_smallest_experiment_has_the_defaults_of_all_the_rest(tmp_path):
    spec = loaded(tmp_path, MINIMAL).spec
    assert spec.model_dump() == {
        "experiment": {
            "name": "tiny",
            "framework": "torchtune",
            "question": None,
            "hypothesis": None,
            "researcher": None,
            "notes": None,
            "date": None,
            "tags": [],
        },
        "framework_config": {"base_config": "base.yaml", "recipe": None, "model_dir": None},
        "variables": {},
        "controls": {},
        "exclude": [],
        "evaluation": {
            "enabled": False,
            "framework": None,
            "tasks_dir": None,
            "tasks": [],
            "checkpoint": "last",
            "model_format": "hf",
            "dtype": None,
            "baseline": False,
            "generate": {},
            "limit": None,
            "backend": "hf",
            "base_model": None,
            "merge_adapters": None,
            "group_by_base": False,
            "objective": None,
        },
        "output": {"configs_dir": "configs/", "results_dir": "results/", "eval_results_dir": "eval_results/", "keep_checkpoints": "all"},
    }


def test_variables_keep_the_order_of_the_file(tmp_path):
    spec = loaded(tmp_path, f"{MINIMAL}variables:\n  seed: [2, 1]\n  lora_rank: [8]\n  batch_size: [1]\n").spec
    assert list(spec.variables) == ["seed", "lora_rank", "batch_size"]
    assert spec.variables["seed"] == [2, 1]


def test_the_date_is_a_date(tmp_path):
    text = MINIMAL.replace("torchtune", "torchtune\n  date: 2025-10-22")
    assert loaded(tmp_path, text).spec.experiment.date == datetime.date(2025, 10, 22)


def test_controls_are_told_from_what_overrides_the_config(tmp_path):
    experiment = loaded(tmp_path, f"{MINIMAL}controls:\n  epochs: 1\n  _override:\n    loss: {{_component_: x.y}}\n")
    assert experiment.controls == {"epochs": 1}
    assert experiment.override == {"loss": {"_component_": "x.y"}}


def test_an_empty_override_changes_nothing(tmp_path):
    assert loaded(tmp_path, f"{MINIMAL}controls:\n  _override:\n").override == {}


@pytest.mark.parametrize("name", ["lora_rank", "a", "0", "A.b-c_d", "_x", "-x", "x" * 100])
def test_a_safe_name_is_accepted(tmp_path, name):
    assert loaded(tmp_path, MINIMAL.replace("name: tiny", f"name: '{name}'")).name == name


# Paths


def test_paths_start_at_the_folder_of_the_experiment(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "experiment").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    experiment = loaded(Path("../experiment"), MINIMAL)
    assert experiment.folder == tmp_path / "experiment"
    assert experiment.path("data/x.jsonl") == tmp_path / "experiment" / "data" / "x.jsonl"
    assert experiment.path("../x.jsonl") == tmp_path / "x.jsonl"
    assert experiment.path("/x/./y/") == Path("/x/y")


def test_a_path_may_start_at_home_or_name_a_variable_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    experiment = loaded(tmp_path, MINIMAL)
    assert experiment.path("~/models/x") == Path("/home/me/models/x")
    assert experiment.path("${oc.env:SCRATCH}/x") == Path("/scratch/me/x")
    assert experiment.path("${oc.env:NOT_SET_ANYWHERE,here}/x") == tmp_path / "here" / "x"


@pytest.mark.parametrize(
    ("section", "line", "key"),
    [
        ("output:\n  configs_dir: ${oc.env:NOT_SET_ANYWHERE}/configs\n", 7, "output.configs_dir"),
        ("output:\n  results_dir: ${nothing}\n", 7, "output.results_dir"),
        (f"output:\n  results_dir: {'é' * 128}\n", 7, "output.results_dir"),
        (f"output:\n  results_dir: {'a/' * 2049}\n", 7, "output.results_dir"),
        (f"output:\n  results_dir: '{'${oc.env:' * 300}'\n", 7, "output.results_dir"),
    ],
)
def test_a_path_that_does_not_resolve_is_a_fault_with_its_line(tmp_path, section, line, key):
    assert faults(tmp_path, MINIMAL + section).startswith(f"experiment.yaml:{line}  {key}\n  does not resolve: ")


def test_the_home_of_a_user_that_is_none_is_a_fault_with_its_line(tmp_path):
    said = faults(tmp_path, f"{MINIMAL}output:\n  results_dir: ~no_such_user_here/results\n")
    assert said.startswith("experiment.yaml:7  output.results_dir\n")


def test_a_folder_without_an_experiment_says_so(tmp_path):
    with pytest.raises(ExperimentError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"experiment.yaml\n  no such file\n  write one there, or name the folder that holds it: {tmp_path}"
    )


# Faults


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("experiment:\n  name: tiny\n  framework: torchtune\n", "", "experiment.yaml  experiment\n  missing required key 'experiment'"),
        ("  name: tiny\n", "", "experiment.yaml:1  experiment.name\n  missing required key 'name'"),
        ("  framework: torchtune\n", "", "experiment.yaml:1  experiment.framework\n  missing required key 'framework'"),
        ("  base_config: base.yaml\n", "  {}\n", "experiment.yaml:4  framework_config.base_config\n  missing required key 'base_config'"),
        ("torchtune", "axolotl", "experiment.yaml:3  experiment.framework\n  unsupported framework 'axolotl'\n  supported: torchtune"),
        ("torchtune", "3", "experiment.yaml:3  experiment.framework\n  unsupported framework 3\n  supported: torchtune"),
        ("name: tiny", "name: 3", "experiment.yaml:2  experiment.name\n  expected a string, got 3"),
        ("name: tiny", "name:", "experiment.yaml:2  experiment.name\n  expected a string, got None"),
        ("name: tiny", "nmae: tiny", (
            "experiment.yaml:1  experiment.name\n  missing required key 'name'\n"
            "experiment.yaml:2  experiment.nmae\n  unknown key 'nmae'\n  did you mean 'name'?"
        )),
        ("torchtune", "torchtune\n  question: [why]", "experiment.yaml:4  experiment.question\n  expected a string, got ['why']"),
        ("torchtune", "torchtune\n  tags: lora", "experiment.yaml:4  experiment.tags\n  expected a list, got 'lora'"),
        ("torchtune", "torchtune\n  tags: [lora, 3]", "experiment.yaml:4  experiment.tags[1]\n  expected a string, got 3"),
        ("torchtune", "torchtune\n  partition: gpu", "experiment.yaml:4  experiment.partition\n  unknown key 'partition'"),
        ("base.yaml", "''", "experiment.yaml:5  framework_config.base_config\n  String should have at least 1 character, got ''"),
        ("base.yaml", "base.yaml\n  model: x", "experiment.yaml:6  framework_config.model\n  unknown key 'model'\n  did you mean 'model_dir'?"),
        ("experiment:", "slurm: {partition: gpu}\nexperiment:", "experiment.yaml:1  slurm\n  unknown key 'slurm'"),
        ("experiment:", "variable: {}\nexperiment:", "experiment.yaml:1  variable\n  unknown key 'variable'\n  did you mean 'variables'?"),
    ],
)  # fmt: skip
def test_a_fault_of_the_sections_that_must_be_there(tmp_path, old, new, expected):
    text = MINIMAL.replace(old, new, 1)
    assert text != MINIMAL
    assert faults(tmp_path, text) == expected


@pytest.mark.parametrize("name", ["a b", "a/b", "../a", ".a", "", "a\\nb", "a\\n", "é", "a'b", "$(touch x)", "x" * 101])
def test_a_name_that_is_no_safe_path_is_refused(tmp_path, name):
    said = faults(tmp_path, MINIMAL.replace("name: tiny", f'name: "{name}"'))
    shown = name.replace("\\n", "\n")
    if len(name) > 100:
        assert said == f"experiment.yaml:2  experiment.name\n  String should have at most 100 characters, got {shown!r}"
    else:
        assert said == (
            f"experiment.yaml:2  experiment.name\n  {shown!r} is no safe name for a file or a job\n"
            "  use letters, digits, '.', '_' and '-', and do not start with a dot"
        )


@pytest.mark.parametrize(
    ("section", "expected"),
    {
        "variables: [lora_rank]\n": "experiment.yaml:6  variables\n  expected a dictionary, got ['lora_rank']",
        "variables:\n  lora_rank: 8\n": "experiment.yaml:7  variables.lora_rank\n  expected a list, got 8",
        "variables:\n  lora_rank:\n": "experiment.yaml:7  variables.lora_rank\n  expected a list, got None",
        "variables:\n  lora_rank: {a: 1}\n": "experiment.yaml:7  variables.lora_rank\n  expected a list, got {'a': 1}",
        "variables:\n  lora_rank: []\n": "experiment.yaml:7  variables.lora_rank\n  the variable 'lora_rank' has no values",
        "controls: 3\n": "experiment.yaml:6  controls\n  expected a dictionary, got 3",
        "controls:\n  _override: 3\n": (
            "experiment.yaml:7  controls._override\n  expected a mapping that is merged into the torchtune config"
        ),
        "controls:\n  _override: []\n": (
            "experiment.yaml:7  controls._override\n  expected a mapping that is merged into the torchtune config"
        ),
        "exclude: {lora_rank: 8}\n": "experiment.yaml:6  exclude\n  expected a list, got {'lora_rank': 8}",
        "exclude: [8]\n": "experiment.yaml:6  exclude[0]\n  expected a dictionary, got 8",
        "output:\n  config_dir: x\n": (
            "experiment.yaml:7  output.config_dir\n  unknown key 'config_dir'\n  did you mean 'configs_dir'?"
        ),
        "output:\n  keep_checkpoints: lst\n": (
            "experiment.yaml:7  output.keep_checkpoints\n  unsupported keep_checkpoints 'lst'\n  supported: all or last"
        ),
    }.items(),
)
def test_a_fault_of_the_sections_that_may_be_there(tmp_path, section, expected):
    assert faults(tmp_path, MINIMAL + section) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  framework: inspect\n", "", "evaluation.framework\n  missing required key 'framework'\n  or set enabled: false"),
        ("  tasks_dir: evals/\n", "", "evaluation.tasks_dir\n  missing required key 'tasks_dir'\n  or set enabled: false"),
        ("tasks:\n    - {name: one, file: a.py, function: one}", "tasks: []", "evaluation.tasks\n  missing required key 'tasks'\n  or set enabled: false"),
    ],
)  # fmt: skip
def test_an_evaluation_that_is_enabled_needs_its_framework_and_tasks(tmp_path, old, new, expected):
    line = 10 if new else 6  # where the key stands, or else its section
    assert faults(tmp_path, MINIMAL + EVALUATION.replace(old, new)) == f"experiment.yaml:{line}  {expected}"
    assert loaded(tmp_path, MINIMAL + EVALUATION.replace(old, new).replace("true", "false"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("enabled: true", "enabled: yes", "experiment.yaml:7  evaluation.enabled\n  expected a boolean, got 'yes'"),
        ("enabled: true", "enable: true", "experiment.yaml:7  evaluation.enable\n  unknown key 'enable'\n  did you mean 'enabled'?"),
        ("inspect", "lm_eval", "experiment.yaml:8  evaluation.framework\n  unsupported framework 'lm_eval'\n  supported: inspect"),
        ("tasks_dir: evals/", "tasks_dir: 3", "experiment.yaml:9  evaluation.tasks_dir\n  expected a string, got 3"),
        ("{name: one, file: a.py, function: one}", "one", "experiment.yaml:11  evaluation.tasks[0]\n  expected a dictionary or instance of EvaluationTask, got 'one'"),
        ("name: one, ", "", "experiment.yaml:11  evaluation.tasks[0].name\n  missing required key 'name'"),
        ("file: a.py, ", "", "experiment.yaml:11  evaluation.tasks[0].file\n  missing required key 'file'"),
        (", function: one", "", "experiment.yaml:11  evaluation.tasks[0].function\n  missing required key 'function'"),
        ("function: one", "function: one, arg: {}", "experiment.yaml:11  evaluation.tasks[0].arg\n  unknown key 'arg'\n  did you mean 'args'?"),
        ("function: one", "function: one, args: [1]", "experiment.yaml:11  evaluation.tasks[0].args\n  expected a dictionary, got [1]"),
        ("name: one", "name: a/b", (
            "experiment.yaml:11  evaluation.tasks[0].name\n  'a/b' is no safe name for a file or a job\n"
            "  use letters, digits, '.', '_' and '-', and do not start with a dot"
        )),
        ("function: one}", "function: one}\n    - {name: one, file: b.py, function: two}", "experiment.yaml:12  evaluation.tasks[1].name\n  two tasks are called 'one'"),
    ],
)  # fmt: skip
def test_a_fault_of_the_evaluation(tmp_path, old, new, expected):
    text = EVALUATION.replace(old, new, 1)
    assert text != EVALUATION
    assert faults(tmp_path, MINIMAL + text) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    {
        "checkpoint: best": "evaluation.checkpoint\n  unsupported checkpoint 'best'\n  supported: last, all, or a list of epochs, which are counted from 0",
        "model_format: gguf": "evaluation.model_format\n  unsupported model_format 'gguf'\n  supported: hf or adapter",
        "backend: tgi": "evaluation.backend\n  unsupported backend 'tgi'\n  supported: hf or vllm",
        "dtype: int8": "evaluation.dtype\n  unsupported dtype 'int8'\n  supported: fp32, bf16 or fp16",
        "limit: 0": "evaluation.limit\n  expected greater than or equal to 1, got 0",
        "limit: '5'": "evaluation.limit\n  expected a integer, got '5'",
        "limit: true": "evaluation.limit\n  expected a integer, got True",
        "baseline: 1": "evaluation.baseline\n  expected a boolean, got 1",
        "generate: [1]": "evaluation.generate\n  expected a dictionary, got [1]",
        "objective: accuracy": "evaluation.objective\n  expected TASK/SCORER/METRIC, got 'accuracy'\n  for instance domain_qa/match/accuracy: the names of results.json",
        "merge_adapters: true": "evaluation.merge_adapters\n  'merge_adapters' is for model_format: adapter\n  model_format: adapter, or remove it",
        "group_by_base: true": "evaluation.group_by_base\n  'group_by_base' is for model_format: adapter\n  model_format: adapter, or remove it",
        **{
            f"checkpoint: {value}": f"evaluation.checkpoint\n  unsupported checkpoint {shown}\n  supported: last, all, or a list of epochs, which are counted from 0"
            for value, shown in {"first": "'first'", "2": "2", "[]": "[]", "[0, 0]": "[0, 0]", "[-1]": "[-1]", "[true]": "[True]", "['0']": "['0']"}.items()
        },
    }.items(),
)
def test_a_setting_of_the_evaluation_that_is_none(tmp_path, line, expected):
    assert faults(tmp_path, f"{MINIMAL}{EVALUATION}  {line}\n") == f"experiment.yaml:12  {expected}"


def test_a_date_that_is_none_is_a_fault_with_its_line(tmp_path):
    said = faults(tmp_path, MINIMAL.replace("torchtune", "torchtune\n  date: 2025-13-45"))
    assert said.startswith("experiment.yaml:4")
    said = faults(tmp_path, MINIMAL.replace("torchtune", "torchtune\n  date: soon"))
    assert said == "experiment.yaml:4  experiment.date\n  expected a date or datetime, input is too short, got 'soon'"


@pytest.mark.parametrize("outside", ["..", "../results", "/results", ".", "results/../.."])
def test_an_output_folder_is_inside_the_experiment(tmp_path, outside):
    folder = Path(tmp_path, outside).resolve()
    assert faults(tmp_path, f"{MINIMAL}output:\n  results_dir: {outside}\n") == (
        f"experiment.yaml:7  output.results_dir\n  '{folder}' is not inside the experiment's folder"
    )


def test_an_output_folder_is_not_another_one_or_inside_it(tmp_path):
    assert faults(tmp_path, f"{MINIMAL}output:\n  eval_results_dir: results/evals\n") == (
        f"experiment.yaml:7  output.eval_results_dir\n  '{tmp_path}/results/evals' is in use for something else, or inside such a folder"
    )
    assert faults(tmp_path, f"{MINIMAL}output:\n  configs_dir: x\n  results_dir: ./x/\n") == (
        f"experiment.yaml:7  output.configs_dir\n  '{tmp_path}/x' is in use for something else, or inside such a folder\n"
        f"experiment.yaml:8  output.results_dir\n  '{tmp_path}/x' is in use for something else, or inside such a folder"
    )


@pytest.mark.parametrize("hidden", [".cruijff-kit", ".cruijff-kit/pending"])
def test_an_output_folder_is_not_the_hidden_one_whose_files_come_and_go(tmp_path, hidden):
    assert faults(tmp_path, f"{MINIMAL}output:\n  configs_dir: {hidden}\n").startswith("experiment.yaml:7  output.configs_dir\n")


@pytest.mark.parametrize("taken", ["scripts", "scripts/x", "evals", "./evals/x/"])
def test_an_output_folder_is_not_that_of_the_scripts_or_of_the_tasks(tmp_path, taken):
    assert faults(tmp_path, f"{MINIMAL}output:\n  configs_dir: {taken}\n{EVALUATION}") == (
        f"experiment.yaml:7  output.configs_dir\n  '{(tmp_path / taken).resolve()}' is in use for something else, or inside such a folder"
    )


@pytest.mark.parametrize("shared", [".", "..", "/"])
def test_the_tasks_may_lie_in_a_folder_that_holds_the_experiment(tmp_path, shared):
    assert loaded(tmp_path, MINIMAL + EVALUATION.replace("evals/", shared)).spec.evaluation.tasks_dir == shared


@pytest.mark.parametrize("section", ["variables", "controls", "exclude", "evaluation", "output"])
def test_a_section_with_nothing_below_it_counts_as_absent(tmp_path, section):
    without = loaded(tmp_path, MINIMAL).spec
    assert loaded(tmp_path, f"{MINIMAL}{section}:\n").spec == without


def test_a_required_section_with_nothing_below_it_is_missing(tmp_path):
    said = faults(tmp_path, "experiment: {name: tiny, framework: torchtune}\nframework_config:\n")
    assert said == "experiment.yaml:2  framework_config\n  missing required key 'framework_config'"


def test_all_faults_of_form_are_reported_together_in_the_order_of_the_sections(tmp_path):
    text = """\
experiment:
  name: a b
  framework: torchtun
framework_config: {}
variables:
  lora_rank: 8
evaluation:
  backend: tgi
  taks: []
"""
    assert faults(tmp_path, text) == """\
experiment.yaml:2  experiment.name
  'a b' is no safe name for a file or a job
  use letters, digits, '.', '_' and '-', and do not start with a dot
experiment.yaml:3  experiment.framework
  unsupported framework 'torchtun'
  supported: torchtune
experiment.yaml:4  framework_config.base_config
  missing required key 'base_config'
experiment.yaml:6  variables.lora_rank
  expected a list, got 8
experiment.yaml:8  evaluation.backend
  unsupported backend 'tgi'
  supported: hf or vllm
experiment.yaml:9  evaluation.taks
  unknown key 'taks'
  did you mean 'tasks'?"""
