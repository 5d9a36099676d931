"""What may be imported when, and the size and docstring of every module."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import cruijff_kit
from tests.tiny_experiment import write_experiment

PACKAGE = Path(cruijff_kit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 320

HEAVY = ["torch", "torchtune", "torchao", "transformers", "peft", "datasets", "inspect_ai", "hydra", "submitit", "numpy", "pandas"]

PROGRAM = """
import contextlib, io, json, sys
from pathlib import Path

def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules})

seen = {}
from cruijff_kit import cli
seen["import cli"] = loaded()
for words in (["--help"], ["generate", "--help"], ["run", "--help"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main(words)
    seen[" ".join(words)] = loaded()
from cruijff_kit.generate import generate
from cruijff_kit.plan import plan
folder = Path(sys.argv[1])
plan(folder)
seen["plan"] = loaded()
generate(folder)
seen["generate"] = loaded()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The top-level packages that one process has imported after each step."""
    folder = tmp_path_factory.mktemp("architecture")
    (folder / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "model" / name).touch()
    write_experiment(folder / "experiment", folder / "model")
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder / "experiment"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {step: set(names) for step, names in json.loads(done.stdout).items()}


@pytest.mark.parametrize("step", ["import cli", "--help", "generate --help", "run --help", "plan", "generate"])
def test_no_step_of_generate_imports_what_takes_seconds(loaded, step):
    assert loaded[step] & set(HEAVY) == set()


@pytest.mark.parametrize("step", ["import cli", "--help", "generate --help", "run --help"])
def test_help_imports_neither_the_schema_nor_the_parser(loaded, step):
    assert loaded[step] & {"pydantic", "yaml", "omegaconf", "rich", "rapidfuzz"} == set()


def test_the_steps_import_what_they_do_need(loaded):
    """Otherwise nothing was measured."""
    assert {"cruijff_kit", "argparse"} <= loaded["--help"]
    assert {"pydantic", "yaml", "omegaconf"} <= loaded["generate"]


def imported(path: Path) -> set[str]:
    """The modules of this package that a module imports when it is imported itself."""
    found = set()
    for node in at_import(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cruijff_kit":
            inside = node.module.partition(".")[2]
            found |= {inside} if inside else {alias.name for alias in node.names}
    return {name.split(".")[0] for name in found} - {"__version__"}


def at_import(body: list[ast.stmt]) -> Any:
    """The statements that run on import: not those of functions, nor those for type checkers only."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for name in ("body", "orelse", "handlers", "finalbody"):
                yield from at_import(getattr(node, name, []))


@cache
def arrows() -> dict[str, set[str]]:
    return {path.stem: imported(path) for path in MODULES if path.parent == PACKAGE}


def reached(name: str) -> set[str]:
    """Everything that `name` imports, and what that imports."""
    known, seen, new = arrows(), set(), {name}
    while new:
        seen |= new
        new = {other for each in new for other in known.get(each, ())} - seen
    return seen - {name}


def test_no_module_imports_itself_by_way_of_others():
    assert [name for name, names in arrows().items() if any(name in reached(other) | {other} for other in names)] == []


@pytest.mark.parametrize(
    ("name", "may"),
    {
        "errors": set(),
        "parameters": set(),
        "source_names": set(),
        "atomic": set(),
        "yaml_nodes": set(),
        "yaml_source": {"errors", "yaml_nodes"},
        "schema": {"errors", "yaml_nodes", "yaml_source"},
        "experiment": {"errors", "schema", "yaml_nodes", "yaml_source"},
        "torchtune_catalog": {"errors", "source_names"},
        "inspect_tasks": {"errors", "experiment", "schema", "source_names", "torchtune_catalog", "yaml_nodes", "yaml_source"},
        "paths": {"errors", "experiment", "schema", "yaml_nodes", "yaml_source"},
        "workspace": {"errors"},
        "slurm": {"errors", "slurm_output"},
        "slurm_output": set(),
        "node_probe": set(),
        "log_text": set(),
        "log_follow": set(),
        "tracebacks": set(),
        "progress": {"log_text"},
        "training_metrics": {"config_tree", "log_follow", "logger_config"},
        "failure": {"errors", "log_follow", "log_text", "progress", "tracebacks"},
        "cli": {"cli_parser", "errors"},
        "columns": set(),
        "records": {"atomic", "errors", "ownership", "process_family", "workspace"},
    }.items(),
)
def test_the_arrows_of_the_design(name, may):
    assert reached(name) <= may


COMPOSE_AND_CHECK = ["sweep", "torchtune_config", "training_checks", "dataset_checks", "component_checks", "inspect_eval", "multirun_config",
                     "slurm_scripts", "plan", "training_cost", "deep_report"]  # fmt: skip


@pytest.mark.parametrize("name", COMPOSE_AND_CHECK)
def test_what_composes_and_renders_writes_nothing_and_runs_nothing(name):
    assert not reached(name) & {"workspace", "atomic", "train", "evaluate", "stage_command", "app", "cli", "generate"}
    calls = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree(name)) if isinstance(node, ast.Call)}
    assert not calls & {"write_text", "write_bytes", "mkdir", "unlink", "rename", "symlink_to", "Popen", "check_call", "system"}


def tree(name: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for_and_is_short(path):
    text = path.read_text(encoding="utf-8")
    assert (ast.get_docstring(ast.parse(text)) or "").strip()
    assert len(text.splitlines()) < MAX_LINES


def test_there_are_modules():
    assert len(MODULES) > 20
