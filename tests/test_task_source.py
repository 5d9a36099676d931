"""What counts as source of a task, and what may change beside it."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import inspect_evals
import pytest

from cruijff_kit import task_source

TASKS = '''"""Questions and answers."""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import accuracy, match, scorer, stderr
from inspect_ai.solver import generate, system_message
import json
import prompts
import package.deep
import common

LIMIT = 5
TEXT: str = "Answer in one word."
TEMPLATE = f"{TEXT} At most {LIMIT} letters."
UNUSED = 1


class Style:
    ending = "."

    def end(self, text):
        return text + self.ending


shorten = lambda text: text[:LIMIT]


def words():
    return shorten(TEMPLATE)


def question(text, style=Style):
    def inner(text):
        return style().end(text) + prompts.SYSTEM
    return inner(text)


@task
def first(split="test"):
    """The first."""
    match split:
        case "test":
            where = package.deep.WHERE
    return Task(dataset=MemoryDataset([Sample(question(words()))]), solver=[generate()], scorer=close())


@task
def second():
    return Task(dataset=MemoryDataset([Sample(common.TEXT)]), scorer=match())


@scorer(metrics=[accuracy(), stderr()])
def close():
    async def score(state, target):
        return state
    return score


if __name__ == "__main__":
    eval(second())
'''

FILES = {
    "tasks.py": TASKS,
    "prompts.py": "from further import MORE\nSYSTEM = 'Be brief.' + MORE\n",
    "further.py": "MORE = ' Be kind.'\n",
    "package/__init__.py": "NAME = 1\n",
    "package/deep.py": "from . import deeper\nfrom .star import *\nWHERE = 'here'\n",
    "package/deeper.py": "X = 1\n",
    "package/star.py": "Y = 1\n",
    "package/other.py": "Z = 1\n",
    "common.py": "TEXT = 'Say A.'\n",
    "lone.py": "Z = 1\n",
    "lib/tool.py": "Z = 1\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "tasks.py"


def edited(tmp_path: Path, edits: dict[str, str], files: dict[str, str] = FILES, function: str = "first") -> str:
    """`same` or `other`: the digest of `files` after the edits, a file's new text or an end for tasks.py (`+…`)."""
    file = write(tmp_path, files)
    before = task_source.digest(file, function)
    write(tmp_path, {name: files[name] + text[1:] if text.startswith("+") else text for name, text in edits.items()})
    return "same" if task_source.digest(file, function) == before else "other"


def replaced(old: str, new: str) -> str:
    assert TASKS.count(old) >= 1, old
    return TASKS.replace(old, new, 1)


