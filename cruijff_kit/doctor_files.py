"""What the doctor finds on this machine's disks: the base weights, and the room for what the sweep will write. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, evaluated_epochs
from cruijff_kit.config_tree import find
from cruijff_kit.disk_space import free_bytes, human, occupied_bytes
from cruijff_kit.doctor_report import Check
from cruijff_kit.plan import Plan
from cruijff_kit.torchtune_config import weight_files


def check(made: Plan) -> Iterator[Check]:
    yield _weights(made)
    yield _room(made)


def base_weights(made: Plan) -> dict[Path, int | None]:
    """The files of base weights that the runs are trained from, and their sizes; None of one that cannot be read."""
    paths = [path for run in made.all_runs for path in _files(made, run.config)]
    return {path: path.stat().st_size if os.access(path, os.R_OK) else None for path in dict.fromkeys(paths)}


def _files(made: Plan, config: Mapping[str, Any]) -> list[Path]:
    folder, names = made.composer.weights_folder(config), weight_files(find(config, "checkpointer.checkpoint_files"))
    return [folder / name for name in names or ()] if folder else []


def _weights(made: Plan) -> Check:
    sizes = base_weights(made)
    unreadable = [path for path, size in sizes.items() if size is None]
    if unreadable:
        more = f" and {len(unreadable) - 1} more" if unreadable[1:] else ""
        return Check("weights", "failed", f"{unreadable[0]}{more} cannot be read", "download them, or ask for permission to read them")
    if not sizes:
        return Check("weights", "warning", "the configs name no weight files: not checked")
    folders = ", ".join(sorted({str(path.parent) for path in sizes}))
    count = f"{len(sizes)} file{'' if len(sizes) == 1 else 's'}"
    return Check("weights", "ok", f"{count}, {human(sum(size or 0 for size in sizes.values()))} in {folders}")


def _room(made: Plan) -> Check:
    """Whether the checkpoints to come fit: of merged weights alone, the optimizer's state is known to `check --deep`."""
    free, adapters = free_bytes(made.layout.results), [run for run in made.runs if run.config.get("save_adapter_weights_only")]
    keep = made.experiment.spec.output.keep_checkpoints
    needed = sum(_bytes_to_come(made, run.id, run.config) for run in made.runs)
    note = f"; {len(adapters)} of {len(made.runs)} runs save adapters alone, not counted" if adapters else ""
    what = f"the weights of {'all epochs' if keep == 'all' else 'the epochs that lie there at once'} take {human(needed)} more, and {human(free)} are free in {made.layout.results}{note}"
    if needed <= free:
        return Check("disk", "ok", what)
    fix = "name a folder on a bigger disk (output.results_dir), keep only the last epoch (output.keep_checkpoints: last), or set save_adapter_weights_only: true"
    return Check("disk", "failed", what, fix)


def _bytes_to_come(made: Plan, run: str, config: Mapping[str, Any]) -> int:
    """Beyond what the run's results take now."""
    if config.get("save_adapter_weights_only"):
        return 0
    number, spec = config.get("epochs"), made.experiment.spec
    saved = evaluated_epochs.at_once(number, spec.output.keep_checkpoints, spec.evaluation.checkpoint) if isinstance(number, int) else 1
    model = sum(_saved_bytes(path, str(config.get("dtype"))) for path in _files(made, config))
    return max(0, saved * model - occupied_bytes(made.layout.run_results(run)))


@cache
def _saved_bytes(path: Path, dtype: str) -> int:
    """What the weights in `path` take when they are saved in the training's dtype, by the file's header."""
    try:
        return checkpoint.bytes_in(path, dtype)
    except (OSError, ValueError, LookupError, TypeError):  # another dtype, too
        return path.stat().st_size if path.is_file() else 0
