"""What the installed torchtune offers: its configs, its recipes, and the arguments that components accept.

All of it is read from files, because importing torchtune costs seconds. So a signature is what the
source code says: a decorator is taken to keep the arguments of what it decorates. Where torchtune
itself is wanted and is not installed, a LookupError says so.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from cruijff_kit.source_names import Definition, Missing, evaluate, find, last_name, lineage, scope, statements

ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}  # of the dtypes that recipes train in


@dataclass(frozen=True)
class BaseConfig:
    """A config that torchtune ships, and the recipe that it belongs to."""

    name: str
    recipe: str
    path: Path


@dataclass(frozen=True)
class Signature:
    """The arguments that a component accepts by keyword.

    `required` have no default; a recipe passes some of them itself (params, tokenizer, …). `positional` are those
    that may also be given by their place, in order.
    """

    names: frozenset[str]
    required: frozenset[str]
    var_keyword: bool
    positional: tuple[str, ...] = field(default=(), compare=False)

    def accepts(self, name: str) -> bool:
        return self.var_keyword or name in self.names


@cache
def base_configs() -> dict[str, BaseConfig]:
    """torchtune's configs by the name that `tune ls` shows; a listed file may be missing from the package.

    A name that several recipes list goes to the first of them (0.6.1 has no such name); `tune run RECIPE
    --config NAME` looks in RECIPE's list, then in all in this order (torchtune/_cli/run.py, _get_config).
    """
    folder = _torchtune().parent / "recipes" / "configs"
    configs: dict[str, BaseConfig] = {}
    for recipe in _registry():
        for config in recipe.configs:
            configs.setdefault(config.name, BaseConfig(config.name, recipe.name, folder / config.file_path))
    return configs


@cache
def recipes() -> dict[str, Path]:
    """The source file of each of torchtune's recipes, by name."""
    folder = _torchtune().parent / "recipes"
    return {recipe.name: folder / recipe.file_path for recipe in _registry()}


@cache
def distributed_recipes() -> frozenset[str]:
    """Those of its recipes that `tune run` gives to torchrun."""
    return frozenset(recipe.name for recipe in _registry() if recipe.supports_distributed)


@cache
def _registry() -> list[Any]:
    """What `tune ls` lists; its module holds dataclasses only, and imports none of torchtune."""
    spec = importlib.util.spec_from_file_location("_recipe_registry", _torchtune() / "_recipe_registry.py")
    registry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(registry)
    return registry.get_all_recipes()


def _torchtune() -> Path:
    spec = importlib.util.find_spec("torchtune")
    if spec is None or spec.origin is None:
        raise LookupError("torchtune is not installed\n  pip install torchtune")
    return Path(spec.origin).parent


def read_config(path: str | Path) -> dict[str, Any]:
    """The YAML of a torchtune config, as OmegaConf reads it (`3e-4` is a float), with `${…}` left as text.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError: it is no YAML, or has a key twice.
        ValueError: it is no mapping.
    """
    with open(path, encoding="utf-8") as file:
        loader = _yaml_loader()(file)
        try:
            config = loader.get_single_data()
        finally:
            loader.dispose()
    if config is not None and not isinstance(config, dict):
        raise ValueError(f"a config is a mapping of keys to values, this is a {type(config).__name__}")
    return config or {}


@cache
def _yaml_loader() -> type:
    """OmegaConf's own loader on libyaml's parser, ten times as fast; without libyaml, OmegaConf's."""
    import yaml
    from omegaconf._utils import get_yaml_loader

    omegaconf_loader = get_yaml_loader()
    if not yaml.__with_libyaml__:
        return omegaconf_loader

    class Loader(yaml.cyaml.CParser, omegaconf_loader):
        def __init__(self, stream: Any) -> None:
            yaml.cyaml.CParser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


