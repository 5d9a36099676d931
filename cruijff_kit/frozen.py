"""The config and script of a queued stage, as they were at submission: what is edited later changes no queued job."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from cruijff_kit import atomic
from cruijff_kit.paths import HIDDEN


def freeze(files: Mapping[str, str]) -> bytes:
    """Files, name to text, as a value within a Hydra config: bytes, where text would have its `${` resolved."""
    return zlib.compress(json.dumps(files, sort_keys=True).encode())


def place(folder: Path, frozen: bytes) -> Path:
    """Where the files lie when they are thawed: a folder named by their content; `folder` is the experiment's."""
    return folder / HIDDEN / "frozen" / hashlib.sha256(zlib.decompress(frozen)).hexdigest()[:16]


def thaw(folder: Path, frozen: bytes) -> None:
    """Writes the files at their place; stages of one run may do so at once."""
    for name, text in json.loads(zlib.decompress(frozen)).items():
        path = place(folder, frozen) / name
        if not path.exists():
            atomic.write_text(path, text)
