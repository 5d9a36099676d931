from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from cruijff_kit import checkpoint, yaml_text
from cruijff_kit.checkpoint import CONFIG_COPY, INDEX, differences, digest, fault, model_files, shards, stamp, without_adapter
from cruijff_kit.experiment import load
from tests.tiny_experiment import load_composer, specification, write_experiment

ONE = "model.safetensors"
TWO = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def tensors(value: float = 1.0) -> dict[str, numpy.ndarray]:
    return {"a": numpy.full((3, 5), value, dtype=numpy.float32), "b": numpy.zeros(7, dtype=numpy.float16)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model in one file."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    save_file(tensors(), folder / ONE)
    return folder


@pytest.fixture
def sharded(model: Path) -> Path:
    """A model in two files and an index."""
    (model / ONE).unlink()
    for name in TWO:
        save_file(tensors(), model / name, metadata={"format": "pt"})
    write_index(model, {"weight_map": {"x.a": TWO[0], "x.b": TWO[0], "y.a": TWO[1]}})
    return model


def write_index(folder: Path, index: Any) -> None:
    (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))


def write_shard(path: Path, header: Any, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# Whole or not


def test_a_model_in_one_file_is_whole(model):
    assert fault(model) is None
    assert shards(model) == [ONE]


def test_a_model_in_several_files_is_whole(sharded):
    assert fault(sharded) is None
    assert shards(sharded) == list(TWO)


def test_a_file_that_the_index_does_not_name_does_not_count(sharded):
    (sharded / ONE).write_bytes(b"cut off")
    assert fault(sharded) is None


def test_an_empty_tensor_and_no_tensor_are_whole(model):
    save_file({"a": numpy.zeros((0, 3), dtype=numpy.float32)}, model / ONE)
    assert fault(model) is None
    save_file({}, model / ONE)
    assert fault(model) is None


def test_what_is_not_there(model):
    assert fault(model / "nowhere") == "there is no such folder"
    assert fault(model / ONE) == "there is no such folder"
    (model / ONE).unlink()
    assert fault(model) == "there is no safetensors file"
    (model / "config.json").unlink()
    assert fault(model) == "config.json is missing"


def test_adapters_alone_are_no_model(model):
    (model / ONE).rename(model / "adapter_model.safetensors")
    assert fault(model) == "there is no safetensors file"


def test_a_shard_that_is_missing(sharded):
    (sharded / TWO[1]).unlink()
    assert fault(sharded) == f"{TWO[1]} is missing"


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100])
def test_a_shard_that_was_cut_off_in_its_header(sharded, kept):
    (sharded / TWO[1]).write_bytes((sharded / TWO[1]).read_bytes()[:kept])
    assert fault(sharded) == f"{TWO[1]} is no safetensors file, or was cut off"


def test_a_shard_that_was_cut_off_in_its_weights_or_has_too_much(model):
    whole = (model / ONE).read_bytes()
    (model / ONE).write_bytes(whole[:-1])
    assert fault(model) == f"{ONE} has {len(whole) - 1:,} bytes and should have {len(whole):,}"
    (model / ONE).write_bytes(whole + b"\0")
    assert fault(model) == f"{ONE} has {len(whole) + 1:,} bytes and should have {len(whole):,}"


def test_a_link_to_nothing_is_missing(model):
    (model / ONE).unlink()
    (model / ONE).symlink_to("/nowhere")
    assert fault(model) == f"{ONE} is missing"


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"\0" * 1000,
        b"\xff" * 1000,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 3) + b"nul",
    ],
)
def test_a_file_of_another_kind(model, content):
    (model / ONE).write_bytes(content)
    assert fault(model) == f"{ONE} is no safetensors file, or was cut off"


@pytest.mark.parametrize(
    "header", [[], None, 3, "x", {"a": 3}, {"a": {}}, {"a": {"data_offsets": []}}, {"a": {"data_offsets": [0, "x"]}}, b"{", b"\xff"], ids=str
)
def test_a_header_of_another_form(model, header):
    write_shard(model / ONE, header)
    assert fault(model) == f"{ONE} is no safetensors file, or was cut off"


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        {},
        {"weight_map": None},
        {"weight_map": [TWO[0]]},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": None}},
        {"weight_map": {"a": [TWO[0]]}},
        {"weight_map": {"a": TWO[0], "b": 3}},
    ],
    ids=str,
)
def test_an_index_of_another_form(sharded, index):
    write_index(sharded, index)
    assert str(fault(sharded)).startswith(f"{INDEX} cannot be read: ")


