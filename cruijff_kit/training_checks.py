"""What would go wrong in training, found in the experiment and its composed configs."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cruijff_kit import data_files, override_checks, torchtune_catalog
from cruijff_kit.config_tree import find, output_dir_of, unescape
from cruijff_kit.errors import Problem
from cruijff_kit.experiment import Experiment, datasets
from cruijff_kit.sweep import Run, is_parameter, torchtune_key
from cruijff_kit.torchtune_config import DATA_FILES, HF_CHECKPOINTER, Composer, weight_files
from cruijff_kit.yaml_source import KeyPath

HF_CHECKPOINTER_BLOCK = f"""add under controls:
  _override:
    checkpointer:
      _component_: {HF_CHECKPOINTER}
      checkpoint_dir: ${{output_dir}}/checkpoints
      output_dir: ${{output_dir}}/hf_model"""


def places(experiment: Experiment) -> dict[str, KeyPath]:
    """Where each parameter is set: its control, its variable, or its first paired value."""
    found: dict[str, KeyPath] = {name: ("controls", name) for name in experiment.spec.controls}
    for name, values in experiment.spec.variables.items():
        if is_parameter(name):
            found[name] = ("variables", name)
        for index, value in enumerate(values if not is_parameter(name) else ()):
            for key in value if isinstance(value, dict) else ():
                found.setdefault(key, ("variables", name, index, key))
    return found


def check_names(composer: Composer) -> list[Problem]:
    """Parameters that the base config has no place for, and `_override` keys that nothing accepts."""
    experiment, problems = composer.experiment, _check_datasets(composer)
    problem = experiment.source.problem
    set_names = places(experiment)
    for name, path in set_names.items():
        if not is_parameter(name):
            continue  # said by sweep
        key = torchtune_key(name)
        if name in ("lora_rank", "lora_alpha") and not torchtune_catalog.is_lora(composer.merged):
            problems.append(problem(path, f"'{name}' needs a LoRA config, and {composer.base_name} is none"))
            continue
        fault = composer.key_fault(key)
        if fault is not None:
            what = f"'{name}'" if name == key else f"'{name}' sets {key}, which"
            problems.append(problem(path, f"{what} is not read with the base config {composer.base_name}", fault or None))
    for name, other in (("lora_rank", "lora_alpha"), ("lora_alpha", "lora_rank")):
        if name in set_names and (other not in set_names or _left_out(experiment, name, other)):
            fix = f"set {other} too: LoRA scales by lora_alpha / lora_rank" + ("\nlora_alpha: ${mul:2,${lora_rank}}" if other == "lora_alpha" else "")
            problems.append(problem(set_names[name], f"'{name}' is set and '{other}' is not", fix))
    return problems + override_checks.check(composer)


def _left_out(experiment: Experiment, name: str, other: str) -> bool:
    """Whether some paired entry sets `name`, and `other` stands in other entries only."""
    if other in experiment.controls or other in experiment.spec.variables:
        return False
    entries = [entry for values in experiment.spec.variables.values() for entry in values if isinstance(entry, dict)]
    return any(name in entry and other not in entry for entry in entries)


def _check_datasets(composer: Composer) -> list[Problem]:
    """That a dataset given as text is a file of a known kind or a Hub id, and that the base config has one dataset."""
    experiment, problems = composer.experiment, []
    for path, text in datasets(experiment).items():
        known = Path(text).suffix.lower() in DATA_FILES
        if not isinstance(composer.merged.get("dataset"), dict):
            what = f"{composer.base_name} has no single dataset that '{text}' could replace"
            problems.append(experiment.source.problem(path, what, "give the whole dataset as a mapping"))
        elif not known and (_is_path(composer, text) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text)):
            what = f"'{text}' is neither a Hub id nor a file of a known kind"
            problems.append(experiment.source.problem(path, what, f"files end in {', '.join(DATA_FILES)}"))
    return problems


def _is_path(composer: Composer, text: str) -> bool:
    """Whether a text that could be a Hub id is meant as a path: of something, or in a folder, that is there or that generate makes."""
    path, layout = composer.experiment.path(text), composer.layout
    made = [layout.configs, layout.results, layout.eval_results, layout.hidden, layout.script("train").parent]
    if any(path == each or path in each.parents or each in path.parents for each in made):
        return True
    return text.startswith(".") or path.exists() or ("/" in text and path.parent.exists())


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
        for fault in (*config_faults(experiment, run.config, run.recipe), *_unresolved(experiment, run.config), *(data_faults(run.config) if data else ())):
            place = where.get(fault.name, ("framework_config", "base_config"))
            problems[experiment.source.problem(place, fault.what, fault.fix, fault.level)] = None
    return list(problems)


def _unresolved(experiment: Experiment, config: Mapping[str, Any]) -> Iterator[Fault]:
    """An interpolation, other than of output_dir, that torchtune could not resolve."""
    if "${" not in str({key: value for key, value in config.items()}).replace("${output_dir}", ""):
        return
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        key = str(getattr(error, "full_key", None) or "")
        root = key.split(".")[0].split("[")[0]
        name = root if root in experiment.spec.controls else "_override"
        yield Fault(name, f"{key} does not resolve: {str(error).splitlines()[0]}")


@dataclass(frozen=True)
class Fault:
    """What is wrong with one composed config, and the parameter that would mend it."""

    name: str
    what: str
    fix: str | None = None
    level: str = "error"


# They merge LoRA into the live weights on a CPU as lora_finetune_single_device does, and have no recipe of ours yet.
CPU_DEFECT = ("knowledge_distillation_single_device", "lora_dpo_single_device")


def config_faults(experiment: Experiment, config: Mapping[str, Any], recipe: str) -> Iterator[Fault]:
    """What is wrong with `config` on its own."""
    if recipe in CPU_DEFECT and config.get("device") == "cpu" and (config.get("epochs") or 1) != 1:
        yield Fault("epochs", f"on a CPU {recipe} merges LoRA into the weights that it goes on training", "train one epoch, or on a GPU")
    if experiment.spec.evaluation.enabled:
        yield from _output_faults(config)
    if config.get("save_adapter_weights_only") and experiment.spec.evaluation.enabled:
        yield Fault("save_adapter_weights_only", "model_format hf evaluates merged weights, and save_adapter_weights_only saves none")
    if find(config, "dataset.packed") and find(config, "tokenizer.max_seq_len") is None:
        yield Fault("packed", "packed needs max_seq_len, the length to pack to", "add under controls:\n  max_seq_len: 2048")


def _output_faults(config: Mapping[str, Any]) -> Iterator[Fault]:
    """Each run's checkpoints must lie in its own folder, under a number of epochs that is known."""
    folder = find(config, "checkpointer.output_dir")
    if not isinstance(folder, str) or not folder.startswith("${output_dir}"):
        what = f"checkpointer.output_dir is {folder}: the checkpoints of all runs would lie there together"
        yield Fault("_override", what, "checkpointer.output_dir: ${output_dir}/hf_model")
    if not isinstance(config.get("epochs"), int):
        yield Fault("epochs", f"epochs is {config.get('epochs')!r}: nothing says which checkpoint is the last")


