"""Ends the process that submits by SIGKILL at a chosen moment: one that Python reports, or one of its sbatch calls."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

# Imported by every Python process below it; the jobs' own are let live.
SITECUSTOMIZE = """
import os, signal, sys
if "SLURM_JOB_ID" not in os.environ and "KILL_AT" in os.environ:
    wanted, text, left = os.environ["KILL_AT"].split("|")
    left = [int(left)]
    def watch(event, arguments):
        if event == wanted and text in " ".join(map(str, arguments)):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
"""

# The parent is the process that submits. An orphan takes its time, so that the next command comes in between.
SBATCH = """#!/bin/sh
echo >>{calls}
if test "$(wc -l <{calls})" != {call}; then exec {sbatch} "$@"; fi
if test {when} = before; then kill -9 $PPID; sleep 0.7; exec {sbatch} "$@"; fi
{sbatch} "$@"; code=$?; kill -9 $PPID; exit $code
"""


@dataclass(frozen=True)
class Moment:
    """When it is killed.

    Args:
        event: Python's audit event, or `sbatch` for a moment in the life of the sbatch call number `count`.
        text: in the event's arguments; `before` or `after` sbatch does its work.
        count: the how many-th such event.
    """

    event: str
    text: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.event} {self.text} {self.count}"

    def environment(self, folder: Path, variables: dict[str, str]) -> dict[str, str]:
        """The variables of the process that is to be killed. Writes what it needs into the folder."""
        folder.mkdir(parents=True)
        if self.event == "sbatch":
            real = shutil.which("sbatch")
            assert real, "sbatch is not on PATH"
            names = {"calls": folder / "calls", "sbatch": real}
            script = SBATCH.format(call=self.count, when=self.text, **{name: shlex.quote(str(path)) for name, path in names.items()})
            (folder / "sbatch").write_text(script)
            (folder / "sbatch").chmod(0o755)
            return {**variables, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        path = os.pathsep.join([str(folder), variables.get("PYTHONPATH", "")])
        return {**variables, "PYTHONPATH": path, "KILL_AT": f"{self.event}|{self.text}|{self.count}"}
