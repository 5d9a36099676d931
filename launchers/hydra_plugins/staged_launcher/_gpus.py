"""The GPUs of this machine, as words that CUDA_VISIBLE_DEVICES takes."""

import re
import subprocess
from typing import List, Mapping

NVIDIA_SMI_TIMEOUT_S = 20


def visible_gpus(environ: Mapping[str, str]) -> List[str]:
    """The GPUs that a job may be given: those of CUDA_VISIBLE_DEVICES where it is set, else all."""
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    return parse_visible(listed) if listed is not None else parse_listing(_nvidia_smi())


def parse_visible(text: str) -> List[str]:
    """The devices named; CUDA itself stops at the first that is invalid, of which -1 is the usual one."""
    tokens: List[str] = []
    for token in (part.strip() for part in text.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", token):
            break
        tokens.append(token)
    return tokens


def parse_listing(text: str) -> List[str]:
    """The devices of `nvidia-smi -L`: an index for each GPU, or the slices of one that MIG divides."""
    devices: List[List[str]] = []
    for line in text.splitlines():
        gpu = re.match(r"GPU (\d+):", line)
        mig = re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)
        if gpu:
            devices.append([gpu[1]])
        elif mig and devices:
            devices[-1].append(mig[1])
    return [name for gpu, *slices in devices for name in slices or [gpu]]


def _nvidia_smi() -> str:
    """What it prints; nothing where it is missing, fails or hangs, as it does with a broken driver."""
    try:
        run = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout if run.returncode == 0 else ""
