"""The staged Slurm launcher on a real Slurm: Hydra's own suites, what is sent, what runs, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase
from packaging.version import Version

from tests.slurm.configuration import Settings
from tests.slurm.private_slurm import PrivateSlurm, wait_until
from tests.slurm.staged_app import LAUNCHERS, StagedApp

QUICK = ["hydra.launcher.wait=true", "hydra.launcher.poll_s=0.05"]
NO_TRACE = "\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.\n"


@pytest.fixture
def hydras_own(slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's suites run in this process, and in others that find the plugins as installed ones would."""
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(LAUNCHERS), os.environ.get("PYTHONPATH", "")]))
    # an application composed earlier in this process sets another for good
    monkeypatch.setattr(VersionBase.instance(), "version_base", Version("1.1"))


def ids(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The jobs that the launcher says it sent or found."""
    assert done.returncode == 0, done.stderr
    return [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("job ")]


def accounted(slurm: PrivateSlurm, job: str, fields: str) -> dict[int, list[str]]:
    """What sacct has of each task of an array, by its index."""
    lines = slurm.run("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", f"--format=JobID,{fields}").splitlines()
    return {int(line.split("|")[0].partition("_")[2]): line.split("|")[1:] for line in lines}


# ---- Hydra's own suites


@pytest.mark.usefixtures("hydras_own")
@pytest.mark.parametrize("launcher_name, overrides", [("staged_slurm", QUICK)])
class TestLauncherSuite(LauncherTestSuite):
    """Hydra's own tests of a launcher, whole."""


@pytest.mark.usefixtures("hydras_own")
@pytest.mark.parametrize(
    "task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/launcher=staged_slurm", *QUICK, "hydra/job_logging=disabled"])]
)
class TestIntegrationSuite(IntegrationTestSuite):
    """Hydra's own tests of applications run by a launcher, whole."""


# ---- what is sent, and what runs


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_eight_points_are_two_arrays_and_a_failed_training_bars_its_own_evaluation_alone(
    slurm: PrivateSlurm, tmp_path: Path, how: str
) -> None:
    counted = slurm.counting(tmp_path / "bin")
    app = StagedApp(tmp_path / "app", counted.environment)
    train, evaluation = ids(app.run("x=range(8)", f"fail='{how} 3 train'"))
    assert len(counted.submissions) == 2
    slurm.wait_until_idle()
    wait_until(lambda: len(accounted(slurm, evaluation, "State")) == 8, 30, "the accounting has all evaluations")
    others = [x for x in range(8) if x != 3]
    states = accounted(slurm, train, "State,ExitCode")
    assert {x: state for x, (state, _) in states.items()} == {**dict.fromkeys(others, "COMPLETED"), 3: "FAILED"}
    assert states[3][1] != "0:0"
    assert accounted(slurm, evaluation, "State")[3][0].startswith("CANCELLED")
    assert app.did() == [*(("eval", x) for x in others), *(("train", x) for x in others)]


def test_each_evaluation_starts_as_soon_as_its_own_training_has_ended(slurm: PrivateSlurm, app: StagedApp) -> None:
    lengths = {1: 0, 2: 2, 3: 4, 4: 6}
    (app.folder / "config.yaml").write_text((app.folder / "config.yaml").read_text().replace("seconds: 0", "seconds: ${eval:${x}}"))
    (app.folder / "app.py").write_text(
        "from omegaconf import OmegaConf\n"
        "OmegaConf.register_new_resolver('eval', lambda x: (int(x) - 1) * 2, replace=True)\n" + (app.folder / "app.py").read_text()
    )
    train, evaluation = ids(app.run("x=1,2,3,4"))
    slurm.wait_until_idle()
    ends, starts = accounted(slurm, train, "End"), accounted(slurm, evaluation, "Start")
    waited = [_seconds(starts[index][0]) - _seconds(ends[index][0]) for index in range(len(lengths))]
    assert max(waited) <= 2, waited
    trained = {line["x"]: line["time"] for line in app.events(stage="train")}
    begun = {line["x"]: line["time"] for line in app.events(event="start", stage="eval")}
    assert begun[1] < trained[3], "the first waited for others"


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


