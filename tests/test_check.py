"""`cruijff-kit check`, and problems as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cruijff_kit.cli import main
from tests.test_bad_experiments import BAD, FILES, said
from tests.test_generate import edit, listing, tiny
from tests.tiny_experiment import write_experiment

WARNED = "warmup_too_long"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny(tmp_path / "experiment")


def bad(path: Path, folder: Path) -> Path:
    """A folder with the experiment.yaml at `path`, and all that the bad experiments refer to."""
    write_experiment(folder, "model")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "experiment.yaml").write_bytes(path.read_bytes())
    return folder


def test_a_good_experiment_has_no_errors_and_nothing_is_written(folder, capsys):
    before = listing(folder)
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().out == "✓ No errors: 2 runs, 1 evaluation task\n"
    assert listing(folder) == before


def test_check_says_what_generate_says_and_exits_with_1(folder, capsys):
    edit(folder, controls={"epoch": 1})
    before = listing(folder)
    assert main(["generate", str(folder)]) == 1
    generated = capsys.readouterr().err
    assert main(["check", str(folder)]) == 1
    assert capsys.readouterr().err == generated
    assert generated == "experiment.yaml:19  controls.epoch\n  unknown parameter 'epoch'\n  did you mean 'epochs'?\n"
    assert listing(folder) == before


def test_a_warning_is_an_error_only_where_that_was_asked_for(folder, capsys):
    edit(folder, controls={"warmup_steps": 50})
    assert main(["check", str(folder)]) == 0
    assert "warning: warm-up takes 50 steps" in capsys.readouterr().err
    assert main(["check", str(folder), "--strict"]) == 1
    assert "warmup_steps\n  warm-up takes 50 steps" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "generate"])
def test_problems_as_data(folder, capsys, command):
    edit(folder, controls={"epoch": 1})
    assert main([command, str(folder), "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == {
        "runs": [],
        "problems": [
            {
                "file": "experiment.yaml",
                "line": 19,
                "key": "controls.epoch",
                "what": "unknown parameter 'epoch'",
                "fix": "did you mean 'epochs'?",
                "level": "error",
            }
        ],
    }


@pytest.mark.parametrize("command", ["check", "generate"])
def test_runs_and_warnings_as_data(folder, capsys, command):
    edit(folder, controls={"warmup_steps": 50})
    assert main([command, str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(run["id"], run["params"]) for run in found["runs"]] == [("run_000", {"lora_rank": 2}), ("run_001", {"lora_rank": 4})]
    assert [(problem["level"], problem["key"]) for problem in found["problems"]] == [("warning", "controls.warmup_steps")]


def test_what_is_no_problem_of_the_file_is_data_too(folder, capsys):
    assert main(["generate", str(folder)]) == 0
    edit(folder, controls={"learning_rate": 0.5})
    capsys.readouterr()
    assert main(["generate", str(folder), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["what"].startswith("there already, and not what experiment.yaml asks for now:\n")


def has_error(path: Path) -> bool:
    """Whether some problem in the text beside an experiment is no warning."""
    lines = path.with_suffix(".txt").read_text().splitlines()
    whats = [line for head, line in zip(lines, lines[1:]) if not head.startswith(" ")]
    return not all(what.startswith("  warning: ") for what in whats)


def test_there_are_errors_to_be_said():
    assert len([path for path in BAD if has_error(path)]) > 70


@pytest.mark.parametrize("path", [path for path in BAD if has_error(path)], ids=lambda path: path.stem)
def test_run_says_the_same_before_anything_starts(path, tmp_path, capsys):
    folder = bad(path, tmp_path / "experiment")
    expected = said(folder)
    before = listing(folder)
    assert main(["run", str(folder), "--multirun", "hydra/launcher=staged_local"]) == 1
    printed = capsys.readouterr().err
    assert printed.replace(str(folder), "{folder}").replace(str(folder.parent), "{parent}") == expected
    assert listing(folder) == before


def test_run_says_the_same_of_an_experiment_that_was_good_when_it_was_generated(folder, cruijff):
    assert cruijff("generate", folder).returncode == 0
    edit(folder, controls={"epoch": 1, "weight_decay": "much"}, evaluation={"generate": {"max_token": 4}})
    before = listing(folder)
    checked, ran = cruijff("check", folder), cruijff("run", folder, "--multirun", "hydra/launcher=staged_local")
    assert (checked.returncode, ran.returncode) == (1, 1)
    assert ran.stderr == checked.stderr
    assert checked.stderr.count("experiment.yaml:") == 3
    started = {name for name in listing(folder).keys() - before.keys() if not name.startswith(".cruijff-kit")}
    assert started == set()
