"""What the tasks of an array leave when they end: a result of each process (submitit 1.5, JobPaths)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple

from hydra.core.utils import JobReturn

from ._outcomes import outcome


@dataclass(frozen=True)
class Slot:
    """A task of an array that Slurm has accepted; srun starts so many `processes` of it."""

    folder: str
    job: int
    index: int
    processes: int = 1

    def __str__(self) -> str:
        """Slurm's name of it."""
        return f"{self.job}_{self.index}"

    @property
    def log(self) -> Path:
        """What its first process prints, and the script around all of them."""
        return Path(self.folder) / f"{self}_0_log.out"


def has_ended(slot: Slot) -> bool:
    """Whether every process has left a result, good or bad."""
    return all(path.exists() for path in _paths(slot))


def result_of(slot: Slot) -> Optional[Tuple[Optional[JobReturn], Optional[Exception], str]]:
    """As _outcomes.outcome: the first failure among the processes, or what the first returned.

    None where a process left no result and none of the others failed.
    """
    import submitit

    handles = [submitit.SlurmJob(folder=slot.folder, job_id=str(slot), tasks=(number,)) for number in range(slot.processes)]
    left = [outcome(handle) for handle in handles if handle.paths.result_pickle.exists()]
    failed = next((result for result in left if result[1] is not None), None)
    return failed or (left[0] if len(left) == slot.processes else None)


def _paths(slot: Slot) -> List[Path]:
    return [Path(slot.folder) / f"{slot}_{number}_result.pkl" for number in range(slot.processes)]
