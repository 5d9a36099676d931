from __future__ import annotations

import ast

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cruijff_kit.experiment import Experiment
from cruijff_kit.schema import Specification
from cruijff_kit.inspect_tasks import TaskFunction, check, functions, generate_settings
from cruijff_kit.yaml_source import parse_yaml


def tasks(text: str) -> list[str]:
    return [name for name, function in functions(ast.parse(text)).items() if function.is_task]


@pytest.mark.parametrize(
    "text",
    [
        "from inspect_ai import task\n@task\ndef one(): ...\n",
        "from inspect_ai import task\n@task()\ndef one(): ...\n",
        "from inspect_ai import task\n@task(name='another name', version=2)\ndef one(): ...\n",
        "from inspect_ai import Task, task as t\n@t\ndef one(): ...\n",
        "from inspect_ai import task as t\n@t(name='x')\ndef one(): ...\n",
        "import inspect_ai\n@inspect_ai.task\ndef one(): ...\n",
        "import inspect_ai\n@inspect_ai.task(name='x')\ndef one(): ...\n",
        "import inspect_ai as ai\n@ai.task\ndef one(): ...\n",
        "import inspect_ai.dataset\n@inspect_ai.task\ndef one(): ...\n",
        "from inspect_ai import *\n@task\ndef one(): ...\n",
        "from inspect_ai._eval.registry import task\n@task\ndef one(): ...\n",
        "try:\n    from inspect_ai import task\nexcept ImportError:\n    raise\n@task\ndef one(): ...\n",
        "import functools\nfrom inspect_ai import task\n@functools.cache\n@task\ndef one(): ...\n",
        "from inspect_ai import task\n@task\n@staticmethod\ndef one(): ...\n",
        "from inspect_ai import task\n@task\nasync def one(): ...\n",
        "from inspect_ai import task\nmark = task\n@mark\ndef one(): ...\n",
    ],
)
def test_a_function_under_inspects_task_decorator_is_a_task(text):
    assert tasks(text) == ["one"]


@pytest.mark.parametrize(
    "text",
    [
        "def one(): ...\n",
        "@task\ndef one(): ...\n",
        "from other import task\n@task\ndef one(): ...\n",
        "from inspect_ai.solver import solver\n@solver\ndef one(): ...\n",
        "import inspect_ai as ai\n@inspect_ai.task\ndef one(): ...\n",
        "from inspect_ai import task\n@other.task\ndef one(): ...\n",
        "from inspect_ai import task as t\n@task\ndef one(): ...\n",
        "from inspect_ai import task\none = task(lambda: None)\n",
        "from inspect_ai import task\nclass A:\n    @task\n    def one(self): ...\n",
        "from inspect_ai import task\n@task\nclass one: ...\n",
    ],
)
def test_any_other_function_is_none(text):
    assert tasks(text) == []


def test_a_task_accepts_and_needs_the_arguments_of_its_function():
    text = """
from inspect_ai import task
@task
def one(a, b=1, *more, c, d=2): ...
@task
def two(a, /, b, **rest): ...
def three(): ...
"""
    assert functions(ast.parse(text)) == {
        "one": TaskFunction("one", True, frozenset("abcd"), frozenset("ac"), False),
        "two": TaskFunction("two", True, frozenset("b"), frozenset("ab"), True),
        "three": TaskFunction("three", False, frozenset(), frozenset(), False),
    }


def test_of_two_functions_of_one_name_the_last_counts_as_in_python():
    text = "from inspect_ai import task\n@task\ndef one(a): ...\ndef one(b): ...\n"
    assert functions(ast.parse(text))["one"] == TaskFunction("one", False, frozenset("b"), frozenset("b"), False)


def test_nothing_of_the_file_is_executed(tmp_path):
    mark = tmp_path / "executed"
    act = f"open({str(mark)!r}, 'w')"
    text = f"from inspect_ai import task\n{act}\n@task(name={act})\ndef one(a={act}) -> {act}: {act}\n"
    folder = evaluation_folder(tmp_path, text)
    assert report(folder, [{"name": "n", "file": "a.py", "function": "one"}]) == ""
    assert not mark.exists()
    assert "a" not in sys.modules