def download_command(path: str | Path) -> str | None:
    """The `tune download …` of a config's header comment; several, as for two models, are joined by `&&`."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    header = takewhile(lambda line: line.startswith("#") or not line.strip(), lines)
    comment = "\n".join(line.lstrip("#").strip() for line in header).replace("\\\n", " ")
    downloads = [" ".join(line.split()) for line in comment.splitlines() if line.startswith("tune download ")]
    return " && ".join(downloads) or None


def signature(component: str) -> Signature | None:
    """What the `_component_` of that dotted path accepts; None if it is not found, or no Python source says."""
    found = find(component)
    return _signature(found) if isinstance(found, Definition) else None


def component_exists(component: str) -> bool | None:
    """Whether a component has that dotted path here; None if source code cannot tell.

    A module is no component. What belongs to a package that is not installed does not exist.
    """
    found = find(component)
    return None if found is Missing.UNKNOWN else isinstance(found, Definition)


def is_lora(config: Mapping[str, Any]) -> bool:
    """Whether the config's model has LoRA adapters."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        return False
    accepted = signature(model.get("_component_"))
    return "lora_rank" in model or (accepted is not None and "lora_rank" in accepted.names)


@cache
def _signature(found: Definition) -> Signature | None:
    stub = _stub(found)
    if stub is None:
        return None
    try:
        parameters = inspect.signature(stub).parameters.values()
    except ValueError:  # a partial whose arguments do not fit
        return None
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return Signature(
        names=frozenset(each.name for each in named),
        required=frozenset(each.name for each in named if each.default is each.empty),
        var_keyword=any(each.kind is each.VAR_KEYWORD for each in parameters),
        positional=tuple(each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)),
    )


def _stub(found: Definition, seen: tuple[ast.AST, ...] = ()) -> Callable[..., None] | None:
    """A function that does nothing and accepts what the component accepts."""
    match found.node:
        case ast.FunctionDef(args=arguments) | ast.AsyncFunctionDef(args=arguments):
            return _accepting(arguments)
        case ast.ClassDef():
            return _constructor(lineage(found, seen))
        case ast.Call(args=[target, *given], keywords=keywords) as call if last_name(call) == "partial":
            wrapped = evaluate(target, found.module, (*seen, call))
            stub = _stub(wrapped, (*seen, call)) if isinstance(wrapped, Definition) else None
            if stub and not any(isinstance(each, ast.Starred) for each in given):
                return partial(stub, *given, **{each.arg: None for each in keywords if each.arg})
    return None


def _constructor(classes: Sequence[Definition]) -> Callable[..., None] | None:
    """`classes` is a class and its ancestors: the first that says how to make one decides."""
    for index, (node, _) in enumerate(classes):
        if not isinstance(node, ast.ClassDef):
            return None
        names = scope(node.body)
        if written := names.get("__init__") or names.get("__new__"):
            return partial(_accepting(written[-1].args), None) if isinstance(written[-1], ast.FunctionDef) else None
        if _fields(node):
            return _dataclass(classes[index:])
    return lambda: None


def _dataclass(classes: Sequence[Definition]) -> Callable[..., None] | None:
    fields: dict[str, ast.expr | None] = {}
    for node, _ in reversed(classes):
        if not isinstance(node, ast.ClassDef):
            return None
        fields |= _fields(node)
    names = [ast.arg(name) for name in fields]
    return _accepting(ast.arguments([], [], None, names, list(fields.values()), None, []))


def _fields(node: ast.ClassDef) -> dict[str, ast.expr | None]:
    """The default of each of a dataclass's own fields, None where it has none; empty for other classes."""
    fields: dict[str, ast.expr | None] = {}
    is_dataclass = any(last_name(decorator) == "dataclass" for decorator in node.decorator_list)
    for statement in statements(node.body) if is_dataclass else ():
        match statement:
            case ast.AnnAssign(annotation=kind) if last_name(kind) in ("ClassVar", "KW_ONLY"):
                continue
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call() as call) if last_name(call) == "field":
                options = {each.arg: each.value for each in call.keywords}
                if not isinstance(options.get("init"), ast.Constant) or options["init"].value:
                    fields[name] = options.get("default") or options.get("default_factory")
            case ast.AnnAssign(target=ast.Name(id=name), value=value):
                fields[name] = value
    return fields


def _accepting(arguments: ast.arguments) -> Callable[..., None]:
    """A function with these arguments; defaults become None and annotations go, so that no code of theirs runs."""
    bare = copy.deepcopy(arguments)
    for node in ast.walk(bare):
        if isinstance(node, ast.arg):
            node.annotation = None
    bare.defaults = [ast.Constant(None) for _ in bare.defaults]
    bare.kw_defaults = [default and ast.Constant(None) for default in bare.kw_defaults]
    function = ast.Expression(ast.Lambda(bare, ast.Constant(None)))
    return eval(compile(ast.fix_missing_locations(function), "<signature>", "eval"))
