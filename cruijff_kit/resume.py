"""What an interrupted training goes on from: the state and the weights of its last finished epoch. No torch.

torchtune 0.6.1 writes the state over that of the epoch before, and nothing tells which epoch it
belongs to, or whether all of it is there. Our recipes keep the state of the epoch before until the
new one is whole, and then leave a mark beside it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cruijff_kit import atomic
from cruijff_kit.checkpoint import CONFIG_COPY, UNFINISHED

STATE = "recipe_state"  # torchtune's name for it, RECIPE_STATE_DIRNAME
FILE = "recipe_state.pt"
BEFORE = "recipe_state_before"
MARK = "finished.json"


@dataclass(frozen=True)
class State:
    """A whole recipe state.

    Args:
        folder: where it lies.
        epochs_run: how many epochs were finished.
        weights: the files that go with it, below the checkpoints' folder.
    """

    folder: Path
    epochs_run: int
    weights: Sequence[str]

    @property
    def config_copy(self) -> Path:
        """The config that it was trained with."""
        return self.folder / CONFIG_COPY


def last_state(checkpoints: Path) -> State | None:
    """The newest state that is whole, with its weights; `checkpoints` is the checkpointer's output_dir."""
    return _marked(checkpoints / STATE) or _marked(checkpoints / BEFORE)


def _marked(folder: Path) -> State | None:
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        files = {folder / FILE: mark["state"], **{folder.parent / name: size for name, size in mark["weights"].items()}}
        whole = all(path.stat().st_size == size for path, size in files.items())
        return State(folder, mark["epochs_run"], list(mark["weights"])) if whole else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def unmatched(checkpoints: Path, state: State) -> list[Path]:
    """What a killed training left that is newer than `state`: torchtune would take the weights there with this state."""
    epochs = [(path, re.match(r"epoch_(\d+)", path.name)) for path in sorted(checkpoints.iterdir())]
    newer = [path for path, match in epochs if match and int(match[1]) >= state.epochs_run]
    half = [checkpoints / STATE] if state.folder.name == BEFORE and (checkpoints / STATE).exists() else []
    return newer + half


def reinstate(checkpoints: Path, state: State) -> None:
    """Puts `state` where torchtune looks for it; call it once `unmatched` is out of the way."""
    if state.folder.name == BEFORE:
        os.rename(state.folder, checkpoints / STATE)


@contextmanager
def unfinished(epoch: Path) -> Iterator[None]:
    """Marks the folder of an epoch while its files are written: a kill leaves the mark."""
    epoch.mkdir(parents=True, exist_ok=True)
    (epoch / UNFINISHED).touch()
    yield
    (epoch / UNFINISHED).unlink()


def keep_state(checkpoints: Path) -> None:
    """Puts the state of the epoch before where torchtune does not write over it."""
    if _marked(checkpoints / STATE):
        shutil.rmtree(checkpoints / BEFORE, ignore_errors=True)
        os.rename(checkpoints / STATE, checkpoints / BEFORE)
    (checkpoints / STATE / MARK).unlink(missing_ok=True)


def mark(checkpoints: Path, epochs_run: int, weights: Sequence[str], config: str) -> None:
    """Says that the state is whole and goes with `weights`; that of the epoch before is then of no more use."""
    folder = checkpoints / STATE
    atomic.write_text(folder / CONFIG_COPY, config)
    sizes = {name: (checkpoints / name).stat().st_size for name in weights}
    state = (folder / FILE).stat().st_size
    atomic.write_json(folder / MARK, {"epochs_run": epochs_run, "state": state, "weights": sizes})
    shutil.rmtree(checkpoints / BEFORE, ignore_errors=True)
