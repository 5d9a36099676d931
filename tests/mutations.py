"""Hypothesis strategies that spoil a good experiment.yaml: its values, its keys, its text."""

from __future__ import annotations

import copy
import math
from typing import Any

import yaml
from hypothesis import strategies as st

from cruijff_kit.parameters import PARAMETERS

INTERPOLATIONS = [
    "${a}", "${b}", "${lora_alpha}", "${lora_rank}", "${lora_rank.x}", "${learning_rate}", "${nobody}", "${", "${}", "${mul:", "${mul:2,${lora_rank}",
    "${mul:2,${lora_alpha}}", "${oc.env:HOME}", "${oc.env:NOBODY}", "${oc.env:NOBODY,null}", "${oc.env:HOME,~/x}", "${oc.decode:'[1'}",
    "${oc.create:{a: ${a}}}", "${oc.select:a,${b}}", "${oc.dict.keys:a}", "${oc.deprecated:a}", "${mul:1e308,1e308}", "${mul:9**9}", "${div:1,0}",
    "${floordiv:1,0}", "${div:1e999,1e999}", "${mul:a,1000000000}", "${mul:[1],1000000000}", "${mul:}", "${sub:1}", "${min:}", "${max:null,1}",
    "${min:a,1}", "${add:[],1}", "${add:${add:${add:${lora_rank},1},1},1}", "${mul:" + "9" * 4000 + "," + "9" * 4000 + "}", "${mul:2," * 200 + "1" + "}" * 200,
    "${output_dir}", "${output_dir}/../..", "${hydra:run.dir}", "${a}${b}", "x${lora_rank}y", "\\${lora_rank}", "\\\\${lora_rank}", "$${lora_rank}",
    "${..lora_rank}", "${.}", "${lora_rank[0]}", "${mul:${a},${b}}", "${oc.env:${oc.env:HOME}}", "???",
]  # fmt: skip

PLACES = [
    "../../x", "../..", "..", ".", "/", "/etc/passwd", "/dev/zero", "/dev/stdin", "/dev/full", "/proc/self/mem", "~", "~nobody/x", "~/x", "configs", "configs/",
    "results/..", "scripts", ".cruijff-kit", "evals", "./evals/../../x", "data/train.jsonl", "data/../../canary", "experiment.yaml", "base.yaml", "a/" * 200,
    "n" * 300, "x.yaml", "evals/tasks.py", "canary.csv", "../canary.jsonl", "/dev/zero.csv", "data", "file:///etc/passwd", "http://x/y.json", "con\x00nul", "x.parquet",
    "experiment.yaml/x", "data/train.jsonl/x", "configs/train_000.yaml", "results/run_000", "..\\x", "${output_dir}/../../x",
]  # fmt: skip

NAMES = [
    "", " ", "a\nb", "a\r\nb", "a'b", 'a"b', "$(touch x)", "`touch x`", "; touch x", "%s", "{x}", "{0}", "{{", "-rf", "--force", "#x", "a: b", "- a", "é", "\u202e",
    "\U0001f600", "\ufeff", "\u2028", "\x85", "\x07", "\x1b[31m", "\x7f", "\ud800", "true", "null", "1e-5", "yes", "0x1F", "010", "1_0", "<<", "*a", "&a", "!x",
    "__class__", "_component_", "_override", "..", "model..lora_rank", ".lora_rank", "lora_rank.", "model.lora_rank", "model.lora_rank.x", "optimizer", "optimizer.lr",
    "optimizer._component_", "model._component_", "os.system", "torchtune.datasets.alpaca_dataset", "torch.optim.SGD", "dataset", "dataset.packed", "learning_rate",
    "hydra", "defaults", "torchtune", "output_dir", "checkpointer.checkpoint_dir", "checkpointer.checkpoint_files", "a" * 5000, "\\", "\\'", "'", "'''", "0", "[", "{}",
]  # fmt: skip

NUMBERS = [
    0, 1, -1, 2, 3, 10**4000, -(10**4000), 2**31, 2**63, 2**64 - 1, 2**64, 1e308, 5e-324, -0.0, math.inf, -math.inf, math.nan, 1e-5, 0.1, 1.0, 8.0, True, False, None,
]  # fmt: skip


# below these stands what the schema leaves open, and faults hide deeper
FREE = ("variables", "controls", "exclude", "args", "generate", "output", "framework_config", "question", "tasks_dir", "file", "function")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