# What is wrong with the tasks of an experiment


def evaluation_folder(tmp_path: Path, text: str | None = None) -> Path:
    (tmp_path / "evals").mkdir()
    if text is not None:
        (tmp_path / "evals" / "a.py").write_text(text, encoding="utf-8")
    return tmp_path


def report(folder: Path, entries: list[dict[str, Any]], **settings: Any) -> str:
    """What is said of tasks that stand from line 11 on, one a line."""
    settings = {"enabled": True, "framework": "inspect", "tasks_dir": "evals/", **settings}
    head = {"experiment": {"name": "n", "framework": "torchtune"}, "framework_config": {"base_config": "x"}}
    text = yaml.safe_dump(head, sort_keys=False) + yaml.safe_dump({"evaluation": settings}, sort_keys=False)
    text += "  tasks:\n" + "".join(f"  - {entry}\n" for entry in entries)
    source = parse_yaml(text, "experiment.yaml")
    return "\n".join(str(problem) for problem in check(Experiment(folder, source, Specification.model_validate(source.data))))


TEXT = """\
from inspect_ai import task

@task
def domain_qa(split="test"): ...

@task(name="x")
def needs(data, *, size): ...

@task
def anything(**rest): ...

def helper(): ...
"""


def entry(function: str = "domain_qa", file: str = "a.py", **args: Any) -> dict[str, Any]:
    return {"name": "n", "file": file, "function": function, "args": args}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (entry(), ""),
        (entry(split="train"), ""),
        (entry("needs", data=1, size=None), ""),
        (entry("anything", whatever=1), ""),
        (
            entry("domain_q"),
            "function\n  Function 'domain_q' not found in evals/a.py\n  @task functions there: domain_qa, needs, anything",
        ),
        (
            entry("helper"),
            "function\n  Function 'helper' in evals/a.py has no @task decorator\n"
            "  from inspect_ai import task, and write @task above it",
        ),
        (entry(file="b.py"), "file\n  task file not found: evals/b.py\n  did you mean 'a.py'?"),
        (entry(file="nothing_like_it"), "file\n  task file not found: evals/nothing_like_it"),
        (entry(splt="x"), "args.splt\n  'domain_qa' takes no argument 'splt'\n  did you mean 'split'?"),
        (entry("needs", size=1), "args\n  'needs' needs data\n  give them under args"),
        (entry("needs"), "args\n  'needs' needs data, size\n  give them under args"),
    ],
)
def test_a_task_is_a_decorated_function_that_takes_its_arguments(tmp_path, task, expected):
    said = report(evaluation_folder(tmp_path, TEXT), [task])
    assert said == (expected and f"experiment.yaml:11  evaluation.tasks[0].{expected}")


def test_a_file_without_a_task_says_so(tmp_path):
    assert report(evaluation_folder(tmp_path, "def helper(): ...\n"), [entry()]) == (
        "experiment.yaml:11  evaluation.tasks[0].function\n"
        "  Function 'domain_qa' not found in evals/a.py\n  @task functions there: none"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "def one(:\n": "evals/a.py:1 is no Python: invalid syntax",
        "x = 1\n  y = 2\n": "evals/a.py:2 is no Python: unexpected indent",
        "x = 'a\n": "evals/a.py:1 is no Python: unterminated string literal (detected at line 1)",
    }.items(),
)
def test_a_file_that_is_no_python(tmp_path, text, expected):
    said = report(evaluation_folder(tmp_path, text), [entry()])
    assert said == f"experiment.yaml:11  evaluation.tasks[0].file\n  {expected}"


@pytest.mark.parametrize("content", [b"x = '\xff'\n", b"x = 1\0\n", b"(" * 5000])
def test_a_file_that_cannot_be_parsed_is_a_fault_of_the_user(tmp_path, content):
    folder = evaluation_folder(tmp_path)
    (folder / "evals" / "a.py").write_bytes(content)
    assert report(folder, [entry()]).startswith("experiment.yaml:11  evaluation.tasks[0].file\n  evals/a.py")


