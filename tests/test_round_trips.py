"""Any value that experiment.yaml can hold comes back the same from the files and words that generate writes."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cruijff_kit.config_tree import escape, unescape
from cruijff_kit.multirun_config import value_text
from cruijff_kit.sweep import HYDRA_KEY, NO_TEXT
from cruijff_kit.torchtune_catalog import read_config
from cruijff_kit.yaml_source import parse_yaml
from cruijff_kit.yaml_text import dump_yaml
from tests.mutations import INTERPOLATIONS, KEYS, NAMES, PLACES

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
PARSER = OverridesParser.create()

quick = settings(max_examples=EXAMPLES or 200, derandomize=not EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck))


def is_plain(text: str) -> bool:
    """What a YAML file can hold: no half of a surrogate pair."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


TEXTS = (st.sampled_from([*PLACES, *NAMES, *INTERPOLATIONS]) | st.text() | st.text(st.sampled_from("\\'\"${}[](),:= \n\tae1.-"))).filter(is_plain)
SCALARS = TEXTS | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()


def values(texts: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(texts, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=6)


def same(one: Any, other: Any) -> bool:
    """Equal in type too, all the way down."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@quick
@given(st.dictionaries(KEYS.filter(is_plain), values(SCALARS, KEYS.filter(is_plain)), max_size=3))
def test_a_config_is_read_back_as_it_was_written(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert same(read_config(path), config)


@quick
@given(st.dictionaries(KEYS.filter(is_plain), values(SCALARS, KEYS.filter(is_plain)), min_size=1, max_size=3))
def test_an_experiment_reads_what_was_written(config):
    assert same(parse_yaml(dump_yaml(config), "experiment.yaml").data, config)


SWEPT_KEYS = KEYS.filter(lambda key: HYDRA_KEY.fullmatch(key) is not None and NO_TEXT.fullmatch(key) is None)


@quick
@given(values(SCALARS, SWEPT_KEYS), values(SCALARS, SWEPT_KEYS))
def test_a_swept_value_comes_back_through_hydras_grammar(value, other):
    assume("${" not in str(value) + str(other))  # refused
    override = PARSER.parse_override(f"x={value_text(value)},{value_text(other)}")
    words = list(override.sweep_string_iterator())
    assert len(words) == 2
    for word, expected in zip(words, (value, other)):
        read = OmegaConf.create({"x": PARSER.parse_override(f"x={word}").value()})
        assert same(OmegaConf.to_container(read, resolve=True)["x"], expected)


@quick
@given(TEXTS)
def test_a_text_that_is_escaped_is_read_literally(text):
    assume(text != "???")  # OmegaConf's word for what is missing
    assert unescape(escape(text)) == text
    assert OmegaConf.create({"x": escape(text)}).x == text


@pytest.mark.parametrize("number", [5e-324, 1e308, -0.0, 1e16, 0.1 + 0.2])
def test_a_float_keeps_its_last_digit(number):
    read = parse_yaml(dump_yaml({"a": number}), "x").data["a"]
    assert math.copysign(1, read) == math.copysign(1, number) and read == number
