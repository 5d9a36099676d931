"""A tokenized row as text: its special tokens visible, and ⟦⟧ around what is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from cruijff_kit.visible_text import visible

TRAINED = "⟦", "⟧"
IGNORED = -100  # the label of a token that is not trained on: torchtune.data.CROSS_ENTROPY_IGNORE_IDX

NOT_COMPARED = "the prompts of training and evaluation were not compared: "  # before the reason

SHOWN_CHARACTERS = 1500  # of each part of a row

Decode = Callable[[Sequence[int]], str]


def decoder(tokenizer: Any, theirs: Any) -> Decode:
    """What decodes with special tokens: the model's own tokenizer if it is there, for the model knows no other.

    Args:
        tokenizer: torchtune's.
        theirs: transformers' for the same model, or None.
    """
    special = {token: name for name, token in (getattr(tokenizer, "special_tokens", None) or {}).items()}
    ends = {getattr(tokenizer, f"{name}_id", None): f"<{name}>" for name in ("bos", "eos")}
    named, known = {**ends, **special}, 0 if theirs is None else len(theirs)

    def decode(tokens: Sequence[int]) -> str:
        if theirs is None or any(token >= known for token in tokens):  # transformers leaves out what it does not know
            return "".join(_runs(tokenizer, tokens, named))
        return theirs.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return decode


def _runs(tokenizer: Any, tokens: Sequence[int], special: Mapping[Any, str]) -> Iterator[str]:
    """torchtune's tokenizers leave some special tokens out: only what is between them is left to them."""
    for is_special, run in groupby(tokens, special.__contains__):
        if is_special:
            yield from (special[token] for token in run)
        else:
            yield tokenizer.decode(list(run))


def shown(tokens: Sequence[int], labels: Sequence[int], decode: Decode) -> str:
    """The text of a row, cut where a part of it is long."""
    parts = []
    for trained, pairs in groupby(zip(tokens, labels, strict=True), lambda pair: pair[1] != IGNORED):
        text = visible(_cut(decode([token for token, _ in pairs])))
        parts.append(f"{TRAINED[0]}{text}{TRAINED[1]}" if trained else text)
    return "".join(parts)


def _cut(text: str) -> str:
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"
