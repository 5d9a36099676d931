"""The points of a grid: from overrides to axes, from axes to points, without those left out. Values only."""

import itertools
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from hydra.core.override_parser.types import Override
from hydra.errors import CompactHydraException

Parse = Callable[[str], Override]


@dataclass(frozen=True)
class Choice:
    """One value of one key: the override that sets it, and what Hydra reads there."""

    key: str
    override: str
    value: Any


Axis = Tuple[Choice, ...]
Point = Tuple[Choice, ...]


def make_axes(params: Sequence[Override], arguments: Sequence[Override], parse: Parse) -> List[Axis]:
    """The keys in order, each with its distinct values: the params', then what only the arguments name.

    An argument takes the place of a param of its key, whatever `+` or `~` stands before either; of two
    arguments that are the same up to the value, the later wins, as everywhere in Hydra.
    """
    given: Dict[str, Dict[str, Override]] = {}
    for override in arguments:
        given.setdefault(key_of(override), {})[override.get_key_element()] = override
    merged: Dict[str, List[Override]] = {key_of(override): [override] for override in params}
    merged.update({key: list(overrides.values()) for key, overrides in given.items()})
    return [_axis(override, parse) for overrides in merged.values() for override in overrides]


def key_of(override: Override) -> str:
    """The key that an override sets, with its package and without a `+` or `~` before it."""
    return override.get_key_element().lstrip("+~")


def _axis(override: Override, parse: Parse) -> Axis:
    key = key_of(override)
    if not override.is_sweep_override():
        return (Choice(key, override.input_line, override.value()),)
    if not override.is_discrete_sweep():
        raise CompactHydraException(
            f"{key}\n  a grid cannot go through {override.get_value_string()}, which has no end of values\n"
            f"  name the values ({key}=1,2,3) or a range with a step ({key}=range(1,4,0.5))"
        )
    lines = [f"{override.get_key_element()}={text}" for text in override.sweep_string_iterator()]
    choices = [Choice(key, line, parse(line).value()) for line in lines]
    if not choices:
        raise CompactHydraException(f"{key}\n  {override.get_value_string()} matches nothing")
    return tuple({repr(choice.value): choice for choice in reversed(choices)}.values())[::-1]


def make_points(axes: Sequence[Axis], exclude: Sequence[Dict[str, Any]]) -> List[Point]:
    """Every combination that is not excluded, the last key changing fastest; raises when none is left."""
    keys = [axis[0].key for axis in axes]
    for exclusion in exclude:
        _check_exclusion(exclusion, keys)
    points = [p for p in itertools.product(*axes) if not any(_matches(p, exclusion) for exclusion in exclude)]
    if not points:
        raise CompactHydraException("hydra.sweeper.exclude\n  leaves out every point of the sweep")
    return points


def _check_exclusion(exclusion: Dict[str, Any], keys: Sequence[str]) -> None:
    if not exclusion:
        raise CompactHydraException("hydra.sweeper.exclude\n  {} would leave out every point")
    for key in exclusion:
        if key not in keys:
            listing = ", ".join(keys) or "none"
            raise CompactHydraException(
                f"hydra.sweeper.exclude\n  '{key}' is no key of this sweep\n  its keys: {listing}"
            )


def _matches(point: Point, exclusion: Dict[str, Any]) -> bool:
    values = {choice.key: choice.value for choice in point}
    return all(_same(values[key], value) for key, value in exclusion.items())


def _same(left: Any, right: Any) -> bool:
    """Equal values: 1 and 1.0 are, 1 and true are not, though Python holds them so."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def first_appearances(points: Sequence[Point]) -> Iterator[Point]:
    """The points that show a value of some key for the first time.

    In a full grid that is one, and one more for each further value of each key.
    """
    seen = set()
    for point in points:
        overrides = {choice.override for choice in point}
        if not point or not overrides <= seen:
            seen |= overrides
            yield point
