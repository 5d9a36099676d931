"""`status`, `logs` and `cancel` without Slurm: from what is on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cruijff_kit import ownership, paths, records
from cruijff_kit.evaluation_state import Evaluations
from cruijff_kit.experiment import load
from cruijff_kit.generate import generate
from cruijff_kit.launches import new_launch
from cruijff_kit.paths import Layout
from cruijff_kit.run_mapping import read
from tests import finished_runs
from tests.terminal import Terminal
from tests.tiny_experiment import specification, write_experiment, write_hollow_model, write_spec

Command = Callable[..., subprocess.CompletedProcess[str]]
CRUIJFF_KIT = Path(sys.executable).with_name("cruijff-kit")


class Sweep:
    """A generated experiment of six ranks over a model that is not looked at."""

    def __init__(self, folder: Path, model: Path, spec: dict) -> None:
        self.folder, self.spec = folder, spec
        write_experiment(folder, model, spec)
        generate(folder)
        self.layout = Layout.of(load(folder))
        self.rows = {row.id: row for row in read(self.layout).rows}

    def train(self, run: str) -> None:
        finished_runs.train(self.layout, run, self.rows[run].identity)

    def evaluate(self, run: str, *only: str) -> None:
        finished_runs.evaluate(self.layout, run, self.rows[run].identity, only)

    def record(self, run: str, stage: str, state: str, **values: object) -> None:
        finished_runs.record(self.layout, run, stage, self.rows[run].identity, state=state, **values)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    model = write_hollow_model(tmp_path / "model")
    spec = specification(model)
    spec["variables"] = {"lora_rank": [2, 4, 8, 16, 32, 64]}
    return Sweep(tmp_path / "a sweep", model, spec)


def test_each_checkpoint_is_due_by_itself(tmp_path: Path) -> None:
    model = write_hollow_model(tmp_path / "model")
    spec = specification(model)
    spec["evaluation"]["checkpoint"] = "all"
    sweep = Sweep(tmp_path / "a sweep", model, spec)
    evaluations, identity = Evaluations(load(sweep.folder), sweep.layout), sweep.rows["run_000"].identity
    sweep.train("run_000")
    assert evaluations.unsettled("run_000", identity) == {"capitalize": "epoch_0: not evaluated"}
    sweep.evaluate("run_000")
    assert evaluations.unsettled("run_000", identity) == {}
    os.utime(sweep.folder / "results/run_000/hf_model/epoch_0/model.safetensors", ns=(1, 1))
    assert evaluations.unsettled("run_000", identity) == {"capitalize": "epoch_0: stale: of other weights"}


@pytest.fixture
def no_slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without Slurm's programs."""
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin")}


def stages(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, ...]]:
    assert done.returncode == 0, done.stderr
    return {run["run"]: tuple(stage["state"] for stage in run["stages"].values()) for run in json.loads(done.stdout)["runs"]}


BAR = "1|30|Loss: 2.3125:  75%|███████▌  | 30/40 [00:30<00:10,  1.00s/it]"
METRICS = "Step 30 | loss:2.3125 lr:0.0003 tokens_per_second_per_gpu:1234.5 \n"


