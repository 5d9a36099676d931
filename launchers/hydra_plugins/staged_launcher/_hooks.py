"""What an application may add to a launch: `prepare` before anything starts, `progress` while it runs."""

import importlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, List, Optional, Sequence

from hydra.errors import CompactHydraException
from omegaconf import DictConfig


@dataclass
class Prepared:
    """The configs to run: one for each point, in order, and others that belong to no point.

    The same object at two points runs once for both. `after` holds for each extra the indices of the points that it
    follows: it begins once all their stages are over, however they ended. Any object with these attributes will do.
    """

    points: List[DictConfig]
    extras: List[DictConfig] = field(default_factory=list)
    after: List[Sequence[int]] = field(default_factory=list)


def load_hooks(path: Optional[str]) -> Any:
    """The module or object at a dotted path; an object without hooks where there is no path."""
    if path is None:
        return SimpleNamespace()
    try:
        return _locate(path)
    except (ImportError, AttributeError) as error:
        raise CompactHydraException(f"hydra.launcher.hooks\n  cannot import '{path}': {error}") from error


def _locate(path: str) -> Any:
    """Import `path`, or the module before its last dot and take the attribute after it."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        parent, _, name = path.rpartition(".")
        if not parent or error.name not in (path, parent):
            raise
        return getattr(_locate(parent), name)


def prepare(hooks: Any, configs: Sequence[DictConfig]) -> Prepared:
    """What the application makes of the composed configs; they stand as they are without its hook."""
    hook = getattr(hooks, "prepare", None)
    answer = hook(list(configs)) if hook else None
    if answer is None:
        return Prepared(list(configs))
    extras = list(getattr(answer, "extras", None) or [])
    prepared = Prepared(list(answer.points), extras, list(getattr(answer, "after", None) or [()] * len(extras)))
    if len(prepared.points) != len(configs):
        raise ValueError(f"prepare() was given {len(configs)} points and returned {len(prepared.points)}")
    if len(prepared.after) != len(extras):
        raise ValueError(f"prepare() returned {len(extras)} extras, and says of {len(prepared.after)} what they follow")
    return prepared


def shown(hooks: Any, line: str) -> Optional[str]:
    """What to show for a line of a log: itself without a hook, None where the hook leaves it out."""
    hook = getattr(hooks, "progress", None)
    if hook is None:
        return line
    try:
        return hook(line)
    except Exception:  # a slip in what only decorates the display must not end hours of work
        return line
