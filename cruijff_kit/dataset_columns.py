"""What torchtune's text datasets read of a row, and the first row of a file that they cannot train on.

Each rule is that of the transform in torchtune 0.6.1 (torchtune/data/_messages.py, torchtune/datasets).
Another component, the user's own say, is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cruijff_kit import conversations
from cruijff_kit.errors import Fault, closest
from cruijff_kit.row_shapes import BOOL, DATE, NULL, NUMBER, TEXT, UNKNOWN, Shape, Summary

# What is wanted of a column, beside the conversation styles of conversations.STYLES.
ONLY_TEXT = "text"
FORMATTED = "formatted"  # put into a template: a number is as good, null would be trained on as 'None'
OPTIONAL = "optional"  # formatted, and left out where it is null
WANTED = {ONLY_TEXT: (TEXT,), FORMATTED: (TEXT, NUMBER), OPTIONAL: (TEXT, NUMBER, NULL)}


@dataclass(frozen=True)
class Component:
    """A dataset builder of torchtune.

    Args:
        wants: what is wanted of each column, by the name that column_map gives another one.
        names: columns that are called otherwise without a column_map.
        whole_map: a column_map must hold every name.
        empty_map: an empty column_map is as good as none.
        images: a column `image` makes it take rows for images with text.
    """

    wants: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    whole_map: bool = True
    empty_map: bool = True
    images: bool = False


PAIR = {"input": ONLY_TEXT, "output": ONLY_TEXT}
ALPACA = Component({"instruction": FORMATTED, "input": OPTIONAL, "output": ONLY_TEXT}, whole_map=False)
COMPONENTS = {
    "instruct_dataset": Component(PAIR, empty_map=False, images=True),
    "grammar_dataset": Component(PAIR, empty_map=False, images=True),
    "samsum_dataset": Component(PAIR, {"input": "dialogue", "output": "summary"}, images=True),
    "alpaca_dataset": ALPACA,
    "alpaca_cleaned_dataset": ALPACA,
    "slimorca_dataset": Component({"conversations": conversations.SHAREGPT}, images=True),
}
# They take no column_map: an argument names the one column.
CHAT = "chat_dataset"
COMPLETION = ("text_completion_dataset", "TextCompletionDataset")
# They pass max_seq_len on to load_dataset, which takes it for no kind of file; the column that they would read.
BROKEN = {"cnn_dailymail_articles_dataset": "article", "wikitext_dataset": "page"}


def component_name(dataset: Mapping[str, Any]) -> str | None:
    """The builder's own name, if it is one of torchtune's."""
    path = dataset.get("_component_")
    return path.rpartition(".")[2] if isinstance(path, str) and path.startswith("torchtune.datasets.") else None


def argument_faults(dataset: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the arguments that say which columns are read."""
    name = component_name(dataset)
    column_map, column = dataset.get("column_map"), "conversation_column" if name == CHAT else "column"
    if name in BROKEN:
        fix = f"dataset:\n  _component_: torchtune.datasets.text_completion_dataset\n  column: {BROKEN[name]}"
        yield Fault("dataset", f"{name} cannot read a file: it hands max_seq_len to datasets, which fails on it", fix)
    elif name in (CHAT, *COMPLETION) and "column_map" in dataset:
        yield Fault("dataset.column_map", f"{name} takes no column_map", f"dataset.{column} names the column that it reads")
    elif name in COMPONENTS and column_map is not None:
        yield from _map_faults(name, COMPONENTS[name], column_map)
    if name in COMPLETION and not isinstance(dataset.get("column", ""), str):
        yield Fault("dataset.column", f"column: expected the name of a column, got {dataset['column']!r}")
    if name == CHAT:
        yield from _chat_faults(dataset)


def _chat_faults(dataset: Mapping[str, Any]) -> Iterator[Fault]:
    if not isinstance(dataset.get("conversation_column"), str):
        yield Fault("dataset.conversation_column", "chat_dataset needs conversation_column, the column of the messages")
    style = dataset.get("conversation_style")
    if style not in conversations.STYLES:
        what = "chat_dataset needs conversation_style" if style is None else f"unknown conversation_style {style!r}"
        fix = closest(str(style), conversations.STYLES) if style is not None else None
        yield Fault("dataset.conversation_style", what, fix or f"there are {', '.join(conversations.STYLES)}")


def _map_faults(name: str, component: Component, column_map: Any) -> Iterator[Fault]:
    place, known = "dataset.column_map", [*component.wants, *(["image"] if component.images else [])]
    if not isinstance(column_map, Mapping):
        yield Fault(place, f"column_map: expected a mapping, got {column_map!r}", "its keys are " + ", ".join(component.wants))
        return
    lacking = [key for key in component.wants if key not in column_map] if component.whole_map else []
    if lacking and (column_map or not component.empty_map):
        whole = {key: column_map.get(key, key) for key in component.wants}
        fix = "column_map:" + "".join(f"\n  {key}: {value}" for key, value in whole.items())
        yield Fault(place, f"column_map lacks {', '.join(lacking)}, and {name} fails without", fix)
    for key, value in column_map.items():
        if key not in known:
            fix = closest(str(key), known) or f"it reads {', '.join(component.wants)}"
            yield Fault(place, f"column_map gives a column for '{key}', which {name} does not read", fix)
        elif not isinstance(value, str):
            yield Fault(place, f"column_map.{key}: expected the name of a column, got {value!r}")


