"""`cruijff-kit logs`: what a stage of a run said, and says."""

from __future__ import annotations

import sys
from pathlib import Path

from cruijff_kit import log_follow
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.stage_state import LIVE, OVER_BADLY, RUNNING, StageState
from cruijff_kit.sweep_state import RunState, look, no_such_run


def print_log(folder: Path, run: str, stage: str | None = None, follow: bool = False) -> None:
    """Writes the log of a run's stage to stdout; with `follow` until that stage is over.

    Args:
        stage: train or eval; None for the one that runs, or else went wrong, or else was the last to start.

    Raises:
        CruijffKitError: there is no such run, or it has no log.
    """
    found = _find(folder, run)
    name, state = _chosen(found, stage)
    if state.log is None:
        raise CruijffKitError(_no_log(run, name, state))
    print(f"{run} {name}: {_shown(state)}\n{state.log}", file=sys.stderr, flush=True)
    if not follow:
        if not state.log.exists():
            raise CruijffKitError(f"it is not there: {state.log}")
        follow_until = lambda: True  # noqa: E731
    else:
        follow_until = lambda: _find(folder, run).stages[name].state not in LIVE  # noqa: E731
    log_follow.follow(state.log, follow_until, _write)


def _write(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _find(folder: Path, run: str) -> RunState:
    state = look(folder, [run])
    found = state.run(run)
    if found is None:
        raise no_such_run(run, state.names)
    return found


def _chosen(run: RunState, stage: str | None) -> tuple[str, StageState]:
    if stage is not None:
        if stage not in run.stages:
            raise CruijffKitError(f"{run.run} has no stage '{stage}': {' and '.join(run.stages) or 'it has none'}")
        return stage, run.stages[stage]
    stages = [(name, state) for name, state in run.stages.items() if state.log is not None] or list(run.stages.items())
    for words in ((RUNNING,), OVER_BADLY):
        for name, state in stages:
            if state.state in words:
                return name, state
    return max(stages, key=lambda pair: pair[1].started_s or 0.0)


def _no_log(run: str, stage: str, state: StageState) -> str:
    if state.started_s is None:
        return f"{run} {stage} has no log: it is {state.state}{f', {state.why}' if state.why else ''}"
    return f"{run} {stage} has no log of its own: its output went to where `cruijff-kit run` was typed"


def _shown(state: StageState) -> str:
    parts = [state.state, state.why, f"job {state.job}" if state.job else "", f"attempt {state.attempt}" if state.attempt > 1 else ""]
    return ", ".join(part for part in parts if part)
