"""Whether an evaluation sends the prompts that its model was trained on, found while the model is loaded.

    python -m cruijff_kit.parity_probe TRAIN_CONFIG MODEL_DIR RESULT

That is a process of its own, because importing torchtune takes seconds, and it keeps off the GPU. The answer is kept
in the experiment's hidden folder, where parity_key names it, so that the next run of a sweep need not ask again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cruijff_kit import atomic, parity_key, prompt_check, side_process, torchtune_catalog
from cruijff_kit.prompt_text import NOT_COMPARED
from cruijff_kit.side_process import NoAnswer, SideProcess

LIMIT_S = 300.0
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Parity:
    """What the comparison found: nothing where the prompts are the same.

    Args:
        warnings: the first difference in each dataset, with both prompts one below the other.
        notes: what was not compared, and why.
    """

    warnings: list[str]
    notes: list[str]

    def as_dict(self) -> dict[str, list[str]]:
        return asdict(self)

    @classmethod
    def of(cls, value: Any) -> Parity:
        """The Parity whose as_dict this is.

        Raises:
            ValueError: it is none's.
        """
        lists = [value.get(name) for name in ("warnings", "notes")] if isinstance(value, dict) else []
        if not lists or not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists):
            raise ValueError("it holds no warnings and notes")
        return cls(*lists)


def start(train_config: Path, model_dir: Path, hidden: Path, limit_s: float = LIMIT_S) -> Probe:
    """Starts to compare the prompts, if it is not known already how they compare.

    Args:
        train_config: file with the composed torchtune config that the model was trained with.
        model_dir: the folder that the tokenizer of the evaluated model is loaded from.
        hidden: the hidden folder of the experiment, in whose folder the training was started.
        limit_s: seconds from now, after which it counts as hanging.
    """
    key = parity_key.digest(train_config, model_dir, hidden)
    kept = hidden / "parity" / f"{key}.json" if key else None
    known = _read(kept) if kept else None
    if known is not None:
        return Probe(lambda: known)
    try:
        process = SideProcess(__name__, train_config.absolute(), model_dir.absolute(), environment=NO_GPU, folder=hidden.absolute().parent)
    except OSError as error:
        reason = str(error)
        return Probe(lambda: _not_compared(reason))
    end = time.monotonic() + limit_s
    return Probe(lambda: _answer(process, end, limit_s, kept), process)


class Probe:
    """A comparison that is under way, or has been made; a context manager that ends what still runs."""

    def __init__(self, ask: Callable[[], Parity], process: SideProcess | None = None) -> None:
        self._ask, self._process = ask, process
        self._found: Parity | None = None

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def finish(self) -> Parity:
        """What was found, once it is; why not is a note."""
        if self._found is None:
            self._found = self._ask()
        return self._found

    def close(self) -> None:
        """Ends what still runs."""
        if self._process is not None:
            self._process.end()


def _answer(process: SideProcess, end: float, limit_s: float, kept: Path | None) -> Parity:
    try:
        parity = Parity.of(process.answer(max(0.0, end - time.monotonic())))
    except subprocess.TimeoutExpired:
        return _not_compared(f"that took more than {limit_s:g} s, and was ended")
    except NoAnswer as error:
        return _not_compared(str(error))
    if kept is not None:
        _keep(kept, parity)
    return parity


def _not_compared(why: str) -> Parity:
    return Parity([], [NOT_COMPARED + why])


def _read(path: Path) -> Parity | None:
    try:
        return Parity.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # a cache: without it, the comparison is made again
        return None


def _keep(path: Path, parity: Parity) -> None:
    try:
        atomic.write_json(path, parity.as_dict())
    except OSError as error:  # a full disk is no reason to end the evaluation here
        print(f"warning: {path} cannot be written: {error.strerror}", file=sys.stderr, flush=True)


def main(train_config: str, model_dir: str, result: str) -> None:
    side_process.end_with_parent()
    faults = prompt_check.compare(torchtune_catalog.read_config(train_config), Path(model_dir))
    texts: dict[str, list[str]] = {"warning": [], prompt_check.NOTE: []}
    for fault in faults:
        texts[fault.level].append("\n".join(filter(None, (fault.what, fault.fix))))
    atomic.write_json(Path(result), Parity(*texts.values()).as_dict())


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # a thread that a component started and left is waited for by nobody
