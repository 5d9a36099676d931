"""Plain values to YAML text that OmegaConf, and so torchtune and Hydra, read back unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from cruijff_kit.config_tree import PerNode


def dump_yaml(values: Mapping[str, Any]) -> str:
    """`values` in their own order. Each top-level node is rendered once: the configs of a sweep share most of theirs."""
    return "".join(_dump_node(key, value) for key, value in values.items())


@PerNode
def _dump_node(key: str, value: Any) -> str:
    import yaml

    return yaml.dump({key: value}, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=1000, default_flow_style=False)


@cache
def _dumper() -> Any:
    """libyaml's dumper, which quotes every text that OmegaConf's loader would read as something else (`1e-5`)."""
    import yaml
    from omegaconf._utils import get_yaml_loader

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
        yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return Dumper


def header(lines: list[str]) -> str:
    """`lines` as a comment, in YAML and Python, whatever line breaks and control characters they hold."""
    shown = (line if line.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in line) for line in lines)
    return "".join(f"# {line}\n" for line in shown)
