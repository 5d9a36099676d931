"""A job's log as lines of text: without what only a terminal understands, and without submitit's own lines.

Says nothing of what the lines mean: failure and progress do.
"""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SUBMITITS_OWN = re.compile(r"^submitit (?:INFO|WARNING|ERROR)\b|\[submitit\]\[(?:INFO|WARNING|ERROR)\]")
_START = re.compile(r"Starting with JobEnvironment\([^\n]*")  # submitit 1.5, process_job: the first that a job prints


def last_start(text: str) -> str:
    """What a job has printed since it was last started: one that is requeued goes on in the same log."""
    *_, begin = [0, *(match.end() for match in _START.finditer(text))]
    return text[begin:]


def lines(text: str) -> list[str]:
    """The lines that are not blank, with their indentation; a bar redrawn in place counts as many."""
    plain = map(str.rstrip, re.split(r"[\r\n]", _ESCAPES.sub("", text)))
    return [line for line in plain if line and not ("submitit" in line and _SUBMITITS_OWN.search(line))]


def pieces(text: str) -> list[str]:
    """As `lines`, without the indentation."""
    return [line.strip() for line in lines(text)]
