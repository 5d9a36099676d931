"""What a launcher has to do: each config with its stages, their states, and what goes next.

Values only: whoever runs a part sets its state, and tells `end` when it is over.
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from ._stages import Stage


class State(Enum):
    """How far a stage of a work is; the value is the word shown to the user."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass
class Part:
    """One stage of one work; the times are of time.monotonic()."""

    stage: Stage
    state: State = State.WAITING
    log: Optional[Path] = None
    result: Optional[JobReturn] = None
    error: Optional[Exception] = None
    why: str = ""
    started_s: float = 0.0
    ended_s: Optional[float] = None


@dataclass(eq=False)
class Work:
    """One config and its stages. `points` are the indices of the points that share it; none: an extra.

    It begins when all works that it `follows` are over, however they ended.
    """

    name: str
    config: DictConfig
    stages: Tuple[Stage, ...]
    points: List[int] = field(default_factory=list)
    follows: List["Work"] = field(default_factory=list)
    parts: Dict[Optional[str], Part] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = {stage.name: Part(stage) for stage in self.stages}

    def has(self, *states: State) -> bool:
        """Whether any stage is in one of these states."""
        return any(part.state in states for part in self.parts.values())

    @property
    def over(self) -> bool:
        return not self.has(State.WAITING, State.RUNNING)

    @property
    def failed(self) -> bool:
        return self.has(State.FAILED)

    @property
    def started(self) -> bool:
        return self.has(State.RUNNING, State.DONE, State.FAILED)

    def ready(self) -> Optional[Part]:
        """The first stage that waits for nothing."""
        if not all(other.over for other in self.follows):
            return None
        for part in self.parts.values():
            done = all(self.parts[need].state is State.DONE for need in part.stage.needs)
            if part.state is State.WAITING and done:
                return part
        return None


def next_ready(works: Sequence[Work]) -> Optional[Tuple[Work, Part]]:
    """The stage to start next, depth first: a work that has begun goes before a new one."""
    for work in sorted(works, key=lambda work: not work.started):
        part = work.ready()
        if part is not None:
            return work, part
    return None


def end(work: Work, part: Part) -> List[Part]:
    """Record how a stage ended; returns the stages that cannot run because of it."""
    part.state = State.FAILED if part.error is not None else State.DONE
    barred = []
    for other in work.parts.values():
        broken = [need for need in other.stage.needs if _broken(work.parts[need])]
        if other.state is State.WAITING and broken:
            other.state, other.why = State.NOT_RUN, f"needs {broken[0]}"
            barred.append(other)
    return barred


def _broken(part: Part) -> bool:
    return part.state in (State.FAILED, State.NOT_RUN)
