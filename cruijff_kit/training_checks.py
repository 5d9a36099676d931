"""What would go wrong in training, found in the experiment and its composed configs."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import component_checks, logger_checks, logger_config, override_checks, sweep, torchtune_catalog
from cruijff_kit.config_tree import find
from cruijff_kit.dataset_checks import data_faults
from cruijff_kit.errors import Fault, Problem
from cruijff_kit.experiment import Experiment, datasets
from cruijff_kit.paths import run_id
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


def place_of(experiment: Experiment, name: str) -> KeyPath:
    """The place in experiment.yaml of a parameter or a torchtune key: where it, or what lies about it, is set last."""
    framework, key = experiment.spec.framework_config, torchtune_key(name)
    if name in ("model_format", "checkpoint", "base_model", "evaluation.dtype"):
        return ("evaluation", name.removeprefix("evaluation."))
    if name == "model_dir":
        return ("framework_config", name if framework.model_dir is not None else "base_config")
    override, path = experiment.override, []
    for part in key.split("."):
        if not isinstance(override, Mapping) or part not in override:
            break
        override, path = override[part], [*path, part]
    if path and (not isinstance(override, Mapping) or len(path) == len(key.split("."))):
        return ("controls", "_override", *path)
    found = places(experiment)
    if name in found:
        return found[name]
    if path:
        return ("controls", "_override", *path)
    keys = {torchtune_key(each): place for each, place in found.items() if is_parameter(each) and (name != "model" or not each.startswith("lora_"))}
    below = [place for other, place in keys.items() if other == key or other.startswith(f"{key}.")]
    return tuple(os.path.commonprefix(below)) or ("framework_config", "base_config")


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
    set_keys = {torchtune_key(name): path for name, path in set_names.items()}
    for name, other in (("lora_rank", "lora_alpha"), ("lora_alpha", "lora_rank")):
        key, unset = torchtune_key(name), torchtune_key(other) not in set_keys or _left_out(experiment, name, other)
        if key in set_keys and unset and not sweep.is_unknown(experiment, torchtune_key(other)):
            fix = f"set {other} too: LoRA scales by lora_alpha / lora_rank" + ("\nlora_alpha: ${mul:2,${lora_rank}}" if other == "lora_alpha" else "")
            problems.append(problem(set_keys[key], f"'{name}' is set and '{other}' is not", fix))
    return problems + override_checks.check(composer)


def _left_out(experiment: Experiment, name: str, other: str) -> bool:
    """Whether some paired entry sets `name`, and `other` stands in other entries only."""
    key, other_key = torchtune_key(name), torchtune_key(other)
    if other_key in map(torchtune_key, (*experiment.controls, *experiment.spec.variables)):
        return False
    entries = [entry for values in experiment.spec.variables.values() for entry in values if isinstance(entry, dict)]
    keys = [{torchtune_key(name) for name in entry} for entry in entries]
    return any(key in each and other_key not in each for each in keys)


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


def check_runs(composer: Composer, runs: list[Run], data: bool = True, to_run: bool = False, gpus: int = 1) -> list[Problem]:
    """Faults of the composed configs, each said once.

    Args:
        data: look into the local data files too.
        to_run: trainings are about to start.
        gpus: those of a training job; a single-device recipe uses one.
    """
    experiment = composer.experiment
    problems: dict[Problem, None] = dict.fromkeys(() if experiment.left_out else _equal_points(composer, runs))
    said, lacking = set(), cache(_lacking)
    for run in runs:
        faults = itertools.chain(
            config_faults(experiment, run.config),
            _cpu_faults(composer, run),
            _unresolved(experiment, run.config),
            _weight_faults(composer, to_run, lacking, run.config),
            data_faults(run.config, run.recipe, gpus) if data else (),
        )
        for fault in faults:
            about_data = fault.name.split(".")[0] == "dataset"
            key = fault, str(run.params.get("dataset")) if about_data else None
            if key in said or sweep.is_unknown(experiment, torchtune_key(fault.name), *fault.reads):
                continue
            said.add(key)
            place = _dataset_place(experiment, run, fault.name) if about_data else place_of(experiment, fault.name)
            problems[experiment.source.problem(place, fault.what, fault.fix, fault.level)] = None
    for fault in logger_checks.shared_folders(run.config for run in runs):
        problems[experiment.source.problem(place_of(experiment, fault.name), fault.what, fault.fix, fault.level)] = None
    return [*problems, *component_checks.check(composer, runs, places(experiment))]


def _dataset_place(experiment: Experiment, run: Run, name: str) -> KeyPath:
    """Where a key of the dataset is set, or else the dataset."""
    place = place_of(experiment, name)
    return _value_place(experiment, run) if place == ("framework_config", "base_config") or name == "dataset" else place


def _value_place(experiment: Experiment, run: Run) -> KeyPath:
    """Where the dataset of `run` stands: of a variable, the very value."""
    value = run.params.get("dataset") if "dataset" not in experiment.override else None
    for name, values in experiment.spec.variables.items():
        for index, entry in enumerate(values):
            if name == "dataset" and entry == value:
                return ("variables", name, index)
            if not is_parameter(name) and isinstance(entry, dict) and value is not None and entry.get("dataset") == value:
                return ("variables", name, index, "dataset")
    return place_of(experiment, "dataset")


def _equal_points(composer: Composer, runs: list[Run]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for number, run in enumerate(runs):
        first = seen.setdefault(run.identity, number)
        if first != number:
            what = f"{run_id(number, len(runs))} and {run_id(first, len(runs))} compose to the same torchtune config"
            if run.config.get(logger_config.KEY) != runs[first].config.get(logger_config.KEY):
                what += f", but for {logger_config.KEY}, which changes nothing in what is trained"
            yield composer.experiment.source.problem(("variables",), what, "remove one of the two points")


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


def _cpu_faults(composer: Composer, run: Run) -> Iterator[Fault]:
    """Several epochs on a CPU with a recipe that saves a model which is wrong then, and that we have no other for."""
    config = run.config
    if config.get("device") != "cpu" or config.get("epochs") in (None, 1) or run.recipe != composer.recipe.replace(".", "/"):
        return
    if composer.merges_live_weights and torchtune_catalog.is_lora(config) and not config.get("save_adapter_weights_only"):
        what = f"on a CPU {composer.recipe} merges LoRA into the weights that it goes on training: every epoch after the first starts wrong"
        yield Fault("epochs", what, "train one epoch, or set save_adapter_weights_only: true, or train on a GPU", reads=("device", "save_adapter_weights_only"))


def config_faults(experiment: Experiment, config: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with `config` on its own."""
    if experiment.spec.evaluation.enabled:
        yield from _evaluable_faults(config)
        yield from _output_faults(config)
        yield from _format_faults(experiment.spec.evaluation.model_format, config)
        yield from _epoch_faults(experiment.spec.evaluation.checkpoint, config)
        yield from _base_faults(experiment, config)
    if find(config, "dataset.packed") and find(config, "tokenizer.max_seq_len") is None:
        yield Fault("packed", "packed needs max_seq_len, the length to pack to", "add under controls:\n  max_seq_len: 2048", reads=("tokenizer.max_seq_len",))


