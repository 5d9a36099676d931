"""`generate` as a whole: what it writes, what it leaves alone, and what it says."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cruijff_kit import log_folders, run_mapping, torchtune_catalog
from cruijff_kit.cli import main
from cruijff_kit.errors import CruijffKitError, ExperimentError
from cruijff_kit.experiment import load
from cruijff_kit.generate import change, check_current, generate, plan
from cruijff_kit.paths import Layout, conf_dir, run_id
from cruijff_kit.run_mapping import Row
from cruijff_kit.identity import identity
from tests.tiny_experiment import write_experiment, write_hollow_model, write_spec

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GOLDEN = Path(__file__).parent / "golden"

SEEDS_LINES = """\
✓ Generated 4 training configs (train_000.yaml to train_003.yaml)
✓ Generated 4 evaluation scripts (eval_000.py to eval_003.py)
✓ Validated all evaluation tasks
"""


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the rank study."""
    return Path(shutil.copytree(EXAMPLES / "lora_rank_with_eval", tmp_path / "lora_rank_with_eval"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny experiment over a model of empty files."""
    return tiny(tmp_path / "experiment")


def tiny(folder: Path, model: Path | None = None) -> Path:
    model = write_hollow_model(model or folder.parent / "model")
    return write_experiment(folder, model)


def edit(folder: Path, **sections: Any) -> None:
    """Writes experiment.yaml anew, with keys merged into its sections; None removes one."""
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    for name, section in sections.items():
        merged = {**spec.get(name, {}), **section}
        spec[name] = {key: value for key, value in merged.items() if value is not None}
    write_spec(folder, spec)


def listing(folder: Path) -> dict[str, tuple[str, int]]:
    """Everything in the folder: what it holds or points to, and when it was written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.name == "lock":
            continue
        content = os.readlink(path) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = (content, 0 if path.is_dir() and not path.is_symlink() else status.st_mtime_ns)
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "configs").iterdir()}


