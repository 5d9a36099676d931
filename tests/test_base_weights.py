"""Whether two folders hold the same model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cruijff_kit.base_weights import are_same


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in fp32, in another's shards, in bf16, with one tensor changed, with one more, and in a format that is not read."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = {"a": torch.randn(8, 8).bfloat16().float(), "b": torch.randn(8).bfloat16().float()}

    def save(name: str, **tensors: torch.Tensor) -> None:
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors")

    save("fp32", **model)
    save("bf16", **{name: tensor.bfloat16() for name, tensor in model.items()})
    save("changed", a=model["a"], b=model["b"] + 1)
    save("changed in bf16", a=model["a"].bfloat16(), b=(model["b"] + 1).bfloat16())
    save("more", **model, c=model["b"].clone())
    (folder / "shards").mkdir()
    for name, tensor in model.items():
        save_file({name: tensor}, folder / "shards" / f"model-{name}.safetensors")
    (folder / "bin").mkdir()
    (folder / "bin" / "pytorch_model.bin").touch()
    shutil.copytree(folder / "fp32", folder / "copy")
    return folder


@pytest.mark.parametrize(
    ("other", "expected"),
    {"fp32": True, "copy": True, "shards": True, "bf16": True, "changed": False, "changed in bf16": False, "more": None, "bin": None, "gone": None}.items(),
)
def test_the_same_weights(saved: Path, other: str, expected: bool | None) -> None:
    assert are_same(saved / "fp32", saved / other) is expected
    assert are_same(saved / other, saved / "fp32") is expected
