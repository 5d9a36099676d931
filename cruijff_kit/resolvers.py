"""The arithmetic that a computed control may use: `${mul:2,${lora_rank}}`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable


# What each function of numbers gives, and the function.
FUNCTIONS: dict[str, tuple[str, Callable[..., float]]] = {
    "mul": ("the product", lambda *numbers: math.prod(numbers)),
    "add": ("the sum", lambda *numbers: sum(numbers)),
    "sub": ("the first less the second", operator.sub),
    "div": ("the first divided by the second", operator.truediv),
    "floordiv": ("likewise, rounded down to a whole number", operator.floordiv),
    "min": ("the smallest", lambda *numbers: min(numbers)),
    "max": ("the largest", lambda *numbers: max(numbers)),
}


def register() -> None:
    """Makes FUNCTIONS known to OmegaConf; may be called again."""
    from omegaconf import OmegaConf

    for name, (_, function) in FUNCTIONS.items():
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
