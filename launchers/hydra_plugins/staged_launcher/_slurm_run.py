"""One launch of works to Slurm: what earlier ones sent is taken over, the rest is sent, and waited for."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from cruijff_kit import slurm
from cruijff_kit.launches import (
    Key, Launch, SentArray, Slot, close_old, deliver, find, new_launch, open_launches, reopen, submission_lock, take_back,
)  # fmt: skip

from ._accepted import print_accepted
from ._job import freeze_context
from ._slurm_arrays import Array, Cluster, Place, plan_arrays
from ._slurm_submit import Freezer, check_folder, check_options, processes, send, test_only, write_array, write_script
from ._stages import Stage
from ._sweepers import needs_values
from ._takeover import take_over
from ._works import Part, State, Work


class SlurmRun:
    """`results` are those of earlier launches of the same sweep, by key: a point that comes again is not run again."""

    def __init__(self, works: List[Work], launcher: Any, results: Dict[Key, Any]) -> None:
        self._works, self._launcher, self._options = works, launcher, launcher.options
        self._results = results
        self._folder = Path(self._options.folder).absolute()
        self._slots: Dict[int, Slot] = {}
        self._keys = {id(part): key for work in works for part, key in self._named(work)}

    def run(self) -> None:
        """Return when Slurm has accepted everything, or with `wait` when everything has ended."""
        check_folder(self._folder)
        self._recall()
        try:
            with submission_lock(self._folder) as lock:
                launches, arrays = self._submit(lock)
                print_accepted([part for _, part in self._parts()], arrays, self._slots)
                if not self._options.wait:  # under the lock: another command may be about to wait for the same
                    deliver(launches, set(self._keys.values()))
        except slurm.SlurmError as error:
            raise CompactHydraException(str(error)) from error
        if self._options.wait:
            self._wait(launches)
            deliver(launches, set(self._keys.values()))

    def _named(self, work: Work) -> Iterator[Tuple[Part, Key]]:
        """What tells each stage of this work from any other: the application's word, or a digest of the config."""
        own = OmegaConf.select(work.config, self._options.keys_key)
        text = self._digest(work.config) if own is None else ""
        for part in work.parts.values():
            yield part, (part.stage.name, text if own is None else str(own[part.stage.name]))

    @property
    def _application_knows(self) -> bool:
        """Whether the application names its works, and so has said what of them is done; but not what came of it."""
        named = all(OmegaConf.select(work.config, self._options.keys_key) is not None for work in self._works)
        return named and not needs_values(self._launcher.config.hydra)

    def _digest(self, config: DictConfig) -> str:
        """Of all that the point sets; how the launcher was called changes no point."""
        items = config.items_ex(resolve=False)
        plain = {key: _plain(node) for key, node in items if key != "hydra"}  # which is most of a config
        given = OmegaConf.select(config, "hydra.overrides.hydra", default=[])
        shared = OmegaConf.to_container(self._launcher.config.hydra.overrides.hydra)
        plain[""] = [word for word in given if word not in shared]
        return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()

    def _parts(self) -> List[Tuple[Work, Part]]:
        return [(work, part) for work in self._works for part in work.parts.values()]

    def _recall(self) -> None:
        for _, part in self._parts():
            if self._keys[id(part)] in self._results:
                part.state, part.result = State.DONE, self._results[self._keys[id(part)]]

    def _submit(self, lock: int) -> Tuple[List[Launch], List[Array]]:
        """Send what has to be sent, all of it or nothing; the launches that hold the works, and the arrays sent now."""
        slurm.ping()  # a controller that is down is known at once, where the others try for long
        limits, queue = slurm.limits(), slurm.queue()
        earlier = close_old(open_launches(self._folder), queue)
        found = find(earlier, queue)
        if self._application_knows:
            found.over.clear()
        taken = take_over(self._works, self._keys, found)
        self._slots.update(taken.slots)
        places = {part: Place(slot.job, slot.index) for part, slot in taken.slots.items()}
        live: Dict[int, Set[int]] = {}
        for task in queue:
            live.setdefault(task.job, set()).add(task.index)
        arrays = plan_arrays(self._works, self._keys, places, self._resources, Cluster(limits.max_array_size, live))
        launch = self._send(arrays, taken.cancel, places, lock)
        if self._options.wait:
            reopen(earlier, {slot.job for slot in taken.slots.values()})
        return [*([launch] if launch else []), *earlier], arrays

    def _resources(self, work: Work, stage: Stage) -> Dict[str, Any]:
        """sbatch options of the stage: the launcher's, and over them those in the point's own config."""
        base = {key: value for key, value in (self._options.stages.get(stage.name) or {}).items() if key != "needs"}
        where = f"{self._options.resources_key}.{stage.name}"
        node = OmegaConf.select(work.config, where) if stage.name else None
        own = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_dict(node) else {}
        check_options(own, where)
        return {key: value for key, value in {**base, **own}.items() if value is not None}

    def _send(self, arrays: List[Array], stale: List[Slot], places: Dict[int, Place], lock: int) -> Optional[Launch]:
        for array in {json.dumps([a.stage.name, a.resources], sort_keys=True, default=str): a for a in arrays}.values():
            test_only(array)
        slurm.cancel([str(slot) for slot in stale])
        if not arrays:
            return None
        launch = new_launch(self._folder)
        records = {id(array): self._record(launch, array) for array in arrays}
        launch.save()
        freezer = Freezer(launch, freeze_context(self._launcher.task_function, self._launcher.hydra_context), self._options.stage_key)
        freezer.freeze(list({id(work): work for array in arrays for work in array.works.values()}.values()))
        for array in arrays:
            write_array(array, records[id(array)], freezer.callable(array))
        self._send_all(launch, arrays, records, lock)
        for part, place in places.items():
            if isinstance(place.array, Array):
                self._slots[part] = records[id(place.array)].slot(place.index)
        return launch

    def _record(self, launch: Launch, array: Array) -> SentArray:
        parts = {index: work.parts[array.stage.name] for index, work in array.works.items()}
        keys = {index: self._keys[id(part)][1] for index, part in parts.items()}
        return launch.add(array.name, array.stage.name, keys, processes(array.resources))

    def _send_all(self, launch: Launch, arrays: List[Array], records: Dict[int, SentArray], lock: int) -> None:
        """One sbatch an array; where one is refused, those before it are taken back."""
        try:
            for array in arrays:
                made = records[id(array)]
                script = write_script(array, made, self._options.name, self._options.kill_on_invalid_dep)
                array.job = made.job = send(script, lock)
                launch.save()
        except slurm.SlurmError as error:
            raise CompactHydraException(f"{error}\n{take_back(launch)}") from error

    def _wait(self, launches: List[Launch]) -> None:
        from ._display import make_display
        from ._slurm_wait import Follower, outliving_the_terminal

        log = (launches[0].folder if launches else self._folder) / "wait.log"
        follower = Follower(self._works, self._slots, self._options.poll_s, drops=not self._options.kill_on_invalid_dep)
        try:
            with outliving_the_terminal(log):
                follower.follow(make_display(self._works, self._launcher.hooks))
        except KeyboardInterrupt:
            jobs = " ".join(sorted({str(slot.job) for slot in self._slots.values()}, key=int))
            print(f"\nthe jobs go on: {jobs}\nthe same command waits for them again; scancel {jobs} ends them", file=sys.stderr)
            raise
        for _, part in self._parts():
            if part.state is State.DONE:
                self._results[self._keys[id(part)]] = part.result


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
