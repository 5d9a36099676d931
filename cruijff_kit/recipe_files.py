"""Where a recipe stands, and what it is made of: classes, methods, its config; found without importing any."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from cruijff_kit import torchtune_catalog
from cruijff_kit.source_names import PLAIN_BASES, Definition, Module, bindings, installed, last_name, lineage

Function = ast.FunctionDef | ast.AsyncFunctionDef
Family = list[ast.ClassDef]  # a class and its ancestors


def recipe_file(recipe: str, folder: Path) -> Path | None:
    """The source of `recipe`: torchtune's, or of a module that `tune run`, started in `folder`, finds; none is imported."""
    if recipe in torchtune_catalog.recipes():
        return torchtune_catalog.recipes()[recipe]
    parts = recipe.replace("/", ".").split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    package = installed(parts[0])
    roots = [Path(location).parent for location in (package.submodule_search_locations or [])] if package else []
    paths = (Path(root, *parts).with_suffix(".py") for root in [*roots, folder, *map(Path, sys.path)])
    return next((path for path in paths if os.path.isfile(path)), None)


def ancestors(found: Definition) -> Iterator[Definition | None]:
    """A class and its ancestors; None for one that is not found. A base class that was loaded from a recipe's
    file, which no import names, is known by its name."""
    for each in lineage(found):
        if isinstance(each.node, ast.ClassDef):
            yield each
        elif (name := last_name(each.node)) not in PLAIN_BASES:
            base = _recipe_class(name, found.module)
            yield from (each for each in ancestors(base)) if base else (None,)


def _recipe_class(name: str, user: Module) -> Definition | None:
    """torchtune's recipe class `name`; of two that share it, the one whose recipe `user` names."""
    text, found = Path(str(user.file)).read_text(encoding="utf-8"), []
    for recipe, path in torchtune_catalog.recipes().items():
        if str(path) != user.file and os.path.isfile(path) and f"class {name}(" in path.read_text(encoding="utf-8"):
            module = Module(f"recipes.{recipe.replace('/', '.')}", str(path), ())
            found += [(recipe in text, Definition(each, module)) for each in bindings(module).get(name, []) if isinstance(each, ast.ClassDef)]
    named = [definition for is_named, definition in found if is_named or len(found) == 1]
    return named[0] if len(named) == 1 else None


def methods_named(family: Family, name: str) -> list[Function]:
    return [node for each in family for node in each.body if isinstance(node, Function) and node.name == name]


def is_static(function: Function) -> bool:
    return any(last_name(each) == "staticmethod" for each in function.decorator_list)


def config_parameters(function: Function) -> set[str]:
    """The parameters of a recipe's function that are its whole config: `cfg`, as torchtune calls it, or what `parse` gives."""
    names = [argument.arg for argument in function.args.args]
    parsed = names[:1] if any(last_name(each) == "parse" for each in function.decorator_list) else []
    return {*parsed, *({"cfg"} & set(names))}
