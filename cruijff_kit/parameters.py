"""The parameter names of experiment.yaml, and the torchtune key and type of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """A short name for one key of a torchtune config."""

    key: str
    kind: str
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
    "learning_rate": Parameter("optimizer.lr", "a number above 0"),
    "weight_decay": Parameter("optimizer.weight_decay", "a number of at least 0"),
    "lora_rank": Parameter("model.lora_rank", COUNT),
    "lora_alpha": Parameter("model.lora_alpha", "a number above 0"),
    "lora_dropout": Parameter("model.lora_dropout", "a number from 0 to 1"),
    "epochs": Parameter("epochs", COUNT),
    "batch_size": Parameter("batch_size", COUNT),
    "seed": Parameter("seed", FROM_ZERO, optional=True),
    "shuffle": Parameter("shuffle", FLAG),
    "dtype": Parameter("dtype", "fp32, bf16 or fp16"),
    "device": Parameter("device", "text"),
    "compile": Parameter("compile", FLAG),
    "clip_grad_norm": Parameter("clip_grad_norm", "a number above 0, or 'inf'", optional=True),
    "gradient_accumulation_steps": Parameter("gradient_accumulation_steps", COUNT),
    "max_steps_per_epoch": Parameter("max_steps_per_epoch", COUNT, optional=True),
    "log_every_n_steps": Parameter("log_every_n_steps", COUNT),
    "resume_from_checkpoint": Parameter("resume_from_checkpoint", FLAG),
    "save_adapter_weights_only": Parameter("save_adapter_weights_only", FLAG),
    "max_seq_len": Parameter("tokenizer.max_seq_len", COUNT, optional=True),
    "packed": Parameter("dataset.packed", FLAG),
    "train_on_input": Parameter("dataset.train_on_input", FLAG),
    "warmup_steps": Parameter("lr_scheduler.num_warmup_steps", FROM_ZERO),
    "activation_checkpointing": Parameter("enable_activation_checkpointing", FLAG),
    "activation_offloading": Parameter("enable_activation_offloading", FLAG),
    "dataset": Parameter("dataset", "a file, a Hub id or a mapping"),
}

BY_KEY = {parameter.key: parameter for parameter in PARAMETERS.values()}


def parameter(name: str) -> Parameter | None:
    """The parameter of that name, or the one whose torchtune key `name` is: `model.lora_rank` has lora_rank's type."""
    return PARAMETERS.get(name) or BY_KEY.get(name)
