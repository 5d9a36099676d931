"""What came of a job of submitit's that is over."""

import os
from pathlib import Path
from typing import Any, Optional, Tuple

from hydra.core.utils import JobReturn

from ._failures import last_line


def outcome(handle: Any) -> Tuple[Optional[JobReturn], Optional[Exception], str]:
    """The result of a job that is over; or the exception, and why in one line."""
    from submitit.core.utils import UncompletedJobError

    if not handle.paths.result_pickle.exists():  # submitit would wait 15 s for it
        why = "its process died without a result (killed, or out of memory?)"
        return None, UncompletedJobError(f"{why}; see {handle.paths.stdout}"), why
    try:
        error = handle.exception()
        if error is None:
            return handle.result(), None, ""
    except Exception as broken:  # a result that cannot be read back
        return None, broken, f"{type(broken).__name__}: {broken}"
    return None, error, last_line(_trace(str(error)))


def _trace(message: str) -> str:
    """The traceback within the message of submitit's FailedJobError."""
    return message.partition("\n----------------------\n")[2].rpartition("\n----------------------\n")[0]


def log_path(handle: Any) -> Path:
    return Path(os.path.abspath(handle.paths.stdout))
