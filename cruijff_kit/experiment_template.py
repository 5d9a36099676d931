"""The files of a new experiment: a template of the package with the user's answers in it. Writes nothing.

The templates are cruijff_kit/templates/NAME.yaml; quickstart is the example that runs on a CPU, as it is.
"""

from __future__ import annotations

import os
import string
from dataclasses import dataclass
from pathlib import Path

from cruijff_kit.config_tree import escape
from cruijff_kit.experiment import FILE_NAME
from cruijff_kit.paths import quickstart_dir
from cruijff_kit.torchtune_config import DATA_FILES

QUICKSTART = "quickstart"
# By name: in a checkout the folder may hold what a run made, and what a user put there.
EXAMPLE = (
    "README.md",
    "base.yaml",
    "data/train.jsonl",
    "evals/capitalize.py",
    "evals/data/phrases.jsonl",
    "evals/data/words.jsonl",
    FILE_NAME,
    "get_model.py",
)

# The dataset that reads rows of these columns; rows of others are left to that of the base config.
BUILDERS = {
    "messages": {"_component_": "torchtune.datasets.chat_dataset", "conversation_column": "messages", "conversation_style": "openai"},
    "conversations": {"_component_": "torchtune.datasets.chat_dataset", "conversation_column": "conversations", "conversation_style": "sharegpt"},
    "input": {"_component_": "torchtune.datasets.instruct_dataset"},
}


@dataclass(frozen=True)
class Answers:
    """What a template is filled with.

    Args:
        data: a local data file or a Hub id.
    """

    name: str
    question: str
    base_config: str
    model_dir: str
    data: str


class _Template(string.Template):
    delimiter = "@"  # `$` is OmegaConf's


def names(template: str) -> list[str]:
    """The files that the template consists of, below the experiment's folder."""
    return list(EXAMPLE) if template == QUICKSTART else [FILE_NAME, "evals/data/example.jsonl", "evals/example.py"]


def render(template: str, answers: Answers | None = None, below: Path | None = None) -> dict[str, str]:
    """The text of each file of `names`.

    Args:
        answers: of every template but quickstart, which asks nothing.
        below: the experiment's folder: data that lies there is named as seen from it, so that both may be moved.
    """
    folder = quickstart_dir() if answers is None else Path(__file__).with_name("templates")
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in names(template) if answers is None or name != FILE_NAME}
    if answers is None:
        return texts
    values = {
        "name": quoted(answers.name),
        "question": quoted(answers.question),
        "base_config": quoted(answers.base_config),
        "model_dir": quoted(escape(answers.model_dir)),
        "dataset": _dataset(answers.data, below),
    }
    return {FILE_NAME: _Template((folder / f"{template}.yaml").read_text(encoding="utf-8")).substitute(values), **texts}


def quoted(text: str) -> str:
    """`text` as a YAML scalar on one line."""
    import yaml

    return yaml.dump(text, default_style='"', allow_unicode=True, width=float("inf")).rstrip("\n")


def is_file(data: str) -> bool:
    """Whether `data` names a local file: anything else is an id on the Hub."""
    return Path(data).suffix.lower() in DATA_FILES


def _dataset(data: str, below: Path | None) -> str:
    """The value of `dataset`: the file or id itself, or the mapping of a builder that reads columns as the file has them."""
    inside = is_file(data) and below is not None and Path(data).is_relative_to(below)
    text = escape(os.path.relpath(data, below) if inside else data)
    builder = _builder(Path(data).expanduser()) if is_file(data) else None
    if builder is None:
        return quoted(escape(text))  # a text is resolved as a control, and then again as a path
    values = {**builder, "source": DATA_FILES[Path(data).suffix.lower()], "data_files": quoted(text), "split": "train"}
    return "".join(f"\n    {key}: {value}" for key, value in values.items())


def _builder(path: Path) -> dict[str, str] | None:
    """The entry of BUILDERS for the columns of a file; None where the base config's own may read it, or nobody can."""
    from cruijff_kit import data_files
    from cruijff_kit.file_text import Reading

    try:
        summary = data_files.summary(path, Reading(DATA_FILES[path.suffix.lower()]))
    except (OSError, ValueError):  # which the check says in its own words
        return None
    columns = summary.columns if summary else ()
    return None if "instruction" in columns else next((builder for column, builder in BUILDERS.items() if column in columns), None)
