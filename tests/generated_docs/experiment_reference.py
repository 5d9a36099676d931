"""docs/experiment_reference.md: every key of experiment.yaml from its schema, every parameter and every function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cruijff_kit.parameters import PARAMETERS
from cruijff_kit.resolvers import FUNCTIONS
from cruijff_kit.schema import Specification
from tests.generated_docs.markdown import NOTICE, code, either, table

HEAD = f"""\
{NOTICE}
# experiment.yaml

Every key of the file. Paths are relative to its folder; `~` and `${{oc.env:NAME}}` may stand in them. A key that is not
listed here is an error, with the closest one that is. Where a job runs and what it asks for is no part of the experiment:
see [cluster profiles](cluster_reference.md).
"""

EXAMPLE = """\
experiment: {name: ranks, framework: torchtune}
framework_config: {base_config: llama3_1/8B_lora_single_device}
variables:
  learning_rate: [1e-4, 1e-3]
  adapter:                       # no parameter: each entry sets several together
    - {lora_rank: 8, lora_alpha: 16}
    - {lora_rank: 64, lora_alpha: 64}
  seed: [1, 2, 3]                # replicates are a variable like any other
exclude:
  - {lora_rank: 64, learning_rate: 1e-3}
controls:
  epochs: 1
  warmup_steps: ${floordiv:100,${epochs}}
  _override: {profiler: {enabled: false}}
"""

RULES = f"""\
## Points

```yaml
{EXAMPLE}```

This is 2 × 2 × 3 points less the 3 that are excluded: 9 runs, `run_000` to `run_008`.

- **Crossed**: every value of a variable with every value of the others, at most 10,000 points, those included that are
  excluded. A value twice, a parameter both in `variables` and in `controls`, and two points that come to the same torchtune
  config are errors.
- **Paired**: under a name that is no parameter each value is a mapping that sets parameters together. In
  `run_mapping.yaml` and in the tables they stand by their own names. Under a parameter's name a mapping is its value.
- **Excluded**: a point goes if it has all the values of an entry of `exclude`. A parameter that a point lacks is not null.
  Leaving out every point is an error.
- **Computed**: a control may be computed from other parameters, not a variable's values.
- **`_override`** is merged last, so it may set no key of a variable. Where it, or a mapping for `dataset`, changes a
  `_component_`, arguments that the new component does not accept are dropped, with a warning that names them.
- **`lora_rank` and `lora_alpha`** are set together or not at all, and only with a base config that is LoRA.

Numbers such as `1e-4` are numbers. In YAML alone they would be text.
"""


def page() -> str:
    schema = Specification.model_json_schema()
    sections = [(name, of) for name in schema["properties"] if (of := _model(schema, name))]
    top = "\n## Sections\n\n" + _keys(schema)
    keys = "".join(f"\n## {name}\n\n{_keys(of)}{_entries(schema, name, of)}" for name, of in sections)
    return "\n".join([HEAD + top + keys, RULES, _parameters(), _functions()])


def _model(schema: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The schema of a section that has keys of its own."""
    of = schema["properties"][name].get("$ref")
    return schema["$defs"][of.rpartition("/")[2]] if of else None


def _entries(schema: Mapping[str, Any], section: str, of: Mapping[str, Any]) -> str:
    """The keys of what a list of the section holds."""
    lists = {key: value["items"]["$ref"] for key, value in of["properties"].items() if "$ref" in value.get("items", {})}
    return "".join(f"\n### Each of {section}.{key}\n\n{_keys(schema['$defs'][ref.rpartition('/')[2]])}" for key, ref in lists.items())


def _keys(of: Mapping[str, Any]) -> str:
    required = of.get("required", ())
    rows = [(code(key), _form(value), "**required**" if key in required else _default(value), value["description"]) for key, value in of["properties"].items()]
    return table(("key", "value", "default", "meaning"), rows)


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    return "" if default is None or isinstance(default, dict) and default else code(json.dumps(default).strip('"'))


def _form(value: Mapping[str, Any]) -> str:
    """What may stand there, in words."""
    if "$ref" in value:
        return "mapping"
    if "anyOf" in value:
        return ", or ".join(_form(each) for each in value["anyOf"] if each != {"type": "null"})
    if words := value.get("enum", [value["const"]] if "const" in value else None):
        return either(map(code, words))
    if value["type"] == "array":
        most = f", at most {value['maxItems']:,}" if "maxItems" in value else ""
        return f"list of {_plural(value['items'])}{most}"
    if value["type"] == "integer":
        return f"whole number of at least {value['minimum']}"
    return {"string": "date" if value.get("format") == "date" else "text", "boolean": "`true` or `false`", "object": "mapping"}[value["type"]]


def _plural(items: Mapping[str, Any]) -> str:
    return {"integer": "whole numbers", "string": "texts"}.get(items.get("type", ""), "mappings")


def _parameters() -> str:
    def values(kind: str, optional: bool) -> str:
        return f"{kind}, or null" if optional else kind

    rows = [(code(name), code(each.key), values(each.kind, each.optional), each.meaning) for name, each in PARAMETERS.items()]
    return f"""\
## Parameters

The names that may stand under `variables` and `controls`, and in `run … NAME=VALUE`. Where none is set the base config's
value holds.

{table(("name", "torchtune key", "value", "meaning"), rows)}
Any other key of the torchtune config goes by its dotted path, `optimizer.weight_decay`. It must be there in the base config,
or be an argument that the component at that place accepts.
"""


def _functions() -> str:
    rows = [(code(f"${{{name}:…}}"), gives) for name, (gives, _) in FUNCTIONS.items()]
    return f"""\
## Functions

A control may be computed, as OmegaConf writes it: `lora_alpha: ${{mul:2,${{lora_rank}}}}`.

{table(("function", "gives"), rows)}"""