def data_faults(config: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the local data file of `config`, if it has one."""
    dataset = config.get("dataset")
    text = find(config, "dataset.data_files")
    if not isinstance(text, str) or "://" in text or dataset.get("source") not in DATA_FILES.values():
        return
    path = Path(unescape(text))
    try:
        rows, there = data_files.count_rows(path), data_files.columns(path)
    except FileNotFoundError:
        yield Fault("dataset", f"dataset not found: {path}", "paths start at the folder of experiment.yaml")
        return
    except (OSError, ValueError, csv.Error) as error:
        yield Fault("dataset", f"cannot read {path}: {error}")
        return
    missing = data_files.missing_columns(dataset, there) if there is not None else []
    if missing:
        what = f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(map(str, there)))}"
        yield Fault("dataset", what, f"{dataset['_component_']} reads them; dataset.column_map gives them other names")
    elif rows is not None and not dataset.get("packed"):
        yield from _step_faults(config, rows)


def _step_faults(config: Mapping[str, Any], rows: int) -> Iterator[Fault]:
    """torchtune drops what does not fill a batch, and ends well without one optimizer step."""
    sizes = [config.get(name) or 1 for name in ("batch_size", "gradient_accumulation_steps", "epochs")]
    warmup, longest = find(config, "lr_scheduler.num_warmup_steps") or 0, config.get("max_steps_per_epoch") or 0
    if not all(isinstance(size, int) and size >= 0 for size in [*sizes, warmup, longest]):
        return  # said elsewhere
    batch, accumulation, epochs = sizes
    steps = rows // batch // accumulation
    if steps == 0:
        what = f"{rows} rows are fewer than batch_size {batch} × gradient_accumulation_steps {accumulation}: no optimizer step would be taken"
        yield Fault("gradient_accumulation_steps", what, "lower batch_size or gradient_accumulation_steps")
        return
    total = min(steps, longest or steps) * epochs
    if warmup >= total:
        what = f"warm-up takes {warmup} steps and the run has {total}: the learning rate is never reached"
        yield Fault("warmup_steps", what, f"add under controls:\n  warmup_steps: {total // 10}", level="warning")


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
    files = weight_files(find(run.config, "checkpointer.checkpoint_files")) or []
    if find(run.config, "checkpointer._component_") == HF_CHECKPOINTER:
        files = ["config.json", *files]
    link = composer.checkpoint_link(run.config)
    folder = Path(composer.model_dir) if link else output_dir_of(run.config, "checkpointer.checkpoint_dir")
    missing = [name for name in files if not os.path.isfile(folder / name)]  # false too of a name that no file can have
    if not missing:
        return []
    given = experiment.spec.framework_config.model_dir is not None
    path = ("framework_config", "model_dir" if given else "base_config")
    fix = composer.download or "set framework_config.model_dir to the folder of the weights"
    level = "error" if given or to_run else "warning"
    return [problem(path, f"{folder} lacks {', '.join(missing)}", fix, level)]
