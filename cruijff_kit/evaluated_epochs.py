"""Which epochs of a training are evaluated, and which of them therefore stay on the disk. Values only."""

from __future__ import annotations

from collections.abc import Sequence


def evaluated(epochs: int, wanted: str | Sequence[int] = "last") -> list[int]:
    """The epochs that evaluations read of a training of `epochs`: they stay, whatever else is removed.

    Args:
        wanted: `evaluation.checkpoint` of experiment.yaml.
    """
    if isinstance(wanted, str):
        return list(range(epochs)) if wanted == "all" else [epochs - 1]
    return sorted(wanted)


def staying(epochs: int, wanted: str | Sequence[int] = "last") -> list[int]:
    """The epochs that stay where `keep_checkpoints` is `last`: those that are evaluated, and the one that the training ends with."""
    return sorted({*evaluated(epochs, wanted), epochs - 1})


def at_once(epochs: int, keep_checkpoints: str, wanted: str | Sequence[int] = "last") -> int:
    """How many epochs of a training of `epochs` lie on the disk at the same time, at most.

    Args:
        keep_checkpoints: as in experiment.yaml; an epoch stays until the next one is whole.
        wanted: `evaluation.checkpoint` of experiment.yaml.
    """
    return epochs if keep_checkpoints == "all" else min(epochs, len(staying(epochs, wanted)) + 1)
