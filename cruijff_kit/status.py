"""`cruijff-kit status`: what every run of an experiment does, as a table or as data."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit import columns, failure, log_follow, progress, records, training_metrics
from cruijff_kit.disk_space import human, occupied_bytes
from cruijff_kit.errors import printable
from cruijff_kit.failure import Failure
from cruijff_kit.paths import BASELINE, Layout
from cruijff_kit.progress import Progress
from cruijff_kit.stage_state import DONE, OVER_BADLY, RUNNING, WAITING
from cruijff_kit.sweep_state import RunState, SweepState, look

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NARROW = 110  # columns of a terminal below which job ids and sizes are left out
ORDER = (RUNNING, *OVER_BADLY)  # what a screen that is too small for all runs shows first
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "lost": "red", "cancelled": "yellow"}


@dataclass(frozen=True)
class Row:
    """A run, with what is read of its logs and disks.

    Args:
        says: how far it is, or why it is not done.
        size: bytes of its results and logs.
    """

    run: RunState
    says: str
    progress: Progress | None
    size: int


def rows(state: SweepState) -> list[Row]:
    """One a run, in the order of the sweep."""
    return [_row(state.layout, run) for run in state.runs]


def _row(layout: Layout, run: RunState) -> Row:
    disk = layout.run_results(run.run) / "hf_model"  # it may be a link to a bigger disk
    places = [layout.run_results(run.run), layout.run_eval_results(run.run), *([disk.resolve()] if disk.is_symlink() else [])]
    size = sum(map(occupied_bytes, places))
    if run.train is not None and run.train.state == RUNNING:
        done = _progress(layout, run)
        return Row(run, _said(done) or run.train.why, done, size)
    if run.eval is not None and run.eval.state == RUNNING:
        said = progress.of_evaluation(log_follow.tail(run.eval.log)) if run.eval.log else None
        own = said is not None and said.startswith(f"{run.run} ")  # a job may have evaluated another run before this one
        return Row(run, said.removeprefix(f"{run.run} ") if own else run.eval.why, None, size)
    return Row(run, _why(run), None, size)


def _progress(layout: Layout, run: RunState) -> Progress | None:
    record = records.read(layout.record("train", run.run))
    if run.train is None or run.train.log is None or record is None or record.epochs is None:
        return None
    tokens_per_s = training_metrics.last(layout.run_results(run.run)).get("tokens_per_second_per_gpu")
    return progress.of_training(log_follow.tail(run.train.log), tokens_per_s, record.epochs)


def _said(done: Progress | None) -> str:
    if done is None:
        return ""
    rate = f" {done.tokens_per_s:.0f} tokens/s" if done.tokens_per_s is not None else ""
    left = f", {duration(done.remaining_s)} left" if done.remaining_s is not None else ""
    return f"epoch {done.epoch}/{done.epochs} step {done.step}/{done.steps} loss {done.loss:.4g}{rate}{left}"


def _why(run: RunState) -> str:
    """Of the first stage that has something to say."""
    stages = list(run.stages.values())
    if any(state.state == "queued" for state in stages):
        stages = [state for state in stages if state.state != WAITING]  # which wait for that
    words = [state.why for state in stages if state.state in OVER_BADLY] or [state.why for state in stages if state.why]
    words += ["its weights were removed"] if run.weights_removed else []
    return words[0].splitlines()[0] if words and words[0] else ""


def duration(seconds: float) -> str:
    """`7 s`, `3 m 20 s`, `2 h 05 m`, `3 d 04 h`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    if hours:
        return f"{hours} h {minutes:02} m"
    return f"{minutes} m {rest:02} s" if minutes else f"{rest} s"


def summary(state: SweepState, shown: Sequence[Row]) -> str:
    """`8 runs: 3 done, 2 running, 1 failed, 2 waiting; 12.3 GB`."""
    words = Counter(_whole(row.run) for row in shown if row.run.run != BASELINE)
    order = [DONE, RUNNING, "queued", WAITING, *OVER_BADLY]
    counts = ", ".join(f"{words[word]} {word}" for word in order if words[word])
    total = sum(words.values())
    return f"{total} run{'' if total == 1 else 's'}: {counts}; {human(sum(row.size for row in shown))}"


def _whole(run: RunState) -> str:
    """A run in one word: its worst stage, or else that which is under way."""
    states = [state.state for state in run.stages.values()]
    if all(state == DONE for state in states):
        return DONE
    return next((word for word in (*OVER_BADLY, RUNNING, "queued") if word in states), WAITING)


