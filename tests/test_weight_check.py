"""Whether the headers of weight files fit the model, for good files and bad ones, of each family."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from cruijff_kit import torchtune_catalog, weight_check
from cruijff_kit.training_checks import Fault
from tests.conftest import REPOSITORY
from tests.deep_configs import built, named, tiny, tiny_full
from tests.tiny_llama import tiny_base_config


def weights(made: dict[str, Any], folder: Path) -> weight_check.Weights:
    return weight_check.check(made, built(made, "some.recipe"), folder)


@pytest.mark.parametrize("made", [tiny, tiny_full])
def test_the_weights_of_the_tiny_model_match(tiny_model, made):
    assert weights(made(tiny_model), tiny_model) == weight_check.Weights("match")


def test_the_weights_of_smollm2_match():
    folder = Path.home() / ".cache/cruijff-kit/SmolLM2-135M-Instruct"
    if not folder.exists():
        pytest.skip("examples/smollm2_capitalize/get_model.py was not run")
    base = torchtune_catalog.read_config(REPOSITORY / "examples/smollm2_capitalize/base.yaml")
    assert weights(base, folder) == weight_check.Weights("match")


def hint(folder: Path) -> str:
    return (
        f"{folder}/config.json has vocab_size 384, num_hidden_layers 2, hidden_size 64, num_attention_heads 4, "
        "num_key_value_heads 2, intermediate_size 128, tie_word_embeddings True"
    )


def test_another_vocabulary_differs_in_shape(tiny_model):
    found = weights(tiny(tiny_model, vocab_size=400), tiny_model)
    what = (
        f"1 weight of the weight files in {tiny_model} differ in shape: "
        "tok_embeddings.weight is [384, 64] in the files and [400, 64] in the model"
    )
    assert found == weight_check.Weights("differ", (Fault("model", what, hint(tiny_model)),))


def test_the_first_of_many_shapes_are_shown(tiny_model):
    [fault] = weights(tiny(tiny_model, intermediate_dim=256), tiny_model).faults
    assert fault.what == (
        f"6 weights of the weight files in {tiny_model} differ in shape: "
        "layers.0.mlp.w1.weight is [128, 64] in the files and [256, 64] in the model, "
        "layers.0.mlp.w2.weight is [64, 128] in the files and [64, 256] in the model, "
        "layers.0.mlp.w3.weight is [128, 64] in the files and [256, 64] in the model and 3 more"
    )


def test_more_layers_than_the_files_have_are_lacking_there(tiny_model):
    [fault] = weights(tiny(tiny_model, num_layers=3), tiny_model).faults
    assert fault.what == (
        f"the model has 9 weights that the weight files in {tiny_model} lack: "
        "layers.2.attn.q_proj.weight, layers.2.attn.k_proj.weight, layers.2.attn.v_proj.weight and 6 more"
    )


def test_fewer_layers_than_the_files_have_leave_some_over(tiny_model):
    [fault] = weights(tiny(tiny_model, num_layers=1), tiny_model).faults
    assert fault.what.startswith(f"the weight files in {tiny_model} hold 9 weights that the model lacks: layers.1.")


def test_an_output_that_is_not_tied_is_lacking_in_the_files_of_a_model_whose_is(tiny_model):
    untied = tiny_full(tiny_model, _component_="torchtune.models.llama3.llama3", scale_factor=None, tie_word_embeddings=None)
    [fault] = weights(untied, tiny_model).faults
    assert fault.what == f"the model has 1 weight that the weight files in {tiny_model} lack: output.weight"


def copy(model: Path, folder: Path, tensors: dict[str, Any] | None = None) -> Path:
    """The tiny model with other tensors."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    (folder / "config.json").write_text((model / "config.json").read_text())
    save_file(tensors if tensors is not None else load_file(model / "model.safetensors"), folder / "model.safetensors")
    return folder


