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
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, evaluation_results, offline, ownership, paths
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.evaluation_request import TORCH_DTYPES, Request, check_model, override
from cruijff_kit.evaluation_results import Weights
from cruijff_kit.paths import HIDDEN


def evaluate(**arguments: Any) -> None:
    """Runs the evaluation that a script asks for, with the settings on its command line, and exits.

    The exit code is 1 if the model cannot be loaded or a task ended in error.
    """
    from cruijff_kit.cli import report_faults

    request = Request.of(arguments, Path(sys.argv[0]))
    sys.exit(report_faults(lambda: _evaluate(override(request, sys.argv[1:]))))


def _evaluate(request: Request) -> int:
    if importlib.util.find_spec("inspect_ai") is None:
        raise CruijffKitError("Module 'inspect_ai' not found: pip install inspect-ai")
    trained_with = check_model(request)
    # before transformers is imported: without it every load asks the Hub, for a minute where there is no network
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with ownership.owned_or_inherited(paths.held(request.folder, "eval", request.run)):
        return _evaluate_in_folder(request, trained_with)


def _evaluate_in_folder(request: Request, trained_with: Mapping[str, Any]) -> int:
    # eval_set resumes only what has the same paths, relative to here, wherever the folder lies and this was started
    with contextlib.chdir(request.folder):
        return _evaluate_tasks(request, Weights.of(request, trained_with))


def _evaluate_tasks(request: Request, weights: Weights) -> int:
    # a task that cannot be built is found before the model is loaded
    fetch = offline.how_to_fetch(request.folder)
    loaded = [_named_failure(f"task '{task['name']}' cannot be built", load_task, task, fetch) for task in request.tasks]
    model = _named_failure(f"Cannot load model: {request.shown(request.model)}", load_model, request)
    failed = []
    for task, built in zip(request.tasks, loaded):
        digest = task_digest(request, task, built, weights)
        log_dir = request.results_dir / request.run / task["name"] / digest
        print(f"{request.run} {task['name']}: {len(built.dataset)} samples", flush=True)
        log = _run_task(request, built, model, log_dir, _metadata(request, task["name"], digest, weights))
        weights.check_unchanged(request)
        results = evaluation_results.summarise(request, task, log, digest, weights)
        evaluation_results.write(results, log_dir)
        print(evaluation_results.line(results), flush=True)
        if results["status"] != "success":
            failed.append(task["name"])
    if failed:
        print(f"ended in error: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _named_failure(what: str, function: Callable[[Any], Any], argument: Any, fetch: str = "") -> Any:
    """function(argument), where an exception from the user's code or files is the user's, with its traceback above.

    Args:
        fetch: said of what is not on this machine, and was not fetched.
    """
    try:
        return function(argument)
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


def task_digest(request: Request, task: Mapping[str, Any], built: Any, weights: Weights) -> str:
    """Digest of all that the scores depend on."""
    samples = [sample.model_dump_json(exclude={"id"}) for sample in built.dataset]
    if request.limit is None:
        samples.sort()  # some tasks shuffle anew each time, and all samples are evaluated either way
    what = {"weights": weights.digest, "samples": samples, **request.settings(task)}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def generation(request: Request) -> dict[str, Any]:
    """Inspect's generation settings; temperature 0 means greedy, which transformers takes as do_sample alone."""
    return {key: value for key, value in request.generate.items() if key != "temperature" or value}


def load_model(request: Request) -> Any:
    from inspect_ai.model import GenerateConfig, get_model

    view = Path(HIDDEN, "models", request.run, request.model.name if request.train_config else "model")
    checkpoint.without_adapter(request.model, view)
    settings = generation(request)
    arguments: dict[str, Any] = {
        "model_path": str(view),
        "device": request.device,
        "dtype": TORCH_DTYPES[request.dtype],
        "do_sample": bool(settings.get("temperature")),
    }
    arguments["tokenizer_call_args"] = tokenizer_call_args(request.model)
    return get_model(f"hf/{request.run}", config=GenerateConfig(**settings), **arguments)


def tokenizer_call_args(folder: Path) -> dict[str, Any]:
    """How the tokenizer is called: a chat template writes its own first token, and the tokenizer would add a second."""
    return {"add_special_tokens": False} if has_chat_template(folder) else {}


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))


def _metadata(request: Request, task: str, digest: str, weights: Weights) -> dict[str, Any]:
    """What the log says of where its scores come from."""
    return {
        "experiment": request.experiment,
        "run": request.run,
        "params": dict(request.params),
        "task": task,
        "digest": digest,
        "checkpoint": request.shown(request.model),
        "weights": weights.digest,
        "trained_with": dict(weights.trained_with),
        "dtype": request.dtype,
    }


def _run_task(request: Request, built: Any, model: Any, log_dir: Path, metadata: Mapping[str, Any]) -> Any:
    """The log of one task: a finished one that lies in `log_dir`, or a new one, or one that is gone on with."""
    from inspect_ai import eval_set
    from inspect_ai._util.error import PrerequisiteError

    try:
        _, logs = eval_set(
            tasks=[built],
            model=model,
            log_dir=str(log_dir),
            limit=request.limit,
            metadata=dict(metadata),
            display="none",
            log_realtime=False,
            retry_attempts=1,
            **generation(request),
        )
    except PrerequisiteError as error:  # an older log there, which this version of Inspect or of the task does not go on with
        raise CruijffKitError(f"{request.shown(log_dir)}: {error}\nmove that folder away to evaluate anew") from error
    return logs[0]
