"""torchtune's lora_finetune_single_device, which can be resumed, and on a CPU leaves the model alone when it saves.

The recipe moves the weights to the CPU and merges LoRA into them in place. On a CPU that move
copies nothing (torchtune 0.6.1, `v.cpu()` in save_checkpoint), so each save merges LoRA into the
model that is still training, and every epoch after the first trains a corrupted model.

Nothing else differs: same config, same files, and on a GPU the same code path.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from omegaconf import DictConfig
from torchtune import config

from cruijff_kit.recipes._resumable import Resumable, load_torchtune_recipe

_torchtune_recipe = load_torchtune_recipe("lora_finetune_single_device")


class _Snapshot:
    """Stands in for a model while it is saved: its state_dict may be changed in place."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.named_parameters = model.named_parameters

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The model's weights, copied where `.cpu()` would not copy them."""
        return {
            name: weight.clone() if weight.device.type == "cpu" else weight
            for name, weight in self._model.state_dict().items()
        }


class LoRAFinetuneRecipeSingleDevice(Resumable, _torchtune_recipe.LoRAFinetuneRecipeSingleDevice):
    """torchtune's recipe, which saves a snapshot of the model instead of the model."""

    torchtune_recipe = _torchtune_recipe

    def weights_of(self, epoch: Path) -> Iterable[str]:
        """The adapter: the base weights are loaded from their own folder."""
        return ["adapter_model.pt"]

    def load_weights(self, cfg_checkpointer: DictConfig, names: list[str]) -> None:
        cfg_checkpointer.adapter_checkpoint = names[0]

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
