"""The top-level statements of a Python file: what each binds and names, and whether running it does more than that."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# Decorators that mark what they decorate and change nothing else. Inspect's hooks, modelapi, sandboxenv,
# approver and score_reducer are not among them: what they register is used without being named.
INSPECT_MARKS = frozenset({"task", "solver", "scorer", "metric", "tool", "agent"})
MARKS = frozenset(
    "builtins.property builtins.staticmethod builtins.classmethod functools.cache functools.lru_cache "
    "dataclasses.dataclass typing.overload abc.abstractmethod".split()
)
BASES = frozenset(
    "builtins.object builtins.Exception builtins.ValueError abc.ABC enum.Enum enum.IntEnum enum.StrEnum "
    "typing.NamedTuple typing.Protocol typing.TypedDict pydantic.BaseModel".split()
)
# Expressions without effect where their parts have none. Comparisons (`in`), stars and comprehensions use up an
# iterator; `>>` is what pipelines are built with.
HARMLESS = (
    ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.Slice, ast.IfExp, ast.JoinedStr,
    ast.FormattedValue, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.FloorDiv, ast.Mod, ast.Pow, ast.BitOr, ast.expr_context, ast.arguments, ast.arg, ast.keyword,
)  # fmt: skip

# What reaches code by other means than its name
DYNAMIC_CALLS = frozenset({"globals", "locals", "vars", "dir", "eval", "exec", "compile", "__import__"})
DYNAMIC_NAMES = frozenset(
    "import_module getmembers getsource _getframe currentframe __builtins__ __dict__ __globals__ __subclasses__ __loader__ "
    "__spec__ f_globals f_locals f_back tb_frame gi_frame cr_frame".split()
)
DYNAMIC_MODULES = frozenset(
    "sys importlib runpy inspect builtins pkgutil imp site gc ctypes code pydoc pickle dill cloudpickle shelve __main__".split()
)


class Unit(NamedTuple):
    """A top-level statement, or one name of an import.

    Args:
        names: what it binds, or is registered as.
        words: whatever it names, if only as text.
        stays: it may do more than bind its names.
        unused: an import that nothing in the file names; it may be there for its effect.
    """

    node: ast.stmt
    names: frozenset[str]
    words: frozenset[str]
    stays: bool
    unused: bool

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, (ast.Import, ast.ImportFrom))


def units(tree: ast.Module) -> list[Unit]:
    """The statements of a file that run when it is imported, in order."""
    statements = [part for node in tree.body for part in _parts(node)]
    scope = _Scope(statements)
    used = {word for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom)) for word in _words(node)}
    docstring = statements[0] if ast.get_docstring(tree, clean=False) is not None else None
    found = []
    for node in statements:
        if _is_main(node):
            continue
        if node is docstring:
            found.append(Unit(node, frozenset({"__doc__"}), frozenset(), False, False))
            continue
        names, is_import = frozenset(_bound(node)), isinstance(node, (ast.Import, ast.ImportFrom))
        words = names if is_import else frozenset(_words(node))
        found.append(Unit(node, names | _registered(node), words, scope.stays(node), is_import and used.isdisjoint(names)))
    return found


def _parts(node: ast.stmt) -> list[ast.stmt]:
    """A statement; an import of several names as several."""
    match node:
        case ast.Import(names=aliases):
            return [ast.Import(names=[alias]) for alias in aliases]
        case ast.ImportFrom(module=module, names=aliases, level=level):
            return [ast.ImportFrom(module=module, names=[alias], level=level) for alias in aliases]
    return [node]


def _is_main(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, which does not run on import."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds in the module, not those inside its functions and classes; `*` for a star import."""
    inside = ast.iter_child_nodes(node)
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
            yield from (name for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names)
            inside = iter((*node.decorator_list, *(node.bases if isinstance(node, ast.ClassDef) else [node.args])))
        case ast.Lambda(args=arguments):
            inside = iter([arguments])
        case ast.alias(name=name, asname=asname):
            yield asname or name.split(".")[0]
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name
    for child in inside:
        yield from _bound(child)


def _registered(node: ast.stmt) -> frozenset[str]:
    """Texts in the decorators: a name under which Inspect finds what is decorated."""
    decorators = node.decorator_list if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else []
    return frozenset(word for decorator in decorators for word in texts(decorator))


def _words(node: ast.AST) -> Iterator[str]:
    """Every identifier in a piece of code, those in texts without blanks (annotations, names to look up) too."""
    for inner in ast.walk(node):
        for _, value in ast.iter_fields(inner):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield from _identifiers(text)


def _identifiers(text: str) -> list[str]:
    text = re.sub(r"\s*([,|])\s*", r"\1", text.strip())
    return [] if re.search(r"\s", text) else re.findall(r"[^\W\d]\w*", text)


