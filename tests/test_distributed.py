from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cruijff_kit.distributed import every_node, first_node, is_distributed, on_node, rendezvous, tune_words
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.torchtune_catalog import recipes

NOWHERE = Path("/nowhere")

# a recipe in all that torchrun sees of it
RECIPE = """
import sys
import torch
from torch.distributed import all_reduce, barrier, destroy_process_group, get_rank, get_world_size, init_process_group

if __name__ == "__main__":
    init_process_group("gloo")
    total = torch.tensor(get_rank() + 1)
    all_reduce(total)
    print(f"rank {get_rank()} of {get_world_size()}: {total}, {sys.argv[1:]}\\n", end="", flush=True)
    barrier()
    destroy_process_group()  # a thread of gloo's may abort the process otherwise
"""


def own(folder: Path, source: str) -> str:
    (folder / "own_recipe.py").write_text(source)
    return "own_recipe"


def test_torchtunes_recipes_are_what_its_registry_says():
    found = {name for name in recipes() if is_distributed(name, NOWHERE)}
    assert "dev/lora_finetune_distributed_multi_dataset" in found
    assert found == {name for name in recipes() if "distributed" in name}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torch.distributed.init_process_group('nccl')", True),
        ("training.init_distributed()", True),
        ("base = load('lora_finetune_distributed')", True),
        ("from torchtune.training import get_distributed_backend", False),
        ("base = load('lora_finetune_single_device')", False),
        ("", False),
    ],
)
def test_a_recipe_of_ones_own_is_distributed_if_it_starts_processes_or_builds_on_one_that_does(tmp_path, source, expected):
    assert is_distributed(own(tmp_path, source), tmp_path) is expected


@pytest.mark.parametrize("name", ["mine/lora_distributed", "mine.distributed_lora", "distributed"])
def test_a_recipe_that_is_called_distributed_is(name):
    assert is_distributed(name, NOWHERE)


def test_our_recipe_for_a_cpu_is_not():
    assert not is_distributed("cruijff_kit/recipes/lora_finetune_single_device", NOWHERE)


@pytest.mark.parametrize(
    ("nodes", "gpus", "words"),
    [
        (1, 1, ["--nproc_per_node", "1"]),
        (1, 4, ["--nproc_per_node", "4"]),
        (2, 4, ["--nnodes", "2", "--nproc_per_node", "4"]),
    ],
)
def test_the_words_for_torchrun(nodes, gpus, words):
    assert tune_words("full_finetune_distributed", NOWHERE, nodes, gpus) == words
    assert tune_words("lora_finetune_single_device", NOWHERE, nodes, gpus) == []


@pytest.mark.parametrize(
    ("node_list", "first"),
    {
        "gpu1": "gpu1",
        "a,b": "a",
        "node[3-5,7],other": "node3",
        "n[007-012]": "n007",
        "x,n[1-2]": "x",
        "rack[1-2]n[03-04]": "rack1n03",
        "gpu-1.site.org,b": "gpu-1.site.org",
    }.items(),
)
def test_the_first_node_of_a_job(node_list, first):
    assert first_node(node_list) == first


COMMAND = ["tune", "run", "--nnodes", "2", "--nproc_per_node", "4", "full_finetune_distributed", "--config", "a.yaml"]
JOB = {"SLURM_JOB_ID": "34567", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu[7-8]"}


def test_the_nodes_of_a_job_meet_at_its_first():
    words = ["--rdzv_id", "34567", "--rdzv_backend", "c10d", "--rdzv_endpoint", "gpu7:24567"]
    assert on_node(COMMAND, JOB) == ["tune", "run", *words, *COMMAND[2:]]


def test_a_command_for_one_node_is_itself_in_a_job_or_outside():
    command = ["tune", "run", "--nproc_per_node", "4", "full_finetune_distributed", "--config", "a.yaml"]
    assert on_node(command, JOB) == on_node(command, {}) == command


@pytest.mark.parametrize(("environ", "there"), [({}, "1"), ({**JOB, "SLURM_JOB_NUM_NODES": "3"}, "3")])
def test_a_training_for_two_nodes_does_not_start_where_there_are_others(environ, there):
    with pytest.raises(CruijffKitError) as error:
        on_node(COMMAND, environ)
    assert str(error.value) == f"this training is for 2 nodes, and here is {there}: submit it as a Slurm job, or set cluster.train.nodes=null"


def test_two_jobs_with_the_same_first_node_meet_at_different_ports():
    assert len({rendezvous("gpu7", str(job))[-1] for job in range(1000, 2000)}) == 1000


def test_srun_starts_one_process_a_node_with_all_the_cores_that_were_asked_for():
    assert every_node({"cpus_per_task": None}) == ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    assert every_node({"cpus_per_task": 8}) == ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--cpus-per-task=8"]


def expected_output(processes: int) -> list[str]:
    total = processes * (processes + 1) // 2
    return [f"rank {rank} of {processes}: {total}, ['--config', 'c.yaml']" for rank in range(processes)]


def ranks(output: str) -> list[str]:
    return sorted(line for line in output.splitlines() if line.startswith("rank "))


def command(folder: Path, nodes: int, gpus: int) -> list[str]:
    (folder / "c.yaml").touch()
    recipe = own(folder, RECIPE)
    return [str(Path(sys.executable).with_name("tune")), "run", *tune_words(recipe, folder, nodes, gpus), recipe, "--config", "c.yaml"]


def test_tune_run_starts_the_processes_of_one_node(tmp_path):
    done = subprocess.run(on_node(command(tmp_path, 1, 2), os.environ), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ranks(done.stdout) == expected_output(2)


def test_tune_run_on_two_nodes_that_meet_starts_one_group(tmp_path):
    """Both are this machine."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost"}
    words = on_node(command(tmp_path, 2, 1), job)
    both = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    outputs = [node.communicate(timeout=240)[0] for node in both]
    assert [node.returncode for node in both] == [0, 0], outputs
    assert ranks("".join(outputs)) == expected_output(2)
