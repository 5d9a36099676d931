"""What the figures of a report show of scores: axes, lines, error bars and the words beside them."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

import pytest

from cruijff_kit import report_figures, report_points, report_training
from cruijff_kit.report_figures import Figure
from cruijff_kit.report_points import CATEGORY, LINEAR, LOG, Point, Variable
from cruijff_kit.results import Score


def score(run: str, params: Mapping[str, Any], value: float | None, **more: Any) -> Score:
    known = {"task": "qa", "scorer": "match", "metric": "accuracy", "stderr": 0.04, "samples": 40, "status": "success"}
    return Score(run, params, value=value, **{**known, **more})


def sweep(values: Mapping[str, list[Any]], value: Any = lambda number: number / 100) -> list[Score]:
    points = [dict(zip(values, point)) for point in itertools.product(*values.values())]
    return [score(f"run_{number:03}", params, value(number)) for number, params in enumerate(points)]


def figures(scores: list[Score]) -> list[Figure]:
    """All of those of one metric."""
    ((_, shown),) = report_figures.of_scores(scores)
    return shown


def texts(svg: str) -> list[str]:
    """Each text of the drawing, which has to be well-formed."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def steps(svg: str) -> int:
    """How many pairs of neighbouring points a line joins."""
    groups = re.findall(r'<g class="mark-line[^>]*>(.*?)</g>', svg)
    return sum(path.count("L") for group in groups for path in re.findall(r' d="([^"]*)"', group))


def dots(svg: str) -> list[tuple[float, float]]:
    """Where the points are, from left to right, in pixels; y grows downwards."""
    (group,) = re.findall(r'<g class="mark-symbol role-mark[^>]*>(.*?)</g>', svg)
    return sorted((float(x), float(y)) for x, y in re.findall(r"translate\(([-.\d]+),([-.\d]+)\)", group))


def bars(svg: str) -> list[tuple[float, float, float]]:
    """The error bars, from left to right: their place, and where they begin and end."""
    found = re.findall(r'<line transform="translate\(([-.\d]+),([-.\d]+)\)" x2="0" y2="([-.\d]+)"[^>]*stroke-width="1.4"', svg)
    return sorted((float(x), *sorted((float(y), float(y) + float(height)))) for x, y, height in found)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([8, 16, 32, 64], LOG),
        ([1e-5, 3e-5, 1e-4], LOG),
        ([1e-5, 1e-3], LOG),
        ([4, 16, 256], LOG),
        ([8, 16], LINEAR),
        ([1, 2, 3, 4], LINEAR),
        ([1, 5, 10], LINEAR),
        ([0, 0.1, 0.2], LINEAR),
        ([-10, 1, 100], LINEAR),
        (["bf16", "fp32"], CATEGORY),
        ([True, False], CATEGORY),
        ([8, None], CATEGORY),
        ([1.0, math.inf], CATEGORY),
        ([{"a": 1}, {"a": 2}], CATEGORY),
    ],
)
def test_numbers_have_an_axis_of_numbers_and_powers_a_logarithmic_one(values, kind):
    assert report_points.axis(values) == kind


def test_parameters_that_always_change_together_are_one_variable():
    params = [{"lora_rank": rank, "lora_alpha": 2 * rank, "dtype": "bf16", "dropout": dropout} for rank in (16, 8) for dropout in (0.1, 0.2)]
    rank, dropout = report_points.variables(params)
    assert rank == Variable("lora_rank", [8, 16], LINEAR, ["lora_alpha"])
    assert rank.title == "lora_rank (with lora_alpha)"
    assert dropout == Variable("dropout", [0.1, 0.2], LINEAR, [])


def test_a_seed_is_no_quantity():
    (seed,) = report_points.variables([{"seed": 1}, {"seed": 2}, {"seed": 100}])
    assert seed.scale == CATEGORY


