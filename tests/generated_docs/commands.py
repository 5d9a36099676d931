"""docs/commands.md: the help page of every command, as the parser prints it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from cruijff_kit.cli_parser import parser
from tests.generated_docs.markdown import NOTICE

COLUMNS = "100"

HEAD = f"""\
{NOTICE}
# Commands

What each command prints with `--help`. Exit codes: 1 for a fault in the experiment or a point that failed, 2 for a wrong
flag, 3 for a fault of cruijff-kit, 130 for Ctrl-C.
"""


def commands(words: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its commands, theirs too, in the order in which they were added."""
    yield words
    for action in words._actions:  # argparse has no public way to what it parses
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from commands(command)


def page() -> str:
    with mock.patch.dict(os.environ, {"COLUMNS": COLUMNS, "NO_COLOR": "1"}):
        return HEAD + "".join(f"\n## {words.prog}\n\n```text\n{words.format_help().strip()}\n```\n" for words in commands(parser()))
