"""Fixtures: the tiny model, experiments that use it, and running the command line as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_experiment import write_experiment
from tests.tiny_llama import make_tiny_llama

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama."""
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def experiment(tmp_path: Path, tiny_model: Path) -> Path:
    """Folder of a two-point rank sweep over the tiny model, with one task and the baseline."""
    return write_experiment(tmp_path / "experiment", tiny_model)


@pytest.fixture(scope="session")
def cruijff() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `cruijff-kit WORDS…` of this environment."""

    def run(*words: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("cruijff-kit")), *map(str, words)]
        return subprocess.run(
            command, cwd=cwd, env={**os.environ, **environment}, text=True, capture_output=True, stdin=subprocess.DEVNULL
        )

    return run
