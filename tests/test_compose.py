"""The composer of a sweep's points: what it gives is what Hydra gives, in one full composition a set of choices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.types import HydraContext, RunMode
from hydra_plugins.staged_launcher._compose import PointComposer
from omegaconf import Container, DictConfig, OmegaConf, open_dict, read_write

CONFIG = """
defaults:
  - typed_schema
  - db: sqlite
  - optional cache: null
  - _self_
  - override hydra/launcher: staged_slurm
  - override hydra/sweeper: grid
a: 1
text: plain
twice: ${a}
when: ${now:%f}
home: ${oc.env:COMPOSE_TEST}
nothing: null
list: [1, 2]
tree: {x: 1, deep: {y: 2}}
missing: ???
hydra:
  sweep: {dir: out, subdir: "${hydra.job.override_dirname}"}
  job:
    name: small
    env_copy: [COMPOSE_TEST]
    config: {override_dirname: {exclude_keys: [text]}}
"""

GROUPS = {
    "db/sqlite.yaml": "file: ${a}.db\n",
    "db/server.yaml": "defaults: [_self_, auth: token]\nhost: here\nport: 1\n",
    "db/auth/token.yaml": "secret: ${oc.env:COMPOSE_TEST}\n",
    "db/auth/none.yaml": "secret: null\n",
    "cache/big.yaml": "# @package store\ngb: 9\n",
    "empty/.keep": "",
}


class CountingLoader(ConfigLoaderImpl):
    """Hydra's loader, and the choices of each full composition that it was asked for."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        self.__dict__.setdefault("asked", []).append(sweep_overrides)
        return super().load_sweep_config(master_config, sweep_overrides)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a config with groups, a structured config, interpolations and resolvers."""

    @dataclass
    class Typed:  # a class that pickle does not find under its name
        count: int = 1
        rate: float = 0.5

    monkeypatch.setenv("COMPOSE_TEST", "from the environment")
    state = ConfigStore.instance().repo.copy()
    ConfigStore.instance().store(name="typed_schema", node={"typed": Typed})
    for name, text in {"config.yaml": CONFIG, **GROUPS}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    ConfigStore.instance().repo = state


def composer(folder: Path, name: str = "config", words: tuple[str, ...] = ()) -> tuple[PointComposer, CountingLoader, DictConfig]:
    """A composer with its loader and the master config of a sweep, as Hydra's main makes them."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        path = GlobalHydra.instance().config_loader().get_search_path()
    setup_globals()
    loader = CountingLoader(path)
    master = loader.load_configuration(name, ["hydra.mode=MULTIRUN", *words], RunMode.MULTIRUN)
    return PointComposer(HydraContext(loader, None), master), loader, master


def hydras(loader: ConfigLoaderImpl, master: DictConfig, point: list[str], number: int) -> DictConfig:
    """As Hydra's own launchers have it."""
    config = ConfigLoaderImpl.load_sweep_config(loader, master, point)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.num = number
    return config


def described(node: Any) -> Any:
    """All that a config is: its values as written, and the flags and types of each node."""
    if not isinstance(node, Container) or node._is_none() or node._is_missing() or node._is_interpolation():
        return type(node), node._value(), node._metadata.flags, node._metadata.ref_type, node._metadata.optional
    keys = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
    below = [(key, described(node._get_node(key))) for key in keys]
    return type(node), node._metadata.object_type, node._metadata.flags, node._metadata.ref_type, below


def assert_same(folder: Path, points: list[list[str]], name: str = "config", words: tuple[str, ...] = ()) -> None:
    made, loader, master = composer(folder, name, words)
    resolved = OmegaConf.to_container(master, resolve=False).get("when") and master.when  # as a sweep's folder fixes the time
    for number, point in enumerate([*points, *points]):
        ours, theirs = made.compose(point, number), hydras(loader, master, point, number)
        assert described(ours) == described(theirs), point
        assert ours._metadata.resolver_cache == theirs._metadata.resolver_cache
        if resolved:
            assert ours.when == theirs.when == resolved


