"""How many optimizer steps torchtune takes of a number of rows, and what is wrong with that number.

The rule is that of the recipes of torchtune 0.6.1: DistributedSampler repeats rows until every GPU has as many,
the loader drops what does not fill a batch, and batches that do not fill an accumulation take no step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cruijff_kit.config_tree import find
from cruijff_kit.errors import Fault

# What the number of steps depends on.
READS = ("batch_size", "gradient_accumulation_steps", "epochs", "max_steps_per_epoch", "dataset", "tensor_parallel_dim")


def data_parallel(config: Mapping[str, Any], recipe: str, gpus: int) -> int:
    """How many GPUs see different rows: one in a single-device recipe."""
    if not recipe.endswith("_distributed"):
        return 1
    tensor_parallel = config.get("tensor_parallel_dim") if recipe.endswith("full_finetune_distributed") else None
    return max(gpus // tensor_parallel if isinstance(tensor_parallel, int) and tensor_parallel > 0 else gpus, 1)


def steps_per_epoch(config: Mapping[str, Any], rows: int, recipe: str = "", gpus: int = 1) -> int | None:
    """Optimizer steps of one epoch (`_steps_per_epoch` in the recipes); None if the config has no numbers for it."""
    batch, accumulation, most = (config.get(name) for name in ("batch_size", "gradient_accumulation_steps", "max_steps_per_epoch"))
    batch, accumulation = 1 if batch is None else batch, 1 if accumulation is None else accumulation
    if not all(isinstance(size, int) and size > 0 for size in (batch, accumulation, *([] if most is None else [most]))):
        return None  # said elsewhere
    own = math.ceil(rows / data_parallel(config, recipe, gpus))
    steps = own // batch // accumulation
    return steps if most is None else min(steps, most)


def step_faults(config: Mapping[str, Any], rows: int, recipe: str = "", gpus: int = 1, called: str = "rows") -> Iterator[Fault]:
    """torchtune ends well without one optimizer step, and warms up for longer than it trains.

    Args:
        called: what the rows are: packs, of packed data.
    """
    steps = steps_per_epoch(config, rows, recipe, gpus)
    if steps is None:
        return
    if steps == 0:
        batch, accumulation = config.get("batch_size") or 1, config.get("gradient_accumulation_steps") or 1
        sizes = f"batch_size {batch} × gradient_accumulation_steps {accumulation}"
        used = data_parallel(config, recipe, gpus)
        sizes += f" × {used} GPUs" if used > 1 else ""
        what = f"{rows:,} {called} are fewer than {sizes}: no optimizer step would be taken"
        yield Fault("gradient_accumulation_steps", what, "lower batch_size or gradient_accumulation_steps", reads=READS)
        return
    warmup, epochs = find(config, "lr_scheduler.num_warmup_steps") or 0, config.get("epochs") or 1
    if not isinstance(warmup, int) or not isinstance(epochs, int):
        return
    total = steps * epochs
    if warmup >= total:
        what = f"warm-up takes {warmup} steps and the run has {total}: the learning rate is never reached"
        yield Fault("warmup_steps", what, f"add under controls:\n  warmup_steps: {total // 10}", level="warning", reads=READS)
