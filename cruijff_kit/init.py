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
from functools import cache
from pathlib import Path

from cruijff_kit import experiment_template, log_folders, recipe_kinds, torchtune_catalog, workspace
from cruijff_kit.errors import COMMAND_LINE, CruijffKitError, ExperimentError, Problem, closest
from cruijff_kit.experiment import FILE_NAME
from cruijff_kit.experiment_template import QUICKSTART, Answers
from cruijff_kit.paths import HIDDEN
from cruijff_kit.plan import plan
from cruijff_kit.question import ask, is_answered
from cruijff_kit.torchtune_config import HF_CHECKPOINTER
from cruijff_kit.yaml_source import KeyPath

QUESTIONS = {
    "rank-sweep": "How does LoRA rank affect downstream task performance?",
    "grid": "Which learning rate suits which LoRA rank?",
}
ASKED = {  # on a terminal, but for the name, which is asked for only where it is wrong
    "name": "Name of the experiment: letters, digits, '.', '_' and '-'",
    "question": "What do you want to find out?",
    "base_config": "Base config, a name of `tune ls`",
    "model_dir": "Folder of the pretrained weights",
    "data": "Training data: a .json, .jsonl, .csv or .parquet file, or the id of a dataset on the Hub",
}
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
    _check_place(folder)
    _check_free(folder, template)
    told = {name: text for name, text in given.items() if text is not None}
    if template == QUICKSTART:
        _check_unasked(told)
        files = experiment_template.render(template)
        problems = _problems(files)
    else:
        files, problems = _filled(folder, template, told, not yes and is_answered())
    with workspace.locked(folder / HIDDEN):
        workspace.recover(folder / HIDDEN)
        _check_free(folder, template)
        workspace.write(workspace.Change({folder / name: text for name, text in files.items()}), folder, folder / HIDDEN)
    enter = [f"cd {shlex.quote(str(shown))}"] if folder != Path.cwd() else []
    model = _model_commands(files) if _errors(problems) else []
    commands = [*enter, *model, "cruijff-kit check .", "cruijff-kit generate .", "cruijff-kit run . --multirun"]
    return Made(sorted(files), commands, [problem for problem in problems if problem.level == "warning"])


def _check_place(folder: Path) -> None:
    if what := log_folders.fault(folder):
        raise CruijffKitError(f"{what}\nmove or rename the folder, or name another")
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(there):
        raise CruijffKitError(f"{there} is {'a file' if os.path.isfile(there) else 'no folder'}, and init writes a folder: name another")


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


def _filled(folder: Path, template: str, told: Mapping[str, str], on_terminal: bool) -> tuple[dict[str, str], list[Problem]]:
    """The files with the answers in them, and what check warns of; on a terminal a wrong answer is asked for again.

    Raises:
        ExperimentError: all answers that are missing or wrong.
    """
    default = {"name": re.sub(r"^\.|[^A-Za-z0-9._-]+", "_", folder.name)[:100] or "experiment", "question": QUESTIONS[template]}
    known = {**default, **told}
    if on_terminal and "question" not in told:
        del known["question"]
    while True:
        if on_terminal:
            known = _completed(known, default)
        answers, faults, warnings = _judged(template, known)
        if answers and not faults:
            return experiment_template.render(template, answers, folder), warnings
        problems = [problem for those in faults.values() for problem in those]
        if not on_terminal:
            raise ExperimentError(problems)
        print(*problems, sep="\n", file=sys.stderr)
        known = {name: text for name, text in known.items() if name not in faults}


def _completed(known: Mapping[str, str], default: Mapping[str, str]) -> dict[str, str]:
    """All answers: those in `known`, but for the ones that are wrong at first sight, and what the terminal says."""
    found: dict[str, str] = {}
    for name in ASKED:
        text = known.get(name)
        while text is None or (fault := _fault(name, text) or _place_fault(name, text, found)):
            if text is not None:
                print(fault, file=sys.stderr)
            text = _asked(name, default.get(name))
        found[name] = text
    return found


