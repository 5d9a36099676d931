"""Inspect's Hugging Face provider with a LoRA adapter on the model. Imports torch, through Inspect's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspect_ai.model import GenerateConfig
from inspect_ai.model._providers.hf import HuggingFaceAPI

from cruijff_kit import checkpoint, lora


class AdapterAPI(HuggingFaceAPI):
    """Everything but the adapter is Inspect's: batches, chat template, all arguments.

    Args:
        model_path: folder of the base model.
        adapter_path: folder of the adapter.

    Raises:
        ValueError: the base model's folder holds an adapter too, which transformers would load: LoRA would be applied twice.
        CruijffKitError: the adapter does not fit the base model.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),
        *,
        model_path: str,
        adapter_path: str,
        **model_args: Any,
    ) -> None:
        if (Path(model_path) / checkpoint.ADAPTER_FILES[0]).exists():
            raise ValueError(f"{model_path} holds an adapter of its own: LoRA would be applied twice; give the base model's folder")
        super().__init__(model_name, base_url, api_key, config, model_path=model_path, **model_args)
        self._on_base = lora.adapted(self.model, Path(adapter_path))
        self.model = self._on_base.get_base_model()  # the same one, with the adapter's layers in it

    def switch(self, model_name: str, adapter_path: str) -> None:
        """Takes the adapter off, and puts another one on the same base model.

        Raises:
            CruijffKitError: it does not fit.
        """
        old = self._on_base.active_adapter
        new = "default" if old != "default" else "next"
        if new in self._on_base.peft_config:  # one that did not fit
            self._on_base.delete_adapter(new)
        self._on_base.load_adapter(adapter_path, adapter_name=new)
        self._on_base.set_adapter(new)
        self._on_base.delete_adapter(old)
        lora.check(self._on_base, Path(adapter_path))
        self._on_base.eval()
        self.model_name = model_name

    def close(self) -> None:
        self._on_base = None
        super().close()
