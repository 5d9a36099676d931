"""What runs that differ in their seed alone have in common: mean and confidence interval of each of their scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cruijff_kit.paths import BASELINE
from cruijff_kit.results import SUCCESS, Score

SEED = "seed"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """A point of the sweep, seeds aside, at a checkpoint, in one metric of a task.

    Args:
        params: without the seed.
        mean: None where no replicate has a score.
        sd: of the replicates, from n - 1; None of fewer than two.
        low, high: the 95 % confidence interval of the mean over seeds, by Student's t; None of fewer than two.
        n: the replicates that have a score.
        missing: those that have none, or none of the same evaluation.
        note: what else one should know: how the scores were made otherwise than experiment.yaml says, and which were left out.
    """

    run: str
    params: Mapping[str, Any]
    checkpoint: str
    task: str
    scorer: str
    metric: str
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    n: int
    missing: int
    note: str = ""


def means(scores: Sequence[Score]) -> list[Mean]:
    """One for each point, in the order of `scores`; none at all where no two runs differ in their seed alone."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(_point(score), []).append(score)
    if all(len({score.run for score in group}) < 2 for group in groups.values()):
        return []
    return [_mean(group) for group in groups.values()]


def _point(score: Score) -> str:
    baseline = score.run if score.run == BASELINE else ""
    return json.dumps([baseline, _params(score), score.checkpoint, score.task, score.scorer, score.metric], default=str, sort_keys=True)


def _params(score: Score) -> dict[str, Any]:
    return {name: value for name, value in score.params.items() if name != SEED}


def _mean(group: Sequence[Score]) -> Mean:
    first = group[0]
    alike, notes = _alike(group)
    values = [score.value for score in alike if score.value is not None and math.isfinite(score.value)]
    if wrong := len(alike) - len(values):
        notes.append(f"{wrong} not finite")
    mean, sd, half = _summary(values)
    low, high = (mean - half, mean + half) if mean is not None and half is not None else (None, None)
    run = first.run if first.run == BASELINE else ""
    where = (first.checkpoint, first.task, first.scorer, first.metric)
    return Mean(run, _params(first), *where, mean, sd, low, high, len(values), len(group) - len(values), "; ".join(notes))


def _alike(group: Sequence[Score]) -> tuple[list[Score], list[str]]:
    """The scores that were made in the same way, as experiment.yaml says if any was, and what to say of them and of the others."""
    made = [score for score in group if score.status == SUCCESS]
    wanted = min((score.note for score in made), key=bool, default="")
    alike = [score for score in made if score.note == wanted]
    others = [score.note or "as experiment.yaml says" for score in made if score.note != wanted]
    seeds = {json.dumps(score.params.get(SEED), default=str) for score in alike}
    return alike, [
        *([wanted] if wanted else []),
        *(f"without one made otherwise: {note}" for note in others),
        *([f"{len(alike)} runs have {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"] if 0 < len(seeds) < len(alike) else []),
    ]


def _summary(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean, standard deviation, and half of the confidence interval."""
    from statistics import fmean, stdev

    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return (values[0] if values else None), None, None
    sd = stdev(values)
    return fmean(values), sd, float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
