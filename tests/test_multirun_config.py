from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cruijff_kit import multirun_config, resolvers, sweep
from cruijff_kit.experiment import load
from cruijff_kit.multirun_config import value_text
from cruijff_kit.parameters import PARAMETERS
from cruijff_kit.torchtune_config import Composer
from tests.tiny_experiment import load_composer, specification, write_experiment

PARSER = OverridesParser.create()

STRINGS = ["", " ", " a ", "a b", "a,b", "a=b", "a:b", "[a]", "{a: 1}", "{a}", "(a)", "choice(a,b)", "range(1,3)", "glob(*)", "a'b", "'", "''",
           "'''", "\"", "\\", "\\\\", "a\\", "a\\\\", "\\'", "'\\", "\\\\'", "\\\\\\'", "a'b\"c\\d", "C:\\dir\\", "\\n", "a\nb", "a\r\nb", "\t",
           "null", "true", "False", "1", "1e-5", "3e-4", "0x1F", "1_0", ".inf", "nan", "${x}", "${oc.env:HOME}", "$x", "$(touch x)", "`x`",
           "~", "*", "!t", "@x", "%", "&a", "#c", ";", "|", "-", "--x", "+x", "?", "é", "漢", "😀", "\u2028", "\x07", "x" * 2000,
           "data/train.jsonl", "/abs/a b.json", "yahma/alpaca-cleaned", "https://x.org/a?b=c&d=e"]  # fmt: skip
OTHERS = [0, 1, -1, 10**20, 1.5, 1e-5, 1e16, 1e22, 5e-324, -0.0, 0.1 + 0.2, True, False, None, [], {}, [1, [2, [None]]],
          ["a", True, 1.5], {"a": {"b": [1, {"c": "d,e"}]}}, {"_component_": "x.y", "source": "a/b"}]  # fmt: skip
KEYS = ["e", "_", "-", "..", "e1", "1e", "2024-01-01", "a", "a.b", "a-b", "a_b", "a/b", "a b", "A1", "_x", "a@b", "a$b", "a+b", "a*b", "a%b", "a?b", "a|b", "-a"]
AWKWARD_KEYS = ["a:b", "a,b", "a=b", "a\\b", "a(b)", "a[b]", "a{b}", " a", "a "]


def shown(value: Any) -> str:
    return ascii(value)[:50]


def composed(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """`values`, each given as an override of a Hydra config that has their names, as an application sees them."""
    (folder / "config.yaml").write_text(yaml.safe_dump(dict.fromkeys(values)))
    words = [f"{name}={value_text(value)}" for name, value in values.items()]
    with initialize_config_dir(str(folder), version_base="1.3"):
        return OmegaConf.to_container(compose("config", words), resolve=True)


@pytest.mark.parametrize("value", [*STRINGS, *OTHERS], ids=shown)
def test_hydras_own_parser_reads_one_value_and_no_sweep(value):
    for whole in (value, [value, value], {"a": value, "b": [value]}):
        override = PARSER.parse_override(f"x={value_text(whole)}")
        assert not override.is_sweep_override()


@pytest.mark.parametrize("value", [*STRINGS, *OTHERS], ids=shown)
def test_values_beside_each_other_are_as_many_points(value):
    override = PARSER.parse_override(f"x={value_text(value)},{value_text(5)},{value_text(value)}")
    words = list(override.sweep_string_iterator())
    assert len(words) == 3
    assert words[1] == "5"
    again = [PARSER.parse_override(f"x={word}") for word in words]
    assert again[0].value() == again[2].value() == PARSER.parse_override(f"x={value_text(value)}").value()


def test_an_application_sees_the_value_unchanged(tmp_path):
    values = [*STRINGS, *OTHERS]
    values += [[value] for value in values] + [{"k": value} for value in values]
    named = {f"v{index}": value for index, value in enumerate(values)}
    got = composed(tmp_path, named)
    assert {name: repr(value) for name, value in got.items()} == {name: repr(value) for name, value in named.items()}


def test_the_names_in_a_mapping_are_seen_unchanged(tmp_path):
    named = {f"v{index}": {key: 1, "deep": [{key: "x"}]} for index, key in enumerate(KEYS)}
    assert composed(tmp_path, named) == named


@pytest.mark.parametrize("key", AWKWARD_KEYS)
def test_an_awkward_name_in_a_mapping_is_seen_unchanged(tmp_path, key):
    assert composed(tmp_path, {"v": {key: 1}}) == {"v": {key: 1}}


@pytest.mark.parametrize("key", ["é", "#", "it's", "true", "null", "1", "1.5", "1.0e+5", "-inf", "+nan", ""])
def test_a_name_in_a_mapping_that_hydra_cannot_hold_is_a_fault_of_generate_and_not_of_the_run(tmp_path, key):
    """Hydra's grammar has no quotes for the names in a mapping: such a value cannot be swept."""
    dataset = {"source": "a/b", "column_map": {key: "x"}}
    spec = specification("/models/tiny") | {"variables": {"dataset": [dataset, "c/d"]}, "controls": {}}
    folder = write_experiment(tmp_path / "e", "/models/tiny", spec)
    if said := sweep.check(load(folder)):
        assert str(said[0]).startswith("experiment.yaml:1")
        return
    assert composed(tmp_path, {"v": dataset}) == {"v": dataset}


@pytest.mark.parametrize("text", ["\\${x}", "a\\\\${x}", "\\\\\\${x}"])
def test_a_backslash_before_what_looks_like_an_interpolation_stays(tmp_path, text):
    assert composed(tmp_path, {"v": text}) == {"v": text}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1e-05"),
        (16.0, "16.0"),
        (True, "true"),
        (None, "null"),
        ("a b", "'a b'"),
        ("it's", r"'it\'s'"),
        ("${x}", r"'\${x}'"),
        ({"lora_rank": 8, "lora_alpha": 16.5}, "{lora_rank:8,lora_alpha:16.5}"),
        (["q_proj", "v_proj"], "['q_proj','v_proj']"),
    ],
)
def test_the_text_is_what_one_would_type(value, text):
    assert value_text(value) == text