def test_a_python_file_in_an_encoding_of_its_own_is_read(tmp_path):
    folder = evaluation_folder(tmp_path)
    for start in (b"# -*- coding: latin-1 -*-\n# \xe9\n", b"\xef\xbb\xbf"):
        (folder / "evals" / "a.py").write_bytes(start + TEXT.encode())
        assert report(folder, [entry()]) == ""


def test_a_folder_is_no_task_file(tmp_path):
    folder = evaluation_folder(tmp_path)
    (folder / "evals" / "a.py").mkdir()
    assert report(folder, [entry()]) == (
        f"experiment.yaml:11  evaluation.tasks[0].file\n"
        f"  evals/a.py cannot be read: [Errno 21] Is a directory: '{folder}/evals/a.py'"
    )


def test_a_device_is_no_task_file_and_is_not_read(tmp_path):
    folder = evaluation_folder(tmp_path, "")
    assert report(folder, [entry(file="/dev/zero")]).endswith("evaluation.tasks[0].file\n  /dev/zero cannot be read: it is no file")


def test_the_folder_of_the_tasks_is_missing(tmp_path):
    assert report(tmp_path, [entry(), entry()]) == (
        "experiment.yaml:9  evaluation.tasks_dir\n  Evaluation tasks directory not found: evals/\n  mkdir -p evals/"
    )
    (tmp_path / "evals").touch()
    assert "Evaluation tasks directory not found: evals/" in report(tmp_path, [entry()])


def test_the_file_is_relative_to_the_folder_of_the_tasks(tmp_path):
    folder = evaluation_folder(tmp_path)
    (folder / "evals" / "deep").mkdir()
    for place in ("evals/deep/a.py", "b.py"):
        (folder / place).write_text(TEXT)
    assert report(folder, [entry(file="deep/a.py"), entry(file="../b.py"), entry(file=str(folder / "b.py"))]) == ""


def test_every_fault_of_every_task_is_said(tmp_path):
    folder = evaluation_folder(tmp_path, TEXT)
    tasks = [entry(a=1, b=2), entry("helper"), entry("needs", c=3), entry(file="c.py")]
    assert report(folder, tasks, generate={"max_token": 5}) == (
        "experiment.yaml:13  evaluation.tasks[0].args.a\n  'domain_qa' takes no argument 'a'\n"
        "experiment.yaml:13  evaluation.tasks[0].args.b\n  'domain_qa' takes no argument 'b'\n"
        "experiment.yaml:14  evaluation.tasks[1].function\n  Function 'helper' in evals/a.py has no @task decorator\n"
        "  from inspect_ai import task, and write @task above it\n"
        "experiment.yaml:15  evaluation.tasks[2].args.c\n  'needs' takes no argument 'c'\n"
        "experiment.yaml:15  evaluation.tasks[2].args\n  'needs' needs data, size\n  give them under args\n"
        "experiment.yaml:16  evaluation.tasks[3].file\n  task file not found: evals/c.py\n  did you mean 'a.py'?\n"
        "experiment.yaml:11  evaluation.generate.max_token\n  'max_token' is no generation setting of Inspect\n"
        "  did you mean 'max_tokens'?"
    )


def test_nothing_is_said_of_an_evaluation_that_is_off(tmp_path):
    assert report(tmp_path, [entry()], enabled=False) == ""


@pytest.mark.parametrize(
    "text",
    [
        "import not_installed_anywhere\n" + TEXT,
        "from not_installed_anywhere.part import x\n" + TEXT,
        "from inspect_evals.mmlu import no_such_name\n" + TEXT,
    ],
)
def test_an_import_of_what_is_not_installed_is_a_fault(tmp_path, text):
    assert report(evaluation_folder(tmp_path, text), [entry()]).startswith("experiment.yaml:11  evaluation.tasks[0].file\n")


def test_an_import_of_a_file_beside_the_task_is_none(tmp_path):
    folder = evaluation_folder(tmp_path, "from beside import x\nimport beside\n" + TEXT)
    (folder / "evals" / "beside.py").write_text("x = 1\n")
    assert report(folder, [entry()]) == ""


def test_the_generation_settings_are_those_of_the_installed_inspect():
    settings = generate_settings()
    assert {"max_tokens", "temperature", "seed", "max_connections", "top_p"} <= settings
    assert "model" not in settings
    assert generate_settings() is settings
