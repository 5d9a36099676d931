"""Whether training shows the model the prompt tokens that the evaluation sends, for the same messages.

The evaluation's side is Inspect's own code, without the model; the training's is the tokenizer of the config.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit.evaluated_model import has_chat_template, tokenizer_call_args
from cruijff_kit.prompt_text import TRAINED, Decode
from cruijff_kit.errors import Fault
from cruijff_kit.visible_text import one_line

if TYPE_CHECKING:
    from torchtune.data import Message

CHAT_TOKENIZER = "cruijff_kit.chat_tokenizer.ChatTemplateTokenizer"

_BEFORE, _AFTER = 60, 160  # characters shown on either side of the first difference


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


def compare(tokenizer: Any, messages: Sequence[Message], evaluated: Any, folder: Path, decode: Decode) -> Fault | None:
    """A warning with both prompts, if they differ; None if they do not, or the row has no answer to be trained on.

    Args:
        tokenizer: torchtune's, without a max_seq_len.
        messages: of one row.
        evaluated: the tokenizer of `folder`, as transformers loads it.
    """
    answer = next((at for at, message in enumerate(messages) if message.role == "assistant" and not message.masked), None)
    if not answer:  # nothing comes before an answer at 0
        return None
    trained, first = _trained(tokenizer, messages[: answer + 1])
    prompts = _Prompts(trained, first, sent(evaluated, folder, messages[:answer]))
    return None if prompts.are_equal else Fault("_override", _what(prompts), _fix(prompts, tokenizer, folder, decode), "warning")


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


def _fix(prompts: _Prompts, tokenizer: Any, folder: Path, decode: Decode) -> str:
    at, first = prompts.common, prompts.first
    before = decode(prompts.trained[:at])
    both = ("…" if len(before) > _BEFORE else "") + one_line(before[-_BEFORE:], _BEFORE)
    training = decode(prompts.trained[at:first]) + TRAINED[0] + decode(prompts.trained[max(at, first) :]) + TRAINED[1]
    lines = [
        *([f"both begin  {both}"] if at else []),
        f"training    {one_line(training, _AFTER)}",
        f"evaluation  {one_line(decode(prompts.sent[at:]), _AFTER)}",
        *_mend(tokenizer, folder),
    ]
    return "\n".join(lines)


def _mend(tokenizer: Any, folder: Path) -> list[str]:
    if not has_chat_template(folder):
        return [
            f"{folder} has no chat template: the evaluation writes 'user: …' and a line break for each message",
            f"evaluate a chat model, add a chat_template.jinja there and train with {CHAT_TOKENIZER},",
            "or give the tokenizer a prompt_template that writes the same",
        ]
    if f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}" == CHAT_TOKENIZER:
        return [f"tokenizer.path and checkpointer.checkpoint_dir should be one model's: {tokenizer.path}, {folder}"]
    return [
        "to train on the model's own chat template, add under controls:",
        "  _override:",
        "    tokenizer:",
        f"      _component_: {CHAT_TOKENIZER}",
        f"      path: {folder}",
    ]
