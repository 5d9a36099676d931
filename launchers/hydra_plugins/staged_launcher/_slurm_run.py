"""One launch of works to Slurm: what earlier ones sent is taken over, the rest is sent, and waited for."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from cruijff_kit import slurm

from ._job import freeze_context
from ._launches import Found, Key, Launch, Record, close_old, find, handle, new_launch, open_launches, record, submission_lock
from ._outcomes import outcome
from ._slurm_arrays import Array, Slot, plan_arrays
from ._slurm_submit import Freezer, send, test_only, write_array, write_script
from ._stages import Stage
from ._works import Part, State, Work


class SlurmRun:
    """`results` are those of earlier launches of the same sweep, by key: a point that comes again is not run again."""

    def __init__(self, works: List[Work], launcher: Any, results: Dict[Key, Any]) -> None:
        self._works, self._launcher, self._options = works, launcher, launcher.options
        self._results = results
        self._folder = Path(self._options.folder).absolute()
        self._slots: Dict[int, Slot] = {}
        self._keys = {id(part): key for work in works for part, key in _keys(work, self._options.keys_key)}

    def run(self) -> None:
        self._recall()
        with submission_lock(self._folder) as lock:
            launch, arrays = self._submit(lock)
        print_accepted(self._works, arrays, self._slots, self._parts())
        if self._options.wait:
            self._wait(launch)

    def _parts(self) -> List[Tuple[Work, Part]]:
        return [(work, part) for work in self._works for part in work.parts.values()]

    def _recall(self) -> None:
        for _, part in self._parts():
            if self._keys[id(part)] in self._results:
                part.state, part.result = State.DONE, self._results[self._keys[id(part)]]

    def _submit(self, lock: int) -> Tuple[Optional[Launch], List[Array]]:
        """Send what has to be sent; all of it, or nothing."""
        limits, queue = slurm.limits(), slurm.queue()
        earlier = open_launches(self._folder)
        adopted = self._adopt(find(earlier, queue))
        arrays = plan_arrays(self._works, adopted, self._resources, limits.max_array_size)
        launch = self._send(arrays, lock) if arrays else None
        close_old(earlier, queue)
        return launch, arrays

    def _adopt(self, found: Found) -> Dict[Tuple[int, Optional[str]], Slot]:
        """Take over the stages that earlier launches sent, and cancel of those what waits for ever or in vain."""
        adopted, stale = {}, [f"{slot.job}_{slot.index}" for slot in found.stuck]
        for work in self._works:
            sent: List[Optional[str]] = []  # the stages of this work that are to be sent now
            for part in work.parts.values():
                key = self._keys[id(part)]
                slot, anew = found.live.get(key), any(need in sent for need in part.stage.needs)
                if slot is not None and not anew:
                    adopted[id(work), part.stage.name] = self._slots[id(part)] = slot
                elif key in found.done and not anew:
                    part.state, part.result = State.DONE, outcome(handle(found.done[key]))[0]
                elif part.state is State.WAITING:
                    sent.append(part.stage.name)
                    stale += [f"{slot.job}_{slot.index}"] if slot is not None else []
        slurm.cancel(stale)
        return adopted

    def _resources(self, work: Work, stage: Stage) -> Dict[str, Any]:
        """sbatch options of the stage: the launcher's, and over them those in the point's own config."""
        base = {key: value for key, value in (self._options.stages.get(stage.name) or {}).items() if key != "needs"}
        node = OmegaConf.select(work.config, f"{self._options.resources_key}.{stage.name}") if stage.name else None
        own = OmegaConf.to_container(node, resolve=True) if node is not None else {}
        return {key: value for key, value in {**base, **own}.items() if value is not None}

    def _send(self, arrays: List[Array], lock: int) -> Launch:
        for array in {json.dumps([a.stage.name, a.resources], sort_keys=True, default=str): a for a in arrays}.values():
            test_only(array)
        launch = new_launch(self._folder)
        records = [(array, self._record(launch, array)) for array in arrays]
        launch.save()
        freezer = Freezer(launch, freeze_context(self._launcher.task_function, self._launcher.hydra_context), self._options.stage_key)
        freezer.freeze(list({id(work): work for array in arrays for work in array.works.values()}.values()))
        for array, made in records:
            write_array(array, made, freezer.callable(array))
        self._send_all(launch, records, lock)
        launch.accepted = True
        launch.save()
        return launch

    def _record(self, launch: Launch, array: Array) -> Record:
        parts = {index: work.parts[array.stage.name] for index, work in array.works.items()}
        return record(launch, array, {index: self._keys[id(part)][1] for index, part in parts.items()})

    def _send_all(self, launch: Launch, records: List[Tuple[Array, Record]], lock: int) -> None:
        """One sbatch an array; where one is refused, those before it are taken back."""
        try:
            for array, made in records:
                script = write_script(array, made, self._options.name, self._options.kill_on_invalid_dep)
                array.job = made.job = send(script, lock)
                launch.save()
                for index, work in array.works.items():
                    self._slots[id(work.parts[array.stage.name])] = Slot(str(made.folder), array.job, index)
        except slurm.SlurmError as error:
            slurm.cancel([str(array.job) for array, _ in records if array.job])
            raise CompactHydraException(f"{error}\nnothing was submitted") from error

    def _wait(self, launch: Optional[Launch]) -> None:
        from ._display import make_display
        from ._slurm_wait import Follower, outliving_the_terminal

        log = (launch.folder if launch else self._folder) / "wait.log"
        follower = Follower(self._works, self._slots, self._options.poll_s)
        try:
            with outliving_the_terminal(log):
                follower.follow(make_display(self._works, self._launcher.hooks))
        except KeyboardInterrupt:
            jobs = " ".join(sorted({str(slot.job) for slot in self._slots.values()}))
            print(f"\nthe jobs go on: {jobs}. The same command waits for them again; scancel {jobs} ends them", file=sys.stderr)
            raise
        for _, part in self._parts():
            if part.state is State.DONE:
                self._results[self._keys[id(part)]] = part.result


def _keys(work: Work, keys_key: str) -> Iterator[Tuple[Part, Key]]:
    """What tells each stage of this work from any other: the application's word, or a digest of the config."""
    own = OmegaConf.select(work.config, keys_key)
    text = _digest(work.config) if own is None else ""
    for part in work.parts.values():
        yield part, (part.stage.name, text if own is None else str(own[part.stage.name]))


