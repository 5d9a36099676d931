"""The staged local launcher, by Hydra's own suite for launchers and by small applications that it runs."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List

import pytest
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase
from hydra_plugins.staged_launcher._display import HEARTBEAT_EVERY_S, PlainDisplay
from hydra_plugins.staged_launcher._failures import last_line
from hydra_plugins.staged_launcher._gpus import parse_listing, parse_visible
from hydra_plugins.staged_launcher._local_run import make_slots
from hydra_plugins.staged_launcher._log_tail import pieces
from hydra_plugins.staged_launcher._processes import Process, _ps_table, descendants, process_table
from hydra_plugins.staged_launcher._stages import Stage, point_stages, read_stages
from hydra_plugins.staged_launcher._works import State, Work, end, next_ready
from omegaconf import OmegaConf
from packaging.version import Version

from tests.terminal import Terminal

LAUNCHERS = Path(__file__).parents[1] / "launchers"

CONFIG = """
defaults:
  - override hydra/launcher: staged_local
  - override hydra/sweeper: grid
  - _self_
x: 1
text: ""
value: from the file
action: none
stages: null
hydra:
  sweep: {dir: out}
  launcher:
    stages: {train: {needs: null}, eval: {needs: train}}
    poll_s: 0.05
"""

APP = """
import os, signal, subprocess, sys, time
import hydra
from beside import write

def act(action, config):
    if action == "fail":
        raise RuntimeError("out of luck\\nin more than one line")
    if action == "exit":
        sys.exit(7)
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "unpicklable":
        return (x for x in ())
    if action == "edit":
        with open("config.yaml") as file:
            text = file.read()
        with open("config.yaml", "w") as file:
            file.write(text.replace("from the file", "edited"))
    if action.startswith("sleep"):
        time.sleep(float(action[5:]))
    if action == "spawn":
        spawn()
    if action == "clean up":
        clean_up()

def spawn():
    stubborn = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; "
    stubborn += "print(9, flush=True); time.sleep(99)"
    tame = "import time; time.sleep(99)"
    one = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    one.stdout.readline()
    two = subprocess.Popen(["sh", "-c", f"{sys.executable} -c '{tame}' & wait"], start_new_session=True, env={})
    write(event="spawned", pids=[os.getpid(), one.pid, two.pid])
    two.wait()

def clean_up():
    write(event="waiting", pids=[os.getpid()])
    try:
        time.sleep(60)
    finally:
        time.sleep(0.5)
        write(event="cleaned")

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    me = dict(x=config.x, stage=config.get("stage"), gpu=os.environ.get("CUDA_VISIBLE_DEVICES"))
    write(event="start", **me)
    action, _, when = config.action.partition(" at ")
    print("\\rstep 1\\rstep 2", flush=True)
    value = act(action, config) if when in ("", f"{config.x} {config.get('stage')}") else None
    write(event="end", value=config.value, text=config.text, **me)
    return value if value is not None else [config.x, config.get("stage")]

if __name__ == "__main__":
    main()
"""

BESIDE = """
import json, os, time

def write(**event):
    path = os.path.join(os.path.dirname(__file__), "events.jsonl")
    with open(path, "a") as file:
        file.write(json.dumps({"time": time.time(), **event}, default=list) + "\\n")
