"""The end of a log, and a log as it grows: read while it is written, truncated and replaced."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cruijff_kit.log_follow import follow, tail

POLL_S = 0.01


def followed(path: Path, steps: Sequence[Callable[[], object]] = ()) -> list[bytes]:
    """What was handed on, where each step is done when something came or, at the beginning, on the first question.

    The job is over when no step is left.
    """
    came: list[bytes] = []
    left = list(steps)

    def step() -> None:
        if left:
            left.pop(0)()

    def over() -> bool:
        if not came:
            step()
        return not left

    def write(block: bytes) -> None:
        came.append(block)
        step()

    follow(path, over, write, POLL_S)
    return came


def append(path: Path, block: bytes) -> None:
    with path.open("ab") as file:
        file.write(block)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "5_0_0_log.out"


def test_the_end_of_a_log_is_text(log: Path) -> None:
    log.write_bytes("one\r██ two\n".encode())
    assert tail(log) == "one\r██ two\n"
    assert tail(log, 4) == "two\n"


def test_an_end_that_begins_within_a_character_begins_with_the_next_one(log: Path) -> None:
    log.write_bytes("██a".encode())
    assert [tail(log, size) for size in range(1, 8)] == ["a", "a", "a", "█a", "█a", "█a", "██a"]


def test_bytes_that_are_no_text_are_shown_as_such(log: Path) -> None:
    log.write_bytes(b"\xff\xfe|")
    assert tail(log) == "\ufffd\ufffd|"


def test_where_there_is_no_log_there_is_no_text(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == tail(tmp_path) == tail(tmp_path / "none" / "none") == ""


def test_the_log_of_a_job_that_is_over_is_handed_on_whole(log: Path) -> None:
    log.write_bytes(b"a" * 3_000_000)
    assert b"".join(followed(log)) == b"a" * 3_000_000


def test_a_job_that_is_over_and_left_no_log_ends_it(log: Path) -> None:
    assert followed(log) == []


def test_what_is_added_is_handed_on_as_it_comes_until_the_job_is_over(log: Path) -> None:
    log.write_bytes(b"one\n")
    assert followed(log, [lambda: append(log, b"two\r"), lambda: append(log, b"three")]) == [b"one\ntwo\r", b"three"]


def test_a_log_that_is_not_there_yet_is_waited_for(log: Path) -> None:
    asked: list[float] = []

    def over() -> bool:
        asked.append(time.monotonic())
        if len(asked) == 2:
            log.write_bytes(b"at last\n")
        return len(asked) == 2

    came: list[bytes] = []
    follow(log, over, came.append, POLL_S)
    assert came == [b"at last\n"]
    assert asked[1] - asked[0] >= 2  # it may be a question to Slurm


def test_a_character_that_comes_in_two_parts_arrives_whole(log: Path) -> None:
    first, rest = "█".encode()[:1], "█".encode()[1:]
    log.write_bytes(first)
    came: list[bytes] = []
    follow(log, lambda: len(came) == 2, lambda block: came.append(block) or (len(came) == 1 and append(log, rest)), POLL_S)
    assert came == [first, rest]
    assert b"".join(came).decode() == "█"


def follow_through(log: Path, change: Callable[[], object]) -> list[bytes]:
    """What was handed on of a log that is changed once its beginning was, and whose job is then over."""
    log.write_bytes(b"of the first start\n")
    came: list[bytes] = []
    follow(log, lambda: len(came) == 2, lambda block: came.append(block) or (len(came) == 1 and change()), POLL_S)
    return came


def test_a_log_that_a_requeue_truncates_is_read_from_its_new_beginning(log: Path) -> None:
    assert follow_through(log, lambda: log.write_bytes(b"of the second\n")) == [b"of the first start\n", b"of the second\n"]


def test_a_log_that_is_replaced_is_read_from_its_beginning(log: Path, tmp_path: Path) -> None:
    def replace() -> None:
        (tmp_path / "new").write_bytes(b"of the second start, which is longer\n")
        os.replace(tmp_path / "new", log)

    assert follow_through(log, replace) == [b"of the first start\n", b"of the second start, which is longer\n"]


def test_the_last_words_of_a_log_that_is_replaced_come_first(log: Path, tmp_path: Path) -> None:
    def replace() -> None:
        append(log, b"last words\n")
        (tmp_path / "new").write_bytes(b"of the second start\n")
        os.replace(tmp_path / "new", log)

    log.write_bytes(b"of the first start\n")
    came: list[bytes] = []
    follow(log, lambda: len(came) == 3, lambda block: came.append(block) or (len(came) == 1 and replace()), POLL_S)
    assert came == [b"of the first start\n", b"last words\n", b"of the second start\n"]


def test_a_log_that_is_removed_meanwhile_ends_with_its_job(log: Path) -> None:
    log.write_bytes(b"gone\n")
    assert followed(log, [lambda: None, log.unlink]) == [b"gone\n"]
