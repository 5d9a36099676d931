"""`cruijff-kit results`, and what `run` ends with: the scores on stdout or in a file, and on stderr what was skipped."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cruijff_kit import columns, results_files, results_table
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.experiment import read
from cruijff_kit.paths import Layout
from cruijff_kit.replicates import Mean, means
from cruijff_kit.results import Results, collect


@dataclass(frozen=True)
class Form:
    """How they are wanted: see cli_parser; brief: as results_table has it."""

    csv: bool = False
    json: bool = False
    parquet: Path | None = None
    only_means: bool = False
    force: bool = False
    brief: bool = False


def show(found: Results, form: Form) -> None:
    """Prints or writes them.

    Raises:
        CruijffKitError: the file is there already, or cannot be written; there are no means.
    """
    for note in found.notes:
        print(note, file=sys.stderr)
    summed = means(found.scores)
    if form.only_means and not summed:
        raise CruijffKitError("no two runs differ in their seed alone, so that there are no means: variables: seed: [1, 2, 3]")
    rows = results_files.records(summed if form.only_means else found.scores)
    if form.csv:
        results_files.write_csv(rows, sys.stdout)
    elif form.json:
        _print_json(found, results_files.records(summed), rows, form)
    elif form.parquet is not None:
        _write(form.parquet, rows, form.force)
    else:
        _print(found, summed, form)


def print_new(folder: Path, since: float) -> None:
    """The table of scores, if one was made after the time `since`."""
    experiment, _ = read(folder)
    places = ("*/*/results.json", "*/epoch_*/*/results.json")
    written = (path.stat().st_mtime for place in places for path in Layout.of(experiment).eval_results.glob(place))
    if experiment.spec.evaluation.enabled and max(written, default=0) >= since:
        show(collect(folder), Form(brief=True))


def _print_json(found: Results, summed: list[dict[str, object]], rows: list[dict[str, object]], form: Form) -> None:
    import json

    about = found.state.experiment.spec.experiment
    scores = {} if form.only_means else {"scores": results_files.as_json(rows)}
    values = {"experiment": about.name, "question": about.question, **scores, "means": results_files.as_json(summed), "notes": found.notes}
    print(json.dumps(values, indent=2, ensure_ascii=False, default=str))


def _write(path: Path, rows: list[dict[str, object]], force: bool) -> None:
    if path.exists() and not force:
        raise CruijffKitError(f"{path} is there already: --force overwrites it")
    try:
        results_files.write_parquet(rows, path)
    except OSError as error:
        raise CruijffKitError(f"{path} cannot be written: {os.strerror(error.errno) if error.errno else error}") from error
    print(f"{path}: {len(rows)} rows", file=sys.stderr)


def _print(found: Results, summed: list[Mean], form: Form) -> None:
    console = columns.console()
    name = found.state.experiment.name
    if not form.only_means:
        results_table.print_table(f"Scores of {name}", results_table.lines(found.scores, console.width, form.brief), console)
    if summed:
        results_table.print_table(f"{'' if form.only_means else chr(10)}Means over seeds of {name}", results_table.mean_lines(summed, console.width), console)
