from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cruijff_kit import __version__, run_mapping
from cruijff_kit.errors import ExperimentError
from cruijff_kit.paths import Layout
from cruijff_kit.run_mapping import Row, RunMapping
from cruijff_kit.sweep import Run

MAPPING = RunMapping(
    "tiny",
    "/path/to/experiment",
    "2025-10-22T10:00:00+00:00",
    (
        Row("run_000", {"lora_rank": 8}, "lora_finetune_single_device", "0123456789abcdef"),
        Row("run_001", {"lora_rank": 16}, "lora_finetune_single_device", "1e10"),
        Row(
            "run_002",
            {"optimizer.betas": [0.9, 0.99]},
            "cruijff_kit/recipes/lora_finetune_single_device",
            "fedcba9876543210",
            added=True,
            settings={"lora_rank": 8, "device": None},
            torchtune={"optimizer": {"betas": [0.9, 0.99]}},
        ),
    ),
    cluster="della",
)

TEXT = """\
# Which run has which parameters. Written by `cruijff-kit generate`.
# Runs marked `added` came from an override on the command line, and stay; those marked `retired` are no points of the
# sweep any more, and keep number and results.
experiment_name: tiny
experiment_dir: /path/to/experiment
generated_at: 2025-10-22T10:00:00+00:00
cluster: della
cruijff_kit: VERSION
keep_ids: false
total_runs: 3
runs:
- id: run_000
  params:
    lora_rank: 8
  recipe: lora_finetune_single_device
  identity: 0123456789abcdef
- id: run_001
  params:
    lora_rank: 16
  recipe: lora_finetune_single_device
  identity: '1e10'
- id: run_002
  params:
    optimizer.betas:
    - 0.9
    - 0.99
  recipe: cruijff_kit/recipes/lora_finetune_single_device
  identity: fedcba9876543210
  added: true
  settings:
    lora_rank: 8
    device: null
  torchtune:
    optimizer:
      betas:
      - 0.9
      - 0.99
""".replace("VERSION", __version__)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "configs").mkdir()
    return Layout(tmp_path, tmp_path / "configs", tmp_path / "results", tmp_path / "eval_results")


def test_the_whole_file():
    assert MAPPING.render() == TEXT


def test_a_mapping_is_read_back_as_it_was_written(layout):
    layout.run_mapping.write_text(MAPPING.render(), encoding="utf-8")
    assert run_mapping.read(layout) == MAPPING


def test_texts_that_look_like_something_else_are_read_back_as_texts(layout):
    odd = ["1e-5", "yes", "null", "2025-01-01", "0x1F", "", " a ", "a: b", "é😀", "${x}", "x\ny", "'\"\\"]
    rows = tuple(Row(f"run_{number:03d}", {"dataset": text, "k": [text], "d": {"k": text}}, text, text) for number, text in enumerate(odd))
    mapping = RunMapping("0123", "/odd é: '#'\n/${x}", "2025-10-22T10:00:00+00:00", rows)
    layout.run_mapping.write_text(mapping.render(), encoding="utf-8")
    assert run_mapping.read(layout) == mapping


def test_the_keys_are_those_that_the_contract_names():
    data = yaml.safe_load(MAPPING.render())
    assert {"experiment_name", "generated_at", "total_runs", "runs"} <= data.keys()
    assert all({"id", "params"} <= row.keys() for row in data["runs"])
    assert data["total_runs"] == len(data["runs"])


def test_a_row_of_a_run_holds_what_sets_it_apart():
    run = Run("run_007", {"lora_rank": 8}, {"lora_rank": 8, "epochs": 1}, "recipe", {"model": {}}, "digest")
    assert Row.of(run) == Row("run_007", {"lora_rank": 8}, "recipe", "digest")


def test_rows_are_found_by_id():
    assert MAPPING.row("run_001") is MAPPING.rows[1]
    assert MAPPING.row("run_009") is None


def test_retired_runs_and_kept_numbers_come_back_from_the_file(layout):
    rows = (*MAPPING.rows, Row("run_003", {"lora_rank": 4}, "recipe", "digest", retired=True))
    mapping = replace(MAPPING, rows=rows, keep_ids=True)
    layout.run_mapping.write_text(mapping.render())
    assert run_mapping.read(layout) == mapping


def test_without_a_file_there_is_no_mapping(layout):
    assert run_mapping.read(layout) is None
    layout.configs.rmdir()
    assert run_mapping.read(layout) is None


ROW = "runs:\n- {id: run_000, params: {}, recipe: a, identity: b"
HEAD = "experiment_name: a\nexperiment_dir: /b\ngenerated_at: c\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1\n",
        "text\n",
        "a: [1\n",
        "a: 1\na: 2\n",
        HEAD,
        f"{HEAD}runs: null\n",
        f"{HEAD}runs: 3\n",
        f"{HEAD}runs: [3]\n",
        f"{HEAD}runs: [{{}}]\n",
        f"{HEAD}{ROW}, unknown: 1}}\n",
        f"{ROW}}}\n",
    ],
)
def test_a_file_that_is_none_of_ours_is_a_fault(layout, text):
    layout.run_mapping.write_text(text)
    with pytest.raises(ExperimentError) as error:
        run_mapping.read(layout)
    first, *_, last = str(error.value).splitlines()
    assert (first, last) == ("configs/run_mapping.yaml", "  cruijff-kit generate --force writes it anew")


@pytest.mark.parametrize(("text", "reason"), {"": "'experiment_name'", HEAD: "'runs'"}.items())
def test_the_fault_says_what_is_missing(layout, text, reason):
    layout.run_mapping.write_text(text)
    with pytest.raises(ExperimentError) as error:
        run_mapping.read(layout)
    assert str(error.value) == (
        f"configs/run_mapping.yaml\n  cannot be read: {reason}\n  cruijff-kit generate --force writes it anew"
    )


def test_a_file_that_is_no_text_is_a_fault(layout):
    layout.run_mapping.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError):
        run_mapping.read(layout)
    layout.run_mapping.unlink()
    layout.run_mapping.mkdir()
    with pytest.raises(ExperimentError):
        run_mapping.read(layout)
