"""The grid sweeper: which points it makes, what it checks, and what it tells the user."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, LauncherTestSuite
from hydra.version import VersionBase
from hydra_plugins.staged_launcher import _grid
from packaging.version import Version

LAUNCHERS = Path(__file__).parents[1] / "launchers"
PARSER = OverridesParser.create()


@pytest.fixture(autouse=True)
def hydras_default_version_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's own suite expects it, and an application composed earlier in this process sets another for good."""
    monkeypatch.setattr(VersionBase.instance(), "version_base", Version("1.1"))


# a launcher of the tests' own, beside which every composition is counted
RECORDER = """
import json
from pathlib import Path
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

COMPOSED, SET = [], []
original, original_set = ConfigLoaderImpl.load_sweep_config, ConfigLoaderImpl._apply_overrides_to_config

def counted(self, master_config, sweep_overrides):
    COMPOSED.append(sweep_overrides)
    return original(self, master_config, sweep_overrides)

def counted_set(overrides, config):
    if overrides and not any(override.is_hydra_override() for override in overrides):
        SET.append([override.input_line for override in overrides])
    original_set(overrides, config)

ConfigLoaderImpl.load_sweep_config = counted
ConfigLoaderImpl._apply_overrides_to_config = staticmethod(counted_set)
for name in ("Recorder", "ComposingRecorder"):
    node = {"_target_": f"hydra_plugins.recorder.plugin.{name}"}
    ConfigStore.instance().store(group="hydra/launcher", name=name.lower(), node=node)

class Recorder(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        pass

    def launch(self, job_overrides, initial_job_idx):
        record = {"points": [list(o) for o in job_overrides], "first": initial_job_idx, "composed": COMPOSED, "set": SET}
        with open("launched.jsonl", "a") as file:
            file.write(json.dumps(record) + "\\n")
        results = [self.result(overrides) for overrides in job_overrides]
        if initial_job_idx == 0 and "f=extra" in job_overrides[0]:
            from hydra_plugins.staged_launcher._failures import ExtrasFailed
            raise ExtrasFailed("baseline failed, and no point did", results)
        return results

    def result(self, overrides):
        if "a=2" in overrides:
            return JobReturn(overrides, status=JobStatus.FAILED, _return_value=ValueError("two is too much"))
        return JobReturn(overrides, status=JobStatus.COMPLETED)

class ComposingRecorder(Recorder):
    composes_first = True
"""

CONFIG = """
defaults:
  - override hydra/launcher: recorder
  - override hydra/sweeper: grid
  - _self_
a: 1
b: 1
c: {d: 1.0, e: x}
f: null
hydra:
  sweep: {dir: out}
"""

