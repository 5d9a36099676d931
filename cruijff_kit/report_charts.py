"""Values to SVG, by Altair and vl-convert: static, without script, and without a network. What is drawn is decided elsewhere."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cruijff_kit.report_points import CATEGORY, LOG, Variable, text

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 280, 190  # pixels of the area within the axes, which with them is as wide as a phone
PADDING = 18  # pixels beside the first and the last value
ONE = "#0072b2"
GREY, RED = "#6e6e6e", "#b00020"
# Of Okabe and Ito, for kinds (its yellow is too light for a line on white); of viridis, for what has an order, without its lightest part.
KINDS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
ORDERED = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#7fbc3a", "#b8a900")
MAX_COLOURS = len(KINDS)
MAX_TICKS = 12  # each value its own, up to so many
AS_NUMBER = "abs(datum.value) < 0.0001 && datum.value != 0 ? format(datum.value, '~e') : format(datum.value, '~g')"
MAX_WRITTEN = 8  # columns of a heat map that have room for a number


@dataclass(frozen=True)
class Scatter:
    """Scores against a variable.

    Args:
        title: above it; `y` is beside it.
        rows: `x`, `value`, `low`, `high`, `series` (from 0), `line` and `colour`; of a point without a score the same but the three numbers.
        each: `x`, `value`, `series` and `colour` of the runs that the points are means of.
        boxes: `x`, `low`, `q1`, `median`, `q3` and `high`, instead of rows.
        joined: whether lines join the points of a `line`.
        legend: the variable whose values are colours.
        baseline: value, low and high; None where there is none.
    """

    title: str
    x: Variable
    y: str
    rows: Sequence[Mapping[str, Any]] = ()
    each: Sequence[Mapping[str, Any]] = ()
    boxes: Sequence[Mapping[str, Any]] = ()
    joined: bool = False
    legend: Variable | None = None
    baseline: Mapping[str, Any] | None = None


def scatter(drawn: Scatter) -> str:
    """Points with their error bars, lines through those of a series, and the baseline as a dashed line."""
    import altair as alt

    drawn, data = _beside(drawn), _Data()
    x, y = _x(drawn.x), _y(drawn, "value")
    placed: dict[str, Any] = {"x": x, "color": _colour(drawn.legend)}
    if drawn.x.scale == CATEGORY and len({row["series"] for row in drawn.rows}) in range(2, MAX_COLOURS + 1):
        placed["xOffset"] = alt.XOffset(field="series", type="nominal")
    valued = [row for row in drawn.rows if "value" in row]
    with_bars = [row for row in valued if row["low"] is not None]
    missing = [row for row in drawn.rows if "value" not in row]
    layers = [*_baseline(drawn, data), *_boxes(drawn, x, data)]
    if drawn.each:
        layers.append(data(drawn.each).mark_circle(size=14, opacity=0.45).encode(y=y, **placed))
    if drawn.joined:
        layers.append(data(valued).mark_line(strokeWidth=1.2, opacity=0.7).encode(y=y, detail=alt.Detail(field="line", type="nominal"), **placed))
    if with_bars:
        layers.append(data(with_bars).mark_rule(strokeWidth=1.4).encode(y=_y(drawn, "low"), y2=alt.Y2(field="high"), **placed))
    if valued:
        layers.append(data(valued).mark_circle(size=42 if len(valued) < 60 else 18, opacity=1).encode(y=y, **placed))
    if missing:
        layers.append(data(missing).mark_text(text="×", size=15, color=RED).encode(y=alt.value(HEIGHT - 8), **{**placed, "color": alt.value(RED)}))
    return _svg(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=drawn.title), data.sets)


def is_beside(drawn: Scatter) -> bool:
    """Whether its series stand side by side, some pixels apart, where they would otherwise hide each other's bars."""
    return drawn.x.scale != CATEGORY and not drawn.boxes and 1 < len({row["series"] for row in drawn.rows}) <= MAX_COLOURS


def _beside(drawn: Scatter) -> Scatter:
    if not is_beside(drawn):
        return drawn
    count = len({row["series"] for row in drawn.rows})
    first, last = drawn.x.values[0], drawn.x.values[-1]
    pixel = min(5, 24 / (count - 1)) / (WIDTH - 2 * PADDING)

    def moved(row: Mapping[str, Any]) -> dict[str, Any]:
        share = (row["series"] - (count - 1) / 2) * pixel
        return {**row, "x": row["x"] * (last / first) ** share if drawn.x.scale == LOG else row["x"] + (last - first) * share}

    return replace(drawn, rows=[moved(row) for row in drawn.rows], each=[moved(row) for row in drawn.each])


