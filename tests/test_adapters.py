"""Adapters of a tiny model, trained and saved alone, several epochs of each: evaluated together, one by one, merged, and broken."""

from __future__ import annotations

import json
import os
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

from cruijff_kit import records
from tests.test_run import copied, typed
from tests.tiny_experiment import specification, write_experiment, write_spec

Command = Callable[..., subprocess.CompletedProcess[str]]
EPOCHS = ("epoch_0", "epoch_2")


def change(folder: Path, cruijff: Command, **evaluation: Any) -> None:
    """Other keys below `evaluation`; None takes one away."""
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    spec["evaluation"] = {key: value for key, value in {**spec["evaluation"], **evaluation}.items() if value is not None}
    write_spec(folder, spec)
    done = cruijff("generate", "--force", folder)
    assert done.returncode == 0, done.stderr


def results_of(folder: Path, run: str, epoch: str = "epoch_2", task: str = "capitalize") -> dict[str, Any]:
    return json.loads((folder / "eval_results" / run / epoch / task / "results.json").read_text())


def completions(folder: Path, results: dict[str, Any]) -> list[str]:
    from inspect_ai.log import read_eval_log

    return [sample.output.completion for sample in read_eval_log(str(folder / results["log"])).samples or []]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, cruijff: Command) -> tuple[Path, str]:
    """Two runs of three epochs that save adapters alone, evaluated as a group at their first and last epoch; and the output."""
    spec = specification(tiny_model)
    spec["controls"] |= {"epochs": 3, "save_adapter_weights_only": True}
    spec["evaluation"] |= {"model_format": "adapter", "group_by_base": True, "checkpoint": [0, 2], "baseline": True}
    spec["output"] = {"keep_checkpoints": "last"}
    folder = write_experiment(tmp_path_factory.mktemp("adapters") / "an experiment", tiny_model, spec)
    done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_a_group_evaluates_every_run_at_every_checkpoint_and_loads_the_base_model_once(swept: tuple[Path, str]) -> None:
    folder, output = swept
    rows = [line.split()[:3] for line in output.splitlines() if line.strip().startswith(("base ", "run_0"))]
    assert rows[1:] == [[run, rank, epoch] for run, rank in (("run_000", "2"), ("run_001", "4")) for epoch in ("0", "2")]
    logs = {run: records.read(folder / "eval_results" / run / "record.json").log for run in ("run_000", "run_001")}
    assert logs["run_000"] == logs["run_001"]
    assert Path(logs["run_000"]).read_text().count("100%") == 1  # transformers' bar: Loading weights
    for run in ("run_000", "run_001"):
        record = records.read(folder / "eval_results" / run / "record.json")
        assert (record.run, record.state, record.exit_code) == (run, records.DONE, 0)
        first, last = (results_of(folder, run, epoch) for epoch in EPOCHS)
        assert first["weights"] != last["weights"]
        assert first["base_model"]["weights"] == last["base_model"]["weights"]


def test_an_adapters_log_says_what_was_evaluated(swept: tuple[Path, str]) -> None:
    from inspect_ai.log import read_eval_log

    results = results_of(swept[0], "run_001")
    log = read_eval_log(str(swept[0] / results["log"]), header_only=True).eval
    assert log.model == "hf_adapter/run_001/epoch_2"
    assert log.model_args["adapter_path"] == log.metadata["checkpoint"] == "results/run_001/hf_model/epoch_2"
    assert (log.metadata["weights"], log.metadata["identity"]) == (results["weights"], results["train_config"])
    assert (log.metadata["dtype"], log.model_args["dtype"], log.model_args["do_sample"]) == ("fp32", "float32", False)


def test_only_the_epochs_that_are_evaluated_stay(swept: tuple[Path, str]) -> None:
    checkpoints = swept[0] / "results/run_000/hf_model"
    assert sorted(path.name for path in checkpoints.iterdir() if path.is_dir()) == list(EPOCHS)
    assert not list(checkpoints.rglob("model*.safetensors"))


