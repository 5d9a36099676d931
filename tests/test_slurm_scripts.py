from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cruijff_kit import slurm_scripts
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.experiment import Experiment
from cruijff_kit.schema import Specification
from cruijff_kit.slurm_scripts import profile, render
from cruijff_kit.sweep import Run
from cruijff_kit.yaml_source import YamlSource

# stands for tune and python: says the arguments it got, and where it was found
FAKE = '#!/bin/sh\nprintf "%s\\n" "$0" "$@" "loaded=${LOADED-}"\n'


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own cluster profiles."""
    monkeypatch.setenv("CRUIJFF_KIT_CONF", str(tmp_path / "conf"))
    (tmp_path / "conf" / "cluster").mkdir(parents=True)
    return tmp_path / "conf" / "cluster"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose `tune` and `python` say what they are asked; the scripts put it first on PATH."""
    bin = tmp_path / "it's an env" / "bin"
    bin.mkdir(parents=True)
    for name in ("tune", "python"):
        (bin / name).write_text(FAKE)
        (bin / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bin / "python"))
    return bin


def experiment(folder: str | Path = "/path/to/experiment", **output: str) -> Experiment:
    data = {"experiment": {"name": "tiny", "framework": "torchtune"}, "framework_config": {"base_config": "x"}, "output": output}
    return Experiment(Path(folder), YamlSource("experiment.yaml", data, {}), Specification.model_validate(data))


def runs(*numbers: int | str, recipe: str = "lora_finetune_single_device") -> list[Run]:
    ids = [number if isinstance(number, str) else f"{number:03d}" for number in numbers]
    return [Run(f"run_{number}", {}, {}, recipe, {}, "") for number in ids]


def fault(name: str) -> str:
    with pytest.raises(CruijffKitError) as error:
        profile(name)
    return str(error.value)


# The script


def test_the_whole_training_script(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    stages = {"train": {"partition": "gpu", "mem_gb": 64, "qos": None}, "eval": {}}
    assert render(experiment(), runs(0, 1, 2), "train", stages) == """\
#!/bin/bash
# Training of tiny, a run a task.
#
#     sbatch scripts/train_sweep.sh
#
#SBATCH --job-name=tiny-train
#SBATCH --array=0-2
#SBATCH --partition=gpu
#SBATCH --mem=64G
set -eo pipefail
export PATH=/env/bin:"$PATH"
printf -v id '%03d' "${SLURM_ARRAY_TASK_ID:?is not set: this is an array for sbatch}"
exec tune run lora_finetune_single_device --config /path/to/experiment/configs/"train_$id.yaml"
"""


def test_the_whole_evaluation_script(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    assert render(experiment(), runs(7), "eval", {"eval": {"gpus_per_node": 1}}) == """\
#!/bin/bash
# Evaluation of tiny, a run a task.
#
#     sbatch scripts/eval_sweep.sh
#
#SBATCH --job-name=tiny-eval
#SBATCH --array=7
#SBATCH --gpus-per-node=1
set -eo pipefail
export PATH=/env/bin:"$PATH"
printf -v id '%03d' "${SLURM_ARRAY_TASK_ID:?is not set: this is an array for sbatch}"
exec python /path/to/experiment/configs/"eval_$id.py"
"""


def test_every_key_of_a_profile_is_an_sbatch_option():
    values = {
        "partition": "gpu",
        "account": "lab",
        "qos": "high",
        "constraint": "a100&nvlink",
        "nodes": 1,
        "gpus_per_node": "a100:2",
        "cpus_per_task": 8,
        "mem_gb": 64,
        "timeout_min": 90,
    }
    assert list(values) == list(slurm_scripts.OPTIONS)
    script = render(experiment(), runs(0), "train", {"train": values})
    assert [line for line in script.splitlines() if line.startswith("#SBATCH")][2:] == [
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --qos=high",
        "#SBATCH --constraint=a100&nvlink",
        "#SBATCH --nodes=1",
        "#SBATCH --gpus-per-node=a100:2",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=64G",
        "#SBATCH --time=90",
    ]


def test_sbatch_reads_every_directive_because_no_command_comes_before_one(own):
    (own / "site.yaml").write_text("train: {partition: gpu, setup: [module load cuda]}\n")
    lines = render(experiment(), runs(0), "train", profile("site")).splitlines()
    first_command = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])
    assert all(line.strip() for line in lines[:first_command])


@pytest.mark.parametrize(
    ("numbers", "array"),
    [
        ((0,), "0"),
        ((0, 1), "0-1"),
        ((0, 1, 2, 3), "0-3"),
        ((3, 1, 0, 2), "0-3"),
        ((0, 2, 4), "0,2,4"),
        ((0, 1, 2, 7, 9, 10), "0-2,7,9-10"),
    ],
)
def test_the_array_is_the_numbers_of_the_runs(numbers, array):
    assert f"#SBATCH --array={array}\n" in render(experiment(), runs(*numbers), "train", {})


