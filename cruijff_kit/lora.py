"""LoRA adapters as torchtune exports them for peft, put on the model that they were trained on. Imports peft, and so torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict

from cruijff_kit import checkpoint
from cruijff_kit.errors import CruijffKitError


def adapted(model: Any, adapter: Path) -> PeftModel:
    """`model`, a transformers model, with the adapter in it.

    Raises:
        CruijffKitError: not every tensor of the adapter found its place: peft would leave the others out in silence.
    """
    on_base = PeftModel.from_pretrained(model, str(adapter))
    check(on_base, adapter)
    return on_base.eval()


def check(on_base: PeftModel, adapter: Path) -> None:
    """That the active adapter of the model is all of what lies in the folder `adapter`.

    Raises:
        CruijffKitError: it is not.
    """
    there, _ = checkpoint.header(adapter / checkpoint.ADAPTER_FILES[1])
    # else peft 0.18 adds the base model's own output layer, where LoRA is on it, and asks the Hub
    placed = get_peft_model_state_dict(on_base, adapter_name=on_base.active_adapter, save_embedding_layers=False)
    if lost := sorted(set(there) ^ set(placed)):
        raise CruijffKitError(f"{adapter} does not fit the base model: {len(lost)} of its tensors have no place there, {lost[0]} for one")


def merged(base: Path, adapter: Path, dtype: str) -> Any:
    """The transformers model in `base`, on the CPU, with the adapter merged into its weights; `dtype` is torch's name, `float32`.

    Raises:
        CruijffKitError: as `adapted`.
    """
    from transformers import AutoModelForCausalLM

    return adapted(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), adapter).merge_and_unload()
