"""The Slurms that the tests below share. A test that needs other settings, or breaks what it uses, starts its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.configuration import Settings
from tests.slurm.daemons import SlurmMissing
from tests.slurm.private_slurm import PrivateSlurm
from tests.slurm.staged_app import StagedApp


def started(settings: Settings, folders: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    try:
        with PrivateSlurm(folders.mktemp("slurm"), settings) as slurm:
            yield slurm
    except SlurmMissing as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """With accounting: sacct knows what became of a job."""
    yield from started(Settings(accounting=True), tmp_path_factory)


@pytest.fixture(scope="session")
def slurm_without_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """Where sacct knows nothing, and the controller forgets a job after minutes."""
    yield from started(Settings(), tmp_path_factory)


@pytest.fixture
def app(slurm: PrivateSlurm, tmp_path: Path) -> StagedApp:
    """The small application, on the Slurm with accounting."""
    return StagedApp(tmp_path / "app", slurm.environment)
