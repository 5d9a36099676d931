"""A run's evaluation script: short enough to read, and nothing in it but data and one call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cruijff_kit.paths import BASELINE
from cruijff_kit.sweep import Run
from cruijff_kit import yaml_text
from cruijff_kit.config_tree import output_dir_of
from cruijff_kit.torchtune_config import Composer

SCRIPT = '''\
{header}
from cruijff_kit.evaluate import evaluate

if __name__ == "__main__":
    evaluate(
{arguments}
    )
'''


def render(composer: Composer, run: Run) -> str:
    """The script that evaluates `run` as experiment.yaml says."""
    layout = composer.layout
    folder = output_dir_of(run.config, "checkpointer.output_dir")
    arguments = {
        "run": run.id,
        "model": f"{folder}/epoch_{run.config['epochs'] - 1}",
        "train_config": str(layout.train_config(run.id)),
        "params": dict(run.params),
        **_common(composer, run.config),
    }
    return _script(composer, run.id, arguments)


def render_baseline(composer: Composer, first: Run) -> str:
    """The script that evaluates the untouched base model, in the dtype and on the device of `first`."""
    arguments = {"run": BASELINE, "model": composer.model_dir, "params": {}, **_common(composer, first.config)}
    return _script(composer, BASELINE, arguments)


def _common(composer: Composer, config: Mapping[str, Any]) -> dict[str, Any]:
    experiment = composer.experiment
    evaluation = experiment.spec.evaluation
    folder = experiment.path(evaluation.tasks_dir or "")
    return {
        "tasks": [{**task.model_dump(), "file": str(folder / task.file)} for task in evaluation.tasks],
        "experiment": experiment.name,
        "folder": str(experiment.folder),
        "results_dir": str(composer.layout.eval_results),
        "dtype": evaluation.dtype or config.get("dtype", "bf16"),
        "device": config.get("device", "cuda"),
        "generate": evaluation.generate,
        "limit": evaluation.limit,
    }


def _script(composer: Composer, run: str, arguments: Mapping[str, Any]) -> str:
    layout = composer.layout
    lines = []
    for name, value in arguments.items():
        if name == "tasks":
            lines += ["        tasks=[", *(f"            {_literal(task)}," for task in value), "        ],"]
        else:
            lines.append(f"        {name}={_literal(value)},")
    script = layout.relative(layout.eval_script(run))
    header = [
        f"Evaluation of {run} of {composer.experiment.name}.",
        f"    python {script}",
        f"    python {script} limit=5        (any setting below, for this once)",
    ]
    return SCRIPT.format(header=yaml_text.header(header), arguments="\n".join(lines))


def _literal(value: Any) -> str:
    """`value` as Python source; only what YAML holds, so that nothing in it can be code."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if text.isprintable() else repr(value)
    return repr(value)
