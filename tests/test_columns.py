"""Rows in the columns of a terminal."""

from __future__ import annotations

from rich.cells import cell_len

from cruijff_kit.columns import render

HEADINGS = ["run", "", "time"]


def lines(*rows: list[str], width: int = 40, **options: object) -> list[str]:
    return [line.plain for line in render(HEADINGS, rows, width=width, flexible=1, right=[2], **options)]


def test_the_flexible_column_is_folded_under_itself() -> None:
    assert lines(["run_000", "no luck at all, and a long story of why", "7 s"], ["run_001", "", "1 m 10 s"]) == [
        "run                                 time",
        "─" * 40,
        "run_000  no luck at all, and a       7 s",
        "         long story of why",
        "run_001                         1 m 10 s",
    ]


def test_or_cut_off() -> None:
    assert lines(["run_000", "no luck at all, and a long story of why", "7 s"], width=34, one_line=True)[2] == "run_000  no luck at all, an…   7 s"


def test_a_word_that_is_longer_than_its_column_is_broken() -> None:
    assert max(map(len, lines(["run_000", "x" * 100, "7 s"]))) <= 40


def test_wide_characters_take_two_columns() -> None:
    table = lines(["跑步", "ok", "7 s"], ["run", "ok", "8 s"])
    assert {cell_len(line) for line in table[2:]} == {cell_len(table[2])}


def test_only_whole_cells_are_coloured() -> None:
    line = list(render(HEADINGS, [["done", "not done yet", "7 s"]], width=40, flexible=1, styles={"done": "green"}))[2]
    assert [(span.start, span.end, span.style) for span in line.spans] == [(0, 4, "green")]


def test_a_sweep_without_rows_has_a_heading() -> None:
    assert lines() == ["run    time", "─" * 11]
