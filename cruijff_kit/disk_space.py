"""How full a disk is, and what is on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def occupied_bytes(folder: Path) -> int:
    """Bytes of the files below `folder`: links not followed, a file of several names counted once.

    What vanishes meanwhile or cannot be read counts as nothing.
    """
    total, known = 0, set()
    for entry in _files(os.fspath(folder)):
        try:
            stat = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.st_nlink == 1 or (stat.st_dev, stat.st_ino) not in known:
            total += stat.st_size
        if stat.st_nlink > 1:
            known.add((stat.st_dev, stat.st_ino))
    return total


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            there = list(entries)
    except OSError:
        return
    for entry in there:
        if _is_folder(entry):
            yield from _files(entry.path)
        else:
            yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # a file server that asks for each entry, and has lost this one
        return False


def human(size: int) -> str:
    """`1.6 GB`: bytes in units of powers of 1,000, GB where there is a tenth of one."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size * 10 >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} bytes"
