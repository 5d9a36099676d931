"""`init`: a new experiment folder from a template, which passes `check` as it stands, or nothing.

The answers are judged by what `check` says of the experiment that they make, before any of it is written.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cruijff_kit import experiment_template, recipe_kinds, torchtune_catalog, workspace
from cruijff_kit.errors import COMMAND_LINE, CruijffKitError, ExperimentError, Problem, closest
from cruijff_kit.experiment import FILE_NAME
from cruijff_kit.experiment_template import QUICKSTART, Answers
from cruijff_kit.paths import HIDDEN
from cruijff_kit.plan import plan
from cruijff_kit.question import ask, is_answered
from cruijff_kit.torchtune_config import HF_CHECKPOINTER
from cruijff_kit.yaml_source import KeyPath

SHOWN = 8  # base configs that a question names
QUESTIONS = {
    "rank-sweep": "How does LoRA rank affect downstream task performance?",
    "grid": "Which learning rate suits which LoRA rank?",
}
ASKED = {
    "question": "What do you want to find out?",
    "base_config": "Base config, a name of `tune ls`",
    "model_dir": "Folder of the pretrained weights",
    "data": "Training data: a .json, .jsonl, .csv or .parquet file, or the id of a dataset on the Hub",
}
NEEDED = ("base_config", "model_dir", "data")
# Which answer a fault of the new experiment comes from; of all else it is the base config.
SOURCES: dict[KeyPath, str] = {
    ("experiment", "name"): "name",
    ("framework_config", "model_dir"): "model_dir",
    ("controls", "dataset"): "data",
    ("controls", "batch_size"): "data",  # fewer rows than one step takes
    ("controls", "gradient_accumulation_steps"): "data",
}


@dataclass(frozen=True)
class Made:
    """What was written, the commands that come next, and what `check` warns of."""

    files: list[str]
    commands: list[str]
    warnings: list[Problem]


def init(folder: Path, template: str, given: Mapping[str, str | None], yes: bool = False) -> Made:
    """Writes the experiment folder.

    Args:
        given: the answers that flags gave, by the names of Answers; None for one that was not given.
        yes: nothing is asked, on a terminal neither.

    Raises:
        CruijffKitError: an answer is missing or wrong, or a file of the template is there already; nothing was written.
    """
    shown, folder = folder, Path(os.path.abspath(folder))
    _check_free(folder, template)
    told = {name: text for name, text in given.items() if text is not None}
    if template == QUICKSTART:
        _check_unasked(told)
        files, problems = experiment_template.render(template), _problems(experiment_template.render(template))
        made = [] if not _errors(problems) else _model_commands(files)
    else:
        files, problems = _filled(folder, template, told, not yes and is_answered())
        made = []
    with workspace.locked(folder / HIDDEN):
        workspace.recover(folder / HIDDEN)
        _check_free(folder, template)
        workspace.write(workspace.Change({folder / name: text for name, text in files.items()}), folder, folder / HIDDEN)
    enter = [f"cd {shlex.quote(str(shown))}"] if folder != Path.cwd() else []
    commands = [*enter, *made, "cruijff-kit check .", "cruijff-kit generate .", "cruijff-kit run . --multirun"]
    return Made(sorted(files), commands, [problem for problem in problems if problem.level == "warning"])


def _check_free(folder: Path, template: str) -> None:
    there = [name for name in experiment_template.names(template) if os.path.lexists(folder / name)]
    if there:
        raise CruijffKitError(f"{folder} holds {', '.join(there)} already, and init overwrites nothing: name another folder")


def _check_unasked(told: Mapping[str, str]) -> None:
    if told:
        flags = ", ".join(map(_flag, told))
        raise CruijffKitError(f"{flags}: the template {QUICKSTART} is whole as it is\n  --template {' or '.join(QUESTIONS)} makes an experiment of your own")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _filled(folder: Path, template: str, told: dict[str, str], on_terminal: bool) -> tuple[dict[str, str], list[Problem]]:
    """The files with the answers in them, and what check warns of; on a terminal a wrong answer is asked for again.

    Raises:
        ExperimentError: all answers that are missing or wrong.
    """
    name = re.sub(r"^\.|[^A-Za-z0-9._-]+", "_", folder.name)[:100] or "experiment"
    default = {"name": name, "question": QUESTIONS[template]}
    wrong: dict[str, list[Problem]] = {}
    while True:
        if on_terminal:
            told = {**told, **_asked(default, {name: text for name, text in told.items() if name not in wrong})}
        missing = [Problem(COMMAND_LINE, "missing", _flag(name), fix=ASKED[name]) for name in NEEDED if name not in told]
        faults = {name: [fault] for name, text in told.items() if (fault := _fault(name, text))}
        if not missing and not faults:
            answers = Answers(**{**default, **told, "model_dir": _place(told["model_dir"]), "data": _data(told["data"])})
            problems = _problems(experiment_template.render(template, answers))
            faults = _by_answer(_errors(problems), answers)
            if not faults:
                return experiment_template.render(template, answers, folder), problems
        if not on_terminal:
            raise ExperimentError([*missing, *(problem for those in faults.values() for problem in those)])
        wrong = faults
        for problem in (problem for those in faults.values() for problem in those):
            print(problem, file=sys.stderr)


def _asked(default: Mapping[str, str], told: Mapping[str, str]) -> dict[str, str]:
    """The answers on the terminal to what nobody has told yet."""
    answers = {}
    for name, text in ASKED.items():
        if name in told:
            continue
        if name == "base_config":
            some = choices()[:SHOWN]
            print(f"{', '.join(some)}, … ({len(choices())} in all)", file=sys.stderr)
        answers[name] = ask(text, default.get(name))
    if "name" not in told:
        answers["name"] = default["name"]
    return answers


def choices() -> list[str]:
    """torchtune's base configs that the templates can start from: LoRA on text, saved as Hugging Face models; small ones first."""
    found = []
    for base in torchtune_catalog.base_configs().values():
        if recipe_kinds.other_kind(base.recipe) is None and base.path.is_file():
            config = torchtune_catalog.read_config(base.path)
            saved = (config.get("checkpointer") or {}).get("_component_")
            if saved == HF_CHECKPOINTER and torchtune_catalog.is_lora(config) and recipe_kinds.vision_component(config) is None:
                found.append(base.name)
    return found


