"""The wheel: built from the sdist, installed where the checkout cannot be seen, and used from another folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cruijff_kit.experiment_template import names

CHECKOUT = Path(__file__).resolve().parent.parent
EXAMPLE = CHECKOUT / "examples" / "smollm2_capitalize"
MADE_BY_GENERATE = ("configs", "scripts", "results", "eval_results", ".*", "__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built without a network, and by way of the sdist: the wheel has what the sdist has, and no more."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, CHECKOUT)
    assert len(list(out.glob("cruijff_kit-*.tar.gz"))) == 1
    (wheel,) = out.glob("cruijff_kit-*-py3-none-any.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin/ of a new environment that holds the wheel, and sees the dependencies of this one.

    They are seen through a .pth file. Those of the environment that it names are not read, so that an editable install
    of the checkout there is not seen. It is written last: pip would find the package installed there.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site,) = home.glob("lib/python*/site-packages")
    seen = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
    return home / "bin"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def experiment(installed, elsewhere) -> Path:
    """A generated copy of the example."""
    run(sys.executable, EXAMPLE / "get_model.py", cwd=elsewhere)
    copy = elsewhere / "capitalize"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns(*MADE_BY_GENERATE))
    run(installed / "cruijff-kit", "generate", copy, cwd=elsewhere)
    return copy


def run(*command: object, cwd: Path | None = None) -> str:
    """What `command` printed on stdout; its stderr is in the failure's message."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def hydra(installed: Path, experiment: Path, *options: str) -> str:
    """The output of plain Hydra on the experiment's multirun.yaml."""
    config = ("--config-dir", experiment / "configs", "--config-name", "multirun")
    return run(installed / "python", "-m", "cruijff_kit", *config, *options, cwd=experiment.parent)


def files_below(folder: str) -> set[str]:
    """The files that the wheel should hold of a folder of the checkout: all but what Python or an editor left there."""
    return {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo") and not path.name.startswith((".", "#"))
    }


def test_the_wheel_holds_the_package_its_conf_and_the_plugins_and_nothing_else(wheel):
    package, conf, plugins = (files_below(name) for name in ("cruijff_kit", "conf", "launchers/hydra_plugins"))
    example = [name.relative_to(CHECKOUT).as_posix() for name in map(EXAMPLE.joinpath, names("quickstart"))]
    assert package and conf and plugins and example
    expected = {*package, *(f"cruijff_kit/{name}" for name in conf), *(name[len("launchers/") :] for name in plugins)}
    expected |= {name.replace("examples/smollm2_capitalize", "cruijff_kit/templates/quickstart") for name in example}
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
    assert {name for name in held if ".dist-info/" not in name} == expected
    assert len(held) == len(set(held))


def test_hydra_plugins_is_a_namespace_that_other_distributions_share(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "hydra_plugins/__init__.py" not in names
    assert "hydra_plugins/staged_launcher/__init__.py" in names


def test_the_wheel_declares_the_command_the_license_and_pinned_companions(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        metadata = archive.read(f"{info}/METADATA").decode().splitlines()
        assert "The cruijff-kit authors" in archive.read(f"{info}/licenses/LICENSE").decode()
    inspect = "[inspect_ai]\ncruijff_kit = cruijff_kit.inspect_providers\n"
    assert entry_points == f"[console_scripts]\ncruijff-kit = cruijff_kit.cli:main\n\n{inspect}"
    assert "License-Expression: MIT" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: torchao==0.15.*" in metadata


def test_the_constraints_pin_every_requirement_to_a_version_within_its_range():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    listed = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    requirements = [wanted for wanted in map(Requirement, listed) if wanted.name != project["name"]]
    assert requirements
    for wanted in requirements:
        assert versions.get(canonicalize_name(wanted.name), "0") in wanted.specifier, wanted


def test_what_is_imported_is_the_wheel_and_not_the_checkout(installed, elsewhere):
    program = """
import json, cruijff_kit, hydra_plugins.staged_launcher, hydra_plugins.hydra_submitit_launcher
from cruijff_kit.paths import conf_dir
print(json.dumps([cruijff_kit.__file__, str(conf_dir()), hydra_plugins.staged_launcher.__file__]))
"""
    environment = installed.parent.resolve()
    places = [Path(place).resolve() for place in json.loads(run(installed / "python", "-c", program, cwd=elsewhere))]
    assert [place for place in places if not place.is_relative_to(environment)] == []
    assert any(places[1].rglob("*.yaml"))


def test_the_command_says_what_it_can_do(installed, elsewhere):
    shown = run(installed / "cruijff-kit", "--help", cwd=elsewhere)
    assert "generate" in shown and "run" in shown


def test_generate_works_from_the_wheel(experiment):
    made = {path.name for path in (experiment / "configs").iterdir()}
    assert {"run_mapping.yaml", "multirun.yaml", "train_000.yaml", "eval_000.py"} <= made


def test_init_writes_the_example_without_a_checkout_and_check_accepts_it(installed, elsewhere, experiment):
    run(installed / "cruijff-kit", "init", elsewhere / "first", cwd=elsewhere)
    assert (elsewhere / "first" / "experiment.yaml").read_bytes() == (EXAMPLE / "experiment.yaml").read_bytes()
    assert run(installed / "cruijff-kit", "check", elsewhere / "first", cwd=elsewhere) == "✓ No errors: 2 runs, 2 evaluation tasks\n"


def test_plain_hydra_composes_the_experiment_from_the_packaged_conf(installed, experiment):
    job = OmegaConf.create(hydra(installed, experiment, "--cfg", "job"))
    assert {"torchtune", "evaluation", "stage", "stages", "learning_rate"} <= set(job)


@pytest.mark.parametrize("node", ["launcher", "sweeper"])
def test_hydra_finds_our_plugins(installed, experiment, node):
    target = OmegaConf.create(hydra(installed, experiment, "--cfg", "hydra", "--package", f"hydra.{node}"))._target_
    assert target.startswith("hydra_plugins.")
    name = target.rpartition(".")[2]
    assert f"\t{name}\n" in hydra(installed, experiment, "--info", "plugins")


def test_the_local_launcher_can_be_named(installed, experiment):
    shown = hydra(installed, experiment, "--cfg", "hydra", "--package", "hydra.launcher", "hydra/launcher=staged_local")
    assert "_target_: hydra_plugins.staged_launcher." in shown
