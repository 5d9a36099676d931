"""What a job is saying now, from the end of its log."""

from pathlib import Path
from typing import Any, Optional

from cruijff_kit.log_follow import tail
from cruijff_kit.log_text import pieces

from ._hooks import shown

TAIL_BYTES = 8192


def current_line(log: Optional[Path], hooks: Any) -> Optional[str]:
    """The last line that the application's hook has a text for; None where there is none."""
    for piece in reversed(pieces(tail(log, TAIL_BYTES)) if log is not None else []):
        text = shown(hooks, piece)
        if text:
            return text
    return None
