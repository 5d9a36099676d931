"""What of a stage's options goes into a batch script as the profile has it: the lines before the command, and options by name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any


def setup_lines(stage: Mapping[str, Any]) -> list[str]:
    """The shell lines that run before the stage: the environment, each value as it is, then the user's own."""
    exports = [f"export {name}={shlex.quote(_text(value))}" for name, value in (stage.get("environment") or {}).items() if value is not None]
    return [*exports, *(stage.get("setup") or ())]


def additional_parameters(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The options of sbatch that have no key of their own, by their names there; True has no value."""
    given = (stage.get("additional_parameters") or {}).items()
    return {name.replace("_", "-"): value for name, value in given if value is not None and value is not False}


def _text(value: Any) -> str:
    """As YAML has it: `true`, not Python's True."""
    return str(value).lower() if isinstance(value, bool) else str(value)
