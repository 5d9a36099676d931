"""A process that builds one evaluation task, as the evaluation script would, and writes what it is to a file.

    python -m cruijff_kit.task_build SCRIPT INDEX RESULT

The script is one of `generate`'s: it is read, not run. What the task's code prints goes to this process's
output, which nobody reads; the result goes to the file RESULT, whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from cruijff_kit import atomic, offline, side_process
from cruijff_kit.evaluate import load_task
from cruijff_kit.evaluation_request import Request
from cruijff_kit.visible_text import said

PROMPT_LENGTH = 500


def main(script: str, index: str, result: str) -> None:
    side_process.end_with_parent()
    request = Request.in_script(Path(script))
    task = request.tasks[int(index)]
    try:
        with contextlib.chdir(request.folder):
            facts = _facts(load_task(task))
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # SystemExit too: a task file that calls exit() would end the evaluation
        facts = _failure(error, request, Path(task["file"]))
    atomic.write_text(Path(result), json.dumps(facts))


def _facts(task: Any) -> dict[str, Any]:
    samples = len(task.dataset)
    return {"samples": samples, "first_prompt": _prompt(task.dataset[0].input) if samples else None}


def _prompt(given: Any) -> str:
    """A sample's input: text, or messages."""
    text = given if isinstance(given, str) else "\n".join(f"{message.role}: {message.text}" for message in given)
    return text if len(text) <= PROMPT_LENGTH else text[: PROMPT_LENGTH - 1] + "…"


def _failure(error: BaseException, request: Request, file: Path) -> dict[str, Any]:
    where, line = _place(error, (file.parent, request.folder), file)
    what = said(error)
    if isinstance(error, SystemExit):
        what = f"it ends the process: {what}"
    elif "__registry_info__" in str(error):  # Inspect's decorator looks for it on what the function returns
        what = "it returns no Task"
    place = request.shown(where) + (f":{line}" if line else "")
    return {"failure": f"{place}: {what}", "offline": offline.is_missing(error)}


def _place(error: BaseException, folders: tuple[Path, ...], file: Path) -> tuple[Path, int | None]:
    """The innermost line of the user's own: in one of `folders`, and of no library."""
    libraries = [Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    for name, line in reversed(frames):
        path = Path(name)
        if any(map(path.is_relative_to, folders)) and not any(map(path.is_relative_to, libraries)):
            return path, line
    return file, None


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # a thread that the task started and left is waited for by nobody