def lines(shown: Sequence[Row], width: int, one_line: bool = False) -> Iterator[Text]:
    """The rows for a terminal of so many columns; `one_line` cuts off what would take more."""
    names = list(dict.fromkeys(name for row in shown for name in row.run.params))
    more = ("job", "size") if width >= NARROW else ()
    headings = ["run", *names, "train", "eval", "", "time", *more]
    cells = [[*map(printable, _cells(row, names)), *((_job(row.run), human(row.size) if row.size else "") if more else ())] for row in shown]
    flexible = headings.index("")
    return columns.render(
        headings, cells, width=width, flexible=flexible, right=range(flexible + 1, len(headings)), one_line=one_line, styles=COLOURS
    )


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    stages = (state.state if state is not None else "" for state in (row.run.train, row.run.eval))
    return [row.run.run, *(str(row.run.params.get(name, "")) for name in names), *stages, row.says, _time(row.run)]


def _time(run: RunState) -> str:
    seconds = [state.seconds for state in run.stages.values() if state.seconds is not None]
    return duration(sum(seconds)) if seconds else ""


def _job(run: RunState) -> str:
    """Of the stage that is under way, or else of the one that went wrong."""
    by_state = {state.state: state.job for state in reversed(run.stages.values()) if state.job}
    return next((by_state[word] for word in (RUNNING, "queued", *OVER_BADLY) if word in by_state), "") or ""


def advice(state: SweepState, folder: Path) -> Iterator[str]:
    """What to type next."""
    where = shlex.quote(str(folder))
    bad = [run for run in state.runs if any(each.state in OVER_BADLY for each in run.stages.values())]
    if bad:
        said = next((run for run in bad if any(each.state in OVER_BADLY and each.log and each.log.exists() for each in run.stages.values())), None)
        if said is not None:
            yield f"cruijff-kit logs {where} {said.run}   what it said"
        yield f"cruijff-kit run {where} --multirun --failed   tries again what failed"
    for run in bad:
        if run.train is not None and run.train.kind == "memory":
            yield from _smaller_batch(state.layout, run.run, Failure(run.train.kind, run.train.why))
    waiting = sum(_whole(run) == WAITING for run in state.runs)
    if waiting and not bad and not is_under_way(state.runs):
        yield f"cruijff-kit run {where} --multirun   starts what is missing: {waiting} run{'' if waiting == 1 else 's'}"


def _smaller_batch(layout: Layout, run: str, why: Failure) -> Iterator[str]:
    """Which smaller batch has the same product, where that would help; nobody makes it smaller but the user."""
    from cruijff_kit.torchtune_catalog import read_config

    try:
        config = read_config(layout.train_config(run))
        batch, steps = config["batch_size"], config.get("gradient_accumulation_steps", 1)
        smaller = failure.offer(batch, steps) if why.on_gpu or config.get("device") == "cpu" else None
    except (OSError, ValueError, KeyError, TypeError):
        return
    if smaller:
        yield (
            f"{run} ran out of memory with batch_size={batch} gradient_accumulation_steps={steps}: "
            f"batch_size={smaller[0]} gradient_accumulation_steps={smaller[1]} has the same product, {batch * steps}"
        )


def as_dict(state: SweepState, shown: Sequence[Row]) -> dict[str, Any]:
    """What --json shows."""
    about = state.experiment.spec.experiment
    return {
        "experiment": about.name,
        "question": about.question,
        "runs": [_run_dict(row) for row in shown],
        "notes": state.notes,
    }


def _run_dict(row: Row) -> dict[str, Any]:
    stages = {name: {**asdict(state), "log": state.log and str(state.log), "seconds": state.seconds} for name, state in row.run.stages.items()}
    return {
        "run": row.run.run,
        "params": dict(row.run.params),
        "stages": stages,
        "unsettled": dict(row.run.unsettled),
        "weights_removed": row.run.weights_removed,
        "progress": asdict(row.progress) if row.progress else None,
        "bytes": row.size,
    }


def print_status(folder: Path, console: Console) -> None:
    """The table once, what was noticed, and what to type next."""
    state = look(folder)
    shown = rows(state)
    question = state.experiment.spec.experiment.question
    console.print(f"{state.experiment.name}{f': {question}' if question else ''}", markup=False, highlight=False)
    console.print(f"{summary(state, shown)}\n", markup=False, highlight=False)
    for line in lines(shown, console.width):
        console.print(line, soft_wrap=True)
    console.print()
    for line in (*state.notes, *advice(state, folder)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def is_under_way(runs: Iterable[RunState]) -> bool:
    return any(state.is_under_way for run in runs for state in run.stages.values())


def now() -> str:
    return time.strftime("%H:%M:%S")
