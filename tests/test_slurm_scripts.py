from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from cruijff_kit import cluster_profile, distributed
from cruijff_kit.cluster_schema import OPTIONS
from cruijff_kit.experiment import Experiment
from cruijff_kit.paths import conf_dir
from cruijff_kit.schema import Specification
from cruijff_kit.slurm_scripts import render
from cruijff_kit.sweep import Run
from cruijff_kit.yaml_source import YamlSource

# stands for tune and python: says the arguments it got, and where it was found
FAKE = '#!/bin/sh\nprintf "%s\\n" "$0" "$@" "loaded=${LOADED-}"\n'


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


def stage(**values: Any) -> dict[str, Any]:
    """A stage of a profile that sets `values`."""
    return cluster_profile.checked(OmegaConf.merge(cluster_profile.with_defaults(), {"train": values}))["train"]


# The script


def test_the_whole_training_script(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    assert render(experiment(), runs(0, 1, 2), "train", stage(partition="gpu", mem_gb=64, qos=None)) == """\
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
    assert render(experiment(), runs(7), "eval", stage(gpus_per_node=1)) == """\
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


def directives(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("#SBATCH")][2:]


def test_every_option_of_a_profile_is_a_directive():
    values = {
        "partition": "gpu",
        "account": "lab",
        "qos": "high",
        "constraint": "a100&nvlink",
        "exclude": "node[3-4]",
        "nodes": 1,
        "gpus_per_node": 2,
        "gres": "gpu:a100:2",
        "cpus_per_task": 8,
        "cpus_per_gpu": 4,
        "mem_gb": 64,
        "mem_per_gpu": "64G",
        "mem_per_cpu": "4G",
        "timeout_min": 90,
        "comment": "it's a rank sweep",
        "mail_user": "me@example.org",
        "mail_type": "END,FAIL",
    }
    assert list(values) == list(OPTIONS)
    more = {"additional_parameters": {"exclusive": True, "nice": 100, "gpu_freq": "high", "contiguous": False, "hint": None}}
    assert directives(render(experiment(), runs(0), "train", stage(**values, **more))) == [
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --qos=high",
        "#SBATCH '--constraint=a100&nvlink'",
        "#SBATCH '--exclude=node[3-4]'",
        "#SBATCH --nodes=1",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --gres=gpu:a100:2",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --cpus-per-gpu=4",
        "#SBATCH --mem=64G",
        "#SBATCH --mem-per-gpu=64G",
        "#SBATCH --mem-per-cpu=4G",
        "#SBATCH --time=90",
        """#SBATCH '--comment=it'"'"'s a rank sweep'""",
        "#SBATCH --mail-user=me@example.org",
        "#SBATCH --mail-type=END,FAIL",
        "#SBATCH --exclusive",
        "#SBATCH --nice=100",
        "#SBATCH --gpu-freq=high",
    ]


def test_a_profile_that_sets_nothing_leaves_everything_to_slurm():
    assert directives(render(experiment(), runs(0), "train", stage())) == []


def test_the_array_runs_as_many_at_once_as_the_profile_says():
    assert "#SBATCH --array=0-7%4\n" in render(experiment(), runs(*range(8)), "train", stage(array_parallelism=4))


def test_sbatch_reads_every_directive_because_no_command_comes_before_one():
    resources = stage(partition="gpu", environment={"A": "\n#SBATCH --qos=mine"}, setup=["module load cuda"])
    lines = render(experiment(), runs(0), "train", resources).splitlines()
    first_command = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    assert [line for line in lines[first_command:] if line.startswith("#SBATCH")] == ["#SBATCH --qos=mine'"]
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
    assert f"#SBATCH --array={array}\n" in render(experiment(), runs(*numbers), "train", stage())


def started(script: str, number: int | str, cwd: Path, **environ: str) -> list[str]:
    """What the script starts for one task of the array: the program, its arguments and what setup did."""
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    done = subprocess.run(
        ["bash", "-s"],
        input=script,
        text=True,
        capture_output=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": str(number), **environ},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_task_of_the_array_trains_its_run_with_the_environments_tune(environment, tmp_path):
    script = render(experiment(), runs(*range(12)), "train", stage(setup=["export LOADED=yes"]))
    assert started(script, 7, tmp_path) == [
        str(environment / "tune"),
        "run",
        "lora_finetune_single_device",
        "--config",
        "/path/to/experiment/configs/train_007.yaml",
        "loaded=yes",
    ]


def test_a_task_of_the_array_evaluates_its_run_with_the_environments_python(environment, tmp_path):
    script = render(experiment(), runs(*range(12)), "eval", stage())
    assert started(script, 11, tmp_path) == [str(environment / "python"), "/path/to/experiment/configs/eval_011.py", "loaded="]


@pytest.mark.parametrize(("number", "name"), [(0, "0000"), (8, "0008"), (9, "0009"), (10, "0010"), (1000, "1000"), (1099, "1099")])
def test_a_number_is_as_wide_as_the_names_of_the_runs(environment, tmp_path, number, name):
    script = render(experiment(), runs(*(f"{each:04d}" for each in range(1100))), "eval", stage())
    assert started(script, number, tmp_path)[1] == f"/path/to/experiment/configs/eval_{name}.py"


def test_added_runs_keep_names_of_another_width(environment, tmp_path):
    """A sweep of three digits that became one of four keeps its added runs, by their names."""
    script = render(experiment(), runs("0000", "0001", "007"), "eval", stage())
    names = {started(script, number, tmp_path)[1].rpartition("_")[2] for number in (0, 1, 7)}
    assert names == {"0000.py", "0001.py", "007.py"}


def test_each_run_is_trained_by_its_own_recipe(environment, tmp_path):
    mixed = runs(0, 2) + runs(1, recipe="cruijff_kit/recipes/lora_finetune_single_device") + runs(3, recipe="it's/mine")
    script = render(experiment(), mixed, "train", stage())
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
    for name_of_stage, shown in (("train", f"{configs}/train_001.yaml"), ("eval", f"{configs}/eval_001.py")):
        output = "\n".join(started(render(experiment(tmp_path / name), runs(0, 1), name_of_stage, stage()), 1, place))
        assert f"\n{shown}\nloaded=" in output
        mixed = runs(0) + runs(1, recipe="other")
        output = "\n".join(started(render(experiment(tmp_path / name), mixed, name_of_stage, stage()), 1, place))
        assert f"\n{shown}\nloaded=" in output
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "$(touch x)", "it's", "a\nb"])
def test_a_configs_dir_of_any_name_is_itself_in_the_script(environment, tmp_path, name):
    script = render(experiment(tmp_path, configs_dir=name), runs(0, 1), "eval", stage())
    assert "\n".join(started(script, 1, tmp_path)).split("\n", 1)[1] == f"{tmp_path}/{name}/eval_001.py\nloaded="
    assert not (tmp_path / "x").exists()


