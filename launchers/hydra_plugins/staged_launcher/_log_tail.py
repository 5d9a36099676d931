"""What a job is saying now, from the end of its log."""

import os
import re
from pathlib import Path
from typing import Any, List, Optional

from ._hooks import shown

TAIL_BYTES = 8192
_SUBMITITS_OWN = re.compile(r"^submitit INFO|\[submitit\]\[INFO\]")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def current_line(log: Optional[Path], hooks: Any) -> Optional[str]:
    """The last line that the application's hook has a text for; None where there is none."""
    for piece in reversed(pieces(_tail(log)) if log is not None else []):
        text = shown(hooks, piece)
        if text:
            return text
    return None


def pieces(text: str) -> List[str]:
    """The lines that are not blank, a bar redrawn in place counting as many; without submitit's own."""
    lines = (_ESCAPES.sub("", line).strip() for line in re.split(r"[\r\n]", text))
    return [line for line in lines if line and not _SUBMITITS_OWN.search(line)]


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:  # not begun yet
        return ""
