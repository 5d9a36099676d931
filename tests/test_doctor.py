"""The doctor's checks, on a Slurm that is a folder of small scripts; tests/slurm/ has the real one."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cruijff_kit import doctor, doctor_slurm, node_probe
from cruijff_kit.cli import main
from cruijff_kit.doctor_report import Check
from cruijff_kit.slurm import SlurmError
from tests.test_generate import edit, tiny
from tests.test_slurm import CONFIG

# srun that runs the job here: its words start at bash.
SRUN = 'while [ "$1" != bash ]; do shift; done; exec "$@"'
PING = "Slurmctld(primary) at login is UP"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny experiment of two runs, with no profiles of the user's and nothing of Slurm's on PATH."""
    monkeypatch.setenv("CRUIJFF_KIT_CONF", str(tmp_path / "conf"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    return tiny(tmp_path / "experiment")


@pytest.fixture
def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the programs of a cluster on PATH; those given by name are other shell scripts than usual."""
    (folder.parent / "bin").mkdir()

    def write(config: str = CONFIG, **scripts: str) -> None:
        usual = {
            "scontrol": f"[ $1 = ping ] && echo '{PING}' && exit; cat <<'END'\n{config}END",
            "sbatch": "echo 'sbatch: Job 7 to start at 2026-11-24T13:49:51 using 1 processors on nodes node0 in partition main' >&2",
            "sacctmgr": "echo 'lab|normal,high'",
            "srun": SRUN,
            "squeue": "true",
            "scancel": "true",
        }
        for name, body in (usual | scripts).items():
            path = folder.parent / "bin" / name
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder.parent / 'bin'}:/usr/bin:/bin")

    return write


def profile(folder: Path, text: str) -> None:
    """Makes `site` a cluster profile."""
    path = folder.parent / "conf" / "cluster" / "site.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def checks(folder: Path, cluster: str | None = None, wait_s: int = 5) -> dict[str, Check]:
    return {check.name: check for check in doctor.examine(folder, cluster, wait_s, say=lambda text: None)}


def test_without_slurm_one_message_says_so_and_the_rest_is_checked(folder, capsys):
    assert main(["doctor", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[:5] == [
        "ok       experiment   2 runs, 1 evaluation task",
        "ok       cluster      profile default",
        "failed   slurm        sbatch was not found: is this a login node of the cluster? Slurm's programs must be on PATH",
        "                      → try on the cluster's login node; if it is one, ask who runs the cluster",
        f"ok       weights      1 file, 0 bytes in {folder.parent}/model",
    ]
    assert printed.splitlines()[-1] == "warning  node         not checked: see what failed above"


def test_on_a_good_cluster_all_is_well(folder, cluster, capsys):
    cluster()
    assert main(["doctor", str(folder)]) == 0
    found = checks(folder)
    assert {check.state for check in found.values()} == {"ok"}
    assert list(found) == [
        *("experiment", "cluster", "slurm", "arrays", "accounting", "account", "train stage", "eval stage", "weights", "disk"),
        *("node python", "node folder", "node weights", "node GPUs"),
    ]
    assert found["slurm"].what == f"Slurm 22.05.8, cluster lab: {PING}"
    assert found["train stage"].what == (
        "Job 7 to start at 2026-11-24T13:49:51 using 1 processors on nodes node0 in partition main\nasked for: --gpus-per-node=1"
    )


def test_json_holds_the_checks(folder, capsys):
    assert main(["doctor", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["checks"]
    assert found[1] == {"name": "cluster", "state": "ok", "what": "profile default", "fix": None}


def test_a_fault_in_the_experiment_is_reported_as_check_does(folder, cluster):
    cluster()
    edit(folder, controls={"lora_rnk": 3})
    found = checks(folder)
    assert found["experiment"].state == "failed"
    assert "unknown parameter 'lora_rnk'" in found["experiment"].what
    assert found["train stage"].state == "ok"
    assert found["node"].what == "not checked: see what failed above"


def test_missing_weights_are_a_fault(folder):
    (folder.parent / "model" / "model.safetensors").unlink()
    assert f"{folder.parent}/model lacks model.safetensors" in checks(folder)["experiment"].what


def test_an_unknown_profile_is_a_fault(folder, cluster):
    cluster()
    profile(folder, "train: {gpus_per_node: 1}")
    found = checks(folder, "sites")
    assert found["cluster"].state == "failed"
    assert "no cluster profile 'sites'\n  did you mean 'site'?" in found["cluster"].what
    assert "train stage" not in found


def test_what_slurm_refuses_is_shown_whole_with_what_was_asked(folder, cluster):
    cluster(sbatch="echo 'sbatch: error: invalid partition specified: nope\nallocation failure: Invalid partition name specified' >&2; exit 1")
    profile(folder, "train: {partition: nope, gpus_per_node: 1}")
    found = checks(folder, "site")
    assert found["train stage"] == Check(
        "train stage",
        "failed",
        "sbatch: error: invalid partition specified: nope\nallocation failure: Invalid partition name specified",
        "asked for: --partition=nope --gpus-per-node=1\nthe cluster profile says so, and sinfo shows what there is",
    )
    assert found["node"].what == "not checked: see what failed above"


def test_a_stage_is_tried_as_an_array_that_the_cluster_takes(folder, cluster):
    cluster(sbatch='echo "$@" >&2')
    assert checks(folder)["train stage"].what.splitlines()[0] == "--test-only --gpus-per-node=1 --array=0-1"
    cluster(CONFIG.replace("= 1001", "= 1"), sbatch='echo "$@" >&2')
    found = checks(folder)
    assert found["train stage"].what.splitlines()[0] == "--test-only --gpus-per-node=1 --array=0-0"
    assert found["arrays"] == Check("arrays", "ok", "2 runs go in 2 arrays a stage (MaxArraySize is 1)")


def test_a_cluster_without_arrays_is_a_fault(folder, cluster):
    cluster(CONFIG.replace("= 1001", "= 0"))
    assert checks(folder)["arrays"].what == "this cluster takes no job arrays (MaxArraySize is 0)"


def test_without_accounting_a_warning_says_what_that_means(folder, cluster):
    cluster(CONFIG.replace("slurmdbd", "none"))
    profile(folder, "train: {account: lab, qos: high}")
    found = checks(folder, "site")
    off = "off: of a job that dies without a trace, killed or out of memory, only its log tells"
    assert found["accounting"] == Check("accounting", "warning", off)
    unchecked = "account lab, qos high: not checked: --test-only does not, and there is no accounting to ask"
    assert found["account"] == Check("account", "warning", unchecked)


ENFORCED = CONFIG.replace("Enforce = none", "Enforce = associations,limits,qos")


@pytest.mark.parametrize(
    ("config", "text", "state", "what"),
    [
        (ENFORCED, "{account: lab, qos: high}", "ok", "yours: lab (qos normal, high)"),
        (ENFORCED, "{account: lob}", "failed", "account lob is none of yours"),
        (ENFORCED, "{account: lab, qos: hi}", "failed", "qos hi goes with no account of yours"),
        (CONFIG, "{account: lob}", "warning", "account lob is none of yours\nthis cluster does not insist on it"),
    ],
)
def test_account_and_qos_are_those_of_the_accounting(folder, cluster, config, text, state, what):
    cluster(config)
    profile(folder, f"train: {text}")
    found = checks(folder, "site")["account"]
    assert (found.state, found.what) == (state, what)


def test_who_has_no_account_is_told_so_where_one_is_needed(folder, cluster):
    cluster(ENFORCED, sacctmgr="true")
    found = checks(folder)["account"]
    assert (found.state, found.what) == ("failed", "you have no account on cluster lab")


def test_an_accounting_that_does_not_answer_is_a_warning(folder, cluster):
    cluster(sacctmgr="echo 'sacctmgr: error: Problem talking to the database: Connection refused' >&2; exit 1")
    found = checks(folder)["account"]
    what = "your account: not checked: sacctmgr: error: Problem talking to the database: Connection refused"
    assert found == Check("account", "warning", what)


def test_a_controller_that_is_down_is_one_message(folder, cluster):
    cluster(scontrol="echo 'Slurmctld(primary) at login is DOWN'; exit 1")
    with pytest.raises(SlurmError, match=r"^Slurm does not answer: Slurmctld\(primary\) at login is DOWN$"):
        doctor_slurm.preflight()
    assert checks(folder)["slurm"].what == "Slurm does not answer: Slurmctld(primary) at login is DOWN"


def test_a_backup_controller_will_do(folder, cluster):
    cluster(scontrol="echo 'Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP'; exit 1")
    assert doctor_slurm.preflight() == "Slurmctld(backup) at b is UP"


def test_a_disk_that_is_too_small_is_a_fault(folder):
    """The header of the weights promises more than any disk has."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**8, 10**8], "data_offsets": [0, 4 * 10**16]}}).encode()
    (folder.parent / "model" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    found = checks(folder)["disk"]
    assert found.state == "failed"
    assert found.what.startswith("the weights of all epochs take 80,000,000.0 GB more, and ")
    assert found.fix == "name a folder on a bigger disk (output.results_dir), keep only the last epoch (output.keep_checkpoints: last), or set save_adapter_weights_only: true"
    edit(folder, controls={"epochs": 3})
    assert checks(folder)["disk"].what.startswith("the weights of all epochs take 240,000,000.0 GB more, and ")
    edit(folder, output={"keep_checkpoints": "last"})
    assert checks(folder)["disk"].what.startswith("the weights of the epochs that lie there at once take 160,000,000.0 GB more, and ")


def test_runs_that_save_adapters_alone_take_no_room(folder):
    edit(folder, controls={"save_adapter_weights_only": True}, evaluation={"enabled": False})
    found = checks(folder)["disk"]
    assert found.what.startswith("the weights of all epochs take 0 bytes more, and ")
    assert found.what.endswith("; 2 of 2 runs save adapters alone, not counted")


def test_no_wait_is_no_job_on_a_node(folder, cluster):
    cluster(srun="exit 9")
    assert checks(folder, wait_s=0)["node"] == Check("node", "warning", "not checked: --wait is 0")


def test_a_cluster_that_is_full_is_a_warning(folder, cluster):
    said = "srun: job 67 queued and waiting for resources\nsrun: error: Unable to allocate resources: Requested nodes are busy"
    cluster(srun=f"echo '{said}' >&2; exit 1")
    assert checks(folder)["node"] == Check(
        "node",
        "warning",
        "not checked: no node was free within 5 s\n"
        "srun: error: job 67 queued and waiting for resources\nUnable to allocate resources: Requested nodes are busy",
        "--wait 600 waits longer",
    )


def test_a_set_up_line_that_fails_on_the_node_is_a_fault(folder, cluster):
    cluster()
    profile(folder, "train: {setup: [echo hello, module load cuda]}")
    found = checks(folder, "site")["node"]
    assert found.state == "failed"
    assert found.what.endswith("module: command not found")
    assert found.fix == (
        f"the nodes need {sys.executable}, and the profile's set-up lines must work there\n--wait 0 leaves this check out"
    )


def test_set_up_lines_that_end_the_shell_are_a_fault(folder, cluster):
    cluster()
    profile(folder, "train: {setup: [echo hello, exit 0]}")
    found = checks(folder, "site")["node"]
    assert found == Check(
        "node", "failed", "the job ended without an answer: hello", "see the profile's set-up lines: does one of them end the shell?"
    )


def test_the_set_up_lines_may_print(folder, cluster):
    cluster()
    profile(folder, "train: {setup: [echo hello]}")
    assert checks(folder, "site")["node python"].state == "ok"


ANSWER = {"host": "node7", "folder": None, "files": {}, "gpus": ["0"], "nvidia_smi": None}


def answering(cluster: Callable[..., None], **found: object) -> None:
    """A cluster whose node says `found`, and else what this machine would."""
    line = node_probe.MARK + json.dumps({**ANSWER, "versions": node_probe.versions(), **found})
    cluster(srun=f"cat <<'END'\n{line}\nEND")


def test_other_versions_on_the_node_are_a_fault(folder, cluster):
    here = node_probe.versions()
    answering(cluster, versions={**here, "torch": "2.4.0", "torchtune": None})
    found = checks(folder)["node python"]
    assert found.state == "failed"
    assert found.what == (
        f"node7:\ntorch is 2.4.0 there and {here['torch']} here\ntorchtune is not installed there and {here['torchtune']} here"
    )


def test_a_folder_that_the_node_does_not_have_is_a_fault(folder, cluster):
    answering(cluster, folder="No such file or directory", files={str(folder / "experiment.yaml"): "No such file or directory"})
    assert checks(folder)["node folder"] == Check(
        "node folder",
        "failed",
        "node7:\nnothing can be written in the experiment's folder: No such file or directory\n"
        f"{folder}/experiment.yaml: No such file or directory",
        "the experiment must lie on a disk that this machine and the compute nodes share",
    )


def test_other_weights_on_the_node_are_a_fault(folder, cluster):
    path = folder.parent / "model" / "model.safetensors"
    answering(cluster, files={str(path): "has 5 bytes there and 0 here"})
    found = checks(folder)
    assert found["node weights"].what == f"node7:\n{path}: has 5 bytes there and 0 here"
    assert found["node folder"].state == "ok"


@pytest.mark.parametrize(
    ("gpus", "nvidia_smi", "state", "what"),
    [
        (["0"], ["GPU 0: NVIDIA A100"], "ok", "node7: 1 asked for, 1 given: GPU 0: NVIDIA A100"),
        ([], None, "failed", "node7: 1 asked for, 0 given"),
        (["0"], [], "failed", "node7: 1 asked for, 1 given; nvidia-smi sees none"),
        (None, None, "warning", "node7: 1 asked for; neither Slurm nor nvidia-smi says which the job has"),
    ],
)
def test_gpus_are_counted_on_the_node(folder, cluster, gpus, nvidia_smi, state, what):
    answering(cluster, gpus=gpus, nvidia_smi=nvidia_smi)
    found = checks(folder)["node GPUs"]
    assert (found.state, found.what) == (state, what)


def test_the_probe_leaves_nothing_behind(folder):
    before = sorted(folder.iterdir())
    assert node_probe.folder_fault(str(folder)) is None
    assert sorted(folder.iterdir()) == before
    assert node_probe.folder_fault(str(folder / "absent")) == "No such file or directory"


def test_the_probe_compares_sizes(folder):
    path = folder / "experiment.yaml"
    size = path.stat().st_size
    assert node_probe.file_faults({str(path): size}) == {}
    assert node_probe.file_faults({str(path): 5, str(folder / "x"): 1}) == {
        str(path): f"has {size:,} bytes there and 5 here",
        str(folder / "x"): "No such file or directory",
    }


@pytest.mark.parametrize(("text", "gpus"), [("0,3", ["0", "3"]), ("", []), ("NoDevFiles", [])])
def test_the_probe_reads_which_gpus_slurm_gave(text, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
    assert node_probe.gpus() == gpus


def test_what_slurm_says_cannot_steer_the_terminal():
    assert str(Check("slurm", "failed", "bad \x1b[2J", "mend\nit")) == (
        "failed   slurm        bad \\x1b[2J\n                      → mend\n                        it"
    )
