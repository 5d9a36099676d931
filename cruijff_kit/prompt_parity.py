"""Whether training shows the model the prompt tokens that the evaluation sends, for the same messages.

The evaluation's side is Inspect's own code, without the model; the training's is the tokenizer of the config.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit.evaluated_model import has_chat_template, tokenizer_call_args
from cruijff_kit.prompt_text import NOT_COMPARED, TRAINED, Decode
from cruijff_kit.errors import Fault
from cruijff_kit.visible_text import one_line, rest, said

if TYPE_CHECKING:
    from torchtune.data import Message

CHAT_TOKENIZER = "cruijff_kit.chat_tokenizer.ChatTemplateTokenizer"
NOTE = "note"  # the level of what was not looked at

_BEFORE, _AFTER = 60, 160  # characters shown on either side of the first difference


@dataclass(frozen=True)
class Evaluated:
    """The model that is evaluated, of which only the tokenizer is needed.

    Args:
        folder: of the model.
        name: what a text calls that folder.
        base: folder of the model that the training starts from.
        tokenizer: as transformers loads it; None for the reason in `why`.
    """

    folder: Path
    name: str
    base: Path
    tokenizer: Any = None
    why: str = ""

    @classmethod
    def of(cls, folder: Path, name: str, base: Path) -> Evaluated:
        from transformers import AutoTokenizer

        if not folder.is_dir():
            return cls(folder, name, base, why=f"{name} is no folder")
        try:
            return cls(folder, name, base, AutoTokenizer.from_pretrained(folder, local_files_only=True))
        except Exception as error:
            return cls(folder, name, base, why=f"transformers loads no tokenizer from {name}: {said(error).replace(str(folder), name)}")


@dataclass(frozen=True)
class _Prompts:
    """The tokens of both sides.

    Args:
        trained: the whole sample of the training.
        first: where in it the first trained token is.
        sent: the prompt of the evaluation.
    """

    trained: list[int]
    first: int
    sent: list[int]

    @property
    def common(self) -> int:
        return len(os.path.commonprefix([self.trained, self.sent]))

    @property
    def are_equal(self) -> bool:
        """Whether the model goes on, in evaluation, from where training has it begin its answer.

        torchtune's tokenizers train on the header of an answer too, which the evaluation sends: `sent` may reach
        beyond `first` as long as the sample goes the same way.
        """
        return self.common == len(self.sent) and self.common >= self.first


def compare(tokenizer: Any, rows: Mapping[str, Sequence[Sequence[Message]]], evaluated: Evaluated, decode: Decode) -> list[Fault]:
    """A warning with both prompts for each dataset whose rows show a difference, and a note for each that was not compared.

    Args:
        tokenizer: torchtune's, without a max_seq_len.
        rows: the messages of the first rows of each dataset, by its name; none for a row of plain text.
    """
    if evaluated.tokenizer is None:
        return [Fault("model_dir", NOT_COMPARED + evaluated.why, level=NOTE)]
    found = {name: _difference(tokenizer, each, evaluated, decode) for name, each in rows.items()}
    return [replace(fault, what=f"{name}: {fault.what}" if name else fault.what) for name, fault in found.items() if fault]


def _difference(tokenizer: Any, rows: Sequence[Sequence[Message]], evaluated: Evaluated, decode: Decode) -> Fault | None:
    """The first that the rows of one dataset show."""
    messages = [row for row in rows if row and not any(message.contains_media for message in row)]
    if not messages:
        return Fault("dataset", f"{NOT_COMPARED}the dataset trains on plain text, and not on messages", level=NOTE)
    answered = [(row, answer) for row in messages if (answer := _answer(row))]
    if not answered:
        return Fault("dataset", f"{NOT_COMPARED}none of the first rows has an answer that is trained on", level=NOTE)
    try:
        found = [_fault(tokenizer, row, answer, evaluated, decode) for row, answer in answered]
    except (AttributeError, NameError, ImportError):  # another Inspect than we know
        raise
    except Exception as error:  # a chat template may refuse the messages
        return Fault("_override", f"{NOT_COMPARED}{said(error)}", rest(error), NOTE)
    differing = [fault for fault in found if fault]
    return replace(differing[0], what=f"{differing[0].what}; so do {len(differing)} of the first {len(rows)} rows") if differing else None


def _answer(messages: Sequence[Message]) -> int | None:
    """Where the first answer is that is trained on; none that nothing comes before."""
    return next((at for at, message in enumerate(messages) if message.role == "assistant" and not message.masked), None) or None


def _fault(tokenizer: Any, messages: Sequence[Message], answer: int, evaluated: Evaluated, decode: Decode) -> Fault | None:
    trained, first = _trained(tokenizer, messages[: answer + 1])
    prompts = _Prompts(trained, first, sent(evaluated.tokenizer, evaluated.folder, messages[:answer]))
    return None if prompts.are_equal else Fault("_override", _what(prompts), _fix(prompts, tokenizer, evaluated, decode), "warning")


def _trained(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], int]:
    """The tokens of the sample, and where those of its last message begin, whatever else the dataset trains on."""
    marked = [copy.copy(message) for message in messages]
    for message in marked:
        message.masked = message is not marked[-1]
    tokens, mask = tokenizer.tokenize_messages(marked)
    return list(tokens), list(mask).index(False)


def sent(tokenizer: Any, folder: Path, messages: Sequence[Message]) -> list[int]:
    """The prompt tokens that Inspect's hf provider would hand to the model in `folder`."""
    from inspect_ai.model._model import collapse_consecutive_user_messages
    from inspect_ai.model._providers.hf import HuggingFaceAPI

    provider = HuggingFaceAPI.__new__(HuggingFaceAPI)  # its constructor loads the model
    provider.tokenizer = tokenizer
    provider.chat_template = provider.use_chat_template = provider.enable_thinking = None
    text = provider.hf_chat(collapse_consecutive_user_messages([_for_inspect(message) for message in messages]), tools=[])
    return tokenizer(text, **tokenizer_call_args(folder))["input_ids"]