def _digest(config: DictConfig) -> str:
    plain = OmegaConf.to_container(config, resolve=False)
    plain.pop("hydra", None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def print_accepted(works: List[Work], arrays: List[Array], slots: Dict[int, Slot], parts: List[Tuple[Work, Part]]) -> None:
    """What Slurm has now, and how to go on."""
    for array in arrays:
        after = f", each after its own of job {' and '.join(str(getattr(n, 'job', n)) for n in array.needs)}" if array.needs else ""
        print(f"job {array.job}: {_count(len(array.works), array.stage.name)}{after}")
    sent = {array.job for array in arrays}
    for job in sorted({slot.job for slot in slots.values()} - sent):
        there = [part for _, part in parts if id(part) in slots and slots[id(part)].job == job]
        print(f"job {job}: {_count(len(there), there[0].stage.name)}, sent before")
    over = [part for _, part in parts if part.state is State.DONE]
    if over:
        print(f"done already: {len(over)}")
    if slots:
        jobs = sorted({slot.job for slot in slots.values()})
        first = next(iter(slots.values()))
        print(f"  watch   squeue --me --jobs={','.join(map(str, jobs))}")
        print(f"  read    tail -F {first.folder}/{first.job}_{first.index}_0_log.out")
        print(f"  cancel  scancel {' '.join(map(str, jobs))}", flush=True)


def _count(number: int, stage: Optional[str]) -> str:
    return f"{number} {stage or 'task'}{'' if number == 1 or stage else 's'}"
