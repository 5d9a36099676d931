"""What went wrong, as exceptions that Hydra prints without a traceback, and as one line of text."""

import re

from hydra.errors import CompactHydraException


class ExtrasFailed(CompactHydraException):
    """Raised by a launcher when every point succeeded and a job beside the points failed.

    `returns` holds the points' results, for a sweeper that has more batches to run.
    """

    def __init__(self, message: str, returns: list) -> None:
        super().__init__(message)
        self.returns = returns


def last_line(text: str) -> str:
    """The line of a printed traceback that says what was raised: `RuntimeError: out of memory`.

    An exception's message may go on below that line, so it is the first line that is not indented
    after the last `Traceback`; in any other text it is the last line that is not blank.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent")]
    raised = [line for line in lines[starts[-1] + 1 :] if not line[0].isspace()] if starts else []
    line = (raised or lines[-1:] or [""])[0].strip()
    return re.sub(r"^(?:\w+\.)+(?=\w+: )", "", line)  # the exception's name without its module
