"""A random two-layer Llama in the Hugging Face layout, and the torchtune config that fine-tunes it in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = """\
{{ bos_token }}{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are tiny.<|im_end|>
' }}{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

WORDS = ["apple", "river", "stone", "cloud", "tiger", "house", "music", "green", "paper", "light", "ocean", "bread"]

_SIZES = {"vocab_size": 384, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 64, "intermediate": 128, "length": 256}


def make_tiny_llama(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """`folder` with weights in fp32, config and a tokenizer that, as Llama's does, puts a BOS before plain text."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _train_tokenizer()
    tokenizer.chat_template = chat_template
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_SIZES["vocab_size"],
        num_hidden_layers=_SIZES["layers"],
        num_attention_heads=_SIZES["heads"],
        num_key_value_heads=_SIZES["kv_heads"],
        hidden_size=_SIZES["hidden"],
        intermediate_size=_SIZES["intermediate"],
        max_position_embeddings=_SIZES["length"],
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.2,  # the usual 0.02 makes logits so small that no fault shows in them
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_base_config(folder: Path) -> dict[str, Any]:
    """The LoRA config, in torchtune's own format, for the model in `folder`; a test sets output_dir and data_files."""
    return {
        "output_dir": "/tmp/torchtune/tiny_llama",
        "model": {
            "_component_": "torchtune.models.llama3_2.lora_llama3_2",
            "lora_attn_modules": ["q_proj", "v_proj", "output_proj"],
            "apply_lora_to_mlp": True,
            "lora_rank": 4,
            "lora_alpha": 8,
            "lora_dropout": 0.0,
            "vocab_size": _SIZES["vocab_size"],
            "num_layers": _SIZES["layers"],
            "num_heads": _SIZES["heads"],
            "num_kv_heads": _SIZES["kv_heads"],
            "embed_dim": _SIZES["hidden"],
            "intermediate_dim": _SIZES["intermediate"],
            "max_seq_len": _SIZES["length"],
            "norm_eps": 1e-5,
            "rope_base": 10000,
            "scale_factor": 1,
            "tie_word_embeddings": True,
        },
        "tokenizer": {
            "_component_": "cruijff_kit.chat_tokenizer.ChatTemplateTokenizer",
            "path": str(folder),
            "max_seq_len": None,
        },
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(folder),
            "checkpoint_files": ["model.safetensors"],
            "recipe_checkpoint": None,
            "output_dir": "${output_dir}/hf_model",
            "model_type": "LLAMA3_2",
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": False,
        "dataset": {
            "_component_": "torchtune.datasets.instruct_dataset",
            "source": "json",
            "data_files": "train.jsonl",
            "split": "train",
            "packed": False,
            "train_on_input": False,
        },
        "seed": 1,
        "shuffle": True,
        "batch_size": 2,
        "optimizer": {"_component_": "torch.optim.AdamW", "lr": 1e-2, "weight_decay": 0.01},
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": 0,
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "epochs": 1,
        "max_steps_per_epoch": None,
        "gradient_accumulation_steps": 1,
        "clip_grad_norm": None,
        "compile": False,
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": "${output_dir}/logs",
        },
        "log_every_n_steps": 1,
        "log_peak_memory_stats": False,
        "device": "cpu",
        "dtype": "fp32",
        "enable_activation_checkpointing": False,
        "enable_activation_offloading": False,
    }


def write_tiny_data(path: Path) -> Path:
    """Twelve rows of input and output at `path`."""
    rows = [{"input": f"Capitalize: {word}", "output": word.capitalize()} for word in WORDS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _train_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|begin|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZES["vocab_size"],
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["system user assistant tool You are tiny. Capitalize: \n\n\n\n", *WORDS, *map(str.capitalize, WORDS)]
    tokenizer.train_from_iterator(texts * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
