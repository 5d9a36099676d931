"""A job's log as lines."""

from __future__ import annotations

from cruijff_kit.log_text import last_start, lines, pieces

START = "submitit INFO (2026-11-24 18:12:50,776) - Starting with JobEnvironment(job_id=5_0, hostname=vm)\n"
LOG = (
    "\x1b[1mone\x1b[0m\r 10%|#\r 20%|##  \n\n  File \"a\", line 1\n[2026-11-24 18:12:51,667][submitit][WARNING] - Bypassing signal SIGCONT\n"
    "submitit ERROR (2026-11-24 18:12:51,698) - Submitted job triggered an exception\n \x1b[A\n"
)


def test_a_line_keeps_its_indentation_and_loses_what_only_a_terminal_understands() -> None:
    assert lines(START + LOG) == ["one", " 10%|#", " 20%|##", '  File "a", line 1']


def test_a_piece_has_no_indentation() -> None:
    assert pieces(START + LOG) == ["one", "10%|#", "20%|##", 'File "a", line 1']


def test_what_was_printed_since_the_last_start_is_what_comes_after_its_line() -> None:
    assert last_start(START + "one\n" + START + "two\n") == "\ntwo\n"
    assert last_start("one\n") == "one\n"
    assert last_start(START[:-1]) == ""
