"""Which stages of these works need not be sent: an earlier launch has sent them, and they live or ended well."""

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Set

from cruijff_kit.launches import Found, Key, Slot

from ._slurm_results import result_of
from ._works import Part, State, Work


@dataclass
class Takeover:
    """`slots` holds the task of each part that is adopted, by the part's id; `cancel` what is in the way."""

    slots: Dict[int, Slot] = field(default_factory=dict)
    cancel: List[Slot] = field(default_factory=list)


def take_over(works: Sequence[Work], keys: Mapping[int, Key], found: Found) -> Takeover:
    """What of the works was sent before. Marks the stages as done that ended well.

    To cancel is what waits for ever; and what waits for a task, or follows a work, of which something is sent again.
    """
    taken = Takeover(cancel=list(found.stuck))
    unfinished: Set[Work] = set()  # works of which some stage is to be sent now
    for work in sorted(works, key=lambda work: bool(work.follows)):
        anew: List[Optional[str]] = []  # the stages of this work that are to be sent now
        follows_anew = not unfinished.isdisjoint(work.follows)
        for part in work.parts.values():
            if part.state is not State.WAITING:
                continue
            slot, again = found.live.get(keys[id(part)]), follows_anew or any(need in anew for need in part.stage.needs)
            if slot is not None and not again:
                taken.slots[id(part)] = slot
            elif again or not _is_done(part, found.over.get(keys[id(part)])):
                anew.append(part.stage.name)
                unfinished.add(work)
                taken.cancel += [slot] if slot is not None else []
    return taken


def _is_done(part: Part, slot: Optional[Slot]) -> bool:
    """Whether the task ended well; its result is then the part's."""
    how = result_of(slot) if slot else None
    if how is None or how[1] is not None:
        return False
    part.state, part.result = State.DONE, how[0]
    return True
