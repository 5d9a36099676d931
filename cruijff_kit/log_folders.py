"""Which folders Inspect can keep its logs in: it writes to any, and reads back those alone whose path stands for itself as a URL."""

from __future__ import annotations

import re
from pathlib import Path

from cruijff_kit.errors import Problem, printable
from cruijff_kit.experiment import FILE_NAME, Experiment

# What urllib.parse takes for something else or drops: eval_set of inspect_ai 0.3.285 lists logs as URIs, and evals_df reads
# them by those. Both then look in another folder, the first after all samples were run. No other character does so.
_READ_AS_ELSE = re.compile(r"[#?\t\n\r]|%[0-9A-Fa-f]{2}")


def fault(folder: Path) -> str | None:
    """What is wrong with a folder that logs are to lie below; None if nothing is."""
    found = _READ_AS_ELSE.search(str(folder))
    return found and f"{printable(str(folder))} has {found[0]!r} in its path: Inspect would not find the logs of its evaluations there"


def check(experiment: Experiment) -> list[Problem]:
    """What is wrong with the folder of the experiment, or else with that of its evaluations."""
    if not experiment.spec.evaluation.enabled:
        return []
    if what := fault(experiment.folder):
        return [Problem(FILE_NAME, what, fix="move or rename the folder")]
    what = fault(experiment.path(experiment.spec.output.eval_results_dir))
    return [experiment.source.problem(("output", "eval_results_dir"), what, "name another folder")] if what else []