"""


class App:
    """A Hydra application in a folder, and what its jobs wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("config.yaml", CONFIG)
        self.write("app.py", APP)
        self.write("beside.py", BESIDE)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def launcher(self, **options: Any) -> None:
        """Change options of the launcher in the application's config."""
        config = OmegaConf.create(CONFIG)
        OmegaConf.update(config, "hydra.launcher", options)
        self.write("config.yaml", OmegaConf.to_yaml(config))

    def command(self, *arguments: str) -> dict:
        path = os.pathsep.join([str(LAUNCHERS), os.environ.get("PYTHONPATH", "")])
        env = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        return {
            "args": [sys.executable, str(self.folder / "app.py"), "--multirun", *arguments],
            "cwd": self.folder,
            "env": {**env, "PYTHONPATH": path},
        }

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        command = self.command(*arguments)
        command["env"].update(env)
        return subprocess.run(**command, capture_output=True, text=True, timeout=60)

    def events(self, *fields: str, event: str = "start") -> list:
        path = self.folder / "events.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        chosen = [line for line in lines if line["event"] == event]
        return [tuple(line[field] for field in fields) for line in chosen] if fields else chosen

    def overlaps(self) -> List[list]:
        """For each job, the GPUs of the jobs that ran when it started, its own last."""
        ends = {(e["x"], e["stage"]): e["time"] for e in self.events(event="end")}
        starts = self.events()
        return [
            [o["gpu"] for o in starts if o["time"] <= s["time"] < ends.get((o["x"], o["stage"]), 0)] for s in starts
        ]


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


@pytest.fixture(autouse=True)
def plugins_for_subprocesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's suites start applications that find the plugins as installed ones would."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(LAUNCHERS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(autouse=True)
def hydras_default_version_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's own suite expects it, and an application composed earlier in this process sets another for good."""
    monkeypatch.setattr(VersionBase.instance(), "version_base", Version("1.1"))


def wait_for(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return condition()
        time.sleep(0.05)
    raise AssertionError("did not come true in time")


def alive(pid: int) -> bool:
    return pid in process_table("none")


# ---- Hydra's own suites


@pytest.mark.parametrize("launcher_name, overrides", [("staged_local", ["hydra.launcher.poll_s=0.05"])])
class TestLauncherSuite(LauncherTestSuite):
    """Hydra's own tests of a launcher, whole."""


@pytest.mark.parametrize(
    "task_launcher_cfg, extra_flags",
    [({}, ["-m", "hydra/launcher=staged_local", "hydra.launcher.poll_s=0.05", "hydra/job_logging=disabled"])],
)
class TestIntegrationSuite(IntegrationTestSuite):
    """Hydra's own tests of applications run by a launcher, whole."""


# ---- what goes next, without processes


def works(count: int, *stages: Stage) -> List[Work]:
    return [Work(str(i), OmegaConf.create(), stages, [i]) for i in range(count)]


def begin(work: Work, name: str) -> None:
    work.parts[name].state = State.RUNNING


def test_a_work_that_has_begun_goes_before_a_new_one() -> None:
    first, second, third = works(3, Stage("train"), Stage("eval", ("train",)))
    begin(first, "train")
    begin(second, "train")
    assert next_ready([first, second, third]) == (third, third.parts["train"])
    end(second, second.parts["train"])
    assert next_ready([first, second, third]) == (second, second.parts["eval"])


def test_what_needs_a_failed_stage_is_not_run_however_indirectly() -> None:
    (work,) = works(1, Stage("a"), Stage("b", ("a",)), Stage("c", ("b",)), Stage("d"))
    work.parts["a"].error = RuntimeError()
    assert [part.stage.name for part in end(work, work.parts["a"])] == ["b", "c"]
    assert next_ready([work]) == (work, work.parts["d"])
    end(work, work.parts["d"])
    assert work.over and work.failed


def test_a_work_that_follows_others_begins_when_all_of_them_are_over_however_they_ended() -> None:
    first, second = works(2, Stage("train"), Stage("eval", ("train",)))
    (nothing,) = works(1)
    group = Work("group", OmegaConf.create(), (Stage("eval"),), follows=[first, second, nothing])
    for work in (first, second):
        assert next_ready([group, first, second]) == (work, work.parts["train"])
        work.parts["train"].error = RuntimeError()
        end(work, work.parts["train"])
    assert next_ready([group, first, second]) == (group, group.parts["eval"])


@pytest.mark.parametrize(
    "stages, message",
    [
        (
            {"eval": {"needs": "train"}, "train": None},
            "hydra.launcher.stages.eval.needs\n  'train' is no earlier stage\n  earlier stages: none",
        ),
        ({"a": {"need": "b"}}, "hydra.launcher.stages.a.need\n  unknown key\n  known keys: needs"),
        ({"a/b": {}}, "hydra.launcher.stages.a/b\n  a stage's name is made of letters, digits, _ . and -"),
        ({"a": "b"}, "hydra.launcher.stages.a\n  expected keys such as {needs: null}, found 'b'"),
    ],
)
def test_stages_that_cannot_be_are_named(stages: dict, message: str) -> None:
    with pytest.raises(CompactHydraException) as error:
        read_stages(stages)
    assert str(error.value) == message


# ---- a launch


def test_stages_run_depth_first_and_one_at_a_time_without_gpus(app: App) -> None:
    done = app.run("x=1,2")
    assert (done.returncode, done.stdout) == (0, "")
    expected = [(x, stage) for x in (1, 2) for stage in ("train", "eval")]
    assert app.events("x", "stage") == expected == app.events("x", "stage", event="end")
    assert app.overlaps() == [[None]] * 4
    assert [line.rpartition(" in ")[0] or line for line in done.stderr.splitlines()[:4]] == [
        "[0/2] x=1 train: started",
        "[0/2] x=1 train: done",
        "[0/2] x=1 eval: started",
        "[1/2] x=1 eval: done",
    ]
    folder = app.folder / "out" / "0"
    assert sorted(str(path.relative_to(folder)) for path in folder.glob("*/.hydra/config.yaml")) == [
        "eval/.hydra/config.yaml",
        "train/.hydra/config.yaml",
    ]


def test_a_failed_point_stops_no_other_and_is_told_of_at_the_end(app: App) -> None:
    app.launcher(max_parallel=2)
    done = app.run("x=1,2", "action=fail at 1 train")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "1 of 2 points failed\n\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.\n"
    )
    assert app.events("x", "stage", event="end") == [(2, "train"), (2, "eval")]
    log = logs(done)["x=1 action=fail at 1 train train"]
    assert rows(done) == [
        ["x=1 action=fail at 1 train", "train", "failed", "RuntimeError: out of luck"],
        ["x=1 action=fail at 1 train", "eval", "not run", "needs train"],
    ]
    assert "in more than one line" in log.read_text() and log.is_relative_to(app.folder / "out" / ".submitit")


