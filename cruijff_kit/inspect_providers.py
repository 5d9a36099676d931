"""What Inspect finds of ours: its Hugging Face provider with seeds that hold, and the same with a LoRA adapter on the model.

    inspect eval evals/task.py --model hf_seeded/run_000 -M model_path=MODEL
    inspect eval evals/task.py --model hf_adapter/run_000 -M model_path=MODEL -M adapter_path=results/run_000/hf_model/epoch_0

Both take every argument of Inspect's provider `hf` besides.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi


@modelapi(name="hf_seeded")
def hf_seeded() -> type[Any]:
    from cruijff_kit.hf_models import SeededAPI

    return SeededAPI


@modelapi(name="hf_adapter")
def hf_adapter() -> type[Any]:
    from cruijff_kit.hf_models import AdapterAPI

    return AdapterAPI
