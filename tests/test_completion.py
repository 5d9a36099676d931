"""What a TAB completes, in a real bash that has the script of `cruijff-kit completion bash`."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cruijff_kit import completion
from cruijff_kit.cli import main
from cruijff_kit.generate import generate
from cruijff_kit.paths import conf_dir
from tests.terminal import Terminal
from tests.tiny_experiment import specification, write_experiment, write_hollow_model, write_spec

BIN = Path(sys.executable).parent
COMMANDS = {"results", "init", "completion", "generate", "check", "doctor", "run", "status", "logs", "cancel", "prune"}
# What bash does at a TAB, without a terminal: compopt works only where readline has called.
PROGRAM = """
eval "$(cruijff-kit completion bash)"
compopt() { return 1; }
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9
    _python_argcomplete cruijff-kit
    printf '%s\\n' "${COMPREPLY[@]}" END
done
"""

Tab = Callable[[str], list[str]]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three experiments, of which `tiny` is generated, and other folders."""
    place = tmp_path_factory.mktemp("completion")
    model = write_hollow_model(place / "model")
    spec = specification(model)
    spec["evaluation"]["baseline"] = True
    tiny = write_experiment(place / "tiny", model, spec)
    (tiny / "evals" / "tasks.py").write_text(f"{(tiny / 'evals' / 'tasks.py').read_text()}\nopen({str(place / 'executed')!r}, 'w').close()\n")
    generate(tiny)
    write_experiment(place / "studies" / "2025" / "my study", model)
    other = specification(model)
    other["output"] = {"configs_dir": "made/"}
    write_spec_and_generate(write_experiment(place / "other", model), other)
    (place / "train.jsonl").touch()
    return place


def write_spec_and_generate(folder: Path, spec: dict) -> None:
    write_spec(folder, spec)
    generate(folder)


