"""What our recipes share: saves that are whole or do not count, and resuming as if there had been no interruption.

torchtune 0.6.1 restores the weights and the optimizer. It does not restore the random state that
dropout draws from, nor the gradients that an epoch leaves when its batches are no multiple of
gradient_accumulation_steps (they go into the first step of the next); and lora_finetune_single_device
starts the learning rate's schedule again where max_steps_per_epoch does not cut an epoch short.
"""

import random
from collections.abc import Iterable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import torch
import torchtune
from omegaconf import DictConfig, OmegaConf
from torchtune import training

from cruijff_kit import ownership, resume

REST = "cruijff_kit"  # the key of a recipe state that holds what torchtune leaves out


def load_torchtune_recipe(name: str) -> ModuleType:
    """The module of torchtune's recipe `name`, from its file beside the package torchtune.

    The folder `recipes` cannot be imported: its `__init__` raises on purpose. `tune run` finds the
    file in the same way (torchtune/_cli/run.py, ROOT).
    """
    path = Path(torchtune.__file__).parents[1] / "recipes" / f"{name}.py"
    spec = spec_from_file_location(f"torchtune_recipe_{name}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Resumable:
    """Comes before torchtune's class in the bases of a recipe for a single device.

    A subclass says what is loaded: `weights_of` an epoch, and how its config is told.
    """

    torchtune_recipe: ModuleType

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg=cfg)
        self._checkpoints = Path(cfg.checkpointer.output_dir)
        self._config_text = OmegaConf.to_yaml(cfg)
        self._rest: dict[str, Any] = {}
        self._tokens, self._tokens_of_step = 0, 0

    def weights_of(self, epoch: Path) -> Iterable[str]:
        """The names of the files of an epoch that training goes on from."""
        raise NotImplementedError

    def load_checkpoint(self, cfg_checkpointer: DictConfig) -> dict[str, Any]:
        """Load the base weights, or those of the last finished epoch with its state."""
        if self._resume_from_checkpoint:
            state = resume.last_state(self._checkpoints)
            if state is None or state.folder.name != resume.STATE:
                raise ValueError(
                    f"{self._checkpoints}: no epoch was finished that this recipe can go on from: "
                    "start it without resume_from_checkpoint=True"
                )
            self.load_weights(cfg_checkpointer, list(state.weights))
            cfg_checkpointer.recipe_checkpoint = f"{resume.STATE}/{resume.FILE}"
        checkpoint = super().load_checkpoint(cfg_checkpointer)
        self._rest = checkpoint.pop(REST, {})
        self._checkpointer = _WholeSaves(self._checkpointer, self)
        return checkpoint

    def load_weights(self, cfg_checkpointer: DictConfig, names: list[str]) -> None:
        """Have the checkpointer load these files of its output_dir."""
        raise NotImplementedError

    def _setup_lr_scheduler(self, cfg_lr_scheduler: Any, num_training_steps: int, last_epoch: int) -> Any:
        """Start the schedule at the step that was reached, which torchtune's LoRA recipe leaves at 0."""
        self.global_step = self.epochs_run * self._steps_per_epoch
        return super()._setup_lr_scheduler(cfg_lr_scheduler, num_training_steps, last_epoch=self.global_step - 1)

    def train(self) -> None:
        """Train on, with the random numbers that an uninterrupted training would draw."""
        if self._rest:
            _set_random_state(self._rest["random"], self._device)
            self._tokens, self._tokens_of_step = self._rest["tokens"], self.global_step
        if self._rest.get("gradients"):
            # scale_grads is told 1 / the tokens of the batches that this process accumulated
            self.torchtune_recipe.training = _ScalingByAllTokens(self)
        super().train()

    def _loss_step(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        for name, parameter in self._model.named_parameters():
            if name in self._rest.get("gradients", ()):  # not sooner: train() begins with zero_grad()
                parameter.grad = self._rest["gradients"][name].to(parameter.device)
        self._rest = {}
        tokens = (batch["labels"] != self._loss_fn.ignore_index).sum()
        self._tokens = self.accumulated_tokens() + tokens
        self._tokens_of_step = self.global_step
        return super()._loss_step(batch)

    def accumulated_tokens(self) -> Any:
        """How many tokens have gone into the gradients since the last step of the optimizer."""
        return self._tokens if self._tokens_of_step == self.global_step else 0

    def rest_of_state(self) -> dict[str, Any]:
        """What a recipe state needs beside torchtune's own."""
        gradients = {name: each.grad for name, each in self._model.named_parameters() if each.grad is not None}
        return {"random": _random_state(self._device), "gradients": gradients, "tokens": self.accumulated_tokens()}

    def mark_state(self, epoch: int) -> None:
        weights = [f"epoch_{epoch}/{name}" for name in self.weights_of(self._checkpoints / f"epoch_{epoch}")]
        resume.mark(self._checkpoints, epoch + 1, weights, self._config_text)


class _WholeSaves:
    """Stands in for the checkpointer: after a kill in a save, the state of the epoch before is still there."""

    def __init__(self, checkpointer: Any, recipe: Resumable) -> None:
        self._checkpointer, self._recipe = checkpointer, recipe

    def save_checkpoint(
        self, state_dict: dict[str, Any], epoch: int, intermediate_checkpoint: bool = False, **options: Any
    ) -> None:
        """Write `epoch_{epoch}/` and, unless it is the last, the recipe state."""
        ownership.check_environment()
        checkpoints = self._recipe._checkpoints
        with resume.unfinished(checkpoints / f"epoch_{epoch}"):
            if intermediate_checkpoint:
                resume.keep_state(checkpoints)
                state_dict[REST] = self._recipe.rest_of_state()
            self._checkpointer.save_checkpoint(
                state_dict, epoch=epoch, intermediate_checkpoint=intermediate_checkpoint, **options
            )
        if intermediate_checkpoint:
            self._recipe.mark_state(epoch)


class _ScalingByAllTokens:
    """torchtune.training as a recipe's module sees it, which divides by the tokens of an earlier process too."""

    def __init__(self, recipe: Resumable) -> None:
        self._recipe = recipe

    def __getattr__(self, name: str) -> Any:
        return getattr(training, name)

    def scale_grads(self, model: torch.nn.Module, scaler: torch.Tensor) -> None:
        training.scale_grads(model, 1 / self._recipe.accumulated_tokens())


def _random_state(device: torch.device) -> dict[str, Any]:
    """Values that torch.load reads with weights_only."""
    name, keys, *rest = numpy.random.get_state()
    state = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": (name, keys.tolist(), *rest)}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    if "device" in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"], device)
