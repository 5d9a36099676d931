"""The model that a request asks for, as Inspect takes it: whole, merged for the occasion, or a base model with an adapter on it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from cruijff_kit import checkpoint, vllm_backend
from cruijff_kit.disk_space import free_bytes, human
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.evaluation_request import TORCH_DTYPES, Request
from cruijff_kit.paths import HIDDEN
from cruijff_kit.process_family import exit_when_told

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def generation(request: Request) -> dict[str, Any]:
    """Inspect's generation settings: greedy without a temperature, whatever a task asks for, and the log says so.

    Who samples and gives no seed gets seed 0: without one, nobody could have the same answers again.
    """
    settings = {"temperature": 0.0, **request.generate}
    settings = {"seed": 0, **settings} if settings["temperature"] else settings
    return vllm_backend.generation(settings, _has_chat_template(request)) if request.backend == "vllm" else settings


def provider(request: Request) -> str:
    """The name of the Inspect provider that evaluates the request: see inspect_providers."""
    if request.backend == "vllm":
        return "vllm"
    return "hf_adapter" if request.is_on_base else "hf_seeded"


def model_settings(model: Any) -> dict[str, Any]:
    """The generation settings in the model's own files that are not used."""
    return dict(getattr(model.api, "not_used", {}))


class Models:
    """Loads the model of one request after the other, and only one at a time; adapters on one base model share it.

    The working directory is the experiment's folder: what Inspect goes on with has the same paths, relative to it.

    Args:
        adapters: all that will be asked for: a server is started for the largest of them.
    """

    def __init__(self, adapters: Sequence[Path] = ()) -> None:
        self._adapters = adapters
        self._model: Any = None
        self._base: tuple[Any, ...] | None = None  # what tells the base model that is loaded from others
        self._loaded = ExitStack()  # what there is to let go of

    def __enter__(self) -> Models:
        exit_when_told()  # else SIGTERM would leave merged weights behind
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def load(self, request: Request) -> Any:
        """An Inspect Model; the one before is of no more use.

        Raises:
            CruijffKitError: there is no room for merged weights, or the adapter does not fit the base model.
        """
        base = self._base_of(request)
        if base is None or base != self._base:
            self.close()
        shutil.rmtree(_merged_folder(request).parent, ignore_errors=True)  # what an evaluation of this run that was killed left
        folder = self._folder(request)
        if request.backend == "vllm":
            self._model = self._served(request, folder)
            self._loaded.callback(vllm_backend.close, self._model)
        elif base is not None and self._model is not None:
            self._model = _switched(self._model.api, request, folder)
        else:
            self._model = _model(request, folder)
            self._loaded.callback(self._model.api.close)
        self._base = base
        return self._model

    def close(self) -> None:
        """Lets go of the model, and removes merged weights."""
        self._model = self._base = None
        self._loaded.close()

    def _base_of(self, request: Request) -> tuple[Any, ...] | None:
        if not request.is_on_base:
            return None
        return request.base_model, request.dtype, request.device, json.dumps(generation(request), sort_keys=True)

    def _folder(self, request: Request) -> Path:
        """The folder of the whole model: merged now, or the base model of the adapter."""
        if request.base_model is None:
            return _view(request.model, request.run, request.model.name if request.train_config else "model")
        if request.is_on_base:
            return _base_view(request)
        folder = _merged_folder(request)
        self._loaded.callback(shutil.rmtree, folder.absolute(), ignore_errors=True)  # whoever closes us may be in another folder by then
        merge(request, folder)
        return folder

    def _served(self, request: Request, folder: Path) -> Any:
        return vllm_backend.load(
            folder,
            request.model if request.is_on_base else None,
            request.dtype,
            request.generate,
            has_chat_template=has_chat_template(folder),
            adapters=self._adapters if request.is_on_base else (),
        )


def _switched(api: Any, request: Request, folder: Path) -> Any:
    """The model of another adapter on the base model that is loaded."""
    from inspect_ai.model import GenerateConfig, Model

    api.switch(request.name, request.shown(request.model))
    return Model(api, GenerateConfig(**generation(request)), _arguments(request, folder))


def _model(request: Request, folder: Path) -> Any:
    from inspect_ai.model import GenerateConfig, get_model

    import cruijff_kit.inspect_providers  # noqa: F401  makes the names known, also where we are not installed as a package

    config = GenerateConfig(**generation(request))
    # not memoized: Inspect would keep every model that was ever loaded
    return get_model(f"{provider(request)}/{request.name}", config=config, memoize=False, **_arguments(request, folder))


def _arguments(request: Request, folder: Path) -> dict[str, Any]:
    """Of Inspect's hf provider; it samples unless it is told otherwise."""
    return {
        "model_path": str(folder),
        "device": request.device,
        "dtype": TORCH_DTYPES[request.dtype],
        "do_sample": bool(generation(request).get("temperature")),
        "tokenizer_call_args": tokenizer_call_args(folder),
        **({"adapter_path": request.shown(request.model)} if request.is_on_base else {}),
    }


def _view(folder: Path, *names: str) -> Path:
    """A folder that shows the model without adapters, which transformers would load on top of it."""
    view = Path(HIDDEN, "models", *names)
    checkpoint.without_adapter(folder, view)
    return view


def _base_view(request: Request) -> Path:
    """The same one for all adapters on a base model: a server is known by the path of what it serves."""
    assert request.base_model is not None
    return _view(request.base_model, f"of_{hashlib.sha256(os.fsencode(request.shown(request.base_model))).hexdigest()[:16]}")


def _merged_folder(request: Request) -> Path:
    return Path(HIDDEN, "merged", request.run, request.model.name)


def merge(request: Request, folder: Path) -> None:
    """Writes the base model with the adapter merged into it to `folder`, in the dtype of the evaluation.

    Raises:
        CruijffKitError: there is no room for it, or the adapter does not fit the base model.
    """
    from cruijff_kit.lora import merged

    assert request.base_model is not None
    shards = [request.base_model / name for name in checkpoint.shards(request.base_model)]
    needed, free = sum(checkpoint.bytes_in(path, request.dtype) for path in shards), free_bytes(folder.absolute())
    if needed > free:
        raise CruijffKitError(
            f"the merged model of {request.name} takes {human(needed)}, and {human(free)} are free in {request.shown(folder.absolute().parent)}\n"
            "  make room, or evaluate the adapter on its base model: merge_adapters: false"
        )
    base = _base_view(request)
    folder.mkdir(parents=True)
    merged(base, request.model, TORCH_DTYPES[request.dtype]).save_pretrained(folder)
    for path in checkpoint.model_files(base):  # the tokenizer, and whatever else stands beside the weights
        if path.suffix not in WEIGHTS and not path.name.endswith(".index.json") and not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)


def tokenizer_call_args(folder: Path) -> dict[str, Any]:
    """How the tokenizer is called: a chat template writes its own first token, and the tokenizer would add a second."""
    return {"add_special_tokens": False} if has_chat_template(folder) else {}


def _has_chat_template(request: Request) -> bool:
    return has_chat_template(request.base_model or request.model)


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
