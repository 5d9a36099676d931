"""Runs works on this machine: a job a stage, as many at once as there are slots, a GPU to each."""

import contextlib
import heapq
import os
import signal
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ._display import PlainDisplay
from ._job import freeze_job
from ._local_jobs import submit
from ._outcomes import log_path, outcome
from ._processes import stop
from ._stages import stage_config
from ._works import Part, State, Work, end, next_ready


def make_slots(gpus: Sequence[str], max_parallel: Optional[int]) -> List[Optional[str]]:
    """The GPU of each slot; more slots than GPUs share them, and None is a slot without any."""
    count = max_parallel if max_parallel is not None else len(gpus) or 1
    return [gpus[i % len(gpus)] if gpus else None for i in range(count)]


@dataclass(frozen=True)
class LocalOptions:
    """What a run needs to know beside its works."""

    context: bytes
    stage_key: str
    submitit_folder: str
    poll_s: float


class LocalRun:
    """One launch: starts what is ready, follows it to its end, and stops all of it when interrupted."""

    def __init__(self, works: Sequence[Work], slots: Sequence[Optional[str]], options: LocalOptions) -> None:
        self._works, self._slots, self._options = works, slots, options
        self._free = list(range(len(slots)))
        self._running: Dict[int, Tuple[Work, Part, Any]] = {}
        self._mark = uuid.uuid4().hex

    def run(self, display: PlainDisplay) -> None:
        """Return when every work is over; the states, results and reasons are in the works."""
        with _ended_like_interrupted():
            try:
                with display:
                    self._follow(display)
            except BaseException:
                self._stop()
                raise

    def _follow(self, display: PlainDisplay) -> None:
        self._fill(display)
        while self._running:
            time.sleep(self._options.poll_s)
            self._collect(display)
            self._fill(display)
            display.tick()

    def _fill(self, display: PlainDisplay) -> None:
        """Start what is ready while there are slots."""
        while self._free:
            ready = next_ready(self._works)
            if ready is None:
                return
            slot = heapq.heappop(self._free)
            self._start(slot, *ready)
            display.started(*ready, self._slots[slot])

    def _start(self, slot: int, work: Work, part: Part) -> None:
        gpu, options = self._slots[slot], self._options
        config = stage_config(work.config, part.stage, options.stage_key)
        devices = gpu if gpu is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
        handle = submit(freeze_job(options.context, config, devices), options.submitit_folder, self._mark)
        self._running[slot] = (work, part, handle)
        part.state, part.log, part.started_s = State.RUNNING, log_path(handle), time.monotonic()

    def _collect(self, display: PlainDisplay) -> None:
        """Record the jobs that are over and free their slots."""
        for slot, (work, part, handle) in list(self._running.items()):
            if not handle.done():
                continue
            part.result, part.error, part.why = outcome(handle)
            part.ended_s = time.monotonic()
            del self._running[slot]
            heapq.heappush(self._free, slot)
            display.ended(work, part, end(work, part))

    def _stop(self) -> None:
        handles = [handle for _, _, handle in self._running.values()]
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"stopping {len(handles)} running", file=sys.stderr, flush=True)
        stop(self._mark, [int(handle.job_id) for handle in handles])


@contextlib.contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the launch as Ctrl-C does, jobs and all, where they would just kill it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: Any) -> None:
        raise SystemExit(128 + signum)

    taken = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for signum in taken:
        signal.signal(signum, leave)
    try:
        yield
    finally:
        for signum in taken:
            signal.signal(signum, signal.SIG_DFL)
