"""The scores of an experiment as lines of a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cruijff_kit import columns
from cruijff_kit.errors import printable
from cruijff_kit.replicates import Mean
from cruijff_kit.results import SUCCESS, Score
from cruijff_kit.status import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDE = 160  # columns of a terminal from which tokens, time and the place of the log are shown too
RIGHT = ("loss", "value", "stderr", "samples", "tokens", "time", "mean", "95 % interval", "sd", "n")


def print_table(title: str, rows: Iterator[Text], console: Console) -> None:
    """A table under its title."""
    console.print(title, style="bold", markup=False, highlight=False)
    if console.is_terminal:
        console.print(*rows, sep="\n", soft_wrap=True)
    else:  # has no styles, and rich would take as long as all else does
        console.file.writelines(f"{row.plain}\n" for row in rows)


def lines(scores: Sequence[Score], width: int, brief: bool = False) -> Iterator[Text]:
    """A line or more for each score; columns that have nothing in them are left out.

    Args:
        brief: the scores and nothing else.
    """
    names = parameter_names(scores)
    return _render([_cells(score, names, width >= WIDE, brief) for score in scores], width)


def mean_lines(means: Sequence[Mean], width: int) -> Iterator[Text]:
    """A line or more for each mean over seeds."""
    names = parameter_names(means)
    return _render([_mean_cells(mean, names) for mean in means], width)


def parameter_names(rows: Sequence[Score] | Sequence[Mean]) -> list[str]:
    """Of all rows, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.params))


def _cells(score: Score, names: Sequence[str], wide: bool, brief: bool) -> dict[str, str]:
    """What a row shows, by the heading of its column."""
    loss = {"loss": number(score.train_loss)}
    more = {"tokens": _text(score.tokens), "time": duration(score.time_s) if score.time_s is not None else "", "log": score.log}
    return {
        "run": score.run,
        **params_shown(score, names),
        **_place(score),
        "value": number(score.value),
        "stderr": number(score.stderr),
        "samples": _text(score.samples),
        **({} if brief else loss | more if wide else loss),
        "": score.note if score.status == SUCCESS else score.status,
    }


def _mean_cells(mean: Mean, names: Sequence[str]) -> dict[str, str]:
    interval = f"{number(mean.low)} to {number(mean.high)}" if mean.low is not None else ""
    figures = {"mean": number(mean.mean), "95 % interval": interval, "sd": number(mean.sd), "n": _text(mean.n)}
    return {"run": mean.run, **params_shown(mean, names), **_place(mean), **figures, "": ", ".join(filter(None, [f"{mean.missing} missing" if mean.missing else "", mean.note]))}


def params_shown(row: Score | Mean, names: Sequence[str]) -> dict[str, str]:
    """A text for each name, empty where the row has no such parameter."""
    return {name: shown(row.params[name]) if name in row.params else "" for name in names}


def _place(row: Score | Mean) -> dict[str, str]:
    return {"epoch": row.checkpoint.removeprefix("epoch_"), "task": row.task, "metric": f"{row.scorer} {row.metric}".strip()}


def shown(value: Any) -> str:
    """A parameter's value as experiment.yaml has it, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def number(value: float | None) -> str:
    """With four digits after the point, where that is not a whole number or a very small one."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _render(rows: Sequence[Mapping[str, str]], width: int) -> Iterator[Text]:
    if not rows:
        return iter(())
    headings = [name for name in rows[0] if not name or any(row[name] for row in rows)]
    cells = [[printable(row[name]) for name in headings] for row in rows]
    right = [place for place, name in enumerate(headings) if name in RIGHT]
    return columns.render(headings, cells, width=width, flexible=headings.index(""), right=right)
