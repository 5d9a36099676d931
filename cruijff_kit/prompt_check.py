"""What the model will see of a torchtune config's data: tokenizer and dataset built, and the first rows tokenized.

Needs torch, but no weights. It says what is wrong with those rows and nothing of the others.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cruijff_kit import offline, prompt_parity
from cruijff_kit.config_tree import output_dir_of
from cruijff_kit.first_rows import ROWS, FirstRows, NotHereError, first_rows
from cruijff_kit.prompt_text import IGNORED, Decode, decoder, shown
from cruijff_kit.errors import Fault
from cruijff_kit.prompt_parity import NOTE, Evaluated
from cruijff_kit.visible_text import rest, said


@dataclass(frozen=True)
class PromptReport:
    """What the first rows of the dataset look like to the model.

    Args:
        faults: named by the parameter that would mend them; `model_dir` where tokenizer files are missing.
        shown: one row with its special tokens, and ⟦⟧ around what is trained on.
        mean_tokens: of the rows that were read, as they are trained on.
        rows: of the whole dataset, where that is known without reading it.
    """

    faults: list[Fault]
    shown: str | None = None
    mean_tokens: float | None = None
    rows: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Row:
    """One row, tokenized.

    Args:
        dataset: `dataset[1]` of several, and nothing for the only one.
        place: `row 3`, or `dataset[1] row 3`.
        length: its tokens before max_seq_len cut it.
        messages: what its tokens were made of; none for plain text.
    """

    dataset: str
    place: str
    tokens: list[int]
    labels: list[int]
    length: int
    messages: list[Any] = field(default_factory=list)

    @property
    def is_trained_on(self) -> bool:
        return any(label != IGNORED for label in self.labels)


def check(config: Mapping[str, Any], evaluated: bool, model_dir: str | None = None) -> PromptReport:
    """Builds the tokenizer and the dataset of one composed config as its recipe does, and looks at the first rows.

    Args:
        evaluated: compare the prompts with those that an evaluation would send.
        model_dir: where the tokenizer of the evaluated model is; checkpointer.checkpoint_dir if None.
    """
    with _quiet():
        tokenizer, reader, faults = _read(config)
        faults += [*_length_faults(reader.rows, tokenizer), *_mask_faults(reader.rows)]
        if not reader.rows:
            return PromptReport(faults, rows=reader.total)
        folder = Path(model_dir) if model_dir else _base(config)
        model = Evaluated.of(folder, str(folder), folder)
        decode = decoder(tokenizer, model.tokenizer)
        if evaluated:
            faults += _compare(reader.rows, tokenizer, model, decode)
        return PromptReport(faults, _example(reader.rows, decode), _mean_tokens(reader.rows), reader.total)


def compare(config: Mapping[str, Any], model_dir: Path) -> list[Fault]:
    """Where the evaluation of a trained model sends other prompts than its training showed: warnings, and notes on what was not compared.

    Args:
        config: the composed one that it was trained with.
        model_dir: the folder that its tokenizer is loaded from.
    """
    with _quiet():
        tokenizer, reader, faults = _read(config)
        notes = [replace(fault, level=NOTE) for fault in faults]
        if not reader.rows:
            return notes
        model = Evaluated.of(model_dir, "the evaluated model", _base(config).resolve())
        return [*notes, *_compare(reader.rows, tokenizer, model, decoder(tokenizer, model.tokenizer))]


def _base(config: Mapping[str, Any]) -> Path:
    return output_dir_of(config, "checkpointer.checkpoint_dir") or Path("checkpointer.checkpoint_dir")


def _compare(rows: list[_Row], tokenizer: Any, model: Evaluated, decode: Decode) -> list[Fault]:
    messages = {row.dataset: [each.messages for each in rows if each.dataset == row.dataset] for row in rows}
    with unlimited(tokenizer):
        return prompt_parity.compare(tokenizer, messages, model, decode)


def _read(config: Mapping[str, Any]) -> tuple[Any, _Reader, list[Fault]]:
    """The tokenizer, or None; the first rows; and what is wrong with the two."""
    from omegaconf import OmegaConf

    offline.stay_offline()
    built = OmegaConf.create(dict(config))
    for name in ("tokenizer", "dataset"):
        if built.get(name) is None:
            return None, _Reader(None, total=None), [Fault("_override", f"the config has no {name}")]
    tokenizer, faults = _tokenizer(built.tokenizer)
    reader = _Reader(tokenizer)
    with tempfile.TemporaryDirectory(prefix="cruijff-kit-rows-") as cache:
        reader.read(built.dataset, Path(cache))
    return tokenizer, reader, [*faults, *reader.faults]


def _example(rows: list[_Row], decode: Decode) -> str:
    row = next((row for row in rows if row.is_trained_on), rows[0])
    return shown(row.tokens, row.labels, decode)


def _mean_tokens(rows: list[_Row]) -> float:
    return sum(len(row.tokens) for row in rows) / len(rows)


def _tokenizer(node: Any) -> tuple[Any, list[Fault]]:
    """The tokenizer of a config, or None and why there is none."""
    from omegaconf import OmegaConf
    from torchtune.config import instantiate

    missing = _missing_files(OmegaConf.to_container(node, resolve=True))
    if missing:
        return None, [Fault("model_dir", f"the tokenizer needs {', '.join(missing)}: not found, and no prompt was looked at", level="warning")]
    try:
        return instantiate(node), []
    except Exception as error:
        return None, [Fault("_override", f"the tokenizer cannot be built: {said(error)}", rest(error))]


def _missing_files(node: Any) -> list[str]:
    """The files of a tokenizer's arguments that are not there; of a folder, its tokenizer.json."""
    given = [value for name, value in node.items() if isinstance(value, str) and ("path" in name or "file" in name)]
    texts = [Path(value).expanduser() for value in given if value.startswith(("/", "~", "."))]  # others may be Hub ids
    missing = [str(path) for path in texts if not path.exists()]
    kinds = ("tokenizer.json", "*.model", "vocab.*", "tokenizer_config.json")
    return missing + [f"{path}/tokenizer.json" for path in texts if path.is_dir() and not any(any(path.glob(kind)) for kind in kinds)]


