"""What a recipe reads of its config, and which components it makes, from its source.

What cannot be followed there is taken to read everything: a key is called unread only if nothing
could read it. Nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from cruijff_kit.config_flow import ENTRY, NOTHING, Instantiation, NodePath, Paths, follow
from cruijff_kit.recipe_files import recipe_file
from cruijff_kit.source_names import Module


@dataclass(frozen=True)
class Reads:
    """What one recipe reads of its config.

    Args:
        keys: the keys that it names.
        wholes: the nodes that it hands to something that may read any key below; `()` is the whole config.
        made: the nodes that it makes components of, and how.
        handed: those of `wholes` that are not only gone through: it may put arguments in there.
        taken: the keys that it removes, so that a component does not get them.
        stored: the keys that it sets itself.
    """

    keys: Paths
    wholes: Paths
    made: Mapping[NodePath, frozenset[Instantiation]]
    handed: Paths = NOTHING
    taken: Paths = NOTHING
    stored: Paths = NOTHING

    def may_read(self, path: NodePath) -> bool:
        """Whether the recipe may read the key `path`, or one below it."""
        return () in self.wholes or self.reads(path)

    def reads(self, path: NodePath) -> bool:
        """Whether it names the key, or hands on a node that holds it; not so of a whole config that is handed on."""
        above = [path[:end] for end in range(1, len(path) + 1)]
        return path in self._named or any(node in self.wholes or node in self.made for node in above)

    def takes_all(self, path: NodePath) -> bool:
        """Whether the keys below `path` are the business of whom it is handed to."""
        return path in self.wholes or path in self.made

    def names(self, parent: NodePath) -> set[str]:
        """The keys that it reads directly below `parent`."""
        return {path[len(parent)] for path in self._named if path[: len(parent)] == parent and len(path) > len(parent)} - {ENTRY}

    @cached_property
    def _named(self) -> Paths:
        """The keys that are named, and the nodes that hold them."""
        return frozenset(path[:end] for path in (*self.keys, *self.made) for end in range(1, len(path) + 1))


EVERYTHING = Reads(NOTHING, frozenset({()}), {})


def recipe_reads(recipe: str, folder: Path) -> Reads:
    """What `recipe` reads; everything, where its source is not found or its base classes are not."""
    path = recipe_file(recipe, folder)
    return EVERYTHING if path is None else _reads(Module(recipe.replace("/", "."), str(path), ()))


@cache
def _reads(recipe: Module) -> Reads:
    flow = follow(recipe)
    if flow.unknown_base or not flow.keys:
        return EVERYTHING
    made = {path: frozenset(ways) for path, ways in flow.made.items()}
    keys, handed, listed, taken, stored = map(frozenset, (flow.keys, flow.handed, flow.listed, flow.taken, flow.stored))
    return Reads(keys, handed | listed, made, handed, taken, stored)
