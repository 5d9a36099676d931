"""What a run will cost: optimizer steps, tokens, bytes on disk, and an estimate of GPU memory. Arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cruijff_kit.config_tree import find
from cruijff_kit.model_check import Model, size
from cruijff_kit.optimizer_check import Optimizer
from cruijff_kit.training_steps import data_parallel, steps_per_epoch

ASSUMED_LENGTH = 2048


@dataclass(frozen=True)
class Rows:
    """The training data of a run.

    Args:
        rows: None where they cannot be counted here.
        mean_tokens: of a row as it is trained on; None where none could be tokenized.
    """

    rows: int | None = None
    mean_tokens: float | None = None


def samples(config: Mapping[str, Any], data: Rows) -> int | None:
    """What an epoch goes through: rows, or about as many packs of max_seq_len tokens as those fill; None if unknown."""
    if not find(config, "dataset.packed"):
        return data.rows
    length = find(config, "tokenizer.max_seq_len")
    if data.rows is None or data.mean_tokens is None or not length:
        return None
    packs = -(-int(data.rows * data.mean_tokens) // length)
    return min(packs, find(config, "dataset.max_packs") or packs)


def steps(config: Mapping[str, Any], data: Rows, recipe: str = "", gpus: int = 1) -> int | None:
    """Optimizer steps of the whole run, None where the rows are not known."""
    number = samples(config, data)
    an_epoch = None if number is None else steps_per_epoch(config, number, recipe, gpus)
    return None if an_epoch is None else an_epoch * _number(config, "epochs")


def tokens(config: Mapping[str, Any], data: Rows, recipe: str = "", gpus: int = 1) -> int | None:
    """Tokens that go through the model in the whole run, padding apart; None where rows or their length are not known."""
    taken = steps(config, data, recipe, gpus)
    length = find(config, "tokenizer.max_seq_len") if find(config, "dataset.packed") else data.mean_tokens
    if taken is None or length is None:
        return None
    return round(taken * _number(config, "batch_size") * _number(config, "gradient_accumulation_steps") * data_parallel(config, recipe, gpus) * length)


def _number(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and value > 0 else 1


def checkpoint_bytes(config: Mapping[str, Any], model: Model, optimizer: Optimizer, copied: int = 0, at_once: int | None = None) -> int:
    """Bytes that the run's checkpoints take at most, but for some kilobytes of headers and indexes.

    Each epoch keeps the merged weights in the training's dtype and, of LoRA, the adapter twice (adapter_model.pt and
    .safetensors), or the adapter alone; and copies of the tokenizer and what else lies beside the base weights.
    With several epochs recipe_state/ holds the optimizer, once: each epoch but the last overwrites it
    (torchtune 0.6.1, FullModelHFCheckpointer.save_checkpoint).

    Args:
        copied: bytes of the files beside the base weights.
        at_once: how many epochs lie there at the same time; None for all.
    """
    epochs = _number(config, "epochs")
    merged = 0 if config.get("save_adapter_weights_only") and model.adapter_parameters else model.merged_bytes
    return (at_once or epochs) * (merged + 2 * model.adapter_bytes + copied) + (optimizer.state_bytes if epochs > 1 else 0)


@dataclass(frozen=True)
class Memory:
    """An estimate of the most GPU memory that a training holds at once, in bytes a GPU, by what holds it.

    Args:
        length: the tokens of a row that it is estimated for, and where that number is from.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    length: int
    length_from: str

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total}


def memory(config: Mapping[str, Any], model: Model, optimizer: Optimizer, data: Rows, gpus: int = 1) -> Memory | None:
    """The estimate for one run, None for a model whose sizes are not known.

    It is the moment when the loss is computed with gradients of an earlier batch held: weights, gradients and optimizer
    state, which are counted, and what autograd keeps of the forward pass. It leaves out the CUDA context (about 0.5 GB),
    fragmentation, buffers of the moment, and what torch.compile saves. Recipes for several GPUs divide the first three
    among them (FSDP). torchtune's README measured 37.4 GiB for the full fine-tuning of Llama 3.1 8B, batch 2, packed to
    2,048 tokens; the estimate is 35.9.
    """
    sizes = (model.layers, model.embed_dim, model.vocab_size, model.heads, model.head_dim, model.intermediate_dim)
    if any(value is None for value in sizes):
        return None
    length, source = _length(config, data)
    batch_tokens = _number(config, "batch_size") * length
    checkpointing, offloading = (bool(config.get(f"enable_activation_{name}")) for name in ("checkpointing", "offloading"))
    return Memory(
        weights=model.weight_bytes // gpus,
        gradients=gradient_bytes(model, optimizer) // gpus,
        optimizer=optimizer.state_bytes // gpus,
        activations=batch_tokens * activation_bytes(model, checkpointing, offloading),
        logits=batch_tokens * logit_bytes(model),
        length=length,
        length_from=source,
    )


def _length(config: Mapping[str, Any], data: Rows) -> tuple[int, str]:
    """The longest row is not known without tokenizing all of them."""
    longest = find(config, "tokenizer.max_seq_len")
    if data.mean_tokens is None and not longest:
        return ASSUMED_LENGTH, "assumed: neither max_seq_len nor the length of a row is known"
    if data.mean_tokens is not None and not find(config, "dataset.packed"):
        guess = max(1, round(2 * data.mean_tokens))
        if not longest or guess < longest:
            return guess, "twice the mean of the first rows"
    return longest, "max_seq_len"


def gradient_bytes(model: Model, optimizer: Optimizer) -> int:
    """One gradient a trainable parameter, in its dtype; with optimizer_in_bwd one of the largest alone."""
    if optimizer.in_backward:
        return max(map(size, model.trainable), default=0) * model.element_bytes
    return model.trainable_parameters * model.element_bytes


def activation_bytes(model: Model, checkpointing: bool, offloading: bool = False) -> int:
    """Bytes that autograd keeps of the layers, a token.

    Of a layer of torchtune's TransformerSelfAttentionLayer with d = embed_dim, a = heads × head_dim, i = intermediate_dim
    and e bytes an element, as in Korthikanti et al. (https://arxiv.org/abs/2205.05198, section 4.1), with fused
    attention, no dropout, a gated MLP and norms in fp32:

    - two norms: their input in fp32 and a root, 2 (4d + 4); where the norm itself is trained its output in fp32, 2 · 4d;
      their output in the training's dtype, 2ed
    - attention: queries, keys and values, the latter two repeated for each head, and the output, 4ea; a sum a head, 4 heads
    - the MLP: gate, its activation, up and their product, 4ei
    - the output of each LoRA A matrix

    It is the most that a layer keeps: LoRA on some of the linear layers alone keeps fewer of their inputs. With activation
    checkpointing a layer keeps its input, ed, and one layer at a time all of it; offloading moves the inputs to the CPU.
    """
    width, d = model.element_bytes, model.embed_dim
    attention = model.heads * model.head_dim
    norms = 2 * (4 * d + 4) + (0 if model.adapter_parameters else 2 * 4 * d)
    layer = norms + width * (2 * d + 4 * attention + 4 * model.intermediate_dim) + 4 * model.heads
    adapters = model.adapter_width * width
    if not checkpointing:
        return model.layers * layer + adapters
    kept = 0 if offloading else model.layers * width * d
    return kept + layer + adapters // model.layers


def logit_bytes(model: Model) -> int:
    """Bytes of the logits, a token: as the model gives them, and in fp32 as the loss keeps them for its backward pass.

    torchtune's chunked loss casts chunk by chunk, and each keeps its log-softmax until then.
    """
    return model.vocab_size * (model.element_bytes + 4)
