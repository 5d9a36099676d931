"""Where a stage's results come from: versions, GPUs, and the commit of the experiment's folder."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from cruijff_kit import __version__, inputs, node_probe

PACKAGES = ("torch", "torchtune", "inspect-ai", "peft", "transformers")
GIT_TIMEOUT_S = 10.0  # of a repository on a slow disk; the sweep does not wait longer for it


def versions() -> dict[str, str]:
    """Of Python, of us and of the packages that train and evaluate, as far as they are installed."""
    found = {"python": platform.python_version(), "cruijff-kit": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def surroundings(recorded: Path, name: str) -> dict[str, Any]:
    """What the record of a stage holds of where it runs; `name` is the set of files that it reads, as inputs.record has it in `recorded`."""
    return {"gpus": gpus(), "versions": versions(), "inputs": inputs.digests(recorded, name)}


def gpus() -> list[str]:
    """The GPUs that this process may use, with their models where nvidia-smi tells: `GPU 0: NVIDIA H100 (UUID: …)`."""
    visible, listed = node_probe.gpus() or [], node_probe.nvidia_smi() or []
    named = {line.split(":")[0].removeprefix("GPU "): line for line in listed}
    return [named.get(each, each) for each in visible]


def git(folder: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """The commit that `folder` is at, and whether one of `names` in it differs from that; None where git does not tell."""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", *names)
    if commit is None or changed is None:
        return None
    return {"commit": commit.strip(), "dirty": bool(changed.strip())}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=", "-C", str(folder), *words], capture_output=True, text=True, errors="replace", timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a very slow disk
        return None
    return done.stdout if done.returncode == 0 else None