def test_a_tensor_that_was_deleted_is_lacking(tiny_model, tmp_path):
    from safetensors.torch import load_file

    tensors = load_file(tiny_model / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    folder = copy(tiny_model, tmp_path / "model", tensors)
    [fault] = weights(tiny(folder), folder).faults
    assert fault.what == f"the model has 1 weight that the weight files in {folder} lack: layers.1.mlp.w2.weight"


def test_a_tensor_of_another_family_is_what_torchtune_says_of_it(tiny_model, tmp_path):
    from safetensors.torch import load_file

    tensors = load_file(tiny_model / "model.safetensors")
    tensors["model.layers.0.self_attn.q_norm.weight"] = tensors["model.norm.weight"].clone()
    folder = copy(tiny_model, tmp_path / "model", tensors)
    [fault] = weights(tiny(folder), folder).faults
    assert fault == Fault(
        "checkpointer.model_type",
        f"torchtune cannot read the weight files in {folder} as LLAMA3_2: Error converting the state dict. Found unexpected key: "
        '"model.layers.0.self_attn.q_norm.weight". Please make sure you\'re loading a checkpoint with the right format.',
        "model_type names the family of the model: LLAMA3, LLAMA3_2, QWEN2, …",
    )


def test_a_model_type_that_torchtune_does_not_know_is_a_fault(tiny_model):
    made = tiny(tiny_model)
    made["checkpointer"]["model_type"] = "LLAMA9"
    [fault] = weights(made, tiny_model).faults
    assert fault == Fault("checkpointer.model_type", "torchtune knows no model_type 'LLAMA9'", "did you mean 'LLAMA2'?")


def test_a_config_json_without_a_size_is_a_fault_that_names_it(tiny_model, tmp_path):
    folder = copy(tiny_model, tmp_path / "model")
    sizes = json.loads((folder / "config.json").read_text())
    del sizes["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(sizes))
    [fault] = weights(tiny(folder), folder).faults
    assert fault.what == f"torchtune cannot read the weight files in {folder} as LLAMA3_2: config.json has no 'num_attention_heads'"


@pytest.mark.parametrize("text", ["", "[1]", "\udcff"])
def test_a_config_json_that_is_none_is_a_fault(tiny_model, tmp_path, text):
    folder = copy(tiny_model, tmp_path / "model")
    (folder / "config.json").write_text(text, errors="surrogateescape")
    what = f"{folder}/config.json is no JSON of a model's sizes"
    assert weights(tiny(folder), folder).faults == (Fault("model_dir", what, "download the model anew"),)


def test_a_header_without_shapes_is_a_fault(tiny_model, tmp_path):
    folder = copy(tiny_model, tmp_path / "model")
    header = json.dumps({"model.norm.weight": {"dtype": "F32"}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    [fault] = weights(tiny(folder), folder).faults
    assert fault.what.endswith(": the header of model.safetensors does not give a shape for each tensor")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64, struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", 2) + b"[]"])
def test_a_file_that_is_no_safetensors_file_is_a_fault(tiny_model, tmp_path, content):
    folder = copy(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    [fault] = weights(tiny(folder), folder).faults
    assert fault.what == (
        f"torchtune cannot read the weight files in {folder} as LLAMA3_2: model.safetensors is no safetensors file, or was cut off"
    )


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"checkpoint_files": ["a.safetensors", "model.safetensors"]}, "not checked: {folder} lacks a.safetensors"),
        ({"checkpoint_files": None}, "not checked: checkpointer.checkpoint_files names none"),
        ({"checkpoint_files": ["tokenizer.json"]}, "not checked: tokenizer.json is no safetensors file"),
        (
            {"_component_": "torchtune.training.FullModelMetaCheckpointer"},
            "not checked: torchtune.training.FullModelMetaCheckpointer reads no Hugging Face files",
        ),
    ],
)
def test_weights_that_cannot_be_looked_at_are_said_to_be_so(tiny_model, change, state):
    made = tiny(tiny_model)
    made["checkpointer"].update(change)
    assert weights(made, tiny_model) == weight_check.Weights(state.format(folder=tiny_model))


def test_weights_that_are_not_there_are_no_fault(tmp_path):
    made = named("llama3_1/8B_lora_single_device")
    state = f"not checked: {tmp_path} lacks config.json, model-00001-of-00004.safetensors, model-00002-of-00004.safetensors and 2 more"
    assert weight_check.check(made, built(made), tmp_path) == weight_check.Weights(state)


HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "head_dim": 16, "vocab_size": 384, "tie_word_embeddings": True}
SIZES = {"vocab_size": 384, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 128, "max_seq_len": 64}