def started(script: str, number: int | str, cwd: Path) -> list[str]:
    """What the script starts for one task of the array: the program, its arguments and what setup did."""
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    done = subprocess.run(
        ["bash", "-s"],
        input=script,
        text=True,
        capture_output=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": str(number)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_task_of_the_array_trains_its_run_with_the_environments_tune(environment, tmp_path):
    script = render(experiment(), runs(*range(12)), "train", {"train": {"setup": ["export LOADED=yes"]}})
    assert started(script, 7, tmp_path) == [
        str(environment / "tune"),
        "run",
        "lora_finetune_single_device",
        "--config",
        "/path/to/experiment/configs/train_007.yaml",
        "loaded=yes",
    ]


def test_a_task_of_the_array_evaluates_its_run_with_the_environments_python(environment, tmp_path):
    script = render(experiment(), runs(*range(12)), "eval", {})
    assert started(script, 11, tmp_path) == [str(environment / "python"), "/path/to/experiment/configs/eval_011.py", "loaded="]


@pytest.mark.parametrize(("number", "name"), [(0, "0000"), (8, "0008"), (9, "0009"), (10, "0010"), (1000, "1000"), (1099, "1099")])
def test_a_number_is_as_wide_as_the_names_of_the_runs(environment, tmp_path, number, name):
    script = render(experiment(), runs(*(f"{each:04d}" for each in range(1100))), "eval", {})
    assert started(script, number, tmp_path)[1] == f"/path/to/experiment/configs/eval_{name}.py"


def test_added_runs_keep_names_of_another_width(environment, tmp_path):
    """A sweep of three digits that became one of four keeps its added runs, by their names."""
    script = render(experiment(), runs("0000", "0001", "007"), "eval", {})
    names = {started(script, number, tmp_path)[1].rpartition("_")[2] for number in (0, 1, 7)}
    assert names == {"0000.py", "0001.py", "007.py"}


def test_each_run_is_trained_by_its_own_recipe(environment, tmp_path):
    mixed = runs(0, 2) + runs(1, recipe="cruijff_kit/recipes/lora_finetune_single_device") + runs(3, recipe="it's/mine")
    script = render(experiment(), mixed, "train", {})
    assert [started(script, number, tmp_path)[2] for number in range(4)] == [
        "lora_finetune_single_device",
        "cruijff_kit/recipes/lora_finetune_single_device",
        "lora_finetune_single_device",
        "it's/mine",
    ]


FOLDERS = ["a b", "it's", 'a"b', "$(touch x)", "`touch x`", "$HOME", "a;touch x", "a\nb", "a\\b", "*", "~", "é 😀", "%03d", "{name}", "#x", "-x", "!x"]


@pytest.mark.parametrize("name", FOLDERS, ids=ascii)
def test_a_folder_of_any_name_is_itself_in_the_script(environment, tmp_path, name):
    place = tmp_path / "cwd"
    place.mkdir()
    configs = f"{tmp_path}/{name}/configs"
    for stage, shown in (("train", f"{configs}/train_001.yaml"), ("eval", f"{configs}/eval_001.py")):
        output = "\n".join(started(render(experiment(tmp_path / name), runs(0, 1), stage, {}), 1, place))
        assert f"\n{shown}\nloaded=" in output
        mixed = runs(0) + runs(1, recipe="other")
        output = "\n".join(started(render(experiment(tmp_path / name), mixed, stage, {}), 1, place))
        assert f"\n{shown}\nloaded=" in output
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "$(touch x)", "it's", "a\nb"])
def test_a_configs_dir_of_any_name_is_itself_in_the_script(environment, tmp_path, name):
    script = render(experiment(tmp_path, configs_dir=name), runs(0, 1), "eval", {})
    assert "\n".join(started(script, 1, tmp_path)).split("\n", 1)[1] == f"{tmp_path}/{name}/eval_001.py\nloaded="
    assert not (tmp_path / "x").exists()


