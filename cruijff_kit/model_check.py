"""The model of a torchtune config, built by torchtune itself on the meta device: its sizes, and the names of its weights.

No weight is read and none is in memory. What the weight files hold is weight_check's, the optimizer is
optimizer_check's, and what all of it costs is training_cost's.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from cruijff_kit import torchtune_catalog
from cruijff_kit.errors import Fault
from cruijff_kit.torchtune_catalog import ELEMENT_BYTES
from cruijff_kit.visible_text import message

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A model as its recipe trains it.

    Args:
        parameters: those of the base model; the adapter's are not among them.
        trainable: how many trainable parameters there are of each shape.
        weight_bytes: base and adapter as they lie in memory while they train.
        merged_bytes: the base weights as they are saved, in the training's dtype.
        adapter_width: outputs of all LoRA A matrices together, a token.
        shapes: the base weights by torchtune's names; adapters are in no weight file, and tied ones have one name.

    The others are the decoder's own sizes, None for a model that has none of that name.
    """

    dtype: str
    parameters: int
    adapter_parameters: int
    trainable: Mapping[Shape, int] = field(repr=False)
    weight_bytes: int
    merged_bytes: int
    adapter_width: int
    layers: int | None
    embed_dim: int | None
    vocab_size: int | None
    heads: int | None
    head_dim: int | None
    intermediate_dim: int | None
    shapes: Mapping[str, Shape] = field(repr=False)

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def adapter_bytes(self) -> int:
        return self.adapter_parameters * self.element_bytes

    @property
    def trainable_parameters(self) -> int:
        return sum(size(shape) * count for shape, count in self.trainable.items())


def size(shape: Shape) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def part(config: Mapping[str, Any], *names: str) -> str:
    """The nodes `names` of `config` as JSON, interpolations resolved: what a result is remembered by."""
    text = json.dumps({name: config.get(name) for name in names}, sort_keys=True, default=str)
    if "${" not in text:
        return text
    from omegaconf import OmegaConf

    whole = OmegaConf.create(dict(config))
    nodes = {name: OmegaConf.select(whole, name) for name in names}
    plain = {name: OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node for name, node in nodes.items()}
    return json.dumps(plain, sort_keys=True, default=str)


def build(config: Mapping[str, Any], recipe: str) -> Model | Fault:
    """The model that `recipe` makes of `config`, or why torchtune makes none. Each distinct one is built once."""
    dtype = config.get("dtype")
    if dtype not in ELEMENT_BYTES:
        return Fault("dtype", f"dtype is {dtype!r}, which torchtune does not train in", "dtype: bf16, or fp32")
    model = _build(part(config, "model"), dtype)
    return (_recipe_fault(model, recipe) or model) if isinstance(model, Model) else model


def _recipe_fault(model: Model, recipe: str) -> Fault | None:
    """A dtype that the recipe refuses, or a LoRA model in one that trains all weights, or the reverse."""
    name = recipe.replace(".", "/").rpartition("/")[2]
    if model.dtype == "fp16" and name in torchtune_catalog.recipes():
        return Fault("dtype", f"{recipe} refuses fp16", "dtype: bf16, or fp32")
    if model.adapter_parameters and name.startswith(("full_", "qat_distributed")):
        what = f"{recipe} trains all weights, and the model has LoRA adapters, which no weight file holds"
        return Fault("model._component_", what, "use a LoRA recipe, or the model without lora_")
    if not model.adapter_parameters and name.startswith("lora_"):
        what = f"{recipe} trains LoRA adapters, and the model has none"
        return Fault("model._component_", what, "use a full_finetune recipe, or the model with lora_")
    return None


@cache
def _build(text: str, dtype: str) -> Model | Fault:
    node = json.loads(text)["model"]
    if not isinstance(node, dict) or "_component_" not in node:
        return Fault("model", "the config has no model._component_: it is what torchtune builds the model with")
    from omegaconf import OmegaConf
    from torchtune.config import instantiate

    try:
        with meta_device(dtype):
            quantized = _quantizes(node)
            built = instantiate(OmegaConf.create({**node, "quantize_base": False} if quantized else node))
    except Exception as error:  # a component raises what it likes at arguments that do not fit
        return Fault("model", f"torchtune cannot build the model: {message(error)}", f"the arguments of {node['_component_']} stand below model")
    return _facts(built, dtype, quantized)


