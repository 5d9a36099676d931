"""Components of composed configs that cannot be made, and keys that nothing reads.

A component that does not exist, an argument that it does not accept, and one that it needs and
nobody gives are errors; a key that the recipe never reads is a warning. torchtune's own configs
hold such keys too (`fsdp`, in three of 0.6.1): only those are named that
somebody set in experiment.yaml, on the command line or in a base config of their own. What
source code cannot tell is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cruijff_kit import logger_config, source_names, torchtune_catalog
from cruijff_kit.config_tree import is_computed
from cruijff_kit.errors import COMMAND_LINE, ExperimentError, Problem, closest
from cruijff_kit.config_flow import ENTRY, NodePath
from cruijff_kit.sweep import Run, is_unknown, torchtune_key
from cruijff_kit.torchtune_catalog import Signature
from cruijff_kit.torchtune_config import Composer
from cruijff_kit.yaml_source import KeyPath, YamlSource, format_key, read_yaml

COMPONENT = "_component_"
OURS = ("torch", "torchtune", "torchao", "cruijff_kit", "bitsandbytes")  # what configs name most
OF_LOGGER = re.compile(rf"(?<!\\)\$\{{([\w.]+:)?\.*{logger_config.KEY}\b")  # an interpolation, which identity leaves unresolved


@dataclass(frozen=True)
class Finding:
    """One fault of a composed config, and the key of that config that it is about."""

    path: KeyPath
    what: str
    fix: str | None = None
    level: str = "error"


def check(composer: Composer, runs: Iterable[Run], where: Mapping[str, KeyPath]) -> list[Problem]:
    """The faults of the runs' components and keys, each said once.

    Args:
        where: where experiment.yaml sets each parameter.
    """
    checker = _Checker(composer, where)
    return list(dict.fromkeys(problem for run in runs for problem in checker.problems(run)))


class _Checker:
    """Looks into a run once for all that differ from it in plain values only, and into a node once for all that share it."""

    def __init__(self, composer: Composer, where: Mapping[str, KeyPath]) -> None:
        self.composer, self.reads = composer, composer.reads
        self.experiment = composer.experiment
        self.where = where
        self.shapes: set[tuple] = set()
        self.seen: dict[tuple[str, str], list[Finding]] = {}
        self.said: set[Finding] = set()

    def problems(self, run: Run) -> Iterator[Problem]:
        shape = (_shape(run.settings), _shape(run.params))
        if shape in self.shapes:
            return
        self.shapes.add(shape)
        for key, node in {logger_config.KEY: None, **run.config}.items():
            text = json.dumps(node, default=str) if isinstance(node, (dict, list)) else ""
            if (key, text) not in self.seen:
                self.seen[key, text] = [*self.unread((key,), node), *self.no_logger(key, node), *self.components((key,), node)]
            for finding in self.seen[key, text]:
                if finding not in self.said and (problem := self.problem(finding, run)):
                    self.said.add(finding)
                    yield problem

    # What is wrong

    def no_logger(self, key: str, node: Any) -> Iterator[Finding]:
        """What stands for a logger and is none: torchtune would say so in the training alone."""
        is_component = isinstance(node, dict) and node.get(COMPONENT) is not None
        if key == logger_config.KEY and (key,) in self.reads.made and not is_component and not is_computed(node):
            what = "it is not set" if node is None else f"it has no {COMPONENT}" if isinstance(node, dict) else f"it is {node!r}"
            yield Finding((key,), f"{self.composer.recipe} makes a logger of {key}, and {what}", logger_config.USUAL_BLOCK)

    def components(self, path: KeyPath, node: Any) -> Iterator[Finding]:
        """The faults of a component, and of those within it; of a value too that is the logger's."""
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        if isinstance(node, dict) and COMPONENT in node and self.reads.may_read(_names(path)):
            yield from self.component(path, node)
        if isinstance(node, str) and path[0] != logger_config.KEY and OF_LOGGER.search(node):
            what = f"{node} is of {logger_config.KEY}, which changes nothing in what is trained: a run of another value would pass for this one"
            yield Finding(path, what, "write the value here, or refer to a key outside of it")
        for key, value in items:
            yield from self.components((*path, key), value)

    def component(self, path: KeyPath, node: dict[str, Any]) -> Iterator[Finding]:
        component = node[COMPONENT]
        if component is not None and not isinstance(component, str):  # the recipe may put one in where it is null
            yield Finding((*path, COMPONENT), f"{component!r} is no dotted path of a component")
            return
        if torchtune_catalog.component_exists(component) is False:
            if not self.is_beside(component):
                yield Finding((*path, COMPONENT), *_missing(component))
            return
        package = logger_config.PACKAGES.get(component)
        if package and source_names.installed(package) is None:
            yield Finding((*path, COMPONENT), f"{component} needs the package {package}, which is not installed", f"pip install {package}")
        signature = torchtune_catalog.signature(component)
        if signature is None:
            return
        passed = self.passed(_names(path), signature)
        unknown = [name for name in node if name != COMPONENT and not (signature.accepts(name) and self.is_heeded(component, name, signature))]
        for name in (name for name in unknown if (*_names(path), name) not in self.reads.taken):
            free = signature.names - node.keys() - passed
            hint = self.root_hint(name) or closest(name, signature.names - passed)
            yield Finding((*path, name), f"{component} does not accept '{name}'", hint or f"it also takes {', '.join(sorted(free))}" if free else hint)
        needed = sorted(signature.required - node.keys() - passed)
        if needed:
            what = f"{component} needs {', '.join(needed)}, which neither the config nor {self.composer.recipe} gives"
            yield Finding((*path, COMPONENT), what, "\n".join(f"set {format_key((*path, name))}" for name in needed))

    def is_heeded(self, component: str, name: str, signature: Signature) -> bool:
        """Not an argument that is nearly one of a logger that takes any and ignores it; what was meant for another logger may stay."""
        takes_any = component in logger_config.TAKE_ANY
        return not takes_any or name in signature.names or closest(name, signature.names, cutoff=75) is None

    def is_beside(self, component: str) -> bool:
        """Whether it may be a module of the experiment's folder, where trainings start; those are not looked into."""
        name = component.split(".")[0]
        top = self.experiment.folder / name
        return name.isidentifier() and (top.is_dir() or top.with_suffix(".py").is_file())

    def passed(self, node: NodePath, signature: Signature) -> frozenset[str]:
        """The arguments that the recipe gives a component itself; all that it needs, where the source cannot tell."""
        ways = self.reads.made.get(node)
        if not ways or any(node[:end] in self.reads.handed for end in range(len(node) + 1)):
            return signature.required
        names = frozenset(path[-1] for path in self.reads.stored if path[:-1] == node)
        for way in ways:
            if way.positional is None or way.keywords is None:
                return signature.required
            names |= way.keywords | frozenset(signature.positional[: way.positional])
        return names

    def unread(self, path: KeyPath, node: Any) -> Iterator[Finding]:
        """The keys below `node` that the recipe does not read; of a node that it does not read, only that."""
        names = _names(path)
        if not self.reads.may_read(names):
            yield Finding(path, f"{self.composer.recipe} never reads '{format_key(path)}'", self.read_hint(names), "warning")
        elif isinstance(node, dict) and not self.reads.takes_all(names):
            for key in node.keys() - {COMPONENT}:
                yield from self.unread((*path, key), node[key])

    def read_hint(self, names: NodePath) -> str | None:
        hint = closest(names[-1], self.reads.names(names[:-1]), cutoff=75)
        return hint or (self.root_hint(names[-1]) if len(names) > 1 else None)

    def root_hint(self, name: str) -> str | None:
        return f"{self.composer.recipe} reads '{name}' at the root" if name in self.reads.names(()) else None

    # Where it stands

    def problem(self, finding: Finding, run: Run) -> Problem | None:
        """The finding at the place that set its key; None for what another check says, or for a warning of nobody's."""
        path, source = finding.path, self.experiment.source
        if is_unknown(self.experiment, ".".join(_names(path))):
            return None
        if finding.level == "warning" and self.is_referred_to(path, run.config):
            return None
        if override := _within(path, self.experiment.override):
            is_said = path == ("checkpointer", "save_adapter_weights_only")  # by override_checks
            return None if is_said else source.problem(("controls", "_override", *override), finding.what, finding.fix, finding.level)
        name = self.setting(path, run, finding.level == "warning")
        if name is not None and self.composer.key_fault(torchtune_key(name)) is not None:
            return None  # said by check_names
        if name in self.where:
            return source.problem(self.where[name], finding.what, finding.fix, finding.level)
        if name is not None:
            return Problem(COMMAND_LINE, finding.what, name, fix=finding.fix, level=finding.level)
        if own := self.own_base():
            if _within(path, own.data):
                return own.problem(path, finding.what, finding.fix, finding.level)
        if finding.level == "warning":
            return None
        what = f"{format_key(path).removesuffix(f'.{COMPONENT}')}: {finding.what}"
        return source.problem(("framework_config", "base_config"), what, finding.fix, finding.level)

    def setting(self, path: KeyPath, run: Run, below: bool) -> str | None:
        """The setting of `run` that is the key or holds it; with `below`, also one of a key that it holds."""
        key = ".".join(_names(path))
        for name in {**run.params, **run.settings}:
            other = torchtune_key(name)
            if f"{key}.".startswith(f"{other}.") or (below and other.startswith(f"{key}.")):
                return name
        return None

    def own_base(self) -> YamlSource | None:
        """The base config where it is a file of the user's."""
        name = self.composer.base_name
        if name in torchtune_catalog.base_configs():
            return None
        try:
            source = read_yaml(self.experiment.path(name))
        except (ExperimentError, ValueError):  # YAML that OmegaConf reads otherwise
            return None
        return None if source.problems else YamlSource(name, source.data, source.lines)

    def is_referred_to(self, path: KeyPath, config: Mapping[str, Any]) -> bool:
        """Whether a value of the config is of the key: `${name}`, or `${.name}`, which starts at its own node."""
        key = ".".join(_names(path))
        for dots, other in re.findall(r"\$\{(\.*)([\w.]+)\}", json.dumps(config, default=str)):
            if f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}.") or (dots and key.endswith(f".{other}")):
                return True
        return False


