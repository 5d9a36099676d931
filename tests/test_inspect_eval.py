from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cruijff_kit import inspect_eval
from cruijff_kit.evaluation_request import Request, checkpoints_in
from cruijff_kit.experiment import load
from cruijff_kit.generate import generate
from cruijff_kit.sweep import Run
from cruijff_kit.torchtune_config import Composer
from tests.tiny_experiment import load_composer, specification, write_experiment

GOLDEN = Path(__file__).parent / "golden"

NASTY = [
    "",
    "'",
    '"',
    '"""',
    "'''",
    "\\",
    "\\'",
    '\\"',
    "a\\",
    "\n",
    "\r\n",
    "\t\x00\x07\x7f",
    "'); import os; os.system('touch x') #",
    '"); import os; os.system("touch x") #',
    '"""\nimport os\n"""',
    "__import__('os').system('touch x')",
    "{run}",
    "{0}",
    "%s",
    "${oc.env:HOME}",
    "\\x41",
    "\\u0041",
    "\\N{BULLET}",
    "é",
    "漢",
    "😀",
    "\u2028\x85",
    "# comment",
    "x" * 10_000,
]

VALUES = [None, True, False, 0, -1, 10**18, 1.5, 1e-5, 1e300, -0.0, [], {}, [[1, [None]], {"a": [True]}]]


def composed(folder: Path, **evaluation: Any) -> tuple[Composer, Run]:
    """A composer of the tiny experiment with other keys below `evaluation`, and its run of rank 2."""
    spec = specification("/models/tiny")
    spec["evaluation"] |= evaluation
    write_experiment(folder, "/models/tiny", spec)
    experiment = load(folder)
    composer = load_composer(experiment)
    return composer, composer.run("run_000", {"lora_rank": 2}, {**experiment.controls, "lora_rank": 2})


def arguments(script: str) -> dict[str, Any]:
    """What the script hands to `evaluate`, if it is an import, a guard and that one call of nothing but literals."""
    imported, guard = ast.parse(script).body
    assert ast.unparse(imported) == "from cruijff_kit.evaluate import evaluate"
    assert isinstance(guard, ast.If) and ast.unparse(guard.test) == "__name__ == '__main__'"
    (statement,) = guard.body
    call = statement.value
    assert ast.unparse(call.func) == "evaluate" and not call.args and not guard.orelse
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


@pytest.mark.parametrize("name", ["eval_000.py", "eval_base.py"])
def test_the_whole_script(tmp_path, name):
    folder = tmp_path / "experiment"
    composer, run = composed(folder, limit=5, dtype="fp32")
    script = inspect_eval.renderer(composer)(run) if name == "eval_000.py" else inspect_eval.render_baseline(composer, run)
    assert script.replace(str(folder), "/path/to/experiment") == (GOLDEN / name).read_text()


def test_the_script_says_what_is_evaluated(tmp_path):
    folder = tmp_path / "experiment"
    tasks = [
        {"name": "one", "file": "tasks.py", "function": "capitalize", "args": {"scorer": "includes"}},
        {"name": "two", "file": "../tasks.py", "function": "capitalize"},
    ]
    composer, run = composed(folder, tasks=tasks, generate={"temperature": 0.5, "stop_seqs": ["a", "b"]}, dtype="bf16")
    assert arguments(inspect_eval.renderer(composer)(run)) == {
        "run": "run_000",
        "model": f"{folder}/results/run_000/hf_model/epoch_0",
        "train_config": "train_000.yaml",
        "params": {"lora_rank": 2},
        "tasks": [
            {"name": "one", "file": f"{folder}/evals/tasks.py", "function": "capitalize", "args": {"scorer": "includes"}},
            {"name": "two", "file": f"{folder}/evals/../tasks.py", "function": "capitalize", "args": {}},
        ],
        "experiment": "tiny",
        "folder": str(folder),
        "results_dir": f"{folder}/eval_results",
        "dtype": "bf16",
        "device": "cpu",
        "generate": {"temperature": 0.5, "stop_seqs": ["a", "b"]},
        "limit": None,
    }


def test_the_baseline_is_the_base_model_and_no_config(tmp_path):
    composer, run = composed(tmp_path / "experiment", dtype="fp32")
    made = arguments(inspect_eval.render_baseline(composer, run))
    assert (made["run"], made["model"], made["params"], made["dtype"]) == ("base", "/models/tiny", {}, "fp32")
    assert "train_config" not in made


def test_the_dtype_is_the_trainings_unless_it_is_given(tmp_path):
    composer, run = composed(tmp_path / "experiment")
    assert arguments(inspect_eval.renderer(composer)(run))["dtype"] == run.config["dtype"] == "fp32"


def test_the_model_is_the_last_epoch_of_this_config(tmp_path):
    composer, _ = composed(tmp_path / "experiment")
    run = composer.run("run_007", {}, {"epochs": 3}, {"checkpointer": {"output_dir": "${output_dir}/x/../weights"}})
    made = arguments(inspect_eval.renderer(composer)(run))
    assert made["model"] == f"{tmp_path}/experiment/results/run_007/weights/epoch_2"
    assert made["train_config"] == "train_007.yaml"


