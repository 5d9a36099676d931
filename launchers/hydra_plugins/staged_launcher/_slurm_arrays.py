"""Which stages go into which Slurm arrays, under which index, after what. Values only.

A stage waits for the stage before it index by index (`aftercorr`), so it has the index of what it
waits for. An index without a twin in the array that it waits for would wait for all of it: what has
no stage to wait for goes into an array of its own, without dependency. So does each work that follows
others: it waits until they are over (`afterany`).
"""

import json
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Union

from cruijff_kit.launches import Key

from ._stages import Stage
from ._works import Part, State, Work

Resources = Callable[[Work, Stage], Dict[str, Any]]


@dataclass(eq=False)
class Array:
    """One submission: a stage of several works.

    `needs` are the arrays that it follows index by index: others of this launch, or ids of earlier
    ones. `tasks` are single tasks that all of it follows. `after` are arrays and single tasks that have
    to be over, well or not. `job` is Slurm's id, once it has given one.
    """

    name: str
    stage: Stage
    resources: Dict[str, Any]
    needs: Tuple[Union["Array", int], ...]
    tasks: Tuple["Place", ...] = ()
    after: Tuple[Union["Array", int, "Place"], ...] = ()
    works: Dict[int, Work] = field(default_factory=dict)
    job: Optional[int] = None

    @property
    def dependency(self) -> Optional[str]:
        """sbatch's --dependency; what it waits for in this launch has been submitted."""
        kinds = (("aftercorr", self.needs), ("afterok", self.tasks), ("afterany", self.after))
        return ",".join(":".join([kind, *map(_name, what)]) for kind, what in kinds if what) or None

    @property
    def followed(self) -> List[int]:
        """The jobs that it waits for, once they have been submitted."""
        return _jobs(*self.needs, *self.tasks)

    @property
    def followed_to_the_end(self) -> List[int]:
        """The jobs of what has to be over, once they have been submitted."""
        return _jobs(*self.after)


@dataclass(frozen=True)
class Place:
    """Where a stage of a work is: in an array of this launch or a job of an earlier one, and its index there."""

    array: Union[Array, int]
    index: int


def job_of(array: Union[Array, int]) -> int:
    """Slurm's id; that of an array of this launch once it has been submitted."""
    return array.job if isinstance(array, Array) else array


def _name(what: Union[Array, int, Place]) -> str:
    """Slurm's name of an array or a task."""
    return f"{job_of(what.array)}_{what.index}" if isinstance(what, Place) else str(job_of(what))


def _jobs(*what: Union[Array, int, Place]) -> List[int]:
    return sorted({job_of(each.array if isinstance(each, Place) else each) for each in what})


@dataclass(frozen=True)
class Cluster:
    """The number of tasks that an array may have, and of each earlier array the indices of those that Slurm still has."""

    longest: int
    live: Mapping[int, Set[int]]


def plan_arrays(
    works: Sequence[Work], keys: Mapping[int, Key], places: Dict[int, Place], resources: Resources, cluster: Cluster
) -> List[Array]:
    """The arrays for all stages that wait, each after those that it needs.

    `keys` has an entry for the id of each part. So has `places` for those that an earlier launch has
    sent; it gets one for all others: the same one for parts of the same key, which run once.
    """
    arrays: List[Array] = []
    for round_ in _rounds(works, keys, places):
        for members in _groups(round_, places, resources):
            for indexed in _indexed(members, places, cluster.longest):
                arrays += _arrays(indexed, places, resources, len(arrays), cluster.live)
    return arrays


def _rounds(works: Sequence[Work], keys: Mapping[int, Key], places: Dict[int, Place]) -> Iterator[List[Work]]:
    """The works, those later that share a stage with an earlier one, or follow it: its place is known by then."""
    pending = list(works)
    while pending:
        known = {keys[id(part)]: places[id(part)] for work in works for part in work.parts.values() if id(part) in places}
        now: List[Work] = []
        later: List[Work] = []
        claimed: Set[Key] = set()
        for work in pending:
            for part in _unsent(work, places):
                if keys[id(part)] in known:
                    places[id(part)] = known[keys[id(part)]]
            wanted = {keys[id(part)] for part in _unsent(work, places)}
            follows = any(_unsent(other, places) for other in work.follows)
            (later if follows or wanted & claimed else now).append(work)
            claimed |= set() if follows else wanted
        yield now
        pending = later


