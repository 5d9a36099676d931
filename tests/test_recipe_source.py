from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from cruijff_kit.config_flow import Instantiation
from cruijff_kit.recipe_kinds import OTHER_KINDS
from cruijff_kit.recipe_source import EVERYTHING, Reads, recipe_reads
from cruijff_kit.torchtune_catalog import recipes

LORA = """
    batch_size checkpointer clip_grad_norm collate_fn compile cudnn_deterministic_mode dataset device dtype
    enable_activation_checkpointing enable_activation_offloading epochs gradient_accumulation_steps log_every_n_steps
    log_peak_memory_stats loss low_cpu_ram lr_scheduler max_steps_per_epoch metric_logger model optimizer output_dir
    profiler resume_from_checkpoint save_adapter_weights_only seed shuffle tokenizer
"""


def reads(folder: Path, code: str, name: str = "mine") -> Reads:
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    return recipe_reads(name, folder)


def given(positional: int | None, *keywords: str) -> frozenset[Instantiation]:
    return frozenset({Instantiation(positional, frozenset(keywords))})


def test_what_torchtunes_lora_recipe_reads_and_makes():
    found = recipe_reads("lora_finetune_single_device", Path("/nowhere"))
    assert found.names(()) == set(LORA.split())
    assert found.names(("model",)) == {"apply_lora_to_mlp", "apply_lora_to_output", "lora_alpha", "lora_attn_modules", "lora_rank"}
    assert found.made == {
        **{(name,): given(0) for name in ("metric_logger", "tokenizer", "loss", "profiler", "model")},
        ("optimizer",): given(1),
        ("dataset",): given(1),
        ("dataset", "*"): given(1),
        ("checkpointer",): given(0, "should_load_recipe_state"),
        ("lr_scheduler",): given(1, "num_training_steps", "last_epoch"),
    }


def test_what_torchtunes_own_classes_read_for_a_recipe_is_read():
    found = recipe_reads("full_finetune_distributed", Path("/nowhere"))
    assert {"enable_async_checkpointing", "resume_from_checkpoint"} <= found.names(())
    assert found.made["checkpointer",] == given(0, "should_load_recipe_state")


@pytest.mark.parametrize("name", sorted(recipes().keys() - OTHER_KINDS.keys()))
def test_no_fine_tuning_recipe_hands_on_its_whole_config(name):
    found = recipe_reads(name, Path("/nowhere"))
    assert () not in found.wholes
    assert {"model", "optimizer", "epochs", "output_dir", "profiler", "checkpointer"} <= found.names(())


def test_a_recipe_of_ours_reads_what_the_one_that_it_mends_reads():
    for name, loaded in (("lora_finetune_single_device", "adapter_checkpoint"), ("full_finetune_single_device", "checkpoint_files")):
        ours, theirs = (recipe_reads(f"{where}{name}", Path("/nowhere")) for where in ("cruijff_kit.recipes.", ""))
        assert (ours.made, ours.taken, ours.names(())) == (theirs.made, theirs.taken, theirs.names(()))
        assert ours.keys - theirs.keys == {("checkpointer", "output_dir")}
        assert ours.stored - theirs.stored == {("checkpointer", "recipe_checkpoint"), ("checkpointer", loaded)}


def test_a_subclass_reads_what_its_base_class_reads_and_more(tmp_path):
    code = """
    from cruijff_kit.recipes.lora_finetune_single_device import LoRAFinetuneRecipeSingleDevice

    class Mine(LoRAFinetuneRecipeSingleDevice):
        def setup(self, cfg):
            super().setup(cfg)
            self.penalty = cfg.penalty.get("weight", 0)

    def recipe_main(cfg):
        recipe = Mine(cfg=cfg)
        recipe.setup(cfg=cfg)
    """
    found = reads(tmp_path, code)
    assert found.names(()) == {*LORA.split(), "penalty"}
    assert found.names(("penalty",)) == {"weight"}
    assert not found.may_read(("penalty", "wait"))
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("body", "keys"),
    {
        "cfg.a": "a",
        "cfg['a']": "a",
        "cfg.get('a', 3)": "a",
        "cfg.pop('a')": "a",
        "cfg.a.get('b')": "a a.b",
        "getattr(cfg, 'a', None)": "a",
        "hasattr(cfg, 'a')": "a",
        "'a' in cfg": "a",
        "OmegaConf.select(cfg, 'a.b')": "a.b",
        "cfg.get(KEY)": "named",
        "x = cfg.a; x.b": "a a.b",
        "x = cfg.get('a') or cfg.b; x.c": "a b a.c b.c",
        "x, y = cfg.a, cfg.b; y.c": "a b b.c",
        "(x := cfg.a).b": "a a.b",
        "keep(1, cfg_part=cfg.a)": "a a.kept",
        "keep(2, cfg.a)": "a a.kept",
        "part(cfg).c": "part part.c",
        "log.info(f'{cfg}'); cfg.a": "a",
        "print(cfg); isinstance(cfg, dict); cfg.a": "a",
        "cfg.a = 3; cfg.b": "b",
        "Holder(cfg); cfg.a": "a held",
        "[x.b for x in cfg.a]": "a a.*.b",
    }.items(),
)
def test_a_key_is_read_however_it_is_named(body, keys, tmp_path):
    code = f"""
    from omegaconf import OmegaConf
    from torchtune import config

    KEY = "named"

    def keep(number, cfg_part):
        return cfg_part.kept

    def part(cfg):
        return cfg.part

    class Holder:
        def __init__(self, settings):
            self._settings = settings

        def use(self):
            return self._settings.held

    @config.parse
    def main(settings):
        cfg = settings
        {body}
    """
    found = reads(tmp_path, code)
    # the helpers are there whether or not they are used: their `cfg` is the whole config by its name
    assert {".".join(path) for path in found.keys} == {*keys.split(), "part"}
    assert () not in found.wholes


