"""Fixtures: the tiny model, experiments that use it, and running the command line as a user does."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_experiment import write_experiment
from tests.tiny_llama import make_tiny_llama

REPOSITORY = Path(__file__).resolve().parent.parent

# For all that the tests start. Several of them run at once on two cores: with two threads each, they wait for one another,
# and a training takes half as much processor time again.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What takes minutes comes first, the longest of all at the head, so that no worker is left with it at the end.
LONGEST_FIRST = [
    "slurm/test_tutorial.py",
    "slurm/test_living.py",
    "test_real_adapters.py",
    "slurm/test_interruptions.py",
    "test_run.py",
    "test_adapters.py",
    "test_missing.py",
    "slurm/test_sweep.py",
    "slurm/test_staged_slurm.py",
    "slurm/test_killed_launch.py",
    "test_evaluation_resume.py",
    "test_resume.py",
    "test_staged_launcher.py",
    "slurm/test_waiting.py",
    "slurm/test_group.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files in the order in which workers take them; within a file nothing moves."""
    places = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST_FIRST)}
    if gone := [str(path) for path in places if not path.is_file()]:
        raise pytest.UsageError(f"LONGEST_FIRST in {__file__} names what is not there: {', '.join(gone)}")
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session", autouse=True)
def python_path(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """PYTHONPATH as it was, for what is to be shown as a user has it: here inspect_evals registers nothing with Inspect.

    Inspect imports, each time that it starts, every package that has an entry point of its group (inspect-ai 0.3.285,
    _util/entrypoints.py). inspect_evals is here for the tasks that an example takes from it, and that import is a fifth
    of what an evaluation of the tiny model costs. Metadata that comes before that of the package hides the entry point.
    """
    before, package = os.environ.get("PYTHONPATH"), importlib.metadata.distribution("inspect_evals")
    folder = tmp_path_factory.mktemp("metadata")
    (folder / f"inspect_evals-{package.version}.dist-info").mkdir()
    (folder / f"inspect_evals-{package.version}.dist-info" / "METADATA").write_text(package.read_text("METADATA"), encoding="utf-8")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    return before


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
