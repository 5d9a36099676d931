"""What would go wrong in training, found in the experiment and its composed configs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import torchtune_catalog
from cruijff_kit.errors import Problem
from cruijff_kit.experiment import Experiment
from cruijff_kit.sweep import Run, is_parameter, torchtune_key
from cruijff_kit.torchtune_config import DATA_FILES, HF_CHECKPOINTER, Composer, dropped_arguments, find, output_dir_of, unescape
from cruijff_kit.yaml_source import KeyPath

HF_CHECKPOINTER_BLOCK = f"""add under controls:
  _override:
    checkpointer:
      _component_: {HF_CHECKPOINTER}
      checkpoint_dir: ${{output_dir}}/checkpoints
      output_dir: ${{output_dir}}/hf_model"""


def places(experiment: Experiment) -> dict[str, KeyPath]:
    """Where each parameter is set: its control, its variable, or its first paired value."""
    found: dict[str, KeyPath] = {name: ("controls", name) for name in experiment.controls}
    for name, values in experiment.spec.variables.items():
        if is_parameter(name):
            found[name] = ("variables", name)
        for index, value in enumerate(values if not is_parameter(name) else ()):
            for key in value:
                found.setdefault(key, ("variables", name, index, key))
    return found


def check_names(composer: Composer) -> list[Problem]:
    """Parameters that the base config has no place for, and `_override` keys that nothing accepts."""
    experiment, problems = composer.experiment, []
    problem = experiment.source.problem
    set_names = places(experiment)
    for name, path in set_names.items():
        key = torchtune_key(name)
        if name in ("lora_rank", "lora_alpha") and not torchtune_catalog.is_lora(composer.merged):
            problems.append(problem(path, f"'{name}' needs a LoRA config, and {composer.base_name} is none"))
            continue
        fault = composer.key_fault(key)
        if fault is not None:
            what = f"'{name}'" if name == key else f"'{name}' sets {key}, which"
            problems.append(problem(path, f"{what} is not read with the base config {composer.base_name}", fault or None))
    for name, other in (("lora_rank", "lora_alpha"), ("lora_alpha", "lora_rank")):
        if name in set_names and other not in set_names:
            fix = f"set {other} too: LoRA scales by lora_alpha / lora_rank" + ("\nlora_alpha: ${mul:2,${lora_rank}}" if other == "lora_alpha" else "")
            problems.append(problem(set_names[name], f"'{name}' is set and '{other}' is not", fix))
    return problems + _check_override(composer)


def _check_override(composer: Composer) -> list[Problem]:
    problem, override = composer.experiment.source.problem, composer.experiment.override
    problems = []
    if "save_adapter_weights_only" in (override.get("checkpointer") or {}):
        path = ("controls", "_override", "checkpointer", "save_adapter_weights_only")
        what = "torchtune reads save_adapter_weights_only at the root, and fails on it below checkpointer"
        problems.append(problem(path, what, "add under controls:\n  save_adapter_weights_only: true"))
    for path, old, new in _changed_components(composer.base, override, ()):
        dropped = dropped_arguments({**old, **new}, new)
        if dropped and old.get("_component_") != new["_component_"]:
            what = f"{new['_component_']} does not accept {', '.join(dropped)}: dropped"
            problems.append(problem(("controls", "_override", *path), what, level="warning"))
    return problems


def _changed_components(base: Any, override: Any, path: KeyPath) -> Iterator[tuple[KeyPath, dict, dict]]:
    if isinstance(base, dict) and isinstance(override, dict):
        if "_component_" in override:
            yield path, base, override
        for key, value in override.items():
            yield from _changed_components(base.get(key), value, (*path, key))


def check_runs(composer: Composer, runs: list[Run], data: bool = True) -> list[Problem]:
    """Faults of the composed configs, each said once.

    Args:
        data: look into the local data files too.
    """
    experiment, seen = composer.experiment, {}
    where = places(experiment)
    problems: dict[Problem, None] = {}
    for run in runs:
        if run.identity in seen:
            what = f"{run.id} and {seen[run.identity]} compose to the same torchtune config"
            problems[experiment.source.problem(("variables",), what, "remove one of the two points")] = None
        seen.setdefault(run.identity, run.id)
        for fault in (*config_faults(experiment, run.config), *(data_faults(run.config) if data else ())):
            place = where.get(fault.name, ("framework_config", "base_config"))
            problems[experiment.source.problem(place, fault.what, fault.fix, fault.level)] = None
    return list(problems)


@dataclass(frozen=True)
class Fault:
    """What is wrong with one composed config, and the parameter that would mend it."""

    name: str
    what: str
    fix: str | None = None
    level: str = "error"


def config_faults(experiment: Experiment, config: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with `config` on its own."""
    if config.get("save_adapter_weights_only") and experiment.spec.evaluation.enabled:
        yield Fault("save_adapter_weights_only", "model_format hf evaluates merged weights, and save_adapter_weights_only saves none")
    if find(config, "dataset.packed") and find(config, "tokenizer.max_seq_len") is None:
        yield Fault("packed", "packed needs max_seq_len, the length to pack to", "add under controls:\n  max_seq_len: 2048")