def _boxes(drawn: Scatter, x: alt.X, data: _Data) -> list[alt.Chart]:
    if not drawn.boxes:
        return []
    import altair as alt

    chart = data(drawn.boxes)
    return [
        chart.mark_rule(color=ONE).encode(x=x, y=_y(drawn, "low"), y2=alt.Y2(field="high")),
        chart.mark_rule(color=ONE, strokeWidth=10, opacity=0.45).encode(x=x, y=_y(drawn, "q1"), y2=alt.Y2(field="q3")),
        chart.mark_circle(color=ONE, size=42, opacity=1).encode(x=x, y=_y(drawn, "median")),
    ]


def _baseline(drawn: Scatter, data: _Data) -> list[alt.Chart]:
    """A dashed line, its error as a band, and its name beside the plot, where no point is."""
    if drawn.baseline is None:
        return []
    import altair as alt

    chart, y = data([drawn.baseline]), _y(drawn, "value")
    layers = [
        chart.mark_rule(color=GREY, strokeDash=[5, 3], strokeWidth=1.3).encode(y=y),
        chart.mark_text(text="base", color=GREY, align="left", baseline="middle", size=11).encode(x=alt.value(WIDTH + 4), y=y),
    ]
    if drawn.baseline["low"] is not None:
        band = chart.mark_rect(color=GREY, opacity=0.13)
        layers.insert(0, band.encode(x=alt.value(0), x2=alt.value(WIDTH), y=_y(drawn, "low"), y2=alt.Y2(field="high")))
    return layers


def heat_map(x: Variable, y: Variable, title: str, metric: str, cells: Sequence[Mapping[str, Any]]) -> str:
    """A cell for each pair of values: `x`, `y` and `value`, which is None where there is no score."""
    import altair as alt

    data = _Data()
    numbers = [cell["value"] for cell in cells if cell["value"] is not None]
    middle = (min(numbers) + max(numbers)) / 2
    written = len(x.values) <= MAX_WRITTEN
    rows = [{**cell, "said": "×" if cell["value"] is None else f"{cell['value']:.3g}" if written else ""} for cell in cells]
    places = {
        "x": alt.X(field="x", type="ordinal", title=x.title, sort=[text(value) for value in x.values], axis=_category_axis(x)),
        "y": alt.Y(field="y", type="ordinal", title=y.title, sort=[text(value) for value in y.values][::-1], axis=alt.Axis(labelLimit=90)),
    }
    legend = alt.Legend(orient="bottom", title=metric, gradientLength=WIDTH - 20, titleLimit=WIDTH)
    colour = alt.Color(field="value", type="quantitative", scale=alt.Scale(scheme="viridis", zero=False, nice=False), legend=legend)
    full, empty = [row for row in rows if row["value"] is not None], [row for row in rows if row["value"] is None]
    layers = [data(full).mark_rect(stroke="white").encode(color=colour, **places)]
    for some, ink in (([row for row in full if row["value"] <= middle], "white"), ([row for row in full if row["value"] > middle], "black"), (empty, RED)):
        layers += [data(some).mark_text(color=ink, size=11).encode(text=alt.Text(field="said", type="nominal"), **places)] if some else []
    return _svg(alt.layer(*layers).properties(width=WIDTH, height=max(90, min(30 * len(y.values), 420)), title=title), data.sets)


def curves(rows: Sequence[Mapping[str, Any]], legend: Variable | None) -> str:
    """Lines: `line`, `step`, `value` and `colour`."""
    import altair as alt

    x = alt.X(field="step", type="quantitative", title="step", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(grid=False, tickMinStep=1, tickCount=6))
    y = alt.Y(field="value", type="quantitative", title="training loss", scale=alt.Scale(zero=False))
    line = {"x": x, "y": y, "color": _colour(legend, "stroke"), "detail": alt.Detail(field="line", type="nominal")}
    data = _Data()
    counts = Counter(row["line"] for row in rows)
    alone = [row for row in rows if counts[row["line"]] == 1]  # of which no line is drawn
    points = [data(alone).mark_circle(size=14).encode(**line)] if alone else []
    return _svg(alt.layer(data(rows).mark_line(strokeWidth=1.1, opacity=0.85).encode(**line), *points).properties(width=WIDTH, height=HEIGHT), data.sets)


