"""The arithmetic that a computed control may use: `${mul:2,${lora_rank}}`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable


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
        OmegaConf.register_new_resolver(name, _of_numbers(function), replace=True)


def _of_numbers(function: Callable[..., float]) -> Callable[..., float]:
    """`function`, of numbers alone and with a number for its result that a file can hold."""

    def resolver(*numbers: float) -> float:
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise TypeError(f"{str(number)[:40]!r} is no number")
        result = function(*numbers)
        if not abs(result) < (2**64 if isinstance(result, int) else math.inf):
            raise OverflowError("the result is too large, or no number")
        return result

    return resolver