def _place_fault(name: str, text: str, known: Mapping[str, str]) -> Problem | None:
    """That the folder of the weights is not there, and what fetches those of the base config in `known`."""
    place = _place(text)
    if name != "model_dir" or os.path.isdir(os.path.expanduser(place)):
        return None
    download = torchtune_catalog.download_command(torchtune_catalog.base_configs()[known["base_config"]].path)
    return Problem(COMMAND_LINE, f"there is no folder {place}", _flag(name), fix=download and _download(download, place))


def _asked(name: str, default: str | None) -> str:
    """The answer on the terminal."""
    if name == "base_config":
        print(f"{', '.join(_some_choices())}, … ({len(choices())} in all)", file=sys.stderr)
    return ask(ASKED[name], default)


def _judged(template: str, known: Mapping[str, str]) -> tuple[Answers | None, dict[str, list[Problem]], list[Problem]]:
    """The answers if all are there, what is wrong with each, and what check warns of."""
    faults = {name: [fault] for name in ASKED if (fault := _fault(name, known.get(name)))}
    if faults:
        return None, faults, []
    answers = Answers(**{**known, "model_dir": _place(known["model_dir"]), "data": _data(known["data"])})
    problems = _problems(experiment_template.render(template, answers))
    return answers, _by_answer(_errors(problems), answers), problems


def _fault(name: str, text: str | None) -> Problem | None:
    """What is wrong with an answer by itself."""
    flag = _flag(name)
    if text is None or not text.strip():
        return Problem(COMMAND_LINE, "missing", flag, fix=ASKED[name])
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return Problem(COMMAND_LINE, f"no text: {text!r}", flag)
    if name != "base_config" or text in choices():
        return None
    listed = text in torchtune_catalog.base_configs()
    what = f"'{text}' is no base config of LoRA on text that saves Hugging Face models" if listed else f"base config '{text}' not found"
    return Problem(COMMAND_LINE, what, flag, fix=f"{closest(text, choices()) or 'such as ' + ', '.join(_some_choices())}\n`tune ls` lists them all")


@cache
def choices() -> tuple[str, ...]:
    """torchtune's base configs that the templates can start from: LoRA on text, saved as Hugging Face models."""
    found = []
    for base in torchtune_catalog.base_configs().values():
        if recipe_kinds.other_kind(base.recipe) is None and base.path.is_file():
            config = torchtune_catalog.read_config(base.path)
            saved = (config.get("checkpointer") or {}).get("_component_")
            if saved == HF_CHECKPOINTER and torchtune_catalog.is_lora(config) and recipe_kinds.vision_component(config) is None:
                found.append(base.name)
    return tuple(found)


def _some_choices() -> list[str]:
    """One of each family of models, for one GPU."""
    single = [name for name in choices() if name.endswith("_lora_single_device")]
    return list({name.partition("/")[0]: name for name in reversed(single)}.values())[::-1]


def _place(text: str) -> str:
    """A path that means the same in experiment.yaml, where it starts at another folder."""
    return text if text == "~" or text.startswith("~/") else os.path.abspath(text)


def _data(text: str) -> str:
    """An id on the Hub as it is; what is there, though it has not the name of a data file, is none."""
    return _place(text) if experiment_template.is_file(text) or os.path.exists(text) else text


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
            fix = _download(fix, answers.model_dir)
        found.setdefault(name, []).append(Problem(COMMAND_LINE, problem.what, _flag(name), fix=fix))
    return found


def _download(command: str, place: str) -> str:
    """The `tune download` of a base config with the folder that was named."""
    return re.sub(r"--output-dir \S+", lambda _: f"--output-dir {shlex.quote(place)}", command) + "\nthen the same again"


def _model_commands(files: Mapping[str, str]) -> list[str]:
    """What makes the model of quickstart, which is all that may be wrong with it: the commands in the docstring of its script."""
    text = ast.get_docstring(ast.parse(files["get_model.py"])) or ""
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]