def test_a_series_has_all_equal_but_what_the_axis_shows():
    points = [Point({"rank": 1, "rate": 1}, 0.1), Point({"rank": 2, "rate": 1}, 0.2), Point({"rank": 1, "rate": None}, 0.3), Point({"rank": 1}, 0.4)]
    assert report_points.series(points, [Variable("rate", [1], LINEAR)]) == [0, 0, 1, 2]


def test_one_variable_is_one_figure_that_says_what_its_bars_are():
    (drawn,) = figures([score("base", {}, 0.2), *sweep({"lora_rank": [8, 16, 32]}, lambda number: 0.3 + number / 10)])
    assert drawn.caption == (
        "qa: match accuracy against lora_rank. Bars: ± 1 standard error of the task over its n = 40 samples. The line joins neighbouring points. "
        "Dashed: base, the untouched model, 0.2000 (band: ± 1 standard error over its n = 40 samples)."
    )
    assert drawn.alternative == (
        "qa: match accuracy against lora_rank: 3 points, from 0.3000 (lora_rank=8) to 0.5000 (lora_rank=32). The untouched model has 0.2000."
    )
    assert {"8", "16", "32", "lora_rank", "match accuracy", "qa", "base"} <= set(texts(drawn.svg))
    assert steps(drawn.svg) == 2


def test_a_bar_is_one_standard_error_to_each_side_on_the_scale_of_the_points():
    (drawn,) = figures(sweep({"lora_rank": [8, 16, 32]}, lambda number: 0.3 + number / 10))
    tenth = dots(drawn.svg)[0][1] - dots(drawn.svg)[1][1]
    for (x, y), (place, top, bottom) in zip(dots(drawn.svg), bars(drawn.svg), strict=True):
        assert (place, y - top, bottom - y) == pytest.approx((x, 0.4 * tenth, 0.4 * tenth), abs=0.1)


def test_powers_are_as_far_from_each_other():
    (drawn,) = figures(sweep({"lora_rank": [8, 16, 32, 64]}))
    places = [x for x, _ in dots(drawn.svg)]
    assert [after - before for before, after in zip(places, places[1:])] == pytest.approx([81.33] * 3, abs=0.1)


@pytest.mark.parametrize("ranks", [[8, 16, 64, 128], [1, 2, 3, 4]])
def test_two_series_are_the_same_pixels_apart_everywhere(ranks):
    against_rank, *_ = figures(sweep({"lora_rank": ranks, "dtype": ["bf16", "fp32"]}))
    places = [x for x, _ in dots(against_rank.svg)]
    assert [after - before for before, after in zip(places[::2], places[1::2])] == pytest.approx([5] * 4, abs=0.1)


def test_a_missing_score_is_marked_and_no_line_goes_over_it():
    scores = sweep({"lora_rank": [8, 16, 32, 64]}, lambda number: None if number == 2 else 0.5)
    scores[2] = score("run_002", {"lora_rank": 32}, None, status="training failed: no luck")
    (drawn,) = figures(scores)
    assert "×: 1 point without a score; the reasons are under “Missing”." in drawn.caption
    assert drawn.alternative == "qa: match accuracy against lora_rank: 3 points, all 0.5000. 1 of 4 points have no score."
    assert texts(drawn.svg).count("×") == 1
    assert steps(drawn.svg) == 1  # from 8 to 16, and none to 64


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_no_number_is_drawn_as_missing(value):
    (drawn,) = figures(sweep({"lora_rank": [8, 16, 32]}, lambda number: value if number == 1 else 0.5))
    assert texts(drawn.svg).count("×") == 1
    assert "NaN" not in drawn.svg and "nan" not in drawn.svg


def test_a_metric_without_a_single_score_has_no_figure():
    assert report_figures.of_scores(sweep({"lora_rank": [8, 16]}, lambda number: None)) == []


def test_what_is_not_swept_has_no_figure():
    assert report_figures.of_scores([score("run_000", {}, 0.5)]) == []


