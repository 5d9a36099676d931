"""What a dotted path like `torchtune.models.llama2.llama2_7b` names, read from source without importing.

So this knows what the code says, not what running it would do: of `if`/`else` and `try`/`except` the
first branch is believed. It does not look inside functions.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

PLAIN_BASES = frozenset({"object", "ABC", "Generic", "Protocol"})  # they bring no arguments


class Missing(Enum):
    ABSENT = "the source has no such name"
    UNKNOWN = "the source cannot tell: compiled code, or names made at run time"


class Module(NamedTuple):
    name: str
    file: str | None  # None: a namespace package
    folders: tuple[str, ...]  # of a package


class Definition(NamedTuple):
    """A function, a class or another expression, and the module whose names it sees."""

    node: ast.AST
    module: Module


@dataclass(frozen=True, eq=False)
class Import:
    """What an import binds a name to: a dotted path seen from `level` packages up; 0 is absolute."""

    level: int
    path: str

    def absolute(self, module: Module, name: str) -> str:
        """The path in full; `name` is the one that is looked for, if everything is imported."""
        path = self.path.replace("*", name)
        if not self.level:
            return path
        packages = module.name.split(".")
        above = self.level - bool(module.folders)  # a package is its own first level
        return ".".join([*packages[: len(packages) - above], path])


Binding = ast.AST | Import
Found = Module | Definition | Missing
Seen = tuple[Binding, ...]  # what is being looked up: in `f = partial(f)` the second f is an earlier binding


def find(path: str) -> Found:
    """What torchtune would import: it looks in the working directory too (torchtune/config/_instantiate.py)."""
    if not isinstance(path, str) or "${" in path:
        return Missing.UNKNOWN
    if not all(part.isidentifier() for part in path.split(".")):
        return Missing.ABSENT
    return _find(path, (*sys.path, os.getcwd()))


@cache
def _find(path: str, _folders: tuple[str, ...]) -> Found:  # where to look is part of the cache's key
    return _locate(path, ())


def _locate(path: str, seen: Seen) -> Found:
    top, *parts = path.split(".")
    owner = _top_level(top)
    for index, part in enumerate(parts, 1):
        inner = _submodule(owner, part) if index < len(parts) else None
        owner = inner or _member(owner, part, seen)
    return owner


def installed(name: str) -> ModuleSpec | None:
    """What a top-level name would import; None if there is nothing, or only a script, which is imported without a spec."""
    try:
        return importlib.util.find_spec(name)
    except ValueError:
        return None


def _top_level(name: str) -> Module | Missing:
    spec = installed(name) or PathFinder.find_spec(name, [os.getcwd()])
    if spec is None and sys.modules.get(name) is not None:
        return Missing.UNKNOWN
    return _module(name, spec) if spec else Missing.ABSENT


def _submodule(owner: Found, name: str) -> Module | None:
    # By its last name: of `a.b`, if that is a namespace package, PathFinder wants `a` in sys.modules.
    spec = PathFinder.find_spec(name, owner.folders) if isinstance(owner, Module) else None
    return _module(f"{owner.name}.{name}", spec) if spec else None


def _module(name: str, spec: ModuleSpec) -> Module:
    return Module(name, spec.origin, tuple(spec.submodule_search_locations or ()))


def _member(owner: Found, name: str, seen: Seen) -> Found:
    if isinstance(owner, Module):
        found = _look_up(owner, name, seen)
        return (_submodule(owner, name) or found) if isinstance(found, Missing) else found
    return owner if owner is Missing.ABSENT else Missing.UNKNOWN


def _look_up(module: Module, name: str, seen: Seen) -> Found:
    """What a module binds a name to: by the last binding that can be followed."""
    names = _names(module.file, name)
    if names is None:
        return Missing.UNKNOWN
    bindings = names.get(name, [])
    stars = [] if name.startswith("_") else names.get("*", [])
    result = Missing.UNKNOWN if bindings or _makes_names(module.file) else Missing.ABSENT
    for binding in (*reversed(bindings), *reversed(stars)):
        if binding in seen:
            continue
        found = _follow(binding, module, name, (*seen, binding))
        if not isinstance(found, Missing):
            return found
        if found is Missing.UNKNOWN:
            result = found
    return result


def _follow(binding: Binding, module: Module, name: str, seen: Seen) -> Found:
    if isinstance(binding, Import):
        return _locate(binding.absolute(module, name), seen)
    found = evaluate(binding, module, seen)
    return Definition(binding, module) if isinstance(found, Missing) else found


def evaluate(node: ast.AST, module: Module, seen: Seen = ()) -> Found:
    """What an expression in a module names; UNKNOWN if it computes something."""
    match node:
        case ast.Name(id=name):
            return _look_up(module, name, seen)
        case ast.Attribute(value=value, attr=name):
            return _member(evaluate(value, module, seen), name, seen)
    return Missing.UNKNOWN


def lineage(found: Definition, seen: Seen = ()) -> list[Definition]:
    """A class and its ancestors in the order of look-up; of one that is not found, the expression."""
    order, seen = [found], (*seen, found.node)
    for base in found.node.bases if isinstance(found.node, ast.ClassDef) else ():
        if last_name(base) not in PLAIN_BASES:
            generic = base.value if isinstance(base, ast.Subscript) else base
            ancestor = evaluate(generic, found.module, seen)
            order += lineage(ancestor, seen) if isinstance(ancestor, Definition) else [Definition(base, found.module)]
    return list(dict.fromkeys(reversed(order)))[::-1]


def bindings(module: Module) -> dict[str, list[Binding]]:
    """What the source of a module binds each name to; nothing where it has no source that can be parsed."""
    file = module.file
    return (_parse(file) if file and file.endswith(".py") and _source(file) is not None else None) or {}


def names_in(path: str) -> set[str]:
    """The public names of the module or package `path`, submodules too; empty if it is none, or cannot be told."""
    module = find(path)
    if not isinstance(module, Module):
        return set()
    inside = {each.name for each in pkgutil.iter_modules(list(module.folders))}
    return {name for name in inside | bindings(module).keys() if not name.startswith("_") and name != "*"}


def last_name(node: ast.AST) -> str:
    """`dataclass`, of `dataclasses.dataclass(frozen=True)`."""
    match node:
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return last_name(inner)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _names(file: str | None, name: str) -> dict[str, list[Binding]] | None:
    """What a module binds each name to; empty if `name` cannot be among them, None if it is not Python source."""
    source = _source(file)
    if source is None:
        return None
    return _parse(file) if name in source or "import *" in source else {}  # transformers has thousands of files


def _makes_names(file: str | None) -> bool:
    """Whether a module may have names that its source does not bind."""
    return re.search(r"globals\(\)|sys\.modules\[|^def __getattr__", _source(file) or "", re.MULTILINE) is not None


@cache
def _source(file: str | None) -> str | None:
    if file is None:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8") if file.endswith(".py") else None
    except (OSError, ValueError):
        return None


@cache
def _parse(file: str) -> dict[str, list[Binding]] | None:
    try:
        return scope(ast.parse(_source(file)).body)
    except (SyntaxError, ValueError):
        return None


def scope(body: Sequence[ast.stmt]) -> dict[str, list[Binding]]:
    """What a module's or a class's body binds each name to, in order; `*` for imports of everything."""
    names: dict[str, list[Binding]] = {}
    for statement in statements(body):
        for name, binding in _bound(statement):
            names.setdefault(name, []).append(binding)
    return names


def statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of one scope; of two branches, the one to believe comes last."""
    for statement in body:
        match statement:
            case ast.If(body=first, orelse=other):
                yield from statements([*other, *first])
            case ast.Try(body=first, handlers=handlers, orelse=more, finalbody=last):
                other = [line for handler in handlers for line in handler.body]
                yield from statements([*other, *first, *more, *last])
            case ast.With(body=inner) | ast.For(body=inner) | ast.While(body=inner):
                yield from statements(inner)
            case _:
                yield statement


def _bound(statement: ast.stmt) -> Iterator[tuple[str, Binding]]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name, statement
        case ast.Import(names=aliases):
            for alias in aliases:
                top = alias.name.split(".")[0]
                yield alias.asname or top, Import(0, alias.name if alias.asname else top)
        case ast.ImportFrom(module=module, names=aliases, level=level):
            for alias in aliases:
                yield alias.asname or alias.name, Import(level, f"{module}.{alias.name}" if module else alias.name)
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _assigned(target, value)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield from _assigned(target, value)


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, Binding]]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, value if node is target else target