@contextmanager
def held(slurm: PrivateSlurm) -> Iterator[None]:
    """Nothing that is sent meanwhile begins."""
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        yield
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")


def test_what_is_queued_is_not_sent_again_and_was_frozen(slurm: PrivateSlurm, tmp_path: Path) -> None:
    counted = slurm.counting(tmp_path / "bin")
    app = StagedApp(tmp_path / "app", counted.environment)
    words = ["x=1,2,3", "+cluster.train.array_parallelism=1", "seconds=1"]
    with held(slurm):
        first = app.run(*words)
        second = app.run(*words)
    train, evaluation = ids(first)
    assert len(counted.submissions) == 2
    assert ids(second) == [train, evaluation]
    assert f"job {train}: 3 train, sent before\njob {evaluation}: 3 eval, sent before\n" in second.stdout
    for path in (app.folder / "config.yaml", *(app.folder / "slurm").glob("*.yaml")):
        path.write_text(path.read_text().replace("as it was", "edited"))
    slurm.wait_until_idle()
    assert app.did() == [(stage, x) for stage in ("eval", "train") for x in (1, 2, 3)]
    assert {line["value"] for line in app.events()} == {"as it was"}
    running = sorted((line["time"], line["event"]) for event in ("start", "end") for line in app.events(event=event, stage="train"))
    assert [event for _, event in running] == ["start", "end"] * 3


def test_what_is_over_is_sent_again(slurm: PrivateSlurm, app: StagedApp) -> None:
    words = ["x=1,2", "stages=[train]"]
    first = ids(app.run(*words))
    slurm.wait_until_idle()
    assert ids(app.run(*words)) != first
    slurm.wait_until_idle()
    assert app.did() == [("train", 1), ("train", 1), ("train", 2), ("train", 2)]


def test_points_of_other_resources_go_to_arrays_of_their_own(slurm: PrivateSlurm, tmp_path: Path) -> None:
    counted = slurm.counting(tmp_path / "bin")
    app = StagedApp(tmp_path / "app", counted.environment)
    jobs = ids(app.run("x=1,2", "+cluster.train.mem_gb=1,2", "cluster.eval.gpus_per_node=0"))
    assert len(counted.submissions) == len(jobs) == 4
    slurm.wait_until_idle()
    wait_until(lambda: len(accounted(slurm, jobs[2], "ReqMem")) == 2, 30, "the accounting has all trainings")
    assert [{memory for (memory,) in accounted(slurm, job, "ReqMem").values()} for job in (jobs[0], jobs[2])] == [{"1G"}, {"2G"}]
    assert app.did() == [(stage, x) for stage in ("eval", "train") for x in (1, 1, 2, 2)]
    assert {line["gpu"] for line in app.events(stage="eval")} <= {None, "", "NoDevFiles"}


def test_what_has_no_training_waits_for_none(slurm: PrivateSlurm, app: StagedApp) -> None:
    done = app.run("x=1,2", "stages=[eval],[train,eval]", "seconds=1")
    assert len(ids(done)) == 3
    assert done.stdout.count("each after its own") == 1
    slurm.wait_until_idle()
    assert app.did() == [("eval", 1), ("eval", 1), ("eval", 2), ("eval", 2), ("train", 1), ("train", 2)]


def test_a_training_that_two_points_share_runs_once_before_both_evaluations(slurm: PrivateSlurm, app: StagedApp) -> None:
    words = ["x=1,2", "+keys={train:'${x}',eval:'${x}a'},{train:'${x}',eval:'${x}b'},{train:'${x}',eval:'${x}b'}"]
    with held(slurm):
        train, one, other = ids(app.run(*words))
        assert ids(app.run(*words)) == [train, one, other]
    slurm.wait_until_idle()
    assert app.did() == [("eval", 1), ("eval", 1), ("eval", 2), ("eval", 2), ("train", 1), ("train", 2)]
    assert max(line["time"] for line in app.events(stage="train", event="end")) <= max(line["time"] for line in app.events(stage="eval"))


def test_a_folder_may_be_called_anything_but_what_slurm_replaces(slurm: PrivateSlurm, tmp_path: Path) -> None:
    app = StagedApp(tmp_path / "it's a \"b\" $HOME `c` ü", slurm.environment)
    done = app.run("x=1", "hydra.launcher.wait=true", "hydra.launcher.name='it\\'s \"x\" $y'")
    assert done.returncode == 0, done.stderr
    assert app.did() == [("eval", 1), ("train", 1)]


