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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cruijff_kit import atomic, checkpoint
from cruijff_kit.errors import CruijffKitError, closest
from cruijff_kit.paths import HIDDEN

TORCH_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

OVERRIDES = ("limit", "dtype", "device", "generate", "tasks")


@dataclass(frozen=True)
class Request:
    """What an evaluation script asks for.

    Args:
        model: folder of a Hugging Face model.
        train_config: the torchtune config that it must have been trained with; None for a base model.
    """

    run: str
    model: Path
    tasks: Sequence[Mapping[str, Any]]
    experiment: str
    folder: Path
    results_dir: Path
    dtype: str
    device: str
    generate: Mapping[str, Any]
    limit: int | None
    params: Mapping[str, Any] = field(default_factory=dict)
    train_config: Path | None = None

    def shown(self, path: Path) -> str:
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)


def evaluate(**arguments: Any) -> None:
    """Runs the evaluation that a script asks for, with the settings on its command line, and exits.

    The exit code is 1 if the model cannot be loaded or a task ended in error.
    """
    from cruijff_kit.cli import report_faults

    paths = {key: Path(arguments[key]) for key in ("model", "folder", "results_dir", "train_config") if key in arguments}
    request = Request(**{**arguments, **paths})
    sys.exit(report_faults(lambda: _evaluate(override(request, sys.argv[1:]))))


def override(request: Request, words: Sequence[str]) -> Request:
    """`request` with `limit=5 generate.max_tokens=8 tasks=[domain_qa]` put in; values are YAML.

    Raises:
        CruijffKitError: a word names no setting, or a task that is not there.
    """
    if not words:
        return request
    from omegaconf import OmegaConf

    for word in words:
        name = word.split("=")[0].split(".")[0]
        if "=" not in word or name not in OVERRIDES:
            hint = closest(name, OVERRIDES) or f"settings are {', '.join(OVERRIDES)}"
            raise CruijffKitError(f"{word}: no setting of an evaluation: {hint}")
    given: dict[str, Any] = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))  # type: ignore[assignment]
    given["generate"] = {**request.generate, **(given.get("generate") or {})}
    if "tasks" in given:
        names = [given["tasks"]] if isinstance(given["tasks"], str) else given["tasks"]
        known = {task["name"]: task for task in request.tasks}
        for name in names:
            if name not in known:
                raise CruijffKitError(f"tasks: there is no task '{name}': {closest(str(name), known) or ', '.join(known)}")
        given["tasks"] = [known[name] for name in names]
    if given.get("dtype", request.dtype) not in TORCH_DTYPES:
        raise CruijffKitError(f"dtype={given['dtype']}: expected {', '.join(TORCH_DTYPES)}")
    return replace(request, **given)


def _evaluate(request: Request) -> int:
    if importlib.util.find_spec("inspect_ai") is None:
        raise CruijffKitError("Module 'inspect_ai' not found: pip install inspect-ai")
    trained_with = check_model(request)
    # before transformers is imported: without it every load asks the Hub, for a minute where there is no network
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # eval_set resumes only what has the same paths, relative to here, wherever the folder lies and this was started
    with contextlib.chdir(request.folder):
        return _evaluate_tasks(request, checkpoint.digest(request.model), trained_with)


def _evaluate_tasks(request: Request, weights: str, trained_with: Mapping[str, Any]) -> int:
    model = None
    failed = []
    for task in request.tasks:
        loaded = load_task(task)
        digest = _digest(request, task, loaded, weights)
        model = model or _load_model(request)
        log = _run_task(request, task, loaded, model, digest, {"weights": weights, "trained_with": trained_with})
        results = _results(request, task, log, digest, weights, trained_with)
        _write_results(request, task["name"], digest, results)
        print(_line(results), flush=True)
        if results["status"] != "success":
            failed.append(task["name"])
    if failed:
        print(f"ended in error: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def check_model(request: Request) -> dict[str, Any]:
    """That the weights are whole and are those of this run; what they were trained with instead of its config.

    Another seed is the one thing that may differ: it makes a replicate of the
    same run, and is written beside its scores. Where the seed is swept it may not.

    Raises:
        CruijffKitError: `Cannot load model: …` with the reason.
    """
    fault = checkpoint.fault(request.model)
    other: dict[str, Any] = {}
    if fault is None and request.train_config is not None:
        results = Path(os.path.abspath(_output_dir(request.train_config)))
        difference = checkpoint.differences(request.train_config, results, request.folder)
        if isinstance(difference, str):
            fault = difference
        elif set(difference) - {"seed"} or ("seed" in difference and "seed" in request.params):
            values = ", ".join(f"{key}={value!r}" for key, value in difference.items())
            fault = f"it was trained with another config: {values}"
        else:
            other = difference
    if fault is not None:
        raise CruijffKitError(f"Cannot load model: {request.shown(request.model)}: {fault}")
    if other:
        print(f"warning: {request.run} was trained with {other}, not as its config says: recorded so", file=sys.stderr)
    return other


def _output_dir(train_config: Path) -> str:
    from cruijff_kit.torchtune_catalog import read_config
    from cruijff_kit.torchtune_config import unescape

    return unescape(read_config(train_config)["output_dir"])


def load_task(task: Mapping[str, Any]) -> Any:
    """The Inspect Task that a function of the user's returns, called in the folder of its file."""
    path = Path(task["file"])
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    with contextlib.chdir(path.parent):  # so that data/x.jsonl is found beside it
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return getattr(module, task["function"])(**task["args"])


def _digest(request: Request, task: Mapping[str, Any], loaded: Any, weights: str) -> str:
    """Digest of all that the scores depend on. Samples without their order: some tasks shuffle anew each time."""
    samples = sorted(sample.model_dump_json(exclude={"id"}) for sample in loaded.dataset)
    what = {
        "weights": weights,
        "file": hashlib.sha256(Path(task["file"]).read_bytes()).hexdigest(),
        "function": task["function"],
        "args": task["args"],
        "samples": hashlib.sha256("\n".join(samples).encode()).hexdigest(),
        "generate": dict(request.generate),
        "limit": request.limit,
        "dtype": request.dtype,
        "device": request.device,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def generation(request: Request) -> dict[str, Any]:
    """Inspect's generation settings; temperature 0 means greedy, which transformers takes as do_sample alone."""
    return {key: value for key, value in request.generate.items() if key != "temperature" or value}


def _load_model(request: Request) -> Any:
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
    if has_chat_template(request.model):
        # the template writes its own first token; the tokenizer would add a second
        arguments["tokenizer_call_args"] = {"add_special_tokens": False}
    return get_model(f"hf/{request.run}", config=GenerateConfig(**settings), **arguments)


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))