def test_an_index_of_nothing(sharded):
    write_index(sharded, {"weight_map": {}})
    assert fault(sharded) == "there is no safetensors file"


# Trained with which config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment with one config, and the results of a training with it."""
    folder = write_experiment(tmp_path / "experiment", "/models/tiny")
    trained(folder, config(folder))
    return folder


def config(folder: Path, **changes: Any) -> Path:
    """Writes the config of run_000, with settings of another value."""
    experiment = load(folder)
    run = load_composer(experiment).run("run_000", {}, {**experiment.controls, "lora_rank": 8, **changes})
    path = folder / "configs/train_000.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml_text.dump_yaml(run.config))
    return path


def trained(folder: Path, config: Path) -> None:
    """Leaves torchtune's copy of `config` in the results of run_000, as a training does."""
    (folder / "results/run_000").mkdir(parents=True, exist_ok=True)
    shutil.copy(config, folder / "results/run_000" / CONFIG_COPY)


def found(folder: Path) -> Mapping[str, Any] | str:
    return differences(folder / "configs/train_000.yaml", folder / "results/run_000", folder)


def test_a_run_that_was_trained_with_its_config_differs_in_nothing(folder):
    assert found(folder) == {}


def test_another_value_is_named_with_what_it_was(folder):
    config(folder, learning_rate=0.5, seed=7)
    assert found(folder) == {"optimizer.lr": 0.01, "seed": 1}


def test_a_seed_that_was_given_on_the_command_line_is_named(folder):
    copy = folder / "results/run_000" / CONFIG_COPY
    copy.write_text(copy.read_text().replace("\nseed: 1\n", "\nseed: 7\n"))
    assert found(folder) == {"seed": 7}


def test_a_key_that_one_of_them_has_not_is_named(folder):
    path = folder / "configs/train_000.yaml"
    path.write_text(path.read_text() + "new:\n  key: 1\n  none: null\n")
    assert found(folder) == {"new.key": None}
    trained(folder, path)
    config(folder)
    assert found(folder) == {"new.key": 1}


def test_a_folder_that_was_moved_differs_in_nothing(folder):
    moved = folder.with_name("moved ${x}")
    folder.rename(moved)
    assert isinstance(found(moved), dict)
    config(moved)
    assert found(moved) == {}


def test_a_folder_that_was_moved_with_its_model_differs_in_nothing(tmp_path):
    """The weights may lie in the experiment's folder too."""
    folder = write_experiment(tmp_path / "experiment", "model", specification("model"))
    trained(folder, config(folder))
    folder.rename(tmp_path / "moved")
    config(tmp_path / "moved")
    assert found(tmp_path / "moved") == {}


def test_a_model_that_was_moved_differs_in_nothing(folder):
    path = folder / "experiment.yaml"
    for place in ("/elsewhere/tiny", "~/tiny", "model", str(folder / "model")):
        text = path.read_text()
        path.write_text(text.replace("model_dir: /models/tiny", f"model_dir: {place}"))
        config(folder)
        path.write_text(text)
        assert found(folder) == {}


def test_other_data_differ_though_the_folder_was_moved(folder):
    folder.rename(moved := folder.with_name("moved"))
    (moved / "data/other.jsonl").touch()
    config(moved, dataset="data/other.jsonl")
    assert found(moved) == {"dataset.data_files": "./data/train.jsonl"}


def test_where_the_results_lie_differs_in_nothing(folder):
    copy = folder / "results/run_000" / CONFIG_COPY
    copy.write_text(copy.read_text().replace(f"output_dir: {folder}/results/run_000\n", "output_dir: /scratch/run_000\n"))
    assert found(folder) == {}


@pytest.mark.parametrize("text", ["", "a: [1\n", "- 1\n", "text\n", "output_dir: 3\n", "output_dir: null\n"])
def test_a_copy_that_was_cut_off_is_no_match(folder, text):
    (folder / "results/run_000" / CONFIG_COPY).write_text(text)
    assert found(folder)