def data_faults(config: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the local data file of `config`, if it has one."""
    text = find(config, "dataset.data_files")
    if not isinstance(text, str) or "://" in text or find(config, "dataset.source") not in DATA_FILES.values():
        return
    path = Path(unescape(text))
    if not path.is_file():
        yield Fault("dataset", f"dataset not found: {path}", "paths start at the folder of experiment.yaml")
        return
    rows = count_rows(path)
    if isinstance(rows, str):
        yield Fault("dataset", f"cannot read {path}: {rows}")
    elif rows is not None and not find(config, "dataset.packed"):
        yield from _step_faults(config, rows)


def _step_faults(config: Mapping[str, Any], rows: int) -> Iterator[Fault]:
    """torchtune drops what does not fill a batch, and ends well without one optimizer step."""
    batch, accumulation = config.get("batch_size") or 1, config.get("gradient_accumulation_steps") or 1
    steps = rows // batch // accumulation
    if steps == 0:
        what = f"{rows} rows are fewer than batch_size {batch} × gradient_accumulation_steps {accumulation}: no optimizer step would be taken"
        yield Fault("gradient_accumulation_steps", what, "lower batch_size or gradient_accumulation_steps")
        return
    total = min(steps, config.get("max_steps_per_epoch") or steps) * (config.get("epochs") or 1)
    warmup = find(config, "lr_scheduler.num_warmup_steps") or 0
    if warmup >= total:
        what = f"warm-up takes {warmup} steps and the run has {total}: the learning rate is never reached"
        yield Fault("warmup_steps", what, f"add under controls:\n  warmup_steps: {total // 10}", level="warning")


@cache
def count_rows(path: Path) -> int | str | None:
    """The rows of a local data file; a text if it cannot be read, None where counting needs more than a look."""
    try:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                return sum(1 for line in lines if line.strip() and json.loads(line) is not None)
        if path.suffix == ".json":
            text = path.read_text(encoding="utf-8")
            try:
                rows = json.loads(text)
            except json.JSONDecodeError:
                return sum(1 for line in text.splitlines() if line.strip() and json.loads(line) is not None)
            return len(rows) if isinstance(rows, list) else None
        return None
    except (OSError, ValueError) as error:
        return str(error)


def check_evaluable(composer: Composer, run: Run) -> list[Problem]:
    """Evaluation needs Hugging Face checkpoints."""
    if find(run.config, "checkpointer._component_") == HF_CHECKPOINTER:
        return []
    what = "evaluation needs a Hugging Face checkpointer, and the base config has another"
    return [composer.experiment.source.problem(("controls",), what, HF_CHECKPOINTER_BLOCK)]


def check_weights(composer: Composer, run: Run, to_run: bool) -> list[Problem]:
    """Weight files that the checkpointer names and its folder lacks.

    Args:
        to_run: training is about to start; otherwise missing weights that may still be downloaded are a warning.
    """
    experiment, problem = composer.experiment, composer.experiment.source.problem
    files = weight_files(find(run.config, "checkpointer.checkpoint_files"))
    link = composer.checkpoint_link(run.config)
    folder = Path(composer.model_dir) if link else output_dir_of(run.config, "checkpointer.checkpoint_dir")
    missing = [name for name in ("config.json", *files) if not (folder / name).is_file()]
    if not missing:
        return []
    given = experiment.spec.framework_config.model_dir is not None
    path = ("framework_config", "model_dir" if given else "base_config")
    fix = composer.download or "set framework_config.model_dir to the folder of the weights"
    level = "error" if given or to_run else "warning"
    return [problem(path, f"{folder} lacks {', '.join(missing)}", fix, level)]


def weight_files(spec: Any) -> list[str]:
    """The file names of torchtune's `checkpoint_files`, a list or a pattern with its last number."""
    if isinstance(spec, dict):
        last = str(spec["max_filename"])
        return [spec["filename_format"].format(str(n + 1).zfill(len(last)), last) for n in range(int(last))]
    return list(spec or [])