def _unsent(work: Work, places: Mapping[int, Place]) -> List[Part]:
    return [part for part in work.parts.values() if part.state is State.WAITING and id(part) not in places]


def _earlier(work: Work, stage: Stage, places: Mapping[int, Place]) -> List[Place]:
    """The places of what this stage of the work waits for and what is not sent together with it."""
    needs = [work.parts[need] for need in stage.needs]
    return [places[id(part)] for part in needs if part.state is State.WAITING and id(part) in places]


def _fixed(work: Work, places: Mapping[int, Place]) -> Set[int]:
    """The indices of what the stages of the work wait for."""
    return {place.index for part in _unsent(work, places) for place in _earlier(work, part.stage, places)}


def _groups(works: Sequence[Work], places: Mapping[int, Place], resources: Resources) -> List[List[Work]]:
    """The works that can share arrays: the same stages, resources, and earlier arrays to wait for."""
    groups: Dict[str, List[Work]] = {}
    for work in works:
        what: List[Any] = [
            [part.stage.name, part.stage.needs, resources(work, part.stage), _earlier_arrays(work, part.stage, places)]
            for part in _unsent(work, places)
        ]
        if what:
            alone = id(work) if work.follows or len(_fixed(work, places)) > 1 else None
            groups.setdefault(json.dumps([what, alone], sort_keys=True, default=str), []).append(work)
    return list(groups.values())


def _earlier_arrays(work: Work, stage: Stage, places: Mapping[int, Place]) -> List[Any]:
    arrays = [place.array for place in _earlier(work, stage, places)]
    return [array.name if isinstance(array, Array) else array for array in arrays]


def _indexed(members: List[Work], places: Mapping[int, Place], longest: int) -> List[Dict[int, Work]]:
    """The members by their index; several times, where an array may not be so long or two would have one index."""
    if len(_fixed(members[0], places)) != 1:
        return [dict(enumerate(members[start : start + longest])) for start in range(0, len(members), longest)]
    made: List[Dict[int, Work]] = []
    for work in members:
        (index,) = _fixed(work, places)
        free = next((each for each in made if index not in each), None)
        if free is None:
            made.append(free := {})
        free[index] = work
    return made


def _after(work: Work, places: Mapping[int, Place], live: Mapping[int, Set[int]]) -> Tuple[Union[Array, int, Place], ...]:
    """What has to be over before a work that follows others: whole arrays where it follows all that is left of them."""
    indices: Dict[Union[Array, int], Set[int]] = {}
    for part in [part for other in work.follows for part in other.parts.values()]:
        if part.state is State.WAITING and id(part) in places:
            indices.setdefault(places[id(part)].array, set()).add(places[id(part)].index)
    after: List[Union[Array, int, Place]] = []
    for array, followed in indices.items():
        there = array.works.keys() if isinstance(array, Array) else live[array]
        after += [array] if there <= followed else [Place(array, index) for index in sorted(followed)]
    return tuple(after)


def _arrays(
    indexed: Dict[int, Work], places: Dict[int, Place], resources: Resources, count: int, live: Mapping[int, Set[int]]
) -> List[Array]:
    """One array for each stage of these works that is to be sent."""
    made: Dict[Optional[str], Array] = {}
    first = next(iter(indexed.values()))
    alone, after = len(_fixed(first, places)) > 1, _after(first, places, live)
    for stage in [part.stage for part in _unsent(first, places)]:
        earlier = [place for place in _earlier(first, stage, places) if place.array not in made.values()]
        needs = [made[need] for need in stage.needs if need in made]
        each = () if alone else tuple(dict.fromkeys(place.array for place in earlier))
        name = f"{count + len(made)}_{stage.name or 'all'}"
        tasks = tuple(earlier) if alone else ()
        array = Array(name, stage, resources(first, stage), (*needs, *each), tasks, after, indexed)
        made[stage.name] = array
        places.update({id(work.parts[stage.name]): Place(array, index) for index, work in indexed.items()})
    return list(made.values())