@pytest.fixture
def cli(capsys) -> Callable[..., tuple[int, str, str]]:
    """Exit code, stdout and stderr of `cruijff-kit WORDS…`, in this process: no start to wait for."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit:
            code = exit.code
        return (code, *capsys.readouterr())

    return run


def fault(folder: Path, **options: Any) -> str:
    with pytest.raises(CruijffKitError) as error:
        generate(folder, **options)
    return str(error.value)


# What it writes


def test_the_seeds_example_gives_the_seeds_three_lines(cruijff, example):
    done = cruijff("generate", ".", cwd=example)
    assert (done.returncode, done.stdout) == (0, SEEDS_LINES)
    assert done.stderr == (
        "experiment.yaml:11  framework_config.base_config\n"
        "  warning: /tmp/Meta-Llama-3.1-8B-Instruct lacks config.json, "
        + ", ".join(f"model-0000{number}-of-00004.safetensors" for number in range(1, 5))
        + "\n  tune download meta-llama/Meta-Llama-3.1-8B-Instruct --output-dir /tmp/Meta-Llama-3.1-8B-Instruct"
        ' --ignore-patterns "original/consolidated.00.pth"\n'
    )


def test_the_seeds_example_gives_the_seeds_files(example):
    before = listing(example).keys()
    generate(example)
    numbers = ("000", "001", "002", "003")
    made = {f"configs/{name}" for number in numbers for name in (f"train_{number}.yaml", f"eval_{number}.py")}
    made |= {"configs", "configs/eval_base.py", "configs/run_mapping.yaml", "configs/multirun.yaml"}
    made |= {"scripts", "scripts/train_sweep.sh", "scripts/eval_sweep.sh"}
    made |= {"results", *(f"results/run_{number}" for number in numbers), *(f"results/run_{number}/checkpoints" for number in numbers)}
    made |= {".cruijff-kit"}
    assert listing(example).keys() - before == made
    assert {os.readlink(example / f"results/run_{number}/checkpoints") for number in numbers} == {"/tmp/Meta-Llama-3.1-8B-Instruct"}
    assert all(os.access(example / "scripts" / name, os.X_OK) for name in ("train_sweep.sh", "eval_sweep.sh"))


def test_the_whole_training_config(example):
    generate(example)
    text = (example / "configs/train_001.yaml").read_text(encoding="utf-8")
    assert text.replace(str(example), "/path/to/experiment") == (GOLDEN / "train_001.yaml").read_text(encoding="utf-8")


def test_the_mapping_names_the_runs_and_their_parameters(example):
    generate(example)
    data = yaml.safe_load((example / "configs/run_mapping.yaml").read_text())
    assert (data["experiment_name"], data["total_runs"]) == ("lora_rank_with_eval", 4)
    assert [(row["id"], row["params"]) for row in data["runs"]] == [
        (f"run_00{number}", {"lora_rank": rank}) for number, rank in enumerate([8, 16, 32, 64])
    ]


def test_every_example_generates_and_its_files_are_the_runs(tmp_path):
    found = sorted(path.parent for path in EXAMPLES.rglob("experiment.yaml"))
    assert found
    for source in found:
        folder = Path(shutil.copytree(source, tmp_path / source.name))
        made = generate(folder)
        for run in made.runs:
            config = torchtune_catalog.read_config(made.layout.train_config(run.id))
            assert (config, identity(config, folder)) == (run.config, run.identity)
        for script in (folder / "configs").glob("*.py"):
            compile(script.read_text(encoding="utf-8"), script, "exec")


def test_one_run_is_one(cli, folder):
    edit(folder, variables={"lora_rank": [8]})
    code, out, err = cli("generate", folder)
    assert out == (
        "✓ Generated 1 training config (train_000.yaml)\n"
        "✓ Generated 1 evaluation script (eval_000.py)\n"
        "✓ Validated all evaluation tasks\n"
    )
    assert (code, err) == (0, "")


def test_without_an_evaluation_there_is_no_script_of_one(cli, folder):
    edit(folder, evaluation={"enabled": False})
    assert cli("generate", folder) == (0, "✓ Generated 2 training configs (train_000.yaml to train_001.yaml)\n", "")
    assert names(folder) == {"train_000.yaml", "train_001.yaml", "run_mapping.yaml", "multirun.yaml"}
    assert [path.name for path in (folder / "scripts").iterdir()] == ["train_sweep.sh"]


def test_the_output_folders_are_those_of_the_experiment(folder):
    override = {"checkpointer": {"checkpoint_dir": "${output_dir}/checkpoints"}}
    edit(folder, output={"configs_dir": "made/configs", "results_dir": "made/results"}, controls={"_override": override})
    generate(folder)
    assert (folder / "made/configs/train_000.yaml").is_file()
    assert (folder / "made/results/run_000/checkpoints").resolve() == folder.parent / "model"
    assert not (folder / "configs").exists()


def test_what_is_written_names_no_folder_relative_to_another(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    generate(Path("experiment"))
    config = torchtune_catalog.read_config(folder / "configs/train_000.yaml")
    assert config["output_dir"] == f"{folder}/results/run_000"
    assert config["dataset"]["data_files"] == f"{folder}/data/train.jsonl"
    assert config["checkpointer"]["checkpoint_dir"] == config["tokenizer"]["path"] == str(folder.parent / "model")


def test_a_name_is_as_wide_as_the_sweep_needs(folder):
    assert [run_id(number, 1000) for number in (0, 999)] == ["run_000", "run_999"]
    edit(folder, variables={"lora_rank": [8], "seed": list(range(1001))}, controls={"seed": None})
    made = plan(folder)
    assert [made.runs[number].id for number in (0, 7, 1000)] == ["run_0000", "run_0007", "run_1000"]
    files = {path.name: text for path, text in change(made).files.items()}
    assert {"train_0000.yaml", "train_1000.yaml", "eval_0007.py"} <= files.keys()
    assert "#SBATCH --array=0-1000\n" in files["train_sweep.sh"]
    assert "printf -v id '%04d'" in files["train_sweep.sh"]


NAMES = ["a b", "it's", 'a"b', "a\nb", "$(touch x)", "${x}", "a#b: c", "é 😀", "a\\b", "{x}", "-x", "~", "\x07"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_folder_of_any_name_is_generated_and_is_then_current(tmp_path, name):
    folder = tiny(tmp_path / name, tmp_path / "model of it")
    edit(folder, evaluation={"enabled": log_folders.fault(folder) is None})
    made = generate(folder)
    mapping = run_mapping.read(made.layout)
    assert mapping.experiment_dir == str(folder)
    for run in made.runs:
        config = torchtune_catalog.read_config(made.layout.train_config(run.id))
        assert identity(config, folder) == run.identity
    torchtune_catalog.read_config(made.layout.multirun)
    assert not change(plan(folder)).needed()
    check_current(plan(folder))


def test_a_folder_whose_name_is_no_text_is_a_fault_of_the_users(tmp_path):
    folder = tiny(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), tmp_path / "model of it")
    before = listing(folder)
    assert fault(folder)
    assert listing(folder) == before


def test_a_text_that_no_file_can_hold_is_a_fault_of_the_users(folder):
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("epochs: 1", 'epochs: 1\n  device: "\\ud800"'))
    before = listing(folder)
    assert fault(folder) == "experiment.yaml:17\n  invalid YAML: found invalid Unicode character escape code (column 14)"
    assert listing(folder) == before


# Again


def test_the_same_again_touches_nothing(cruijff, cli, folder):
    generate(folder)
    before = listing(folder)
    done = cruijff("generate", folder)
    assert (done.returncode, done.stdout.count("✓"), done.stderr) == (0, 3, "")
    assert listing(folder) == before
    assert cli("generate", folder, "--force")[0] == 0
    assert listing(folder) == before


def test_another_experiment_needs_force_and_the_files_are_named(cruijff, cli, folder):
    generate(folder)
    edit(folder, controls={"learning_rate": 0.5})
    before = listing(folder)
    done = cruijff("generate", folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "there already, and not what experiment.yaml asks for now:\n"
        "  configs/multirun.yaml\n"
        "  configs/train_000.yaml\n"
        "  configs/train_001.yaml\n"
        "  configs/run_mapping.yaml\n"
        f"nothing was written; to write them anew: cruijff-kit generate --force {folder}\n"
    )
    assert listing(folder) == before
    assert cli("generate", folder, "--force")[0] == 0
    assert torchtune_catalog.read_config(folder / "configs/train_000.yaml")["optimizer"]["lr"] == 0.5


def test_of_many_files_that_differ_ten_are_named(folder):
    edit(folder, variables={"lora_rank": list(range(1, 21))})
    generate(folder)
    edit(folder, controls={"learning_rate": 0.5})
    lines = fault(folder).splitlines()
    assert len(lines) == 13
    assert lines[-2] == "  and 12 more"


@pytest.mark.parametrize("name", ["configs/train_001.yaml", "configs/eval_000.py", "configs/multirun.yaml", "scripts/eval_sweep.sh"])
def test_a_file_that_was_edited_needs_force(folder, name):
    generate(folder)
    (folder / name).write_text((folder / name).read_text() + "\n# mine\n")
    before = listing(folder)
    assert f"\n  {name}\n" in fault(folder)
    assert listing(folder) == before
    generate(folder, force=True)
    assert "# mine" not in (folder / name).read_text()


def test_a_file_that_was_lost_is_written_without_force_and_the_others_are_left(folder):
    generate(folder)
    before = listing(folder)
    (folder / "configs/train_001.yaml").unlink()
    generate(folder)
    after = listing(folder)
    assert {name for name in after if after[name] != before[name]} == {"configs/train_001.yaml"}
    assert after["configs/train_001.yaml"][0] == before["configs/train_001.yaml"][0]


def test_what_says_nothing_of_the_runs_needs_no_force(folder):
    generate(folder)
    edit(folder, experiment={"notes": "new"})
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(f"# a comment\n{text}")
    before = listing(folder)
    generate(folder)
    assert listing(folder) == before


def test_force_leaves_no_generated_file_of_the_old_sweep_and_all_of_the_users(folder):
    override = {"checkpointer": {"checkpoint_dir": "${output_dir}/checkpoints"}}
    edit(folder, variables={"lora_rank": [1, 2, 3, 4]}, evaluation={"baseline": True}, controls={"_override": override})
    generate(folder)
    mine = ["configs/__pycache__/eval_000.pyc", "configs/notes.txt", "configs/train_mine.yaml", "configs/train_999.yaml",
            "scripts/mine.sh", "results/run_003/hf_model/epoch_0/model.safetensors", "eval_results/run_003/x.json"]  # fmt: skip
    for name in mine:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    edit(folder, variables={"lora_rank": [8]}, evaluation={"enabled": False})
    assert fault(folder).splitlines()[-1].endswith(f"cruijff-kit generate --force {folder}")
    generate(folder, force=True)
    left = {name for name in listing(folder) if not (folder / name).is_dir() or (folder / name).is_symlink()}
    generated = {"configs/train_000.yaml", "configs/run_mapping.yaml", "configs/multirun.yaml", "scripts/train_sweep.sh"}
    users = {"experiment.yaml", "base.yaml", "data/train.jsonl", "evals/tasks.py", "evals/data/words.jsonl", *mine}
    assert left == generated | users | {"results/run_000/checkpoints"}
    assert {(folder / name).read_text() for name in mine} == {"mine"}


def test_a_link_of_the_users_in_the_results_is_left_alone(folder):
    override = {"checkpointer": {"checkpoint_dir": "${output_dir}/checkpoints"}}
    edit(folder, controls={"_override": override})
    generate(folder)
    theirs = [folder / f"results/run_{number}/hf_model" for number in ("000", "001")]
    for path in theirs:
        path.symlink_to("/scratch/weights")
    check_current(plan(folder))
    before = listing(folder)
    generate(folder)
    assert listing(folder) == before
    edit(folder, variables={"lora_rank": [8]}, framework_config={"model_dir": None}, controls={"_override": None})
    generate(folder, force=True)
    assert [os.readlink(path) for path in theirs] == ["/scratch/weights"] * 2
    assert not any(os.path.lexists(path.with_name("checkpoints")) for path in theirs)


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [1\n", "runs: 3\n"])
def test_force_writes_a_broken_mapping_anew_as_the_fault_says(folder, text):
    generate(folder)
    (folder / "configs/run_mapping.yaml").write_text(text)
    before = listing(folder)
    assert fault(folder).endswith("\n  cruijff-kit generate --force writes it anew")
    assert listing(folder) == before
    generate(folder, force=True)
    assert len(run_mapping.read(Layout.of(load(folder))).rows) == 2


def test_a_folder_that_was_moved_is_noticed_and_mended_by_force(folder):
    generate(folder)
    moved = folder.with_name("moved")
    folder.rename(moved)
    with pytest.raises(CruijffKitError) as error:
        check_current(plan(moved))
    assert str(error.value) == (
        f"the folder was moved or copied: its configs were generated for {folder}\ncruijff-kit generate --force {moved}"
    )
    assert "configs/train_000.yaml" in fault(moved)
    generate(moved, force=True)
    check_current(plan(moved))


def test_what_was_generated_is_current_until_something_changes(folder):
    with pytest.raises(CruijffKitError) as error:
        check_current(plan(folder))
    assert str(error.value) == f"nothing was generated yet: cruijff-kit generate {folder}"
    generate(folder)
    check_current(plan(folder))
    edit(folder, controls={"learning_rate": 0.5})
    with pytest.raises(CruijffKitError) as error:
        check_current(plan(folder))
    assert str(error.value) == (
        "experiment.yaml changed since generate, or a generated file was edited: "
        "configs/multirun.yaml, configs/train_000.yaml, configs/train_001.yaml, configs/run_mapping.yaml\n"
        f"cruijff-kit generate --force {folder}"
    )


def test_the_cluster_of_the_scripts_is_that_of_last_time_until_another_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "conf/cluster").mkdir(parents=True)
    (tmp_path / "conf/cluster/site.yaml").write_text("train: {partition: gpu}\n")
    monkeypatch.setenv("CRUIJFF_KIT_CONF", str(tmp_path / "conf"))
    generate(folder, cluster="site")
    assert "#SBATCH --partition=gpu\n" in (folder / "scripts/train_sweep.sh").read_text()
    check_current(plan(folder))
    before = listing(folder)
    generate(folder)
    assert listing(folder) == before
    assert "scripts/train_sweep.sh" in fault(folder, cluster="default")
    places = f"profiles lie in {tmp_path}/conf/cluster and {conf_dir()}/cluster"
    assert fault(folder, cluster="sit") == f"command line  cluster\n  no cluster profile 'sit'\n  did you mean 'site'?\n  {places}"


# Dry run


def test_a_dry_run_shows_the_plan_and_writes_nothing(cli, folder):
    edit(folder, variables={"lora_rank": [8, 16], "device": ["cpu", "cuda"]})
    before = listing(folder)
    code, out, err = cli("generate", folder, "--dry-run")
    assert out == (
        "run_000  lora_rank=8 device='cpu'\n"
        "run_001  lora_rank=8 device='cuda'\n"
        "run_002  lora_rank=16 device='cpu'\n"
        "run_003  lora_rank=16 device='cuda'\n"
        "Would generate 4 training configs (train_000.yaml to train_003.yaml)\n"
        "Would generate 4 evaluation scripts (eval_000.py to eval_003.py)\n"
        "✓ Validated all evaluation tasks\n"
    )
    assert (code, err) == (0, "")
    assert listing(folder) == before


def test_a_dry_run_finds_the_faults(cli, folder):
    edit(folder, controls={"lora_rnk": 8})
    code, out, err = cli("generate", folder, "--dry-run")
    assert (code, out) == (1, "")
    assert "unknown parameter 'lora_rnk'" in err


def test_a_dry_run_of_what_was_generated_otherwise_writes_nothing(folder):
    generate(folder)
    edit(folder, controls={"learning_rate": 0.5})
    before = listing(folder)
    generate(folder, dry_run=True)
    generate(folder, dry_run=True, force=True)
    assert listing(folder) == before


# Many runs


@pytest.fixture
def many(folder: Path) -> Path:
    edit(folder, variables={"lora_rank": list(range(1, 101))})
    return folder


def test_a_hundred_runs_without_a_terminal_want_yes(cruijff, cli, many):
    before = listing(many)
    done = cruijff("generate", many)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "100 runs: say --yes to generate that many\n"
    assert listing(many) == before
    code, out, err = cli("generate", many, "--yes")
    assert out.splitlines()[0] == "✓ Generated 100 training configs (train_000.yaml to train_099.yaml)"
    assert (code, err) == (0, "experiment.yaml:9  variables\n  warning: 100 runs\n")


def test_ninety_nine_runs_are_not_asked_about(folder):
    edit(folder, variables={"lora_rank": list(range(1, 100))})
    asked = []
    generate(folder, confirm=asked.append)
    assert asked == []


def test_a_hundred_runs_that_are_there_already_are_not_asked_about(many):
    asked: list[int] = []
    generate(many, confirm=asked.append)
    generate(many, confirm=asked.append)
    generate(many, confirm=asked.append, dry_run=True)
    assert asked == [100]


@pytest.mark.parametrize(("answer", "code"), [(b"Yes\n", 0), (b"\n", 1), (b"\x04", 1)])
def test_on_a_terminal_a_hundred_runs_are_asked_about(many, answer, code):
    before = listing(many)
    terminal, ours = pty.openpty()
    command = [str(Path(sys.executable).with_name("cruijff-kit")), "generate", str(many)]
    with subprocess.Popen(command, stdin=ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.write(terminal, answer)
        out, err = process.communicate()
    os.close(ours)
    os.close(terminal)
    assert process.returncode == code, err
    assert "100 runs. Continue? [y/N] " in out + err
    assert (listing(many) == before) == (code == 1)


# Faults


def test_all_faults_are_in_one_report_and_nothing_is_written(cruijff, folder):
    edit(folder, variables={"lora_rank": [8, 0, 8], "lora_rnk": [8]}, controls={"epoch": 1})
    edit(folder, evaluation={"tasks": [{"name": "a", "file": "tasks.py", "function": "no_task"}, {"name": "b", "file": "b.py", "function": "b"}]})
    before = listing(folder)
    done = cruijff("generate", folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == """\
