"""The figures of a report that show how the runs were trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from cruijff_kit import report_charts
from cruijff_kit.replicates import SEED
from cruijff_kit.report_charts import MAX_COLOURS
from cruijff_kit.report_figures import Figure
from cruijff_kit.report_points import Variable, text, variables
from cruijff_kit.results_table import number

MAX_CURVES = 50
MAX_STEPS = 200  # of a curve
MAX_FIGURES = 3

Curve = Sequence[tuple[int, float]]
Metrics = Sequence[tuple[int, Mapping[str, float]]]  # of a training: steps, and what was logged there


def sample(runs: Sequence[str]) -> list[str]:
    """At most MAX_CURVES of them, evenly spread."""
    return [runs[place * len(runs) // MAX_CURVES] for place in range(MAX_CURVES)] if len(runs) > MAX_CURVES else list(runs)


def curves(metrics: Mapping[str, Metrics], params: Mapping[str, Mapping[str, Any]], of: int) -> list[Figure]:
    """The loss of each run against the step, coloured by one variable after the other; none where nothing was logged.

    Args:
        metrics: of the runs that are to be drawn.
        of: how many trainings there are.
    """
    found = {run: [(step, values["loss"]) for step, values in each if "loss" in values] for run, each in metrics.items()}
    found = {run: curve for run, curve in found.items() if any(math.isfinite(loss) for _, loss in curve)}
    shown = [params[run] for run in found]
    swept = [each for each in variables(shown) if len(each.values) <= MAX_COLOURS and all(each.name in values for values in shown)]
    legends = [variable for variable in swept if variable.name != SEED] or swept
    return [_figure(found, params, of, legend) for legend in legends[:MAX_FIGURES] or [None]] if found else []


def _figure(found: Mapping[str, Curve], params: Mapping[str, Mapping[str, Any]], of: int, legend: Variable | None) -> Figure:
    rows = [
        {"line": f"{run} {part}", "step": step, "value": loss, "colour": text(params[run][legend.name]) if legend else ""}
        for run, curve in found.items()
        for part, whole in enumerate(_unbroken(curve))
        for step, loss in thinned(whole, -(-len(curve) // MAX_STEPS))
    ]
    return Figure(report_charts.curves(rows, legend), _alternative(found, of), " ".join(_words(found, of)))


def _words(found: Mapping[str, Curve], of: int) -> Iterator[str]:
    yield f"Training loss against the step: a line for each of {_shown(found, of)}."
    if of > MAX_CURVES:
        yield f"They are a sample, evenly spread over the sweep, of {MAX_CURVES} at most."
    elif len(found) < of:
        yield "The others logged no loss."
    size = max(-(-len(curve) // MAX_STEPS) for curve in found.values())
    mean = f", or the mean of up to {size} logged ones" if size > 1 else ""
    yield f"A point is the loss of one step, as it was logged{mean}; there are no error bars."
    if broken := [run for run, curve in found.items() if not all(math.isfinite(loss) for _, loss in curve)]:
        yield f"Where the loss was no number there is no line: {', '.join(broken)}."


def _shown(found: Mapping[str, Curve], of: int) -> str:
    return f"{of} training{'' if of == 1 else 's'}" if len(found) == of else f"{len(found)} of {of:,} trainings"


def _alternative(found: Mapping[str, Curve], of: int) -> str:
    ends = [(next(loss for _, loss in reversed(curve) if math.isfinite(loss)), run) for run, curve in found.items()]
    (low, first), (high, last) = min(ends), max(ends)
    return f"Training loss against the step, of {_shown(found, of)}: the last values go from {number(low)} ({first}) to {number(high)} ({last})."


def _unbroken(curve: Curve) -> list[Curve]:
    """Its parts between steps whose loss is no number."""
    parts: list[list[tuple[int, float]]] = [[]]
    for step, loss in curve:
        if math.isfinite(loss):
            parts[-1].append((step, loss))
        else:
            parts.append([])
    return [part for part in parts if part]


def thinned(curve: Curve, size: int) -> list[tuple[float, float]]:
    """Means of `size` neighbours each."""
    parts = (curve[at : at + size] for at in range(0, len(curve), size))
    return [(fmean(step for step, _ in part), fmean(loss for _, loss in part)) for part in parts]