class _Data:
    """The rows of a drawing's layers. Altair sees their names alone: it would look at every value (6.3: 30 µs each)."""

    def __init__(self) -> None:
        self.sets: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
        import altair as alt

        name = f"rows_{len(self.sets)}"
        self.sets[name] = [dict(row) for row in rows]
        return alt.Chart(alt.NamedData(name=name))


def _x(variable: Variable) -> alt.X:
    import altair as alt

    if variable.scale == CATEGORY:
        order = [text(value) for value in variable.values]
        return alt.X(field="x", type="nominal", title=variable.title, sort=order, scale=alt.Scale(domain=order, padding=0.4), axis=_category_axis(variable))
    ends, kind = [variable.values[0], variable.values[-1]], "log" if variable.scale == LOG else "linear"
    scale = alt.Scale(type=kind, domain=ends, padding=PADDING, nice=False, zero=False)
    axis = alt.Axis(values=_ticks(variable), labelExpr=AS_NUMBER, grid=False, labelOverlap="greedy", labelSeparation=6)
    return alt.X(field="x", type="quantitative", title=variable.title, scale=scale, axis=axis)


def _ticks(variable: Variable) -> list[float]:
    """At each value, where they are few; else round numbers."""
    first, last = variable.values[0], variable.values[-1]
    if len(variable.values) <= MAX_TICKS:
        return list(variable.values)
    if variable.scale == LOG:
        digits = (1,) if last / first > 100 else (1, 2, 5)
        decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
        return [digit * 10.0**decade for decade in decades for digit in digits if first <= digit * 10.0**decade <= last]
    step = 10 ** math.floor(math.log10((last - first) / 2))
    step *= next(factor for factor in (5, 2, 1) if (last - first) / (step * factor) >= 3 or factor == 1)
    return [step * number for number in range(math.ceil(first / step), math.floor(last / step) + 1)]


def _category_axis(variable: Variable) -> alt.Axis:
    import altair as alt

    slanted = sum(len(text(value)) + 2 for value in variable.values) > 48  # letters that fit beside each other
    return alt.Axis(labelAngle=-35 if slanted else 0, labelLimit=110, grid=False)


def _y(drawn: Scatter, field: str) -> alt.Y:
    """The axis from the lowest to the highest thing that is drawn: it need not begin at 0, because nothing is a bar."""
    import altair as alt

    every = [*drawn.rows, *drawn.each, *drawn.boxes, *([drawn.baseline] if drawn.baseline else [])]
    ends = [row[name] for row in every for name in ("value", "low", "high") if row.get(name) is not None]
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    return alt.Y(field=field, type="quantitative", title=drawn.y, scale=alt.Scale(domain=[low - margin, high + margin], zero=False, nice=False))


def _colour(legend: Variable | None, symbol: str = "circle") -> Any:
    import altair as alt

    if legend is None:
        return alt.value(ONE)
    names = [text(value) for value in legend.values]
    colours = KINDS if legend.scale == CATEGORY else [ORDERED[round(place * (MAX_COLOURS - 1) / max(1, len(names) - 1))] for place in range(len(names))]
    columns = 4 if max(map(len, names)) <= 10 else 1
    shown = alt.Legend(
        orient="bottom", title=legend.title, columns=columns, labelLimit=WIDTH, titleLimit=WIDTH, symbolOpacity=1, symbolType=symbol
    )
    return alt.Color(field="colour", type="nominal", scale=alt.Scale(domain=names, range=list(colours[: len(names)])), legend=shown)


def _svg(chart: alt.LayerChart, rows: Mapping[str, Any]) -> str:
    """The chart as SVG; nothing is fetched for it, from whatever its values say."""
    import altair as alt
    import vl_convert

    styled = chart.configure(
        aria=False, background="white", font="Arial, Helvetica, Liberation Sans, sans-serif",
        axis=alt.AxisConfig(
            labelFontSize=11, labelColor="#333", titleFontSize=12, titleFontWeight="normal", titleLimit=WIDTH, titlePadding=9, gridColor="#e4e4e4"
        ),
        legend=alt.LegendConfig(labelFontSize=11, titleFontSize=11, titleFontWeight="normal"),
        title=alt.TitleConfig(fontSize=12, anchor="start", frame="group", limit=WIDTH),
        view=alt.ViewConfig(stroke="#999"),
    )  # fmt: skip
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    drawn = vl_convert.vegalite_to_svg({**styled.to_dict(), "datasets": rows}, vl_version=version, allowed_base_urls=[])
    return re.sub(r"<[a-z][^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), drawn)  # to a hundredth of a pixel, and no text touched
