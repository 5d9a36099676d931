"""How far a stage is, from the end of its log: torchtune's progress bar, and what an evaluation says.

Read in the launcher while jobs run: imports nothing heavy. The bar is that of torchtune 0.6.1
(recipes/lora_finetune_single_device.py, train), which all its recipes that fine-tune share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cruijff_kit import log_text

_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|inf)"
# The second number is the step since the beginning of all epochs, or of the last resume in some recipes. It is written
# after the bar has moved on, and one behind for a moment: the bar's own count is taken.
_BAR = re.compile(
    rf"(?P<epoch>\d{{1,9}})\|\d{{1,12}}\|Loss: (?P<loss>{_NUMBER}):\s+\d+%\|[^|]*\|\s*(?P<step>\d+)/(?P<steps>\d+)"
    r" \[[\d:]+<(?P<left>[\d:]+|\?),\s*(?P<rate>[\d.]+|\?)(?P<unit>it/s|s/it)"  # to its end: a log may end within it
)
_OF_A_RUN = re.compile(r"(run_\d+|base) \S+:")
# not the command of the stage, which is printed in the same form: `run_000 eval: python configs/eval_000.py`
_OF_A_TASK = re.compile(rf"(run_\d+|base) \S+: (?:\d+ samples|(?:error|cancelled|started): .*|.+ {_NUMBER})$")


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Args:
        epoch: the one that is trained, from 1.
        step, steps: of this epoch, as the bar shows them.
        tokens_per_s: of one GPU.
        remaining_s: of the whole training.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    tokens_per_s: float | None
    remaining_s: int | None


@dataclass(frozen=True)
class Bar:
    """torchtune's progress bar, which is one epoch's.

    Args:
        left_s: of this epoch.
        step_s: how long a step takes.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    left_s: int | None
    step_s: float | None

    @classmethod
    def of(cls, line: str) -> Bar | None:
        """The bar that a line shows; None if it shows none, or one that has not got its first step yet."""
        match = _BAR.search(line)
        if match is None:
            return None
        counts = (int(match[name]) for name in ("epoch", "step", "steps"))
        return cls(*counts, float(match["loss"]), _seconds(match["left"]), _step_s(match["rate"], match["unit"]))

    def remaining_s(self, epochs: int) -> int | None:
        """Of all epochs: what is left of this one, and the others at the same rate."""
        if self.left_s is None:
            return None
        if self.epoch >= epochs:
            return self.left_s
        return None if self.step_s is None else round(self.left_s + (epochs - self.epoch) * self.steps * self.step_s)


def of_training(log_tail: str, tokens_per_s: float | None, epochs: int) -> Progress | None:
    """How far a training of so many epochs is; None before its first step.

    Args:
        tokens_per_s: what its logger wrote last, which the bar does not show.
    """
    for line in reversed(re.split(r"[\r\n]", log_text.last_start(log_tail))):
        bar = Bar.of(line)
        if bar is not None:
            return Progress(bar.epoch, epochs, bar.step, bar.steps, bar.loss, tokens_per_s, bar.remaining_s(epochs))
    return None


def of_evaluation(log_tail: str) -> str | None:
    """The last that an evaluation said of a task: `run_000 capitalize: 12 samples`, or its scores."""
    said = log_text.pieces(log_text.last_start(log_tail))
    return next((line for line in reversed(said) if _OF_A_TASK.match(line)), None)


def shown(line: str) -> str | None:
    """What to show of a line of a log: the bar as `epoch 1 step 5/20 loss 2.31`, what is said of a run, and nothing else."""
    bar = Bar.of(line)
    if bar is not None:
        return f"epoch {bar.epoch} step {bar.step}/{bar.steps} loss {bar.loss:.4g}"
    return line if _OF_A_RUN.match(line) else None


def _seconds(clock: str | None) -> int | None:
    """`2:03:04` or `03:04`, as tqdm writes a time."""
    if clock is None or not re.fullmatch(r"\d+(?::\d+)*", clock):
        return None
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return seconds


def _step_s(rate: str | None, unit: str | None) -> float | None:
    """tqdm shows whichever of the two is more than 1."""
    if rate is None or not re.fullmatch(r"\d+(?:\.\d+)?", rate) or not float(rate):
        return None
    return float(rate) if unit == "s/it" else 1 / float(rate)