def test_arrays_longer_than_the_cluster_allows_are_split_index_by_index(tmp_path: Path) -> None:
    with PrivateSlurm(tmp_path / "slurm", Settings(max_array_size=3)) as slurm:
        counted = slurm.counting(tmp_path / "bin")
        app = StagedApp(tmp_path / "app", counted.environment)
        jobs = ids(app.run("x=range(4)", "fail='raise 3 train'"))
        assert len(counted.submissions) == len(jobs) == 4
        slurm.wait_until_idle()
    assert app.did() == [("eval", 0), ("eval", 1), ("eval", 2), ("train", 0), ("train", 1), ("train", 2)]
    assert {(line["job"], line["index"]) for line in app.events(event="start", stage="train") if line["x"] == 3} == {(jobs[2], "0")}


def test_a_site_that_drops_nothing_by_itself_is_cleared_by_the_next_run(slurm: PrivateSlurm, app: StagedApp) -> None:
    words = ["x=1,2", "hydra.launcher.kill_on_invalid_dep=false"]
    _, evaluation = ids(app.run(*words, "fail='raise 2 train'"))
    stuck = ["squeue", "--noheader", "--array", "--format=%i %r"]
    wait_until(lambda: slurm.run(*stuck) == f"{evaluation}_1 DependencyNeverSatisfied\n", 60, "only what waits for ever is left")
    again = app.run(*words, "fail='raise 2 train'", "hydra.launcher.wait=true")
    assert again.returncode == 1 and "done already: 2\n" in again.stdout
    assert app.did(event="start") == [("eval", 1), ("train", 1), ("train", 2), ("train", 2)]
    slurm.wait_until_idle(30)  # a run that waits leaves nothing behind that waits for ever


# ---- what follows others, however they end

FOLLOWER = """
import copy
from types import SimpleNamespace
from omegaconf import open_dict

def prepare(configs):
    group = copy.deepcopy(configs[0])
    with open_dict(group):
        group.x, group.run, group.stages, group.value = 0, "group", ["eval"], str([config.x for config in configs])
    return SimpleNamespace(points=configs, extras=[group], after=[range(len(configs))])
"""
TOGETHER = "hydra.launcher.hooks=follower"


@pytest.fixture
def following(app: StagedApp) -> StagedApp:
    """The application with an evaluation more, x=0, which follows all points of its sweep."""
    (app.folder / "follower.py").write_text(FOLLOWER)
    return app


def dependencies(app: StagedApp) -> list[str]:
    """What each array that follows others waits for, in the order in which they were sent."""
    launches = [path.read_text() for path in sorted((app.folder / "slurm").glob("*/*/submission.sh"))]
    return [line.partition("=")[2] for text in launches for line in text.splitlines() if line.startswith("#SBATCH --dependency=afterany")]


def test_what_follows_others_runs_once_and_after_all_of_them_however_they_ended(slurm: PrivateSlurm, following: StagedApp) -> None:
    """Where Slurm drops nothing by itself, an evaluation whose training failed would hold it up for ever."""
    done = following.run("x=1,2,3", TOGETHER, "fail='raise 2 train'", "seconds=1", "hydra.launcher.kill_on_invalid_dep=false", "hydra.launcher.wait=true")
    assert done.returncode == 1 and done.stderr.splitlines()[-3] == "1 of 3 points failed"
    train, evaluation, group = (line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("job "))
    assert f"job {group}: 1 eval, once its own of job {train} and {evaluation} are over\n" in done.stdout
    assert dependencies(following) == [f"afterany:{train}:{evaluation}"]
    assert following.did() == [("eval", 0), ("eval", 1), ("eval", 3), ("train", 1), ("train", 3)]
    starts = {(line["x"], line["stage"]): line["time"] for line in following.events(event="start")}
    assert starts[0, "eval"] > max(line["time"] for line in following.events() if line["x"])
    assert starts[0, "eval"] > starts[2, "train"] + 1


