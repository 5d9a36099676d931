from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from cruijff_kit import cluster_profile
from cruijff_kit.batch_script import setup_lines
from cruijff_kit.cluster_profile import additional_options, gpus, profile, sbatch_options
from cruijff_kit.cluster_schema import KEYS
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.generate import generate
from cruijff_kit.paths import conf_dir
from cruijff_kit.plan import plan
from tests.tiny_experiment import specification, write_experiment, write_hollow_model, write_spec


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own cluster profiles."""
    monkeypatch.setenv("CRUIJFF_KIT_CONF", str(tmp_path / "conf"))
    (tmp_path / "conf" / "cluster").mkdir(parents=True)
    return tmp_path / "conf" / "cluster"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment whose model is there by name only."""
    return write_experiment(tmp_path / "experiment", write_hollow_model(tmp_path / "model"))


def fault(name: str) -> str:
    with pytest.raises(CruijffKitError) as error:
        profile(name)
    return str(error.value)


def said(stages: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What differs from the values of a profile that sets nothing."""
    nothing = OmegaConf.to_container(cluster_profile.with_defaults())
    return {stage: {key: value for key, value in stages[stage].items() if value != nothing[stage][key]} for stage in stages}


# The keys


def test_every_key_of_the_schema_stands_in_conf_with_a_comment_and_no_other():
    text = (conf_dir() / "cluster_keys.yaml").read_text()
    assert sorted(yaml.safe_load(text)) == sorted(KEYS)
    for line in text.splitlines():
        assert not line or "#" in line


def test_the_keys_are_those_of_hydra_submitit_launcher():
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    ours = {"environment", "mail_type", "mail_user"}
    not_offered = {"_target_", "submitit_folder", "tasks_per_node", "gpus_per_task", "name", "stderr_to_stdout"}
    assert {each.name for each in fields(SlurmQueueConf)} == set(KEYS) - ours | not_offered


# Reading


def test_the_packaged_profile_asks_for_one_gpu_a_stage_and_nothing_else():
    assert said(profile("default")) == {"train": {"gpus_per_node": 1}, "eval": {"gpus_per_node": 1}}
    assert [sbatch_options(stage) for stage in profile("default").values()] == [["--gpus-per-node=1"], ["--gpus-per-node=1"]]


def test_the_users_own_profile_comes_before_the_packaged_one(own):
    (own / "default.yaml").write_text("train: {partition: mine}\n")
    (own / "site.yaml").write_text("eval: {mem_gb: 3}\n")
    assert said(profile("default")) == {"train": {"partition": "mine"}, "eval": {}}
    assert said(profile("site")) == {"train": {}, "eval": {"mem_gb": 3}}


def test_the_users_own_profiles_lie_in_the_config_folder_of_home(monkeypatch, tmp_path):
    monkeypatch.delenv("CRUIJFF_KIT_CONF", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/cruijff-kit/cluster").mkdir(parents=True)
    (tmp_path / ".config/cruijff-kit/cluster/site.yaml").write_text("train: {qos: high}\n")
    assert said(profile("site"))["train"] == {"qos": "high"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "train: {}\n", "train: {setup: , environment: , additional_parameters: }\n"])
def test_a_profile_may_be_empty(own, text):
    (own / "site.yaml").write_text(text)
    for stage in profile("site").values():
        assert (sbatch_options(stage), setup_lines(stage), gpus(stage)) == ([], [], 1)


def test_a_value_may_come_from_the_environment(own, monkeypatch):
    monkeypatch.setenv("LAB", "physics")
    (own / "site.yaml").write_text('train: {account: "${oc.env:LAB}", setup: ["cd \\\\${HOME}"]}\n')
    assert said(profile("site"))["train"] == {"account": "physics", "setup": ["cd ${HOME}"]}


def test_a_profile_that_is_not_there(own):
    (own / "della.yaml").write_text("train: {}\n")
    places = f"\n  profiles lie in {own} and {conf_dir()}/cluster"
    assert fault("dela") == f"command line  cluster\n  no cluster profile 'dela'\n  did you mean 'della'?{places}"
    assert fault("zzz") == f"command line  cluster\n  no cluster profile 'zzz'\n  there are default, della, gpu_node, multi_gpu{places}"


@pytest.mark.parametrize("name", ["../cluster/default", "/etc/passwd", "", ".", "a/b"])
def test_the_name_of_a_profile_is_no_path(own, name):
    (own / "default.yaml").write_text("train: {}\n")
    assert fault(name).startswith(f"command line  cluster\n  no cluster profile '{name}'\n")


TEXT = {
    "train: {gpus_per_nod: 1}": "train.gpus_per_nod\n  unknown key 'train.gpus_per_nod'\n  did you mean 'train.gpus_per_node'?",
    "trian: {gpus_per_node: 1}": "trian\n  unknown key 'trian'\n  did you mean 'train'?",
    "defaults: [default]": "defaults\n  unknown key 'defaults'\n  there are train, eval",
    "train:": "train\n  expected a mapping\n  its keys stand below it; nothing to set is train: {}",
    "train: 5": "train\n  expected a mapping\n  its keys stand below it; nothing to set is train: {}",
    "train: [gpu]": "train\n  expected a mapping\n  its keys stand below it; nothing to set is train: {}",
    "train: {gpus_per_node: two}": "train.gpus_per_node\n  expected a whole number, got 'two'",
    "train: {gpus_per_node: true}": "train.gpus_per_node\n  expected a whole number, got 'True'",
    "train: {gpus_per_node: [1]}": "train.gpus_per_node\n  expected a whole number, got '[1]'",
    "train: {timeout_min: 1h}": "train.timeout_min\n  expected a whole number, got '1h'",
    "train: {nodes: -1}": "train.nodes\n  expected a number from 0, got -1",
    "train: {partition: {a: 1}}": "train.partition\n  expected text",
    "train: {partition: gpu shared}": "train.partition\n  holds a space: 'gpu shared'",
    'train: {account: "a\\nb"}': "train.account\n  holds a line break, a backslash or a control character: 'a\\nb'",
    'train: {account: " a"}': "train.account\n  holds a space: ' a'",
    'train: {comment: "a\\tb"}': "train.comment\n  holds a line break, a backslash or a control character: 'a\\tb'",
    "train: {setup: module load cuda}": "train.setup\n  expected a list of shell lines",
    "train: {setup: [a, null]}": "train.setup[1]\n  expected a list of shell lines",
    "train: {setup: ['cd ${HOME}']}": "train.setup[0]\n  Interpolation key 'HOME' not found\n  a ${NAME} that is meant for the shell is written \\${NAME}, or $NAME",
    "train: {environment: [A]}": "train.environment\n  expected a mapping",
    "train: {environment: {A-B: 1}}": "train.environment\n  'A-B' is no name of a variable",
    "train: {environment: {'A;x': 1}}": "train.environment\n  'A;x' is no name of a variable",
    "train: {environment: {A: [1]}}": "train.environment\n  A: expected text or a number",
    "train: {additional_parameters: {'a b': 1}}": "train.additional_parameters\n  'a b' is no option of sbatch",
    "train: {additional_parameters: {array: 1-2}}": "train.additional_parameters\n  array is set by cruijff-kit",
    "train: {additional_parameters: {time: 5}}": "train.additional_parameters\n  time has a key of its own: timeout_min",
    "train: {additional_parameters: {mail-type: END}}": "train.additional_parameters\n  mail-type has a key of its own: mail_type",
    'train: {additional_parameters: {nice: "1\\n#"}}': "train.additional_parameters\n  nice holds a line break, a backslash or a control character: '1\\n#'",
    "train: {additional_parameters: {nice: {a: 1}}}": "train.additional_parameters\n  nice: expected text, a number or true",
}


@pytest.mark.parametrize(("text", "expected"), TEXT.items())
def test_a_profile_with_a_wrong_key_or_value(own, text, expected):
    (own / "site.yaml").write_text(f"\n{text}\n")
    assert fault("site") == f"{own}/site.yaml:2  {expected}"


def test_a_wrong_key_that_is_near_to_none_is_told_the_keys_that_there_are(own):
    (own / "site.yaml").write_text("train: {zzz: 1}\n")
    assert fault("site").startswith(f"{own}/site.yaml:1  train.zzz\n  unknown key 'train.zzz'\n  there are train.partition, train.account, ")


def test_all_values_that_are_wrong_are_told_at_once(own):
    (own / "site.yaml").write_text("train:\n  partition: a b\neval:\n  nodes: -2\n")
    assert fault("site") == (
        f"{own}/site.yaml:2  train.partition\n  holds a space: 'a b'\n{own}/site.yaml:4  eval.nodes\n  expected a number from 0, got -2"
    )


@pytest.mark.parametrize("text", ["- train\n", "train\n", "5\n", "train: [\n", "a: 1\n\tb: 2\n", "train: {nodes: 1, nodes: 2}\n"])
def test_a_profile_of_another_form_is_a_fault_that_names_the_file(own, text):
    (own / "site.yaml").write_text(text)
    assert fault("site").startswith(f"{own}/site.yaml")


def test_a_fault_of_the_profile_is_one_of_generate_and_of_check(own, folder):
    (own / "site.yaml").write_text("train:\n  partion: gpu\n")
    what = f"{own}/site.yaml:2  train.partion\n  unknown key 'train.partion'\n  did you mean 'train.partition'?"
    for tried in (generate, plan):
        with pytest.raises(CruijffKitError) as error:
            tried(folder, cluster="site")
        assert str(error.value) == what


# What becomes of it


def stage(**values: Any) -> dict[str, Any]:
    return cluster_profile.checked(OmegaConf.merge(cluster_profile.with_defaults(), {"train": values}))["train"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 1),
        ({"gpus_per_node": 0}, 1),
        ({"gpus_per_node": 4}, 4),
        ({"nodes": 3}, 3),
        ({"nodes": 2, "gpus_per_node": 4}, 8),
        ({"gres": "gpu"}, 1),
        ({"gres": "gpu:2"}, 2),
        ({"gres": "gpu:a100"}, 1),
        ({"gres": "lustre:1,gpu:a100:2,gpu:v100:1", "nodes": 2}, 6),
        ({"gres": "lustre:7"}, 1),
    ],
)
def test_the_gpus_of_a_stage(values, expected):
    assert gpus(stage(**values)) == expected


def test_the_lines_before_a_stage_export_the_environment_and_then_are_the_users_own():
    values = stage(environment={"A": "it's $x", "B": 1.5, "C": True, "D": None}, setup=["module load x", 'echo "$A"'])
    assert setup_lines(values) == ["export A='it'\"'\"'s $x'", "export B=1.5", "export C=true", "module load x", 'echo "$A"']


def test_the_options_that_have_no_parameter_of_submitits():
    values = stage(partition="gpu", mail_user="me@x.org", additional_parameters={"mem_bind": "local", "exclusive": True, "hold": False})
    assert additional_options(values) == {"mail-user": "me@x.org", "mem-bind": "local", "exclusive": True}


# In Hydra


@pytest.fixture
def multirun(own: Path, folder: Path):
    """`python -m cruijff_kit` over the experiment, with the user's profile `site`."""
    (own / "site.yaml").write_text("train:\n  partition: gpu\n  environment: {A: x y}\n")
    (own / "bad.yaml").write_text("train:\n  partion: gpu\n")
    (own / "broken.yaml").write_text("train: [\n")
    generate(folder)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cruijff_kit", "--config-dir", str(folder / "configs"), "--config-name", "multirun", *words]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ}, cwd=folder)

    return run


def cluster_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["cluster"]


def test_hydra_composes_the_profile_that_generate_reads(multirun, own, folder):
    (own / "default.yaml").write_text("train: {partition: mine, gpus_per_node: 2}\n")
    assert cluster_of(multirun("--cfg", "job")) == profile("default")
    assert cluster_of(multirun("--cfg", "job", "cluster=site")) == profile("site")
    generate(folder, force=True, cluster="site")
    assert cluster_of(multirun("--cfg", "job")) == profile("site")
    assert cluster_of(multirun("--cfg", "job", "cluster=multi_gpu")) == profile("multi_gpu")


def test_any_known_key_may_be_overridden_and_what_the_user_names_may_be_added(multirun):
    words = ["cluster.train.mem_gb=64", "cluster.train.environment.B=1", "cluster.eval.additional_parameters.nice=5", "cluster.eval.setup=[module load x]"]
    got = cluster_of(multirun("--cfg", "job", "cluster=site", *words))
    assert said(got) == {
        "train": {"partition": "gpu", "mem_gb": 64, "environment": {"A": "x y", "B": 1}},
        "eval": {"additional_parameters": {"nice": 5}, "setup": ["module load x"]},
    }


FAULTS = {
    "cluster.train.partion=gpu": (
        "command line  cluster.train.partion\n  unknown key 'cluster.train.partion'\n  did you mean 'cluster.train.partition'?\n"
    ),
    "cluster.trian.mem_gb=1": (
        "command line  cluster.trian.mem_gb\n  unknown key 'cluster.trian.mem_gb'\n  did you mean 'cluster.train.mem_gb'?\n"
    ),
    "cluster.train.gpus_per_node=two": "command line  cluster.train.gpus_per_node\n  expected a whole number, got 'two'\n",
    "cluster.train.setup=x": "command line  cluster.train.setup\n  expected a list of shell lines\n",
    "cluster=siet": (
        "command line  cluster\n  no cluster profile 'siet'\n  did you mean 'site'?\n  profiles lie in {own} and {packaged}\n"
    ),
    "cluster=broken": (
        "{own}/broken.yaml\n  cannot be read: while parsing a flow node\n"
        "  expected the node content, but found '<stream end>'\n"
        '    in "{own}/broken.yaml", line 2, column 1\n'
    ),
    "cluster=bad": "{own}/bad.yaml:2  train.partion\n  unknown key 'train.partion'\n  did you mean 'train.partition'?\n",
}


SEVERAL = """
import contextlib, io, json, sys
from cruijff_kit.app import main
from hydra.core.global_hydra import GlobalHydra
configs, *words = sys.argv[1:]  # main sets sys.argv
for word in words:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = main(["--config-dir", configs, "--config-name", "multirun", word])
    print(json.dumps([word, status, said.getvalue()]))
    GlobalHydra.instance().clear()
"""


def test_a_wrong_choice_or_override_is_one_message_and_exit_1(multirun, own, folder):
    done = subprocess.run([sys.executable, "-c", SEVERAL, folder / "configs", *FAULTS], capture_output=True, text=True, check=True)
    expected = [[word, 1, text.format(own=own, packaged=f"{conf_dir()}/cluster")] for word, text in FAULTS.items()]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected


def test_a_sweep_over_a_key_of_the_profile_finds_the_wrong_value_before_anything_starts(multirun, folder):
    done = multirun("--multirun", "hydra/launcher=staged_local", "cluster.train.mem_gb=32,lots")
    assert done.returncode == 1
    assert done.stderr.endswith("command line  cluster.train.mem_gb\n  expected a whole number, got 'lots'\n")
    assert not (folder / "results").exists() or not any((folder / "results").rglob("*.pt"))


def test_the_users_folder_is_in_the_search_path_before_the_packaged_one_where_it_exists(multirun, own):
    lines = multirun("--info", "searchpath").stdout.splitlines()
    providers = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert providers == ["Provider", "hydra", "cruijff-kit-own", "main", "command-line", "schema"]
    for path in sorted(own.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    own.parent.rmdir()
    assert "cruijff-kit-own" not in multirun("--info", "searchpath").stdout


def test_other_applications_of_hydra_know_nothing_of_it():
    code = "import cruijff_kit.app; from hydra.core.plugins import Plugins; from hydra.plugins.search_path_plugin import SearchPathPlugin as S; "
    code += "print([each.__name__ for each in Plugins.instance().discover(S)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "OwnProfiles" not in done.stdout


@pytest.mark.parametrize(
    ("node", "expected"),
    {
        "{train: {partion: a}}": "unknown key 'cluster.train.partion'\n  did you mean 'cluster.train.partition'?",
        "{foo: {a: 1}}": "unknown key 'cluster.foo'\n  there are cluster.train, cluster.eval",
    }.items(),
)
def test_a_key_that_a_plus_has_added_is_found_in_the_composed_config(node, expected):
    plain = OmegaConf.create(OmegaConf.to_container(cluster_profile.with_defaults()))
    with pytest.raises(CruijffKitError) as error:
        cluster_profile.checked(OmegaConf.merge(plain, yaml.safe_load(node)), above="cluster.")
    assert str(error.value).partition("\n  ")[2] == expected


# GPUs that nothing would use


def warnings(folder: Path, cluster: str) -> str:
    return "\n".join(str(warning) for warning in plan(folder, cluster=cluster).warnings)


def test_gpus_that_a_recipe_would_leave_idle_are_a_warning(own, folder):
    (own / "big.yaml").write_text("train:\n  gpus_per_node: 4\neval:\n  nodes: 2\n")
    assert warnings(folder, "big") == (
        f"{own}/big.yaml  train.gpus_per_node\n"
        "  warning: lora_finetune_single_device trains on one GPU: 3 of 4 would be idle, and their hours wasted\n"
        "  ask for one GPU of one node, or take a distributed recipe: framework_config.recipe: lora_finetune_distributed\n"
        f"{own}/big.yaml  eval.nodes\n"
        "  warning: an evaluation runs on one node: 1 of 2 would be idle, and their hours wasted\n"
        "  ask for one node"
    )
    assert warnings(folder, "default") == ""


def test_a_distributed_recipe_uses_them(own, folder):
    (own / "big.yaml").write_text("train: {nodes: 2, gpus_per_node: 2}\n")
    spec = specification(folder.parent / "model")
    spec["framework_config"]["recipe"] = "lora_finetune_distributed"
    write_spec(folder, spec)
    assert warnings(folder, "big") == ""
    assert plan(folder, cluster="big").gpus == 4


def test_the_header_of_a_config_says_how_a_distributed_recipe_is_started(own, folder):
    (own / "one.yaml").write_text("train: {gpus_per_node: 2}\n")
    (own / "two.yaml").write_text("train: {nodes: 2}\n")
    spec = specification(folder.parent / "model")
    spec["framework_config"]["recipe"] = "lora_finetune_distributed"
    write_spec(folder, spec)
    generate(folder, cluster="one")
    header = (folder / "configs/train_001.yaml").read_text().splitlines()[2]
    assert header == "#     tune run --nproc_per_node 2 lora_finetune_distributed --config configs/train_001.yaml"
    generate(folder, cluster="two", force=True)
    assert (folder / "configs/train_001.yaml").read_text().splitlines()[2] == "#     sbatch --array=1 scripts/train_sweep.sh"
