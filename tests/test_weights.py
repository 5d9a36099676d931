"""The model that is evaluated is the one that was trained: on logits, in fp32, after three epochs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_experiment import specification, write_experiment
from tests.tiny_llama import WORDS


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, cruijff: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """An experiment of one point, trained for three epochs on the CPU by `run`, and evaluated."""
    spec = specification(tiny_model)
    spec["variables"] = {"lora_rank": [4]}
    spec["controls"]["epochs"] = 3
    folder = write_experiment(tmp_path_factory.mktemp("weights") / "three epochs", tiny_model, spec)
    done = cruijff("run", folder)
    assert done.returncode == 0, done.stderr
    return folder


def logits(model) -> object:
    """Shape [words, tokens, vocabulary]."""
    import torch

    tokens = torch.tensor([[index % 300 + 5, 17, 42, 99] for index in range(len(WORDS))])
    with torch.no_grad():
        return model.eval()(tokens).logits


def largest_difference(left, right) -> float:
    return (logits(left) - logits(right)).abs().max().item()


def test_last_is_the_third_epoch_and_lora_is_applied_once(trained: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load(path: Path):
        return AutoModelForCausalLM.from_pretrained(path, dtype="float32")

    epoch = trained / "results/run_000/hf_model/epoch_2"
    evaluated = load(trained / ".cruijff-kit/models/run_000/epoch_2")
    adapted = PeftModel.from_pretrained(load(tiny_model), epoch)
    assert largest_difference(evaluated, adapted) < 1e-4
    base = load(tiny_model)
    assert largest_difference(evaluated, base) > 0.1  # else the test could not fail
    first = PeftModel.from_pretrained(load(tiny_model), epoch.with_name("epoch_0"))
    assert largest_difference(evaluated, first) > 0.01
    twice = PeftModel.from_pretrained(evaluated, epoch)
    assert largest_difference(twice, adapted) > 0.1


def test_the_evaluated_folder_holds_no_adapter_beside_the_merged_model(trained: Path) -> None:
    epoch = trained / "results/run_000/hf_model/epoch_2"
    assert {path.name for path in epoch.glob("adapter_*")} == {"adapter_config.json", "adapter_model.pt", "adapter_model.safetensors"}
    evaluated = {path.name for path in (trained / ".cruijff-kit/models/run_000/epoch_2").iterdir()}
    assert evaluated == {path.name for path in epoch.iterdir() if not path.name.startswith("adapter_")}


def test_the_header_names_the_recipe_that_does_not_corrupt_the_model(trained: Path) -> None:
    header = (trained / "configs/train_000.yaml").read_text().splitlines()[:4]
    assert header[2] == "#     tune run cruijff_kit/recipes/lora_finetune_single_device --config configs/train_000.yaml"
    assert header[3].startswith("# On a CPU lora_finetune_single_device merges LoRA into the weights")


def test_the_prompt_tokens_of_training_are_those_of_the_evaluation(trained: Path, tiny_model: Path) -> None:
    """Of the whole way: torchtune's dataset as the config builds it, against the input in Inspect's own log."""
    from inspect_ai.log import read_eval_log
    from omegaconf import OmegaConf
    from torchtune import config
    from transformers import AutoTokenizer

    values = OmegaConf.load(trained / "configs/train_000.yaml")
    row = config.instantiate(values.dataset, config.instantiate(values.tokenizer))[0]
    prompt = [token for token, label in zip(row["tokens"], row["labels"], strict=True) if label == -100]
    (path,) = (trained / "eval_results/run_000").rglob("*.eval")
    sample = next(sample for sample in read_eval_log(str(path)).samples if sample.input == f"Capitalize: {WORDS[0]}")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    messages = [message.model_dump(exclude_none=True) for message in sample.messages[:1]]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt == tokens
    assert sample.output.usage.input_tokens == len(tokens)
