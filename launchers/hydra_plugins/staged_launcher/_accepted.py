"""What is printed when Slurm has accepted a launch: its jobs, and how to go on."""

import shlex
from typing import Mapping, Optional, Sequence

from cruijff_kit.launches import Slot

from ._slurm_arrays import Array
from ._works import Part, State


def print_accepted(parts: Sequence[Part], arrays: Sequence[Array], slots: Mapping[int, Slot]) -> None:
    """What Slurm has now: the arrays of this launch, and those of earlier ones that have some of the parts."""
    for array in arrays:
        print(f"job {array.job}: {_count(len(array.works), array.stage.name)}{_after(array)}")
    sent = {array.job for array in arrays}
    jobs = sorted({slot.job for slot in slots.values()})
    for job in jobs:
        if job not in sent:
            there = {slots[id(part)]: part for part in parts if id(part) in slots and slots[id(part)].job == job}
            print(f"job {job}: {_count(len(there), next(iter(there.values())).stage.name)}, sent before")
    over = sum(part.state is State.DONE for part in parts)
    if over:
        print(f"done already: {over}")
    if slots:
        print(f"  watch   squeue --me --jobs={','.join(map(str, jobs))}")
        print(f"  read    tail -F {shlex.quote(str(min(slots.values(), key=lambda slot: (slot.job, slot.index)).log))}")
        print(f"  cancel  scancel {' '.join(map(str, jobs))}", flush=True)


def _count(number: int, stage: Optional[str]) -> str:
    return f"{number} {stage or 'task'}{'' if number == 1 or stage else 's'}"


def _after(array: Array) -> str:
    each, whole = (" and ".join(map(str, jobs)) for jobs in (array.followed, array.followed_to_the_end))
    return (f", each after its own of job {each}" if each else "") + (f", once its own of job {whole} are over" if whole else "")