def _for_inspect(message: Message) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageTool, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant, "ipython": ChatMessageTool}
    return kinds[message.role](content=message.text_content)


def _what(prompts: _Prompts) -> str:
    at = prompts.common
    return (
        "training and evaluation make different prompts of the same messages: "
        f"they part at token {at + 1} ({_token(prompts.trained, at)} in training, {_token(prompts.sent, at)} in the evaluation)"
    )


def _token(tokens: list[int], at: int) -> str:
    return str(tokens[at]) if at < len(tokens) else "none"


def _fix(prompts: _Prompts, tokenizer: Any, evaluated: Evaluated, decode: Decode) -> str:
    at, first = prompts.common, prompts.first
    before = decode(prompts.trained[:at])
    both = ("…" if len(before) > _BEFORE else "") + one_line(before[-_BEFORE:], _BEFORE)
    training = decode(prompts.trained[at:first]) + TRAINED[0] + decode(prompts.trained[max(at, first) :]) + TRAINED[1]
    lines = [
        *([f"both begin  {both}"] if at else []),
        f"training    {one_line(training, _AFTER)}",
        f"evaluation  {one_line(decode(prompts.sent[at:]), _AFTER)}",
        *_mend(tokenizer, evaluated),
    ]
    return "\n".join(lines)


def _mend(tokenizer: Any, evaluated: Evaluated) -> list[str]:
    if not has_chat_template(evaluated.folder):
        return [
            f"{evaluated.name} has no chat template: the evaluation writes 'user: …' and a line break for each message",
            f"evaluate a chat model, add a chat_template.jinja there and train with {CHAT_TOKENIZER},",
            "or give the tokenizer a prompt_template that writes the same",
        ]
    if f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}" == CHAT_TOKENIZER:
        ours, base = tokenizer.path.resolve(), evaluated.base.resolve()
        if ours == base:
            return [f"{ours} and {evaluated.name} have not the same tokenizer and chat template: one was changed since the training"]
        return [f"tokenizer.path and checkpointer.checkpoint_dir should be one model's: {ours}, {base}"]
    return [
        "to train on the model's own chat template, add under controls:",
        "  _override:",
        "    tokenizer:",
        f"      _component_: {CHAT_TOKENIZER}",
        f"      path: {evaluated.base}",
    ]
