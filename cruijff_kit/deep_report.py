"""What `check --deep` found, printed: a table of the runs, disk and memory, one training row, the tasks. Finds nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cruijff_kit.visible_text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from cruijff_kit.deep_check import DeepReport, Disk, RunSummary
    from cruijff_kit.task_check import TaskFacts

SHOWN_RUNS = 20


def render(report: DeepReport, console: Console) -> None:
    """Prints everything of `report` but its problems."""
    console.print(_runs(report.runs[:SHOWN_RUNS]))
    more = len(report.runs) - SHOWN_RUNS
    if more > 0:
        console.print(f"… and {more:,} more runs; --json has them all")
    for line in _lines(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.tasks:
        console.print(_tasks(report.tasks))
    console.print(f"checked in {report.seconds:.1f} s", markup=False, highlight=False)


def _lines(report: DeepReport) -> Iterator[str]:
    for state, count in Counter(run.weights for run in report.runs if run.weights).items():
        yield f"Weight files of {count:,} run{'' if count == 1 else 's'}: {state}"
    yield _disk(report.runs, report.disk)
    estimated = [run for run in report.runs if run.memory is not None]
    if estimated:
        yield ""
        yield from _memory(max(estimated, key=lambda run: run.memory.total))
    shown = next((prompt.shown for prompt in report.prompts if prompt.shown), None)
    if shown:
        yield "\nOne training row as the model will see it:\n"
        yield shown
        others = len(report.prompts) - 1
        if others:
            yield f"\n(the first of {len(report.prompts)} combinations of tokenizer and dataset)"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for index, heading in enumerate(left):
        table.add_column(escape(heading), overflow="fold", no_wrap=index == 0)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _runs(runs: Sequence[RunSummary]) -> Table:
    from rich.markup import escape

    names = list(dict.fromkeys(name for run in runs for name in run.params))
    peak = "GPU GB" if any(run.device != "cpu" for run in runs) else "RAM GB"
    table = _table("Runs", ["run", *names], ["parameters", "trainable", "steps", "tokens", "disk GB", peak])
    for run in runs:
        counts = ("?" if count is None else short(count) for count in (run.parameters, run.trainable, run.steps, run.tokens))
        sizes = ("?" if size is None else gigabytes(size) for size in (run.checkpoint_bytes, run.memory and run.memory.total))
        table.add_row(run.id, *(escape(str(run.params.get(name, ""))) for name in names), *counts, *sizes)
    return table


def short(count: int) -> str:
    """`8.03B`: a count to three digits, a small one in full."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= 10 * unit or (count >= unit and unit > 10**3):
            value = count / unit
            return f"{value:,.0f}{letter}" if value >= 100 else f"{value:.1f}{letter}" if value >= 10 else f"{value:.2f}{letter}"
    return f"{count:,}"


def gigabytes(size: int) -> str:
    """`size` bytes in units of 10^9, to three digits or so."""
    value = size / 1e9
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _disk(runs: Sequence[RunSummary], disk: Disk) -> str:
    unknown = sum(run.checkpoint_bytes is None for run in runs)
    least = f", those of {unknown} runs not counted" if unknown else ""
    total = sum(run.checkpoint_bytes or 0 for run in runs)
    to_come = "" if disk.needed == total else f", {gigabytes(disk.needed)} GB of them to come"
    return f"Checkpoints of all {len(runs):,} runs: {gigabytes(total)} GB{to_come}{least}; free: {gigabytes(disk.free)} GB"


def _memory(run: RunSummary) -> Iterator[str]:
    memory = run.memory
    kind = "memory" if run.device == "cpu" else "memory of each GPU" if run.gpus > 1 else "GPU memory"
    yield f"Peak {kind} of {run.id}, an estimate: {gigabytes(memory.total)} GB"
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        f"optimizer state ({run.optimizer})": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
    }
    width = max(map(len, parts))
    for name, size in parts.items():
        yield f"  {name:<{width}}  {gigabytes(size):>8} GB"
    yield f"  for rows of {memory.length:,} tokens ({memory.length_from})"
    if run.device != "cpu":
        yield "  CUDA's own half GB and fragmentation come on top; torch.compile takes less"


def _tasks(tasks: Sequence[TaskFacts]) -> Table:
    from rich.markup import escape

    table = _table("Evaluation tasks", ["task"], ["samples"])
    table.add_column("first prompt", overflow="fold")
    for task in tasks:
        table.add_row(escape(task.name), f"{task.samples:,}", escape(one_line(task.first_prompt or "", 200)))
    return table