def test_a_copy_that_is_not_there_or_not_readable_is_said(folder):
    copy = folder / "results/run_000" / CONFIG_COPY
    copy.write_text("- 1\n")
    assert found(folder) == f"{CONFIG_COPY} cannot be read: a config is a mapping of keys to values, this is a list"
    copy.unlink()
    assert found(folder) == f"{CONFIG_COPY}, torchtune's copy of its config, is missing"


# What the model is


def test_the_digest_is_of_the_names_and_contents_of_the_models_files(model):
    before = digest(model)
    assert digest(model) == before
    save_file(tensors(1.0000001), model / ONE)
    assert digest(model) != before
    save_file(tensors(), model / ONE)
    assert digest(model) == before
    (model / "tokenizer.json").write_text("{ }")
    assert digest(model) != before
    (model / "tokenizer.json").rename(model / "tokenizer_config.json")
    assert digest(model) != before


def test_the_digest_says_nothing_of_adapters_hidden_files_folders_times_or_place(model, tmp_path):
    before = digest(model)
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.pt", ".gitattributes"):
        (model / name).write_text("x")
    (model / "recipe_state").mkdir()
    (model / "recipe_state/x.pt").touch()
    os.utime(model / ONE, (0, 0))
    model.rename(tmp_path / "moved")
    assert digest(tmp_path / "moved") == before


def test_the_digest_of_links_is_that_of_the_files(model, tmp_path):
    (tmp_path / "links").mkdir()
    for path in model.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert digest(tmp_path / "links") == digest(model)


def test_the_stamp_changes_with_the_weights_and_not_with_other_files(sharded):
    before = stamp(sharded)
    assert list(before) == list(TWO)
    (sharded / "adapter_config.json").touch()
    (sharded / "config.json").write_text("{ }")
    assert stamp(sharded) == before
    os.utime(sharded / TWO[0], ns=(1, 1))
    assert stamp(sharded) == {**before, TWO[0]: [before[TWO[0]][0], 1]}
    assert json.loads(json.dumps(before)) == before


# The view without adapters


def seen(view: Path) -> dict[str, str]:
    """Where the files in the view really are."""
    return {path.name: str(path.resolve()) for path in view.iterdir()}


@pytest.fixture
def adapted(model: Path) -> Path:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (model / name).write_text("x")
    return model


def test_the_view_has_the_models_files_and_no_adapter(adapted, tmp_path):
    view = tmp_path / "deep/er/view"
    without_adapter(adapted, view)
    assert seen(view) == {path.name: str(path) for path in model_files(adapted)}
    assert "adapter_config.json" not in seen(view)
    assert digest(view) == digest(adapted)
    assert fault(view) is None


def test_the_view_of_a_model_without_adapters_is_the_model(model, tmp_path):
    view = tmp_path / "view"
    without_adapter(model, view)
    assert view.resolve() == model


def test_the_view_can_be_made_again(adapted, tmp_path):
    view = tmp_path / "view"
    for _ in range(2):
        without_adapter(adapted, view)
    (adapted / "new.json").touch()
    (adapted / "tokenizer.json").unlink()
    (view / "stale").symlink_to("/nowhere")
    without_adapter(adapted, view)
    assert seen(view) == {name: str(adapted / name) for name in ("config.json", ONE, "new.json")}


def test_the_view_follows_a_model_that_is_elsewhere_now(adapted, tmp_path):
    view = tmp_path / "view"
    without_adapter(adapted, view)
    adapted.rename(tmp_path / "moved")
    without_adapter(tmp_path / "moved", view)
    assert set(seen(view).values()) == {str(path) for path in model_files(tmp_path / "moved")}


def test_the_view_follows_a_model_that_lost_or_got_its_adapters(adapted, tmp_path):
    view = tmp_path / "view"
    without_adapter(adapted, view)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapted / name).unlink()
    without_adapter(adapted, view)
    assert seen(view) == {path.name: str(path) for path in model_files(adapted)}
    (adapted / "adapter_config.json").touch()
    without_adapter(adapted, view)
    assert seen(view) == {path.name: str(path) for path in model_files(adapted)}


def test_the_model_itself_is_left_alone(adapted, tmp_path):
    before = sorted(path.name for path in adapted.iterdir())
    without_adapter(adapted, tmp_path / "view")
    for path in (tmp_path / "view").iterdir():
        path.unlink()
    assert sorted(path.name for path in adapted.iterdir()) == before
    assert checkpoint.fault(adapted) is None