# The file


def made(folder: Path, **sections: Any) -> Composer:
    spec = {**specification("/models/tiny"), **sections}
    write_experiment(folder, "/models/tiny", spec)
    return load_composer(load(folder))


def rendered(composer: Composer) -> dict[str, Any]:
    return yaml.safe_load(multirun_config.render(composer))


def test_the_file_begins_with_what_it_is_for(tmp_path):
    lines = multirun_config.render(made(tmp_path / "e")).splitlines()
    assert lines[:4] == [
        "# The sweep of tiny for Hydra. Written by `cruijff-kit generate`.",
        f"#     cruijff-kit run {tmp_path}/e --multirun",
        "# A key below `torchtune` goes into the torchtune config as it is: torchtune.optimizer.weight_decay=0.1",
        "defaults:",
    ]


def test_every_parameter_stands_at_the_root_with_its_value_at_the_first_point(tmp_path):
    root = rendered(made(tmp_path / "e"))
    assert PARAMETERS.keys() <= root.keys()
    expected = {
        "lora_rank": 2,
        "lora_alpha": "${mul:2,${lora_rank}}",
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "epochs": 1,
        "dataset": "data/train.jsonl",
        "max_seq_len": None,
        "experiment_dir": f"{tmp_path}/e",
    }
    assert {name: root[name] for name in expected} == expected
    assert root["evaluation"] == {
        "enabled": True,
        "dtype": None,
        "baseline": False,
        "generate": {"max_tokens": 4},
        "limit": None,
        "objective": None,
        "tasks": ["capitalize"],
    }


def test_the_variables_are_the_sweepers_params_in_the_order_of_the_file(tmp_path):
    variables = {"seed": [2, 1], "lora_rank": [8, 16], "optimizer.betas": [[0.9, 0.95], [0.9, 0.99]], "pair": [{"epochs": 1}, {"epochs": 2}]}
    root = rendered(made(tmp_path / "e", variables=variables, controls={"lora_alpha": 1}, exclude=[{"seed": 1, "optimizer.betas": [0.9, 0.99]}]))
    assert list(root["hydra"]["sweeper"]["params"].items()) == [
        ("seed", "2,1"),
        ("lora_rank", "8,16"),
        ("torchtune.optimizer.betas", "[0.9,0.95],[0.9,0.99]"),
        ("pair", "{epochs:1},{epochs:2}"),
    ]
    assert root["hydra"]["sweeper"]["exclude"] == [{"seed": 1, "torchtune.optimizer.betas": [0.9, 0.99]}]


def test_a_parameter_of_a_pair_has_the_pairs_value_or_the_base_configs_until_it_is_given_itself(tmp_path):
    pairs = [{"lora_rank": 8, "lora_alpha": 16}, {"lora_rank": 16, "lora_alpha": 64, "device": "it's ${x}"}]
    root = rendered(made(tmp_path / "e", variables={"pair": pairs}, controls={"batch_size": "${mul:2,${lora_rank}}"}))
    resolvers.register()

    def at(**given: Any) -> list[Any]:
        config = OmegaConf.create({**root, **given})
        return [config.lora_rank, config.lora_alpha, config.device, config.batch_size]

    assert root["pair"] is None
    assert at() == [4, 8, "cpu", 8]
    assert at(pair={"lora_rank": 16}) == [16, 8, "cpu", 32]
    assert at(pair={"lora_rank": 8, "lora_alpha": 16}) == [8, 16, "cpu", 16]
    assert at(pair={"lora_rank": 16, "lora_alpha": 64, "device": "cuda"}) == [16, 64, "cuda", 32]
    assert at(pair=pairs[0], lora_rank=99) == [99, 16, "cpu", 198]


