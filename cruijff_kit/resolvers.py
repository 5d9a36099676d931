"""The arithmetic that a computed control may use: `${mul:2,${lora_rank}}`."""

from __future__ import annotations

import math
import operator


def register() -> None:
    """Makes mul, add, sub, div, floordiv, min and max known to OmegaConf; may be called again."""
    from omegaconf import OmegaConf

    resolvers = {
        "mul": lambda *numbers: math.prod(numbers),
        "add": lambda *numbers: sum(numbers),
        "sub": operator.sub,
        "div": operator.truediv,
        "floordiv": operator.floordiv,
        "min": lambda *numbers: min(numbers),
        "max": lambda *numbers: max(numbers),
    }
    for name, function in resolvers.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
