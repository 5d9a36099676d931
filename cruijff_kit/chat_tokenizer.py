"""A torchtune tokenizer that writes a conversation with the Hugging Face model's own chat template.

Training then sees the prompt tokens that Inspect's hf provider sends, one for one, if the provider
is given `tokenizer_call_args={"add_special_tokens": False}`: the template writes the special tokens
itself. A template that prints today's date still gives another prompt on another day.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.data import Message

_ROLES = {"ipython": "tool"}  # what torchtune and Hugging Face call the answer of a tool


class ChatTemplateTokenizer:
    """Tokens and training mask of a conversation, for torchtune's datasets and recipes.

    `path` is the folder of a Hugging Face model. An answer is what the template makes of the
    assistant's text, to the first token at which generation stops. What the template writes after
    that token belongs to the next prompt, and is left out after the last answer.

    Raises:
        ValueError: the model has no chat template, or no token at which generation stops.
    """

    def __init__(self, path: str, max_seq_len: int | None = None) -> None:
        from transformers import AutoTokenizer

        self.path = Path(path).expanduser()
        self.max_seq_len = max_seq_len
        self._tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
        if self._tokenizer.chat_template is None:
            raise ValueError(
                f"{self.path} has no chat template, neither chat_template.jinja nor one in tokenizer_config.json\n"
                "  take a chat model, add a chat_template.jinja, or use one of torchtune's own tokenizers"
            )
        self.stop_tokens: list[int] = _stop_tokens(self.path, self._tokenizer)
        self.bos_id: int | None = self._tokenizer.bos_token_id
        self.eos_id: int = self.stop_tokens[0]
        self.pad_id: int = self.eos_id if self._tokenizer.pad_token_id is None else self._tokenizer.pad_token_id
        self.special_tokens: dict[str, int] = self._tokenizer.get_added_vocab()

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer)

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The tokens of plain text, without the chat template."""
        start = [self.bos_id] if add_bos and self.bos_id is not None else []
        return [*start, *self._encode(text), *([self.eos_id] if add_eos else [])]

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return self._tokenizer.decode(
            token_ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )

    def __call__(self, sample: MutableMapping[str, Any], inference: bool = False) -> MutableMapping[str, Any]:
        """`sample` with its `messages` replaced by `tokens` and `mask`."""
        sample["tokens"], sample["mask"] = self.tokenize_messages(sample.pop("messages"), add_end_tokens=not inference)
        return sample

    def tokenize_messages(self, messages: list[Message], add_end_tokens: bool = True) -> tuple[list[int], list[bool]]:
        """The conversation's tokens, and for each whether it is masked: True is not trained on.

        The mask is each message's own; the header of an answer counts as prompt. Without
        `add_end_tokens` the last answer stays open. Tokens beyond max_seq_len are cut off, with a
        warning if that leaves nothing to train on.

        Raises:
            ValueError: a message has media, or the chat template rewrites a turn once another
                follows it, so that no single text holds what evaluation would send at each turn.
        """
        transcript = _Transcript(self._encode)
        start = 0
        for index, message in enumerate(messages):
            if message.role == "assistant":
                self._add_prompt(transcript, messages[:index], start)
                is_open = index == len(messages) - 1 and not add_end_tokens
                self._add_answer(transcript, messages[: index + 1], is_open)
                start = index + 1
        if start < len(messages):
            self._add_prompt(transcript, messages, start)
        elif add_end_tokens and transcript.tokens[-1] not in self.stop_tokens:
            transcript.add_token(self.eos_id, messages[-1].masked)
        return self._truncate(transcript)

    def _add_prompt(self, transcript: _Transcript, messages: list[Message], start: int) -> None:
        """Add `messages[start:]` and the header of the answer to them."""
        begin = len(transcript.tokens)
        new = messages[start:]
        transcript.grow_to(self._render(messages, open_answer=True), masked=new[-1].masked if new else True)
        if len({message.masked for message in new}) < 2:
            return
        for end in range(len(messages) - 1, start, -1):
            part = self._encode(transcript.common_text(self._render(messages[:end])))
            transcript.mask[begin : len(part)] = [messages[end - 1].masked] * (len(part) - begin)

    def _add_answer(self, transcript: _Transcript, messages: list[Message], is_open: bool) -> None:
        """Add the last of `messages`, through the token that ends its turn unless `is_open`."""
        text = self._render(messages)
        content = messages[-1].text_content.strip()  # many templates strip it
        after = max(text.find(content, len(transcript.text)), len(transcript.text))
        after += len(content) if text.startswith(content, after) else 0
        stops = [(text.find(stop, after), stop) for stop in self._stop_texts() if stop in text[after:]]
        if stops:
            begin, stop = min(stops)
            text = text[: begin if is_open else begin + len(stop)]
        transcript.grow_to(text, masked=messages[-1].masked)

    def _render(self, messages: list[Message], open_answer: bool = False) -> str:
        if any(message.contains_media for message in messages):
            raise ValueError("a message has media: ChatTemplateTokenizer writes text only")
        return self._tokenizer.apply_chat_template(
            [{"role": _ROLES.get(message.role, message.role), "content": message.text_content} for message in messages],
            add_generation_prompt=open_answer,
            tokenize=False,
            enable_thinking=None,  # Inspect's hf provider defines it so, and templates may ask whether it is defined
        )

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _stop_texts(self) -> list[str]:
        return [text for text in self._tokenizer.convert_ids_to_tokens(self.stop_tokens) if text]

    def _truncate(self, transcript: _Transcript) -> tuple[list[int], list[bool]]:
        tokens, mask = transcript.tokens[: self.max_seq_len], transcript.mask[: self.max_seq_len]
        if all(mask) and not all(transcript.mask):
            # torchtune's loss over a batch without one trained token is 0/0, and the step makes every weight NaN
            warnings.warn(
                f"max_seq_len {self.max_seq_len} cuts off the whole answer of a sample of {len(transcript.tokens)} "
                "tokens; a batch of such samples alone makes the loss NaN: raise max_seq_len",
                stacklevel=2,
            )
        return tokens, mask


