"""How full a disk is, and what is on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def bytes_below(folder: Path) -> int:
    """Bytes of the files below `folder`, links not followed."""
    paths = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths)