class _Reader:
    """Reads the first rows of a dataset, or of each of several, and collects what is wrong with them.

    Without a tokenizer it only counts them, as far as torchtune's own components let it.
    """

    def __init__(self, tokenizer: Any, total: int | None = 0) -> None:
        self.rows: list[_Row] = []
        self.faults: list[Fault] = []
        self.total = total
        self._tokenizer = tokenizer
        self._failed: dict[str, list[str]] = {}  # what was raised, and in which rows
        self._messages: list[list[Any]] = []
        if tokenize := getattr(tokenizer, "tokenize_messages", None):
            tokenizer.tokenize_messages = self._recording(tokenize)

    def _recording(self, tokenize: Callable[..., Any]) -> Callable[..., Any]:
        def record(messages: list[Any], *arguments: Any, **named: Any) -> Any:
            self._messages.append(messages)
            return tokenize(messages, *arguments, **named)

        return record

    def read(self, node: Any, cache: Path) -> None:
        from omegaconf import OmegaConf

        nodes = {f"dataset[{index}]": each for index, each in enumerate(node)} if OmegaConf.is_list(node) else {"": node}
        for index, (name, each) in enumerate(nodes.items()):
            (folder := cache / str(index)).mkdir()
            prefix = f"{name} " if name else ""
            try:
                found = self._first_rows(each, folder)
                self._read_rows(found, name, prefix)
                self.total = None if None in (found.rows, self.total) else self.total + found.rows
            except NotHereError as error:
                self.total = None
                fix = "it is fetched when the training starts, or now by HF_HUB_OFFLINE=0 in front of this command"
                self.faults.append(Fault("dataset", f"{prefix}{error} is not on this machine: its rows were not looked at", fix, NOTE))
            except Exception as error:
                self.total = None
                self.faults.append(Fault("dataset", f"the {prefix or 'dataset '}cannot be built: {said(error)}", rest(error)))
        for what, places in self._failed.items():
            self.faults.append(Fault("dataset", f"{', '.join(places)}: {what}", "training stops there"))

    def _first_rows(self, node: Any, cache: Path) -> FirstRows:
        if self._tokenizer is None and not str(node.get("_component_")).startswith("torchtune.datasets."):
            return FirstRows([], 1, None)  # it may use the tokenizer at once
        return first_rows(node, self._tokenizer, cache)

    def _read_rows(self, found: FirstRows, name: str, prefix: str) -> None:
        for index in range(min(ROWS, len(found.dataset)) if self._tokenizer is not None else 0):
            place = f"{prefix}row {found.start + index}"
            try:
                self.rows.append(_Row(name, place, *self._row(found.dataset, index)))
            except Exception as error:
                self._failed.setdefault(said(error) + _nulls(found.dataset, index), []).append(place)

    def _row(self, dataset: Any, index: int) -> tuple[list[int], list[int], int, list[Any]]:
        """What a _Row holds beside its place."""
        self._messages.clear()
        sample = dataset[index]
        tokens, labels = [int(token) for token in sample["tokens"]], [int(label) for label in sample["labels"]]
        messages = self._messages[-1] if self._messages else []
        limit = getattr(self._tokenizer, "max_seq_len", None)
        length = len(tokens)
        if limit and length >= limit:
            with unlimited(self._tokenizer):
                length = len(dataset[index]["tokens"])
        return tokens, labels, length, messages


