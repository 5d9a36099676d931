import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from cruijff_kit import torchtune_catalog
from cruijff_kit.torchtune_catalog import (
    BaseConfig,
    Signature,
    base_configs,
    component_exists,
    download_command,
    is_lora,
    read_config,
    recipes,
    signature,
)

NO_TORCHVISION = "ModuleNotFoundError(\"No module named 'torchvision'\")"
SITE = Path(find_spec("torchtune").origin).parents[1]
NO_FILE = {"llama2/7B_full_early_exit"}  # the registry of 0.6.1 lists it as dev/7B_full_early_exit.yaml
CONFIGS = sorted(name for name in base_configs() if name not in NO_FILE)


def python(code: str, *arguments: str) -> str:
    """What `code` prints in a Python of its own, which has this package and starts with nothing imported."""
    path = [str(Path(torchtune_catalog.__file__).parents[1]), *sys.path]
    prelude = f"import sys; sys.path[:] = {path!r}\n"
    done = subprocess.run([sys.executable, "-c", prelude + code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def components(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["_component_"]} if "_component_" in node else set()
        return own.union(*map(components, node.values()))
    return set().union(*map(components, node)) if isinstance(node, list) else set()


@pytest.fixture(scope="module")
def all_components() -> set[str]:
    found = set().union(*(components(read_config(base_configs()[name].path)) for name in CONFIGS))
    assert len(found) > 100
    return found


IMPORT_EVERYTHING = """
import inspect, json
import torch, torchtune.models, torchtune.rlhf.loss, torchtune.datasets.multimodal, torchtune.training.metric_logging
from torchtune._recipe_registry import get_all_recipes
from torchtune.config._errors import InstantiationError
from torchtune.config._utils import _get_component_from_path

def describe(path):
    try:
        component = _get_component_from_path(path)
    except InstantiationError as error:
        return str(error).splitlines()[1]
    parameters = inspect.signature(component).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p.name for p in named if p.default is p.empty]
    return [[p.name for p in named], required, any(p.kind is p.VAR_KEYWORD for p in parameters)]

def is_component(value):
    if any(hasattr(value, mark) for mark in ("__members__", "with_traceback", "_fields")):
        return False  # an enumeration, an exception or a named tuple: no config makes one
    if getattr(value.__init__, "__name__", "").startswith("_no_init"):
        return False  # a protocol, or a class of one without __init__: inspect says **kwargs, a call says it takes none
    return callable(value) and getattr(value, "__module__", "").startswith(("torchtune.", "torch.optim."))

packages = [m for name, m in sorted(sys.modules.items()) if name == "torch.optim" or name.startswith("torchtune.")]
paths = {f"{m.__name__}.{name}" for m in packages for name, value in vars(m).items() if is_component(value)}
signatures = {path: describe(path) for path in paths | set(sys.argv[1:])}
listed = [[r.name, [c.name for c in r.configs]] for r in get_all_recipes()]
print(json.dumps({"signatures": signatures, "recipes": listed}))
"""


@pytest.fixture(scope="module")
def imported(all_components) -> dict:
    """What torchtune says of itself, once the seconds of importing it are paid."""
    return json.loads(python(IMPORT_EVERYTHING, *sorted(filter(signature, all_components))).splitlines()[-1])


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def accepts(*required: str, optional: str = "", var_keyword: bool = False) -> Signature:
    return Signature(frozenset([*required, *optional.split()]), frozenset(required), var_keyword)


# Configs and recipes


def test_a_base_config_is_known_by_the_name_of_tune_ls_with_its_recipe_and_file():
    assert base_configs()["llama3_1/8B_lora_single_device"] == BaseConfig(
        name="llama3_1/8B_lora_single_device",
        recipe="lora_finetune_single_device",
        path=SITE / "recipes/configs/llama3_1/8B_lora_single_device.yaml",
    )


def test_base_configs_and_recipes_are_those_of_tune_ls(imported):
    listed = imported["recipes"]
    assert [name for name, _ in listed] == list(recipes())
    assert [name for _, names in listed for name in names] == list(base_configs())


def test_every_recipe_and_all_configs_but_one_are_files():
    assert [name for name, path in recipes().items() if not path.is_file()] == []
    assert {name for name, config in base_configs().items() if not config.path.is_file()} == NO_FILE


def test_without_torchtune_every_question_about_it_says_how_to_install_it():
    code = """
sys.modules["torchtune"] = None  # find_spec then answers as if it were not installed
from cruijff_kit.torchtune_catalog import *
for question in (base_configs, recipes):
    try:
        question()
    except LookupError as error:
        print(error)
print(signature("torchtune.models.llama2.llama2_7b"), component_exists("torchtune.models.llama2.llama2_7b"))
"""
    assert python(code) == "torchtune is not installed\n  pip install torchtune\n" * 2 + "None False\n"


def test_no_answer_imports_torch_or_torchtune():
    code = """
from cruijff_kit.torchtune_catalog import *
config = base_configs()["llama3_1/8B_lora_single_device"]
values = read_config(config.path)
assert is_lora(values) and recipes() and download_command(config.path)
assert signature(values["optimizer"]["_component_"]) and signature(values["dataset"]["_component_"])
print({name.partition(".")[0] for name in sys.modules} & {"torch", "torchtune", "torchao", "recipes"})
"""
    assert python(code) == "set()\n"


# Reading a config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_read_as_omegaconf_reads_it(name):
    path = base_configs()[name].path
    expected = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    config = read_config(path)
    assert config == expected
    assert list(config) == list(expected)


def test_values_are_typed_as_omegaconf_types_them(tmp_path):
    text = """
lr: 3e-4
eps: 1.e-8
steps: 1_000
on: off
none: null
date: 2025-01-31
path: ${output_dir}/logs
modules: ['q_proj', 'v_proj']
"""
    (tmp_path / "c.yaml").write_text(text)
    values = {
        "lr": 0.0003,
        "eps": 1e-08,
        "steps": 1000,
        True: False,
        "none": None,
        "date": "2025-01-31",
        "path": "${output_dir}/logs",
        "modules": ["q_proj", "v_proj"],
    }
    config = read_config(tmp_path / "c.yaml")
    assert config == values
    assert [type(value) for value in config.values()] == [type(value) for value in values.values()]


def test_a_key_that_stands_twice_is_an_error_that_says_where(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 1\nseed: 2\nlr: 3\n")
    with pytest.raises(yaml.YAMLError) as error:
        read_config(tmp_path / "c.yaml")
    path = tmp_path / "c.yaml"
    assert str(error.value) == (
        f'while constructing a mapping\n  in "{path}", line 1, column 1\n'
        f'found duplicate key lr\n  in "{path}", line 3, column 1'
    )


def test_an_empty_config_has_no_keys_and_a_list_is_no_config(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert read_config(tmp_path / "empty.yaml") == {}
    with pytest.raises(ValueError, match="^a config is a mapping of keys to values, this is a list$"):
        read_config(tmp_path / "list.yaml")


def test_the_download_command_is_the_one_of_the_header_comment():
    assert download_command(base_configs()["llama3_1/8B_lora_single_device"].path) == (
        "tune download meta-llama/Meta-Llama-3.1-8B-Instruct --output-dir /tmp/Meta-Llama-3.1-8B-Instruct"
        ' --ignore-patterns "original/consolidated.00.pth"'
    )


def test_two_models_are_downloaded_by_one_line():
    assert download_command(base_configs()["qwen2/1.5_to_0.5B_KD_lora_single_device"].path) == (
        "tune download Qwen/Qwen2-0.5B-Instruct --output-dir /tmp/Qwen2-0.5B-Instruct"
        " && tune download Qwen/Qwen2-1.5B-Instruct --output-dir /tmp/Qwen2-1.5B-Instruct"
    )


def test_a_continued_command_becomes_one_line_and_what_follows_the_header_does_not_count(tmp_path):
    header = "# First:\n#   tune download a/b \\\n#     --output-dir /x\n\n"
    (tmp_path / "c.yaml").write_text(f"{header}seed: 1\n# tune download c\n")
    (tmp_path / "none.yaml").write_text("seed: 1\n# tune download c\n")
    assert download_command(tmp_path / "c.yaml") == "tune download a/b --output-dir /x"
    assert download_command(tmp_path / "none.yaml") is None


def test_the_configs_without_a_download_command_evaluate_or_quantize_what_others_downloaded():
    without = {base_configs()[name].recipe for name in CONFIGS if download_command(base_configs()[name].path) is None}
    assert without == {"eleuther_eval", "quantize"}


# Signatures


def test_every_component_of_every_config_has_a_signature_or_is_not_installed(all_components):
    bitsandbytes = {"bitsandbytes.optim.PagedAdamW", "bitsandbytes.optim.PagedAdamW8bit"}
    not_installed = bitsandbytes if find_spec("bitsandbytes") is None else set()
    assert {each for each in all_components if signature(each) is None} == not_installed
    assert {each for each in all_components if component_exists(each) is not True} == not_installed


def test_a_partial_of_torchtune_accepts_what_its_function_accepts():
    assert signature("torchtune.datasets.alpaca_cleaned_dataset") == accepts(
        "tokenizer", optional="source column_map train_on_input packed filter_fn split", var_keyword=True
    )


def test_signatures_are_those_of_the_imported_components(all_components, imported):
    wanted = set(filter(signature, all_components))
    described = imported["signatures"]
    failed = {path: reason for path, reason in described.items() if isinstance(reason, str)}
    vision = {path for path in wanted if path.startswith("torchtune.models.llama3_2_vision.")}
    assert failed == ({} if find_spec("torchvision") else dict.fromkeys(vision, NO_TORCHVISION))
    real = {
        path: Signature(frozenset(names), frozenset(required), var_keyword)
        for path, (names, required, var_keyword) in ((path, described[path]) for path in described.keys() - failed)
    }
    assert len(real) > 600
    assert wanted - failed.keys() <= real.keys()
    assert {path: signature(path) for path in real} == real
    assert {path for path in real if component_exists(path) is not True} == set()


def test_a_model_is_lora_if_it_takes_a_rank():
    lora = {name for name in CONFIGS if is_lora(read_config(base_configs()[name].path))}
    assert lora == {name for name in CONFIGS if "lora" in name or "dora" in name}
    assert is_lora({"model": {"_component_": "not_installed.model", "lora_rank": 8}}) is True
    assert is_lora({"model": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"}}) is False
    assert is_lora({"model": "llama"}) is False
    assert is_lora({}) is False


# Components of one's own: files on sys.path, which nothing imports

COMPONENTS = """
import functools
from functools import partial
from typing import Any, Generic, TypeVar

def function(a, /, b, *more, c, d=1, **rest): ...
async def waits(a=print("never run")): ...

bound = partial(function, 0, b=2, c=3)
keyword = functools.partial(bound, d=5)
alias = function
spread = partial(function, *[1, 2])
made = print
computed = alias(1)

class Plain: ...
class Parent:
    def __init__(self, size: "int", name: str = "x"): ...
class Child(Parent): ...
class Typed(Generic[TypeVar("T")], Parent): ...
class Fault(ValueError): ...
class New:
    def __new__(cls, made): ...
class Left(Parent): ...
class Right(Parent):
    def __init__(self, right): ...
class Diamond(Left, Right): ...
shrunk = partial(Parent, 3)

def deprecate(function): ...
@deprecate
def decorated(old): ...
class Replaced(Parent): ...
Replaced = deprecate(Replaced)
def twice(first, second): ...
twice = partial(twice, 1)
"""

DATACLASSES = """
import dataclasses
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

@dataclass
class Base:
    path: str
    kind: ClassVar[str] = "a"
    size: int = 1

@dataclasses.dataclass(frozen=True)
class Derived(Base):
    path: str = "here"
    _: KW_ONLY
    rows: list = field(default_factory=list)
    name: str = field(repr=False)
    hidden: int = field(init=False, default=2)

class Undecorated(Derived):
    more: int

@dataclass
class Written:
    size: int
    def __init__(self, other): ...

@dataclass
class OfUnknown(Elsewhere):
    size: int
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "function": accepts("b", "c", optional="d", var_keyword=True),
        "waits": accepts(optional="a"),
        "bound": accepts(optional="b c d", var_keyword=True),
        "keyword": accepts(optional="b c d", var_keyword=True),
        "alias": accepts("b", "c", optional="d", var_keyword=True),
        "spread": None,
        "computed": None,
        "Plain": accepts(),
        "Replaced": None,
        "Child": accepts("size", optional="name"),
        "Typed": accepts("size", optional="name"),
        "Fault": None,
        "New": accepts("made"),
        "Diamond": accepts("right"),
        "shrunk": accepts(optional="name"),
        "decorated": accepts("old"),
        "twice": accepts("second"),
        "nothing": None,
    }.items(),
)
def test_a_signature_is_read_from_the_source(here, name, expected):
    write(here, ck_components=COMPONENTS)
    assert signature(f"ck_components.{name}") == expected
    assert component_exists(f"ck_components.{name}") is (name != "nothing")
    assert "ck_components" not in sys.modules


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "Base": accepts("path", optional="size"),
        "Derived": accepts("name", optional="path size rows"),
        "Undecorated": accepts("name", optional="path size rows"),
        "Written": accepts("other"),
        "OfUnknown": None,
    }.items(),
)
def test_a_dataclass_accepts_its_fields(here, name, expected):
    write(here, ck_dataclasses=DATACLASSES)
    assert signature(f"ck_dataclasses.{name}") == expected


def test_a_signature_says_whether_it_accepts_a_name():
    assert accepts("a", optional="b").accepts("b") is True
    assert accepts("a", optional="b").accepts("c") is False
    assert accepts("a", var_keyword=True).accepts("c") is True


def test_components_of_this_package_are_found():
    component = "cruijff_kit.torchtune_catalog.BaseConfig"
    assert signature(component) == accepts("name", "recipe", "path")
    assert component_exists("cruijff_kit.torchtune_catalog.NoConfig") is False


@pytest.mark.parametrize("component", ["", ".x", "a..b", "ck-x.y", "ck_no_such_package.x", "torchtune.models.llama2"])
def test_what_cannot_be_a_component_does_not_exist(component):
    assert (component_exists(component), signature(component)) == (False, None)


@pytest.mark.parametrize("component", ["${model}", None, 3, "torch.float32", "torch._C.Generator"])
def test_of_what_source_cannot_tell_nothing_is_said(component):
    assert (component_exists(component), signature(component)) == (None, None)