def rows(done: subprocess.CompletedProcess) -> List[List[str]]:
    """The cells of the closing table."""
    lines = [line for line in done.stdout.splitlines() if "│" in line]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


def logs(done: subprocess.CompletedProcess) -> dict:
    """The paths printed beneath the closing table."""
    lines = [line.strip() for line in done.stdout.partition("logs:\n")[2].splitlines() if line]
    return {name: Path(path) for name, path in zip(lines[::2], lines[1::2])}


def test_every_way_to_fail_is_a_failure_with_a_reason(app: App) -> None:
    app.launcher(max_parallel=2)
    done = app.run("action=exit,die,unpicklable", "stages=[train]")
    assert done.returncode == 1 and "3 of 3 points failed\n" in done.stderr
    assert [row[3] for row in rows(done)] == [
        "RuntimeError: the task function exited with 7",
        "its process died without a result (killed, or out of memory?)",
        "TypeError: the task function returned a generator that cannot be pickled",
    ]


def test_a_point_runs_the_stages_that_it_lists() -> None:
    train, evaluate = Stage("train"), Stage("eval", ("train",))
    chosen = {
        "[eval, train]": (train, evaluate),
        "[eval]": (Stage("eval"),),
        "[]": (),
        "null": (train, evaluate),
        "text": (train, evaluate),
    }
    for text, stages in chosen.items():
        assert point_stages(OmegaConf.create(f"stages: {text}"), (train, evaluate), "stages") == stages