def strings(node: ast.AST) -> Iterator[str]:
    """The text constants in a piece of code."""
    yield from (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant) and isinstance(inner.value, str))


def texts(node: ast.AST) -> set[str]:
    """The identifiers in the texts without blanks."""
    return {word for text in strings(node) for word in _identifiers(text)}


def is_dynamic(node: ast.AST) -> bool:
    """Whether code may reach other code by anything but its name; a text with `.py` in it names a file."""
    return any(map(_reaches, ast.walk(node))) or any(re.search(r"\.py\b", text) for text in strings(node))


def _reaches(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return name in DYNAMIC_CALLS or name in DYNAMIC_NAMES
        case ast.Attribute(attr=name):
            return name in DYNAMIC_NAMES
        case ast.alias(name=name):
            return name in DYNAMIC_NAMES or name.split(".")[0] in DYNAMIC_MODULES
        case ast.ImportFrom(module=str(name), level=0):
            return name.split(".")[0] in DYNAMIC_MODULES
    return False


class _Scope:
    """What the names at the top of a file stand for, where they stand for one thing only."""

    def __init__(self, statements: list[ast.stmt]) -> None:
        self._origins: dict[str, set[str]] = {}
        for node in statements:
            for name, origin in self._bindings(node):
                self._origins.setdefault(name, set()).add(origin)

    def _bindings(self, node: ast.stmt) -> Iterator[tuple[str, str]]:
        match node:
            case ast.Import(names=[ast.alias(name=name, asname=asname)]):
                yield (asname, name) if asname else (name.split(".")[0],) * 2
            case ast.ImportFrom(module=str(module), names=[ast.alias(name=name, asname=asname)], level=0):
                yield asname or name, f"{module}.{name}"
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name() | ast.Attribute() as value):
                yield name, self.origin(value)
            case _:
                yield from ((name, "") for name in _bound(node))

    def origin(self, node: ast.AST) -> str:
        """`inspect_ai.task` for whatever the file calls it; empty if it cannot be told."""
        match node:
            case ast.Name(id=name):
                origins = self._origins.get(name, {f"builtins.{name}"})
                return "" if len(origins) > 1 or "*" in self._origins else next(iter(origins))
            case ast.Attribute(value=value, attr=name):
                return f"{owner}.{name}" if (owner := self.origin(value)) else ""
        return ""

    def stays(self, node: ast.stmt) -> bool:
        """Whether running a statement may do more than bind its names."""
        if any(isinstance(inner, ast.Global) for inner in ast.walk(node)) or any(name.startswith("__") for name in _bound(node)):
            return True
        match node:
            case ast.Import():
                return False
            case ast.ImportFrom(module=module, names=[ast.alias(name=name)]):
                return module == "__future__" or name == "*"
            case _:
                return not self._only_binds(node)

    def _only_binds(self, node: ast.stmt) -> bool:
        match node:
            case ast.FunctionDef(args=arguments) | ast.AsyncFunctionDef(args=arguments):
                header = [arguments, *([node.returns] if node.returns else [])]
                return all(map(self._marks, node.decorator_list)) and all(map(self._harmless, header))
            case ast.ClassDef(bases=bases, keywords=[]):
                plain = all(map(self._marks, node.decorator_list)) and all(self.origin(base) in BASES for base in bases)
                return plain and all(isinstance(line, ast.Pass) or self._only_binds(line) for line in node.body)
            case ast.Assign(targets=targets, value=value):
                return all(isinstance(target, ast.Name) for target in targets) and self._harmless(value)
            case ast.AnnAssign(target=ast.Name(), annotation=annotation, value=value):
                return self._harmless(annotation) and (value is None or self._harmless(value))
            case ast.Expr(value=ast.Constant()):
                return True
        return False

    def _marks(self, decorator: ast.expr) -> bool:
        call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
        origin = self.origin(call.func)
        known = origin in MARKS or (origin.startswith("inspect_ai.") and origin.split(".")[-1] in INSPECT_MARKS)
        return known and all(self._harmless(part, metrics=True) for part in (*call.args, *call.keywords))

    def _harmless(self, node: ast.AST, metrics: bool = False) -> bool:
        """Whether an expression has no effect; `metrics` allows calls of Inspect's: `@scorer(metrics=[accuracy()])`."""
        match node:
            case ast.Lambda(args=arguments):
                return self._harmless(arguments)
            case ast.Subscript(value=value, slice=inner):  # list[int]; a defaultdict grows by a look
                return bool(self.origin(value)) and self._harmless(inner)
            case ast.Call(func=function, args=args, keywords=keywords):
                known = metrics and self.origin(function).startswith("inspect_ai.scorer.")
                return known and all(self._harmless(part, metrics) for part in (*args, *keywords))
            case _ if isinstance(node, HARMLESS):
                return all(self._harmless(child, metrics) for child in ast.iter_child_nodes(node))
        return False
