"""torchtune's full_finetune_single_device, which can be resumed.

Nothing else differs: same config, same files, same weights.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig
from torchtune import config

from cruijff_kit import checkpoint
from cruijff_kit.recipes._resumable import Resumable, load_torchtune_recipe

_torchtune_recipe = load_torchtune_recipe("full_finetune_single_device")


class FullFinetuneRecipeSingleDevice(Resumable, _torchtune_recipe.FullFinetuneRecipeSingleDevice):
    """torchtune's recipe, which goes on from the weights of the last finished epoch."""

    torchtune_recipe = _torchtune_recipe

    def weights_of(self, epoch: Path) -> Iterable[str]:
        """The whole model."""
        return checkpoint.shards(epoch)

    def load_weights(self, cfg_checkpointer: DictConfig, names: list[str]) -> None:
        cfg_checkpointer.checkpoint_files = names


@config.parse
def recipe_main(cfg: DictConfig) -> None:
    """Fine-tune all weights on a single device."""
    config.log_config(recipe_name="FullFinetuneRecipeSingleDevice", cfg=cfg)
    recipe = FullFinetuneRecipeSingleDevice(cfg=cfg)
    recipe.setup(cfg=cfg)
    recipe.train()
    recipe.cleanup()


if __name__ == "__main__":
    sys.exit(recipe_main())