def test_without_slurm_the_script_says_what_is_missing_and_starts_nothing(environment):
    script = render(experiment(), runs(0), "eval", stage())
    done = subprocess.run(["bash", "-s"], input=script, text=True, capture_output=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode != 0
    assert done.stdout == ""
    assert "SLURM_ARRAY_TASK_ID: is not set" in done.stderr


def test_a_setup_that_fails_starts_nothing(environment, tmp_path):
    script = render(experiment(), runs(0), "eval", stage(setup=["false"]))
    done = subprocess.run(["bash", "-s"], input=script, text=True, capture_output=True, env={"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "0"})
    assert (done.returncode, done.stdout) == (1, "")


def test_a_setup_may_use_what_is_not_set_as_conda_and_modules_do(environment, tmp_path):
    script = render(experiment(), runs(0), "eval", stage(setup=['test -z "$NOT_SET_ANYWHERE"']))
    assert started(script, 0, tmp_path)[0] == str(environment / "python")


VALUES = ["", "a b", "it's", 'a"b', "$(touch x)", "`touch x`", "$HOME", "a;touch x", "a\nb", "a\\b", "*", "~", "é 😀", "#x", "!x", "${HOME}"]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_a_value_of_the_environment_is_itself(environment, tmp_path, value):
    place = tmp_path / "cwd"
    place.mkdir()
    script = render(experiment(), runs(0), "eval", stage(environment={"LOADED": value.replace("${", "\\${")}))
    assert "\n".join(started(script, 0, place)).endswith(f"\nloaded={value}")
    assert list(place.iterdir()) == []


def test_setup_sees_the_environment_and_may_change_it(environment, tmp_path):
    script = render(experiment(), runs(0), "eval", stage(environment={"LOADED": 1, "GONE": None}, setup=['LOADED="$LOADED of $GONE"']))
    assert started(script, 0, tmp_path)[-1] == "loaded=1 of "


# Distributed recipes


def test_a_distributed_recipe_has_a_process_for_each_gpu(environment, tmp_path):
    script = render(experiment(), runs(0, recipe="full_finetune_distributed"), "train", stage(gpus_per_node=4))
    assert started(script, 0, tmp_path)[1:] == [
        "run",
        "--nproc_per_node",
        "4",
        "full_finetune_distributed",
        "--config",
        "/path/to/experiment/configs/train_000.yaml",
        "loaded=",
    ]


def test_another_recipe_has_one_process_whatever_the_gpus(environment, tmp_path):
    script = render(experiment(), runs(0), "train", stage(nodes=2, gpus_per_node=4))
    assert started(script, 0, tmp_path)[1:3] == ["run", "lora_finetune_single_device"]


def test_several_nodes_start_together_and_meet_at_the_first(environment, tmp_path):
    """srun runs what it is given here, and scontrol knows the names."""
    (environment / "srun").write_text('#!/bin/sh\necho "$1 $2 $3"; shift 3; exec "$@"\n')
    (environment / "scontrol").write_text("#!/bin/sh\nseq -f gpu%g 7 2000\n")
    for name in ("srun", "scontrol"):
        (environment / name).chmod(0o755)
    script = render(experiment(), runs(0, recipe="full_finetune_distributed"), "train", stage(nodes=2, gpus_per_node=4, cpus_per_task=8))
    assert started(script, 0, tmp_path, SLURM_JOB_NODELIST="gpu[7-2000]", SLURM_JOB_ID="34567") == [
        "--ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=8",
        str(environment / "tune"),
        "run",
        *["--nnodes", "2", "--nproc_per_node", "4"],
        *distributed.rendezvous("gpu7", "34567"),
        "full_finetune_distributed",
        "--config",
        "/path/to/experiment/configs/train_000.yaml",
        "loaded=",
    ]


def test_every_packaged_profile_renders_to_a_script_that_bash_accepts(tmp_path):
    names = sorted(path.stem for path in Path(conf_dir(), "cluster").rglob("*.yaml"))
    assert names == ["default", "gpu_node", "multi_gpu"]
    for name in names:
        for stage_name, resources in cluster_profile.profile(name).items():
            script = render(experiment(tmp_path), runs(0), stage_name, resources)
            assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
            assert shlex.split(script, comments=True)
