"""The Slurms that the tests below share. A test that needs other settings, or breaks what it uses, starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.configuration import Settings
from tests.slurm.daemons import SlurmMissing
from tests.slurm.private_slurm import PrivateSlurm


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
