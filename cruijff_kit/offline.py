"""Whether the Hugging Face Hub may be asked, and whether an error says that it would have had to be."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

_VARIABLE = "HF_HUB_OFFLINE"

# What the Hugging Face libraries and their HTTP clients raise where they may not, or cannot, fetch.
_ERRORS = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError", "ConnectTimeout")

# What decides, in Inspect's loaders, whether an error may pass if one waits.
_RETRIES = {"inspect_ai.dataset._sources.hf": "_should_retry_hf_error", "inspect_evals.utils.huggingface": "should_retry"}


def is_offline() -> bool:
    """Whether only what is on this machine may be used: unless HF_HUB_OFFLINE=0 says otherwise."""
    return os.environ.get(_VARIABLE, "1").upper() in ("1", "ON", "YES", "TRUE")


def stay_offline() -> None:
    """Makes this process use only what is on this machine, unless HF_HUB_OFFLINE=0: else each look-up may take a minute."""
    os.environ.setdefault(_VARIABLE, "1")
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:  # they read the variable when they are imported
            setattr(sys.modules[name], _VARIABLE, is_offline())


def is_missing(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, says that something is not on this machine and was not fetched."""
    while error is not None:
        if type(error).__name__ in _ERRORS or "Couldn't find cache for" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def fail_at_once() -> None:
    """Offline, what is missing stays so: Inspect's loaders, where they are imported, say it at once and not after minutes."""
    if is_offline():
        for module, name in _RETRIES.items():
            if module in sys.modules:
                setattr(sys.modules[module], name, lambda error: False)


def how_to_fetch(folder: Path) -> str:
    """What fetches all that the tasks of the experiment in `folder` are built from: it takes no weights, no GPU and no training."""
    command = f"{_VARIABLE}=0 cruijff-kit check {shlex.quote(str(folder))} --deep"
    return f"fetch its data once, on a machine with a network: {command}"
