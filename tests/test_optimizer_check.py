"""Optimizer, schedule and loss made as in training: what is rejected, and how large the state becomes."""

from __future__ import annotations

from typing import Any

import pytest

from cruijff_kit import optimizer_check
from cruijff_kit.optimizer_check import Optimizer
from tests.deep_configs import built, tiny, tiny_full


def checked(made: dict[str, Any], **nodes: dict[str, Any] | None) -> Optimizer:
    """What came of `made` with other arguments of some nodes; None takes one away."""
    changed = {name: {**(made.get(name) or {}), **(node or {})} for name, node in nodes.items()}
    changed = {name: {key: value for key, value in node.items() if value is not None} for name, node in changed.items()}
    return optimizer_check.check({**made, **changed}, built(made, "some.recipe"))


def state_after_a_step(made: dict[str, Any], optimizer: dict[str, Any]) -> int:
    """Bytes that the optimizer keeps of a model in memory."""
    import torch
    from omegaconf import OmegaConf
    from torchtune.config import instantiate
    from torchtune.modules.peft import get_adapter_params

    model = instantiate(OmegaConf.create(made["model"]))
    weights = list((get_adapter_params(model) or dict(model.named_parameters())).values())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    real = instantiate(OmegaConf.create(optimizer), weights)
    real.step()
    return sum(value.nbytes for state in real.state.values() for value in state.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize(
    "optimizer",
    [
        {"_component_": "torch.optim.AdamW", "lr": 1e-3, "fused": True},
        {"_component_": "torch.optim.AdamW", "lr": 1e-3, "amsgrad": True},
        {"_component_": "torch.optim.SGD", "lr": 1e-3},
        {"_component_": "torch.optim.SGD", "lr": 1e-3, "momentum": 0.9},
    ],
)
@pytest.mark.parametrize("config", [tiny, tiny_full])
def test_the_state_is_as_large_as_that_of_a_model_in_memory(tiny_model, config, optimizer):
    made = {**config(tiny_model), "optimizer": optimizer}
    found = checked(made)
    assert found.faults == ()
    assert found.counted
    assert found.state_bytes == state_after_a_step(made, optimizer)


def test_an_optimizer_that_takes_no_step_without_memory_goes_by_its_name(tiny_model):
    made = {**tiny_full(tiny_model), "optimizer": {"_component_": "torch.optim.Adafactor", "lr": 1e-3}}
    found = checked(made)
    assert (found.counted, found.faults) == (False, ())
    assert found.state_bytes == 2 * 4 * 98_624


@pytest.mark.parametrize(
    ("name", "size"), [("AdamW", 1024), ("PagedAdamW", 1024), ("PagedAdamW8bit", 520), ("AdamW4bit", 264), ("SGD", 512), ("Lion8bit", 260)]
)
def test_an_optimizer_goes_by_its_name_and_the_bits_in_it(name, size):
    assert optimizer_check.by_name(name, (((16, 16), 1),), "bf16") == size


@pytest.mark.parametrize(
    ("node", "arguments", "name", "what"),
    [
        ("optimizer", {"momentum": 0.9}, "optimizer.momentum", "torch.optim.AdamW cannot be made: AdamW.__init__() got an unexpected keyword argument 'momentum'"),
        ("optimizer", {"lr": -1.0}, "optimizer", "torch.optim.AdamW cannot be made: Invalid learning rate: -1.0"),
        (
            "optimizer",
            {"fused": True, "foreach": True},
            "optimizer.fused",
            "torch.optim.AdamW cannot be made (on this machine): `fused` and `foreach` cannot be `True` together.",
        ),
        (
            "lr_scheduler",
            {"warmup": 3},
            "lr_scheduler.warmup",
            "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup cannot be made: "
            "get_cosine_schedule_with_warmup() got an unexpected keyword argument 'warmup'",
        ),
        (
            "lr_scheduler",
            {"num_warmup_steps": None},
            "lr_scheduler",
            "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup cannot be made: "
            "get_cosine_schedule_with_warmup() missing 1 required positional argument: 'num_warmup_steps'",
        ),
        (
            "loss",
            {"chunks": 4},
            "loss.chunks",
            "torchtune.modules.loss.CEWithChunkedOutputLoss cannot be made: "
            "CEWithChunkedOutputLoss.__init__() got an unexpected keyword argument 'chunks'",
        ),
        ("loss", {"_component_": "torchtune.modules.loss.NoLoss"}, "loss", "torchtune.modules.loss.NoLoss cannot be made"),
    ],
)
def test_what_is_rejected_is_a_fault_with_the_words_of_the_library(tiny_model, node, arguments, name, what):
    [fault] = checked(tiny(tiny_model), **{node: arguments}).faults
    assert (fault.name, fault.level) == (name, "error")
    assert fault.what.startswith(what)


def test_a_recipe_of_all_weights_needs_no_schedule(tiny_model):
    made = tiny_full(tiny_model)
    del made["lr_scheduler"]
    assert checked(made).faults == ()


def test_stepping_within_the_backward_pass_is_known(tiny_model):
    assert checked({**tiny_full(tiny_model), "optimizer_in_bwd": True}).in_backward
    assert not checked(tiny_full(tiny_model)).in_backward


def test_learning_rates_share_the_model(tiny_model):
    before = optimizer_check._check.cache_info().misses
    for rate in (0.011, 0.012, 0.011):
        checked(tiny(tiny_model), optimizer={"lr": rate})
    assert optimizer_check._check.cache_info().misses - before == 2
