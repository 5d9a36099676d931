"""What may be wrong with a cluster profile: a key that there is not, a value of another type, or one that Slurm or the shell cannot be given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cruijff_kit.cluster_schema import KEYS, OPTIONS, OURS, STAGES, Stage
from cruijff_kit.errors import Problem, closest

EXPECTED = {"int": "a whole number", "str": "text", "list": "a list of shell lines", "dict": "a mapping"}


def value_faults(key: str, value: Any) -> Iterator[str]:
    """What is wrong with a value of the right type."""
    if isinstance(value, int) and value < 0:
        yield f"expected a number from 0, got {value}"
    elif isinstance(value, str) and (fault := _text_fault(value, spaces=key == "comment")):
        yield fault
    elif key == "environment" and value:
        yield from (f"'{name}' is no name of a variable" for name in value if not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII))
        yield from (f"{name}: expected text or a number" for name, each in value.items() if isinstance(each, (dict, list)))
        yield from (f"{name} holds a null byte" for name, each in value.items() if "\0" in str(each))
    elif key == "additional_parameters" and value:
        for name, each in value.items():
            yield from _option_faults(str(name), each)


def _option_faults(name: str, value: Any) -> Iterator[str]:
    option = name.replace("_", "-")
    keys = {of_a_key: key for key, of_a_key in OPTIONS.items()}
    if not re.fullmatch(r"[a-z][a-z0-9-]*", option):
        yield f"'{name}' is no option of sbatch"
    elif option in OURS:
        yield f"{name} is set by cruijff-kit"
    elif option in keys:
        yield f"{name} has a key of its own: {keys[option]}"
    elif isinstance(value, (dict, list)):
        yield f"{name}: expected text, a number or true"
    elif fault := _text_fault(str(value), spaces=True):
        yield f"{name} {fault}"


def _text_fault(text: str, spaces: bool) -> str | None:
    """sbatch reads a line up to its end, and takes a backslash away."""
    if not text.isprintable() or "\\" in text:
        return f"holds a line break, a backslash or a control character: {text!r}"
    return f"holds a space: {text!r}" if not spaces and re.search(r"\s", text) else None


def key_faults(stages: Mapping[str, Any], file: str, above: str) -> Iterator[Problem]:
    """The keys that the schema has not: a `+` adds any to Hydra's config."""
    for stage, values in stages.items():
        if stage not in STAGES:
            yield unknown_key(f"{above}{stage}", file, above)
        else:
            yield from (unknown_key(f"{above}{stage}.{key}", file, above) for key in values if key not in KEYS)


def form_fault(given: Any, file: str) -> Problem | None:
    """A value where a mapping should be: OmegaConf 2.3 does not say of which key."""
    if not isinstance(given, dict):
        return Problem(file, "expected the stages train and eval, with their keys below")
    for stage in STAGES:
        values = given.get(stage, {})
        if not isinstance(values, dict):
            return Problem(file, "expected a mapping", stage, fix=f"its keys stand below it; nothing to set is {stage}: {{}}")
        for key in ("environment", "additional_parameters"):
            if not isinstance(values.get(key), dict | None):
                return Problem(file, "expected a mapping", f"{stage}.{key}")
    return None


def type_fault(error: Any, file: str, above: str = "") -> Problem:
    """What OmegaConf found, in our words: a key that there is not, or a value of another type."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    name = str(error.full_key or error.key or "")
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)):
        return unknown_key(name, file, above)
    key = re.split(r"[.\[]", name.removeprefix(above).partition(".")[2])[0]
    kind = re.match(r"\w+", str(Stage.__annotations__.get(key, "dict")))[0]
    got = re.match(r"Value '(.*)' of type", str(error.msg or ""))
    return Problem(file, f"expected {EXPECTED[kind]}" + (f", got '{got[1]}'" if got else ""), name)


def unknown_key(name: str, file: str, above: str = "") -> Problem:
    stage, _, key = name.removeprefix(above).partition(".")
    stages = [stage] if stage in STAGES else STAGES
    names = [f"{above}{each}.{other}" for each in stages for other in KEYS] if key else [f"{above}{each}" for each in STAGES]
    return Problem(file, f"unknown key '{name}'", name, fix=closest(name, names, 75) or f"there are {', '.join(names)}")
