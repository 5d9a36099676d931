"""The figures of a report: what each shows, in a drawing, in a caption, and in words for who cannot see it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, quantiles
from typing import Any

from cruijff_kit import report_charts
from cruijff_kit.report_charts import MAX_COLOURS, Scatter
from cruijff_kit.report_points import CATEGORY, Panel, Point, Variable, by_epoch, panels, series, short, text, variables
from cruijff_kit.results import Score
from cruijff_kit.results_table import number

MAX_POINTS = 150  # in a figure, one by one and with error bars
MAX_DOTS = 200  # of the runs that they are means of
MAX_BOXES = 40
MAX_PANELS = 20  # metrics that are drawn
MAX_FIGURES = 12  # of a metric
MAX_COLUMNS = 20  # of a heat map, and lines


@dataclass(frozen=True)
class Figure:
    """Args:
        svg: a whole document.
        alternative: a sentence in place of the drawing.
        caption: what the marks mean, with what their error bars are and n.
    """

    svg: str
    alternative: str
    caption: str


def of_scores(scores: Sequence[Score]) -> list[tuple[str, list[Figure]]]:
    """For each metric of each task: against each variable and against the epoch, and over each pair of variables."""
    epochs = {panel.key: panel for panel in by_epoch(scores)}
    drawn = [panel for panel in panels(scores)[:MAX_PANELS] if any(point.value is not None for point in panel.points)]
    found = [(panel.title, list(itertools.islice(_of_panel(panel, epochs.get(panel.key)), MAX_FIGURES))) for panel in drawn]
    return [(title, figures) for title, figures in found if figures]


def left_out(scores: Sequence[Score]) -> list[str]:
    """What of_scores does not draw."""
    every = panels(scores)
    swept = [variables([point.params for point in panel.points]) for panel in every]
    said = {
        f"{len(every) - MAX_PANELS} more metrics are in the table alone.": len(every) > MAX_PANELS,
        f"Of each metric there are at most {MAX_FIGURES} figures: not all pairs of variables have a heat map.": any(len(each) > 4 for each in swept),
        f"Variables of more than {MAX_COLUMNS} values have no heat map.": any(len(one.values) > MAX_COLUMNS for each in swept if len(each) > 1 for one in each),
    }
    return [words for words, is_so in said.items() if is_so]


def _of_panel(panel: Panel, by_epoch: Panel | None) -> Iterator[Figure]:
    swept = variables([point.params for point in panel.points])
    scored = [point.params for point in panel.points if point.value is not None]
    shown = [variable for variable in swept if any(variable.name in params for params in scored)]
    yield from (figure(panel, variable, [other for other in swept if other is not variable]) for variable in shown)
    if by_epoch is not None:
        swept_too = variables([point.params for point in by_epoch.points])
        yield from (figure(by_epoch, each, [other for other in swept_too if other is not each]) for each in swept_too if each.name == "epoch")
    yield from _maps(panel)


def figure(panel: Panel, variable: Variable, others: Sequence[Variable]) -> Figure:
    """A metric against one variable; `others` differ between the points too."""
    placed, each = ([point for point in points if variable.place(point.params) is not None] for points in (panel.points, panel.each))
    legend = _legend(placed, others)
    rows = [_row(point, number, variable, legend) for point, number in zip([*placed, *each], series([*placed, *each], others))]
    rows, dots = rows[: len(placed)], [row for row in rows[len(placed) :] if "value" in row]
    dots = dots if len(dots) <= MAX_DOTS else []
    valued = [row for row in rows if "value" in row]
    baseline = _ends(panel.baseline) if panel.baseline is not None and panel.baseline.value is not None else None
    whole = Scatter(panel.task, variable, panel.metric, _in_lines(rows), dots, (), _is_joined(variable, valued), legend, baseline)
    drawn, instead = _fewer(whole, valued)
    marks = instead or _marks(panel, placed, bool(dots))
    words = [*marks, *_line_words(drawn, others), *_baseline_words(panel.baseline), *_gaps(panel, placed, variable)]
    return Figure(report_charts.scatter(drawn), _alternative(panel, variable, placed), " ".join([f"{panel.title} against {variable.title}.", *words]))


def _legend(placed: Sequence[Point], others: Sequence[Variable]) -> Variable | None:
    """The variable that colours stand for: of those that all points have, the one that tells most of them apart."""
    able = [other for other in others if len(other.values) <= MAX_COLOURS and all(other.name in point.params for point in placed)]
    return max(able, key=lambda other: len(other.values), default=None)


def _is_joined(variable: Variable, valued: Sequence[Mapping[str, Any]]) -> bool:
    """Whether lines make sense: on an axis of numbers, through one point at each place, and through more than one."""
    places = {(row["x"], row["series"]) for row in valued}
    return variable.scale != CATEGORY and len(places) == len(valued) > len({row["series"] for row in valued})


def _in_lines(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`rows` with the line that each is on: a series, broken where a point has no score."""
    gaps: dict[int, list[Any]] = {}
    for row in rows:
        if "value" not in row:
            gaps.setdefault(row["series"], []).append(row["x"])
    return [{**row, "line": f"{row['series']} {sum(x < row['x'] for x in gaps.get(row['series'], ()))}"} for row in rows]


