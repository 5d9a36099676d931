"""Models built on the meta device: their sizes, and what torchtune builds none of."""

from __future__ import annotations

import pytest

from cruijff_kit import model_check, torchtune_catalog
from cruijff_kit.training_checks import Fault
from tests.conftest import REPOSITORY
from tests.deep_configs import FULL, LORA, built, named, tiny, tiny_full


# The published sizes of the models.
@pytest.mark.parametrize(
    ("name", "recipe", "parameters"),
    [
        ("llama3_1/8B_lora_single_device", LORA, 8_030_261_248),
        ("llama3_1/8B_full_single_device", FULL, 8_030_261_248),
        ("llama3_1/8B_qlora_single_device", LORA, 8_030_261_248),
        ("llama3_2/1B_lora_single_device", LORA, 1_235_814_400),
        ("qwen2_5/0.5B_lora_single_device", LORA, 494_032_768),
        ("gemma2/2B_lora_single_device", LORA, 2_614_341_888),
        ("llama3_1/70B_full", "full_finetune_distributed", 70_553_706_496),
    ],
)
def test_parameters_of_the_base_model_are_counted_without_the_adapter(name, recipe, parameters):
    assert built(named(name), recipe).parameters == parameters


@pytest.mark.parametrize("rank", [8, 64])
def test_the_adapter_of_llama_3_1_8b_is_two_matrices_a_linear_layer(rank):
    model = built(named("llama3_1/8B_lora_single_device", lora_rank=rank))
    attention = (4096 + 4096) * 2 + (4096 + 1024)  # q, output; v
    mlp = (4096 + 14336) * 3
    assert model.adapter_parameters == model.trainable_parameters == 32 * rank * (attention + mlp)
    assert (model.layers, model.embed_dim, model.vocab_size, model.heads) == (32, 4096, 128_256, 32)
    assert (model.head_dim, model.intermediate_dim) == (128, 14336)


def test_smollm2_is_as_large_as_a_model_of_it_that_has_memory():
    import torch
    from omegaconf import OmegaConf
    from torchtune.config import instantiate
    from torchtune.modules.peft import get_adapter_params, set_trainable_params

    base = torchtune_catalog.read_config(REPOSITORY / "examples/smollm2_capitalize/base.yaml")
    model = built(base)
    with torch.device("cpu"):
        real = instantiate(OmegaConf.create(base["model"]))
    set_trainable_params(real, get_adapter_params(real))
    trainable = sum(weight.numel() for weight in real.parameters() if weight.requires_grad)
    assert model.parameters == 134_515_008
    assert model.trainable_parameters == model.adapter_parameters == trainable == 2_442_240
    assert model.weight_bytes == sum(weight.nbytes for weight in real.parameters())


def test_all_parameters_of_a_model_without_adapters_are_trained(tiny_model):
    model = built(tiny_full(tiny_model), FULL)
    assert model.adapter_parameters == 0
    assert model.trainable_parameters == model.parameters == 98_624


def test_each_distinct_model_is_built_once(tiny_model):
    before = model_check._build.cache_info().misses
    ranks = [tiny(tiny_model, lora_rank=rank, lora_alpha=2 * rank) for rank in (11, 12, 13, 14)]
    for made in ranks:
        for rate in (1e-3, 1e-4):
            built({**made, "optimizer": {**made["optimizer"], "lr": rate}})
    assert model_check._build.cache_info().misses - before == 4


def test_arguments_may_be_interpolations_of_the_config(tiny_model):
    made = {**tiny(tiny_model, lora_alpha="${rank_twice}"), "rank_twice": 8}
    assert built(made) == built(tiny(tiny_model))


def test_weights_in_nf4_take_what_they_take_when_they_have_memory(tiny_model):
    import torch
    from omegaconf import OmegaConf
    from torchao.dtypes.nf4tensor import NF4Tensor
    from torchtune.config import instantiate
    from torchtune.training import set_default_dtype

    # NF4 packs blocks of 64 in groups of 256
    sizes = {"embed_dim": 256, "intermediate_dim": 512, "num_heads": 4, "num_kv_heads": 4, "lora_attn_modules": ["q_proj"], "apply_lora_to_mlp": False}
    made = {**tiny(tiny_model, quantize_base=True, **sizes), "dtype": "bf16"}
    with set_default_dtype(torch.bfloat16):
        real = instantiate(OmegaConf.create(made["model"]))
    weights = list(real.parameters())
    packed = [weight for weight in weights if isinstance(weight, NF4Tensor)]
    assert len(packed) == 2 * 7
    kept = sum(each.nbytes for weight in packed for each in (weight.quantized_data, weight.quantized_scalers, weight.quantization_factor))
    plain = sum(weight.nbytes for weight in weights if not isinstance(weight, NF4Tensor))
    model = built(made)
    assert model.weight_bytes == kept + plain
    assert model.parameters + model.adapter_parameters == sum(weight.numel() for weight in weights)


@pytest.mark.parametrize(
    ("changes", "name", "what"),
    [
        (
            {"num_layer": 3},
            "model",
            "torchtune cannot build the model: lora_llama3_2() got an unexpected keyword argument 'num_layer'",
        ),
        (
            {"num_kv_heads": 3},
            "model",
            "torchtune cannot build the model: num_heads (4) must be divisible by num_kv_heads (3)",
        ),
        ({"_component_": None}, "model", "the config has no model._component_: it is what torchtune builds the model with"),
    ],
)
def test_what_torchtune_builds_no_model_of_is_a_fault_with_its_words(tiny_model, changes, name, what):
    fault = model_check.build(tiny(tiny_model, **changes), LORA)
    assert isinstance(fault, Fault)
    assert (fault.name, fault.level) == (name, "error")
    assert fault.what.startswith(what)  # Python may add what it takes to be meant


@pytest.mark.parametrize(
    ("made", "recipe", "what"),
    [
        (tiny, FULL, "full_finetune_single_device trains all weights, and the model has LoRA adapters, which no weight file holds"),
        (tiny_full, LORA, "lora_finetune_single_device trains LoRA adapters, and the model has none"),
    ],
)
def test_a_model_that_its_recipe_does_not_train_is_a_fault(tiny_model, made, recipe, what):
    fault = model_check.build(made(tiny_model), recipe)
    assert isinstance(fault, Fault)
    assert (fault.name, fault.what) == ("model._component_", what)


def test_our_recipe_trains_what_torchtunes_does(tiny_model):
    assert built(tiny(tiny_model), "cruijff_kit/recipes/lora_finetune_single_device") == built(tiny(tiny_model))


@pytest.mark.parametrize(
    ("dtype", "what"),
    [("fp16", "lora_finetune_single_device refuses fp16"), ("int8", "dtype is 'int8', which torchtune does not train in"), (None, "dtype is None, which torchtune does not train in")],
)
def test_a_dtype_that_is_not_trained_in_is_a_fault(tiny_model, dtype, what):
    assert model_check.build({**tiny(tiny_model), "dtype": dtype}, LORA) == Fault("dtype", what, "dtype: bf16, or fp32")
