import ast
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cruijff_kit.source_names import Definition, Missing, Module, find

FILES = {
    "ck_pkg/__init__.py": """
from .inner import function as renamed, twin
from ck_pkg.inner import *
from . import inner as nested
from .compiled_part import fast
import ck_pkg.inner as whole
import ck_pkg.inner

attribute = nested.function
deeper = ck_pkg.inner.Class
first, second = 1, 2
bare: int
if False:
    believed = lambda: 1
else:
    believed = 2
try:
    from ck_not_installed import either
except ImportError:
    def either(): ...
""",
    "ck_pkg/inner.py": """
from ck_pkg.circle import *
def function(): ...
def twin(): ...
def _private(): ...
class Class: ...
""",
    "ck_pkg/circle.py": "from ck_pkg.inner import *\nround_and_round = 1\n",
    "ck_pkg/twin.py": "",
    "ck_pkg/lone.py": "from .. import nowhere\nfrom .inner import absent\n",
    "ck_pkg/lazy.py": "def __getattr__(name): ...\n",
    "ck_pkg/broken.py": "def half(:\n",
    "ck_pkg/sub/deep.py": "from ..inner import Class as Up\nfrom ...ck_pkg.inner import function\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert not any(name.startswith("ck_pkg") for name in sys.modules)


def place(path: str) -> tuple[str, str] | str | Missing:
    """The kind and the module of the definition that is found, or the name of a module."""
    match find(path):
        case Definition(node, module):
            return type(node).__name__, module.name
        case Module(name=name):
            return name
        case missing:
            return missing


@pytest.mark.parametrize(
    ("path", "expected"),
    {
        "ck_pkg.inner.function": ("FunctionDef", "ck_pkg.inner"),
        "ck_pkg.renamed": ("FunctionDef", "ck_pkg.inner"),
        "ck_pkg.Class": ("ClassDef", "ck_pkg.inner"),
        "ck_pkg.attribute": ("FunctionDef", "ck_pkg.inner"),
        "ck_pkg.deeper": ("ClassDef", "ck_pkg.inner"),
        "ck_pkg.nested.Class": ("ClassDef", "ck_pkg.inner"),
        "ck_pkg.whole": "ck_pkg.inner",
        "ck_pkg.twin": ("FunctionDef", "ck_pkg.inner"),
        "ck_pkg.first": ("Tuple", "ck_pkg"),
        "ck_pkg.believed": ("Lambda", "ck_pkg"),
        "ck_pkg.either": ("FunctionDef", "ck_pkg"),
        "ck_pkg.round_and_round": ("Constant", "ck_pkg.circle"),
        "ck_pkg.sub": "ck_pkg.sub",
        "ck_pkg.sub.deep.Up": ("ClassDef", "ck_pkg.inner"),
        "ck_pkg": "ck_pkg",
    }.items(),
)
def test_a_name_is_followed_to_where_it_is_defined(package, path, expected):
    assert place(path) == expected


@pytest.mark.parametrize(
    ("path", "why"),
    {
        "ck_pkg.nothing": Missing.ABSENT,
        "ck_pkg.bare": Missing.ABSENT,
        "ck_pkg._private": Missing.ABSENT,
        "ck_pkg.inner.twin.more": Missing.UNKNOWN,
        "ck_pkg.sub.nothing": Missing.ABSENT,
        "ck_pkg.nothing.more": Missing.ABSENT,
        "ck_pkg.fast": Missing.UNKNOWN,
        "ck_pkg.lone.absent": Missing.UNKNOWN,
        "ck_pkg.lone.nowhere": Missing.UNKNOWN,
        "ck_pkg.lazy.anything": Missing.UNKNOWN,
        "ck_pkg.broken.half": Missing.UNKNOWN,
        "ck_not_installed.x": Missing.ABSENT,
        "math.sqrt": Missing.UNKNOWN,
        "no-name": Missing.ABSENT,
        "": Missing.ABSENT,
        "${model}": Missing.UNKNOWN,
    }.items(),
)
def test_what_is_not_found_is_absent_or_cannot_be_told(package, path, why):
    assert find(path) is why


def test_the_working_directory_is_searched_last_as_torchtune_does(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ck_local.py").write_text(f"class {folder.title()}: ...\n")
    monkeypatch.chdir(tmp_path / "one")
    assert place("ck_local.One") == ("ClassDef", "ck_local")
    monkeypatch.chdir(tmp_path / "two")
    assert find("ck_local.One") is Missing.ABSENT
    monkeypatch.syspath_prepend(str(tmp_path / "one"))
    assert place("ck_local.One") == ("ClassDef", "ck_local")


def test_of_a_module_without_a_file_nothing_can_be_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ck_typed_in", ModuleType("ck_typed_in"))
    assert find("ck_typed_in.x") is Missing.UNKNOWN


def test_a_definition_comes_with_the_file_of_its_module(package):
    found = find("ck_pkg.renamed")
    assert isinstance(found.node, ast.FunctionDef)
    assert found.module == Module("ck_pkg.inner", str(Path(package, "ck_pkg/inner.py")), ())
