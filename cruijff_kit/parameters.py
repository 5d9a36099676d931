"""The parameter names of experiment.yaml, and the torchtune key and type of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """A short name for one key of a torchtune config, what its values are, and what they do."""

    key: str
    kind: str
    meaning: str
    optional: bool = False

    def fault(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        if (value is None and self.optional) or _KINDS[self.kind](value):
            return None
        return f"expected {self.kind}, got {value!r}"


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


_KINDS = {
    "a whole number of at least 1": lambda value: _is_int(value) and value >= 1,
    "a whole number of at least 0": lambda value: _is_int(value) and value >= 0,
    "a number above 0": lambda value: _is_float(value) and value > 0,
    "a number of at least 0": lambda value: _is_float(value) and value >= 0,
    "a number from 0 to 1": lambda value: _is_float(value) and 0 <= value <= 1,
    "true or false": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str) and value != "",
    "a number above 0, or 'inf'": lambda value: value == "inf" or (_is_float(value) and value > 0),
    "fp32, bf16 or fp16": lambda value: value in ("fp32", "bf16", "fp16"),
    "a file, a Hub id or a mapping": lambda value: isinstance(value, dict) or (isinstance(value, str) and value != ""),
}

COUNT, FROM_ZERO, FLAG = "a whole number of at least 1", "a whole number of at least 0", "true or false"

PARAMETERS: dict[str, Parameter] = {
    "learning_rate": Parameter("optimizer.lr", "a number above 0", "the optimizer's learning rate; with a schedule, its peak"),
    "weight_decay": Parameter("optimizer.weight_decay", "a number of at least 0", "the optimizer's weight decay"),
    "lora_rank": Parameter("model.lora_rank", COUNT, "rank of the LoRA matrices; set together with lora_alpha"),
    "lora_alpha": Parameter("model.lora_alpha", "a number above 0", "LoRA's scale: what it adds is multiplied by lora_alpha / lora_rank"),
    "lora_dropout": Parameter("model.lora_dropout", "a number from 0 to 1", "dropout before the LoRA matrices, in training"),
    "epochs": Parameter("epochs", COUNT, "passes over the dataset"),
    "batch_size": Parameter("batch_size", COUNT, "rows that each GPU takes at once"),
    "seed": Parameter(
        "seed", FROM_ZERO, "of initial LoRA weights and dropout; the order of the rows is the same for every seed (torchtune 0.6.1)", optional=True
    ),
    "shuffle": Parameter("shuffle", FLAG, "whether rows come in another order in each epoch"),
    "dtype": Parameter("dtype", "fp32, bf16 or fp16", "of the weights in training"),
    "device": Parameter("device", "text", "`cuda`, `cpu`, …"),
    "compile": Parameter("compile", FLAG, "whether torch.compile is used"),
    "clip_grad_norm": Parameter("clip_grad_norm", "a number above 0, or 'inf'", "the gradient's norm is cut down to this; null for no clipping", optional=True),
    "gradient_accumulation_steps": Parameter("gradient_accumulation_steps", COUNT, "batches to one optimizer step"),
    "max_steps_per_epoch": Parameter("max_steps_per_epoch", COUNT, "optimizer steps after which an epoch ends; null for the whole dataset", optional=True),
    "log_every_n_steps": Parameter("log_every_n_steps", COUNT, "steps between two lines of the log"),
    "resume_from_checkpoint": Parameter("resume_from_checkpoint", FLAG, "torchtune's own resuming; `run` sets it itself where a training goes on"),
    "save_adapter_weights_only": Parameter("save_adapter_weights_only", FLAG, "whether only the LoRA adapter is saved, and no merged model"),
    "max_seq_len": Parameter("tokenizer.max_seq_len", COUNT, "tokens of a row; longer ones are cut off. null for no limit", optional=True),
    "packed": Parameter("dataset.packed", FLAG, "whether rows are packed into sequences of max_seq_len tokens"),
    "train_on_input": Parameter("dataset.train_on_input", FLAG, "whether the prompt counts for the loss too"),
    "warmup_steps": Parameter("lr_scheduler.num_warmup_steps", FROM_ZERO, "steps over which the learning rate rises from 0"),
    "activation_checkpointing": Parameter("enable_activation_checkpointing", FLAG, "less memory, more time: activations are computed again in the backward pass"),
    "activation_offloading": Parameter("enable_activation_offloading", FLAG, "less GPU memory, more time: activations wait in main memory"),
    "dataset": Parameter(
        "dataset",
        "a file, a Hub id or a mapping",
        "a `.json`, `.jsonl`, `.csv` or `.parquet` file, which the base config's dataset component reads; or a mapping that replaces the whole node",
    ),
}

BY_KEY = {parameter.key: parameter for parameter in PARAMETERS.values()}


def parameter(name: str) -> Parameter | None:
    """The parameter of that name, or the one whose torchtune key `name` is: `model.lora_rank` has lora_rank's type."""
    return PARAMETERS.get(name) or BY_KEY.get(name)