@pytest.mark.parametrize(
    "body",
    [
        "for key in cfg: print(key)",
        "cfg.items()",
        "dict(**cfg)",
        "x = [cfg]",
        "cfg[name]",
        "elsewhere(cfg)",
        "OmegaConf.to_container(cfg)",
        "x.parts = cfg; y.parts.items()",
        "return {'all': cfg}",
    ],
)
def test_a_config_that_goes_somewhere_unknown_is_read_whole(body, tmp_path):
    found = reads(tmp_path, f"def main(cfg):\n    cfg.a\n    {body}\n")
    assert found.wholes >= {()}
    assert found.may_read(("anything", "at", "all"))
    assert not found.reads(("anything",))


def test_a_node_that_goes_somewhere_unknown_is_read_whole_and_the_others_are_not(tmp_path):
    found = reads(tmp_path, "def main(cfg):\n    cfg.b\n    elsewhere(cfg.a)\n")
    assert found.may_read(("a", "x"))
    assert not found.may_read(("c",))


def test_what_a_recipe_passes_to_a_component_beside_its_node(tmp_path):
    code = """
    from torchtune import config

    def main(cfg):
        config.instantiate(cfg.a, 1, 2, x=3)
        config.instantiate(cfg.b, *many)
        config.instantiate(cfg.c, **named)
        for each in cfg.list:
            config.instantiate(each, y=1)
    """
    assert reads(tmp_path, code).made == {
        ("a",): given(2, "x"),
        ("b",): frozenset({Instantiation(None, frozenset())}),
        ("c",): frozenset({Instantiation(0, None)}),
        ("list", "*"): given(0, "y"),
    }


@pytest.mark.parametrize(
    "code",
    [
        "def main(cfg):\n    while cfg.next:\n        cfg = cfg.next\n",
        "def main(cfg):\n    main(cfg.next)\n",
        "def main(cfg):\n    for each in cfg.next:\n        main(each)\n",
        "def main(cfg):\n    return main(cfg.next).next\n",
        "class Mine:\n    def run(self, cfg):\n        self.cfg = cfg\n        self.cfg = self.cfg.next\n",
    ],
)
def test_a_config_that_is_followed_round_in_a_circle_comes_to_an_end(code, tmp_path):
    found = reads(tmp_path, code)
    assert found.may_read(("next",) * 9)
    assert not found.may_read(("other",))


def test_keys_that_a_recipe_puts_into_a_node_or_takes_out_of_it(tmp_path):
    code = """
    def main(cfg):
        weight = cfg.dataset.pop("weight")
        cfg.dataset.source = "x"
        cfg.dataset["split"] = "train"
        cfg.dataset.setdefault("packed", False)
    """
    found = reads(tmp_path, code)
    assert found.taken == {("dataset", "weight")}
    assert found.stored == {("dataset", "source"), ("dataset", "split"), ("dataset", "packed")}
    assert found.handed == frozenset()


@pytest.mark.parametrize(
    "code",
    [
        "class Mine(Unknown):\n    def setup(self, cfg): cfg.a\n",
        "from nowhere import Base\nclass Mine(Base):\n    def setup(self, cfg): cfg.a\n",
        "def main(): ...\n",
        "def main(cfg:\n",
    ],
)
def test_a_recipe_whose_source_does_not_say_may_read_everything(code, tmp_path):
    assert reads(tmp_path, code) is EVERYTHING
    assert recipe_reads("not_there", tmp_path) is EVERYTHING
