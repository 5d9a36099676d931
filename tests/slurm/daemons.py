"""Daemons that run for as long as this process at the most: the client of `_supervisor.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults")


class SlurmMissing(Exception):
    """Programs that the private Slurm consists of are not installed."""


def program(name: str) -> str:
    """Its path. The daemons are in folders that only root has on PATH."""
    path = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
    if path is None:
        raise SlurmMissing(
            f"these tests run on a real Slurm, and {name} is not installed\n"
            "`make slurm` installs it when it is root, and says what to install when it is not"
        )
    return path


class Daemons:
    """Those of one Slurm, by name. Each writes to a log of that name, and runs in the foreground of the supervisor."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: dict[str, int] = {}
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("_supervisor.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests, which then stop it
        )

    def start(self, name: str, words: list[str], environment: dict[str, str]) -> None:
        assert name not in self._processes, f"{name} runs already"
        request = {"words": words, "environment": environment, "log": str(self._logs / f"{name}.log")}
        self._processes[name] = int(self._ask({"start": request}))

    def kill(self, name: str) -> None:
        """Returns when it is gone. What it had started lives on."""
        self._ask({"kill": self._processes.pop(name)})

    def end(self) -> None:
        """Returns when all of them are gone, and all that they had started."""
        self._supervisor.communicate()

    def _ask(self, request: dict[str, object]) -> str:
        self._supervisor.stdin.write(json.dumps(request) + "\n")
        self._supervisor.stdin.flush()
        return self._supervisor.stdout.readline().strip()
