"""Digest of the source code that one task function depends on; nothing is imported or executed.

Left out is only what surely cannot change a score: other functions, classes, constants and imports of the
task's file that nothing reachable names, and files that nothing reachable imports. A task that is evaluated
once too often costs minutes; one that is taken for unchanged is a wrong number. What code finds by other
means than names (`exec`, `sys.path`, …), or what cannot be parsed, makes all Python of the folder count.

Of the task's file the syntax trees count, written in a way that is the same for Python 3.11 and later, so that
neither comments nor a formatter nor another Python change the digest (`ast.dump` and `ast.unparse` differ
between versions). Docstrings count: they may be prompts. Of other files each byte counts.
"""

from __future__ import annotations

import ast
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from cruijff_kit.source_units import FUNCTIONS, Unit, is_dynamic, strings, texts, units

Stamp = tuple[str, int, int, int]

SETTLED_SECONDS = 2  # file systems write times in steps: a younger file may change again and keep its stamp
NOT_THE_USERS = ("site-packages", "__pycache__")


class Untold(Exception):
    """The source does not tell what the task depends on."""


def digest(file: Path, function: str) -> str:
    """Hex SHA-256 of the source that `function` of `file` depends on; cached as long as no Python below its folder changes.

    Raises:
        OSError: the file, or one that it imports, cannot be read.
    """
    file = file.absolute()
    found = _stamps(file)
    settled = max(changed for _, changed, *_ in found) < time.time_ns() - SETTLED_SECONDS * 10**9
    return (_digest if settled else _digest.__wrapped__)(file, function, found)


@lru_cache(maxsize=256)
def _digest(file: Path, function: str, found: tuple[Stamp, ...]) -> str:
    paths = [Path(path) for path, *_ in found]
    try:
        parts = _needed(file, function, paths)
    except (Untold, SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes, or an encoding
        parts = ["everything", *_bytes([file, *paths], file.parent)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _stamps(file: Path) -> tuple[Stamp, ...]:
    """The task's file and all Python below its folder, with what changes when one is written: nothing sets ctime back."""
    found = []
    for path in sorted({file, *_python(file.parent)}):
        state = path.stat()
        found.append((str(path), state.st_ctime_ns, state.st_size, state.st_ino))
    return tuple(found)


def _python(folder: Path) -> Iterator[Path]:
    """The user's Python files below a folder."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in NOT_THE_USERS and _entered(Path(place, name))]
        yield from (path for name in files if name.endswith(".py") and (path := Path(place, name)).is_file())


def _entered(folder: Path) -> bool:
    """Whether to look inside: a link must lead to Python, not to masses of data, and not back to where it lies."""
    return not folder.is_symlink() or (any(folder.glob("*.py")) and folder.resolve() not in {each.resolve() for each in folder.parents})


def _bytes(paths: Iterable[Path], folder: Path) -> list[str]:
    return [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]


def _needed(file: Path, function: str, paths: list[Path]) -> list[str]:
    """What the digest is of: the statements that count, and the files that they import.

    Raises:
        Untold: it cannot be told.
    """
    tree = ast.parse(file.read_bytes())
    if not any(isinstance(node, FUNCTIONS) and node.name == function for node in tree.body):
        raise Untold
    modules, own = Modules(file.parent, paths), units(tree)
    counted = [unit.stays or unit.unused or modules.has_effect(unit, file) for unit in own]
    words, files = {function}, dict[Path, ast.Module]()
    before = -1
    while before != (before := len(words) + len(files)):  # until nothing more is reached
        counted = [here or not words.isdisjoint(unit.names) for here, unit in zip(counted, own)]
        for unit in (unit for here, unit in zip(counted, own) if here):
            words |= unit.words
            for path, module in modules.closure(unit.node, file).items():
                files[path] = module
                words |= texts(module)  # what a name may be looked up by
    nodes = [unit.node for here, unit in zip(counted, own) if here]
    if any(map(is_dynamic, [*nodes, *files.values()])):
        raise Untold
    return [*map(_shape, nodes), *_bytes(sorted(files), file.parent)]


def _shape(node: Any) -> str:
    """A syntax tree as text, without positions and without empty fields, of which each version of Python adds some."""
    if isinstance(node, ast.AST):
        fields = (f"{name}={_shape(value)}" for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_shape, node))}]"
    return ascii(node)  # repr escapes what this Python's Unicode does not know


class Modules:
    """The Python files below a folder, as what may be imported.

    A name may mean any file whose path ends in it: the folder, one above or one
    below may be on the path, by PYTHONPATH or as an editable install.
    """

    def __init__(self, folder: Path, paths: Iterable[Path]) -> None:
        self._folder, self._closed = folder, dict[Path, ast.Module]()
        self._ending: dict[tuple[str, ...], set[Path]] = {}
        for path in paths:
            parts = path.with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            for start in range(len(parts)):
                self._ending.setdefault(parts[start:], set()).add(path)

    def closure(self, node: ast.AST, path: Path) -> dict[Path, ast.Module]:
        """The files that code in `path` imports, with what they import in turn."""
        found: dict[Path, ast.Module] = {}
        new = self._named(node, path)
        while new:
            found |= {each: self._tree(each) for each in new}
            new = {other for each in new for other in self._named(found[each], each)} - found.keys()
        return found

    def has_effect(self, unit: Unit, path: Path) -> bool:
        """Whether an import of the user's own modules may do more than bind a name."""
        if not unit.is_import:
            return False
        inside = [(each, other) for each, tree in self.closure(unit.node, path).items() for other in units(tree)]
        return any(other.stays or (other.unused and not self._named(other.node, each)) for each, other in inside)

    def _tree(self, path: Path) -> ast.Module:
        if path not in self._closed:
            self._closed[path] = ast.parse(path.read_bytes())
        return self._closed[path]

    def _named(self, node: ast.AST, path: Path) -> set[Path]:
        found = set()
        for inner in ast.walk(node):
            for names, least in _module_names(inner, path):
                for end in range(least, len(names) + 1):
                    found |= self._ending.get(names[:end], set())
            if isinstance(inner, ast.Attribute):  # package.module, where another statement has imported it
                found |= {each for each in self._ending.get((inner.attr,), ()) if each.parent != self._folder}
        for text in strings(node):  # "package.module:name"; a task's own name is no import of its file
            names = tuple(text.replace(":", ".").split("."))
            for end in range(1, len(names) + 1):
                found |= self._ending.get(names[:end], set()) - {path}
        return found


def _module_names(node: ast.AST, path: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """The names, in parts, of which an import imports each beginning, and how many parts the shortest has."""
    match node:
        case ast.Import(names=aliases):
            yield from ((tuple(alias.name.split(".")), 1) for alias in aliases)
        case ast.ImportFrom(module=module, names=aliases, level=level):
            start = path.parts[:-level] if level else ()
            start_and_module = (*start, *(module.split(".") if module else ()))
            yield from (((*start_and_module, alias.name), len(start) or 1) for alias in aliases)
