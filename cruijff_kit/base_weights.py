"""Whether two folders hold the same model, in whatever shards and dtypes: an adapter belongs on the weights that it was trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cruijff_kit import checkpoint

BITS = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16}


@dataclass(frozen=True)
class _Tensor:
    """A tensor in a safetensors file; `offset` and `length` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    length: int


def are_same(one: Path, other: Path) -> bool | None:
    """Whether the models have the same weights, a copy in a smaller dtype included.

    None if that cannot be told: of a folder that is gone or in another format, of tensors that only one of them has, and of
    integers. Every byte of both is read, once by a process.
    """
    if one.resolve() == other.resolve():
        return True
    try:
        left, right = _tensors(one), _tensors(other)
        known = [_are_equal(left[name], right[name]) for name in left if name in right]
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
    if False in known:
        return False
    return True if known and None not in known and len(known) == len(left) == len(right) else None


def _tensors(folder: Path) -> dict[str, _Tensor]:
    found = {}
    for file in checkpoint.shards(folder):
        tensors, start = checkpoint.header(folder / file)
        for name, tensor in tensors.items():
            begin, end = tensor["data_offsets"]
            found[name] = _Tensor(name, tensor["dtype"], tuple(tensor["shape"]), folder / file, start + begin, end - begin)
    return found


def _are_equal(one: _Tensor, other: _Tensor) -> bool | None:
    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype:
        return _content(one) == _content(other)
    if one.dtype not in BITS or other.dtype not in BITS:
        return None
    return _are_equal_rounded(*sorted((one, other), key=lambda tensor: BITS[tensor.dtype]))


@cache
def _content(tensor: _Tensor) -> str:
    digest = hashlib.sha256()
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        left = tensor.length
        while left > 0 and (block := file.read(min(left, 2**24))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


@cache
def _are_equal_rounded(small: _Tensor, large: _Tensor) -> bool:
    """Whether `large`, rounded to the dtype of `small`, is that."""
    from safetensors import safe_open

    with safe_open(small.file, framework="pt") as one, safe_open(large.file, framework="pt") as other:
        tensor = one.get_tensor(small.name)
        return bool((other.get_tensor(large.name).to(tensor.dtype) == tensor).all())
