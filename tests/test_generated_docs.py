"""The pages of docs/ that are made from the code say what the code says, and the code says it of everything."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cruijff_kit.cli_parser import parser
from cruijff_kit.experiment import read
from cruijff_kit.parameters import PARAMETERS
from cruijff_kit.resolvers import FUNCTIONS
from cruijff_kit.schema import Specification
from cruijff_kit.sweep import check, points
from tests.generated_docs import DOCS, PAGES, cluster_reference, experiment_reference
from tests.generated_docs.commands import commands

COMMANDS = list(commands(parser()))
SCHEMAS = {"experiment.yaml": Specification.model_json_schema(), **Specification.model_json_schema()["$defs"]}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_makes_of_it_now(name):
    """Word by word: argparse breaks lines in other places from one Python to the next."""
    page = DOCS / name
    same = page.is_file() and page.read_text(encoding="utf-8").split() == PAGES[name]().split()
    assert same, f"docs/{name} is not what the code says now: make docs"


def test_every_command_is_on_the_page():
    assert len(COMMANDS) > 8
    text = PAGES["commands.md"]()
    assert [words.prog for words in COMMANDS if f"\n## {words.prog}\n" not in text] == []


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words.prog)
def test_a_command_says_what_it_does_and_its_help_ends_in_an_example(words: argparse.ArgumentParser):
    assert words.description, f"{words.prog} has no description"
    examples = (words.epilog or "").partition("example")[2]
    assert words.prog in examples, f"the help of {words.prog} ends in no example: see cli_parser.py"


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words.prog)
def test_every_flag_and_word_of_a_command_is_described(words: argparse.ArgumentParser):
    nested = [choice for action in words._actions if isinstance(action, argparse._SubParsersAction) for choice in action._choices_actions]
    plain = [action for action in words._actions if not isinstance(action, argparse._SubParsersAction)]
    assert [action.option_strings or action.dest for action in [*plain, *nested] if not action.help] == []


@pytest.mark.parametrize("section", SCHEMAS)
def test_every_key_of_experiment_yaml_is_described(section):
    assert [key for key, value in SCHEMAS[section]["properties"].items() if not value.get("description")] == []


def test_every_parameter_function_and_cluster_key_is_described():
    assert [name for name, parameter in PARAMETERS.items() if not parameter.meaning] == []
    assert [name for name, (gives, _) in FUNCTIONS.items() if not gives] == []
    assert [key.name for key in cluster_reference.keys() if not key.meaning] == []


def test_the_example_of_the_reference_has_the_points_that_the_page_says(tmp_path: Path):
    (tmp_path / "experiment.yaml").write_text(experiment_reference.EXAMPLE, encoding="utf-8")
    experiment, problems = read(tmp_path)
    assert [*problems, *check(experiment)] == []
    assert len(list(points(experiment))) == 9
    assert "9 runs, `run_000` to `run_008`" in experiment_reference.RULES