ADDED = {
    "same": [
        "@task\ndef third(n=3, text=TEXT):\n    return Task()",
        "@task(name='other', tags=['a'])\ndef third() -> Task:\n    return second()",
        "HELP = 'x' * 3\nALIAS = list[int] | None\n\ndef help():\n    return HELP\n\n@task\ndef third():\n    return help()",
        "@scorer(metrics=[accuracy(), stderr()])\ndef other():\n    pass",
        "mark = task\n\n@mark\ndef third():\n    pass",
        "import inspect_ai as ai\n\n@ai.task\ndef third():\n    pass",
        "from inspect_ai import task as t\n\n@t\ndef third():\n    pass",
        "from inspect_evals.mmlu import mmlu_0_shot\n\n@task\ndef third():\n    return mmlu_0_shot()",
        "import lone\n\n@task\ndef third():\n    return lone.Z",
        "class Other:\n    x: int = 1\n    @property\n    def y(self):\n        return open('x')",
        "from enum import Enum\n\nclass Colour(Enum):\n    RED = 1",
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Row:\n    x: int",
        "async def later():\n    pass",
        "other = lambda: print(1)",
        "def third():\n    return globals()",
        "def third():\n    import sys\n    return sys.path",
        "# a comment\n\n\n",
        "'a text that is nobody's'".replace("y's", "ys"),
        "NOTE: 'str' = 'x'",
    ],
    "other": [
        "print('x')",
        "close()",
        "generate.x = 1",
        "TABLE = {}\nTABLE['a'] = 1",
        "N = int('3')",
        "N = [x for x in ROWS]",
        "N = (y := 3)",
        "N = 3 in ROWS",
        "LIMIT = 6",
        "LIMIT += 1",
        "del TEXT",
        "def close():\n    pass",
        "class Style:\n    pass",
        "def match():\n    pass\n\nfirst = second",
        "if LIMIT:\n    TEXT = 'x'",
        "try:\n    import fast\nexcept ImportError:\n    fast = None",
        "with open('x') as f:\n    pass",
        "for LIMIT in (1, 2):\n    pass",
        "match LIMIT:\n    case 1:\n        TEXT = 2",
        "import monkeypatch",
        "import lone",
        "from lone import *",
        "from __future__ import annotations",
        "__all__ = ['first']",
        "def __getattr__(name):\n    pass",
        "def third(n=close()):\n    pass",
        "def third(n: close()):\n    pass",
        "def third() -> close():\n    pass",
        "@register\ndef third():\n    pass",
        "@task(tags=tags())\ndef third():\n    pass",
        "@task(name='close')\ndef third():\n    pass",
        "from inspect_ai.hooks import hooks\n\n@hooks(name='x', description='y')\nclass Hook:\n    pass",
        "def third():\n    global LIMIT\n    LIMIT = 7",
        "def third():\n    global task\n    task = 7",
        "from mine import task\n\n@task\ndef third():\n    pass",
        "class Other(Style):\n    pass",
        "class Other(metaclass=Style):\n    pass",
        "class Other:\n    x = close()",
        "class Other:\n    print('x')",
        "TABLE = {}\n\ndef register(function):\n    TABLE[function.__name__] = function\n    return function\n\n@register\ndef third():\n    pass",
    ],
}


@pytest.mark.parametrize(("expected", "text"), [(expected, text) for expected, texts in ADDED.items() for text in texts])
def test_what_is_added_below_counts_if_it_may_reach_the_task(tmp_path, expected, text):
    assert edited(tmp_path, {"tasks.py": f"+\n\n{text}\n"}) == expected


