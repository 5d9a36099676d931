"""results.json of one task: Inspect's log in short, with what was evaluated and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import atomic, checkpoint, inputs, torchtune_catalog
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.evaluation_request import Request, script_digest, settings_of
from cruijff_kit.identity import identity
from cruijff_kit.paths import HIDDEN


@dataclass(frozen=True)
class Weights:
    """The weights that are evaluated, as they were before the evaluation began.

    Args:
        digest: of the files that make the model, or of those of the adapter and of its base model.
        stamp: size and time of each file that holds weights.
        base: digest and stamp of the base model of an adapter; None of a whole model.
        train_config: identity of the config that they were trained with; None for a base model.
        trained_with: what they were trained with otherwise than that config says.
    """

    digest: str
    stamp: Mapping[str, list[int]]
    train_config: str | None
    trained_with: Mapping[str, Any]
    base: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, request: Request, trained_with: Mapping[str, Any]) -> Weights:
        stamp = checkpoint.stamp(request.model, request.is_adapter)
        config = request.train_config and torchtune_catalog.read_config(request.train_config)
        trained = identity(config, request.folder) if config else None
        digest, base = checkpoint.digest(request.model, request.is_adapter), None
        if request.base_model is not None:
            base_stamp = checkpoint.stamp(request.base_model)
            base = {"weights": _base_digest(request.base_model, json.dumps(base_stamp)), "stamp": base_stamp}
            digest = hashlib.sha256(f"{base['weights']} {digest}".encode()).hexdigest()
        return cls(digest, stamp, trained, trained_with, base)

    def check_unchanged(self, request: Request) -> None:
        """That nobody trained the run anew meanwhile.

        Raises:
            CruijffKitError: somebody did.
        """
        changed = [request.model] if checkpoint.stamp(request.model, request.is_adapter) != self.stamp else []
        if request.base_model is not None and self.base and checkpoint.stamp(request.base_model) != self.base["stamp"]:
            changed.append(request.base_model)
        if changed:
            raise CruijffKitError(f"{', '.join(map(request.shown, changed))} changed during its evaluation: nothing was recorded")


@cache
def _base_digest(folder: Path, stamp: str) -> str:
    """Of a base model, which many adapters share; `stamp` tells one state of it from another."""
    return checkpoint.digest(folder)


def summarise(request: Request, task: Mapping[str, Any], log: Any, digest: str, weights: Weights) -> dict[str, Any]:
    """What results.json holds. A task that ended in error has no scores."""
    results = log.results
    scores = results.scores if log.status == "success" and results else []
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
            "total": results.total_samples if results else None,
            "completed": results.completed_samples if results else None,
        },
        "params": dict(request.params),
        "trained_with": dict(weights.trained_with),
        "warnings": ((log.eval.metadata or {}).get("prompts") or {}).get("warnings", []),
        "checkpoint": request.shown(request.model),
        **({"base_model": {"model": request.shown(request.base_model), **weights.base}} if request.base_model and weights.base else {}),
        "weights": weights.digest,
        "weights_stamp": dict(weights.stamp),
        "train_config": weights.train_config,
        "settings": request.settings(task),
        "script": script_digest(request.script) if request.script else None,
        "words": settings_of(request.words),
        "data": inputs.data_digest(Path(task["file"]).parent, request.folder / HIDDEN),
        "digest": digest,
        "log": request.shown(Path(log.location.removeprefix("file://"))),
    }


def finished_log(log_dir: Path, folder: Path) -> Any:
    """The log of an evaluation that ended well in `log_dir`, which is of the very same; None if there is none."""
    from inspect_ai.log import read_eval_log

    try:
        there = json.loads((log_dir / "results.json").read_text(encoding="utf-8"))
        log = read_eval_log(str(folder / there["log"]), header_only=True) if there["status"] == "success" else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # eval_set looks at what is there
        return None
    return log if log is not None and log.status == "success" else None


def write(results: Mapping[str, Any], log_dir: Path) -> None:
    """Beside its logs, where it stays, and one folder up as the latest."""
    atomic.write_json(log_dir / "results.json", results)
    atomic.write_json(log_dir.parent / "results.json", results)


def line(name: str, results: Mapping[str, Any]) -> str:
    """`run_000 capitalize: exact accuracy 0.45, exact stderr 0.08`."""
    start = f"{name} {results['task']}:"
    if results["status"] != "success":
        return f"{start} {results['status']}: {results['error']}"
    metrics = (f"{score['scorer']} {name} {value:.4g}" for score in results["scores"] for name, value in score["metrics"].items())
    return f"{start} {', '.join(metrics)}"


def objective(folder: Path, name: str) -> float:
    """The value of `TASK/SCORER/METRIC` in the latest results below `folder`, which are one run's.

    Raises:
        CruijffKitError: they hold no such scorer or metric.
    """
    task, scorer, metric = name.split("/", 2)
    results = json.loads((folder / task / "results.json").read_text(encoding="utf-8"))
    values = {f"{task}/{score['scorer']}/{key}": value for score in results["scores"] for key, value in score["metrics"].items()}
    if f"{task}/{scorer}/{metric}" not in values:
        raise CruijffKitError(f"evaluation.objective is {name}, and the results of {results['run']} hold {', '.join(values) or 'no scores'}")
    return values[f"{task}/{scorer}/{metric}"]