def test_a_second_sweep_has_nothing_to_do(swept: tuple[Path, str], cruijff: Command) -> None:
    done = cruijff("run", swept[0], "--multirun", "hydra/launcher=staged_local", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing") == 3
    states = json.loads(cruijff("status", swept[0], "--json").stdout)["runs"]
    assert [[stage["state"] for stage in run["stages"].values()] for run in states] == [["done"], ["done", "done"], ["done", "done"]]


def test_merged_for_the_occasion_they_say_the_same_and_leave_nothing(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "merged", cruijff)
    before = {epoch: results_of(folder, "run_001", epoch) for epoch in EPOCHS}
    change(folder, cruijff, group_by_base=None)
    assert "merge_adapters=True" in (folder / "configs/eval_001.py").read_text()
    done = typed("python", folder / "configs/eval_001.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for epoch in EPOCHS:
        after = results_of(folder, "run_001", epoch)
        assert (after["settings"]["merge_adapters"], after["weights"]) == (True, before[epoch]["weights"])
        assert completions(folder, after) == completions(folder, before[epoch])
    assert not list((folder / ".cruijff-kit/merged").rglob("*.safetensors"))


def test_a_run_that_fails_in_a_group_does_not_touch_the_next(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "broken", cruijff)
    before = completions(folder, results_of(folder, "run_001"))
    change_rank(folder / "results/run_000/hf_model/epoch_2")
    done = typed("python", folder / "configs/eval_group.py", "limit=6", cwd=tmp_path)
    assert done.returncode == 1
    assert "run_000: Cannot load model: results/run_000/hf_model/epoch_2" in done.stderr
    assert done.stderr.endswith("1 of 2 runs were not evaluated, or not well: run_000\n")
    assert completions(folder, results_of(folder, "run_001")) == before[:6]


def change_rank(adapter: Path) -> None:
    """An adapter whose config says another rank than its weights have."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": config["r"] + 1}))


def test_a_group_leaves_out_what_is_not_trained(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "untrained", cruijff)
    shutil.rmtree(folder / "results/run_001/hf_model/epoch_2")
    done = typed("python", folder / "configs/eval_group.py", cwd=tmp_path)
    assert done.returncode == 1
    lacks = "its training has not ended: results/run_001/hf_model/epoch_2: there is no such folder"
    assert f"run_001 is left out: Cannot load model: results/run_001/hf_model: {lacks}" in done.stderr
    named = typed("python", folder / "configs/eval_group.py", "run_000", cwd=tmp_path)
    assert named.returncode == 0, named.stderr
    unknown = typed("python", folder / "configs/eval_group.py", "run_00", cwd=tmp_path)
    assert (unknown.returncode, unknown.stderr) == (1, "there is no run 'run_00': did you mean 'run_000'?\n")


def test_a_checkpoint_that_is_half_written_is_named_and_the_others_are_evaluated(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "half", cruijff)
    weights = folder / "results/run_000/hf_model/epoch_0/adapter_model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, size - 1)
    done = typed("python", folder / "configs/eval_000.py", cwd=tmp_path)
    assert done.returncode == 1
    fault = f"Cannot load model: results/run_000/hf_model/epoch_0: adapter_model.safetensors has {size - 1:,} bytes and should have {size:,}\n"
    assert fault in done.stderr
    assert done.stderr.endswith("ended in error: epoch_0\n")
    assert "run_000/epoch_2 capitalize: exact mean" in done.stdout


def test_an_evaluation_that_is_ended_removes_the_merged_model(swept: tuple[Path, str], tmp_path: Path, cruijff: Command) -> None:
    folder = copied(swept[0], tmp_path / "ended", cruijff)
    tasks = folder / "evals/tasks.py"
    tasks.write_text(tasks.read_text() + SLOW_TASK)
    slow = [{"name": "slow", "file": "tasks.py", "function": "slow"}]
    change(folder, cruijff, group_by_base=None, tasks=slow)
    process = subprocess.Popen([sys.executable, folder / "configs/eval_000.py"], cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)
    merged = folder / ".cruijff-kit/merged/run_000/epoch_0"
    deadline = time.monotonic() + 100
    while not (folder / "evals/begun").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(merged.glob("model*.safetensors"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    assert not merged.exists()


SLOW_TASK = '''

from pathlib import Path

from inspect_ai.solver import solver


@solver
def waiting():
    async def solve(state, generate):
        import anyio

        Path(__file__).with_name("begun").touch()
        await anyio.sleep(100)
        return state

    return solve


@task
def slow():
    return Task(dataset=json_dataset("data/words.jsonl"), solver=waiting(), scorer=exact())
'''


@pytest.mark.parametrize("merge", [False, True])
def test_a_model_is_let_go_before_the_next_one_is_loaded(swept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, merge: bool) -> None:
    """Two of them may not fit on a GPU; Inspect's thread holds on to its last batch."""
    import asyncio
    import gc
    import weakref

    from cruijff_kit.evaluated_model import Models
    from cruijff_kit.evaluation_request import Request

    request = replace(Request.in_script(swept[0] / "configs/eval_000.py").each()[0], merge_adapters=merge)
    monkeypatch.chdir(swept[0])
    with Models() as models:
        model = models.load(request)
        asyncio.run(model.generate("Capitalize: apple"))
        seen = weakref.ref(model.api.model)
        assert seen() is not None
    gc.collect()
    assert seen() is None


def test_an_adapter_of_the_output_layer_finds_its_place(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, LlamaForCausalLM

    from cruijff_kit.lora import adapted

    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    trained = get_peft_model(LlamaForCausalLM.from_pretrained(tmp_path / "base"), LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False))
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tokens = torch.tensor([[5, 17, 42]])
    with torch.no_grad():
        expected, found = trained.eval()(tokens).logits, adapted(LlamaForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")(tokens).logits
    assert torch.allclose(expected, found, atol=1e-5)


def test_merging_without_room_is_refused_before_it_begins(swept: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cruijff_kit.errors import CruijffKitError
    from cruijff_kit.evaluated_model import merge
    from cruijff_kit.evaluation_request import Request

    request = Request.in_script(swept[0] / "configs/eval_000.py").each()[0]
    huge = tmp_path / "huge"
    huge.mkdir()
    header = json.dumps({"weight": {"dtype": "F32", "shape": [10**8, 10**8], "data_offsets": [0, 0]}}).encode()
    (huge / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CruijffKitError) as error:
        merge(replace(request, base_model=huge, folder=tmp_path), Path("merged/run_000"))
    assert str(error.value).startswith("the merged model of run_000/epoch_0 takes 40,000,000.0 GB, and ")
    assert str(error.value).endswith(" are free in merged\n  make room, or evaluate the adapter on its base model: merge_adapters: false")
    assert not (tmp_path / "merged").exists()
