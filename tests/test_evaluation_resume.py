"""An evaluation that is killed goes on where it was, and the same seed gives the same answers in any batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cruijff_kit import evaluate, evaluation_logs, seeded_sampling
from cruijff_kit.evaluate import Built, load_task, task_digest
from cruijff_kit.evaluation_request import Request
from cruijff_kit.evaluation_results import Weights
from cruijff_kit.generate import generate
from tests.tiny_experiment import specification, write_experiment
from tests.tiny_llama import WORDS

TASKS = '''\
import asyncio
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import solver


@solver
def marking(marks):
    async def solve(state, generate):
        state = await generate(state)
        await asyncio.sleep(0.3)
        with Path(marks).open("a") as file:
            file.write(state.input_text + "\\n")
        return state

    return solve


@task
def capitalize(marks):
    return Task(dataset=json_dataset("data/words.jsonl"), solver=marking(marks), scorer=includes())
'''

SCORED = "e"  # the target: some answers hold it and some do not


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An experiment with a task that is sampled, marks each sample that it generates, and takes a third of a second for it."""
    folder = tmp_path_factory.mktemp("resume") / "experiment"
    spec = specification(tiny_model)
    spec["evaluation"] |= {"baseline": True, "generate": {"max_tokens": 8, "temperature": 1.0}}
    spec["evaluation"]["tasks"][0]["args"] = {"marks": str(folder / "marks")}
    write_experiment(folder, tiny_model, spec)
    (folder / "evals/tasks.py").write_text(TASKS)
    samples = ({"input": f"Capitalize: {word}", "target": SCORED} for word in WORDS)
    (folder / "evals/data/words.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    generate(folder)
    return folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(folder / "configs/eval_base.py"), *words]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path, *words: str) -> str:
    process = start(folder, *words)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


def marks(folder: Path) -> list[str]:
    path = folder / "marks"
    return path.read_text().splitlines() if path.exists() else []


def kill_after(folder: Path, count: int, *words: str) -> list[str]:
    """SIGKILL for an evaluation's whole process group once it has generated `count` samples; those that it has."""
    before = len(marks(folder))
    process = start(folder, *words)
    deadline = time.monotonic() + 120
    while len(marks(folder)) < before + count:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return marks(folder)[before:]


def samples(log_dir: Path) -> dict[str, str]:
    """The completion of each sample in the newest log."""
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(max(log_dir.glob("*.eval"), key=lambda path: path.stat().st_mtime_ns)))
    return {sample.input: sample.output.completion for sample in log.samples}


def test_a_killed_evaluation_goes_on_and_ends_as_one_that_nobody_killed(sampled: Path) -> None:
    from inspect_ai.log import read_eval_log

    finish(sampled, "generate.max_connections=12")  # one batch
    results = json.loads((sampled / "eval_results/base/capitalize/results.json").read_text())
    whole = samples((sampled / results["log"]).parent)
    assert len(set(whole.values())) == len(WORDS) and 0 < results["scores"][0]["metrics"]["accuracy"] < 1  # else nothing is compared

    one_by_one = "generate.max_connections=1"
    (sampled / "marks").unlink()
    first = kill_after(sampled, 4, one_by_one)
    (log_dir,) = {path.parent for path in sampled.glob("eval_results/base/capitalize/*/*.eval")} - {(sampled / results["log"]).parent}
    on_disk = samples(log_dir)
    assert set(on_disk) >= set(first[:-1]) and 0 < len(on_disk) < len(WORDS)  # at most the last was not finished

    second = kill_after(sampled, 3, one_by_one)
    assert not set(second) & set(on_disk)
    on_disk = samples(log_dir)
    assert set(on_disk) >= {*first[:-1], *second[:-1]} and len(on_disk) < len(WORDS)

    cut = log_dir / "2020-01-01T00-00-00-00-00_capitalize_cut.eval"
    cut.write_bytes(max(log_dir.glob("*.eval")).read_bytes()[:500])
    output = finish(sampled, one_by_one)
    third = marks(sampled)[len(first) + len(second) :]
    assert f"{cut.name}.unreadable: cannot be read, evaluated without it: " in output
    assert not set(third) & set(on_disk) and set(third) | set(on_disk) == set(whole)
    assert max(Counter(marks(sampled)).values()) <= 2

    resumed = json.loads((sampled / "eval_results/base/capitalize/results.json").read_text())
    assert (sampled / resumed["log"]).parent == log_dir
    assert (resumed["status"], resumed["scores"], samples(log_dir)) == ("success", results["scores"], whole)
    assert [path.name for path in log_dir.glob("*.eval")] == [Path(resumed["log"]).name]
    assert len(list(log_dir.glob("*.eval.interrupted"))) == 2

    config = read_eval_log(str(sampled / resumed["log"]), header_only=True).plan.config
    assert (config.temperature, config.seed, config.max_tokens) == (1.0, 0, 8)  # as they stand in the log


