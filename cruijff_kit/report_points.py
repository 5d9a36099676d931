"""Scores as the figures of a report need them: what is swept, on which kind of axis, and which points a line may join. Values only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cruijff_kit.paths import BASELINE
from cruijff_kit.replicates import SEED, Mean, means
from cruijff_kit.results import SUCCESS, Score
from cruijff_kit.results_table import shown

LINEAR, LOG, CATEGORY = "linear", "log", "category"
LEAST_RATIO = {True: 10, False: 4}  # of the largest value to the smallest, on a log axis: of two values, and of more
NO_TEXT = re.compile(r"true|false|null|-?[\d.]+(e[-+]?\d+)?|NaN|-?Infinity", re.IGNORECASE)  # as `shown` writes what is no text
NOT_SHOWN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufffe\\uffff]")
_Row = TypeVar("_Row", Score, Mean)
MAX_LETTERS = 60  # of a name in a figure


@dataclass(frozen=True)
class Point:
    """What is drawn of a run, or of those that differ in their seed alone.

    Args:
        value: None where there is no score.
        low, high: the ends of its error bar; None where there is none.
        n: samples of the task, or seeds.
        expected: seeds that there should be.
    """

    params: Mapping[str, Any]
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    expected: int | None = None


@dataclass(frozen=True)
class Panel:
    """A metric of a task, for all runs at their last epoch.

    Args:
        key: task, scorer and metric.
        of_seeds: the points are means over seeds, and their bars 95 % confidence intervals; else a run, and its standard error over samples.
        each: the runs that the means are of.
    """

    key: tuple[str, str, str]
    points: Sequence[Point]
    baseline: Point | None
    of_seeds: bool = False
    each: Sequence[Point] = ()

    @property
    def task(self) -> str:
        return short(self.key[0])

    @property
    def metric(self) -> str:
        return short(" ".join(self.key[1:]).strip())

    @property
    def title(self) -> str:
        return f"{self.task}: {self.metric}"


@dataclass(frozen=True)
class Variable:
    """A parameter that differs between runs, with those that always change along with it."""

    name: str
    values: Sequence[Any]
    scale: str
    along: Sequence[str] = ()

    @property
    def title(self) -> str:
        others = short(", ".join(self.along))
        return f"{short(self.name)} (with {others})" if others else short(self.name)

    def place(self, params: Mapping[str, Any]) -> Any:
        """Where a point with these parameters lies on the axis: a number, or a text; None where it lacks the parameter."""
        if self.name not in params:
            return None
        return text(params[self.name]) if self.scale == CATEGORY else params[self.name]


def text(value: Any) -> str:
    """A parameter's value, in a figure: never the same for two values, so that it is not cut, and a text that reads as a number is in quotes."""
    return _one_line(json.dumps(value) if isinstance(value, str) and NO_TEXT.fullmatch(value) else shown(value))


def short(words: str) -> str:
    """A name, in a figure."""
    return _one_line(words if len(words) <= MAX_LETTERS else f"{words[: MAX_LETTERS - 1]}…")


def _one_line(words: str) -> str:
    return showable(words).replace("\n", "\\n").replace("\t", "\\t")


def showable(words: str) -> str:
    """`words` with what neither HTML nor XML may hold written out: control characters, and halves of letters."""
    return NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), words.replace("\r\n", "\n"))


def panels(scores: Sequence[Score]) -> list[Panel]:
    """One for each metric of each task that has a score, in their order."""
    last = at_last_epoch(scores)
    summed = means(last)
    drawn = summed if variables([mean.params for mean in summed]) else []  # seeds alone may differ
    return [_panel(key, _of_metric(last, key), _of_metric(drawn, key)) for key in metric_keys(last)]


def _of_metric(rows: Sequence[_Row], key: tuple[str, str, str]) -> list[_Row]:
    return [row for row in rows if metric_key(row) == key]


def metric_keys(rows: Iterable[Score] | Iterable[Mean]) -> list[tuple[str, str, str]]:
    """Of all rows that have a metric, in their order."""
    return list(dict.fromkeys(metric_key(row) for row in rows if row.metric))


def metric_key(row: Score | Mean) -> tuple[str, str, str]:
    """What tells a metric from those of other tasks and scorers."""
    return row.task, row.scorer, row.metric


