"""The only writer of configs/ and scripts/: all files of a change, or none.

A change is laid down whole in a pending folder, which one rename then commits;
after that, moving its files into place can be interrupted and is finished by
whoever looks next.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cruijff_kit.errors import CruijffKitError


@dataclass(frozen=True)
class Change:
    """What to write, link and remove below one folder; all paths are absolute.

    Args:
        links: symbolic link to its target.
    """

    files: Mapping[Path, str] = field(default_factory=dict)
    links: Mapping[Path, str] = field(default_factory=dict)
    removals: tuple[Path, ...] = ()

    def differing(self) -> list[Path]:
        """Of a change that is needed: files that exist with another content, and files that are in the way."""
        return [*filter(os.path.lexists, self.files), *self.removals]

    def needed(self) -> Change:
        """The part of the change that is not so already."""
        files = {path: text for path, text in self.files.items() if _read(path) != text}
        links = {path: target for path, target in self.links.items() if _link(path) != target}
        return Change(files, links, tuple(path for path in self.removals if os.path.lexists(path)))

    def __bool__(self) -> bool:
        return bool(self.files or self.links or self.removals)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _link(path: Path) -> str | None:
    return os.readlink(path) if os.path.islink(path) else None  # which is false of a name that no file can have


@contextmanager
def locked(hidden: Path) -> Iterator[None]:
    """Holds a folder against other commands that write there; waits until they are done.

    Raises:
        CruijffKitError: the folder or its lock cannot be made.
    """
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        lock = (hidden / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise CruijffKitError(f"{hidden.parent}: nothing was written: {error}") from error
    with lock:
        yield


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder, as `locked` does."""
    try:
        with (folder / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock there, or none to be had on that filesystem
        return False
    return False


def recover(hidden: Path) -> None:
    """Finishes a change that was committed and not moved into place."""
    shutil.rmtree(hidden / "pending.tmp", ignore_errors=True)
    if (hidden / "pending").is_dir():
        _move_into_place(hidden / "pending")


def write(change: Change, folder: Path, hidden: Path) -> None:
    """Makes `change` so, if it changes anything; call it under `locked`.

    Raises:
        CruijffKitError: it cannot be written; the folder is then as it was.
    """
    staging = hidden / "pending.tmp"
    if not change:
        return
    try:
        check(change, folder)
        recover(hidden)
        _lay_down(change, folder, staging)
        os.rename(staging, hidden / "pending")
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise CruijffKitError(f"{folder}: nothing was written: {error}") from error
    _move_into_place(hidden / "pending")


def check(change: Change, folder: Path) -> None:
    """That everything can be replaced and removed once the change is committed.

    Raises:
        CruijffKitError: it cannot.
    """
    try:
        _check_in_the_way(change, folder)
    except OSError as error:
        raise CruijffKitError(f"{folder}: nothing was written: {error}") from error


def _check_in_the_way(change: Change, folder: Path) -> None:
    @cache
    def nearest(place: str) -> str:
        return place if os.path.lexists(place) else nearest(os.path.dirname(place))

    above = set()
    for path in [*change.files, *change.links, *change.removals]:
        text = os.path.normpath(path)
        if not text.startswith(f"{folder}{os.sep}"):
            raise PermissionError(f"{path} is not in the experiment's folder")
        if os.path.lexists(text) and not os.path.islink(text) and (os.path.isdir(text) or path in change.links):
            raise FileExistsError(f"{path} is in the way")
        above.add(nearest(os.path.dirname(text)))
    for place in above:
        if not os.path.isdir(place) or not os.access(place, os.W_OK):
            raise PermissionError(f"{place} is not writable")


def _lay_down(change: Change, folder: Path, staging: Path) -> None:
    staging.mkdir()
    for made, (path, text) in enumerate(change.files.items()):
        staged = os.path.join(staging, str(made))
        with open(staged, "w", encoding="utf-8") as file:
            file.write(text)
        if path.suffix == ".sh":
            os.chmod(staged, 0o755)

    def name(path: Path) -> str:  # below the folder, which may be moved before this is finished
        return str(path).removeprefix(f"{folder}{os.sep}")

    plan = {
        "moves": [name(path) for path in change.files],
        "links": {name(path): target for path, target in change.links.items()},
        "removals": [name(path) for path in change.removals],
    }
    (staging / "change.json").write_text(json.dumps(plan), encoding="utf-8")


def _move_into_place(pending: Path) -> None:
    folder = pending.parent.parent
    change = json.loads((pending / "change.json").read_text(encoding="utf-8"))
    for parent in {os.path.dirname(name) for name in change["moves"]}:
        os.makedirs(folder / parent, exist_ok=True)
    for made, name in enumerate(change["moves"]):
        staged = os.path.join(pending, str(made))
        if os.path.lexists(staged):  # else it was moved before the interruption
            _replace(staged, os.path.join(folder, name))
    for name, target in change["links"].items():
        link(folder / name, target)
    for name in change["removals"]:
        (folder / name).unlink(missing_ok=True)
    os.rename(pending, pending.with_name("pending.tmp"))  # in one step: half a pending folder could not be finished
    shutil.rmtree(pending.with_name("pending.tmp"))


def _replace(staged: str, path: str) -> None:
    try:
        os.replace(staged, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # configs/ or results/ may be a link to another filesystem
        beside = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
        shutil.copy2(staged, beside)
        os.replace(beside, path)
        os.unlink(staged)


def link(path: Path, target: str) -> None:
    """Makes `path` a symbolic link to `target`, in one step; others may do the same meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.symlink(target, path)
        return
    fresh = path.with_name(f".{path.name}.new")  # one name: what a killed process left is taken up again
    while _link(path) != target:
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            os.replace(fresh, path)
        except (FileExistsError, FileNotFoundError):  # another process was at the same step
            continue
    fresh.unlink(missing_ok=True)