SCALARS = (
    st.sampled_from([*INTERPOLATIONS, *PLACES, *NAMES, *NUMBERS])
    | st.text(max_size=20)
    | st.text(st.characters(exclude_categories=()), max_size=5)
    | st.integers()
    | st.floats()
    | st.dates().map(str)
)
KEYS = st.sampled_from(NAMES) | st.sampled_from([*PARAMETERS, *(parameter.key for parameter in PARAMETERS.values())]) | st.text(max_size=5)
VALUES = st.one_of(
    SCALARS,
    st.sampled_from([[], {}, [[]], [{}], {"": {}}, nested(40), nested(60), [None] * 100, list(range(3000)), {"_component_": 1}, {"_component_": "os.system"}]),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8),
).map(copy.deepcopy)  # what is sampled is spoiled further


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in `node`, but its own."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in children for found in [(*path, key), *places(value, (*path, key))]]


def at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


@st.composite
def spoiled_values(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """`good` with one to three of its values replaced, removed, renamed, added, copied or wrapped."""
    spec = copy.deepcopy(good)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        paths = places(spec)
        free = [path for path in paths if path[0] in FREE or {*path[-2:]} & {*FREE}]
        if paths:
            _spoil(draw, spec, draw(st.sampled_from(draw(st.sampled_from([paths, free or paths, free or paths])))), draw(st.sampled_from(paths)))
    return yaml.dump(spec, sort_keys=False, allow_unicode=draw(st.booleans())).encode(errors="surrogatepass")


def _spoil(draw: st.DrawFn, spec: dict[str, Any], path: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    parent, key = at(spec, path[:-1]), path[-1]
    how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add", "copy", "wrap"]))
    if how == "replace":
        parent[key] = draw(VALUES)
    elif how == "remove":
        del parent[key]
    elif how == "rename" and isinstance(parent, dict):
        name, value = draw(KEYS), parent.pop(key)
        parent[name] = value
    elif how == "add":
        if isinstance(parent, dict):
            parent[draw(KEYS)] = draw(VALUES)
        else:
            parent.insert(key, draw(VALUES))
    elif how == "copy":
        parent[key] = copy.deepcopy(at(spec, other))
    else:
        parent[key] = draw(st.sampled_from([lambda x: [x], lambda x: {"x": x}, str, lambda x: [x, x]]))(parent[key])


SNIPPETS = [
    b"\t", b" ", b"- ", b": ", b"? ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!python/object/apply:os.system ['touch x']", b"!!python/name:os.system ",
    b"<<: *a", b"<<: {x: 1}", b"%YAML 1.1\n---\n", b"---\n", b"...\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\xe9", b"\r", b"\r\n", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8",
    b"'", b'"', b"|\n", b">-\n", b"#", b"!!binary aGk=", b"!!set {x}", b"!!float 1", b"${", b"}", b"\\", b"\x1b[2J", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"a: &a [*a]\n", b"&a\nb: *a\n", b"? [a]\n: b\n", b"1: 2\n", b"null: x\n", b"~: x\n", b"\"\\ud800\"", b"\"\\0\"", b"'\n'", b"!", b"! x", b"=", b"0o9", b".inf",
]  # fmt: skip


@st.composite
def spoiled_text(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with one to four edits of its bytes and lines, perhaps in another encoding."""
    text = good
    for _ in range(draw(st.integers(1, 4))):
        lines = text.splitlines(keepends=True) or [b""]
        at_byte, at_line = draw(st.integers(0, len(text))), draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(["insert", "insert", "cut", "line", "value", "drop", "move", "double", "indent"]))
        if how == "insert":
            text = text[:at_byte] + draw(st.sampled_from(SNIPPETS) | st.binary(max_size=3)) + text[at_byte:]
        elif how == "cut":
            text = text[:at_byte] + text[at_byte + draw(st.integers(1, 40)) :]
        else:
            _edit_line(draw, lines, at_line, how)
            text = b"".join(lines)
    return draw(st.sampled_from([bytes, bytes, bytes, bytes, _bom, _windows, _latin, _wide]))(text)


def _edit_line(draw: st.DrawFn, lines: list[bytes], index: int, how: str) -> None:
    other = draw(st.integers(0, len(lines) - 1))
    if how == "line":
        lines.insert(index, lines[index][: len(lines[index]) - len(lines[index].lstrip())] + draw(st.sampled_from(SNIPPETS)) + b"\n")
    elif how == "value":
        lines[index] = lines[index].split(b":")[0] + b": " + draw(st.sampled_from(SNIPPETS)) + b"\n"
    elif how == "drop":
        del lines[index]
    elif how == "move":
        lines.insert(other, lines.pop(index))
    elif how == "double":
        lines.insert(other, lines[index])
    else:
        lines[index] = draw(st.sampled_from([b"  ", b" ", b"\t", b"- "])) + lines[index]


def _bom(text: bytes) -> bytes:
    return b"\xef\xbb\xbf" + text


def _windows(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def _latin(text: bytes) -> bytes:
    return text.replace(b"e", b"\xe9", 1)


def _wide(text: bytes) -> bytes:
    return text.decode("utf-8", errors="replace").encode("utf-16")