def _panel(key: tuple[str, str, str], scores: Sequence[Score], summed: Sequence[Mean]) -> Panel:
    runs = [of_score(score) for score in scores if score.run != BASELINE]
    baseline = next((of_score(score) for score in scores if score.run == BASELINE), None)
    points = [_of_mean(mean) for mean in summed if mean.run != BASELINE]
    return Panel(key, points or runs, baseline, bool(points), runs if points else ())


def of_score(score: Score) -> Point:
    """A run by itself: its bar is one standard error to each side."""
    value = score.value if score.status == SUCCESS and score.value is not None and math.isfinite(score.value) else None
    error = score.stderr if value is not None and score.stderr is not None and math.isfinite(score.stderr) else None
    low, high = (None, None) if value is None or error is None else (value - error, value + error)
    return Point(score.params, value, low, high, score.samples)


def _of_mean(mean: Mean) -> Point:
    return Point(mean.params, mean.mean, mean.low, mean.high, mean.n, mean.n + mean.missing)


def epoch_number(score: Score) -> int:
    """-1 where only the last is evaluated."""
    return int(score.checkpoint.removeprefix("epoch_") or -1)


def at_last_epoch(scores: Sequence[Score]) -> list[Score]:
    """Of each run those of the last epoch that was to be evaluated, whether it was or not."""
    last: dict[str, int] = {}
    for score in scores:
        last[score.run] = max(last.get(score.run, -1), epoch_number(score))
    return [score for score in scores if epoch_number(score) == last[score.run]]


def by_epoch(scores: Sequence[Score]) -> list[Panel]:
    """One for each metric of each task, with the epoch as a parameter; none where no run was evaluated at several epochs."""
    if len({score.checkpoint for score in scores if score.checkpoint}) < 2:
        return []
    found = []
    for key in metric_keys(scores):
        mine = _of_metric(scores, key)
        points = [Point({**score.params, "epoch": epoch_number(score)}, **_drawn(score)) for score in mine if score.run != BASELINE and score.checkpoint]
        found.append(replace(_panel(key, mine, []), points=points))
    return found


def _drawn(score: Score) -> dict[str, Any]:
    point = of_score(score)
    return {"value": point.value, "low": point.low, "high": point.high, "n": point.n}


def variables(points: Iterable[Mapping[str, Any]]) -> list[Variable]:
    """The parameters that differ between points; what always changes along with an earlier one goes with it."""
    points = list(points)
    names = dict.fromkeys(name for params in points for name in params)
    values = {name: _distinct(params[name] for params in points if name in params) for name in names}
    swept = [name for name in names if len(values[name]) > 1]
    leaders: dict[str, list[str]] = {}
    for name in swept:
        leader = next((other for other in leaders if _go_together(points, other, name)), None)
        leaders.setdefault(name if leader is None else leader, []).extend([] if leader is None else [name])
    return [Variable(name, _in_order(values[name]), CATEGORY if name == SEED else axis(values[name]), along) for name, along in leaders.items()]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({_id(value): value for value in values}.values())


def _id(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _go_together(points: Sequence[Mapping[str, Any]], one: str, other: str) -> bool:
    """Whether each value of the one comes with one value of the other, and the reverse."""
    pairs = {(_id(params.get(one)), _id(params.get(other))) for params in points}
    return len({first for first, _ in pairs}) == len(pairs) == len({second for _, second in pairs})


def axis(values: Sequence[Any]) -> str:
    """The kind of axis for these values: a log one where they are more evenly spaced on it, as powers are."""
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) for value in values):
        return CATEGORY
    numbers = sorted(values)
    if numbers[0] <= 0 or numbers[-1] / numbers[0] < LEAST_RATIO[len(numbers) == 2]:
        return LINEAR
    return LOG if len(numbers) == 2 or _evenness([math.log(number) for number in numbers]) > _evenness(numbers) else LINEAR


def _evenness(numbers: Sequence[float]) -> float:
    gaps = [after - before for before, after in zip(numbers, numbers[1:])]
    return min(gaps) / max(gaps)


def _in_order(values: Sequence[Any]) -> list[Any]:
    return list(values) if axis(values) == CATEGORY else sorted(values)


def series(points: Sequence[Point], others: Sequence[Variable]) -> list[int]:
    """For each point the number of its series: those of one series have the same values of `others`."""
    numbers: dict[str, int] = {}
    held = [[[point.params[other.name]] if other.name in point.params else [] for other in others] for point in points]
    return [numbers.setdefault(_id(values), len(numbers)) for values in held]
