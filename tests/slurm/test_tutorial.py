"""README.md and docs/tutorial.md, word for word: every block is executed. Both share one training, of the real SmolLM2-135M.

`pytest tests/test_documents.py` finds most slips in the same pages within seconds.
"""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import sys
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.documents import Reader
from tests.slurm.private_slurm import PrivateSlurm

CHECKOUT = Path(__file__).parents[2]
BUILT_FROM = ("README.md", "LICENSE", "Makefile", "pyproject.toml", "constraints.txt", "cruijff_kit", "conf", "launchers", "examples")
MADE = shutil.ignore_patterns("__pycache__", "configs", "scripts", "results", "eval_results", ".cruijff-kit")
HERE = "cruijff-kit run . --multirun hydra/launcher=staged_local"
ONE_MORE = "cruijff-kit run . --multirun lora_rank=8 hydra/launcher=staged_local"
ON_SLURM = "cruijff-kit run . --multirun lora_rank=8 --again run_002 hydra/launcher=staged_slurm hydra.launcher.wait=true"
USE = """\
source .venv/bin/activate
cruijff-kit generate demo/smollm2_capitalize
cruijff-kit run demo/smollm2_capitalize --multirun
cruijff-kit results demo/smollm2_capitalize"""

Scores = dict[tuple[str, str], list[str]]


@pytest.fixture(scope="module")
def environment(python_path: str | None) -> dict[str, str]:
    """That of a user. What pip is asked for is there already, and is found so without a network."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # the `make test` that may run this is none of a reader's
    return {**outside, "PYTHONPATH": python_path or "", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory, slurm: PrivateSlurm, environment: dict[str, str]) -> Reader:
    """Who has read the tutorial to its end, and is in the experiment's folder. The model is made by `make test`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    reader = Reader(tmp_path_factory.mktemp("tutorial"), {**environment, **slurm.environment, "PATH": path})
    reader.read(CHECKOUT / "docs" / "tutorial.md")
    return reader


def scores(printed: str) -> Scores:
    """The rows of the printed table by run and task: value, stderr and samples."""
    rows = [line.split() for line in printed.splitlines() if line.startswith(("base ", "run_")) and " match accuracy " in line]
    return {(row[0], row[row.index("match") - 1]): row[row.index("accuracy") + 1 :][:3] for row in rows}


def test_both_fine_tuned_models_score_higher_than_the_untouched_one(tutorial: Reader) -> None:
    rows = scores(tutorial.printed[HERE])
    assert {run for run, _ in rows} == {"base", "run_000", "run_001"}
    value = {run: float(values[0]) for (run, task), values in rows.items() if task == "capitalize"}
    assert value["run_000"] > value["base"]
    assert value["run_001"] > value["base"]


def test_the_printed_scores_are_those_of_inspects_logs(tutorial: Reader) -> None:
    from inspect_ai.log import read_eval_log

    for (run, task), (value, stderr, samples) in scores(tutorial.printed[HERE]).items():
        (path,) = (tutorial.folder / "eval_results" / run / task).rglob("*.eval")
        log = read_eval_log(str(path))
        metrics = log.results.scores[0].metrics
        assert (value, stderr) == (f"{metrics['accuracy'].value:.4f}", f"{metrics['stderr'].value:.4f}")
        assert int(samples) == len(log.samples) == log.results.completed_samples


def test_the_file_of_scores_has_those_of_inspects_logs_to_the_last_digit(tutorial: Reader) -> None:
    from inspect_ai.log import read_eval_log

    with (tutorial.folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for row in rows:
        (path,) = tutorial.folder.glob(row["log"].replace("run_002/", "run_002.*/"))  # which is done again after that, on Slurm
        log = read_eval_log(str(path))
        metrics = log.results.scores[0].metrics
        assert (float(row["value"]), float(row["stderr"])) == (metrics["accuracy"].value, metrics["stderr"].value)
        assert float(row["value"]) == sum(sample.scores["match"].value == "C" for sample in log.samples) / len(log.samples)
        assert (int(row["samples"]), row["status"]) == (len(log.samples), "success")


def test_on_slurm_the_scores_of_a_run_are_the_same(tutorial: Reader) -> None:
    point = [("run_002", "capitalize"), ("run_002", "capitalize_phrase")]
    here, there = scores(tutorial.printed[ONE_MORE]), scores(tutorial.printed[ON_SLURM])
    assert [here[place] for place in point] == [there[place] for place in point]


def test_the_readme_does_what_it_says(tutorial: Reader, tmp_path: Path, environment: dict[str, str]) -> None:
    """In a clone whose .venv and demo/ are there: what `make setup` installs, and what the tutorial trained from the same files."""
    clone = tmp_path / "clone"
    _copy(BUILT_FROM, clone)
    _link_environment(clone / ".venv")
    _link_results(tutorial.folder, clone / "demo" / "smollm2_capitalize", ("base", "run_000", "run_001"))
    path = [_new_environment(tmp_path / "environment"), _programs_without_sbatch(tmp_path / "programs")]
    # Which is how pip is told of --no-build-isolation: https://github.com/pypa/pip/issues/5735
    settings = {"PATH": os.pathsep.join(map(str, path)), "PIP_NO_BUILD_ISOLATION": "0"}
    reader = Reader(clone, {**environment, **settings}, {"make test\n": _make_test_is_what_runs_this})
    reader.read(CHECKOUT / "README.md")
    assert reader.printed["make demo"].endswith("\nnothing is left to do\n")
    assert scores(reader.printed[USE]) == scores(tutorial.printed[HERE])


def _make_test_is_what_runs_this() -> None:
    """It would run itself without end: that CI runs it, and nothing else, is what can be looked at."""
    assert "\nexec make test <" in (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8")


def _copy(names: Iterable[str], clone: Path) -> None:
    clone.mkdir()
    for name in names:
        source = CHECKOUT / name
        shutil.copytree(source, clone / name, ignore=MADE) if source.is_dir() else shutil.copy2(source, clone / name)


def _link_environment(folder: Path) -> None:
    """What `make setup` leaves, and later than what it is made from."""
    folder.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".installed").touch()


def _link_results(experiment: Path, demo: Path, runs: Iterable[str]) -> None:
    for place in (experiment / kind / run for kind in ("results", "eval_results") for run in runs):
        if place.is_dir():
            shutil.copytree(place, demo / place.relative_to(experiment), symlinks=True, copy_function=os.link)


def _new_environment(home: Path) -> Path:
    """The bin/ of a new virtual environment that sees what is installed here, pip too, and has no cruijff-kit of its own."""
    venv.create(home, symlinks=True, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    seen = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
    pip = home / "bin" / "pip"
    pip.write_text(f"#!/bin/sh\nexec {shlex.quote(str(home / 'bin' / 'python'))} -m pip \"$@\"\n", encoding="utf-8")
    pip.chmod(0o755)
    return home / "bin"


def _programs_without_sbatch(folder: Path) -> Path:
    """Links to all that is on PATH, but for this environment's: a machine without Slurm, where cruijff-kit is not installed."""
    folder.mkdir()
    for place in map(Path, os.environ["PATH"].split(os.pathsep)):
        if place.is_dir() and place.resolve() != Path(sys.prefix, "bin").resolve():
            for program in place.iterdir():
                if program.name != "sbatch" and not os.path.lexists(folder / program.name):
                    (folder / program.name).symlink_to(program)
    return folder