def test_samples_in_another_order_are_another_evaluation_unless_inspect_knows_that_they_are_shuffled(sampled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """eval_set takes finished samples over by their place: of a log in another order, one would count twice and another never."""
    request = Request.in_script(sampled / "configs/eval_base.py")
    seen = []

    def digest(change: Callable[[Any], None]) -> str:
        task = load_task(request.tasks[0])
        change(task.dataset)
        monkeypatch.setattr(evaluate, "load_task", lambda entry: task)
        seen.append(task)
        return task_digest(request, Built.of(request, request.tasks[0]), Weights("weights", {}, None, {}))

    before = digest(lambda dataset: None)
    assert digest(lambda dataset: dataset.samples.reverse()) != before
    assert digest(lambda dataset: dataset.shuffle(1)) == digest(lambda dataset: dataset.shuffle(2))
    named = digest(lambda dataset: [setattr(sample, "id", number) for number, sample in enumerate(dataset)])
    assert digest(lambda dataset: [setattr(sample, "id", -number) for number, sample in enumerate(dataset)]) != named


def test_logs_are_written_at_most_two_hundred_times() -> None:
    assert [evaluation_logs.log_buffer(count) for count in (1, 12, 399, 1000, 5000)] == [1, 1, 1, 5, 25]


@pytest.fixture(scope="module")
def model(tiny_model: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")


def answers(model, rows: list[int], seeds: dict[int, int], **settings) -> dict[int, list[int]]:
    """The tokens that follow the prompts of `rows`, generated in one batch."""
    import torch

    prompts = [[5 + row, 17, *([42] * row)] for row in rows]
    length = max(map(len, prompts))
    padded = torch.tensor([[2] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    draw = seeded_sampling._seeded(SimpleNamespace(_generate=model.generate, _take=lambda tokens: seeds[tokens[0] - 5]))
    made = draw(input_ids=padded, attention_mask=mask, max_new_tokens=12, **settings)
    return {row: tokens.tolist() for row, tokens in zip(rows, made[:, length:])}


def test_an_answer_depends_on_its_seed_and_on_nothing_else_in_its_batch(model) -> None:
    seeds = {row: 100 + row for row in range(8)}
    together = answers(model, list(range(8)), seeds, do_sample=True, temperature=1.0)
    alone = {row: answers(model, [row], seeds, do_sample=True, temperature=1.0)[row] for row in reversed(range(8))}
    shortest = {row: min(len(alone[row]), len(together[row])) for row in range(8)}  # a batch goes on until all have ended
    assert {row: tokens[: shortest[row]] for row, tokens in together.items()} == {row: alone[row][: shortest[row]] for row in alone}
    other = answers(model, list(range(8)), {row: 200 + row for row in range(8)}, do_sample=True, temperature=1.0)
    assert all(other[row] != together[row] for row in range(8))


def test_tokens_are_drawn_as_often_as_the_model_says_after_temperature_and_top_k() -> None:
    import torch

    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(4000, 1)
    for warper in seeded_sampling._warpers(temperature=2.0, top_k=3, top_p=None):
        scores = warper(None, scores)
    drawn = seeded_sampling._RowSampler(range(4000))(None, scores).argmax(-1)
    found = torch.bincount(drawn, minlength=4) / 4000
    expected = torch.tensor([1.0, 0.5, 0.0]).softmax(-1)
    assert found[3] == 0 and (found[:3] - expected).abs().max() < 0.03  # four standard errors


def test_a_models_own_settings_do_not_change_greedy_answers_and_its_tokens_stay(model) -> None:
    from transformers import GenerationConfig

    plain = answers(model, [0, 1, 2], {0: 0, 1: 0, 2: 0}, do_sample=False)
    model.generation_config = GenerationConfig(eos_token_id=[2, 3], pad_token_id=2, repetition_penalty=5.0, top_k=3, do_sample=True)
    assert answers(model, [0, 1, 2], {0: 0, 1: 0, 2: 0}, do_sample=False) != plain  # else nothing was there to change
    given = seeded_sampling.own_settings_only(model)
    assert given == {"repetition_penalty": 5.0, "top_k": 3, "do_sample": True}
    assert model.generation_config.eos_token_id == [2, 3]
    model.generation_config.eos_token_id = 2
    assert answers(model, [0, 1, 2], {0: 0, 1: 0, 2: 0}, do_sample=False) == plain
