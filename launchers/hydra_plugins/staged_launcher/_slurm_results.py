"""What the tasks of an array leave when they end: a result of each process (submitit 1.5, JobPaths)."""

from typing import Optional, Tuple

from hydra.core.utils import JobReturn

from cruijff_kit.launches import Slot

from ._outcomes import outcome


def result_of(slot: Slot) -> Optional[Tuple[Optional[JobReturn], Optional[Exception], str]]:
    """As _outcomes.outcome: the first failure among the processes, or what the first returned.

    None where a process left no result and none of the others failed.
    """
    import submitit

    handles = [submitit.SlurmJob(folder=slot.folder, job_id=str(slot), tasks=(number,)) for number in range(slot.processes)]
    left = [outcome(handle) for handle in handles if handle.paths.result_pickle.exists()]
    failed = next((result for result in left if result[1] is not None), None)
    return failed or (left[0] if len(left) == slot.processes else None)
