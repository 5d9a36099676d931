"""What a run's metric logger is told beside what the user says: which run it is of, and where its files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from cruijff_kit.config_tree import Config, escape, unescape

KEY = "metric_logger"
LOG_DIR = "${output_dir}/logs"
# Every config of torchtune 0.6.1 has this one.
USUAL = {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": LOG_DIR}
USUAL_BLOCK = "\n".join(["that of torchtune's configs:", f"{KEY}:", *(f"  {name}: {value}" for name, value in USUAL.items())])

WANDB = ("torchtune.training.metric_logging.WandBLogger", "cruijff_kit.metric_loggers.WandBLogger")

# Their **kwargs go nowhere (torchtune 0.6.1).
TAKE_ANY = ("torchtune.training.metric_logging.DiskLogger", "torchtune.training.metric_logging.TensorBoardLogger")

# The packages that torchtune's loggers import when they are made, in a training.
PACKAGES = {
    **dict.fromkeys(WANDB, "wandb"),
    "torchtune.training.metric_logging.TensorBoardLogger": "tensorboard",
    "cruijff_kit.metric_loggers.TensorBoardLogger": "tensorboard",
    "torchtune.training.metric_logging.CometLogger": "comet_ml",
    "torchtune.training.metric_logging.MLFlowLogger": "mlflow",
}


def of_run(node: Any, experiment: str, tags: Sequence[str], run: str, params: Mapping[str, Any]) -> Any:
    """The node metric_logger of a run: for W&B with group, name, config and tags, and offline, where `node` does not say otherwise.

    allow_val_change: torchtune logs the whole config over `params`, where `dataset` is a mapping and not the path that was swept.
    """
    if not isinstance(node, Mapping) or node.get("_component_") not in WANDB:
        return node
    # a mapping (a dataset) stands in the config as a whole, which torchtune logs by itself
    own = {name: value for name, value in without_logger(params).items() if not isinstance(value, (dict, list))}
    told: Config = {
        **({} if "dir" in node else {"log_dir": LOG_DIR}),
        "group": escape(experiment),
        "name": run,
        "config": _escaped(own),
        **({"tags": _escaped(list(tags))} if tags else {}),
        "mode": "offline",
        "allow_val_change": True,
    }
    return {**node, **{name: value for name, value in told.items() if name not in node}}


def without_logger(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` less those of the logger: they set no run apart."""
    return {name: value for name, value in params.items() if name.split(".")[0] != KEY}


def place(node: Mapping[str, Any]) -> tuple[str, str]:
    """The key that says where a logger's files lie, which is `dir` of a W&B logger too, and what it says."""
    key = "dir" if node.get("dir") else "log_dir"
    return key, str(node.get(key) or LOG_DIR)


def folder(node: Mapping[str, Any], output_dir: str) -> str:
    """Where a logger's files lie, of the run whose results lie in `output_dir`; relative to where the training is started if it says so."""
    return os.path.normpath(unescape(place(node)[1].replace("${output_dir}", escape(output_dir))))


def writes_one_file(node: Mapping[str, Any]) -> bool:
    """Whether all that log to its folder write to the same file: torchtune's DiskLogger names one after the second in which it begins."""
    return "filename" in node or str(node.get("_component_")).startswith("cruijff_kit.metric_loggers.")


def _escaped(node: Any) -> Any:
    """`node` so that OmegaConf takes its texts literally."""
    if isinstance(node, Mapping):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escaped(value) for value in node]
    return escape(node) if isinstance(node, str) else node
