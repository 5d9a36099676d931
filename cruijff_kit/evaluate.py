"""What an evaluation script runs: one model, its tasks, and a results.json for each.

The scores are those of Inspect's logs. Each task's logs lie in a folder named
by the digest of all that its scores depend on, because eval_set hands out the
log that it finds there without a look at the weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, evaluation_logs, evaluation_results, offline, ownership, parity_probe, paths
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.evaluated_model import Models, generation, model_settings, provider
from cruijff_kit.evaluation_request import Request, check_model, override
from cruijff_kit.evaluation_results import Weights
from cruijff_kit.parity_probe import Parity
from cruijff_kit.paths import HIDDEN


def evaluate(**arguments: Any) -> None:
    """Runs the evaluation that a script asks for, with the settings on its command line, and exits.

    The exit code is 1 if the model cannot be loaded or a task ended in error.
    """
    from cruijff_kit.cli import report_faults

    request = Request.of(arguments, Path(sys.argv[0]))
    sys.exit(report_faults(lambda: _evaluate(override(request, sys.argv[1:]))))


def _evaluate(request: Request) -> int:
    check_inspect()
    trained_with = check_model(request)
    with Models([each.model for each in request.each() if each.is_adapter]) as models:
        return 1 if evaluate_run(request, trained_with, models) else 0


def check_inspect() -> None:
    """That Inspect is installed; and keeps the Hugging Face libraries from asking the Hub, unless HF_HUB_OFFLINE=0.

    Raises:
        CruijffKitError: it is not.
    """
    if importlib.util.find_spec("inspect_ai") is None:
        raise CruijffKitError("Module 'inspect_ai' not found: pip install inspect-ai")
    offline.stay_offline()  # before transformers is imported: every load would ask, for a minute where there is no network


def evaluate_run(request: Request, trained_with: Mapping[str, Any], models: Models, runs: Sequence[str] = ()) -> list[str]:
    """Evaluates every checkpoint of a run with every task; the names of what ended in error, which is said.

    Args:
        trained_with: what its weights were trained with instead of its config.
        runs: all that this process evaluates, where it is not this one alone.

    Raises:
        CruijffKitError: the model cannot be loaded, or a task cannot be built.
    """
    # eval_set resumes only what has the same paths, relative to here, wherever the folder lies and this was started
    with ownership.owned_or_inherited(paths.held(request.folder, "eval", request.run), runs), contextlib.chdir(request.folder):
        # a task that cannot be built is found before the model is loaded
        tasks = [Built.of(request, task) for task in request.tasks]
        failed = [name for each in request.each() for name in _evaluate_checkpoint(each, tasks, trained_with, models)]
    if failed:
        print(f"ended in error: {', '.join(failed)}", file=sys.stderr)
    return failed


@dataclass(frozen=True)
class Built:
    """A task of a request, the Inspect Task that its function returns, and the digest of its samples."""

    entry: Mapping[str, Any]
    task: Any
    samples: str

    @classmethod
    def of(cls, request: Request, entry: Mapping[str, Any]) -> Built:
        """Builds it.

        Raises:
            CruijffKitError: it cannot be built.
        """
        task = _named_failure(f"task '{entry['name']}' cannot be built", load_task, entry, offline.how_to_fetch(request.folder))
        samples = [sample.model_dump_json() for sample in task.dataset]  # before Inspect numbers those that have no id
        if request.limit is None and task.dataset.shuffled:
            samples.sort()  # anew each time, and all are evaluated; eval_set, which knows samples by their place, takes none over from before
        return cls(entry, task, hashlib.sha256(json.dumps(samples).encode()).hexdigest())


def _evaluate_checkpoint(request: Request, tasks: Sequence[Built], trained_with: Mapping[str, Any], models: Models) -> list[str]:
    """Evaluates one checkpoint; returns which tasks ended in error, or the checkpoint that is not there."""
    if fault := checkpoint.fault(request.model, request.is_adapter):
        print(f"Cannot load model: {request.shown(request.model)}: {fault}", file=sys.stderr, flush=True)
        return [request.checkpoint]
    weights = Weights.of(request, trained_with)
    load = cache(lambda: _load(request, models))
    failed = []
    for built in tasks:
        name, digest = built.entry["name"], task_digest(request, built, weights)
        log_dir = request.scores / name / digest
        log = evaluation_results.finished_log(log_dir, request.folder)
        if log is None:
            print(f"{request.name} {name}: {len(built.task.dataset)} samples", flush=True)
            model, parity = load()
            metadata = {**_metadata(request, name, digest, weights), "not_used": model_settings(model), "prompts": parity.as_dict()}
            log = _run_task(request, built.task, model, log_dir, metadata)
            weights.check_unchanged(request)
        results = evaluation_results.summarise(request, built.entry, log, digest, weights)
        evaluation_results.write(results, log_dir)
        print(evaluation_results.line(request.name, results), flush=True)
        if results["status"] != "success":
            failed.append(f"{request.checkpoint} {name}".strip())
    return failed


def _load(request: Request, models: Models) -> tuple[Any, Parity]:
    """The model, and how its prompts compare with those of its training, which is found meanwhile and said."""
    what = f"Cannot load model: {request.shown(request.model)}"
    if request.train_config is None:
        return _named_failure(what, models.load, request), Parity([], [])
    with parity_probe.start(request.train_config, request.base_model or request.model, request.folder / HIDDEN) as probe:
        model, parity = _named_failure(what, models.load, request), probe.finish()
    unused = model_settings(model)
    notes = [f"generation_config.json of the model is not used beyond its tokens: {unused}; what applies stands in experiment.yaml"] if unused else []
    for text in (*notes, *(f"warning: {each}" for each in parity.warnings), *parity.notes):
        print(f"{request.run}: {text}", file=sys.stderr, flush=True)
    return model, parity


def _named_failure(what: str, function: Callable[[Any], Any], argument: Any, fetch: str = "") -> Any:
    """function(argument), where an exception from the user's code or files is the user's, with its traceback above.

    Args:
        fetch: said of what is not on this machine, and was not fetched.
    """
    try:
        return function(argument)
    except CruijffKitError as error:
        raise CruijffKitError(f"{what}: {error}") from error
    except Exception as error:
        traceback.print_exc()
        fix = f"\n  {fetch}" if fetch and offline.is_missing(error) else ""
        raise CruijffKitError(f"{what}: {type(error).__name__}: {error}{fix}") from error


def load_task(task: Mapping[str, Any]) -> Any:
    """The Inspect Task that a function of the user's returns, called in the folder of its file."""
    import inspect_ai

    path = Path(task["file"])
    name = f"task_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: a task file called datasets.py must not hide the library
    with contextlib.chdir(path.parent):  # so that data/x.jsonl is found beside it
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        offline.fail_at_once()
        built = getattr(module, task["function"])(**task["args"])
    if not isinstance(built, inspect_ai.Task):
        raise TypeError(f"{task['function']}() returned a {type(built).__name__}, and no Task")
    return built