class _Transcript:
    """A conversation as it grows: its text, and the tokens and mask of that text."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self.text = ""
        self.tokens: list[int] = []
        self.mask: list[bool] = []

    def grow_to(self, text: str, masked: bool) -> None:
        """Make `text` the whole text; the tokens that there are stay as they are.

        They are followed by the rest of the tokens of `text` if those begin with them; otherwise,
        where a token would reach over the seam, by the tokens of the new part alone.
        """
        if self.common_text(text) != self.text:
            raise ValueError(_rewritten(self.text, text))
        whole = self._encode(text)
        is_seamless = whole[: len(self.tokens)] == self.tokens
        new = whole[len(self.tokens) :] if is_seamless else self._encode(text[len(self.text) :])
        self.text = text
        self.tokens += new
        self.mask += [masked] * len(new)

    def add_token(self, token: int, masked: bool) -> None:
        """Add a token that the text does not have."""
        self.tokens.append(token)
        self.mask.append(masked)

    def common_text(self, text: str) -> str:
        """What the transcript and `text` both begin with."""
        return os.path.commonprefix([self.text, text])


def _rewritten(before: str, now: str) -> str:
    at = len(os.path.commonprefix([before, now]))
    return (
        "the chat template rewrites what came before when a message is added:\n"
        f"  it wrote {before[at : at + 40]!r}, and then {now[at : at + 40]!r} in its place\n"
        "  train on one answer a sample: split the conversation, a row for each"
    )


def _stop_tokens(path: Path, tokenizer: Any) -> list[int]:
    """The tokens at which transformers' generate stops, or else the tokenizer's end of sequence."""
    for name in ("generation_config.json", "config.json"):
        file = path / name
        stops = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        if stops is not None:
            return stops if isinstance(stops, list) else [stops]
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{path} names no eos_token_id, in generation_config.json, config.json or the tokenizer")
    return [tokenizer.eos_token_id]
