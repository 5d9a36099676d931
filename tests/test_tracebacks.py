"""The exceptions of a log, with what they came of."""

from __future__ import annotations

from cruijff_kit.tracebacks import DURING, FROM, Raised, chains

FRAMES = ["Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "    f()"]


def test_a_chain_holds_what_came_of_what_and_how() -> None:
    lines = [*FRAMES, "KeyError: 1", DURING, *FRAMES, "a.b.Error: two", "lines", FROM, *FRAMES, "SystemExit"]
    assert chains(lines) == [
        [
            Raised("KeyError", ("1", DURING)),
            Raised("Error", ("two", "lines", FROM), DURING),
            Raised("SystemExit", ("",), FROM),
        ]
    ]


def test_tracebacks_that_do_not_come_of_one_another_are_chains_of_their_own() -> None:
    assert chains([*FRAMES, "KeyError: 1", *FRAMES, "KeyError: 2"]) == [[Raised("KeyError", ("1",))], [Raised("KeyError", ("2",))]]


def test_a_chain_whose_beginning_the_log_has_lost_begins_with_what_is_left() -> None:
    assert chains(["KeyError: 1", DURING, *FRAMES, "KeyError: 2"]) == [[Raised("KeyError", ("2",))]]


def test_a_traceback_that_the_log_ends_in_says_nothing() -> None:
    assert chains(FRAMES) == []


def test_the_lines_of_several_ranks_are_told_apart_and_those_of_none_come_last() -> None:
    ranks = [f"[rank{rank}]: {line}" for line in [*FRAMES, "KeyError: 1", ""] for rank in (1, 0)]
    assert chains([*FRAMES, "ChildFailedError: all", *ranks]) == [
        [Raised("KeyError", ("1",))],
        [Raised("KeyError", ("1",))],
        [Raised("ChildFailedError", ("all",))],
    ]


def test_an_exception_reads_as_python_prints_it_without_its_module() -> None:
    announced = [*FRAMES, "a.b.Error: in two:", "\tlines"]
    ((bare,), (named,), (long,)) = chains([*FRAMES, "MemoryError", *FRAMES, "a.Error: said", *announced])
    assert [str(bare), str(named), str(long)] == ["MemoryError", "Error: said", "Error: in two: lines"]