def _row(point: Point, number: int, variable: Variable, legend: Variable | None) -> dict[str, Any]:
    colour = text(point.params[legend.name]) if legend else ""
    return {"x": variable.place(point.params), "series": number, "colour": colour, **(_ends(point) if point.value is not None else {})}


def _ends(point: Point) -> dict[str, Any]:
    return {"value": point.value, "low": point.low, "high": point.high}


def _fewer(drawn: Scatter, valued: Sequence[Mapping[str, Any]]) -> tuple[Scatter, list[str]]:
    """Boxes instead of more points than anyone could tell apart, or points without bars, and the words that say so."""
    if len(valued) <= MAX_POINTS:
        return drawn, []
    at: dict[Any, list[float]] = {}
    for row in valued:
        at.setdefault(row["x"], []).append(row["value"])
    if len(at) <= MAX_BOXES:
        boxes = [{"x": x, **_box(values)} for x, values in at.items()]
        count = _span([len(values) for values in at.values()])
        said = f"{len(valued):,} points, summed up at each value ({count} points): the dot is their median, the thick bar holds the middle half, "
        missing = [row for row in drawn.rows if "value" not in row]
        return replace(drawn, rows=missing, each=(), boxes=boxes, joined=False, legend=None), [said + "the thin one all of them; none is an error bar."]
    rows = [{**row, "low": None, "high": None} for row in drawn.rows]
    return replace(drawn, rows=rows, each=(), joined=False), [f"{len(valued):,} points, which are too many for error bars."]


def _box(values: Sequence[float]) -> dict[str, float]:
    q1, median, q3 = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"low": min(values), "q1": q1, "median": median, "q3": q3, "high": max(values)}


def _marks(panel: Panel, placed: Sequence[Point], with_dots: bool) -> Iterator[str]:
    """What a point is, and its bar."""
    valued = [point for point in placed if point.value is not None]
    count = _span([point.n for point in valued if point.n is not None])
    if panel.of_seeds:
        yield f"Points: means over n = {count} seeds{', which are the small dots' if with_dots else ''}."
        if any(point.low is not None for point in valued):
            yield "Bars: 95 % confidence interval of the mean (Student's t)."
        if any(point.n == 1 for point in valued):
            yield "A point of one seed has no bar."
    elif any(point.low is not None for point in valued):
        yield f"Bars: ± 1 standard error of the task over its n = {count} samples."
    else:
        yield f"No bars: the log has no standard error of this metric (n = {count} samples)."


def _span(numbers: Sequence[int]) -> str:
    if not numbers:
        return "an unknown number of"
    return f"{min(numbers):,}" if min(numbers) == max(numbers) else f"{min(numbers):,} to {max(numbers):,}"


def _line_words(drawn: Scatter, others: Sequence[Variable]) -> Iterator[str]:
    """What lines and colours tell apart."""
    if drawn.joined:
        yield f"Lines join points that differ in {drawn.x.title} alone." if others else "The line joins neighbouring points."
    if report_charts.is_beside(drawn):
        yield "Points at one value stand side by side."
    rest = [other.title for other in others if other is not drawn.legend]
    if rest and drawn.legend:
        yield f"Of one colour they differ in {', '.join(rest)}."
    elif rest and drawn.joined:
        yield f"All have one colour: there are more than {MAX_COLOURS} values of {' and of '.join(rest)}."


def _baseline_words(baseline: Point | None) -> Iterator[str]:
    if baseline is None or baseline.value is None:
        return
    band = "" if baseline.low is None else f" (band: ± 1 standard error over its n = {_span([baseline.n] if baseline.n else [])} samples)"
    yield f"Dashed: base, the untouched model, {number(baseline.value)}{band}."