def torchtune_is_quiet() -> None:
    """torchao says at import, to whoever trains nothing here, that its C++ extensions do not fit this torch."""
    logging.getLogger("torchao").setLevel(logging.ERROR)


def meta_device(dtype: str) -> Any:
    """Where tensors have a shape and no memory, and `dtype` unless they say otherwise."""
    from contextlib import ExitStack

    import torch
    from torchtune.training import set_default_dtype

    stack = ExitStack()
    stack.enter_context(set_default_dtype(torch_dtype(dtype)))
    stack.enter_context(torch.device("meta"))
    return stack


def torch_dtype(dtype: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]


def _quantizes(node: Mapping[str, Any]) -> bool:
    """Whether the component quantizes the base weights.

    Then it is built without that: packing 405B parameters into NF4 takes minutes even where there are none.
    """
    from inspect import signature

    from torchtune.config._utils import _get_component_from_path

    accepted = signature(_get_component_from_path(node["_component_"])).parameters.get("quantize_base")
    return accepted is not None and bool(node.get("quantize_base", accepted.default))


def _facts(model: torch.nn.Module, dtype: str, quantized: bool) -> Model:
    from torchtune.modules.peft import get_adapter_params

    adapters = get_adapter_params(model)
    parameters = dict(model.named_parameters())
    base = {name: weight for name, weight in parameters.items() if name not in adapters}
    packed = _quantized_names(model) if quantized else set()
    width = ELEMENT_BYTES[dtype]
    nf4 = sum(nf4_bytes(weight.numel(), width) for name, weight in base.items() if name in packed)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if name not in adapters}
    return Model(
        dtype=dtype,
        parameters=sum(weight.numel() for weight in base.values()),
        adapter_parameters=sum(weight.numel() for weight in adapters.values()),
        trainable=Counter(tuple(weight.shape) for weight in (adapters or base).values()),
        weight_bytes=nf4 + sum(weight.nbytes for name, weight in parameters.items() if name not in packed),
        merged_bytes=sum(size(shape) for shape in shapes.values()) * width,
        adapter_width=sum(weight.shape[0] for name, weight in adapters.items() if name.endswith("lora_a.weight")),
        shapes=shapes,
        **_sizes(model),
    )


def _quantized_names(model: torch.nn.Module) -> set[str]:
    """The weights that `quantize_base` packs into NF4: of every linear layer but the output's."""
    import torch
    from torchtune.modules.peft import DoRALinear, LoRALinear

    linear = (torch.nn.Linear, LoRALinear, DoRALinear)
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, linear)]
    return {f"{name}.weight" for name, _ in modules if name.startswith("layers.") and not name.endswith((".lora_a", ".lora_b"))}


def nf4_bytes(elements: int, width: int) -> int:
    """Bytes of a weight in NF4: 4 bits an element, an 8-bit scaler a block of 64, a scale a block of 256 of those.

    QLoRA, https://arxiv.org/abs/2305.14314, section 3; block sizes as in torchao.dtypes.nf4tensor.to_nf4.
    """
    return elements // 2 + elements // 64 + elements // (64 * 256) * width


def _sizes(model: torch.nn.Module) -> dict[str, int | None]:
    """The sizes of a torchtune TransformerDecoder."""
    layers = getattr(model, "layers", None)
    first = layers[0] if layers is not None and len(layers) else None
    gate = getattr(getattr(first, "mlp", None), "w1", None)
    embeddings = getattr(model, "tok_embeddings", None)
    return {
        "layers": len(layers) if layers is not None else None,
        "embed_dim": getattr(embeddings, "embedding_dim", None),
        "vocab_size": getattr(embeddings, "num_embeddings", None),
        "heads": getattr(model, "num_heads", None),
        "head_dim": getattr(model, "head_dim", None),
        "intermediate_dim": getattr(gate, "out_dim", None) or getattr(gate, "out_features", None),
    }
