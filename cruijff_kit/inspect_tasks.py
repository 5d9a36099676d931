"""What @task functions a file holds and what they accept, read without executing it."""

from __future__ import annotations

import ast
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit.errors import Problem, closest
from cruijff_kit.experiment import Experiment
from cruijff_kit.schema import EvaluationTask
from cruijff_kit.source_names import installed
from cruijff_kit.torchtune_catalog import component_exists


@dataclass(frozen=True)
class TaskFunction:
    """A top-level function of a task file."""

    name: str
    is_task: bool
    accepts: frozenset[str]
    required: frozenset[str]
    var_keyword: bool


def functions(tree: ast.Module) -> dict[str, TaskFunction]:
    """The top-level functions of a task file by name."""
    names = _assigned(tree, set(_task_names(tree)))
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found[node.name] = _function(node, any(_dotted(decorator) in names for decorator in node.decorator_list))
    return found


def _task_names(tree: ast.Module) -> Iterator[str]:
    """What Inspect's `task` decorator is called in this file: `task`, `t`, `inspect_ai.task`, …"""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "inspect_ai":
            yield from (alias.asname or alias.name for alias in node.names if alias.name in ("task", "*"))
            if any(alias.name == "*" for alias in node.names):
                yield "task"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "inspect_ai" or (alias.name.startswith("inspect_ai.") and alias.asname is None):
                    yield f"{alias.asname or 'inspect_ai'}.task"


def _assigned(tree: ast.Module, names: set[str]) -> set[str]:
    """`names`, and what they are assigned to at the top of the file: `mark = task`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value) in names:
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _dotted(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, is_task: bool) -> TaskFunction:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = {argument.arg for argument in positional[: len(positional) - len(arguments.defaults)]}
    required |= {a.arg for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults) if default is None}
    accepts = {argument.arg for argument in [*arguments.args, *arguments.kwonlyargs]}
    return TaskFunction(node.name, is_task, frozenset(accepts), frozenset(required), arguments.kwarg is not None)


def check(experiment: Experiment) -> list[Problem]:
    """What is wrong with the evaluation tasks: their files, functions and arguments."""
    evaluation, problem = experiment.spec.evaluation, experiment.source.problem
    if not evaluation.enabled:
        return []
    problems = []
    if evaluation.tasks_dir is not None:
        folder = experiment.path(evaluation.tasks_dir)
        if folder.is_dir():
            for index, task in enumerate(evaluation.tasks):
                problems += _check_task(experiment, folder, index, task)
        else:
            what = f"Evaluation tasks directory not found: {evaluation.tasks_dir}"
            problems.append(problem(("evaluation", "tasks_dir"), what, f"mkdir -p {shlex.quote(evaluation.tasks_dir)}"))
    for name, what, hint in generate_faults(evaluation.generate):
        problems.append(problem(("evaluation", "generate", name), what, hint))
    if evaluation.backend == "vllm" and not installed("vllm"):
        what = "Module 'vllm' not found: evaluations need it where they run"
        problems.append(problem(("evaluation", "backend"), what, "pip install vllm", "warning"))
    task, names = (evaluation.objective or "").split("/")[0], [task.name for task in evaluation.tasks]
    if evaluation.objective and task not in names:
        problems.append(problem(("evaluation", "objective"), f"there is no task '{task}'", closest(task, names)))
    return problems


def generate_faults(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """The generation settings that Inspect does not have, or whose number cannot be: name, what, and a hint."""
    known = generate_settings()
    for name, value in settings.items():
        if known and name not in known:
            yield name, f"'{name}' is no generation setting of Inspect", closest(name, known)
        elif name in _NUMBERS and not _NUMBERS[name][1](value):
            yield name, f"expected {_NUMBERS[name][0]}, got {value!r}", None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


_NUMBERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("max_tokens", "max_connections"), ("a whole number of at least 1", _is_count)),
    **dict.fromkeys(("temperature", "top_p"), ("a number of at least 0", _is_number)),
}


def _check_task(experiment: Experiment, folder: Path, index: int, task: EvaluationTask) -> list[Problem]:
    path, problem = ("evaluation", "tasks", index), experiment.source.problem
    file = folder / task.file
    shown = str(Path(experiment.spec.evaluation.tasks_dir or "") / task.file)
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise OSError("it is no file")  # a device is read for ever
        tree = ast.parse(file.read_bytes())  # Python knows its encoding
        found = functions(tree)
    except FileNotFoundError:
        files = [entry.name for entry in folder.glob("*.py")]
        return [problem((*path, "file"), f"task file not found: {shown}", closest(task.file, files))]
    except SyntaxError as error:
        return [problem((*path, "file"), f"{shown}:{error.lineno} is no Python: {error.msg}")]
    except (OSError, ValueError) as error:
        return [problem((*path, "file"), f"{shown} cannot be read: {error}")]
    missing = _missing_imports(tree, file.parent)
    problems = [problem((*path, "file"), f"{shown}:{line} imports {name}, which is not installed") for line, name in missing]
    function = found.get(task.function)
    if function is None:
        there = ", ".join(name for name, other in found.items() if other.is_task) or "none"
        what = f"Function '{task.function}' not found in {shown}"
        return [*problems, problem((*path, "function"), what, f"@task functions there: {there}")]
    if not function.is_task:
        what = f"Function '{task.function}' in {shown} has no @task decorator"
        return [*problems, problem((*path, "function"), what, "from inspect_ai import task, and write @task above it")]
    return problems + _check_arguments(experiment, index, task, function)


def _missing_imports(tree: ast.Module, folder: Path) -> Iterator[tuple[int, str]]:
    """Line and name of what the file imports at its top and is not there; Inspect itself is checked at evaluation."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*"] or [node.module]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            if top == "inspect_ai" or top in sys.stdlib_module_names or (folder / top).is_dir() or (folder / f"{top}.py").is_file():
                continue
            if installed(top) is None:
                yield node.lineno, top
            elif isinstance(node, ast.ImportFrom) and not _is_module(name) and component_exists(name) is False:
                yield node.lineno, name


def _is_module(name: str) -> bool:
    spec = installed(name.split(".")[0])
    roots = [Path(location).joinpath(*name.split(".")[1:]) for location in (spec and spec.submodule_search_locations) or []]
    return any(root.is_dir() or root.with_suffix(".py").is_file() for root in roots)


def _check_arguments(experiment: Experiment, index: int, task: EvaluationTask, function: TaskFunction) -> list[Problem]:
    path, problem = ("evaluation", "tasks", index, "args"), experiment.source.problem
    problems = [
        problem((*path, name), f"'{task.function}' takes no argument '{name}'", closest(name, function.accepts))
        for name in task.args
        if name not in function.accepts and not function.var_keyword
    ]
    missing = sorted(function.required - set(task.args))
    if missing:
        problems.append(problem(path, f"'{task.function}' needs {', '.join(missing)}", "give them under args"))
    return problems


@cache
def generate_settings() -> frozenset[str]:
    """The generation settings of the installed Inspect, from its source; empty if it is not installed."""
    package = installed("inspect_ai")
    if package is None or package.origin is None:
        return frozenset()
    tree = ast.parse(Path(package.origin).with_name("model").joinpath("_generate_config.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "GenerateConfigArgs":
            return frozenset(item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name))
    return frozenset()