def task_digest(request: Request, built: Built, weights: Weights) -> str:
    """Digest of all that the scores depend on; Inspect goes on with no log of another provider."""
    what = {"weights": weights.digest, "samples": built.samples, "provider": provider(request), **request.settings(built.entry)}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _metadata(request: Request, task: str, digest: str, weights: Weights) -> dict[str, Any]:
    """What the log says of where its scores come from."""
    return {
        "experiment": request.experiment,
        "run": request.run,
        "params": dict(request.params),
        "task": task,
        "digest": digest,
        "identity": weights.train_config,
        "checkpoint": request.shown(request.model),
        "base_model": request.base_model and request.shown(request.base_model),
        "weights": weights.digest,
        "trained_with": dict(weights.trained_with),
        "dtype": request.dtype,
    }


def _run_task(request: Request, built: Any, model: Any, log_dir: Path, metadata: Mapping[str, Any]) -> Any:
    """The log of one task: a finished one that lies in `log_dir`, or a new one, or one that is gone on with."""
    from inspect_ai._util.error import PrerequisiteError

    try:
        return _eval_set(request, built, model, log_dir, metadata)
    except PrerequisiteError as error:  # of another version of Inspect, or of a server that was started otherwise
        if not evaluation_logs.set_aside_others(log_dir, str(error)):
            raise CruijffKitError(f"{request.shown(log_dir)}: {error}") from error
        return _eval_set(request, built, model, log_dir, metadata)


def _eval_set(request: Request, built: Any, model: Any, log_dir: Path, metadata: Mapping[str, Any]) -> Any:
    from inspect_ai import eval_set

    evaluation_logs.set_aside_unreadable(log_dir)
    epochs = built.epochs or 1
    samples = len(built.dataset) if request.limit is None else min(request.limit, len(built.dataset))
    _, logs = eval_set(
        tasks=[built],
        model=model,
        log_dir=str(log_dir),
        limit=request.limit,
        metadata=dict(metadata),
        display="none",
        log_realtime=False,
        log_buffer=evaluation_logs.log_buffer(samples * epochs),
        retry_attempts=1,
        **generation(request),
    )
    evaluation_logs.set_aside_interrupted(log_dir, logs[0])
    return logs[0]