@pytest.mark.parametrize(
    ("component", "model_type", "arguments"),
    [
        ("llama2.llama2", "LLAMA2", {"intermediate_dim": None}),
        ("llama3.llama3", "LLAMA3", {}),
        ("llama3_1.llama3_1", "LLAMA3", {}),
        ("mistral.mistral", "MISTRAL", {}),
        ("qwen2.qwen2", "QWEN2", {"tie_word_embeddings": True}),
        ("gemma.gemma", "GEMMA", {"head_dim": 16}),
        ("gemma2.gemma2", "GEMMA2", {"head_dim": 16, "hidden_capping_value": 50.0, "final_capping_value": 30.0, "sliding_window_size": 32}),
        ("phi3.phi3", "PHI3_MINI", {}),
    ],
)
def test_each_family_matches_the_files_that_torchtune_writes_of_it(component, model_type, arguments, tmp_path):
    import torch
    from omegaconf import OmegaConf
    from safetensors.torch import save_file
    from torchtune.config import instantiate

    model = {"_component_": f"torchtune.models.{component}", **SIZES, **arguments}
    model = {name: value for name, value in model.items() if value is not None}
    real = instantiate(OmegaConf.create(model))
    made = {"model": model, "dtype": "fp32", "checkpointer": {**tiny_base_config(tmp_path)["checkpointer"], "model_type": model_type}}
    held = to_hugging_face(real.state_dict(), model_type)
    save_file({name: torch.clone(tensor) for name, tensor in held.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    assert weights(made, tmp_path) == weight_check.Weights("match")


def to_hugging_face(state: dict[str, Any], model_type: str) -> dict[str, Any]:
    from torchtune.models import convert_weights
    from torchtune.models.gemma2._convert_weights import gemma2_tune_to_hf
    from torchtune.models.phi3._convert_weights import phi3_tune_to_hf
    from torchtune.models.qwen2._convert_weights import qwen2_tune_to_hf

    heads = {"num_heads": 4, "num_kv_heads": 2, "dim": 64}
    if model_type == "PHI3_MINI":
        return phi3_tune_to_hf(state)
    if model_type == "QWEN2":
        return qwen2_tune_to_hf(state, **heads, tie_word_embeddings=True)
    if model_type == "GEMMA2":
        return gemma2_tune_to_hf(state, **heads, head_dim=16)
    return convert_weights.tune_to_hf(state, **heads, head_dim=16)


def test_the_weights_of_an_8b_model_are_matched_without_reading_them(tmp_path):
    """The files are holes of 16 GB in all: no disk holds them, and reading them would take their memory."""
    import torch
    from torchtune.models import convert_weights

    made = named("llama3_1/8B_lora_single_device")
    model = built(made)
    state = {name: torch.empty(shape, device="meta", dtype=torch.bfloat16) for name, shape in model.shapes.items()}
    held = list(convert_weights.tune_to_hf(state, num_heads=32, num_kv_heads=8, dim=4096).items())
    for number in range(4):
        write_hole(tmp_path / f"model-0000{number + 1}-of-00004.safetensors", dict(held[number::4]))
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}))
    started = time.monotonic()
    assert weight_check.check(made, model, tmp_path) == weight_check.Weights("match")
    assert time.monotonic() - started < 5


def write_hole(path: Path, tensors: dict[str, Any]) -> None:
    """A safetensors file whose data takes no disk."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