def test_what_follows_trainings_that_were_sent_before_waits_for_these_alone(slurm: PrivateSlurm, following: StagedApp) -> None:
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")  # all of it waits
    try:
        (first,) = ids(following.run("x=1,2,3", "stages=[train]"))
        assert ids(following.run("x=1,2", "stages=[train]", TOGETHER))[1:] == [first]
        both = [ids(following.run("x=1,2,3", "stages=[train]", TOGETHER)) for _ in range(2)]
        assert sorted(both[0]) == sorted(both[1])
        second, _, _ = ids(following.run("x=3,4", "stages=[train]", TOGETHER))
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    assert dependencies(following) == [f"afterany:{first}_0:{first}_1", f"afterany:{first}", f"afterany:{first}_2:{second}"]
    slurm.wait_until_idle()
    assert following.did() == [("eval", 0)] * 3 + [("train", x) for x in (1, 2, 3, 4)]
    ends = {line["x"]: line["time"] for line in following.events(stage="train")}
    for line in following.events(event="start", stage="eval"):
        assert line["time"] > max(ends[x] for x in json.loads(line["value"]))


def test_what_follows_a_training_that_is_sent_again_waits_for_it_anew(slurm: PrivateSlurm, following: StagedApp) -> None:
    words = ["x=1,2", "stages=[train]", TOGETHER, "fail='raise 2 train'"]
    train, group = ids(following.run(*words, "seconds=2"))
    slurm.run("scontrol", "hold", group)
    slurm.wait_for(train, "COMPLETED", "FAILED")
    again, anew = ids(following.run(*words, "seconds=2"))
    assert dependencies(following) == [f"afterany:{train}", f"afterany:{again}"]
    slurm.wait_until_idle()
    assert [(line["x"], line["job"]) for line in following.events(event="start")][2:] == [(2, again), (0, anew)]


# ---- what is refused: one message, and nothing is sent


@pytest.mark.parametrize(
    "words, message",
    [
        (["+cluster.eval.partition=nowhere"], "stage eval: srun: error: invalid partition specified: nowhere\n"),
        (["+cluster.eval.gres=gpu:9"], "stage eval: srun: error: "),
        (["+cluster.eval.partitio=main"], "cluster.eval.partitio\n  unknown option\n  did you mean 'partition'?\n"),
        (
            ["hydra.launcher.folder=${hydra.runtime.cwd}/100%"],
            "/100%' holds a % sign, which Slurm does not take in the name of a log\n  choose another folder\n",
        ),
        (["+hydra.launcher.stages.train.mem=4"], "hydra.launcher.stages.train.mem\n  unknown key\n  known keys: needs, partition, "),
    ],
)
def test_what_slurm_would_refuse_is_said_before_anything_is_sent(
    slurm: PrivateSlurm, tmp_path: Path, words: list[str], message: str
) -> None:
    counted = slurm.counting(tmp_path / "bin")
    app = StagedApp(tmp_path / "app", counted.environment)
    done = app.run("x=1,2", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr and "Traceback" not in done.stderr and done.stderr.endswith(NO_TRACE)
    assert counted.submissions == []


def test_without_slurms_programs_one_message_says_so(app: StagedApp) -> None:
    app.environment = {**app.environment, "PATH": "/nowhere"}
    done = app.run("x=1,2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"scontrol was not found: is this a login node of the cluster? Slurm's programs must be on PATH\n{NO_TRACE}"
    )


def test_a_second_array_that_is_refused_takes_the_first_back(slurm: PrivateSlurm, tmp_path: Path) -> None:
    """By what no trial finds: the second call of sbatch fails."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    sbatch.write_text(f'#!/bin/sh\ncase "$2" in *_eval/*) echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1;; esac\nexec {real} "$@"\n')
    sbatch.chmod(0o755)
    app = StagedApp(tmp_path / "app", {**slurm.environment, "PATH": f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}"})
    done = app.run("x=1,2", "seconds=60")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nnothing was submitted\n{NO_TRACE}"
    slurm.wait_until_idle()
    app.environment = slurm.environment
    assert len(ids(app.run("x=1,2"))) == 2
    slurm.wait_until_idle()
    assert app.did() == [("eval", 1), ("eval", 2), ("train", 1), ("train", 2)]
