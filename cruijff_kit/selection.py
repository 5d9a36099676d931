"""What of a sweep a command will do: for each point its stages that are left, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cruijff_kit.errors import CruijffKitError
from cruijff_kit.paths import BASELINE
from cruijff_kit.stage_state import WAITING, StageState
from cruijff_kit.sweep_state import RunState, SweepState
from cruijff_kit.work_left import CHOICES, Left, Wish, decide

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cruijff_kit.sweep import Run


class Selection:
    """Decides point by point; what it decided stays, to be shown."""

    def __init__(self, state: SweepState) -> None:
        self._state = state
        self._runs = {run.run: run for run in state.runs}
        self._made: dict[tuple, tuple[RunState, Left]] = {}

    def left(self, run: Run | None, config: DictConfig, words: Sequence[str]) -> Left:
        """What is left of a run, or of the baseline; `words` are what its evaluation is told."""
        wish, tasks = wish_of(config), list(config.evaluation.tasks) if not isinstance(config.evaluation.tasks, str) else [config.evaluation.tasks]
        found = self._of(run, config.evaluation.enabled)
        unsettled = self._state.evaluations.unsettled(found.run, run.identity if run else None, words) if words else found.unsettled
        key = (found.run, *wish.stages, *words)
        if key not in self._made:
            self._made[key] = found, decide(found, wish, unsettled, tasks)
        return self._made[key][1]

    def _of(self, run: Run | None, evaluated: bool) -> RunState:
        """The state of a run; one that an override makes now has not begun."""
        name = run.id if run else BASELINE
        if name in self._runs:
            return self._runs[name]
        tasks = [task.name for task in self._state.experiment.spec.evaluation.tasks] if evaluated else []
        return RunState(
            name, dict(run.params) if run else {}, run.identity if run else BASELINE, StageState(WAITING) if run else None,
            StageState(WAITING) if evaluated else None, dict.fromkeys(tasks, "not evaluated"),
        )  # fmt: skip

    def lines(self) -> list[str]:
        """What of a sweep is not done this time, and why, in a line a reason."""
        reasons: dict[str, list[str]] = {}
        for run, left in self._made.values():
            for stage, why in left.why.items():
                if stage not in left.stages:
                    reasons.setdefault(f"{stage}: {why}", []).append(run.run)
        nothing = self._made and not any(left.stages for _, left in self._made.values())
        return [*(f"{reason}: {some(runs)}" for reason, runs in reasons.items()), *(["nothing is left to do"] if nothing else [])]

    def table(self) -> Any:
        """Every run with what is to be done, and why."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        names = list(dict.fromkeys(name for run, _ in self._made.values() for name in run.params))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("run", *names, "to do", "train", "eval"):
            table.add_column(heading, overflow="fold", no_wrap=heading in ("run", "to do"))
        for run, left in self._made.values():
            params = (str(run.params.get(name, "")) for name in names)
            cells = (run.run, *params, ", ".join(left.stages) or "nothing", left.why.get("train", ""), left.why.get("eval", ""))
            table.add_row(*map(Text, cells))
        return table


def wish_of(config: DictConfig) -> Wish:
    """What the command line asks of a point.

    Raises:
        CruijffKitError: `only` or `again` cannot be.
    """
    only, again = config.get("only"), config.get("again")
    if only not in CHOICES:
        raise CruijffKitError(f"only={only}: expected {' or '.join(CHOICES)}")
    again = [again] if isinstance(again, str) else list(again or ())
    return Wish(
        stages=tuple(stage for stage in ("train", "eval") if stage in config.stages and (stage == "train" or config.evaluation.enabled)),
        only=only,
        again=again,
        repeats=_repeats(config),
        adopts=str(config.hydra.launcher._target_).endswith("StagedSlurmLauncher"),
    )


def _repeats(config: DictConfig) -> bool:
    """A sweeper that goes by values needs those of points that are done, too."""
    from hydra_plugins.staged_launcher._sweepers import needs_values

    return bool(config.evaluation.objective) and needs_values(config.hydra)


def narrowed(words: Sequence[str], left: Left) -> tuple[str, ...]:
    """What the evaluation is told, with only the tasks that are left."""
    if left.tasks is None:
        return tuple(words)
    return (*(word for word in words if not word.startswith("tasks=")), f"tasks={json.dumps(list(left.tasks))}")


def some(runs: Sequence[str]) -> str:
    """Their names, or of many the first."""
    return ", ".join(runs[:5]) + (f" and {len(runs) - 5} more" if len(runs) > 5 else "")

