"""An adapter of the real SmolLM2-135M in its three forms: one model, to the same words and to a thousandth of a logit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cruijff_kit.evaluation_request import Request

EXAMPLE = Path(__file__).parents[1] / "examples" / "smollm2_capitalize"
ROWS = 16  # of training data: 12 steps in three epochs
FORMS: dict[str, dict[str, Any]] = {
    "merged": {"model_format": "hf"},
    "merged on the fly": {"model_format": "adapter"},
    "direct": {"model_format": "adapter", "merge_adapters": False},
}

Command = Callable[..., subprocess.CompletedProcess[str]]


def write(folder: Path, evaluation: dict[str, Any]) -> None:
    spec = yaml.safe_load((EXAMPLE / "experiment.yaml").read_text())
    spec["variables"] = {"lora_rank": [8]}
    spec["controls"] |= {"epochs": 3, "dtype": "fp32"}
    spec["evaluation"] |= {"baseline": False, "tasks": spec["evaluation"]["tasks"][:1], **evaluation}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory, cruijff: Command) -> dict[str, Request]:
    """What the evaluation script of each form asks for, of one run that was trained once and evaluated in each form."""
    folder = tmp_path_factory.mktemp("real") / EXAMPLE.name
    shutil.copytree(EXAMPLE, folder)
    rows = (folder / "data/train.jsonl").read_text().splitlines(keepends=True)[:ROWS]
    (folder / "data/train.jsonl").write_text("".join(rows))
    found = {}
    for form, evaluation in FORMS.items():
        write(folder, evaluation)
        assert cruijff("generate", "--force", folder).returncode == 0
        done = cruijff("run", folder, "stages=[train,eval]")
        assert done.returncode == 0, done.stderr
        script = folder / "configs" / f"eval {form}.py"
        shutil.copy(folder / "configs/eval_000.py", script)
        shutil.copy(folder / "eval_results/run_000/capitalize/results.json", script.with_suffix(".json"))
        found[form] = Request.in_script(script)
    return found


@pytest.fixture(scope="module")
def logits(requests: dict[str, Request]) -> Callable[[Any], Any]:
    """What a transformers model makes of the prompts of the test samples: shape [samples, tokens, vocabulary]."""
    import torch
    from transformers import AutoTokenizer

    request = requests["direct"]
    assert request.base_model
    tokenizer = AutoTokenizer.from_pretrained(request.base_model)
    words = [json.loads(line)["input"] for line in (request.folder / "evals/data/words.jsonl").read_text().splitlines()]
    texts = [tokenizer.apply_chat_template([{"role": "user", "content": word}], add_generation_prompt=True, tokenize=False) for word in words]
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    seen = inputs["attention_mask"].bool()

    def of(model: Any) -> Any:
        with torch.no_grad():
            return model(**inputs).logits[seen]

    return of


@contextlib.contextmanager
def loaded(request: Request) -> Iterator[Any]:
    """The transformers model of a request, loaded as its evaluation loads it."""
    from cruijff_kit.evaluated_model import Models

    with contextlib.chdir(request.folder), Models() as models:
        yield models.load(request).api.model


@pytest.fixture(scope="module")
def of_direct(requests: dict[str, Request], logits: Callable[[Any], Any]) -> Any:
    with loaded(requests["direct"]) as model:
        return logits(model)


def completions(request: Request) -> dict[str, str]:
    from inspect_ai.log import read_eval_log

    assert request.script
    results = json.loads(request.script.with_suffix(".json").read_text())
    samples = read_eval_log(str(request.folder / results["log"])).samples or []
    return {str(sample.input): sample.output.completion for sample in samples}


def test_all_three_give_the_same_completion_of_every_test_sample(requests: dict[str, Request]) -> None:
    said = {form: completions(request) for form, request in requests.items()}
    assert len(said["merged"]) == 40
    assert said["merged"] == said["merged on the fly"] == said["direct"]
    logs = {json.loads(request.script.with_suffix(".json").read_text())["log"] for request in requests.values() if request.script}
    assert len(logs) == 3  # else the same log was looked at three times


@pytest.mark.parametrize("form", ["merged", "merged on the fly"])
def test_their_logits_are_within_a_thousandth(form: str, requests: dict[str, Request], logits: Callable[[Any], Any], of_direct: Any) -> None:
    with loaded(requests[form]) as model:
        difference = (logits(model) - of_direct).abs().max().item()
    print(f"{form} against direct: {difference:.1e}")
    assert difference < 1e-3


def test_lora_applied_twice_is_far_from_that(requests: dict[str, Request], logits: Callable[[Any], Any], of_direct: Any) -> None:
    """What the two tests above would see: the adapter on the model that it is merged into already."""
    from cruijff_kit.lora import adapted

    with loaded(requests["merged"]) as model:
        twice = logits(adapted(model, requests["merged"].model))
    assert (twice - of_direct).abs().max().item() > 0.1


def test_a_trained_model_is_refused_as_the_base_of_its_own_adapter(requests: dict[str, Request]) -> None:
    """LoRA would be applied twice, by the evaluation script and by hand."""
    from cruijff_kit.errors import CruijffKitError
    from cruijff_kit.evaluation_request import check_model
    from cruijff_kit.hf_adapter import AdapterAPI

    direct = requests["direct"]
    twice = replace(direct, base_model=direct.model)
    with pytest.raises(CruijffKitError, match="the adapter was trained on other weights, those in .*, than base_model has"):
        check_model(twice)
    with pytest.raises(ValueError, match="holds an adapter of its own: LoRA would be applied twice"):
        AdapterAPI("twice", model_path=str(direct.model), adapter_path=str(direct.model))


def test_inspect_itself_evaluates_the_adapter_by_the_providers_name(requests: dict[str, Request]) -> None:
    request = requests["direct"]
    words = ["eval", "evals/capitalize.py@capitalize", "--model", "hf_adapter/by_hand", "--limit", "2", "--max-tokens", "8", "--display", "plain"]
    for argument in (f"model_path={request.base_model}", f"adapter_path={request.model}", "device=cpu", "dtype=float32", "do_sample=false"):
        words += ["-M", argument]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("inspect")), *words, "-M", "tokenizer_call_args={add_special_tokens: false}", "--log-dir", "by hand"],
        cwd=request.folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    from inspect_ai.log import list_eval_logs, read_eval_log

    (log,) = list_eval_logs(str(request.folder / "by hand"))
    samples = read_eval_log(log).samples or []
    expected = completions(request)
    assert [sample.output.completion for sample in samples] == [expected[str(sample.input)] for sample in samples]
    assert len(samples) == 2