def test_an_unknown_stage_of_a_point_is_named_and_nothing_starts(app: App) -> None:
    done = app.run("stages=[eval],[evil]")
    assert done.returncode == 1 and app.events() == []
    assert done.stderr.startswith("stages\n  unknown stage 'evil'\n  stages: train, eval\n")


def test_an_application_without_stages_runs_once_a_point_with_no_stage_set(app: App) -> None:
    app.write("config.yaml", CONFIG.replace("stages: {train: {needs: null}, eval: {needs: train}}", "stages: {}"))
    assert app.run("x=2", "stages=[64,128]").returncode == 0
    assert app.events("x", "stage") == [(2, None)]
    assert (app.folder / "out" / "0" / ".hydra" / "overrides.yaml").exists()


def test_jobs_run_what_was_composed_though_config_files_change(app: App) -> None:
    assert app.run("x=1,2", "action=edit at 1 train", "stages=[train]").returncode == 0
    assert "value: edited" in (app.folder / "config.yaml").read_text()
    assert app.events("value", event="end") == [("from the file",)] * 2


NASTY = [
    "it's", 'say "hi"', " a  b ", "a,b", "$(x)", "`x`", "a=b", "{a: [b]}", "ä €", "a\\b", "end\\", "null", "#", "",
]  # fmt: skip


def test_nasty_strings_reach_the_task_function(app: App) -> None:
    quoted = [QuotedString(text, Quote.single).with_quotes() for text in NASTY]
    app.launcher(max_parallel=2)
    done = app.run("stages=[eval]", f"text={quoted[0]},{quoted[4]},[{','.join(quoted)}]")
    assert done.returncode == 0, done.stderr
    texts = [text for (text,) in app.events("text", event="end")]
    assert sorted(texts, key=str) == sorted([NASTY[0], NASTY[4], NASTY], key=str)


# ---- the application's hooks

HOOKS = """
import copy
from types import SimpleNamespace
from omegaconf import open_dict

def prepare(configs):
    if any(config.x == 13 for config in configs):
        raise ValueError("thirteen")
    by_x = {}
    for number, config in enumerate(configs):
        with open_dict(config):
            config.run = f"run_{number:03}"
        by_x.setdefault(abs(config.x), config)
    baseline = copy.deepcopy(configs[0])
    with open_dict(baseline):
        baseline.x, baseline.run, baseline.stages = 0, "baseline", ["eval"]
    return SimpleNamespace(points=[by_x[abs(config.x)] for config in configs], extras=[baseline])

def progress(line):
    return line.replace("step", "epoch 1 step") if line.startswith("step") else None
"""


def test_prepare_names_points_lets_them_share_a_run_and_adds_others(app: App) -> None:
    app.write("my_hooks.py", HOOKS)
    app.launcher(hooks="my_hooks")
    done = app.run("x=1,2,-1", "stages=[train]")
    assert done.returncode == 0, done.stderr
    assert app.events("x", "stage") == [(0, "eval"), (1, "train"), (2, "train")]
    assert "[0/3] baseline eval: started" in done.stderr and "[2/3] run_001 train: started" in done.stderr
    assert sorted(path.name for path in (app.folder / "out").iterdir() if path.is_dir()) == [
        ".submitit", "0", "1", "extra_0",
    ]  # fmt: skip


def test_an_extra_that_follows_points_runs_once_they_are_over_though_one_failed(app: App) -> None:
    app.write("my_hooks.py", HOOKS.replace("extras=[baseline]", "extras=[configs[0], baseline], after=[[], [0, 2]]"))
    app.launcher(hooks="my_hooks", max_parallel=3)
    done = app.run("x=1,2,3", "action=fail at 1 train")
    assert done.returncode == 1 and done.stderr.splitlines()[-3] == "1 of 3 points failed"
    (begun,) = [event["time"] for event in app.events() if event["x"] == 0]
    assert begun > max(event["time"] for event in app.events(event="end") if event["x"] == 3)
    assert sorted(app.events("x", "stage", event="end")) == [(0, "eval"), (2, "eval"), (2, "train"), (3, "eval"), (3, "train")]