def test_two_variables_are_two_figures_and_a_heat_map():
    against_rank, against_rate, heat = figures(sweep({"lora_rank": [8, 16, 32], "learning_rate": [1e-4, 1e-3]}))
    assert steps(against_rank.svg) == 4 and steps(against_rate.svg) == 3
    assert "Lines join points that differ in lora_rank alone. Points at one value stand side by side." in against_rank.caption
    assert {"0.0001", "0.001", "learning_rate"} <= set(texts(against_rank.svg))
    assert heat.caption == "qa: match accuracy over learning_rate and lora_rank."
    assert heat.alternative == (
        "Heat map of qa: match accuracy over learning_rate and lora_rank: highest 0.0500 at learning_rate=0.001, lora_rank=32; 6 of 6 cells have a score."
    )
    assert {"0", "0.01", "0.02", "0.03", "0.04", "0.05"} <= set(texts(heat.svg))


def test_kinds_stand_beside_each_other_without_a_line():
    against_data, against_dtype, _ = figures(sweep({"dataset": ["a.jsonl", "b.jsonl"], "dtype": ["bf16", "fp32"]}))
    assert steps(against_data.svg) == steps(against_dtype.svg) == 0
    assert "Lines" not in against_data.caption and "side by side" not in against_data.caption


def test_of_three_variables_a_cell_is_a_mean_and_has_none_where_a_part_of_it_is_missing():
    scores = sweep({"lora_rank": [8, 16], "learning_rate": [1e-4, 1e-3], "dropout": [0, 0.1]})
    scores[0] = score("run_000", scores[0].params, None, status="not evaluated")
    *_, rank_and_rate, _, _ = figures(scores)
    assert rank_and_rate.caption == (
        "qa: match accuracy over learning_rate and lora_rank. A cell is the mean over the values of the other variables (n = 2 points). "
        "×: a score is missing, or one of those that the mean would be of."
    )
    assert [text for text in texts(rank_and_rate.svg) if text in ("×", "0.025", "0.045", "0.065")] == ["0.025", "0.045", "0.065", "×"]


def test_a_cell_whose_points_are_other_ones_than_those_of_the_rest_has_no_mean():
    scores = sweep({"lora_rank": [8, 16], "learning_rate": [1e-4, 1e-3], "dropout": [0, 0.1]})[1:]  # one was left out of the sweep
    heat = next(figure for figure in figures(scores) if "over learning_rate and lora_rank" in figure.caption)
    assert texts(heat.svg).count("×") == 1


def test_seeds_are_means_with_confidence_intervals():
    scores = sweep({"lora_rank": [8, 16, 32], "seed": [1, 2, 3]}, lambda number: 0.5 + number / 50)
    scores[8] = score("run_008", scores[8].params, None, status="not evaluated")
    (drawn,) = figures([score("base", {}, 0.2, stderr=None), *scores])
    assert drawn.caption == (
        "qa: match accuracy against lora_rank. Points: means over n = 2 to 3 seeds, which are the small dots. "
        "Bars: 95 % confidence interval of the mean (Student's t). The line joins neighbouring points. Dashed: base, the untouched model, 0.2000. "
        "1 of the seeds has no score."
    )
    assert drawn.alternative.startswith("qa: match accuracy against lora_rank: 3 points, from 0.5200 (lora_rank=8) to 0.6300 (lora_rank=32).")


def test_of_many_seeds_and_many_values_the_figures_stay_small():
    scores = sweep({"lora_rank": list(range(10)), "dropout": [n / 10 for n in range(10)], "seed": list(range(10))})
    against_rank, *_ = figures(scores)
    assert "Points: means over n = 10 seeds. Bars" in against_rank.caption
    assert "All have one colour: there are more than 8 values of dropout." in against_rank.caption
    assert steps(against_rank.svg) == 90 and len(against_rank.svg) < 60_000


