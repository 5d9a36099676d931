"""An sbatch that notes its arguments and goes on as the real one."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

END_OF_CALL = "\n"


@dataclass(frozen=True)
class CountedSbatch:
    """A folder with an `sbatch` that stands before the real one on PATH."""

    folder: Path
    slurm_environment: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """For the process whose calls are counted."""
        return {**self.slurm_environment, "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"}

    @property
    def submissions(self) -> list[list[str]]:
        """The arguments of each call so far, refused ones and --test-only included."""
        if not self._calls.exists():
            return []
        calls = self._calls.read_text().split(f"{END_OF_CALL}\0")
        return [call.split("\0")[:-1] for call in calls[:-1]]

    @property
    def _calls(self) -> Path:
        return self.folder / "calls"

    def write(self) -> CountedSbatch:
        real = shutil.which("sbatch")
        assert real, "sbatch is not on PATH"
        self.folder.mkdir(parents=True)
        program = self.folder / "sbatch"
        # one printf, and so one write: calls at the same moment do not mix
        program.write_text(
            f"#!/bin/sh\nprintf '%s\\0' \"$@\" '{END_OF_CALL}' >>{shlex.quote(str(self._calls))}\nexec {shlex.quote(real)} \"$@\"\n"
        )
        program.chmod(0o755)
        return self
