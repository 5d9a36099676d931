"""A log as it grows: its end, and all that comes.

Knows nothing of Slurm: whether more can come is asked of a function.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

ASK_EVERY_S = 2.0  # whether a job is over may be a question to Slurm
BLOCK_BYTES = 1 << 20
_CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes of UTF-8 that begin no character


def tail(path: Path, size: int = 65536) -> str:
    """The last `size` bytes of a log as text; nothing where there is none, or it cannot be read."""
    try:
        with path.open("rb") as file:
            begin = max(0, os.fstat(file.fileno()).st_size - size)
            file.seek(begin)
            block = file.read()
    except OSError:
        return ""
    return (block.lstrip(_CONTINUATION) if begin else block).decode("utf-8", errors="replace")


def follow(path: Path, over: Callable[[], bool], write: Callable[[bytes], None], poll_s: float = 0.5) -> None:
    """Hands on what is in the log and what is added to it, until `over()` and nothing more came.

    Waits for a log that is not there yet. One that is truncated or replaced, as when its job is started
    again, is read from its beginning.

    Args:
        over: whether nothing more will be written; asked no more often than every ASK_EVERY_S.
        write: is given the bytes as they come, which may end in the middle of a character.
    """
    ended, asked = False, float("-inf")
    with closing(_Log(path)) as log:
        while True:
            if not ended and time.monotonic() - asked >= ASK_EVERY_S:
                # before the read: what was written until it was over is still read
                ended, asked = over(), time.monotonic()
            came = log.hand_on(write)
            if ended and not came:
                return
            if not came:
                time.sleep(poll_s)


class _Log:
    """A file at a path, open as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def hand_on(self, write: Callable[[bytes], None]) -> bool:
        """Whether anything new was there to hand on."""
        if self._file is None:
            self._file = self._opened()
        block = self._read()
        if not block and self._replaced():
            block = self._read() or self._read_anew()  # the last words of the old file come first
        if block:
            write(block)
        return bool(block)

    def _opened(self) -> BinaryIO | None:
        try:
            return self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return None

    def _read(self) -> bytes:
        if self._file is None:
            return b""
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        return self._file.read(BLOCK_BYTES)

    def _read_anew(self) -> bytes:
        self.close()
        self._file = self._opened()
        return self._read()

    def _replaced(self) -> bool:
        """Whether another file lies at the path now."""
        if self._file is None:
            return False
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False