def _fault(name: str, text: str) -> Problem | None:
    """What is wrong with an answer by itself."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return Problem(COMMAND_LINE, f"no text: {text!r}", _flag(name))
    if name != "base_config" or text in choices():
        return None
    fix = f"{closest(text, choices()) or 'there are ' + ', '.join(choices()[:SHOWN]) + ', …'}\n`tune ls` lists them all"
    what = f"'{text}' is no base config of LoRA on text that saves Hugging Face models" if text in torchtune_catalog.base_configs() else f"base config '{text}' not found"
    return Problem(COMMAND_LINE, what, _flag(name), fix=fix)


def _place(text: str) -> str:
    """A path that means the same in experiment.yaml, where it starts at another folder."""
    return text if text == "~" or text.startswith("~/") else os.path.abspath(text)


def _data(text: str) -> str:
    return _place(text) if experiment_template.is_file(text) else text


def _problems(files: Mapping[str, str]) -> list[Problem]:
    """What check says of an experiment of these files."""
    with tempfile.TemporaryDirectory(prefix="cruijff-kit-") as place:
        for name, text in files.items():
            path = Path(place, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        try:
            return plan(Path(place)).warnings
        except ExperimentError as error:
            return error.problems


def _errors(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.level == "error"]


def _by_answer(errors: list[Problem], answers: Answers) -> dict[str, list[Problem]]:
    """The faults of an experiment, as faults of the answers that it was made of.

    Raises:
        ExperimentError: something is wrong that no answer mends: a cluster profile, what is installed.
    """
    found: dict[str, list[Problem]] = {}
    if others := [problem for problem in errors if problem.file != FILE_NAME]:
        raise ExperimentError(others)
    for problem in errors:
        name = SOURCES.get(problem.path[:2], "base_config")
        fix = problem.fix
        if name == "model_dir" and fix and fix.startswith("tune download "):
            fix = re.sub(r"--output-dir \S+", lambda _: f"--output-dir {shlex.quote(answers.model_dir)}", fix)
            fix = f"{fix}\nthen the same again"
        found.setdefault(name, []).append(Problem(COMMAND_LINE, problem.what, _flag(name), fix=fix))
    return found


def _model_commands(files: Mapping[str, str]) -> list[str]:
    """What makes the model of quickstart: the commands in the docstring of its script."""
    text = ast.get_docstring(ast.parse(files["get_model.py"])) or ""
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]
