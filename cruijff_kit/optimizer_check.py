"""Optimizer, learning-rate schedule and loss of a config, made as the recipes make them, and the size of the optimizer's state.

They get parameters of the model's shapes that share one number: no weight is in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from cruijff_kit.errors import Fault
from cruijff_kit.model_check import Model, Shape, meta_device, part, size, torch_dtype
from cruijff_kit.visible_text import message

if TYPE_CHECKING:
    import torch

STEPS = 1000  # of the schedule: it must be made, and how long it is decides nothing


@dataclass(frozen=True)
class Optimizer:
    """What came of a config's optimizer, schedule and loss.

    Args:
        name: of the optimizer's class.
        state_bytes: of its state once it took a step.
        counted: whether that was counted from a step; otherwise it is taken from the class's name.
        in_backward: each weight is stepped as its gradient comes, which is then freed.
    """

    name: str
    state_bytes: int
    counted: bool
    in_backward: bool
    faults: tuple[Fault, ...] = ()


def check(config: Mapping[str, Any], model: Model) -> Optimizer:
    """The optimizer that trains `model`, and what torchtune rejects of it, the schedule and the loss."""
    shapes = tuple(sorted(model.trainable.items()))
    return _check(part(config, "optimizer", "lr_scheduler", "loss", "optimizer_in_bwd"), shapes, model.dtype)


@cache
def _check(text: str, shapes: tuple[tuple[Shape, int], ...], dtype: str) -> Optimizer:
    nodes = json.loads(text)
    faults = list(_made(nodes, [shape for shape, _ in shapes], dtype))
    name = str((nodes["optimizer"] or {}).get("_component_", "")).rpartition(".")[2]
    counted = None if faults else _state_bytes(nodes["optimizer"], shapes, dtype)
    known = counted if counted is not None else by_name(name, shapes, dtype)
    return Optimizer(name, known, counted is not None, bool(nodes["optimizer_in_bwd"]), tuple(faults))


def _made(nodes: Mapping[str, Any], shapes: list[Shape], dtype: str) -> Iterator[Fault]:
    """What is rejected when optimizer, schedule and loss are made."""
    try:
        made = _instantiate(nodes["optimizer"], _parameters(shapes, dtype))
    except Exception as error:  # a component raises what it likes at arguments that do not fit
        yield _rejected("optimizer", nodes["optimizer"], error)
        made = None
    if made is not None and nodes["lr_scheduler"] is not None:
        try:
            _instantiate(nodes["lr_scheduler"], made, num_training_steps=STEPS, last_epoch=-1)
        except Exception as error:
            yield _rejected("lr_scheduler", nodes["lr_scheduler"], error)
    try:
        _instantiate(nodes["loss"])
    except Exception as error:
        yield _rejected("loss", nodes["loss"], error)


def _instantiate(node: Any, *positional: Any, **given: Any) -> Any:
    from omegaconf import OmegaConf
    from torchtune.config import instantiate

    return instantiate(OmegaConf.create(node), *positional, **given)


def _parameters(shapes: list[Shape], dtype: str) -> list[torch.nn.Parameter]:
    """One parameter of each shape on the CPU: on the meta device `fused` is refused. All of its numbers are one number."""
    import torch

    return [torch.nn.Parameter(torch.zeros((), dtype=torch_dtype(dtype)).expand(shape)) for shape in shapes]


def _rejected(name: str, node: Any, error: Exception) -> Fault:
    """An argument that the message names is where the fault is."""
    arguments = node if isinstance(node, dict) else {}
    named = [word for word in re.findall(r"\w+", str(error)) if word in arguments]
    component = arguments.get("_component_", name)
    here = "" if isinstance(error, (TypeError, ValueError, ImportError)) else " (on this machine)"
    return Fault(f"{name}.{named[0]}" if named else name, f"{component} cannot be made{here}: {message(error)}")


def _state_bytes(node: Mapping[str, Any], shapes: tuple[tuple[Shape, int], ...], dtype: str) -> int | None:
    """What a torch optimizer keeps after a step on the meta device; None where none can be taken there."""
    import torch

    if not node["_component_"].startswith("torch.optim."):
        return None  # bitsandbytes has no meta kernels, and torchao compiles for half a minute
    total = 0
    for shape, count in shapes:
        with meta_device(dtype):
            weight = torch.nn.Parameter(torch.empty(shape))
            weight.grad = torch.empty(shape)
        try:
            optimizer = _instantiate({**node, "fused": False} if "fused" in node else node, [weight])
            optimizer.step()
        except (RuntimeError, TypeError, ValueError):  # Adafactor reads a number of its state
            return None
        kept = [value for state in optimizer.state.values() for value in state.values()]
        total += count * sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))
    return total


def by_name(name: str, shapes: tuple[tuple[Shape, int], ...], dtype: str) -> int:
    """Bytes of two moments a parameter, in the number of bits that the class's name gives, else in the training's dtype.

    Adam keeps two (https://arxiv.org/abs/1412.6980); with 8 bits one byte each, and a float a block of 256 (bitsandbytes)
    or less (https://arxiv.org/abs/2110.02861).
    """
    parameters = sum(size(shape) * count for shape, count in shapes)
    bits = re.search(r"(4|8)[Bb]it", name)
    moments = 1 if re.search(r"SGD|Lion|Muon", name) else 2
    if bits is None:
        return parameters * moments * torch_dtype(dtype).itemsize
    return parameters * moments * int(bits[1]) // 8 + parameters * moments // 256 * 4