experiment.yaml:12  variables.lora_rank[1]
  expected a whole number of at least 1, got 0
experiment.yaml:13  variables.lora_rank[2]
  8 is there twice
experiment.yaml:14  variables.lora_rnk
  unknown parameter 'lora_rnk'
  did you mean 'lora_rank'?
experiment.yaml:22  controls.epoch
  unknown parameter 'epoch'
  did you mean 'epochs'?
experiment.yaml:30  evaluation.tasks[0].function
  Function 'no_task' in evals/tasks.py has no @task decorator
  from inspect_ai import task, and write @task above it
experiment.yaml:32  evaluation.tasks[1].file
  task file not found: evals/b.py
"""
    assert listing(folder) == before


def test_faults_of_names_and_tasks_are_in_one_report(folder):
    edit(
        folder,
        controls={"epoch": 1, "dataset": "data/nothing.jsonl"},
        evaluation={"tasks": [{"name": "a", "file": "tasks.py", "function": "no_task"}]},
        framework_config={"model_dir": "/nowhere"},
    )
    report = fault(folder)
    for part in ("unknown parameter 'epoch'", "has no @task decorator"):
        assert part in report


def test_warnings_stand_on_stderr_and_do_not_stop(cli, folder):
    variables = {"lora_rank": [8], "seed": [1], "batch_size": [2]}
    edit(folder, variables=variables, controls={"warmup_steps": 100, "seed": None})
    code, out, err = cli("generate", folder)
    assert (code, out.count("✓")) == (0, 3)
    assert err == """\