def test_nothing_starts_when_prepare_raises(app: App) -> None:
    app.write("my_hooks.py", HOOKS)
    app.launcher(hooks="my_hooks")
    done = app.run("x=1,13")
    assert done.returncode == 1 and "ValueError: thirteen" in done.stderr
    assert app.events() == [] and not (app.folder / "out" / ".submitit").exists()


def test_an_extra_that_fails_fails_the_launch(app: App) -> None:
    app.write("my_hooks.py", HOOKS)
    app.launcher(hooks="my_hooks")
    done = app.run("x=1", "stages=[train]", "action=fail at 0 eval")
    assert done.returncode == 1
    assert "\nbaseline failed, and no point did\n" in done.stderr
    assert "│ baseline │ eval  │ failed │ RuntimeError: out of luck │" in done.stdout
    assert app.events("x", "stage", event="end") == [(1, "train")]


@pytest.mark.parametrize(
    "path, message",
    [
        ("no_hooks.here", "No module named 'no_hooks'"),
        ("beside.nothing", "module 'beside' has no attribute 'nothing'"),
    ],
)
def test_hooks_that_are_not_there_are_named(app: App, path: str, message: str) -> None:
    done = app.run(f"hydra.launcher.hooks={path}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"hydra.launcher.hooks\n  cannot import '{path}': {message}\n")


def test_results_and_failures_come_back_to_hydras_own_sweeper(app: App) -> None:
    done = app.run("hydra/sweeper=basic", "x=1,2", "stages=[eval]", "action=fail at 1 eval")
    assert done.returncode == 1
    assert "submitit.core.utils.FailedJobError" in done.stderr and "RuntimeError: out of luck" in done.stderr
    assert app.events("x", "stage") == [(1, "eval"), (2, "eval")]


# ---- GPUs


def fake_nvidia_smi(folder: Path) -> str:
    """A PATH whose nvidia-smi knows two GPUs."""
    script = folder / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "GPU 0: Fake (UUID: GPU-aa)"\necho "GPU 1: Fake (UUID: GPU-bb)"\n')
    script.chmod(0o755)
    return os.pathsep.join([str(script.parent), os.environ["PATH"]])


def test_as_many_jobs_as_gpus_and_a_gpu_to_each(app: App) -> None:
    done = app.run("x=1,2,3", "stages=[train]", "action=sleep0.4", PATH=fake_nvidia_smi(app.folder))
    assert done.returncode == 0, done.stderr
    assert all(len(set(gpus)) == len(gpus) and set(gpus) <= {"0", "1"} for gpus in app.overlaps())
    first, second, third, *_ = done.stderr.splitlines()
    assert first == "[0/3] x=1 stages=[train] action=sleep0.4 train: started on GPU 0"
    assert second == "[0/3] x=2 stages=[train] action=sleep0.4 train: started on GPU 1"
    assert "done in" in third


def test_gpus_named_by_the_user_are_the_ones_used(app: App) -> None:
    path = fake_nvidia_smi(app.folder)
    assert app.run("x=1,2", "stages=[train]", PATH=path, CUDA_VISIBLE_DEVICES="MIG-a/b,GPU-c").returncode == 0
    assert sorted(app.events("gpu")) == [("GPU-c",), ("MIG-a/b",)]


def test_gpus_hidden_by_the_user_stay_hidden(app: App) -> None:
    path = fake_nvidia_smi(app.folder)
    assert app.run("stages=[eval]", PATH=path, CUDA_VISIBLE_DEVICES="-1").returncode == 0
    assert app.events("gpu") == [("-1",)]


def test_gpus_are_read_as_cuda_reads_them() -> None:
    assert parse_visible(" 1,0 ") == ["1", "0"]
    assert parse_visible("1,-1,0") == ["1"]
    assert parse_visible("NoDevFiles") == []
    mig = "GPU 0: A (UUID: GPU-a)\n  MIG 3g.40gb     Device  0: (UUID: MIG-x)\n"
    mig += "  MIG 1g.10gb     Device  1: (UUID: MIG-y)\n"
    assert parse_listing(mig + "GPU 1: B (UUID: GPU-b)\n") == ["MIG-x", "MIG-y", "1"]
    assert parse_listing("No devices found.\n") == []


def test_more_slots_than_gpus_share_them() -> None:
    assert make_slots(["0", "1"], 3) == ["0", "1", "0"]
    assert make_slots(["0", "1"], 1) == ["0"]
    assert make_slots([], None) == [None] and make_slots(["0", "1"], None) == ["0", "1"]


# ---- interrupting


def test_an_interrupt_ends_grandchildren_however_they_resist(app: App) -> None:
    app.launcher(max_parallel=2)
    client = subprocess.Popen(**app.command("x=1,2,3", "action=spawn"), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(app.events(event="spawned")) == 2)
    pids = [pid for pids, in app.events("pids", event="spawned") for pid in pids]
    assert len(pids) == 6 and all(alive(pid) for pid in pids)
    client.send_signal(signal.SIGINT)
    _, stderr = client.communicate(timeout=20)
    assert client.returncode == -signal.SIGINT and "KeyboardInterrupt" in stderr
    assert "stopping 2 running\n" in stderr
    assert not any(alive(pid) for pid in pids)
    left = [p for p in Path("/proc").glob("[0-9]*/cwd") if _links_to(p, app.folder)]
    assert left == [] and len(app.events()) == 2


def _links_to(link: Path, folder: Path) -> bool:
    try:
        return os.path.realpath(link) == str(folder)
    except OSError:
        return False


def test_a_launch_is_what_is_marked_and_what_came_of_it() -> None:
    table = {
        1: Process(0, 1, "t", False),
        5: Process(1, 5, "t", False),  # the launcher, which leads its session
        6: Process(5, 5, "t", True),  # a job's first process, still in it
        7: Process(6, 7, "t", False),  # the job proper, its environment overwritten
        8: Process(1, 7, "t", False),  # an orphan of its session
        9: Process(8, 9, "t", False),  # in a session of its own, as torchrun's workers
        10: Process(1, 5, "t", False),  # a stranger in the launcher's session
    }
    assert descendants(table, set(), outside=5) == {6, 7, 8, 9}
    assert descendants(table, {9}, outside=5) == {6, 7, 8, 9}


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_ps_tells_the_same_as_proc() -> None:
    ours = _ps_table()[os.getpid()]
    assert (ours.parent, ours.group) == (os.getppid(), os.getpgrp())


def test_being_terminated_ends_the_jobs_too(app: App) -> None:
    client = subprocess.Popen(**app.command("action=clean up"), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: app.events(event="waiting"))
    client.terminate()
    client.communicate(timeout=20)
    assert client.returncode == 128 + signal.SIGTERM
    assert not alive(app.events("pids", event="waiting")[0][0][0])


def on_terminal(app: App, *arguments: str) -> tuple:
    """Start the application as the foreground job of a terminal of its own."""
    command = app.command(*arguments)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(app.folder)
        os.execve(sys.executable, command["args"], {**command["env"], "TERM": "xterm", "COLUMNS": "100"})
    return pid, terminal


def read_all(terminal: int) -> str:
    text = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            piece = b""
        if not piece:
            return text.decode(errors="replace")
        text += piece


def test_the_terminals_interrupt_reaches_a_job_once_and_lets_it_clean_up(app: App) -> None:
    pid, terminal = on_terminal(app, "action=clean up")
    wait_for(lambda: app.events(event="waiting"))
    os.write(terminal, b"\x03")
    interrupted = time.monotonic()
    read_all(terminal)
    os.waitpid(pid, 0)
    assert time.monotonic() - interrupted < 30  # the job alone would take 60
    assert len(app.events(event="cleaned")) == 1
    assert not alive(app.events("pids", event="waiting")[0][0][0])


def test_a_terminal_of_80_columns_shows_what_each_job_says_in_a_line_that_is_redrawn(app: App) -> None:
    app.write("my_hooks.py", HOOKS.replace('"epoch 1 step"', '"epoch 1" + " and so on" * 20 + " step"'))
    app.launcher(hooks="my_hooks")
    command = app.command("x=1", "stages=[train]", "action=sleep1.2")
    with Terminal(command["args"], columns=80, cwd=app.folder, env=command["env"]) as terminal:
        terminal.wait_for("run_000")
        running = [line for line in terminal.wait_for("epoch 1") if line]
        assert terminal.wait() == 0
        assert running[0].startswith("0 of 1 points done, ")
        assert [(line.split()[:2], line[-1]) for line in running[1:]] == [(["run_000", "train"], "…")]
        assert [line for line in terminal.everything if "run_000" in line] == []  # gone when it is over
        assert any(line.startswith("1 of 1 points done, ") for line in terminal.lines)


def test_without_a_terminal_each_job_is_heard_of_twice_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (work,) = works(1, Stage("train"))
    (tmp_path / "log").write_text("step 4\nwarning\n")
    part = work.parts["train"]
    part.state, part.log, part.started_s = State.RUNNING, tmp_path / "log", time.monotonic() - 95
    hooks = SimpleNamespace(progress=lambda line: line.upper() if "step" in line else None)
    display = PlainDisplay([work], hooks)
    display.tick()
    display._last -= HEARTBEAT_EVERY_S
    display.tick()
    display.tick()
    assert capsys.readouterr().err == "[0/1] 0 train: STEP 4 (1 m 35 s)\n"


def test_a_log_is_read_by_line_and_by_redrawn_piece() -> None:
    log = "submitit INFO (now) - Starting\n\x1b[1mone\x1b[0m\r 10%|#\r 20%|##  \n\n[now][submitit][INFO] - done\n"
    assert pieces(log) == ["one", "10%|#", "20%|##"]


def test_the_reason_is_the_line_that_was_raised() -> None:
    trace = 'Traceback (most recent call last):\n  File "a", line 1\n    f()\nKeyError: 1\n'
    chained = trace + "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert last_line(chained + trace.replace("KeyError: 1", "my.Error: two\nlines")) == "Error: two"
    assert last_line("no traceback\nat all\n") == "at all"
    assert last_line("") == ""


# ---- as a plugin of every Hydra application in the environment


def test_discovered() -> None:
    assert "StagedLocalLauncher" in [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)]


def test_hydra_lists_both_plugins(app: App) -> None:
    command = app.command()
    command["args"][2:] = ["--info", "plugins"]
    listed = subprocess.check_output(**command, text=True)
    assert "\t\tStagedLocalLauncher\n" in listed and "\t\tGridSweeper\n" in listed


def test_discovery_imports_nothing_heavy_and_takes_no_time() -> None:
    code = """
import sys
import hydra.main
from hydra.core.plugins import Plugins
before = set(sys.modules)
times = Plugins.instance().get_stats().modules_import_time
ours = {name: s for name, s in times.items() if "staged_launcher" in name}
foreign = {name.partition(".")[0] for name in set(sys.modules) - before} - {"hydra", "hydra_plugins"}
print(sorted(ours), sum(ours.values()) < 0.2, foreign & {"submitit", "rich", "torch", "numpy", "cloudpickle"})
"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    modules = ["", ".config", ".grid_sweeper", ".local_launcher", ".slurm_launcher"]
    assert printed == f"{['hydra_plugins.staged_launcher' + m for m in modules]} True set()\n"
