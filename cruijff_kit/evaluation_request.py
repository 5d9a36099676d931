"""What an evaluation script asks for, what its command line changes, and whether the model is the one that it names."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cruijff_kit import base_weights, checkpoint, task_source, torchtune_catalog
from cruijff_kit.errors import CruijffKitError, closest
from cruijff_kit.config_tree import output_dir_of, unescape

TORCH_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

OVERRIDES = ("limit", "dtype", "device", "generate", "tasks")


@dataclass(frozen=True)
class Request:
    """What an evaluation script asks for.

    Args:
        model: folder of a Hugging Face model, or of a LoRA adapter; of several epochs the folder that they lie in.
        checkpoints: those epochs; None where `model` is the only one.
        base_model: folder of the model that the adapter goes on; None if `model` is a whole one.
        merge_adapters: the adapter is merged into a model of its own first.
        backend: `hf` or `vllm`.
        train_config: the torchtune config that it must have been trained with; None for a base model.
        words: what its command line changed.
        checkpoint: which of several epochs this is of: `epoch_2`; set by `each`.
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
    checkpoints: Sequence[int] | None = None
    base_model: Path | None = None
    merge_adapters: bool = False
    backend: str = "hf"
    train_config: Path | None = None
    script: Path | None = None
    words: Sequence[str] = ()
    checkpoint: str = ""

    @classmethod
    def of(cls, arguments: Mapping[str, Any], script: Path) -> Request:
        """The request of a script's arguments, which hold paths as text; that of the training's config starts at the script."""
        names = ("model", "folder", "results_dir", "train_config", "base_model")
        paths = {name: Path(arguments[name]) for name in names if name in arguments}
        if "train_config" in paths:
            paths["train_config"] = script.absolute().parent / paths["train_config"]
        return cls(**{**arguments, **paths}, script=script.absolute())

    @classmethod
    def in_script(cls, script: Path) -> Request:
        """What the evaluation script asks for, read without running it.

        Raises:
            OSError, ValueError: it cannot be read, or is none of ours.
        """
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "evaluate":
                return cls.of({str(word.arg): ast.literal_eval(word.value) for word in node.keywords}, script)
        raise ValueError(f"{script} calls no evaluate()")

    def each(self) -> list[Request]:
        """One for each checkpoint."""
        if self.checkpoints is None:
            return [self]
        names = [f"epoch_{epoch}" for epoch in self.checkpoints]
        return [replace(self, model=self.model / name, checkpoint=name, checkpoints=None) for name in names]

    @property
    def name(self) -> str:
        """What its model is called: `run_000`, or `run_000/epoch_2`."""
        return f"{self.run}/{self.checkpoint}" if self.checkpoint else self.run

    @property
    def scores(self) -> Path:
        """The folder of its tasks' results."""
        return self.results_dir / self.run / self.checkpoint

    @property
    def is_adapter(self) -> bool:
        return self.base_model is not None

    @property
    def is_on_base(self) -> bool:
        """Whether the adapter is put on its base model as it is."""
        return self.is_adapter and not self.merge_adapters

    def settings(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """All that the scores of `task` depend on, beside its samples and the weights."""
        form = {"model_format": "adapter", "merge_adapters": self.merge_adapters} if self.is_adapter else {}
        return {
            "function": task["function"],
            "args": task["args"],
            "files": task_source.digest(Path(task["file"]), task["function"]),
            "generate": dict(self.generate),
            "limit": self.limit,
            "dtype": self.dtype,
            "device": self.device,
            **form,
            **({"backend": self.backend} if self.backend != "hf" else {}),
        }

    def shown(self, path: Path) -> str:
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)


def override(request: Request, words: Sequence[str]) -> Request:
    """`request` with `limit=5 generate.max_tokens=8 tasks=[domain_qa]` put in; values are YAML.

    Raises:
        CruijffKitError: a word names no setting, or a task that is not there.
    """
    if not words:
        return request
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for word in words:
        name = word.split("=")[0].split(".")[0]
        if "=" not in word or name not in OVERRIDES:
            hint = closest(name, OVERRIDES) or f"settings are {', '.join(OVERRIDES)}"
            raise CruijffKitError(f"{word}: no setting of an evaluation: {hint}")
    try:
        given: dict[str, Any] = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))  # type: ignore[assignment]
    except (OmegaConfBaseException, YAMLError) as error:
        raise CruijffKitError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from None
    if "tasks" in given:
        given["tasks"] = _tasks(request, given["tasks"])
    if not isinstance(given.get("generate", {}), dict):
        raise CruijffKitError("generate: expected a setting: generate.max_tokens=8")
    generate = {**request.generate, **given.get("generate", {})}
    given["generate"] = {name: value for name, value in generate.items() if value is not None}
    _check_settings({name: value for name, value in given.items() if name in ("limit", "dtype", "generate")})
    return replace(request, **given, words=tuple(words))