def _shape(settings: Mapping[str, Any]) -> tuple:
    """What of `settings` decides which keys and components their config has; most values only change other values."""
    return tuple([(name, None if _is_plain(name, value) else json.dumps(value, default=str)) for name, value in settings.items()])


def _is_plain(name: str, value: Any) -> bool:
    kind = type(value)
    if kind is int or kind is float:
        return True
    return name != "dataset" and not name.endswith(COMPONENT) and kind not in (dict, list) and "${" not in str(value)


def _names(path: KeyPath) -> NodePath:
    return tuple(ENTRY if isinstance(part, int) else part for part in path)


def _within(path: KeyPath, node: Any) -> KeyPath | None:
    """`path` as far as `node` goes, if it holds the key: a list or a plain value there is the whole of it."""
    for index, part in enumerate(path):
        if not isinstance(node, dict):
            return path[:index] or None
        if part not in node:
            return None
        node = node[part]
    return path


def _missing(component: str) -> tuple[str, str | None]:
    """Why there is no such component, and what to do."""
    parts = component.split(".")
    if all(part.isidentifier() for part in parts):
        if source_names.installed(parts[0]) is None and source_names.find(parts[0]) is source_names.Missing.ABSENT:
            near = closest(parts[0], OURS, cutoff=85) if parts[0] not in OURS else None
            return f"{component} is of the package {parts[0]}, which is not installed", near or f"pip install {parts[0]}"
        for end in range(1, len(parts)):
            module, name = ".".join(parts[:end]), parts[end]
            if source_names.find(f"{module}.{name}") is source_names.Missing.ABSENT:
                return f"there is no '{name}' in {module}", closest(name, source_names.names_in(module))
        return f"{component} is a module, and no component", None
    return f"'{component}' is no dotted path of a component", None
