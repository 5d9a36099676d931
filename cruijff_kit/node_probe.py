"""What a node of the cluster has of what a job needs, as one line of JSON.

Its text is sent to the node and runs there by itself, so that it can say what is
missing: it imports the standard library alone, and nothing that takes seconds.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from importlib import metadata

MARK = "cruijff-kit-probe "  # before the line: the set-up lines of a profile may print too
PACKAGES = ("torch", "torchtune", "inspect-ai", "hydra-core", "cruijff-kit")


def versions() -> dict[str, str | None]:
    """Of Python and the packages that jobs need; None of one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def folder_fault(folder: str) -> str | None:
    """Why nothing can be written in `folder`, or None."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{error.strerror}"


def file_faults(sizes: dict[str, int]) -> dict[str, str]:
    """What is wrong with each file that cannot be read, or is of another size than `sizes` has it."""
    faults = {path: _file_fault(path, size) for path, size in sizes.items()}
    return {path: fault for path, fault in faults.items() if fault}


def _file_fault(path: str, size: int) -> str | None:
    try:
        with open(path, "rb") as file:
            file.read(1)
            there = os.fstat(file.fileno()).st_size
    except OSError as error:
        return f"{error.strerror}"
    return None if there == size else f"has {there:,} bytes there and {size:,} here"


def gpus() -> list[str] | None:
    """The GPUs that the job may use, as Slurm or else nvidia-smi names them; None where neither says."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if name in os.environ:
            return [part for part in os.environ[name].split(",") if part not in ("", "NoDevFiles")]
    return nvidia_smi()


def nvidia_smi() -> list[str] | None:
    """What `nvidia-smi -L` lists: nothing where the driver does not work; None where there is no such program."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.startswith("GPU ")]


def main(request: dict) -> None:
    found = {
        "host": socket.gethostname() if "SLURMD_NODENAME" not in os.environ else os.environ["SLURMD_NODENAME"],
        "versions": versions(),
        "folder": folder_fault(request["folder"]),
        "files": file_faults(request["files"]),
        "gpus": gpus(),
        "nvidia_smi": nvidia_smi(),
    }
    print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
