"""docs/cluster_reference.md: every key of a cluster profile, from conf/cluster_keys.yaml and cluster_schema."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from cruijff_kit.cluster_schema import OPTIONS, Stage
from cruijff_kit.paths import conf_dir
from tests.generated_docs.markdown import NOTICE, code, table

HEAD = f"""\
{NOTICE}
# Cluster profiles

What a stage asks of Slurm: `~/.config/cruijff-kit/cluster/NAME.yaml`, with these keys below `train:` and below `eval:`. They
are named as in hydra-submitit-launcher. A key that is not set is left to Slurm and the site. `cruijff-kit run DIR cluster=NAME`
takes a profile, `cluster.train.mem_gb=128` one key of it.
"""

KINDS = {"str": "text", "int": "whole number", "list": "list of shell lines", "dict": "mapping"}


@dataclass(frozen=True)
class Key:
    """A key as cluster_keys.yaml has it: the heading it stands under, its default there, and the comment beside it."""

    heading: str
    name: str
    default: str
    meaning: str


def keys() -> list[Key]:
    found, heading = [], ""
    for line in (conf_dir() / "cluster_keys.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            heading = line.removeprefix("# ").removesuffix(".")
        elif match := re.fullmatch(r"(\w+): (\S+)(?:\s+# (.+))?", line):
            found.append(Key(heading, match[1], match[2], match[3] or ""))
    assert [key.name for key in found] == [each.name for each in fields(Stage)]
    return found


def page() -> str:
    found, kinds = keys(), get_type_hints(Stage)
    parts = [HEAD]
    for heading in dict.fromkeys(key.heading for key in found):
        rows = [_row(key, kinds[key.name]) for key in found if key.heading == heading]
        parts.append(f"## {heading}\n\n{table(('key', 'value', 'default', 'option of sbatch', 'meaning'), rows)}")
    return "\n".join(parts)


def _row(key: Key, kind: Any) -> tuple[str, ...]:
    words = re.findall(r"str|int|list|dict", str(kind))
    option = f"--{OPTIONS[key.name]}" if key.name in OPTIONS else ""
    meaning = re.sub(r"\$HOME|NAME: value", lambda match: code(match[0]), key.meaning.removeprefix(option).lstrip(":, "))
    return code(key.name), KINDS[words[0]], "" if key.default == "null" else code(key.default), code(option) if option else "", meaning
