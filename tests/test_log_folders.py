"""Folders whose name Inspect takes for another: what is said of them, and that it is these and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cruijff_kit import log_folders
from cruijff_kit.cli import main
from tests import made_up_logs
from tests.test_generate import edit, listing, tiny

TAKEN_FOR_ELSE = {"a#b": "'#'", "a?b": "'?'", "a%41b": "'%41'", "a%2fb": "'%2f'", "a\tb": r"'\t'", "a\nb": r"'\n'", "a\rb": r"'\r'"}
LETTERS = "".join(letter for letter in map(chr, range(1, 128)) if letter not in "/#?\t\n\r%")
FOUND = [" it's 100% ${HOME} $(touch x) \"é 😀\" ", "%zz%4", *(LETTERS[start : start + 64] for start in (0, 64))]


@pytest.fixture(scope="module")
def log() -> Any:
    return made_up_logs.template()


@pytest.mark.parametrize("name", [*TAKEN_FOR_ELSE, *FOUND], ids=ascii)
def test_it_is_a_fault_where_inspect_does_not_find_its_log_again_and_nowhere_else(name, log, tmp_path):
    from inspect_ai.log import list_eval_logs, read_eval_log, write_eval_log

    folder = tmp_path / name
    folder.mkdir()
    write_eval_log(log, str(folder / "2026-01-01T00-00-00_task_x.eval"))
    try:
        found = [read_eval_log(each, header_only=True).status for each in list_eval_logs(str(folder))]
    except FileNotFoundError:
        found = []
    assert (log_folders.fault(folder) is None) == (found == ["success"])


@pytest.mark.parametrize("name", TAKEN_FOR_ELSE, ids=ascii)
@pytest.mark.parametrize("command", ["check", "generate", "run"])
def test_an_experiment_in_such_a_folder_is_refused(command, name, tmp_path, capsys):
    folder = tiny(tmp_path / name)
    before = listing(folder)
    assert main([command, str(folder)]) == 1
    assert capsys.readouterr().err == f"experiment.yaml\n  {said(folder, name)}\n  move or rename the folder\n"
    assert listing(folder) == before


def said(folder: Path, name: str) -> str:
    shown = str(folder).encode("unicode_escape").decode()
    return f"{shown} has {TAKEN_FOR_ELSE[name]} in its path: Inspect would not find the logs of its evaluations there"


def test_a_folder_of_scores_of_such_a_name_is_refused(tmp_path, capsys):
    folder = tiny(tmp_path / "experiment")
    edit(folder, output={"eval_results_dir": "a#b"})
    assert main(["check", str(folder)]) == 1
    line = (folder / "experiment.yaml").read_text().splitlines().index("  eval_results_dir: a#b") + 1
    assert capsys.readouterr().err == f"experiment.yaml:{line}  output.eval_results_dir\n  {said(folder / 'a#b', 'a#b')}\n  name another folder\n"


def test_where_nothing_is_evaluated_every_folder_will_do(tmp_path, capsys):
    folder = tiny(tmp_path / "a#b")
    edit(folder, evaluation={"enabled": False}, output={"eval_results_dir": "a?b"})
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", TAKEN_FOR_ELSE, ids=ascii)
def test_init_makes_no_such_folder(name, tmp_path, capsys):
    assert main(["init", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err == f"{said(tmp_path / name, name)}\nmove or rename the folder, or name another\n"
    assert list(tmp_path.iterdir()) == []