def _log_dir(request: Request, task: str, digest: str) -> Path:
    return request.results_dir / request.run / task / digest


def _run_task(request: Request, task: Mapping[str, Any], loaded: Any, model: Any, digest: str, weights: Mapping[str, Any]) -> Any:
    from inspect_ai import eval_set
    from inspect_ai._util.error import PrerequisiteError

    print(f"{request.run} {task['name']}: {len(loaded.dataset)} samples", flush=True)
    metadata = {
        "experiment": request.experiment,
        "run": request.run,
        "params": dict(request.params),
        "task": task["name"],
        "digest": digest,
        "checkpoint": str(request.model),
        "dtype": request.dtype,
        **weights,
    }
    log_dir = _log_dir(request, task["name"], digest)
    try:
        _, logs = eval_set(
            tasks=[loaded],
            model=model,
            log_dir=str(log_dir),
            limit=request.limit,
            metadata=metadata,
            display="none",
            log_realtime=False,
            retry_attempts=1,
            **generation(request),
        )
    except PrerequisiteError as error:  # an older log there, which this version of Inspect or of the task does not go on with
        raise CruijffKitError(f"{request.shown(log_dir)}: {error}\nmove that folder away to evaluate anew") from error
    return logs[0]


def _results(request: Request, task: Mapping[str, Any], log: Any, digest: str, weights: str, trained_with: Mapping[str, Any]) -> dict[str, Any]:
    """results.json: the log in short. Scores of a task that ended in error are none."""
    done = log.status == "success"
    scores = log.results.scores if done and log.results else []
    location = log.location.removeprefix("file://")
    return {
        "experiment": request.experiment,
        "run": request.run,
        "task": task["name"],
        "status": log.status,
        "error": log.error.message if log.error else None,
        "scores": [
            {"scorer": score.name, "metrics": {name: metric.value for name, metric in score.metrics.items()}} for score in scores
        ],
        "samples": {
            "total": log.results.total_samples if log.results else None,
            "completed": log.results.completed_samples if log.results else None,
        },
        "params": dict(request.params),
        "trained_with": dict(trained_with),
        "checkpoint": request.shown(request.model),
        "weights": weights,
        "weights_stamp": checkpoint.stamp(request.model),
        "train_config": _identity(request),
        "dtype": request.dtype,
        "generate": dict(request.generate),
        "limit": request.limit,
        "digest": digest,
        "log": request.shown(Path(location)),
    }


def _identity(request: Request) -> str | None:
    if request.train_config is None:
        return None
    from cruijff_kit.torchtune_catalog import read_config
    from cruijff_kit.torchtune_config import identity

    return identity(read_config(request.train_config), request.folder)


def _write_results(request: Request, task: str, digest: str, results: Mapping[str, Any]) -> None:
    """Beside its logs, where it stays, and one folder up as the latest."""
    folder = _log_dir(request, task, digest)
    atomic.write_json(folder / "results.json", results)
    atomic.write_json(folder.parent / "results.json", results)


def _line(results: Mapping[str, Any]) -> str:
    if results["status"] != "success":
        return f"{results['run']} {results['task']}: {results['status']}: {results['error']}"
    metrics = ", ".join(
        f"{score['scorer']} {name} {value:.4g}" for score in results["scores"] for name, value in score["metrics"].items()
    )
    return f"{results['run']} {results['task']}: {metrics}"
