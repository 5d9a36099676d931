"""A run's evaluation script: short enough to read, and nothing in it but data and one call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from cruijff_kit import evaluated_epochs, yaml_text
from cruijff_kit.paths import BASELINE
from cruijff_kit.sweep import Run
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


GROUP = '''\
{header}
from cruijff_kit.evaluate_group import evaluate_group

if __name__ == "__main__":
    evaluate_group([
{scripts}
    ])
'''


def render_group(composer: Composer, runs: Sequence[str]) -> str:
    """The script that evaluates the adapters of all runs, one after the other, on a base model that is loaded once."""
    layout = composer.layout
    script = layout.relative(layout.eval_group)
    header = [
        f"Evaluation of {len(runs)} runs of {composer.experiment.name}, whose adapters take turns on one base model.",
        f"    python {script}",
        f"    python {script} {runs[0]} limit=5        (these runs alone, and any setting of theirs)",
    ]
    return GROUP.format(header=yaml_text.header(header), scripts="\n".join(f"        {_literal(layout.eval_script(run).name)}," for run in runs))


def renderer(composer: Composer) -> Callable[[Run], str]:
    """What renders the script that evaluates a run as experiment.yaml says."""
    common = cache(partial(_common, composer))

    def render(run: Run) -> str:
        arguments = {
            "run": run.id,
            **_model(composer, run),
            "train_config": composer.layout.train_config(run.id).name,  # beside the script
            "params": dict(run.params),
        }
        return _script(composer, run.id, arguments, common(*_hardware(run)))

    return render


def _model(composer: Composer, run: Run) -> dict[str, Any]:
    """What of the run is evaluated, and how it becomes a model."""
    evaluation = composer.experiment.spec.evaluation
    folder = output_dir_of(run.config, "checkpointer.output_dir")
    epochs = evaluated_epochs.evaluated(run.config["epochs"], evaluation.checkpoint)
    model = {"model": f"{folder}/epoch_{epochs[0]}"} if evaluation.checkpoint == "last" else {"model": str(folder), "checkpoints": epochs}
    if evaluation.model_format == "adapter":
        model |= {"base_model": str(base_model(composer, run)), "merge_adapters": evaluation.merges}
    return model


def base_model(composer: Composer, run: Run) -> Path | str:
    """The folder of the model that an adapter of the run goes on."""
    named = composer.experiment.spec.evaluation.base_model
    return composer.experiment.path(named) if named else composer.weights_folder(run.config) or composer.model_dir


def render_baseline(composer: Composer, first: Run) -> str:
    """The script that evaluates the untouched base model, in the dtype and on the device of `first`."""
    named = composer.experiment.spec.evaluation.base_model
    arguments = {"run": BASELINE, "model": str(composer.experiment.path(named)) if named else composer.model_dir, "params": {}}
    return _script(composer, BASELINE, arguments, _common(composer, *_hardware(first)))


def _hardware(run: Run) -> tuple[str, str]:
    """The dtype and the device that `run` is trained with."""
    return run.config.get("dtype", "bf16"), run.config.get("device", "cuda")


def _common(composer: Composer, dtype: str, device: str) -> list[str]:
    """The lines of the arguments that do not depend on the run."""
    experiment = composer.experiment
    evaluation = experiment.spec.evaluation
    folder = experiment.path(evaluation.tasks_dir or "")
    tasks = [_literal({**task.model_dump(), "file": str(folder / task.file)}) for task in evaluation.tasks]
    arguments = {
        "experiment": experiment.name,
        "folder": str(experiment.folder),
        "results_dir": str(composer.layout.eval_results),
        "dtype": evaluation.dtype or dtype,
        "device": device,
        "generate": evaluation.generate,
        "limit": evaluation.limit,
        **({"backend": evaluation.backend} if evaluation.backend != "hf" else {}),
    }
    return ["        tasks=[", *(f"            {task}," for task in tasks), "        ],", *_lines(arguments)]


def _lines(arguments: Mapping[str, Any]) -> list[str]:
    return [f"        {name}={_literal(value)}," for name, value in arguments.items()]


def _script(composer: Composer, run: str, arguments: Mapping[str, Any], common: list[str]) -> str:
    layout = composer.layout
    script = layout.relative(layout.eval_script(run))
    header = [
        f"Evaluation of {run} of {composer.experiment.name}.",
        f"    python {script}",
        f"    python {script} limit=5        (any setting below, for this once)",
    ]
    return SCRIPT.format(header=yaml_text.header(header), arguments="\n".join([*_lines(arguments), *common]))


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