def wanted(dataset: Mapping[str, Any]) -> dict[str, str]:
    """What is wanted of each column that is read, by the column's name in the file; none if that is not known."""
    name = component_name(dataset)
    if name == CHAT:
        return {dataset["conversation_column"]: dataset["conversation_style"]}
    if name in COMPLETION:
        return {dataset.get("column", "text"): ONLY_TEXT}
    if name not in COMPONENTS:
        return {}
    component = COMPONENTS[name]
    column_map = dataset.get("column_map") or component.names
    return {column_map.get(key, key): want for key, want in component.wants.items()}


def file_fault(dataset: Mapping[str, Any], path: Path, summary: Summary, taken: list[range] | None = None) -> Fault | None:
    """The first thing in a file that the dataset cannot be trained on.

    Args:
        taken: the rows that are read, from 0; all where that is not known.
    """
    if taken is not None and not any(taken):
        return None
    wants = wanted(dataset)
    missing = [name for name, want in wants.items() if want != OPTIONAL and name not in summary.columns]
    if missing and summary.rows:
        what = f"{path} lacks {', '.join(missing)}; it has {', '.join(map(str, sorted(summary.columns))) or 'no columns'}"
        return Fault("dataset.data_files", what, _missing_fix(dataset, summary))
    return _image_fault(dataset, path, summary) or _row_fault(dataset, path, summary, wants, taken)


def _missing_fix(dataset: Mapping[str, Any], summary: Summary) -> str:
    nested = [name for name, kind in summary.shapes[0].kinds.items() if isinstance(kind, tuple)]
    if summary.rows == 1 and nested and dataset.get("source") == "json" and "field" not in dataset:
        return f"if the rows are those below '{nested[0]}', add below dataset:\n  field: {nested[0]}"
    name = component_name(dataset)
    if name == CHAT or name in COMPLETION:
        return f"dataset.{'conversation_column' if name == CHAT else 'column'} names the column that {name} reads"
    return f"{dataset['_component_']} reads them; dataset.column_map gives them other names"


def _image_fault(dataset: Mapping[str, Any], path: Path, summary: Summary) -> Fault | None:
    """A text dataset takes every row with an image for both (InputOutputToMessages, ShareGPTToMessages)."""
    name = component_name(dataset)
    sharegpt = name == CHAT and dataset["conversation_style"] == conversations.SHAREGPT
    if not sharegpt and not (name in COMPONENTS and COMPONENTS[name].images):
        return None
    column = (dataset.get("column_map") or {}).get("image", "image")
    if not {"image", column} & set(summary.columns):
        return None
    column = column if column in summary.columns else "image"
    return Fault("dataset.data_files", f"{path} has a column '{column}': {name} takes its rows for images with text", "rename or remove the column")


def _row_fault(dataset: Mapping[str, Any], path: Path, summary: Summary, wants: Mapping[str, str], taken: list[range] | None) -> Fault | None:
    bad = [(shape, *_reason(dataset, shape, wants)) for shape in summary.shapes]
    # of rows alike only the first is known: where that one is not taken, another may be
    bad = [(shape, said, kind) for shape, said, kind in bad if said and (shape.count > 1 or _is_taken(shape, taken))]
    if not bad:
        return None
    sure = [found for found in bad if _is_taken(found[0], taken)]
    first, said, _ = (sure or bad)[0]
    count = sum(shape.count for shape, *_ in bad)
    whole = f"; {count} of {summary.rows} rows {'is' if count == 1 else 'are'} bad" if summary.rows > 1 else ""
    fix = _row_fix(dataset, {kind for *_, kind in bad}) or _style_fix(first, wants)
    return Fault("dataset.data_files", f"{path}{_place(first)} {said}{whole}", fix, "error" if sure else "warning")


def _is_taken(shape: Shape, taken: list[range] | None) -> bool:
    return taken is None or shape.row is None or any(shape.row - 1 in rows for rows in taken)


def _place(shape: Shape) -> str:
    if shape.row is None:  # parquet
        return ""
    return f": row {shape.row}" + (f" (line {shape.line})" if shape.line else "")


def _reason(dataset: Mapping[str, Any], shape: Shape, wants: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Why rows of this shape cannot be trained on, and the kind of value that makes them so."""
    for column, want in wants.items():
        kind = shape.kinds.get(column, NULL)
        if kind == UNKNOWN:
            continue
        if want in conversations.STYLES:
            reason = conversations.fault(kind, column, want, dataset)
            if reason:
                return reason, None
        elif kind not in WANTED[want]:
            return _unreadable(column, shape, kind), kind if isinstance(kind, str) else None
    return None, None


def _unreadable(column: str, shape: Shape, kind: Any) -> str:
    if column not in shape.kinds:
        return f"has no '{column}'"
    return f"has {kind if isinstance(kind, str) else 'a list'} in '{column}', where text is read"


def _style_fix(shape: Shape, wants: Mapping[str, str]) -> str | None:
    styles = [conversations.style_of(shape.kinds.get(column)) for column, want in wants.items() if want in conversations.STYLES]
    return f"conversation_style: {styles[0]}" if styles and styles[0] not in (None, *wants.values()) else None


def _row_fix(dataset: Mapping[str, Any], kinds: set[str | None]) -> str | None:
    if dataset.get("source") == "csv" and kinds & {NUMBER, BOOL}:
        return "a CSV column of nothing but numbers, or of true and false, is not read as text: write it as JSON lines"
    if dataset.get("source") == "csv" and NULL in kinds:
        return "an empty cell is null, and so are NA, None, null and nan unless dataset.keep_default_na is false"
    if DATE in kinds:
        return "a JSON column of nothing but dates is read as dates: put words around them"
    return None