POINTS = {
    "nothing": [],
    "values": ["a=2", "text=b", "nothing=1.5", "tree.x=-1", "typed.count=4", "typed.rate=1e-3"],
    "quotes": ["text='it\\'s, \"so\"'", "text=\"b=c, d\"", "a='1'"],
    "a dict": ["tree={x:7,deep:{y:5}}", "nothing={k:[1,{l:2}]}"],
    "a list": ["list=[]", "tree.x=[a,[b]]"],
    "null": ["a=null", "tree=null"],
    "an interpolation": ["a=${tree.x}", "tree.deep=${db}", "text='${a} and ${now:%Y}'"],
    "of a resolver": ["text=${oc.env:COMPOSE_TEST}"],
    "missing": ["a=???", "missing=1"],
    "added": ["+b=1", "+tree.deep.z=2", "+c.d.e=[1]"],
    "added over": ["+tree={x:3}", "+list=[9]", "+nothing=1"],
    "forced": ["++a=2", "++new.b=1"],
    "taken away": ["~a", "~tree.deep", "~text=plain", "~list"],
    "taken away and added": ["~a", "+a={k:1}"],
    "a choice": ["db=server", "db.port=2"],
    "a choice within": ["db=server", "db/auth=none", "a=3"],
    "a choice put elsewhere": ["+db@other=server", "other.port=5"],
    "a choice of a package of its own": ["cache=big", "store.gb=1"],
    "a choice taken away": ["~db"],
    "a dict at a group's key, in order": ["db.file=a", "db={file:b}"],
    "of Hydra": ["hydra.job.name=other", "+hydra.job.env_set.COMPOSE=1", "a=5", "hydra/job_logging=none"],
    "names that are left out": ["text=long", "a=6", "tree.x=1"],
    "the same twice": ["a=1", "a=1", "a=2"],
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_point_is_what_hydra_makes_of_it(small: Path, point: list[str]) -> None:
    assert_same(small, [point])


def test_no_point_shows_in_another(small: Path) -> None:
    assert_same(small, list(POINTS.values()))


def test_what_the_command_line_says_of_hydra_holds_for_each_point(small: Path) -> None:
    assert_same(small, list(POINTS.values()), words=("hydra.job.name=given", "hydra/launcher=staged_local", "+hydra.launcher.stages={one:{}}"))


@pytest.mark.parametrize(
    "point",
    [
        ["z=1"], ["tree.z=1"], ["+a=1"], ["~z"], ["~a=2"], ["typed.count=text"], ["typed.other=1"], ["db=nowhere"], ["~db=server"],
        ["++db=server"], ["+db=server"], ["other@a=1"], ["a=1,2"], ["a=range(3)"], ["db=sqlite,server"], ["a=[1"], ["="], ["a=1", "db=nowhere", "z=1"],
        ["empty=1"], ["hydra.nothing=1"], ["z=1", "hydra.nothing=1"], ["db/nothing=1"], ["a.b=1"],
        ["tree={deep:{z:1}}"], ["db=null"], ["db@db=server"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_fault_is_the_one_that_hydra_finds(small: Path, point: list[str]) -> None:
    made, loader, master = composer(small)
    with pytest.raises(Exception) as theirs:
        hydras(loader, master, point, 0)
    for _ in range(2):
        with pytest.raises(type(theirs.value)) as ours:
            made.compose(point, 0)
        assert _said(ours.value) == _said(theirs.value)


def _said(error: BaseException | None) -> list[tuple[type, str]]:
    """The error and its causes."""
    return [] if error is None else [(type(error), str(error)), *_said(error.__cause__)]


def test_everything_is_composed_once_for_each_set_of_choices(small: Path) -> None:
    made, loader, _ = composer(small)
    for number in range(30):
        made.compose([f"a={number}", f"db={('sqlite', 'server')[number % 2]}", f"+b={number % 7}", "tree={x:1}"], number)
    assert loader.asked == [["db=sqlite"], ["db=server"]]


def test_an_experiments_points_are_what_hydra_makes_of_them(experiment: Path, cruijff: Any) -> None:
    from cruijff_kit import cluster_group
    from cruijff_kit.app import register_open_nodes
    from cruijff_kit.paths import conf_dir
    from cruijff_kit.resolvers import register

    assert cruijff("generate", experiment).returncode == 0
    register()
    register_open_nodes()
    cluster_group.register()
    words = (f"hydra.searchpath=[file://{conf_dir()}]", "hydra/launcher=staged_slurm")
    points = [
        ["lora_rank=2"], ["lora_rank=4", "learning_rate=1e-3", "dataset='data/a b.jsonl'"], ["stages=[eval]"], ["cluster=multi_gpu", "lora_rank=8"],
        ["+torchtune.optimizer.weight_decay=0.1"], ["torchtune.optimizer={weight_decay:0.1}"], ["evaluation.generate.max_tokens=5"], ["lora_alpha='${mul:4,${lora_rank}}'"],
    ]  # fmt: skip
    assert_same(experiment / "configs", points, "multirun", words)
