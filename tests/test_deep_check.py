"""The whole of `check --deep` on the tiny experiment, on sweeps with faults, and on the examples."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cruijff_kit import deep_report, model_check, optimizer_check
from cruijff_kit.cli import main
from cruijff_kit.deep_check import DeepReport, deep_check
from cruijff_kit.errors import Problem
from cruijff_kit.plan import plan
from tests.conftest import REPOSITORY
from tests.tiny_experiment import specification, write_spec

# Of rank 1: two layers, each with LoRA on q, v, output and the three linear layers of the MLP.
RANK_1 = 2 * ((64 + 64) + (64 + 32) + (64 + 64) + 3 * (64 + 128))


def checked(folder: Path) -> DeepReport:
    return deep_check(plan(folder))


def printed(report: DeepReport) -> str:
    text = io.StringIO()
    deep_report.render(report, Console(file=text, width=80))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


@pytest.fixture
def spec(tiny_model: Path) -> dict[str, Any]:
    """The tiny experiment without its evaluation, whose tasks take processes of their own."""
    spec = specification(tiny_model)
    spec["evaluation"]["enabled"] = False
    return spec


def line_of(folder: Path, text: str) -> int:
    lines = (folder / "experiment.yaml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_good_experiment_has_no_problems_and_its_runs_are_summed_up(experiment):
    report = checked(experiment)
    assert report.problems == []
    assert report.problems == []
    assert [(run.id, run.params, run.parameters, run.trainable) for run in report.runs] == [
        ("run_000", {"lora_rank": 2}, 98_624, 2 * RANK_1),
        ("run_001", {"lora_rank": 4}, 98_624, 4 * RANK_1),
    ]
    first = report.runs[0]
    [prompts] = report.prompts
    assert (first.weights, first.optimizer, first.steps, first.gpus, first.device) == ("match", "AdamW", 6, 1, "cpu")
    assert first.tokens == round(12 * prompts.mean_tokens)
    copied = sum(path.stat().st_size for path in Path(plan(experiment).composer.model_dir).iterdir() if path.suffix != ".safetensors")
    assert first.checkpoint_bytes == 4 * (98_624 + 2 * 2 * RANK_1) + copied
    assert report.disk.needed == sum(run.checkpoint_bytes for run in report.runs)
    assert report.disk.free > report.disk.needed
    assert [(task.name, task.samples) for task in report.tasks] == [("capitalize", 12)]

    data = json.loads(json.dumps(report.as_dict()))
    assert sorted(data) == ["disk", "problems", "prompts", "runs", "seconds", "tasks"]
    assert data["runs"][1]["memory"]["total"] == report.runs[1].memory.total
    assert data["runs"][1]["params"] == {"lora_rank": 4}

    text = printed(report)
    for part in (
        "run      lora_rank  parameters  trainable  steps  tokens  disk GB  RAM GB",
        "run_001  4               98.6K      7,424      6     336   0.0005  ",
        "Weight files of 2 runs: match",
        "Checkpoints of all 2 runs: 0.0009 GB; free: ",
        "Peak memory of run_001, an estimate: ",
        "optimizer state (AdamW)",
        "(twice the mean of the first rows)",
        "One training row as the model will see it:\n\n<|begin|>",
        "capitalize       12  Capitalize: ",
        "checked in ",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9_999, "9,999"), (98_624, "98.6K"), (134_515_008, "135M"), (2_442_240, "2.44M"), (8_030_261_248, "8.03B"), (70_553_706_496, "70.6B")],
)
def test_a_count_is_shown_to_three_digits(count, text):
    assert deep_report.short(count) == text


@pytest.mark.parametrize(
    ("controls", "key", "line"),
    [
        ({"_override": {"model": {"vocab_size": 400}}}, "controls._override.model", "model:"),
        ({"model.vocab_size": 400}, "controls.model.vocab_size", "model.vocab_size:"),
    ],
)
def test_weights_that_do_not_fit_are_said_where_the_model_is_set(experiment, spec, tiny_model, controls, key, line):
    spec["controls"] |= controls
    write_spec(experiment, spec)
    report = checked(experiment)
    what = (
        f"1 weight of the weight files in {tiny_model} differ in shape: "
        "tok_embeddings.weight is [384, 64] in the files and [400, 64] in the model"
    )
    [problem] = report.problems
    assert (problem.file, problem.key, problem.what, problem.level) == ("experiment.yaml", key, what, "error")
    assert problem.line == line_of(experiment, line)
    assert [run.weights for run in report.runs] == ["differ", "differ"]


def test_weights_that_do_not_fit_a_base_config_are_said_there(experiment, spec):
    base = experiment / "base.yaml"
    base.write_text(base.read_text().replace("num_layers: 2", "num_layers: 3"))
    write_spec(experiment, spec)
    [problem] = checked(experiment).problems
    assert problem.key == "framework_config.base_config"
    assert problem.what.startswith("the model has 9 weights that the weight files in ")


def test_a_model_that_cannot_be_built_leaves_its_numbers_open(experiment, spec):
    spec["controls"]["model.num_kv_heads"] = 3
    write_spec(experiment, spec)
    report = checked(experiment)
    [problem] = report.problems
    assert problem.key == "controls.model.num_kv_heads"
    assert problem.what == "torchtune cannot build the model: num_heads (4) must be divisible by num_kv_heads (3)"
    assert [(run.parameters, run.memory, run.steps) for run in report.runs] == [(None, None, 6), (None, None, 6)]
    assert "Checkpoints of all 2 runs: 0.0000 GB, those of 2 runs not counted; free: " in printed(report)
    assert {problem.level for problem in report.problems} >= {"error"}


def test_an_optimizer_that_cannot_be_made_is_said_at_the_argument(experiment, spec):
    spec["controls"]["optimizer.betas"] = [2.0, 0.9]
    write_spec(experiment, spec)
    [problem] = checked(experiment).problems
    what = "torch.optim.AdamW cannot be made: Invalid beta parameter at index 0: 2.0"
    assert problem == Problem("experiment.yaml", what, "controls", line_of(experiment, "controls:"))


def test_checkpoints_of_more_than_the_free_disk_are_an_error(experiment, spec):
    spec["controls"]["epochs"] = 1_000_000_000
    write_spec(experiment, spec)
    report = checked(experiment)
    needed, free = (f"{size / 1e9:,.1f}" for size in (report.disk.needed, report.disk.free))
    what = f"the checkpoints of all runs take {needed} GB, and {free} GB are free there"
    fix = "name a folder on a bigger disk, keep only the last epoch (keep_checkpoints: last), or set save_adapter_weights_only: true"
    assert Problem("experiment.yaml", what, "output.results_dir", None, fix) in report.problems
    spec["output"] = {"keep_checkpoints": "last"}
    write_spec(experiment, spec)
    assert checked(experiment).disk.needed * 1_000_000 < report.disk.needed


def test_packed_data_that_fills_no_step_is_a_fault(experiment, spec):
    spec["controls"] |= {"packed": True, "max_seq_len": 200, "batch_size": 4}
    write_spec(experiment, spec)
    whats = [problem.what for problem in checked(experiment).problems if "optimizer step" in problem.what]
    assert whats == ["2 packs are fewer than batch_size 4 × gradient_accumulation_steps 1: no optimizer step would be taken"]


def test_a_warning_is_an_error_where_that_is_asked_for(experiment, spec, capsys):
    spec["controls"]["max_seq_len"] = 27  # of 28 tokens
    write_spec(experiment, spec)
    assert main(["check", str(experiment), "--deep"]) == 0
    assert "controls.max_seq_len\n  warning: " in capsys.readouterr().err
    assert main(["check", str(experiment), "--deep", "--strict"]) == 1
    assert "controls.max_seq_len\n  max_seq_len 27 cuts 8" in capsys.readouterr().err


def test_a_thousand_runs_share_what_they_have_in_common(experiment, spec, capsys):
    spec["variables"] = {"learning_rate": [1e-3 * (number + 1) for number in range(20)], "seed": list(range(50))}
    spec["controls"] |= {"lora_rank": 6}
    del spec["controls"]["learning_rate"], spec["controls"]["seed"]
    write_spec(experiment, spec)
    models, optimizers = model_check._build.cache_info().misses, optimizer_check._check.cache_info().misses
    report = checked(experiment)
    assert model_check._build.cache_info().misses - models == 1
    assert optimizer_check._check.cache_info().misses - optimizers == 20
    assert (len(report.runs), len(report.prompts), len(report.as_dict()["runs"])) == (1000, 1, 1000)
    text = printed(report)
    assert "run_019" in text
    assert "run_020" not in text
    assert "… and 980 more runs; --json has them all" in text
    with capsys.disabled():
        print(f"\ndeep check of 1,000 runs: {report.seconds:.1f} s")


PROGRAM = """
import json, sys
from pathlib import Path
from cruijff_kit.cli import main
from cruijff_kit.deep_check import deep_check
from cruijff_kit.plan import plan

report = deep_check(plan(Path(sys.argv[1]))).as_dict()
# not ru_maxrss: it starts with what the process had that started this one
(peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(json.dumps({**report, "memory_gb": int(peak) * 1024 / 1e9}))
"""


def test_llama_3_1_8b_is_checked_in_half_a_minute_without_its_weights(capsys):
    example = REPOSITORY / "examples" / "lora_rank_with_eval"
    done = subprocess.run([sys.executable, "-c", PROGRAM, example], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    rank_1 = 32 * ((4096 + 4096) * 2 + (4096 + 1024) + (4096 + 14336) * 3)
    assert [(run["parameters"], run["trainable"]) for run in report["runs"]] == [(8_030_261_248, rank_1 * rank) for rank in (8, 16, 32, 64)]
    notes = [problem["what"] for problem in report["problems"] if problem["level"] == "note"]
    assert any("the weights were not checked: " in note for note in notes)
    with capsys.disabled():
        print(f"\ndeep check of Llama 3.1 8B: {report['seconds']:.1f} s, {report['memory_gb']:.2f} GB")
    assert report["seconds"] < 30
    assert report["memory_gb"] < 2
