"""Where a recipe's config goes: followed through its source, from the entry through variables, attributes and calls.

It knows what a recipe does with a node of the config, and nothing of what a config holds. Nothing is
imported and no values are computed; of two branches both are followed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cruijff_kit.recipe_files import Family, Function, ancestors, config_parameters, is_static, methods_named
from cruijff_kit.source_names import Definition, Import, Module, bindings, evaluate, last_name

NodePath = tuple[str, ...]  # of a torchtune config; `*` is each entry of a list
Paths = frozenset[NodePath]

NOTHING: Paths = frozenset()
ENTRY = "*"
DEEPEST = 4

# They show a config, or look at what kind of value it is: that is no reading.
SHOWING = {"log_config", "info", "debug", "warning", "log_rank_zero", "print", "to_yaml", "isinstance", "type", "bool", "resolve"}
SHOWING |= {"set_struct", "set_readonly", "is_config", "is_dict", "is_list", "is_missing"}


@dataclass(frozen=True)
class Instantiation:
    """One `config.instantiate` of a node: what the recipe passes beside the node's own arguments.

    `positional` is None, and `keywords` is, where the source does not say how many or which.
    """

    positional: int | None
    keywords: frozenset[str] | None


def follow(recipe: Module) -> ConfigFlow:
    """Everything that `recipe` does with its config."""
    flow = ConfigFlow()
    flow.start(recipe)
    before = None
    while flow.size() != before:
        before = flow.size()
        for function in list(flow.functions):
            flow.read(function)
    return flow


class ConfigFlow(ast.NodeVisitor):
    """The config on its way through functions. `visit` gives the nodes of the config that an expression is.

    `keys` are those that are named, `handed` the nodes that go to something that may do anything with them,
    `listed` those that are gone through, `made` those that are instantiated; `taken` are keys that are removed from
    their node, `stored` those that are put in. With `unknown_base` there is source that was not seen.
    """

    def __init__(self) -> None:
        self.keys: set[NodePath] = set()
        self.handed: set[NodePath] = set()
        self.listed: set[NodePath] = set()
        self.taken: set[NodePath] = set()
        self.stored: set[NodePath] = set()
        self.made: dict[NodePath, set[Instantiation]] = {}
        self.functions: dict[Function, Module] = {}
        self.families: dict[ast.ClassDef, Family] = {}
        self.variables: dict[tuple[Function, str], Paths] = {}
        self.attributes: dict[str, Paths] = {}
        self.returns: dict[Function, Paths] = {}
        self.unknown_base = False
        self.scope: Function
        self.module: Module

    def size(self) -> tuple[int, ...]:
        sets = self.keys, self.handed, self.listed, self.taken, self.stored, self.functions
        maps = self.variables, self.attributes, self.returns, self.made
        return *map(len, sets), *(sum(map(len, each.values())) for each in maps)

    def start(self, recipe: Module) -> None:
        for node in (node for nodes in bindings(recipe).values() for node in nodes):
            if isinstance(node, ast.ClassDef):
                self.add_class(Definition(node, recipe))
            elif isinstance(node, Function):
                self.functions[node] = recipe
        for function in self.functions:
            self.variables.update(((function, name), frozenset({()})) for name in config_parameters(function))

    def add_class(self, found: Definition) -> Family:
        if found.node not in self.families:
            classes = list(ancestors(found))
            self.unknown_base |= None in classes
            self.families[found.node] = [each.node for each in classes if each]
            for each in filter(None, classes):
                self.functions.update((node, each.module) for node in each.node.body if isinstance(node, Function))
        return self.families[found.node]

    def read(self, function: Function) -> None:
        self.scope, self.module = function, self.functions[function]
        for statement in function.body:
            self.visit(statement)

    # What an expression is

    def visit(self, node: ast.AST) -> Paths:
        return super().visit(node) or NOTHING

    def generic_visit(self, node: ast.AST) -> Paths:
        """Whatever is not known here may read all of a node."""
        for child in ast.iter_child_nodes(node):
            self.handed.update(self.visit(child))
        return NOTHING

    def look_at(self, *nodes: ast.AST | None) -> Paths:
        """Visits without taking it for reading more than what is named."""
        return frozenset().union(*(self.visit(node) for node in nodes if node is not None))

    def key_of(self, nodes: Paths, key: ast.expr) -> Paths:
        """The key of a node that is named by a text; one that is computed may be any."""
        found = evaluate(key, self.module) if isinstance(key, (ast.Name, ast.Attribute)) else None
        value = found.node if isinstance(found, Definition) else key
        if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
            self.handed.update(nodes)
            return NOTHING
        return frozenset(path + tuple(value.value.split(".")) for path in nodes)

    def child(self, nodes: Paths, key: ast.expr) -> Paths:
        return self.named(self.key_of(nodes, key))

    def named(self, paths: Iterable[NodePath]) -> Paths:
        paths = self.bounded(paths)
        self.keys |= paths
        return paths

    def bounded(self, paths: Iterable[NodePath]) -> Paths:
        """Without what a loop or a recursion would name for ever: such nodes count as handed on."""
        paths = frozenset(paths)
        self.handed.update(path[:DEEPEST] for path in paths if len(path) > DEEPEST)
        return frozenset(path for path in paths if len(path) <= DEEPEST)

    def visit_Name(self, node: ast.Name) -> Paths:
        return self.variables.get((self.scope, node.id), NOTHING)

    def visit_Attribute(self, node: ast.Attribute) -> Paths:
        owner = self.visit(node.value)
        return self.named((*path, node.attr) for path in owner) if owner else self.attributes.get(node.attr, NOTHING)

    def visit_Subscript(self, node: ast.Subscript) -> Paths:
        owner = self.visit(node.value)
        return self.child(owner, node.slice) if owner else self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> Paths:
        self.look_at(node.test)
        return self.look_at(node.body, node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> Paths:
        return self.look_at(*node.values)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> Paths:
        return self.bind(node.target, self.visit(node.value))

    def visit_Compare(self, node: ast.Compare) -> Paths:
        nodes = self.look_at(*node.comparators)
        if nodes and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            self.child(nodes, node.left)
        self.look_at(node.left)
        return NOTHING

    def visit_FormattedValue(self, node: ast.FormattedValue) -> Paths:
        self.look_at(node.value)
        return NOTHING

    # Statements

    def visit_If(self, node: ast.If | ast.While | ast.Assert) -> Paths:
        self.look_at(*ast.iter_child_nodes(node))
        return NOTHING

    visit_While = visit_Assert = visit_Expr = visit_UnaryOp = visit_If

    def visit_Assign(self, node: ast.Assign) -> Paths:
        for target in node.targets:
            self.assign(target, node.value)
        return NOTHING

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Paths:
        return self.assign(node.target, node.value) if node.value else NOTHING

    def assign(self, target: ast.expr, value: ast.expr) -> Paths:
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = list(zip(target.elts, value.elts))
        for name, given in pairs:
            self.bind(name, self.visit(given))
        return NOTHING

    def bind(self, target: ast.expr, nodes: Paths) -> Paths:
        match target:
            case ast.Name(id=name):
                self.variables[self.scope, name] = self.variables.get((self.scope, name), NOTHING) | nodes
            case ast.Attribute(value=owner, attr=name):
                self.stored.update((*path, name) for path in self.visit(owner))
                if not self.visit(owner):
                    self.attributes[name] = self.attributes.get(name, NOTHING) | nodes
            case ast.Subscript(value=owner, slice=key):
                self.stored |= self.key_of(self.visit(owner), key)
                self.handed |= nodes
            case _:
                self.handed |= nodes
        return nodes

    def visit_For(self, node: ast.For | ast.comprehension) -> Paths:
        nodes = self.visit(node.iter)
        self.listed |= nodes
        self.bind(node.target, self.bounded((*path, ENTRY) for path in nodes))
        for statement in getattr(node, "body", None) or getattr(node, "ifs", []):
            self.look_at(statement)
        return NOTHING

    visit_comprehension = visit_For

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Paths:
        self.look_at(*node.generators)
        self.handed |= self.visit(node.elt)
        return NOTHING

    visit_SetComp = visit_GeneratorExp = visit_ListComp

    def visit_Return(self, node: ast.Return) -> Paths:
        if node.value is not None:
            self.returns[self.scope] = self.returns.get(self.scope, NOTHING) | self.visit(node.value)
        return NOTHING

    # Calls

    def visit_Call(self, node: ast.Call) -> Paths:
        name, function = last_name(node.func), node.func
        owner = self.visit(function.value) if isinstance(function, ast.Attribute) else NOTHING
        if owner:
            return self.method_of_node(node, name, owner)
        if name in ("getattr", "hasattr", "select") and len(node.args) > 1:
            return self.child(self.visit(node.args[0]), node.args[1]) | self.look_at(*node.args[2:])
        given = [(None, self.visit(each)) for each in node.args]
        given += [(each.arg or "**", self.visit(each.value)) for each in node.keywords]
        if name == "instantiate" and given:
            return self.instantiate(node, [nodes for _, nodes in given])
        nodes = frozenset().union(*(nodes for _, nodes in given))
        if name in SHOWING or not nodes:
            return NOTHING
        targets = list(self.targets(node, nodes))
        if not targets or any(isinstance(each, ast.Starred) for each in node.args):
            self.handed |= nodes
        return frozenset().union(*(self.enter(each, bound, given) for each, bound in targets))

    def method_of_node(self, call: ast.Call, name: str, owner: Paths) -> Paths:
        if name in ("get", "pop", "setdefault") and call.args:
            found = self.child(owner, call.args[0])
            self.taken |= found if name == "pop" else NOTHING
            self.stored |= found if name == "setdefault" else NOTHING
            return found | self.look_at(*call.args[1:])
        self.handed |= owner
        for each in (*call.args, *(keyword.value for keyword in call.keywords)):
            self.handed |= self.visit(each)
        return owner if name == "copy" else NOTHING

    def instantiate(self, call: ast.Call, given: list[Paths]) -> Paths:
        """torchtune.config.instantiate(node, …): what else is given goes to the component."""
        for nodes in given[1:]:
            self.handed |= nodes
        exact = not any(isinstance(each, ast.Starred) for each in call.args)
        names = [each.arg for each in call.keywords]
        way = Instantiation(len(call.args) - 1 if exact else None, None if None in names else frozenset(map(str, names)))
        for path in given[0]:
            self.made.setdefault(path, set()).add(way)
        return NOTHING

    def targets(self, call: ast.Call, nodes: Paths) -> Iterator[tuple[Function, bool]]:
        """The functions that a call may run, and whether their first argument is given by the call's owner.

        Those of other modules are followed where they get the whole config: they seldom read below a key of it.
        """
        function = call.func
        first = next((each.id for each in ast.walk(function) if isinstance(each, ast.Name)), "")
        here = bindings(self.module).get(first)
        if isinstance(function, ast.Attribute) and here is None:
            yield from self.methods(ast.unparse(function.value), function.attr)
            return
        found = evaluate(function, self.module) if () in nodes or (here and not isinstance(here[-1], Import)) else None
        if not isinstance(found, Definition):
            return
        if isinstance(found.node, Function):
            self.functions.setdefault(found.node, found.module)
            yield found.node, False
        elif isinstance(found.node, ast.ClassDef):
            yield from ((each, True) for each in methods_named(self.add_class(found), "__init__")[:1])

    def methods(self, owner: str, name: str) -> Iterator[tuple[Function, bool]]:
        """The method that a class of the recipe has by that name: the owner's class where it is known, or else any."""
        for family in self.families.values():
            here = next((index for index, each in enumerate(family) if self.scope in each.body), None)
            if here is not None or owner not in ("self", "cls", "super()"):
                found = methods_named(family[here + 1 :] if owner == "super()" and here is not None else family, name)
                yield from ((each, not is_static(each)) for each in found[:1])

    def enter(self, function: Function, bound: bool, given: list[tuple[str | None, Paths]]) -> Paths:
        """Binds a function's parameters to what it is called with."""
        arguments = function.args
        order = [each.arg for each in (*arguments.posonlyargs, *arguments.args)][bound:]
        names = {*order, *(each.arg for each in arguments.kwonlyargs)}
        for index, (keyword, nodes) in enumerate(given):
            name = keyword or (order[index] if index < len(order) else "*")
            if name in names:
                self.variables[function, name] = self.variables.get((function, name), NOTHING) | nodes
            else:
                self.handed |= nodes
        return self.returns.get(function, NOTHING)