def test_a_mapping_stands_at_null_for_hydra_would_merge_what_is_given_into_it(tmp_path):
    dataset = {"_component_": "torchtune.datasets.instruct_dataset", "source": "a/b"}
    swept = rendered(made(tmp_path / "swept", variables={"dataset": [dataset, "c/d"]}, controls={}))
    held = rendered(made(tmp_path / "held", variables={"seed": [1, 2]}, controls={"dataset": dataset}))
    assert [swept["dataset"], held["dataset"]] == [None, None]


def test_a_dotted_variable_is_nested_below_torchtune_with_its_first_value(tmp_path):
    variables = {"optimizer.betas": [[0.9, 0.95], [0.9, 0.99]], "optimizer.fused": [True, False], "pair": [{"seed": 1}]}
    assert rendered(made(tmp_path / "e", variables=variables))["torchtune"] == {"optimizer": {"betas": [0.9, 0.95], "fused": True}}


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        ({"lora_alpha": 1}, [{"pair": {"lora_rank": 8, "lora_alpha": 1}}, {"pair": {"lora_rank": 16, "lora_alpha": 1}}]),
        ({"lora_rank": 16, "seed": 2}, [{"seed": 2, "pair": {"lora_rank": 16, "lora_alpha": 1}}]),
        ({"clip_grad_norm": None}, [{"pair": {"lora_rank": 32, "clip_grad_norm": None}}]),
        ({"lora_rank": 64}, []),
        ({"seed": 1}, [{"seed": 1}]),
    ],
)
def test_what_is_excluded_is_said_in_the_sweeps_own_keys_and_is_what_generate_leaves_out(tmp_path, exclude, expected):
    pairs = [{"lora_rank": 8, "lora_alpha": 1}, {"lora_rank": 16, "lora_alpha": 1}, {"lora_rank": 32, "clip_grad_norm": None}]
    composer = made(tmp_path / "e", variables={"seed": [1, 2], "pair": pairs}, controls={}, exclude=[exclude])
    assert list(multirun_config.excluded(composer.experiment)) == expected
    grid = [{"seed": seed, "pair": pair} for seed in (1, 2) for pair in pairs]
    left = [point for point in grid if not any(sweep.matches(point, partial) for partial in expected)]
    assert list(sweep.points(composer.experiment)) == [sweep.flatten(point) for point in left]


HYDRA_VARIABLES = {
    "device": ["cuda", "it's, \"odd\"\\", "a=b", "cuda:0"],
    "dataset": ["data/a b.jsonl", {"_component_": "torchtune.datasets.instruct_dataset", "source": "a/b", "column_map": {"input": "x, y: z"}}],
    "clip_grad_norm": [None, 0.5, "inf"],
    "model.lora_attn_modules": [["q_proj"], ["q_proj", "v_proj"]],
    "pair": [{"lora_rank": 8, "lora_alpha": 1e-05}, {"lora_rank": 16, "lora_alpha": 32, "optimizer.fused": True}],
}


@pytest.fixture(scope="module")
def seen_by_hydra(tmp_path_factory) -> Any:
    """The config of a sweep, as the plain Hydra application composes it."""
    folder = tmp_path_factory.mktemp("hydra") / "it's ${odd} #1: \"e\""
    composer = made(folder, variables=HYDRA_VARIABLES, controls={"batch_size": "${mul:2,${lora_rank}}"})
    composer.layout.configs.mkdir()
    composer.layout.multirun.write_text(multirun_config.render(composer), encoding="utf-8")
    command = [sys.executable, "-m", "cruijff_kit", "--config-dir", composer.layout.configs, "--config-name", "multirun", "--cfg", "all"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return composer, OmegaConf.create(done.stdout)


def test_hydra_composes_the_file_to_the_values_at_the_first_point(seen_by_hydra):
    composer, config = seen_by_hydra
    resolvers.register()
    assert config.experiment_dir == str(composer.experiment.folder)
    values = {name: config[name] for name in ("device", "dataset", "clip_grad_norm", "lora_rank", "lora_alpha", "batch_size", "learning_rate")}
    assert values == {
        "device": "cuda",
        "dataset": "data/a b.jsonl",
        "clip_grad_norm": None,
        "lora_rank": 4,
        "lora_alpha": 8,
        "batch_size": 8,
        "learning_rate": 0.01,
    }


def test_hydra_hands_the_sweeper_every_value_of_every_variable(seen_by_hydra, tmp_path):
    _, config = seen_by_hydra
    words = [f"{name}={text}" for name, text in config.hydra.sweeper.params.items()]
    for override, values in zip(PARSER.parse_overrides(words), HYDRA_VARIABLES.values(), strict=True):
        choices = list(override.sweep_string_iterator())
        (tmp_path / "config.yaml").write_text("x: null\n")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            got = [OmegaConf.to_container(compose("config", [f"x={choice}"]), resolve=True)["x"] for choice in choices]
        assert repr(got) == repr(values)