def test_each_run_is_a_row_with_its_state_and_why(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    sweep.train("run_000")
    sweep.evaluate("run_000")
    sweep.train("run_001")
    sweep.record("run_001", "eval", "failed", reason="python exited with 1: ValueError: no luck", exit_code=1)
    log = sweep.folder / "log.out"
    log.write_text(BAR)
    sweep.record("run_002", "train", "running", log=str(log), epochs=3, started_s=time.time() - 30, ended_s=None)
    (sweep.layout.run_results("run_002") / "logs").mkdir()
    (sweep.layout.run_results("run_002") / "logs" / "log_1700000000.txt").write_text(METRICS)
    sweep.record("run_003", "train", "running", job=None)
    sweep.record("run_004", "train", "failed", kind="memory", reason="tune exited with 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    with holder(sweep.folder, "run_002"):
        done = cruijff("status", sweep.folder, **no_slurm)
        data = cruijff("status", "--json", sweep.folder, **no_slurm)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["tiny: Does it run?", lines[1]]
    assert lines[1].startswith("6 runs: 1 done, 1 running, 1 waiting, 2 failed, 1 lost; ")
    words = {line.split()[0]: line.split() for line in reversed(lines) if line.startswith("run_")}
    assert [words[f"run_00{n}"][1:4] for n in range(6)] == [
        ["2", "done", "done"], ["4", "done", "failed"], ["8", "running", "waiting"],
        ["16", "lost", "waiting"], ["32", "failed", "waiting"], ["64", "waiting", "waiting"],
    ]  # fmt: skip
    assert "epoch 1/3 step 30/40 loss 2.312 1234 tokens/s, 1 m 30 s left" in " ".join(words["run_002"])
    assert "its process ended without a word: killed, or the machine was restarted" in " ".join(words["run_003"])
    assert f"cruijff-kit run '{sweep.folder}' --multirun --failed   tries again what failed" in lines
    offer = "run_004 ran out of memory with batch_size=2 gradient_accumulation_steps=1: batch_size=1 gradient_accumulation_steps=2 has the same product, 2"
    assert offer in lines
    run = next(run for run in json.loads(data.stdout)["runs"] if run["run"] == "run_002")
    assert run["progress"] == {"epoch": 1, "epochs": 3, "step": 30, "steps": 40, "loss": 2.3125, "tokens_per_s": 1234.5, "remaining_s": 90}
    assert run["stages"]["train"]["log"] == str(log)
    assert run["bytes"] > 0


class holder:  # noqa: N801
    """Holds a run's training as its process does, until the `with` block is left."""

    def __init__(self, folder: Path, run: str) -> None:
        program = "import sys; from pathlib import Path; from cruijff_kit import ownership, paths\n"
        program += f"with ownership.owned(paths.held(Path(sys.argv[1]), 'train', '{run}')): print(flush=True); sys.stdin.read()"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.process.stdout.readline()

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *exception: object) -> None:
        self.process.communicate()


def test_in_80_columns_no_line_is_longer_and_nothing_is_lost(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    reason = "tune exited with 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
    sweep.record("run_004", "train", "failed", kind="memory", reason=reason)
    with Terminal([CRUIJFF_KIT, "status", sweep.folder], columns=80) as terminal:
        assert terminal.wait() == 0
        screen = terminal.everything
    start = next(number for number, line in enumerate(screen) if set(line) == {"─"}) + 1
    table = screen[start : screen.index("", start)]
    assert max(map(len, table)) <= 80
    left, right = screen[start - 2].index("eval") + len("waiting  "), screen[start - 2].index("time") - 2
    first = next(number for number, line in enumerate(table) if line.startswith("run_004"))
    last = next(number for number, line in enumerate(table) if line.startswith("run_005"))
    assert " ".join(line[left:right].strip() for line in table[first:last]) == reason


def test_what_was_trained_by_hand_is_known_without_a_record(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    sweep.train("run_000")
    sweep.layout.record("train", "run_000").unlink()
    assert stages(cruijff("status", "--json", sweep.folder, **no_slurm))["run_000"] == ("done", "waiting")


RECORDS = {"empty": "", "cut off": '{"version": 1, "run": "run_0', "of a newer version": '{"version": 2, "state": "done"}', "no JSON": "\0\0\0"}


@pytest.mark.parametrize("text", RECORDS.values(), ids=RECORDS)
def test_a_record_that_cannot_be_read_loses_no_finished_work(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str], text: str) -> None:
    sweep.train("run_000")
    sweep.evaluate("run_000")
    for stage in ("train", "eval"):
        sweep.layout.record(stage, "run_000").write_text(text)
    done = cruijff("status", "--json", sweep.folder, **no_slurm)
    assert stages(done)["run_000"] == ("done", "done")
    assert done.stderr == ""


def test_a_record_of_another_config_says_nothing_of_this_run(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    finished_runs.record(sweep.layout, "run_000", "train", "another", state="failed", reason="no luck")
    assert stages(cruijff("status", "--json", sweep.folder, **no_slurm))["run_000"] == ("waiting", "waiting")


def test_weights_that_were_removed_after_their_evaluation_are_not_missed(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    sweep.train("run_000")
    sweep.evaluate("run_000")
    shutil.rmtree(sweep.layout.run_results("run_000") / "hf_model")
    done = cruijff("status", sweep.folder, **no_slurm)
    assert "its weights were removed" in done.stdout
    assert stages(cruijff("status", "--json", sweep.folder, **no_slurm))["run_000"] == ("done", "done")


def test_weights_that_were_written_over_are_not_done(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    sweep.train("run_000")
    sweep.evaluate("run_000")
    weights = sweep.layout.run_results("run_000") / "hf_model" / "epoch_0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = cruijff("status", "--json", sweep.folder, **no_slurm)
    assert stages(done)["run_000"] == ("waiting", "waiting")
    assert json.loads(done.stdout)["runs"][0]["unsettled"] == {"capitalize": "stale: of other weights"}


def test_a_new_task_is_what_a_finished_run_lacks(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    sweep.train("run_000")
    sweep.evaluate("run_000")
    sweep.spec["evaluation"]["tasks"].append({"name": "loosely", "file": "tasks.py", "function": "capitalize", "args": {"scorer": "includes"}})
    write_spec(sweep.folder, sweep.spec)
    generate(sweep.folder)
    done = cruijff("status", "--json", sweep.folder, **no_slurm)
    assert json.loads(done.stdout)["runs"][0]["unsettled"] == {"loosely": "not evaluated"}
    shown = cruijff("run", sweep.folder, "--multirun", "--dry-run", "hydra/launcher=staged_local", "lora_rank=2", **no_slurm)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[3].split() == ["run_000", "2", "eval", "done", "loosely:", "not", "evaluated"]


def test_a_file_beside_a_task_that_changed_makes_its_evaluation_due(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    sweep.train("run_000")
    sweep.evaluate("run_000")
    with (sweep.folder / "evals" / "data" / "words.jsonl").open("a") as file:
        file.write('{"input": "Capitalize: one", "target": "One"}\n')
    done = cruijff("status", "--json", sweep.folder, **no_slurm)
    assert json.loads(done.stdout)["runs"][0]["unsettled"] == {"capitalize": "a file beside tasks.py changed since"}


def test_on_a_machine_without_slurm_what_was_sent_is_as_recorded_and_it_is_said_so(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    launch = new_launch(sweep.layout.launches)
    keys = {0: f"run_000 {sweep.rows['run_000'].identity}", 1: f"run_001 {sweep.rows['run_001'].identity}"}
    launch.add("0_train", "train", keys, 1).job = 12
    launch.save()
    sweep.record("run_001", "train", "running", job="12_1", host="node7")
    done = cruijff("status", sweep.folder, **no_slurm)
    assert "Slurm could not be asked, so this is from records and files alone: squeue was not found" in done.stdout
    assert stages(cruijff("status", "--json", sweep.folder, **no_slurm)) == {
        "run_000": ("queued", "waiting"), "run_001": ("running", "waiting"), **{f"run_00{n}": ("waiting", "waiting") for n in range(2, 6)}
    }  # fmt: skip


def test_a_launch_that_cannot_be_read_is_named(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    launch = new_launch(sweep.layout.launches)
    (launch.folder / "launch.json").write_text('{"delivered": tr')
    done = cruijff("status", sweep.folder, **no_slurm)
    assert done.returncode == 0
    assert f"{launch.folder}/launch.json cannot be read" in done.stdout


def test_faults_of_the_users_are_one_message(sweep: Sweep, cruijff: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cruijff("status", tmp_path / "empty")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("experiment.yaml\n  no such file\n")
    fresh = write_experiment(tmp_path / "fresh", tmp_path / "model", sweep.spec)
    assert cruijff("status", fresh).stderr == f"nothing was generated there yet: cruijff-kit generate {fresh}\n"
    done = cruijff("logs", sweep.folder, "run_00")
    assert (done.returncode, done.stderr) == (1, "there is no run 'run_00': did you mean 'run_000'?\n")
    done = cruijff("logs", sweep.folder, "run_000")
    assert (done.returncode, done.stderr) == (1, "run_000 train has no log: it is waiting\n")
    assert cruijff("cancel", sweep.folder, "run_9").returncode == 1
    assert cruijff("status", sweep.folder, "--watch", "0").returncode == 2


def test_the_log_of_the_stage_that_went_wrong_is_shown(sweep: Sweep, cruijff: Command) -> None:
    for stage, state in (("train", "done"), ("eval", "failed")):
        log = sweep.folder / f"{stage}.out"
        log.write_text(f"{stage} said this\n")
        sweep.record("run_000", stage, state, log=str(log), reason="no luck" if state == "failed" else None)
    done = cruijff("logs", sweep.folder, "run_000")
    assert (done.returncode, done.stdout) == (0, "eval said this\n")
    assert done.stderr == f"run_000 eval: failed, no luck\n{sweep.folder}/eval.out\n"
    assert cruijff("logs", sweep.folder, "run_000", "--stage", "train").stdout == "train said this\n"


def test_a_log_is_followed_until_its_stage_is_over(sweep: Sweep) -> None:
    log = sweep.folder / "train.out"
    log.write_text("begun\n")
    sweep.record("run_000", "train", "running", log=str(log), ended_s=None)
    with holder(sweep.folder, "run_000") as training:
        command = [CRUIJFF_KIT, "logs", sweep.folder, "run_000", "-f"]
        following = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert following.stdout.readline() == "begun\n"
        with log.open("a") as file:
            file.write("more\n")
        assert following.stdout.readline() == "more\n"
        assert following.poll() is None
        training.stdin.close()
        training.wait()
        sweep.record("run_000", "train", "done", log=str(log))
        assert following.communicate(timeout=20)[0] == ""
        assert following.returncode == 0
        training.stdin = None


def test_cancel_interrupts_what_runs_here_and_nothing_else(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    with holder(sweep.folder, "run_000") as first, holder(sweep.folder, "run_001") as second:
        done = cruijff("cancel", sweep.folder, "run_000", **no_slurm)
        assert (done.returncode, done.stdout) == (0, f"run_000 train: process {first.pid} interrupted\n"), done.stderr
        assert first.wait(20) != 0
        assert second.poll() is None
    assert cruijff("cancel", sweep.folder, **no_slurm).stdout == "nothing of this experiment is queued or running\n"


def test_watch_redraws_in_80_columns_until_nothing_runs(sweep: Sweep, no_slurm: dict[str, str]) -> None:
    log = sweep.folder / "train.out"
    log.write_text(BAR)
    sweep.record("run_002", "train", "running", log=str(log), epochs=3, ended_s=None)
    with holder(sweep.folder, "run_002") as training, Terminal([CRUIJFF_KIT, "status", sweep.folder, "--watch", "1"], env=no_slurm) as terminal:
        terminal.wait_for("step 30/40")
        log.write_text(BAR.replace("30/40", "31/40"))
        screen = terminal.wait_for("step 31/40")
        assert sum(line.startswith("run_002") for line in screen) == 1  # in the place of the old one
        assert [line.split()[0] for line in screen if line.startswith("run_")] == [f"run_00{n}" for n in range(6)]
        training.stdin.close()
        training.wait()
        training.stdin = None
        sweep.record("run_002", "train", "failed", log=str(log), reason="tune exited with 1: ValueError: no luck")
        assert terminal.wait() == 0
        lines = [line for line in terminal.everything if line.startswith("run_002")]
        assert [line.split()[2] for line in lines if line.split()[1] == "8"] == ["failed"]  # the last table stays


def test_a_screen_that_is_too_small_shows_what_runs_and_what_failed(sweep: Sweep, no_slurm: dict[str, str]) -> None:
    sweep.record("run_004", "train", "failed", reason="no luck")
    with holder(sweep.folder, "run_005"), Terminal([CRUIJFF_KIT, "status", sweep.folder, "--watch", "1"], rows=10, env=no_slurm) as terminal:
        screen = terminal.wait_for("and 2 more")
        assert [line.split()[0] for line in screen if line.startswith("run_")] == ["run_000", "run_001", "run_004", "run_005"]
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.wait() == 130
        assert not terminal.screen.cursor.hidden


def test_watch_without_a_terminal_is_a_line_for_each_change(sweep: Sweep, no_slurm: dict[str, str]) -> None:
    sweep.record("run_002", "train", "running", ended_s=None)
    with holder(sweep.folder, "run_002") as training:
        command = [CRUIJFF_KIT, "status", sweep.folder, "--watch", "1"]
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **no_slurm})
        time.sleep(4)
        training.stdin.close()
        training.wait()
        training.stdin = None
        sweep.record("run_002", "train", "failed", reason="no luck")
        said = watching.communicate(timeout=30)[0].splitlines()
    assert watching.returncode == 0
    assert said[0][9:] in ("run_002 train: running → failed: no luck", "run_002 train: running → lost: its process ended without a word: killed, or the machine was restarted")
    assert [line.split()[1:4] for line in said if line.startswith("run_002")] == [["8", "failed", "waiting"]]
    assert "\x1b" not in "".join(said)


def test_a_pipe_that_is_closed_early_is_no_fault(sweep: Sweep, no_slurm: dict[str, str]) -> None:
    done = subprocess.run(f"'{CRUIJFF_KIT}' status '{sweep.folder}' | /usr/bin/head -1", shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("tiny: Does it run?\n", "")


def test_an_owner_on_another_machine_is_not_interrupted_here(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    with holder(sweep.folder, "run_000") as training:
        path = paths.held(sweep.folder, "train", "run_000") / ownership.FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), "host": "elsewhere"}))
        done = cruijff("cancel", sweep.folder, "run_000", **no_slurm)
        assert done.stdout == f"run_000 train: left alone: it is done by process {training.pid} on elsewhere, which no launch sent\n"
        assert training.poll() is None


def test_a_process_that_has_the_id_of_a_dead_owner_is_not_interrupted(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    with holder(sweep.folder, "run_000") as training, subprocess.Popen(["sleep", "60"]) as bystander:
        path = paths.held(sweep.folder, "train", "run_000") / ownership.FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": bystander.pid}))
        assert cruijff("cancel", sweep.folder, **no_slurm).stdout == "nothing of this experiment is queued or running\n"
        assert (training.poll(), bystander.poll()) == (None, None)
        bystander.kill()


LAUNCHER = """
import os, subprocess, sys
os.environ["CRUIJFF_KIT_LAUNCHER"] = str(os.getpid())
program = "import sys; from pathlib import Path; from cruijff_kit import ownership, paths; import time\\n"
program += "with ownership.owned(paths.held(Path(sys.argv[1]), 'train', 'run_000')): print(flush=True); time.sleep(60)"
subprocess.run([sys.executable, "-c", program, sys.argv[1]])
"""


def test_cancel_of_everything_ends_the_command_that_would_start_the_next_runs(sweep: Sweep, cruijff: Command, no_slurm: dict[str, str]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, sweep.folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True) as command:
        command.stdout.readline()
        pid = json.loads((paths.held(sweep.folder, "train", "run_000") / ownership.FILE).read_text())["pid"]
        done = cruijff("cancel", sweep.folder, **no_slurm)
        lines = [f"process {command.pid} interrupted: the command that started them", f"run_000 train: process {pid} interrupted"]
        assert done.stdout.splitlines() == lines
        assert command.wait(20) != 0


def test_records_hold_what_a_paper_asks_for(sweep: Sweep) -> None:
    sweep.train("run_000")
    record = records.read(sweep.layout.record("train", "run_000"))
    assert record.weights["model"] == "hf_model/epoch_0"