APP = """
import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    pass

main()
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with a Hydra application whose launcher only writes down what it is given."""
    plugin = tmp_path / "plugins" / "hydra_plugins" / "recorder"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").touch()
    (plugin / "plugin.py").write_text(RECORDER)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def sweep(app: Path, *arguments: str) -> subprocess.CompletedProcess:
    paths = [str(LAUNCHERS), str(app / "plugins"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "app.py", "--multirun", *arguments]
    return subprocess.run(command, cwd=app, env=env, capture_output=True, text=True, timeout=60)


def launched(app: Path) -> list:
    path = app / "launched.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def points_of(params: list, arguments: list = (), exclude: list = ()) -> list:
    axes = _grid.make_axes(PARSER.parse_overrides(params), PARSER.parse_overrides(arguments), PARSER.parse_override)
    return [[choice.override for choice in point] for point in _grid.make_points(axes, exclude)]


def test_last_key_changes_fastest() -> None:
    assert points_of(["b=1,2", "a=3,4"]) == [["b=1", "a=3"], ["b=1", "a=4"], ["b=2", "a=3"], ["b=2", "a=4"]]


def test_arguments_take_the_place_of_params_and_new_keys_follow() -> None:
    assert points_of(["a=1,2", "+b=3"], ["c=7", "b=5,6", "a=9"]) == [
        ["a=9", "b=5", "c=7"],
        ["a=9", "b=6", "c=7"],
    ]


def test_deleting_and_adding_the_same_key_are_both_kept() -> None:
    assert points_of([], ["~a", "+a=3"]) == [["~a", "+a=3"]]


def test_equal_values_make_one_point() -> None:
    assert points_of(["a=0.001,1e-3,0.0010,x,'x',1,1.0"]) == [["a=0.001"], ["a=x"], ["a=1"], ["a=1.0"]]


@pytest.mark.parametrize(
    "exclusion, left",
    [
        ({"a": 64, "c.d": 0.001}, [["a=8", "c.d=0.001"], ["a=8", "c.d=2"], ["a=64", "c.d=2"]]),
        ({"a": 64.0}, [["a=8", "c.d=0.001"], ["a=8", "c.d=2"]]),
        ({"a": "64"}, [["a=8", "c.d=0.001"], ["a=8", "c.d=2"], ["a=64", "c.d=0.001"], ["a=64", "c.d=2"]]),
    ],
    ids=["values, not text", "whole numbers are numbers", "text is no number"],
)
def test_exclusions_compare_values(exclusion: dict, left: list) -> None:
    assert points_of(["a=8,64", "c.d=1e-3,2"], exclude=[exclusion]) == left


def test_true_is_not_one_to_an_exclusion() -> None:
    assert points_of(["a=1,true"], exclude=[{"a": True}]) == [["a=1"]]


def test_exclusions_reach_lists_dicts_null_and_added_keys() -> None:
    params = ["+a=[1,x],{k:1},null"]
    assert points_of(params, exclude=[{"a": [1, "x"]}, {"a": {"k": 1}}]) == [["+a=null"]]


@pytest.mark.parametrize(
    "params, exclude, message",
    [
        (["a=1,2"], [{"a": 1}, {"a": 2}], "hydra.sweeper.exclude\n  leaves out every point of the sweep"),
        (["a=1,2"], [{}], "hydra.sweeper.exclude\n  {} would leave out every point"),
        (["a=1", "b=2"], [{"z": 1}], "hydra.sweeper.exclude\n  'z' is no key of this sweep\n  its keys: a, b"),
        (
            ["a=interval(0,1)"],
            [],
            "a\n  a grid cannot go through interval(0,1), which has no end of values\n"
            "  name the values (a=1,2,3) or a range with a step (a=range(1,4,0.5))",
        ),
        (["a=range(3,3)"], [], "a\n  range(3,3) matches nothing"),
    ],
)
def test_what_makes_no_grid_is_an_error(params: list, exclude: list, message: str) -> None:
    with pytest.raises(CompactHydraException) as error:
        points_of(params, exclude=exclude)
    assert str(error.value) == message


def test_only_points_that_run_and_only_new_values_are_composed() -> None:
    parsed = PARSER.parse_overrides(["a=1,2,3", "b=1,2", "c=1,2"])
    axes = _grid.make_axes(parsed, [], PARSER.parse_override)
    grid = _grid.make_points(axes, [])
    assert len(list(_grid.first_appearances(grid))) == 1 + 2 + 1 + 1
    without_first = _grid.make_points(axes, [{"a": 1, "b": 1}])
    composed = list(_grid.first_appearances(without_first))
    assert len(composed) <= 6 and all(point in without_first for point in composed)
    assert {c.override for p in composed for c in p} == {c.override for p in without_first for c in p}


def test_discovered() -> None:
    assert "GridSweeper" in [plugin.__name__ for plugin in Plugins.instance().discover(Sweeper)]


@pytest.mark.filterwarnings("ignore:Future Hydra versions")
@pytest.mark.parametrize(
    "launcher_name, overrides", [("basic", ["hydra/sweeper=grid", "hydra.sweeper.max_batch_size=2"])]
)
class TestBatches(BatchedSweeperTestSuite):
    """Hydra's own tests of a sweeper with batches."""


@pytest.mark.filterwarnings("ignore:Future Hydra versions")
@pytest.mark.parametrize("launcher_name, overrides", [("basic", ["hydra/sweeper=grid"])])
class TestSweeps(LauncherTestSuite):
    """Hydra's own tests of sweeps, those of a launcher, with this sweeper in BasicSweeper's place."""


GRID = ["+hydra.sweeper.params.a='1,3,5'", "+hydra.sweeper.params={c.d:'range(4)'}", "b=1,2", "c.e=x,y,z"]


def test_sets_the_sum_of_values_in_what_is_composed_once_and_launches_their_product(app: Path) -> None:
    done = sweep(app, *GRID)
    assert (done.returncode, done.stderr) == (0, "")
    (record,) = launched(app)
    assert len(record["points"]) == 3 * 4 * 2 * 3
    assert record["points"][1] == ["a=1", "c.d=0", "b=1", "c.e=y"]
    assert record["composed"] == [[]]  # Hydra's whole composition, without a value
    assert len(record["set"]) == 1 + 2 + 3 + 1 + 2
    assert {value for point in record["set"] for value in point} == {value for point in record["points"] for value in point}
    assert (app / "out" / "multirun.yaml").exists()


@pytest.mark.parametrize(("batches", "composed", "points"), [([], 0, 0), (["hydra.sweeper.max_batch_size=10"], 1, 1 + 2 + 3 + 1 + 2)])
def test_a_launcher_that_composes_every_point_first_is_left_to_find_what_is_wrong(
    app: Path, batches: list, composed: int, points: int
) -> None:
    """Where it gets all of them at once: else a fault of a later batch would show when the first has run."""
    done = sweep(app, *GRID, *batches, "hydra/launcher=composingrecorder")
    assert (done.returncode, done.stderr) == (0, "")
    records = launched(app)
    assert sum(len(record["points"]) for record in records) == 3 * 4 * 2 * 3
    assert {(len(record["composed"]), len(record["set"])) for record in records} == {(composed, points)}


def test_batches_all_run_and_then_the_sweep_fails(app: Path) -> None:
    exclude = "hydra.sweeper.exclude=[{a:5,c.d:1}]"
    done = sweep(app, "a=1,2,5", "c.d=1,2", exclude, "hydra.sweeper.max_batch_size=2")
    assert done.returncode == 1
    assert done.stderr == (
        "2 of 5 points failed\n"
        "  a=2 c.d=1: ValueError: two is too much\n"
        "  a=2 c.d=2: ValueError: two is too much\n"
        "\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.\n"
    )
    assert [(record["first"], len(record["points"])) for record in launched(app)] == [(0, 2), (2, 2), (4, 1)]


def test_a_job_beside_the_points_that_fails_stops_no_batch(app: Path) -> None:
    done = sweep(app, "a=1,3", "f=extra", "hydra.sweeper.max_batch_size=1")
    assert done.returncode == 1 and done.stderr.startswith("baseline failed, and no point did\n")
    assert [record["first"] for record in launched(app)] == [0, 1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a=1,2", "z=1,2"], "Could not override 'z'.\nTo append to your config use +z=1\n"),
        (["hydra.sweeper.max_batch_size=0"], "expected 1 or more, or null, found 0\n"),
    ],
)
def test_faults_are_found_before_anything_is_written(app: Path, arguments: list, message: str) -> None:
    done = sweep(app, *arguments)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert launched(app) == [] and not (app / "out").exists()
