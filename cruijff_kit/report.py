"""`cruijff-kit report`: an experiment and its scores as one HTML file that needs nothing beside it, neither script nor network."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cruijff_kit import __version__, atomic, records, report_figures, report_records, report_tables, report_training, run_mapping, training_metrics
from cruijff_kit.disk_space import human
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.experiment import FILE_NAME, Experiment
from cruijff_kit.replicates import means
from cruijff_kit.report_figures import Figure
from cruijff_kit.report_points import showable
from cruijff_kit.report_records import Kept
from cruijff_kit.results import Results, collect
from cruijff_kit.results_table import shown
from cruijff_kit.run_mapping import Row
from cruijff_kit.stage_state import DONE, OVER_BADLY, WAITING

TEMPLATE = "report.html.jinja"
MARK = '<meta name="generator" content="cruijff-kit '  # of what we may overwrite
MARK_WITHIN = 1000  # characters from the beginning


def write(folder: Path, output: Path | None = None, force: bool = False) -> str:
    """Writes the report of the experiment in `folder`, and returns where, and what is in it.

    Args:
        output: the file; `folder`/report.html by default.
        force: it may be one that we did not write.

    Raises:
        As results.collect.
        CruijffKitError: the file is somebody else's, or cannot be written.
    """
    path = output or folder / "report.html"
    if not force and not _is_ours(path):
        raise CruijffKitError(f"{path} is there already and is no report of cruijff-kit: --force overwrites it, --output FILE writes another")
    if not path.parent.is_dir():
        raise CruijffKitError(f"{path} cannot be written: there is no folder {path.parent}")
    found = collect(folder)
    page = render(values(found))
    try:
        atomic.write_text(path, page)
    except OSError as error:
        raise CruijffKitError(f"{path} cannot be written: {error.strerror or error}") from error
    return f"{path}: {_counts(found)}; {human(len(page.encode()))}"


def _is_ours(path: Path) -> bool:
    """Whether nothing is lost where `path` is overwritten."""
    if not path.exists():
        return True
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return MARK in file.read(MARK_WITHIN)
    except OSError:
        return False


def values(found: Results) -> dict[str, Any]:
    """What the template shows, of an experiment's folder."""
    state = found.state
    kept = list(_kept(found))
    mapping = run_mapping.read(state.layout)
    rows = mapping.rows if mapping else ()
    summed = means(found.scores)
    missing = report_tables.missing(found.scores, state.experiment.spec.evaluation.enabled)
    return {
        "version": __version__,
        "name": state.experiment.name,
        "made": report_records.moment(time.time()),
        "counts": _counts(found),
        "about": _about(state.experiment),
        "plan": [*_plan(state.experiment), *_runs(rows)],
        "warnings": [*_missing_words(missing), *report_records.warnings(kept), *found.notes],
        "scores": report_tables.scores(found.scores) if any(score.metric for score in found.scores) else None,
        "means": report_tables.means(summed) if summed else None,
        "figures": _figures(found),
        "left_out": report_figures.left_out(found.scores),
        "missing": missing,
        "stages": report_records.stages(kept),
        "inputs": report_records.inputs(kept),
        "versions": report_records.versions(kept),
        "commands": report_records.commands(kept, {row.id: row.recipe for row in rows if row.added}),
        "source": (state.layout.folder / FILE_NAME).read_text(encoding="utf-8", errors="replace"),
    }