# torchtune 0.6.1 saves their adapters in its own format alone (FullModelHFCheckpointer.save_checkpoint).
NO_PEFT_ADAPTER = ("PHI3_MINI", "PHI4", "LLAMA3_VISION")


def _format_faults(model_format: str, config: Mapping[str, Any]) -> Iterator[Fault]:
    """The trained weights must be there in the form that is evaluated."""
    model_type = find(config, "checkpointer.model_type")
    if model_format == "hf":
        if config.get("save_adapter_weights_only"):
            yield Fault("save_adapter_weights_only", "model_format hf evaluates merged weights, and save_adapter_weights_only saves none")
    elif not torchtune_catalog.is_lora(config):
        yield Fault("model_format", "model_format adapter evaluates a LoRA adapter, and this config trains none", "model_format: hf", reads=("model",))
    elif model_type in NO_PEFT_ADAPTER:
        yield Fault("model_format", f"torchtune exports no PEFT adapter of a {model_type} model", "model_format: hf", reads=("checkpointer.model_type",))


def _epoch_faults(wanted: str | list[int], config: Mapping[str, Any]) -> Iterator[Fault]:
    """The epochs that are to be evaluated must be trained."""
    epochs = config.get("epochs")
    missing = [epoch for epoch in wanted if epoch >= epochs] if isinstance(wanted, list) and isinstance(epochs, int) else []
    if missing:
        what = f"there is no epoch {', '.join(map(str, missing))} of a training of {epochs}: the last is {epochs - 1}"
        yield Fault("checkpoint", what, reads=("epochs",))


