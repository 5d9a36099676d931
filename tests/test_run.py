"""`cruijff-kit run` for real: torchtune trains a tiny model, Inspect evaluates it, and what is typed by hand does the same."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cruijff_kit.evaluation_request import Request, check_model
from cruijff_kit.results_command import print_new
from tests.tiny_experiment import specification, write_experiment, write_spec

BIN = Path(sys.executable).parent
Command = Callable[..., subprocess.CompletedProcess[str]]


def typed(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command typed with the environment activated."""
    activated = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environment}
    return subprocess.run([*map(str, words)], cwd=cwd, env=activated, text=True, capture_output=True, stdin=subprocess.DEVNULL)


def results_of(folder: Path, run: str) -> dict:
    return json.loads((folder / "eval_results" / run / "capitalize" / "results.json").read_text())


def config_of(folder: Path, run: str) -> dict:
    return yaml.safe_load((folder / "configs" / f"train_{run.removeprefix('run_')}.yaml").read_text())


def copied(folder: Path, to: Path, cruijff: Command) -> Path:
    """A copy of an experiment with its results, made to know its new place."""
    shutil.copytree(folder, to, symlinks=True)
    assert cruijff("generate", "--force", to).returncode == 0
    return to


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, cruijff: Command) -> tuple[Path, str]:
    """A finished two-point sweep with its baseline, and what `run --multirun` printed."""
    spec = specification(tiny_model)
    spec["evaluation"]["baseline"] = True
    folder = write_experiment(tmp_path_factory.mktemp("swept") / "a sweep", tiny_model, spec)
    done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_table_has_a_row_for_the_baseline_and_each_run_with_the_scores_of_inspects_logs(swept: tuple[Path, str]) -> None:
    from inspect_ai.log import read_eval_log

    folder, output = swept
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line.strip().startswith(("base", "run_"))}
    assert list(rows) == ["base", "run_000", "run_001"]
    for run, row in rows.items():
        (log,) = (folder / "eval_results" / run).rglob("*.eval")
        score = read_eval_log(str(log)).results.scores[0]
        assert row[-3:] == [f"{score.metrics['mean'].value:.4f}", f"{score.metrics['stderr'].value:.4f}", "12"]
        assert results_of(folder, run)["scores"] == [
            {"scorer": "exact", "metrics": {name: metric.value for name, metric in score.metrics.items()}}
        ]


def test_a_log_says_which_run_it_is_of_and_how_it_was_made(swept: tuple[Path, str]) -> None:
    from inspect_ai.log import read_eval_log

    folder, _ = swept
    results = results_of(folder, "run_001")
    log = read_eval_log(str(folder / results["log"]))
    metadata = log.eval.metadata
    assert (metadata["run"], metadata["params"]) == ("run_001", {"lora_rank": 4})
    assert metadata["checkpoint"] == "results/run_001/hf_model/epoch_0"
    arguments = log.eval.model_args
    assert (arguments["do_sample"], arguments["dtype"], arguments["device"]) == (False, "float32", "cpu")
    assert log.eval.model_generate_config.max_tokens == 4
    assert results["samples"] == {"total": 12, "completed": 12}


