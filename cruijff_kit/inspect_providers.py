"""What Inspect finds of ours: the provider `hf_adapter`, a Hugging Face model with a LoRA adapter on it.

    inspect eval evals/task.py --model hf_adapter/run_000 -M model_path=MODEL -M adapter_path=results/run_000/hf_model/epoch_0

It takes every argument of Inspect's provider `hf` besides.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi


@modelapi(name="hf_adapter")
def hf_adapter() -> type[Any]:
    from cruijff_kit.hf_adapter import AdapterAPI

    return AdapterAPI
