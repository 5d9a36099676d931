"""The tables of scores of a report: cells as text, none of it escaped yet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cruijff_kit.replicates import Mean
from cruijff_kit.report_points import metric_key, metric_keys
from cruijff_kit.results import NOT_EVALUATED, SUCCESS, Score
from cruijff_kit.results_table import number, parameter_names, params_shown, shown

LONG = 32
NONE = "×"  # in place of a score, as in the figures


@dataclass(frozen=True)
class Table:
    """Args:
        right: the columns that are flush right.
        about: what the reader has to know of its cells.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = field(default_factory=frozenset)
    about: str = ""

    @property
    def letters(self) -> int:
        """About how wide it is, where cells of LONG letters and more are folded, and headings between words."""
        cells = [[min(LONG, max(len(row[place]) for row in self.rows))] if self.rows else [] for place in range(len(self.headings))]
        words = [max(map(len, heading.split()), default=0) for heading in self.headings]
        return sum(max([word, *cell]) + 3 for word, cell in zip(words, cells))


def scores(found: Sequence[Score]) -> Table:
    """A row for each run and epoch, a column for each metric of a task."""
    names, keys = parameter_names(found), metric_keys(found)
    counts = {key: sorted({score.samples for score in found if metric_key(score) == key and score.samples is not None}) for key in keys}
    headings = ["run", *names, "epoch", "training loss", *(_heading(key, counts[key]) for key in keys), "note"]
    rows = [_row(rows, names, counts) for rows in _by_run(found)]
    return without_empty(Table(headings, rows, frozenset(range(1, len(headings) - 1)), SCORES))


SCORES = "Score ± its standard error over the n samples of the task, where the log has one. The training loss is that of the last step that was logged."


def _heading(key: tuple[str, str, str], counts: Sequence[int]) -> str:
    """With n, where it is the same for all."""
    task, *metric = key
    return f"{task}: {' '.join(metric).strip()}{f', n = {counts[0]}' if len(counts) == 1 else ''}"


def _by_run(found: Iterable[Score]) -> list[list[Score]]:
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in found:
        groups.setdefault((score.run, score.checkpoint), []).append(score)
    return list(groups.values())


def _row(rows: Sequence[Score], names: Sequence[str], counts: Mapping[tuple[str, str, str], Sequence[int]]) -> list[str]:
    first, by_metric = rows[0], {metric_key(score): score for score in rows}
    cells = [_cell(by_metric.get(key), len(numbers) > 1) for key, numbers in counts.items()]
    notes = dict.fromkeys(score.note if score.status == SUCCESS else score.status for score in rows)
    return [first.run, *params_shown(first, names).values(), first.checkpoint.removeprefix("epoch_"), number(first.train_loss), *cells, "; ".join(filter(None, notes))]


def _cell(score: Score | None, with_n: bool) -> str:
    if score is None or score.status != SUCCESS or score.value is None:
        return NONE
    error = f" ± {number(score.stderr)}" if score.stderr is not None else ""
    return f"{number(score.value)}{error}{f' (n = {score.samples})' if with_n and score.samples is not None else ''}"


def means(summed: Sequence[Mean]) -> Table:
    """A row for each point of the sweep and epoch, seeds aside, a column for each metric of a task."""
    names, keys = parameter_names(summed), metric_keys(summed)
    rows: dict[tuple[object, ...], dict[tuple[str, str, str], Mean]] = {}
    for mean in summed:
        rows.setdefault((mean.run, *params_shown(mean, names).values(), mean.checkpoint.removeprefix("epoch_")), {})[metric_key(mean)] = mean
    wanted = max(mean.n + mean.missing for mean in summed)
    headings = ["run", *names, "epoch", *(_heading(key, [wanted]) for key in keys), "note"]
    cells = [
        [*map(str, place), *(_mean_cell(by_metric.get(key), wanted) for key in keys), "; ".join(dict.fromkeys(mean.note for mean in by_metric.values() if mean.note))]
        for place, by_metric in rows.items()
    ]
    return without_empty(Table(headings, cells, frozenset(range(1, len(headings) - 1)), MEANS))


MEANS = "Means of runs that differ in their seed alone, over n seeds, in brackets with their 95 % confidence interval by Student's t."


def _mean_cell(mean: Mean | None, wanted: int) -> str:
    if mean is None or mean.mean is None:
        return NONE
    interval = f" [{number(mean.low)}, {number(mean.high)}]" if mean.low is not None else ""
    return f"{number(mean.mean)}{interval}{f' (n = {mean.n})' if mean.n != wanted else ''}"


def without_empty(table: Table) -> Table:
    """Without the columns that have nothing in them."""
    full = [place for place in range(len(table.headings)) if any(row[place] for row in table.rows)]
    right = frozenset(new for new, old in enumerate(full) if old in table.right)
    return Table([table.headings[place] for place in full], [[row[place] for place in full] for row in table.rows], right, table.about)


def missing(found: Sequence[Score], evaluated: bool) -> Table:
    """The points without a score, with the reason; where nothing is to be evaluated, those whose training failed."""
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in found:
        for reason in _reason(score):
            if evaluated or reason != NOT_EVALUATED:
                groups.setdefault((score.run, score.checkpoint, reason), []).append(score)
    rows = [[run, _point(some[0]), epoch.removeprefix("epoch_"), _tasks(some), reason] for (run, epoch, reason), some in groups.items()]
    return without_empty(Table(["run", "parameters", "epoch", "tasks", "reason"], rows))


def _reason(score: Score) -> Iterator[str]:
    if score.status != SUCCESS:
        yield score.status
    elif score.value is None or not math.isfinite(score.value):
        yield f"its score is no number: {score.value}"


def _point(score: Score) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in score.params.items())


def _tasks(rows: Iterable[Score]) -> str:
    return ", ".join(dict.fromkeys(score.task for score in rows if score.task))