def settings_of(words: Sequence[str]) -> list[str]:
    """The words that are settings, and do not choose tasks."""
    return [word for word in words if not word.startswith("tasks=")]


def checkpoints_in(script: Path) -> list[int]:
    """The epochs that an evaluation script names, without parsing all of it: of a thousand scripts that takes a second.

    Raises:
        OSError: it cannot be read.
    """
    found = re.search(r"^ +checkpoints=\[([\d, ]+)\],$", script.read_text(encoding="utf-8"), re.MULTILINE)
    return [int(number) for number in found[1].split(",")] if found else []


def script_digest(script: Path) -> str:
    """What tells one version of an evaluation script from another."""
    return hashlib.sha256(script.read_bytes()).hexdigest()[:16]


def _tasks(request: Request, names: Any) -> list[Mapping[str, Any]]:
    known = {task["name"]: task for task in request.tasks}
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in known:
            raise CruijffKitError(f"tasks: there is no task '{name}': {closest(str(name), known) or ', '.join(known)}")
    if not names:
        raise CruijffKitError(f"tasks: none is named: {', '.join(known)}")
    return [known[name] for name in names]


def _check_settings(given: Mapping[str, Any]) -> None:
    from pydantic import ValidationError

    from cruijff_kit.schema import Evaluation
    from cruijff_kit.inspect_tasks import generate_faults

    try:
        Evaluation.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        raise CruijffKitError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, got {fault['input']!r}") from None
    for name, what, hint in generate_faults(given["generate"]):
        raise CruijffKitError(f"generate.{name}: {what}" + (f"\n  {hint}" if hint else ""))


def check_model(request: Request) -> dict[str, Any]:
    """That the weights are whole, of several checkpoints those of any, and are those of this run; what they were trained with instead.

    Another seed may differ: it makes a replicate of the same run. Where the seed
    is swept it may not. So may the base model's folder, which may have been moved.
    Both are written beside the scores.

    Raises:
        CruijffKitError: `Cannot load model: …` with the reason.
    """
    faults = {each.shown(each.model): checkpoint.fault(each.model, each.is_adapter) for each in request.each()}
    some = request.checkpoints is not None and None in faults.values()  # an earlier epoch may have been removed
    faults = {} if some else {name: fault for name, fault in faults.items() if fault}
    if request.base_model is not None and (fault := checkpoint.fault(request.base_model)):
        faults[request.shown(request.base_model)] = fault
    other: dict[str, Any] = {}
    if not faults and request.train_config is not None:
        fault, other = _trained_otherwise(request, request.train_config)
        faults = {request.shown(request.model): fault} if fault else {}
    if faults:
        raise CruijffKitError("\n".join(f"Cannot load model: {name}: {fault}" for name, fault in faults.items()))
    if other:
        print(f"warning: {request.run} was trained with {other}, not as its config says: recorded so", file=sys.stderr)
    return other


def _trained_otherwise(request: Request, train_config: Path) -> tuple[str | None, dict[str, Any]]:
    """Why the weights are not those of this run, if they are not; else what they were trained with otherwise."""
    config = torchtune_catalog.read_config(train_config)
    results = Path(unescape(config["output_dir"]))
    difference = checkpoint.differences(train_config, results, request.folder)
    if isinstance(difference, str):
        return difference, {}
    if fault := _not_its_end(request, config, results):
        return fault, {}
    if set(difference) - {"seed"} or ("seed" in difference and "seed" in request.params):
        return f"it was trained with another config: {', '.join(f'{key}={value!r}' for key, value in difference.items())}", {}
    place = checkpoint.other_model(train_config, results, request.folder)
    other = {**difference, **({"model_dir": place} if place else {})}
    base = output_dir_of(config, "checkpointer.checkpoint_dir")
    if request.base_model is not None and base is not None:
        same = base_weights.are_same(base, request.base_model)
        if same is False:
            return f"the adapter was trained on other weights, those in {base}, than base_model has: {request.shown(request.base_model)}", {}
        other |= {} if same else {"model_dir": str(base)}
    return None, other


def _not_its_end(request: Request, config: Mapping[str, Any], results: Path) -> str | None:
    """Why the training that this config began has not ended; a resumed one wrote its copy of the config after its earlier epochs."""
    ended = (request.model if request.checkpoints is not None else request.model.parent) / f"epoch_{config['epochs'] - 1}"
    alone = request.is_adapter if ended == request.model else checkpoint.saves_adapter_alone(config)
    if fault := checkpoint.fault(ended, alone):
        return f"its training has not ended: {request.shown(ended)}: {fault}"
    return checkpoint.older_than_config(ended, results, alone)