def _nulls(dataset: Any, index: int) -> str:
    """The columns of a torchtune dataset's row that hold nothing, the usual reason why it fails."""
    try:
        row = dataset._data[index]
        empty = [name for name, value in row.items() if value is None]
    except Exception:  # a dataset of another kind
        return ""
    return f"; it has no {', '.join(empty)}" if empty else ""


@contextlib.contextmanager
def unlimited(tokenizer: Any) -> Iterator[None]:
    """The tokenizer without its max_seq_len."""
    limit = getattr(tokenizer, "max_seq_len", None)
    tokenizer.max_seq_len = None
    try:
        yield
    finally:
        tokenizer.max_seq_len = limit


def _length_faults(rows: list[_Row], tokenizer: Any) -> Iterator[Fault]:
    cut = [row for row in rows if row.length > len(row.tokens)]
    if cut:
        longest = max(row.length for row in cut)
        what = f"max_seq_len {tokenizer.max_seq_len} cuts {len(cut)} of the first {len(rows)} rows: {', '.join(row.place for row in cut)}"
        yield Fault("max_seq_len", what, f"the longest of them has {longest} tokens", "warning")


def _mask_faults(rows: list[_Row]) -> Iterator[Fault]:
    """A batch of such rows alone makes torchtune's loss 0/0, and every weight NaN."""
    masked = [row for row in rows if not row.is_trained_on]
    if masked:
        is_cut = all(row.length > len(row.tokens) for row in masked)
        fix = "max_seq_len cuts off the whole answer: raise it" if is_cut else "give each row an answer, or remove it"
        what = f"nothing is trained on in {len(masked)} of the first {len(rows)} rows: {', '.join(row.place for row in masked)}"
        name = "max_seq_len" if is_cut else "dataset"
        yield Fault(name, what, f"{fix}; a batch of such rows alone makes the loss NaN", "error" if len(masked) == len(rows) else "warning")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars and warnings: what they warn of is reported here."""
    import datasets
    import transformers

    bars, level = datasets.are_progress_bars_disabled(), transformers.logging.get_verbosity()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        transformers.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