def render(shown_values: Mapping[str, Any]) -> str:
    """The page; every value in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_showable)
    environment.filters["data_uri"] = lambda svg: f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return environment.get_template(TEMPLATE).render(shown_values, LONG=report_tables.LONG)


def _showable(value: Any) -> Any:
    return showable(value) if type(value) is str else value  # and what is markup already is left alone


def _counts(found: Results) -> str:
    """`12 runs: 11 done, 1 failed; 36 scores, 3 missing`."""
    runs = [run for run in found.state.runs if run.train is not None]
    stages = [[stage.state for stage in run.stages.values()] for run in runs]
    done, bad, waiting = (
        sum(all(state == DONE for state in each) for each in stages),
        sum(any(state in OVER_BADLY for state in each) for each in stages),
        sum(not any(state in OVER_BADLY for state in each) and WAITING in each for each in stages),
    )
    words = [f"{done} done", *([f"{bad} failed"] if bad else []), *([f"{waiting} waiting"] if waiting else [])]
    other = len(runs) - done - bad - waiting
    words += [f"{other} under way"] if other else []
    scored = sum(score.value is not None for score in found.scores)
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}: {', '.join(words)}; {scored} score{'' if scored == 1 else 's'}"


def _about(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """What experiment.yaml says of the question, as far as it does."""
    said = experiment.spec.experiment
    date = said.date.isoformat() if said.date else None
    rows = {"Question": said.question, "Hypothesis": said.hypothesis, "Researcher": said.researcher, "Date": date}
    rows |= {"Tags": ", ".join(said.tags), "Notes": said.notes}
    return ((label, words) for label, words in rows.items() if words)


def _plan(experiment: Experiment) -> Iterator[tuple[str, str]]:
    spec = experiment.spec
    framework, evaluation = spec.framework_config, spec.evaluation
    yield from ((f"Variable {name}", ", ".join(map(shown, each))) for name, each in spec.variables.items())
    yield from (("Left out", _assigned(point)) for point in spec.exclude)
    yield from ((f"Control {name}", shown(value)) for name, value in experiment.controls.items())
    if experiment.override:
        yield "Control _override", f"{', '.join(experiment.override)}; see experiment.yaml below"
    yield "Base config", framework.base_config
    if framework.model_dir:
        yield "Model", framework.model_dir
    if not evaluation.enabled:
        yield "Evaluation", "none"
        return
    yield from ((f"Task {task.name}", f"{task.function} in {task.file}{f' with {_assigned(task.args)}' if task.args else ''}") for task in evaluation.tasks)
    yield "Evaluated", f"checkpoint {shown(evaluation.checkpoint)}, as {evaluation.model_format}{', and the untouched model' if evaluation.baseline else ''}"
    settings = {"backend": evaluation.backend, "dtype": evaluation.dtype, "limit": evaluation.limit, **evaluation.generate}
    yield "Settings", _assigned({name: value for name, value in settings.items() if value is not None})


def _runs(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    rows = list(rows)
    yield "Recipe", ", ".join(dict.fromkeys(row.recipe for row in rows))
    retired, added = sum(row.retired for row in rows), [row for row in rows if row.added]
    yield "Runs", f"{len(rows) - retired}{f', and {retired} retired, which are not shown' if retired else ''}"
    yield from ((f"Added by hand {row.id}", _assigned({**row.settings, **row.torchtune})) for row in added)


def _assigned(named: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in named.items())


def _missing_words(missing: report_tables.Table) -> Iterator[str]:
    if missing.rows:
        yield f"{len(missing.rows)} point{' has' if len(missing.rows) == 1 else 's have'} no score, or not all: see “Missing”"


def _kept(found: Results) -> Iterator[Kept]:
    """The records of the runs as they are now: not those of what an edit made another run."""
    for order, run in enumerate(found.state.runs):
        for stage in run.stages:
            record = records.read(found.state.layout.record(stage, run.run))
            if record is not None and record.config == run.identity:
                yield Kept(run.run, stage, record, order)


def _figures(found: Results) -> list[tuple[str, list[Figure]]]:
    """Under the title of each group."""
    trained = [run for run in found.state.runs if run.train is not None]
    metrics = {run: training_metrics.read(found.state.layout.run_results(run)) for run in report_training.sample([run.run for run in trained])}
    curves = report_training.curves(metrics, {run.run: run.params for run in trained}, len(trained))
    return [*report_figures.of_scores(found.scores), *([("Training", curves)] if curves else [])]