def test_where_nothing_but_the_seed_is_swept_it_is_the_axis():
    (drawn,) = figures(sweep({"seed": [1, 2, 3]}))
    assert drawn.caption == "qa: match accuracy against seed. Bars: ± 1 standard error of the task over its n = 40 samples."
    assert steps(drawn.svg) == 0


def test_a_metric_without_a_standard_error_says_so():
    (drawn,) = figures([score(f"run_00{number}", {"lora_rank": 8 + number}, 0.5, stderr=None) for number in range(2)])
    assert "No bars: the log has no standard error of this metric (n = 40 samples)." in drawn.caption


def test_several_epochs_are_a_figure_of_their_own_and_the_last_is_in_the_others():
    scores = [score(f"run_00{run}", {"lora_rank": 8 + run}, run / 10 + epoch / 100, checkpoint=f"epoch_{epoch}") for run in range(2) for epoch in (0, 2)]
    against_rank, against_epoch = figures([score("base", {}, 0.05), *scores])
    assert "2 points, from 0.0200 (lora_rank=8) to 0.1200 (lora_rank=9)" in against_rank.alternative
    assert against_epoch.caption.startswith("qa: match accuracy against epoch. ")
    assert steps(against_epoch.svg) == 2


def test_metrics_have_figures_of_their_own():
    scores = [score(f"run_00{number}", {"lora_rank": 8 + number}, 0.5, task=task, metric=metric) for number in range(2) for task in "ab" for metric in "xy"]
    assert [title for title, _ in report_figures.of_scores(scores)] == ["a: match x", "a: match y", "b: match x", "b: match y"]


def test_a_run_that_lacks_the_parameter_is_named_and_not_drawn():
    (drawn,) = figures([*sweep({"lora_rank": [8, 16]}), score("run_009", {"compile": True}, 0.9)])
    assert "Not shown: 1 without a value of lora_rank." in drawn.caption
    assert "2 points" in drawn.alternative


def test_a_variable_that_no_scored_run_has_is_no_axis():
    scores = [score(f"run_00{n}", {"dropout": n}, None, status="not evaluated") for n in range(2)]
    (drawn,) = figures([*scores, *sweep({"lora_rank": [8, 16]})])
    assert drawn.caption.startswith("qa: match accuracy against lora_rank. ")


def test_a_thousand_points_are_summed_up():
    ten = range(10)
    drawn = figures(sweep({"lora_rank": [2**n for n in ten], "learning_rate": [10.0**-n for n in ten], "dropout": [n / 10 for n in ten]}))
    assert len(drawn) == 6
    assert drawn[0].caption == (
        "qa: match accuracy against lora_rank. 1,000 points, summed up at each value (100 points): the dot is their median, "
        "the thick bar holds the middle half, the thin one all of them; none is an error bar."
    )
    assert max(len(figure.svg) for figure in drawn) < 100_000


def test_a_search_over_many_values_is_points_without_bars():
    scores = [score(f"run_{number:03}", {"learning_rate": 1e-5 * 1.01**number, "lora_rank": 8 << number % 2}, number / 300) for number in range(300)]
    against_rate, _ = figures(scores)  # and no heat map of 300 columns
    assert "300 points, which are too many for error bars." in against_rate.caption
    assert steps(against_rate.svg) == 0


def test_values_that_look_alike_are_not_taken_for_one():
    long = "data/" + "x" * 80
    for values in ([f"{long}/a.jsonl", f"{long}/b.jsonl"], [1, "1"], ["null", None]):
        against_data, _, heat = figures(sweep({"dataset": values, "lora_rank": [8, 16]}))
        assert len({x for x, _ in dots(against_data.svg)}) == 4
        assert "4 of 4 cells" in heat.alternative


def test_metrics_whose_names_begin_alike_keep_their_own_epochs():
    scores = [
        score("run_000", {}, number / 10 + epoch / 100, task="x" * 80 + str(number), checkpoint=f"epoch_{epoch}") for number in range(2) for epoch in range(2)
    ]
    (_, (first,)), (_, (second,)) = report_figures.of_scores(scores)
    assert ("from 0.0000" in first.alternative, "from 0.1000" in second.alternative) == (True, True)