def test_typed_by_hand_from_another_folder_the_same_commands_write_the_same(
    swept: tuple[Path, str], tmp_path: Path, tiny_model: Path, cruijff: Command
) -> None:
    folder, _ = swept
    other = write_experiment(tmp_path / "by hand", tiny_model, yaml.safe_load((folder / "experiment.yaml").read_text()))
    assert cruijff("generate", other).returncode == 0
    header = (other / "configs/train_001.yaml").read_text().splitlines()
    command = next(line.removeprefix("#").split() for line in header if "tune run" in line)
    trained = typed(*command[:-1], other / command[-1], cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    evaluated = typed("python", other / "configs" / "eval_001.py", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr

    left, right = folder / "results/run_001/hf_model", other / "results/run_001/hf_model"
    files = sorted(path.relative_to(left) for path in left.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(right) for path in right.rglob("*") if path.is_file())
    assert all((left / name).read_bytes() == (right / name).read_bytes() for name in files if name.suffix != ".pt")
    ours, theirs = results_of(folder, "run_001"), results_of(other, "run_001")
    for name in ("log", "weights_stamp", "script"):  # the script names the folder
        del ours[name], theirs[name]
    assert ours == theirs


def test_the_scripts_are_sbatch_arrays_of_the_same_commands_and_the_same_weights_are_handed_out_the_same_log(
    swept: tuple[Path, str], tmp_path: Path, cruijff: Command
) -> None:
    folder = copied(swept[0], tmp_path / "for sbatch", cruijff)
    old = results_of(folder, "run_001")
    shutil.rmtree(folder / "results" / "run_001")
    for stage in ("train", "eval"):
        done = typed("bash", folder / "scripts" / f"{stage}_sweep.sh", cwd=tmp_path, SLURM_ARRAY_TASK_ID="1")
        assert done.returncode == 0, done.stderr
    new = results_of(folder, "run_001")
    assert new.pop("weights_stamp") != old.pop("weights_stamp")  # they were written anew
    assert new == {**old, "script": new["script"]}  # which names the folder


def test_a_second_run_trains_nothing_anew(swept: tuple[Path, str], cruijff: Command) -> None:
    folder, _ = swept
    weights = folder / "results/run_000/hf_model/epoch_0/model-00001-of-00001.safetensors"
    before = weights.stat().st_mtime_ns
    again = cruijff("run", folder, "stages=[train]")
    assert again.returncode == 0, again.stderr
    assert "run_000 is trained already" in again.stdout
    assert weights.stat().st_mtime_ns == before


def test_after_training_by_hand_with_another_seed_the_scores_are_the_new_weights(
    swept: tuple[Path, str], tmp_path: Path, cruijff: Command
) -> None:
    folder = copied(swept[0], tmp_path / "retrained", cruijff)
    old = results_of(folder, "run_000")
    recipe = "cruijff_kit/recipes/lora_finetune_single_device"
    trained = typed("tune", "run", recipe, "--config", folder / "configs/train_000.yaml", "seed=7", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    done = typed("python", folder / "configs/eval_000.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: run_000 was trained with {'seed': 7}" in done.stderr
    new = results_of(folder, "run_000")
    assert new["trained_with"] == {"seed": 7}
    assert (new["weights"] != old["weights"], new["digest"] != old["digest"]) == (True, True)
    kept = json.loads((folder / "eval_results/run_000/capitalize" / old["digest"] / "results.json").read_text())
    assert kept == old
    assert (folder / old["log"]).is_file()


def test_a_checkpoint_without_its_last_shard_is_not_evaluated(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "incomplete", cruijff)
    (folder / "results/run_000/hf_model/epoch_0/model-00001-of-00001.safetensors").unlink()
    done = typed("python", folder / "configs/eval_000.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "Cannot load model: results/run_000/hf_model/epoch_0: model-00001-of-00001.safetensors is missing\n"


def test_weights_of_another_config_are_not_evaluated(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "other", cruijff)
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    spec["controls"]["learning_rate"] = 2e-2
    write_spec(folder, spec)
    refused = cruijff("generate", "--force", folder)
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (1, "numbers that are in use would become other runs:")
    for name in ("results", "eval_results"):  # come what may: as if they were copied there
        os.rename(folder / name, tmp_path / name)
    assert cruijff("generate", "--force", folder).returncode == 0
    shutil.rmtree(folder / "results", ignore_errors=True)
    for name in ("results", "eval_results"):
        os.rename(tmp_path / name, folder / name)
    done = typed("python", folder / "configs/eval_000.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Cannot load model: results/run_000/hf_model/epoch_0: it was trained with another config: optimizer.lr=0.01\n"
    )
    assert "stale" in _scores(folder)


def test_other_prompts_than_those_of_the_training_are_a_warning_in_the_log_the_results_and_the_table(
    swept: tuple[Path, str], tmp_path: Path, cruijff: Command
) -> None:
    from inspect_ai.log import read_eval_log

    folder = copied(swept[0], tmp_path / "prompts", cruijff)
    template = folder / "results/run_001/hf_model/epoch_0/chat_template.jinja"
    template.write_text(template.read_text().replace("You are tiny.", "You are huge."))
    done = typed("python", folder / "configs/eval_001.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = results_of(folder, "run_001")
    (warning,) = results["warnings"]
    assert warning.startswith("training and evaluation make different prompts of the same messages: they part at token ")
    training, evaluation = warning.splitlines()[2:4]
    assert training.startswith("training    ") and training.split(maxsplit=1)[1].startswith("tiny.")
    assert evaluation.startswith("evaluation  ") and evaluation.split(maxsplit=1)[1].startswith("huge.")
    assert f"run_001: warning: {warning}\n" in done.stderr
    assert read_eval_log(str(folder / results["log"]), header_only=True).eval.metadata["prompts"] == {"warnings": [warning], "notes": []}
    assert results_of(folder, "run_000")["warnings"] == []
    assert _scores(folder).count("other prompts than in training") == 1


def test_a_retired_run_is_in_no_table_and_has_its_scores_again_when_it_comes_back(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "other", cruijff)
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    whole = spec["variables"]["lora_rank"]
    before = _scores(folder)
    spec["variables"]["lora_rank"] = [whole[1], 64]
    write_spec(folder, spec)
    assert cruijff("generate", "--keep-ids", folder).returncode == 0
    table = _scores(folder)
    assert "run_000" not in table and "run_001" in table and "not trained" in table
    spec["variables"]["lora_rank"] = whole
    write_spec(folder, spec)
    assert cruijff("generate", "--keep-ids", folder).returncode == 0
    assert _scores(folder) == before


def _scores(folder: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        print_new(folder, since=0)
    return output.getvalue()


@pytest.fixture(scope="module")
def vanished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, cruijff: Command) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two runs, each with two evaluations at the same time; the second run's data is gone when it is to be trained."""
    spec = specification(tiny_model)
    spec["variables"] = {"corpus": [{"dataset": "data/train.jsonl"}, {"dataset": "data/gone.jsonl"}]}
    spec["controls"].update(lora_rank=2, lora_alpha=4)
    del spec["controls"]["dataset"]
    folder = write_experiment(tmp_path_factory.mktemp("vanished") / "vanished", tiny_model, spec)
    shutil.copy(folder / "data/train.jsonl", folder / "data/gone.jsonl")
    with (folder / "data/gone.jsonl").open("a") as data:
        data.write('{"input": "one more", "output": "One"}\n')
    assert cruijff("generate", folder).returncode == 0
    (folder / "data/gone.jsonl").unlink()
    return folder, cruijff("run", folder, "--multirun", "hydra/launcher=staged_local", "evaluation.limit=1,2", "hydra.launcher.max_parallel=2")


def test_a_run_whose_data_vanished_fails_alone(vanished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = vanished
    assert done.returncode == 1
    assert "2 of 4 points failed" in done.stderr
    assert f"dataset not found: {folder}/data/gone.jsonl" in done.stdout
    assert results_of(folder, "run_000")["status"] == "success"
    assert not (folder / "results/run_001/hf_model").exists()
    assert not (folder / "eval_results/run_001").exists()
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    assert any(row[:3] == ["run_001", "train", "failed"] for row in rows)
    assert any(row[:4] == ["run_001", "eval", "not", "run"] for row in rows)


def test_two_evaluations_of_one_run_train_it_once(vanished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = vanished
    logs = [path.read_text() for path in (folder / ".cruijff-kit/jobs").rglob("*_log.out")]
    assert sum("run_000 is trained already" in log for log in logs) == 1
    assert len(list((folder / "eval_results/run_000/capitalize").glob("*/results.json"))) == 2


def test_a_task_that_raises_on_one_sample_has_no_score_and_fails_its_point(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "error", cruijff)
    tasks = folder / "evals/tasks.py"
    tasks.write_text(tasks.read_text() + RAISING_TASK)
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    spec["evaluation"]["tasks"].append({"name": "raising", "file": "tasks.py", "function": "raising"})
    write_spec(folder, spec)
    assert cruijff("generate", "--force", folder).returncode == 0
    done = cruijff("run", folder, "stages=[eval]")
    assert done.returncode == 1
    assert "ended in error: raising" in done.stderr
    assert results_of(folder, "run_000")["status"] == "success"
    raising = json.loads((folder / "eval_results/run_000/raising/results.json").read_text())
    assert (raising["status"], raising["scores"]) == ("error", [])
    assert "no score for this" in raising["error"]


RAISING_TASK = '''

from inspect_ai.scorer import Score, mean, scorer


@scorer(metrics=[mean()])
def broken():
    async def score(state, target):
        if state.input_text == "Capitalize: cloud":
            raise ValueError("no score for this")
        return Score(value=1)

    return score


@task
def raising():
    return Task(dataset=json_dataset("data/words.jsonl"), solver=generate(), scorer=broken())
'''


@pytest.fixture(scope="module")
def one_off(swept: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory, cruijff: Command) -> Path:
    """The sweep, of which a run was evaluated once more, on two samples; there was no network, and nothing said so."""
    place = tmp_path_factory.mktemp("one-off")
    folder = copied(swept[0], place / "one-off", cruijff)
    without = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    command = ["unshare", "--net", "--map-root-user", sys.executable, str(folder / "configs/eval_000.py"), "limit=2"]
    done = subprocess.run(command, cwd=place, env=without, text=True, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return folder


def test_evaluation_needs_no_network(one_off: Path) -> None:
    results = results_of(one_off, "run_000")
    assert results["samples"]["completed"] == 2
    assert (one_off / results["log"]).is_file()


def test_an_override_makes_a_new_run_which_generate_keeps(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "overridden", cruijff)
    words = ["lora_rank=3", "torchtune.optimizer.weight_decay=0.1", "evaluation.limit=5"]
    done = cruijff("run", folder, *words)
    assert done.returncode == 0, done.stderr
    config = config_of(folder, "run_002")
    assert (config["model"]["lora_rank"], config["model"]["lora_alpha"], config["optimizer"]["weight_decay"]) == (3, 6, 0.1)
    assert results_of(folder, "run_002")["samples"]["completed"] == 5
    mapping = yaml.safe_load((folder / "configs/run_mapping.yaml").read_text())
    assert [row["id"] for row in mapping["runs"]] == ["run_000", "run_001", "run_002"]
    added = mapping["runs"][2]
    assert (added["params"], added["added"]) == ({"lora_rank": 3, "optimizer.weight_decay": 0.1}, True)
    before = (folder / "configs/train_002.yaml").read_text()
    assert cruijff("generate", "--force", folder).returncode == 0
    assert (folder / "configs/train_002.yaml").read_text() == before
    again = cruijff("run", folder, "stages=[train]", *words[:2])
    assert "run_002 is trained already" in again.stdout


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lora_rnk=4", "command line  lora_rnk\n  unknown parameter 'lora_rnk'\n  did you mean 'lora_rank'?\n"),
        ("lora_rank=eight", "command line  lora_rank\n  expected a whole number of at least 1, got 'eight'\n"),
        (
            "torchtune.optimizer.weight_dcay=0.1",
            "command line  torchtune.optimizer.weight_dcay\n"
            "  nothing reads 'optimizer.weight_dcay' with the base config base.yaml\n  did you mean 'weight_decay'?\n",
        ),
        ("optimizer.lr=1", "command line  optimizer.lr\n  unknown parameter 'optimizer.lr'\n  did you mean 'torchtune.optimizer.lr'?\n"),
        (
            "evaluation.generate.max_tokns=4",
            "command line  evaluation.generate.max_tokns\n"
            "  'max_tokns' is no generation setting of Inspect\n  did you mean 'max_tokens'?\n",
        ),
        ("evaluation.tasks=[capitalise]", "command line  evaluation.tasks\n  there is no task 'capitalise'\n  did you mean 'capitalize'?\n"),
    ],
)
@pytest.mark.parametrize("mode", [[], ["--multirun", "hydra/launcher=staged_local"]])
def test_a_wrong_override_is_named_before_anything_starts(
    swept: tuple[Path, str], cruijff: Command, mode: list[str], word: str, message: str
) -> None:
    folder, _ = swept
    mapping = (folder / "configs/run_mapping.yaml").read_text()
    done = cruijff("run", folder, *mode, word)
    assert done.returncode == 1
    assert done.stderr.endswith(message)
    assert "Traceback" not in done.stderr
    assert (folder / "configs/run_mapping.yaml").read_text() == mapping


def test_a_wrong_flag_exits_with_2(swept: tuple[Path, str], cruijff: Command) -> None:
    assert cruijff("run", swept[0], "--multrun").returncode == 2
    assert cruijff("generate", swept[0], "--froce").returncode == 2


def test_run_refuses_when_the_experiment_changed_or_moved(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(swept[0], folder, symlinks=True)
    done = cruijff("run", folder)
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"the folder was moved or copied: its configs were generated for {swept[0]}\ncruijff-kit generate --force {folder}\n"
    )
    assert cruijff("generate", "--force", folder).returncode == 0
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    spec["controls"]["batch_size"] = 1
    write_spec(folder, spec)
    done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local")
    assert done.returncode == 1
    assert "experiment.yaml changed since generate" in done.stderr


def test_hydras_own_flags_show_and_run_nothing(swept: tuple[Path, str], cruijff: Command) -> None:
    folder, _ = swept
    shown = cruijff("run", folder, "--cfg", "job", "lora_rank=3", "--resolve")
    assert shown.returncode == 0, shown.stderr
    config = yaml.safe_load(shown.stdout)
    assert (config["lora_rank"], config["lora_alpha"], config["evaluation"]["tasks"]) == (3, 6, ["capitalize"])
    plugins = cruijff("run", folder, "--info", "plugins")
    assert "StagedLocalLauncher" in plugins.stdout and "GridSweeper" in plugins.stdout
    plain = typed("python", "-m", "cruijff_kit", "--config-dir", folder / "configs", "--config-name", "multirun", "--cfg", "job", cwd=folder)
    assert yaml.safe_load(plain.stdout)["lora_rank"] == 2


def test_plain_hydra_runs_what_is_missing_of_the_sweep(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "plain", cruijff)
    shutil.rmtree(folder / "eval_results" / "run_001")
    words = ["--config-dir", folder / "configs", "--config-name", "multirun", "--multirun", "hydra/launcher=staged_local", "stages=[eval]"]
    done = typed("python", "-m", "cruijff_kit", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "eval: done: base, run_000"
    assert "run_001 eval: done" in done.stderr


def test_run_generates_first_if_nothing_was(tmp_path: Path, tiny_model: Path, cruijff: Command) -> None:
    folder = write_experiment(tmp_path / "fresh", tiny_model)
    assert cruijff("run", folder, "--cfg", "job").returncode == 0
    assert (folder / "configs/train_001.yaml").is_file()


def test_a_parameter_on_the_command_line_beats_a_paired_variable(tmp_path: Path, tiny_model: Path, cruijff: Command) -> None:
    spec = specification(tiny_model)
    spec["variables"] = {"adapter": [{"lora_rank": 2, "lora_alpha": 4}, {"lora_rank": 4, "lora_alpha": 8}]}
    del spec["controls"]["lora_alpha"]
    folder = write_experiment(tmp_path / "paired", tiny_model, spec)
    done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local", "stages=[]", "lora_alpha=5")
    assert done.returncode == 0, done.stderr
    rows = yaml.safe_load((folder / "configs/run_mapping.yaml").read_text())["runs"]
    assert [row["params"] for row in rows] == [
        {"lora_rank": 2, "lora_alpha": 4},
        {"lora_rank": 4, "lora_alpha": 8},
        {"lora_rank": 2, "lora_alpha": 5},
        {"lora_rank": 4, "lora_alpha": 5},
    ]
    first = cruijff("run", folder, "stages=[]", "lora_alpha=4")
    assert first.returncode == 0, first.stderr
    assert len(yaml.safe_load((folder / "configs/run_mapping.yaml").read_text())["runs"]) == 4


def test_weights_that_were_trained_from_another_base_model_say_so(
    swept: tuple[Path, str], tmp_path: Path, tiny_model: Path, cruijff: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an evaluation does before it begins; that its results keep it is shown with another seed above."""
    folder = copied(swept[0], tmp_path / "another model", cruijff)
    shutil.copytree(tiny_model, tmp_path / "other")
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    spec["framework_config"]["model_dir"] = str(tmp_path / "other")
    write_spec(folder, spec)
    assert cruijff("generate", "--force", folder).returncode == 0
    assert check_model(Request.in_script(folder / "configs/eval_000.py")) == {"model_dir": str(tiny_model)}
    assert f"warning: run_000 was trained with {{'model_dir': '{tiny_model}'}}" in capsys.readouterr().err


def test_an_interrupted_retraining_does_not_pass_the_old_weights_off_as_its_own(
    swept: tuple[Path, str], tmp_path: Path, cruijff: Command
) -> None:
    folder = copied(swept[0], tmp_path / "interrupted", cruijff)
    copy = folder / "results/run_000/torchtune_config.yaml"
    copy.write_text(copy.read_text())  # what torchtune does first when it starts
    done = typed("python", folder / "configs/eval_000.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "it is older than the training that torchtune_config.yaml is of: train it again" in done.stderr


def test_a_one_off_evaluation_shows_its_settings_beside_its_scores(one_off: Path, tmp_path: Path, cruijff: Command) -> None:
    folder = copied(one_off, tmp_path / "one-off", cruijff)
    rows = {line.split()[0]: line.split() for line in _scores(folder).splitlines() if line.strip().startswith("run_")}
    assert (rows["run_000"][-2:], rows["run_001"][-1]) == (["2", "limit=2"], "12")
    (folder / "evals/scorers.py").write_text("EXACT = True\n")  # which the task does not import
    assert "stale" not in _scores(folder)
    tasks = folder / "evals/tasks.py"
    tasks.write_text(tasks.read_text() + "\nimport scorers\n")
    assert "stale: of another version of the task" in _scores(folder)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("limit=abc", "limit: Input should be a valid integer, got 'abc'"),
        ("limit=0", "limit: Input should be greater than or equal to 1, got 0"),
        ("generate.max_tokns=4", "generate.max_tokns: 'max_tokns' is no generation setting of Inspect\n  did you mean 'max_tokens'?"),
        ("generate.max_tokens=abc", "generate.max_tokens: expected a whole number of at least 1, got 'abc'"),
        ("tasks=[capitalise]", "tasks: there is no task 'capitalise': did you mean 'capitalize'?"),
        ("lmit=4", "lmit=4: no setting of an evaluation: did you mean 'limit'?"),
    ],
)
def test_a_wrong_setting_of_an_evaluation_is_named(swept: tuple[Path, str], tmp_path: Path, word: str, message: str) -> None:
    done = typed("python", swept[0] / "configs/eval_000.py", word, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"{message}\n")