experiment.yaml:9  variables
  warning: 3 variables are crossed: 1 runs
experiment.yaml:21  controls.warmup_steps
  warning: warm-up takes 100 steps and the run has 6: the learning rate is never reached
  add under controls:
    warmup_steps: 0
"""


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["generate"], 2, "error: the following arguments are required: DIR"),
        (["generate", ".", "--froce"], 2, "error: unrecognized arguments: --froce"),
        (["generate", ".", "more"], 2, "error: unrecognized arguments: more"),
        (["generat", "."], 2, "error: argument COMMAND: invalid choice: 'generat'"),
        (["generate", ".", "--cluster"], 2, "error: argument --cluster: expected one argument"),
        (["generate", "nowhere"], 1, "experiment.yaml\n  no such file\n  write one there, or name the folder that holds it: {cwd}/nowhere\n"),
        (["generate", "."], 1, "experiment.yaml\n  no such file\n  write one there, or name the folder that holds it: {cwd}\n"),
    ],
)
def test_a_wrong_flag_is_2_and_a_wrong_experiment_1(cli, tmp_path, monkeypatch, words, code, error):
    monkeypatch.chdir(tmp_path)
    status, out, err = cli(*words)
    assert (status, out) == (code, "")
    assert error.replace("{cwd}", str(tmp_path)) in err


def test_the_exit_codes_of_the_command(cruijff, tmp_path):
    assert [cruijff(*words, cwd=tmp_path).returncode for words in (["generate", "."], ["generate", ".", "--froce"])] == [1, 2]


def test_experiment_yaml_itself_is_no_folder(folder):
    assert fault(folder / "experiment.yaml").startswith("experiment.yaml\n  cannot be read: ")


def test_output_that_cannot_show_a_tick_is_no_fault(cruijff, folder):
    done = cruijff("generate", folder, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert "Generated 2 training configs (train_000.yaml to train_001.yaml)" in done.stdout


# In the way


@pytest.mark.parametrize("name", ["configs", "scripts", "configs/train_000.yaml", "scripts/eval_sweep.sh", ".cruijff-kit"])
@pytest.mark.parametrize("kind", ["file", "folder", "link to nowhere"])
def test_what_is_in_the_way_stops_force_too_and_nothing_changes(folder, name, kind):
    if kind == "folder" and "." not in name[1:]:
        return  # a folder where one should be
    (folder / name).parent.mkdir(exist_ok=True)
    if kind == "file":
        (folder / name).write_text("mine")
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/no/such/place")
    before = {path: what for path, what in listing(folder).items() if not path.startswith(".cruijff-kit/")}
    if kind != "folder" and "." in name[1:]:
        generate(folder, force=True)  # it takes the place of the file
        return
    for _ in range(2):
        assert fault(folder, force=True)
        after = listing(folder)
        assert not any("pending" in path for path in after)
        assert {path: what for path, what in after.items() if path == name or not path.startswith(".cruijff-kit")} == before


def test_a_change_that_was_committed_and_not_finished_is_finished_first(folder, monkeypatch):
    generate(folder)
    edit(folder, controls={"learning_rate": 0.5})
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "replace", lambda *paths: os.kill(os.getpid(), signal.SIGKILL))
        try:
            generate(folder, force=True)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert torchtune_catalog.read_config(folder / "configs/train_000.yaml")["optimizer"]["lr"] == 0.01
    generate(folder)  # no force: what is there is then what is asked for
    assert torchtune_catalog.read_config(folder / "configs/train_000.yaml")["optimizer"]["lr"] == 0.5
    assert not (folder / ".cruijff-kit/pending").exists()


def test_a_generate_that_gives_up_leaves_the_one_that_waits_its_turn(many):
    others = []

    def give_up(runs: int) -> None:
        command = [Path(sys.executable).with_name("cruijff-kit"), "generate", many, "--yes"]
        others.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        time.sleep(1)  # by then it waits for the lock
        raise CruijffKitError("nothing was written")

    assert fault(many, confirm=give_up) == "nothing was written"
    out, err = others[0].communicate()
    assert (others[0].returncode, err) == (0, "experiment.yaml:9  variables\n  warning: 100 runs\n")
    assert "train_099.yaml" in names(many)


def test_a_write_that_fails_leaves_no_hidden_folder_where_none_was(folder):
    (folder / "configs/train_000.yaml").mkdir(parents=True)
    before = listing(folder)
    assert fault(folder, force=True).endswith("train_000.yaml is in the way")
    assert listing(folder) == before


def test_an_added_run_that_the_experiment_has_no_place_for_any_more_is_not_written_again(folder):
    """Its row stays; a config that gives a full model a rank would be a new one, and a broken one."""
    made = generate(folder)
    row = Row("run_002", {"lora_rank": 9}, "recipe", "digest", True, {**made.runs[0].settings, "lora_rank": 9}, {})
    old = run_mapping.read(made.layout)
    made.layout.run_mapping.write_text(replace(old, rows=(*old.rows, row)).render())
    assert [run.id for run in plan(folder).added] == ["run_002"]
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    framework = {"base_config": "llama3_1/8B_full"}
    write_spec(folder, {"experiment": spec["experiment"], "framework_config": framework, "variables": {"seed": [1, 2]}})
    try:
        configs = [run.config for run in plan(folder).added]
    except ExperimentError as error:
        assert "run_002" in str(error)
    else:
        assert not any("lora_rank" in config["model"] for config in configs)


def test_a_fault_is_an_experiment_error_with_its_problems(folder):
    edit(folder, controls={"epoch": 1})
    with pytest.raises(ExperimentError) as error:
        plan(folder)
    assert [(problem.key, problem.line, problem.level) for problem in error.value.problems][0] == ("controls.epoch", 19, "error")