def test_several_checkpoints_are_named_by_their_epochs_in_the_folder_that_holds_them(tmp_path):
    composer, _ = composed(tmp_path / "experiment", checkpoint="all")
    run = composer.run("run_000", {}, {"epochs": 3})
    script = tmp_path / "eval_000.py"
    script.write_text(inspect_eval.renderer(composer)(run))
    made = arguments(script.read_text())
    assert (made["model"], made["checkpoints"]) == (f"{tmp_path}/experiment/results/run_000/hf_model", [0, 1, 2])
    assert checkpoints_in(script) == [0, 1, 2]
    each = Request.in_script(script).each()
    assert [(request.name, request.model.name) for request in each] == [(f"run_000/epoch_{n}", f"epoch_{n}") for n in range(3)]
    assert [request.scores.relative_to(tmp_path) for request in each] == [Path(f"experiment/eval_results/run_000/epoch_{n}") for n in range(3)]
    composer, _ = composed(tmp_path / "listed", checkpoint=[2, 0])
    assert arguments(inspect_eval.renderer(composer)(run))["checkpoints"] == [0, 2]


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        ({}, {}),
        ({"model_format": "adapter"}, {"base_model": "/models/tiny", "merge_adapters": True}),
        ({"model_format": "adapter", "merge_adapters": False}, {"base_model": "/models/tiny", "merge_adapters": False}),
        ({"model_format": "adapter", "group_by_base": True, "base_model": "../moved"}, {"base_model": "{parent}/moved", "merge_adapters": False}),
        ({"backend": "vllm"}, {"backend": "vllm"}),
    ],
)
def test_the_script_says_how_an_adapter_becomes_a_model(tmp_path, evaluation, expected):
    composer, run = composed(tmp_path / "experiment", **evaluation)
    made = arguments(inspect_eval.renderer(composer)(run))
    keys = ("base_model", "merge_adapters", "backend")
    found = {key: made[key] for key in keys if key in made}
    assert found == {key: value.format(parent=tmp_path) if isinstance(value, str) else value for key, value in expected.items()}
    base = arguments(inspect_eval.render_baseline(composer, run))
    assert base["model"] == found.get("base_model", "/models/tiny") and "base_model" not in base


def test_a_group_is_a_call_with_the_names_of_its_scripts(tmp_path):
    composer, _ = composed(tmp_path / "experiment", model_format="adapter", group_by_base=True)
    imported, guard = ast.parse(inspect_eval.render_group(composer, ["run_000", "run_007"])).body
    assert ast.unparse(imported) == "from cruijff_kit.evaluate_group import evaluate_group"
    assert ast.unparse(guard) == "if __name__ == '__main__':\n    evaluate_group(['eval_000.py', 'eval_007.py'])"


@pytest.mark.parametrize("value", [*NASTY, *VALUES], ids=lambda value: ascii(value)[:40])
def test_no_argument_is_anything_but_data(tmp_path, value):
    args = {"scorer": value, "more": [value, {"deep": value}]}
    tasks = [{"name": "n", "file": "tasks.py", "function": "capitalize", "args": args}]
    composer, run = composed(tmp_path / "experiment", tasks=tasks, generate={"system_message": value})
    run = Run(run.id, {"lora_rank": value}, run.settings, run.recipe, run.config, run.identity)
    made = arguments(inspect_eval.renderer(composer)(run))
    assert repr(made["tasks"][0]["args"]) == repr(args)
    assert repr(made["generate"]) == repr({"system_message": value})
    assert repr(made["params"]) == repr({"lora_rank": value})


@pytest.mark.parametrize("name", [text for text in NASTY if text], ids=lambda text: ascii(text)[:40])
def test_no_name_of_an_argument_is_anything_but_data(tmp_path, name):
    tasks = [{"name": "n", "file": "tasks.py", "function": "capitalize", "args": {name: 1}}]
    composer, run = composed(tmp_path / "experiment", tasks=tasks)
    assert arguments(inspect_eval.renderer(composer)(run))["tasks"][0]["args"] == {name: 1}


FOLDERS = ["a b", "a'b", 'a"b', 'a"""b', "a\\b", "a\\", "a\nb", "$(touch x)", "${x}", "{run}", "é", "😀", "\\N{x}", "\\x"]


@pytest.mark.parametrize("name", FOLDERS, ids=ascii)
def test_a_folder_of_any_name_is_itself_in_the_script(tmp_path, name):
    folder = tmp_path / name
    composer, run = composed(folder)
    made = arguments(inspect_eval.renderer(composer)(run))
    assert made["folder"] == str(folder)
    assert made["model"] == f"{folder}/results/run_000/hf_model/epoch_0"
    assert made["tasks"][0]["file"] == f"{folder}/evals/tasks.py"


@pytest.mark.parametrize("name", FOLDERS, ids=ascii)
def test_a_configs_dir_of_any_name_is_no_code_either(tmp_path, name):
    spec = specification("/models/tiny") | {"output": {"configs_dir": name.replace("${", "$ {")}}
    write_experiment(tmp_path / "e", "/models/tiny", spec)
    composer = load_composer(load(tmp_path / "e"))
    run = composer.run("run_000", {}, {})
    assert arguments(inspect_eval.renderer(composer)(run))["train_config"] == "train_000.yaml"


def test_importing_the_script_evaluates_nothing(tmp_path):
    composer, run = composed(tmp_path / "experiment")
    (tmp_path / "eval_000.py").write_text(inspect_eval.renderer(composer)(run))
    runpy.run_path(str(tmp_path / "eval_000.py"), run_name="imported")


def test_python_runs_the_script_from_any_folder_as_far_as_the_model_that_is_not_there(tmp_path):
    composer, run = composed(tmp_path / "experiment")
    (tmp_path / "eval_000.py").write_text(inspect_eval.renderer(composer)(run))
    done = subprocess.run([sys.executable, tmp_path / "eval_000.py"], cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Cannot load model: results/run_000/hf_model/epoch_0: there is no such folder\n"


def test_without_inspect_an_evaluation_says_what_to_install(experiment, tmp_path):
    generate(experiment)
    hidden = "import runpy, sys; sys.modules['inspect_ai'] = None; runpy.run_path(sys.argv.pop(), run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", hidden, experiment / "configs/eval_000.py"], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (1, "Module 'inspect_ai' not found: pip install inspect-ai\n")
