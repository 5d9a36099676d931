"""Which runs share the comparison of their prompts, and what makes another of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cruijff_kit import parity_key
from tests.tiny_llama import tiny_base_config, write_tiny_data

HUB = {"_component_": "torchtune.datasets.alpaca_cleaned_dataset"}


@pytest.fixture
def key(tmp_path, tiny_model, monkeypatch) -> Callable[..., str | None]:
    """The digest for the tiny config, with other values of its nodes."""
    data = write_tiny_data(tmp_path / "train.jsonl")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def digest(model_dir: Path = tiny_model, **nodes: Any) -> str | None:
        config = {**tiny_base_config(tiny_model), "output_dir": str(tmp_path / "results")}
        config["dataset"]["data_files"] = str(data)
        for name, values in nodes.items():
            config[name] = {**config[name], **values} if isinstance(values, dict) and "_component_" not in values else values
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
        return parity_key.digest(tmp_path / "train.yaml", model_dir, tmp_path / "hidden")

    return digest


def test_what_prompts_do_not_depend_on_changes_nothing(key):
    assert key() is not None
    assert key() == key(model={"lora_rank": 8}, output_dir="/elsewhere", epochs=3, optimizer={"lr": 1.0})


def test_each_part_of_the_data_counts(key, tmp_path):
    other = {**tiny_base_config(tmp_path)["dataset"], "data_files": str(write_tiny_data(tmp_path / "other.jsonl"))}
    keys = [key(), key(dataset={"train_on_input": True}), key(dataset={"split": "train[:5]"}), key(dataset=[other]), key(dataset=[other, other])]
    (tmp_path / "other.jsonl").write_text('{"input": "a", "output": "b"}\n')
    keys.append(key(dataset=[other]))
    assert len(set(keys)) == 6 and None not in keys


def test_the_answer_is_of_no_use_where_not_all_that_it_depends_on_is_known(key, tmp_path):
    component = tiny_base_config(tmp_path)["dataset"]["_component_"]
    for nodes in (
        {"tokenizer": {"_component_": "mine.tokenizer"}},
        {"tokenizer": {"prompt_template": "mine.TEMPLATE"}},
        {"dataset": {"_component_": "mine.dataset", "source": "json", "data_files": "train.jsonl"}},
        {"dataset": {"data_files": "https://example.org/train.jsonl"}},
        {"dataset": {"_component_": component, "source": "json", "data_dir": str(tmp_path)}},
        {"dataset": {"_component_": component, "source": str(tmp_path)}},
        {"dataset": None},
        {"dataset": ["none"]},
        {"model_dir": tmp_path / "nowhere"},
    ):
        assert key(**nodes) is None, nodes


def test_data_of_the_hub_counts_as_what_was_fetched_of_it(key, tmp_path, monkeypatch):
    before = key(dataset=HUB)
    assert before is not None
    (tmp_path / "cache/json/default-1/0.0.0/0123abc").mkdir(parents=True)  # of local files
    assert key(dataset=HUB) == before
    local = key()
    (tmp_path / "cache/yahma___alpaca-cleaned/default/0.0.0/0123abc").mkdir(parents=True)
    assert key(dataset=HUB) != before
    assert key() == local
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert key(dataset=HUB) is None
    assert key() == local
