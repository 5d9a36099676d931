"""Which stages go into which Slurm arrays, under which index, after what. Values only.

A stage waits for the stage before it index by index (`aftercorr`), so a work has one index in all
arrays that it is in. An index without a twin in the array that it waits for would wait for all of it:
what has no stage to wait for goes into an array of its own, without dependency.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from hydra.errors import CompactHydraException

from ._stages import Stage
from ._works import State, Work


@dataclass(frozen=True)
class Slot:
    """A task of an array that Slurm has accepted."""

    folder: str
    job: int
    index: int


@dataclass(eq=False)
class Array:
    """One submission: a stage of several works.

    `needs` are the arrays that it follows index by index: others of this launch, or ids of earlier
    ones. `job` is Slurm's id, once it has given one.
    """

    name: str
    stage: Stage
    resources: Dict[str, Any]
    needs: Tuple[Union["Array", int], ...]
    works: Dict[int, Work] = field(default_factory=dict)
    job: Optional[int] = None

    @property
    def dependency(self) -> Optional[str]:
        """sbatch's --dependency; those of `needs` that are of this launch have been submitted."""
        jobs = [str(need.job if isinstance(need, Array) else need) for need in self.needs]
        return f"aftercorr:{':'.join(jobs)}" if jobs else None

    def ranges(self) -> str:
        """sbatch's --array without its limit: `0-3,7`."""
        return index_ranges(self.works)


Resources = Callable[[Work, Stage], Dict[str, Any]]


def plan_arrays(
    works: Sequence[Work], adopted: Mapping[Tuple[int, Optional[str]], Slot], resources: Resources, longest: int
) -> List[Array]:
    """The arrays for all stages that wait, each after those that it needs.

    `adopted` holds, by id(work) and stage, what an earlier launch has sent already; `longest` is the
    number of tasks that an array may have.
    """
    arrays: List[Array] = []
    for members in _groups(works, adopted, resources):
        for start in range(0, len(members), longest):
            arrays += _arrays(members[start : start + longest], adopted, resources, len(arrays))
    return arrays


def _groups(works: Sequence[Work], adopted: Mapping, resources: Resources) -> Iterator[List[Work]]:
    """The works that can share arrays: the same stages, resources, and earlier arrays to wait for."""
    groups: Dict[str, List[Work]] = {}
    for work in works:
        parts = [part for part in work.parts.values() if part.state is State.WAITING]
        what = [
            [part.stage.name, part.stage.needs, resources(work, part.stage), _earlier(work, part.stage, adopted)]
            for part in parts
            if (id(work), part.stage.name) not in adopted
        ]
        if what:
            groups.setdefault(json.dumps(what, sort_keys=True, default=str), []).append(work)
    return iter(groups.values())


def _earlier(work: Work, stage: Stage, adopted: Mapping[Tuple[int, Optional[str]], Slot]) -> List[int]:
    """The earlier arrays that this stage of the work has to wait for."""
    return [adopted[id(work), need].job for need in stage.needs if (id(work), need) in adopted]


def _arrays(members: List[Work], adopted: Mapping, resources: Resources, count: int) -> List[Array]:
    made: Dict[Optional[str], Array] = {}
    first = members[0]
    for part in first.parts.values():
        stage, here = part.stage, part.state is State.WAITING and (id(first), part.stage.name) not in adopted
        if here:
            needs = [made[need] for need in stage.needs if need in made]
            name = f"{count + len(made)}_{stage.name or 'all'}"
            array = Array(name, stage, resources(first, stage), (*needs, *_earlier(first, stage, adopted)))
            made[stage.name] = array
    for position, work in enumerate(members):
        index = _index(work, position, adopted)
        for array in made.values():
            array.works[index] = work
    return list(made.values())


def _index(work: Work, position: int, adopted: Mapping[Tuple[int, Optional[str]], Slot]) -> int:
    """The index that the work has already, or its place among the works of its arrays."""
    fixed = {slot.index for (owner, _), slot in adopted.items() if owner == id(work)}
    if len(fixed) > 1:
        raise CompactHydraException(
            f"{work.name} waits for stages of two earlier launches, in different places of their arrays\n"
            "  run it again when one of them has ended"
        )
    return fixed.pop() if fixed else position


def index_ranges(indices: Any) -> str:
    """`0-3,7` of 0, 1, 2, 3 and 7."""
    parts: List[List[int]] = []
    for index in sorted(indices):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