def _base_faults(experiment: Experiment, config: Mapping[str, Any]) -> Iterator[Fault]:
    """An adapter must be evaluated on the model that it was trained on."""
    evaluation = experiment.spec.evaluation
    if evaluation.model_format != "adapter":
        return
    if evaluation.base_model is not None:
        folder = experiment.path(evaluation.base_model)
        if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
            yield Fault("base_model", f"{folder} is no Hugging Face model: config.json or model*.safetensors is missing", "leave it out: it is the model that is trained")
    elif any(not name.endswith(".safetensors") for name in weight_files(find(config, "checkpointer.checkpoint_files")) or ()):
        what = "adapters are evaluated on a base model in safetensors, and the one that is trained is in another format"
        yield Fault("model_format", what, "model_format: hf, or base_model: a folder with the same weights in safetensors", reads=("checkpointer.checkpoint_files",))
    if evaluation.backend == "vllm" and not evaluation.merges and (evaluation.dtype or config.get("dtype")) == "fp32":
        yield Fault("evaluation.dtype", "vLLM computes adapters in bf16 or fp16 only", "dtype: bf16 below evaluation, or merge_adapters: true", reads=("dtype",))
    component = str(find(config, "model._component_"))
    if find(config, "model.use_dora"):
        yield Fault("model_format", "torchtune does not tell peft that an adapter is DoRA", "model_format: hf", reads=("model.use_dora",))
    elif "qlora" in component or find(config, "model.quantize_base"):
        what = "the adapter is trained on a base model in 4 bits, and evaluated on the one in full precision"
        yield Fault("model_format", what, "model_format: hf evaluates what was trained", "warning", reads=("model",))


def _output_faults(config: Mapping[str, Any]) -> Iterator[Fault]:
    """Each run's checkpoints must lie in its own folder, under a number of epochs that is known."""
    folder = find(config, "checkpointer.output_dir")
    if not isinstance(folder, str) or not folder.startswith("${output_dir}"):
        what = f"checkpointer.output_dir is {folder}: the checkpoints of all runs would lie there together"
        yield Fault("_override", what, "checkpointer.output_dir: ${output_dir}/hf_model")
    if not isinstance(config.get("epochs"), int):
        yield Fault("epochs", f"epochs is {config.get('epochs')!r}: nothing says which checkpoint is the last")


def _evaluable_faults(config: Mapping[str, Any]) -> Iterator[Fault]:
    """Evaluation needs Hugging Face checkpoints."""
    component = find(config, "checkpointer._component_")
    if component != HF_CHECKPOINTER:
        yield Fault("checkpointer._component_", f"evaluation needs a Hugging Face checkpointer, and this is {component}", HF_CHECKPOINTER_BLOCK)


def _weight_faults(composer: Composer, to_run: bool, lacking: Callable[..., list[str]], config: Mapping[str, Any]) -> Iterator[Fault]:
    """Weight files that the checkpointer names and its folder lacks.

    Args:
        to_run: training is about to start; otherwise missing weights that may still be downloaded are a warning.
    """
    files, folder = weight_files(find(config, "checkpointer.checkpoint_files")), composer.weights_folder(config)
    if files is None:
        yield Fault("checkpointer.checkpoint_files", "expected a list of file names, or filename_format and max_filename")
    if folder is None:
        yield Fault("checkpointer.checkpoint_dir", f"expected a folder, got {find(config, 'checkpointer.checkpoint_dir')!r}")
    if files is None or folder is None:
        return
    if find(config, "checkpointer._component_") == HF_CHECKPOINTER:
        files = ["config.json", *files]
    if missing := lacking(folder, *files):
        fix = composer.download or "set framework_config.model_dir to the folder of the weights"
        given = composer.experiment.spec.framework_config.model_dir is not None
        reads = ("checkpointer.checkpoint_files", "checkpointer.checkpoint_dir")
        yield Fault("model_dir", f"{folder} lacks {', '.join(missing)}", fix, "error" if given or to_run else "warning", reads)


def _lacking(folder: Path, *files: str) -> list[str]:
    return [name for name in files if not os.path.isfile(folder / name)]  # false too of a name that no file can have