CHANGED = {
    "same": [
        ("    return shorten(TEMPLATE)", "    # why\n    return shorten(\n        TEMPLATE\n    )"),
        ('"test"', "'test'"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("common.TEXT", "common.TEXT + '!'"),
        ('"""Questions and answers."""', '"""Questions."""'),
        ("    eval(second())", "    eval(first())"),
    ],
    "other": [
        ('"""The first."""', '"""The first of all."""'),
        ('split="test"', 'split="train"'),
        ('case "test"', 'case "train"'),
        ("LIMIT = 5", "LIMIT = 6"),
        ("LIMIT = 5", "LIMIT = 5.0"),
        ("in one word", "in two words"),
        ("At most", "At least"),
        ("text[:LIMIT]", "text[1:LIMIT]"),
        ('ending = "."', 'ending = "!"'),
        ("style=Style", "style=None"),
        ("style().end(text)", "style().end(text) + 'x'"),
        ("        return state\n", "        return target\n"),
        ("accuracy(), stderr()", "accuracy()"),
        ("    async def score", "    def score"),
        ("import accuracy, match, scorer, stderr", "import match as accuracy, match, scorer, stderr"),
        ("import accuracy, match", "import accuracy, includes, match"),
        ("import json", "import re"),
        ("import prompts", "import further as prompts"),
    ],
}


@pytest.mark.parametrize(("expected", "old", "new"), [(expected, *edit) for expected, edits in CHANGED.items() for edit in edits])
def test_what_the_task_names_counts_through_functions_classes_and_constants(tmp_path, expected, old, new):
    assert edited(tmp_path, {"tasks.py": replaced(old, new)}) == expected


BESIDE = {
    "same": [
        {"new.py": "print('x')"},
        {"new/__init__.py": "print('x')"},
        {"lone.py": "Z = 2"},
        {"package/other.py": "Z = 2"},
        {"lib/tool.py": "Z = 2"},
        {"common.py": "TEXT = 'Say B.'"},
        {"common.py": "+import lone"},
        {"new.jsonl": "{}"},
        {".hidden/prompts.py": "x"},
        {"env/lib/python3.11/site-packages/prompts.py": "x"},
    ],
    "other": [
        {"prompts.py": "from further import MORE\nSYSTEM = 'Be short.' + MORE\n"},
        {"prompts.py": "+# a comment"},
        {"further.py": "MORE = ''"},
        {"package/__init__.py": "NAME = 2"},
        {"package/deep.py": "+WHERE = 'there'"},
        {"package/deeper.py": "X = 2"},
        {"package/star.py": "Y = 2"},
        {"common.py": "+print('an effect of the import, which is the first task\\'s too')"},
        {"common.py": "+import monkeypatch"},
        {"lib/prompts.py": "the folder lib may be on the path"},
        {"prompts/__init__.py": ""},
    ],
}


@pytest.mark.parametrize(("expected", "edits"), [(expected, edit) for expected, edits in BESIDE.items() for edit in edits])
def test_of_the_files_beside_those_count_that_the_task_imports(tmp_path, expected, edits):
    assert edited(tmp_path, edits) == expected


ONE = "from inspect_ai import Task, task\n\n@task\ndef first():\n    {}\n    return Task()\n\n@task\ndef second():\n    return 1\n"

DYNAMIC = [
    "x = globals()['y']", "x = eval('y')", "exec('y')", "x = vars()", "import sys; x = sys.modules", "from sys import modules",
    "import importlib", "from importlib import import_module as load", "x = __import__('y')", "import runpy", "from os import sys",
    "import inspect", "x = first.__globals__", "run(['python', 'lone.py'])", "x = open(f'{y}.py')", "import pickle", "x = compile('y', '', 'eval')",
]  # fmt: skip


@pytest.mark.parametrize("line", DYNAMIC)
@pytest.mark.parametrize("edits", [{"tasks.py": "+\n\nA = 1\n"}, {"lone.py": "Z = 2"}, {"lib/new.py": ""}], ids=["added", "beside", "below"])
def test_all_python_below_counts_where_code_is_found_by_other_means_than_names(tmp_path, line, edits):
    assert edited(tmp_path, edits, {"lone.py": "Z = 1", "tasks.py": ONE.format(line)}) == "other"
    assert edited(tmp_path, edits, {"lone.py": "Z = 1", "tasks.py": ONE.format(line)}, "second") == "same"


@pytest.mark.parametrize("line", ["model.eval()", "x = re.compile('a')", "sandbox().exec(['ls'])", "x = 'a.pyramid'", "x = Path(__file__).parent"])
def test_what_only_looks_dynamic_does_not_make_everything_count(tmp_path, line):
    assert edited(tmp_path, {"tasks.py": "+\n\nA = 1\n", "lone.py": "Z = 2"}, {"lone.py": "Z = 1", "tasks.py": ONE.format(line)}) == "same"


WHOLE = {
    "no Python": ("def first(:\n", "first"),
    "null bytes": ("def first(): pass\n\0", "first"),
    "no such function": (TASKS, "third"),
    "an alias": (TASKS + "\nthird = second\n", "third"),
    "defined under a condition": ("if True:\n    def first():\n        pass\n", "first"),
    "deeper than Python's stack": ("def first():\n    return " + "-" * 3000 + "1\n", "first"),
}


@pytest.mark.parametrize(("text", "function"), WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("edits", [{"tasks.py": "+# comment"}, {"lone.py": "Z = 2"}, {"lib/new.py": ""}], ids=["comment", "beside", "below"])
def test_all_python_below_counts_where_the_function_is_not_found(tmp_path, edits, text, function):
    assert edited(tmp_path, edits, {"lone.py": "Z = 1", "tasks.py": text}, function) == "other"


def test_a_file_beside_that_is_no_python_makes_everything_count(tmp_path):
    files = {"tasks.py": ONE.format("import lone"), "lone.py": "print 1", "other.py": ""}
    assert edited(tmp_path, {"other.py": "x"}, files) == "other"


IMPORTS = {
    "inside a function": ("import lone", "lone.py"),
    "under another name": ("import lib.tool as t", "lib/tool.py"),
    "from a folder": ("from lib import tool", "lib/tool.py"),
    "relative": ("from . import lone", "lone.py"),
    "relative, a name of it": ("from .lone import Z", "lone.py"),
    "relative, everything": ("from .lone import *", "lone.py"),
    "by the name of the folder, from above": ("from evals.lone import Z", "lone.py"),
    "from a folder that is on the path": ("import tool", "lib/tool.py"),
    "as text": ("mock.patch('lone.Z', 2)", "lone.py"),
    "as text of an entry point": ("load('lib.tool:Z')", "lib/tool.py"),
    "an attribute, imported elsewhere": ("lib.tool.Z", "lib/tool.py"),
    "through a link": ("from linked import tool", "lib/tool.py"),
}


@pytest.mark.parametrize(("line", "name"), IMPORTS.values(), ids=IMPORTS)
def test_however_a_module_is_imported_it_counts(tmp_path, line, name):
    folder = tmp_path / "evals"
    write(folder, {"lone.py": "Z = 1", "lib/tool.py": "Z = 1", "lib/unrelated.py": ""})
    (folder / "linked").symlink_to("lib")
    files = {"tasks.py": ONE.format(line)}
    assert edited(folder, {name: "Z = 2"}, {**files, name: "Z = 1"}) == "other"
    assert edited(folder, {"lib/unrelated.py": "Z = 2"}, {**files, "lib/unrelated.py": "Z = 1"}) == "same"


def test_a_module_that_imports_the_tasks_file_makes_all_of_that_count(tmp_path):
    files = {"tasks.py": ONE.format("import lone"), "lone.py": "import tasks"}
    assert edited(tmp_path, {"tasks.py": "+\n\nA = 1\n"}, files) == "other"


def test_a_scorer_that_only_a_text_names_counts(tmp_path):
    named = "from inspect_ai.scorer import scorer\n\n@scorer(metrics=[], name='exact')\ndef mine():\n    return {}\n"
    for text, beside in [("make('exact')", ""), ("make('mine')", ""), ("import lone", "make('exact')")]:
        files = {"tasks.py": ONE.format(text) + named.format(1), "lone.py": beside}
        assert edited(tmp_path, {"tasks.py": ONE.format(text) + named.format(2)}, files) == "other"


@pytest.mark.parametrize("annotation", ["'Row'", "'list[Row] | None'", "'dict[str, Row]'"])
def test_a_class_that_only_an_annotation_in_quotes_names_counts(tmp_path, annotation):
    file = ONE.format(f"x: {annotation} = 1") + "\n\nclass Row:\n    x = {}\n"
    assert edited(tmp_path, {"tasks.py": file.format(2)}, {"tasks.py": file.format(1)}) == "other"


def test_another_name_in_an_import_does_not_count_where_only_another_task_uses_it(tmp_path):
    text = replaced("accuracy, match, scorer", "accuracy, includes, match, scorer").replace("scorer=match()", "scorer=includes()")
    assert edited(tmp_path, {"tasks.py": text + "\n\n@task\ndef third():\n    return match()\n"}) == "same"


def test_the_files_docstring_counts_where_the_task_reads_it(tmp_path):
    file = '"""Say {}."""\n' + ONE.replace("{}", "x = __doc__")
    assert edited(tmp_path, {"tasks.py": file.format("B")}, {"tasks.py": file.format("A")}) == "other"


def test_a_star_import_leaves_no_decorator_known(tmp_path):
    file = "from lone import *\n" + ONE.format("pass")
    assert edited(tmp_path, {"tasks.py": "+\n\n@task\ndef third():\n    pass\n"}, {"tasks.py": file, "lone.py": ""}) == "other"


def test_the_order_of_what_counts_is_part_of_it(tmp_path):
    file = ONE.format("return A") + "\n\nA = 1\nA = 2\n"
    assert edited(tmp_path, {"tasks.py": file.replace("A = 1\nA = 2", "A = 2\nA = 1")}, {"tasks.py": file}) == "other"


def test_another_folder_with_the_same_source_has_the_same_digest(tmp_path):
    assert len({task_source.digest(write(tmp_path / name, FILES), "first") for name in ("a", "b")}) == 1


def test_an_edit_of_the_same_length_at_once_after_is_seen(tmp_path):
    digests = set()
    for number in range(10):
        digests.add(task_source.digest(write(tmp_path, {"tasks.py": ONE.format(f"return {number}")}), "first"))
    assert len(digests) == 10


def test_links_that_lead_in_circles_or_nowhere_do_no_harm(tmp_path):
    file = write(tmp_path, FILES)
    before = task_source.digest(file, "first")
    (tmp_path / "self").symlink_to(tmp_path)
    write(tmp_path, {"x/one.py": "", "y/two.py": ""})
    (tmp_path / "x" / "y").symlink_to(tmp_path / "y")
    (tmp_path / "y" / "x").symlink_to(tmp_path / "x")
    (tmp_path / "nowhere.py").symlink_to("gone.py")
    os.mkfifo(tmp_path / "pipe.py")
    assert task_source.digest(file, "first") == before


def test_a_tasks_file_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        task_source.digest(tmp_path / "gone.py", "first")


def test_the_digest_is_one_that_every_python_gives(tmp_path):
    """Written down, so that a change of the form, which makes all results stale, is no accident."""
    assert task_source.digest(write(tmp_path, FILES), "first") == "c1275dd73b35c19f6d365bf5b85bee24a5828b41589bd99b71a729290a5e009c"


EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/*/evals/*.py"))
INSPECT_EVALS = [path for path in sorted(Path(inspect_evals.__file__).parent.glob("*/*.py")) if path.stat().st_size < 5000]


def tasks_in(paths: list[Path]) -> list[tuple[Path, str]]:
    found = []
    for path in paths:
        functions = (node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef))
        found += [(path, node.name) for node in functions if any("task" in ast.unparse(each) for each in node.decorator_list)]
    return found


REAL = [*tasks_in(EXAMPLES), *tasks_in(INSPECT_EVALS)[::8]]


def constants(path: Path, function: str) -> list[ast.Constant]:
    """Those that surely are the task's: in its function, and in the top-level functions and constants that it names."""
    body = ast.parse(path.read_bytes()).body
    by_name = {node.name: node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    by_name |= {target.id: node for node in body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)}
    reached, new = set(), {function}
    while new:
        reached |= new
        named = {node.id for name in new for node in ast.walk(by_name[name]) if isinstance(node, ast.Name)}
        new = (named & by_name.keys()) - reached
    found = [node for name in reached for node in ast.walk(by_name[name]) if isinstance(node, ast.Constant)]
    in_texts = {id(part) for name in reached for node in ast.walk(by_name[name]) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    return [node for node in found if isinstance(node.value, (str, int)) and id(node) not in in_texts]


@pytest.mark.parametrize(("path", "function"), REAL, ids=lambda value: getattr(value, "name", value))
def test_each_constant_of_a_real_task_counts(tmp_path, path, function):
    lines = path.read_bytes().splitlines(keepends=True)
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    digests = {task_source.digest(copy, function)}
    for node in constants(path, function):
        start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
        end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
        whole = b"".join(lines)
        copy.write_bytes(whole[:start] + b"(" + repr(["changed", node.lineno, node.col_offset]).encode() + b")" + whole[end:])
        digests.add(task_source.digest(copy, function))
    assert len(digests) == len(constants(path, function)) + 1


@pytest.mark.parametrize(("path", "function"), tasks_in(EXAMPLES), ids=lambda value: getattr(value, "name", value))
def test_another_task_in_an_examples_file_changes_no_digest(tmp_path, path, function):
    (tmp_path / path.name).write_bytes(path.read_bytes())
    before = task_source.digest(tmp_path / path.name, function)
    (tmp_path / path.name).write_bytes(path.read_bytes() + b"\n\nN = 3\n\n\n@task\ndef yet_another(n=N):\n    return Task()\n")
    assert task_source.digest(tmp_path / path.name, function) == before


def test_there_are_real_tasks():
    assert len(tasks_in(EXAMPLES)) >= 4 and len(REAL) >= 10