def test_without_slurm_the_script_says_what_is_missing_and_starts_nothing(environment):
    script = render(experiment(), runs(0), "eval", {})
    done = subprocess.run(["bash", "-s"], input=script, text=True, capture_output=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode != 0
    assert done.stdout == ""
    assert "SLURM_ARRAY_TASK_ID: is not set" in done.stderr


def test_a_setup_that_fails_starts_nothing(environment, tmp_path):
    script = render(experiment(), runs(0), "eval", {"eval": {"setup": ["false"]}})
    done = subprocess.run(["bash", "-s"], input=script, text=True, capture_output=True, env={"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "0"})
    assert (done.returncode, done.stdout) == (1, "")


def test_a_setup_may_use_what_is_not_set_as_conda_and_modules_do(environment, tmp_path):
    script = render(experiment(), runs(0), "eval", {"eval": {"setup": ['test -z "$NOT_SET_ANYWHERE"']}})
    assert started(script, 0, tmp_path)[0] == str(environment / "python")


# Profiles


def test_the_packaged_profile_asks_for_one_gpu_a_stage():
    assert profile("default") == {"train": {"gpus_per_node": 1}, "eval": {"gpus_per_node": 1}}


def test_the_users_own_profile_comes_before_the_packaged_one(own):
    (own / "default.yaml").write_text("train: {partition: mine}\n")
    (own / "site.yaml").write_text("eval: {mem_gb: 3}\n")
    assert profile("default") == {"train": {"partition": "mine"}}
    assert profile("site") == {"eval": {"mem_gb": 3}}


def test_the_users_own_profiles_lie_in_the_config_folder_of_home(monkeypatch, tmp_path):
    monkeypatch.delenv("CRUIJFF_KIT_CONF", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/cruijff-kit/cluster").mkdir(parents=True)
    (tmp_path / ".config/cruijff-kit/cluster/site.yaml").write_text("train: {}\n")
    assert profile("site") == {"train": {}}


@pytest.mark.parametrize("text", ["", "# nothing\n", "train:\neval:\n", "{}\n"])
def test_a_profile_may_be_empty(own, text):
    (own / "site.yaml").write_text(text)
    assert "#SBATCH --array=0\n" in render(experiment(), runs(0), "train", profile("site"))


def test_a_profile_that_is_not_there(own):
    (own / "della.yaml").write_text("train: {}\n")
    assert fault("dela") == "no cluster profile 'dela': did you mean 'della'?"
    assert fault("zzz") == "no cluster profile 'zzz': there are default, della"


@pytest.mark.parametrize("name", ["../cluster/default", "/etc/passwd", "", ".", "a/b"])
def test_the_name_of_a_profile_is_no_path(own, name):
    (own / "default.yaml").write_text("train: {}\n")
    assert fault(name).startswith(f"no cluster profile '{name}': ")


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "train: {gpus_per_nod: 1}\n": "unknown key 'train.gpus_per_nod': did you mean 'gpus_per_node'?",
        "train: {partition: gpu shared}\n": "train.partition holds a space or a line break: 'gpu shared'",
        'train: {account: "a\\nb"}\n': "train.account holds a space or a line break: 'a\\nb'",
        'train: {account: "a\\n"}\n': "train.account holds a space or a line break: 'a\\n'",
        'train: {account: " a"}\n': "train.account holds a space or a line break: ' a'",
    }.items(),
)
def test_a_profile_with_a_wrong_key_or_value(own, text, expected):
    (own / "site.yaml").write_text(text)
    assert fault("site") == f"{own}/site.yaml: {expected}"


def test_a_wrong_key_that_is_near_to_none_is_told_the_keys_that_there_are(own):
    (own / "site.yaml").write_text("train: {zzz: 1}\n")
    said = fault("site")
    assert said.startswith(f"{own}/site.yaml: unknown key 'train.zzz': ")
    assert "None" not in said
    assert "partition" in said


@pytest.mark.parametrize("text", ["trian: {gpus_per_node: 1}\n", "trian:\n"])
def test_a_wrong_stage_is_told_the_stages_that_there_are(own, text):
    (own / "site.yaml").write_text(text)
    said = fault("site")
    assert said.startswith(f"{own}/site.yaml: ")
    assert "'trian'" in said
    assert "'train'" in said


@pytest.mark.parametrize(
    "text",
    [
        "- train\n",
        "train\n",
        "train: 5\n",
        "train: [gpu]\n",
        "train: {gpus_per_node: [1]}\n",
        "train: {gpus_per_node: {a: 1}}\n",
        "train: {gpus_per_node: true}\n",
        "train: {mem_gb: lots}\n",
        "train: {timeout_min: 1h}\n",
        "train: {setup: module load cuda}\n",
        "train: {setup: [1, null]}\n",
        "train: [\n",
        "a: 1\n\tb: 2\n",
    ],
)
def test_a_profile_of_another_form_is_a_fault_that_names_the_file(own, text):
    (own / "site.yaml").write_text(text)
    assert fault("site").startswith(f"{own}/site.yaml")


def test_the_default_profile_renders_to_a_script_that_bash_accepts(tmp_path):
    for path in sorted(Path(slurm_scripts.conf_dir(), "cluster").rglob("*.yaml")):
        stages = yaml.safe_load(path.read_text())
        for stage in ("train", "eval"):
            script = render(experiment(tmp_path), runs(0), stage, stages)
            assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
            assert shlex.split(script, comments=True)
