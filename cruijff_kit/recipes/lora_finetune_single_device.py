"""torchtune's lora_finetune_single_device, mended so that saving on a CPU leaves the model alone.

The recipe moves the weights to the CPU and merges LoRA into them in place. On a CPU that move
copies nothing (torchtune 0.6.1, `v.cpu()` in save_checkpoint), so each save merges LoRA into the
model that is still training, and every epoch after the first trains a corrupted model.

Nothing else differs: same config, same files, and on a GPU the same code path.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch
import torchtune
from omegaconf import DictConfig
from torchtune import config


def _load_torchtune_recipe(name: str) -> ModuleType:
    """The module of torchtune's recipe `name`, from its file beside the package torchtune.

    The folder `recipes` cannot be imported: its `__init__` raises on purpose. `tune run` finds the
    file in the same way (torchtune/_cli/run.py, ROOT).
    """
    path = Path(torchtune.__file__).parents[1] / "recipes" / f"{name}.py"
    spec = spec_from_file_location(f"torchtune_recipe_{name}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_torchtune_recipe = _load_torchtune_recipe("lora_finetune_single_device")


class _Snapshot:
    """Stands in for a model while it is saved: its state_dict may be changed in place."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The model's weights, copied where `.cpu()` would not copy them."""
        return {
            name: weight.clone() if weight.device.type == "cpu" else weight
            for name, weight in self._model.state_dict().items()
        }


class LoRAFinetuneRecipeSingleDevice(_torchtune_recipe.LoRAFinetuneRecipeSingleDevice):
    """torchtune's recipe, which saves a snapshot of the model instead of the model."""

    def save_checkpoint(self, epoch: int) -> None:
        """Write `epoch_{epoch}/` as torchtune does, without touching the weights in training."""
        model = self._model
        self._model = _Snapshot(model)
        try:
            super().save_checkpoint(epoch=epoch)
        finally:
            self._model = model


@config.parse
def recipe_main(cfg: DictConfig) -> None:
    """Fine-tune with LoRA on a single device, a CPU included."""
    config.log_config(recipe_name="LoRAFinetuneRecipeSingleDevice", cfg=cfg)
    recipe = LoRAFinetuneRecipeSingleDevice(cfg=cfg)
    recipe.setup(cfg=cfg)
    recipe.train()
    recipe.cleanup()


if __name__ == "__main__":
    sys.exit(recipe_main())