def _gaps(panel: Panel, placed: Sequence[Point], variable: Variable) -> Iterator[str]:
    """What the figure does not show, so that nobody takes it for all there is."""
    if missing := sum(point.value is None for point in placed):
        yield f"×: {missing} point{'' if missing == 1 else 's'} without a score; the reasons are under “Missing”."
    if lacking := sum((point.expected or 0) - (point.n or 0) for point in placed if point.value is not None and panel.of_seeds):
        yield f"{lacking} of the seeds {'has' if lacking == 1 else 'have'} no score."
    if elsewhere := len(panel.points) - len(placed):
        yield f"Not shown: {elsewhere} without a value of {short(variable.name)}."


def _alternative(panel: Panel, variable: Variable, placed: Sequence[Point]) -> str:
    valued = [point for point in placed if point.value is not None]
    if not valued:
        return f"{panel.title} against {variable.title}: no point has a score."
    low, high = min(valued, key=lambda point: point.value or 0), max(valued, key=lambda point: point.value or 0)
    base = f" The untouched model has {number(panel.baseline.value)}." if panel.baseline is not None and panel.baseline.value is not None else ""
    missing = f" {len(placed) - len(valued)} of {len(placed)} points have no score." if len(valued) < len(placed) else ""
    ends = f"from {number(low.value)} ({_where(low)}) to {number(high.value)} ({_where(high)})" if low.value != high.value else f"all {number(low.value)}"
    return f"{panel.title} against {variable.title}: {len(valued)} points, {ends}.{base}{missing}"


def _where(point: Point) -> str:
    return ", ".join(f"{short(name)}={text(value)}" for name, value in point.params.items()) or "no parameters"


def _maps(panel: Panel) -> Iterator[Figure]:
    found = variables([point.params for point in panel.points])
    for y, x in itertools.combinations(found, 2):
        others = [other for other in found if other not in (x, y)]
        made = _map(panel, x, y, others) if max(len(x.values), len(y.values)) <= MAX_COLUMNS else None
        if made is not None:
            yield made


def _map(panel: Panel, x: Variable, y: Variable, others: Sequence[Variable]) -> Figure | None:
    """None where no cell has a score."""
    cells = _cells(panel, x, y, others)
    full = [cell for cell in cells if cell["value"] is not None]
    if not full:
        return None
    best = max(full, key=lambda cell: cell["value"])
    where = f"{panel.title} over {x.title} and {y.title}"
    place = f"{short(x.name)}={best['x']}, {short(y.name)}={best['y']}"
    alternative = f"Heat map of {where}: highest {number(best['value'])} at {place}; {len(full)} of {len(cells)} cells have a score."
    caption = " ".join([f"{where}.", *_cell_words(panel, cells, full, len(x.values) * len(y.values))])
    return Figure(report_charts.heat_map(x, y, panel.task, panel.metric, cells), alternative, caption)


def _cells(panel: Panel, x: Variable, y: Variable, others: Sequence[Variable]) -> list[dict[str, Any]]:
    """Those that the sweep has: `x`, `y`, `value`, the number of points, and how many seeds each of them is of."""
    placed = [point for point in panel.points if x.name in point.params and y.name in point.params]
    ones, held = series(placed, others), {}
    for point, one in zip(placed, ones):
        held.setdefault((text(point.params[x.name]), text(point.params[y.name])), []).append((point, one))
    return [
        {"x": column, "y": line, "value": _cell(points, set(ones)), "points": len(points), "seeds": [point.n or 0 for point, _ in points]}
        for (column, line), points in held.items()
    ]


def _cell(points: Sequence[tuple[Point, int]], every: set[int]) -> float | None:
    """The mean over the other variables, where every one of their values has a score: a part of them would be compared with the whole."""
    values = [point.value for point, _ in points if point.value is not None]
    return fmean(values) if len(values) == len(points) and {one for _, one in points} == every else None


def _cell_words(panel: Panel, cells: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]], room: int) -> Iterator[str]:
    counts = [cell["points"] for cell in full]
    if panel.of_seeds:
        yield f"Means over n = {_span([count for cell in full for count in cell['seeds']])} seeds."
    if max(counts) > 1:
        yield f"A cell is the mean over the values of the other variables (n = {_span(counts)} points)."
    if len(full) < len(cells):
        yield "×: a score is missing, or one of those that the mean would be of."
    if len(cells) < room:
        yield "Empty: no such point in the sweep."
