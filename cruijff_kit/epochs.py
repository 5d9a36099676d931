"""The epochs that a training saves: which of them nothing needs any more, and how they are removed. No torch.

Only folders that torchtune made in the training's own checkpoints folder are ever removed. That folder may be a link to
a bigger disk; an epoch that is a link, because someone moved it elsewhere, stays.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cruijff_kit import checkpoint, resume

GONE = ".removed."  # before the name of what is being removed: nothing takes that for an epoch or a state, however much is left


def _folders(checkpoints: Path) -> Iterator[Path]:
    try:
        with os.scandir(checkpoints) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:  # not there yet, or not to be read: then nothing is removed
        return
    yield from (checkpoints / name for name in names)


def _saved(checkpoints: Path) -> dict[int, Path]:
    found = ((path, re.fullmatch(r"epoch_(\d+)", path.name)) for path in _folders(checkpoints))
    return {int(match[1]): path for path, match in sorted(found, key=lambda pair: pair[0].name) if match}


def _left_over(checkpoints: Path) -> list[Path]:
    """What a removal that was killed has left."""
    return [path for path in _folders(checkpoints) if path.name.startswith(GONE)]


def unneeded_meanwhile(checkpoints: Path, kept: Collection[int], resumable: bool, adapter: bool = False) -> list[Path]:
    """What a training that is going on, and may be killed at any moment, has no more use for.

    Args:
        kept: the epochs that stay.
        resumable: its recipe is one of ours, and goes on from the newest state that is whole with the weights of that epoch.
        adapter: it saves its adapter alone.
    """
    saved = _saved(checkpoints)
    if len(saved) < 2:
        return _left_over(checkpoints)
    newest = _last_of_state(checkpoints) if resumable else _last_whole(saved, adapter)
    return [*_left_over(checkpoints), *_before(saved, newest, kept)]


def unneeded_at_the_end(checkpoints: Path, last: int, kept: Collection[int]) -> list[Path]:
    """What a finished training has no more use for; without the weights of its epoch a recipe state is of none."""
    states = [path for path in _folders(checkpoints) if path.name in (resume.STATE, resume.BEFORE)]
    return [*_left_over(checkpoints), *_before(_saved(checkpoints), last, kept), *states]


def _before(saved: dict[int, Path], epoch: int, kept: Collection[int]) -> list[Path]:
    return [path for number, path in sorted(saved.items()) if number < epoch and number not in kept]


def _last_of_state(checkpoints: Path) -> int:
    state = resume.last_state(checkpoints)
    return state.epochs_run - 1 if state else -1


def _last_whole(saved: dict[int, Path], adapter: bool) -> int:
    """The newest epoch whose model, or adapter, is whole.

    A model's index is written after its last shard (torchtune 0.6.1, FullModelHFCheckpointer.save_checkpoint): before that
    the first shards alone would pass for the model. Of an adapter the config comes last.
    """
    indexed = (number for number in sorted(saved, reverse=True) if adapter or (saved[number] / checkpoint.INDEX).is_file())
    return next((number for number in indexed if checkpoint.fault(saved[number], adapter) is None), -1)


def remove(path: Path) -> None:
    """Removes a folder so that a kill in the middle leaves none that looks whole.

    Raises:
        OSError: it cannot be removed, or not all of it.
    """
    gone = path
    if not path.name.startswith(GONE):
        gone = path.with_name(f"{GONE}{path.name}")
        os.rename(path, gone)
    shutil.rmtree(gone)


@dataclass
class EarlierEpochs:
    """Those of one training: they go as soon as nothing needs them, and a disk that refuses is no fault of the training's.

    Args:
        kept: the epochs that stay; None for all.
        check: raises if the folder is not ours any more.
        adapter: the training saves its adapter alone.
    """

    checkpoints: Path
    kept: Collection[int] | None
    resumable: bool
    check: Callable[[], None]
    adapter: bool = False
    _said: bool = field(default=False, init=False)

    def remove_meanwhile(self) -> None:
        """Call it again and again while the training goes on."""
        self.check()
        if self.kept is not None:
            self._remove(unneeded_meanwhile(self.checkpoints, self.kept, self.resumable, self.adapter))

    def remove_at_the_end(self, last: int) -> None:
        """Call it once the model of the epoch `last`, which ends the training, is known to be whole."""
        if self.kept is not None:
            self._remove(unneeded_at_the_end(self.checkpoints, last, self.kept))

    def _remove(self, paths: Collection[Path]) -> None:
        for path in paths:
            self.check()
            try:
                remove(path)
            except OSError as error:
                if not self._said:
                    print(f"warning: {path} could not be removed: {error}", file=sys.stderr, flush=True)
                self._said = True