def test_what_is_left_out_is_said():
    assert report_figures.left_out(sweep({"lora_rank": [8, 16], "dropout": [0, 1]})) == []
    many = [score(f"run_00{n}", {"lora_rank": n}, 0.5, metric=str(metric)) for n in range(2) for metric in range(25)]
    assert report_figures.left_out(many) == ["5 more metrics are in the table alone."]
    assert len(report_figures.of_scores(many)) == 20
    assert report_figures.left_out(sweep({name: [0, 1] for name in "abcde"})) == [
        "Of each metric there are at most 12 figures: not all pairs of variables have a heat map."
    ]
    assert report_figures.left_out(sweep({"a": list(range(30)), "b": [0, 1]})) == ["Variables of more than 20 values have no heat map."]


NASTY = ["<script>alert(1)</script>", "a.b[0]['c']", 'quote" and \\', "two\nlines", "\x1b[31mred\x00", "${x}", "datum.value", "ü€𝄞"]


def test_names_and_values_of_any_kind_are_drawn_as_they_are():
    for name, other in zip(NASTY, NASTY[1:] + NASTY[:1]):
        drawn = figures([score(f"run_00{n}", {name: other, "lora_rank": 8 + n}, 0.1 * n, task=other, scorer=name, metric=other) for n in range(2)])
        assert "<script" not in "".join(figure.svg for figure in drawn)
    drawn = figures(sweep({name: NASTY for name in NASTY[:2]}))
    shown = set(texts(drawn[0].svg))
    assert {"<script>alert(1)</script>", "a.b[0]['c']", "two\\nlines", "${x}", "datum.value"} <= shown


def curve(*losses: float) -> list[tuple[int, dict[str, float]]]:
    return [(step, {"loss": loss}) for step, loss in enumerate(losses, 1)]


def test_training_curves_are_a_line_a_run_that_ends_where_the_loss_is_no_number():
    metrics = {"run_000": curve(3.0, 2.0, 1.0), "run_001": curve(3, math.nan, 2, 1.5), "run_002": []}
    (drawn,) = report_training.curves(metrics, {run: {"lora_rank": 8 * number} for number, run in enumerate(metrics)}, 3)
    assert drawn.caption == (
        "Training loss against the step: a line for each of 2 of 3 trainings. The others logged no loss. A point is the loss of one step, as it was logged; "
        "there are no error bars. Where the loss was no number there is no line: run_001."
    )
    assert drawn.alternative == "Training loss against the step, of 2 of 3 trainings: the last values go from 1.0000 (run_000) to 1.5000 (run_001)."
    assert steps(drawn.svg) == 3


def test_long_curves_are_means_of_neighbours_and_of_many_runs_there_is_a_sample():
    runs = [f"run_{number:03}" for number in range(1000)]
    sample = report_training.sample(runs)
    assert len(sample) == 50 and sample[:2] == ["run_000", "run_020"]
    params = {run: {"a": number, "seed": number % 2} for number, run in enumerate(runs)}
    drawn = report_training.curves({run: curve(*[1.0] * 1000) for run in sample}, params, 1000)
    assert len(drawn) == 1  # the seeds have colours, and `a` has too many values for that
    assert "a line for each of 50 of 1,000 trainings. They are a sample, evenly spread over the sweep, of 50 at most." in drawn[0].caption
    assert "or the mean of up to 5 logged ones" in drawn[0].caption
    assert report_training.thinned([(1, 1.0), (2, 3.0), (3, 8.0)], 2) == [(1.5, 2.0), (3, 8.0)]


def test_where_no_loss_was_logged_there_are_no_curves():
    assert report_training.curves({"run_000": [(1, {"lr": 0.1})]}, {"run_000": {}}, 1) == []