@pytest.fixture(scope="module")
def tab(place: Path) -> Tab:
    """What bash offers after a line: one bash for all lines. Each TAB must leave the folder as it was, and stderr empty."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "CRUIJFF_KIT_CONF": str(place / "none")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    bash = subprocess.Popen(["bash", "--norc", "-c", PROGRAM], cwd=place, env=environment, text=True, **pipes)
    before = snapshot(place)

    def offered(line: str) -> list[str]:
        bash.stdin.write(f"{line}\n")
        bash.stdin.flush()
        return [word.rstrip(" ") for word in iter(lambda: bash.stdout.readline().rstrip("\n"), "END") if word]

    yield offered
    _, errors = bash.communicate()
    assert errors == ""
    assert snapshot(place) == before  # nothing was written, and the task file, which would leave a mark, not executed


def test_commands(tab):
    assert set(tab("cruijff-kit ")) >= COMMANDS
    assert tab("cruijff-kit che") == ["check"]


def test_flags_and_their_choices(tab):
    assert set(tab("cruijff-kit check tiny --")) == {"--help", "--deep", "--strict", "--json"}
    assert tab("cruijff-kit logs tiny run_000 --stage ") == ["train", "eval"]
    assert tab("cruijff-kit init study --template ") == ["quickstart", "rank-sweep", "grid"]
    assert tab("cruijff-kit completion ") == ["bash", "zsh", "fish"]


def test_folders_that_hold_an_experiment_or_lead_to_one(tab):
    assert tab("cruijff-kit check ") == ["other", "tiny", "studies/"]
    assert tab("cruijff-kit run stu") == ["studies/2025/my\\ study"]  # the only way on
    assert tab("cruijff-kit run studies/2025/m") == ["studies/2025/my\\ study"]
    assert tab("cruijff-kit run mo") == ["model/"]  # where none leads to one, what there is


def test_a_folder_of_many_is_left_when_the_time_is_over(tmp_path, monkeypatch):
    for number in range(200):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
    looked = []
    ticks = itertools.count()
    monkeypatch.setattr(completion, "time", SimpleNamespace(monotonic=lambda: next(ticks) * completion.SEARCH_S / 100))
    monkeypatch.setattr(os.path, "isfile", looked.append)
    assert completion.folders(f"{tmp_path}/many") == [f"{tmp_path}/many/"]
    assert len(looked) <= 100
    looked.clear()
    assert len(completion.folders(f"{tmp_path}/many/")) == 200  # what stands on the line itself is looked at to the end
    assert len(looked) == 200


def test_folders_below_home_and_the_one_where_one_stands(place, tab, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    assert completion.folders("~/t") == ["~/tiny"]
    monkeypatch.chdir(place / "tiny")
    assert completion.folders("")[0] == "."


def test_runs(tab):
    assert tab("cruijff-kit logs tiny ") == ["run_000", "run_001", "base"]
    assert tab("cruijff-kit cancel tiny run_000 ") == ["run_001"]
    assert tab("cruijff-kit prune tiny --dry-run run_") == ["run_000", "run_001"]
    assert tab("cruijff-kit run tiny --multirun --again ") == ["run_000", "run_001"]
    assert tab("cruijff-kit run tiny --again run_000,") == ["run_000,run_001"]
    assert tab("cruijff-kit logs other ") == ["run_000", "run_001"]  # output.configs_dir
    assert tab("cruijff-kit logs nowhere ") == []


def test_files_and_folders_where_a_flag_wants_them(tab):
    assert tab("cruijff-kit init study --data tr") == ["train.jsonl"]
    assert tab("cruijff-kit init study --model-dir mo") == ["model/"]
    assert tab("cruijff-kit init study --data ") == ["model/", "other/", "studies/", "tiny/", "train.jsonl"]
    assert tab("cruijff-kit init study --question ") == []


def test_what_is_typed_is_given_to_no_shell(tab):
    """The fixture looks whether a file was made."""
    assert tab("cruijff-kit init study --data \\'\\;touch\\ made\\;\\'") == []
    assert tab("cruijff-kit init study --data $(touch made)") == []
    assert tab("cruijff-kit check \\'\\$\\(touch\\ made\\)") == []


def test_cluster_profiles(tab):
    packaged = sorted(path.stem for path in (conf_dir() / "cluster").glob("*.yaml"))
    assert "gpu_node" in packaged
    assert tab("cruijff-kit generate tiny --cluster ") == packaged
    assert tab("cruijff-kit run tiny cluster=") == packaged


def test_parameters(tab):
    assert tab("cruijff-kit run tiny lora_") == ["lora_alpha=", "lora_dropout=", "lora_rank="]
    assert tab("cruijff-kit run tiny --multirun lora_r") == ["lora_rank="]
    assert tab("cruijff-kit run tiny --multirun lora_rank=2,4 shuffle=") == ["true", "false"]
    assert tab("cruijff-kit run tiny learning_rate=") == ["0.01"]
    assert tab("cruijff-kit run tiny dtype=b") == ["bf16"]


def test_config_groups_and_what_is_below_the_one_that_is_chosen(tab):
    assert tab("cruijff-kit run tiny hydra/la") == ["hydra/launcher="]
    assert tab("cruijff-kit run tiny hydra/launcher=staged_") == ["staged_local", "staged_slurm"]
    assert tab("cruijff-kit run tiny --multirun hydra/launcher=staged_slurm hydra.launcher.wa") == ["hydra.launcher.wait="]
    assert "cluster.train.mem_gb=" in tab("cruijff-kit run tiny cluster.train.m")


def test_evaluation_and_torchtune_keys(tab):
    shown = ["baseline=", "dtype=", "enabled=", "generate.", "limit=", "objective=", "tasks="]
    assert tab("cruijff-kit run tiny evaluation.") == [f"evaluation.{key}" for key in shown]
    assert tab("cruijff-kit run tiny torchtune.optimizer.") == [f"torchtune.optimizer.{key}=" for key in ("_component_", "lr", "weight_decay")]
    assert tab("cruijff-kit run tiny stages=") == ["\\[train\\]", "\\[eval\\]", "\\[train,eval\\]"]


def test_what_run_sets_itself_is_not_offered(tab):
    offered = {word.rstrip("=.") for word in tab("cruijff-kit run tiny ")}
    assert {"learning_rate", "evaluation", "torchtune", "stages", "cluster", "hydra"} <= offered
    assert not offered & {"stage", "run", "commands", "experiment_dir", "dry_run", "again"}


def test_parameters_before_anything_is_generated(tab):
    assert tab("cruijff-kit run studies/2025/my\\ study lora_r") == ["lora_rank="]
    assert tab("cruijff-kit run studies/2025/my\\ study torchtune.optimizer.") == []


def test_what_cannot_be_composed_offers_nothing_and_says_nothing(tab):
    assert tab("cruijff-kit run tiny cluster=nowhere learning_") == []
    assert tab("cruijff-kit run tiny ===[ learning_") == []


def test_readline_puts_it_into_the_line(place):
    """At a prompt: what is whole gets a blank, what goes on does not."""
    environment = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PS1": "> ", "INPUTRC": os.devnull}
    with Terminal(["bash", "--norc", "--noprofile", "-i"], columns=100, cwd=place, env=environment) as terminal:
        os.write(terminal.master, b'eval "$(cruijff-kit completion bash)"; clear\n')
        for typed, shown in [("cruijff-kit ru\t", "> cruijff-kit run"), ("stu\t", "run studies/2025/my\\ study"),
                             ("lora_r\t", "study lora_rank="), ("4 hydra/la\t", "4 hydra/launcher="), ("staged_s\tX", "=staged_slurm X")]:  # fmt: skip
            os.write(terminal.master, typed.encode())
            terminal.wait_for(shown)
        assert [line for line in terminal.lines if line][-1] == "> cruijff-kit run studies/2025/my\\ study lora_rank=4 hydra/launcher=staged_slurm X"


# How long it takes


def imported(line: str, place: Path, tmp_path: Path) -> set[str]:
    """The packages that one TAB imports."""
    environment = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered"), "COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [sys.executable, "-X", "importtime", BIN / "cruijff-kit"]
    done = subprocess.run(command, cwd=place, env={**os.environ, **environment}, text=True, capture_output=True)
    assert (tmp_path / "offered").read_text() and done.stdout == ""
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", done.stderr, flags=re.MULTILINE)}


@pytest.mark.parametrize("line", ["cruijff-kit ", "cruijff-kit check ", "cruijff-kit logs tiny ", "cruijff-kit run tiny --"])
def test_commands_folders_and_runs_import_nothing_that_takes_time(line, place, tmp_path):
    found = imported(line, place, tmp_path)
    assert "argcomplete" in found
    assert found & {"hydra", "omegaconf", "pydantic", "yaml", "rich", "rapidfuzz"} == set()


def test_overrides_import_nothing_that_takes_seconds(place, tmp_path):
    found = imported("cruijff-kit run tiny lora_", place, tmp_path)
    assert "hydra" in found
    assert found & {"torch", "torchtune", "transformers", "inspect_ai", "numpy", "pandas", "submitit", "optuna", "datasets"} == set()


# The other shells


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_of_that_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert {"bash": "complete -o", "zsh": "compdef", "fish": "complete --command cruijff-kit"}[shell] in text
    program = shutil.which(shell)
    if program:
        assert subprocess.run([program, "-n"], input=text, text=True, capture_output=True).stderr == ""
