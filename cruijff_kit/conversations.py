"""Which lists of messages torchtune can train on, in the two styles that it reads.

The rules are those of ShareGPTToMessages, OpenAIToMessages and validate_messages of torchtune 0.6.1, and two
of ours: a role that no tokenizer knows, and a conversation of which nothing is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cruijff_kit.row_shapes import LIST, NULL, PARTS, TEXT, Message

SHAREGPT, OPENAI = "sharegpt", "openai"
STYLES = (SHAREGPT, OPENAI)

KEYS = {SHAREGPT: ("from", "value"), OPENAI: ("role", "content")}
ROLES = {
    SHAREGPT: {"system": "system", "human": "user", "gpt": "assistant"},
    OPENAI: {role: role for role in ("system", "user", "assistant", "ipython")},
}


def fault(kind: Any, column: str, style: str, dataset: Mapping[str, Any]) -> str | None:
    """What is wrong with a row whose `column` is of this kind (see row_shapes.Shape)."""
    if kind == NULL:
        return f"has no '{column}'"
    if not isinstance(kind, tuple):
        return f"has {'a list of no messages' if kind == LIST else kind} in '{column}', where messages are read"
    replaced = dataset.get("new_system_prompt") is not None
    for number, message in enumerate(kind, 1):
        reason = _message_fault(message, style, replaced)
        if reason:
            return reason.format(f"message {number} of '{column}'")
    roles = [(number, ROLES[style][_author(message, style)]) for number, message in enumerate(kind, 1)]
    if replaced:
        roles = [(0, "system"), *((number, role) for number, role in roles if role != "system")]
    reason = _order_fault(roles)
    if reason is None and not dataset.get("train_on_input") and "assistant" not in (role for _, role in roles):
        reason = f"has no message of '{_assistant(style)}' in {{}}: nothing to train on"
    return reason and reason.format(f"'{column}'")


def style_of(kind: Any) -> str | None:
    """The style of a list of messages, if each of them says who it is from in that style."""
    messages = kind if isinstance(kind, tuple) and kind else ("",)
    whole = all(isinstance(message, Message) for message in messages)
    return next((style for style in STYLES if whole and all(_author(message, style) in ROLES[style] for message in messages)), None)


def _assistant(style: str) -> str:
    return next(name for name, role in ROLES[style].items() if role == "assistant")


def _author(message: Message, style: str) -> str | None:
    return message.sender if style == SHAREGPT else message.role


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _message_fault(message: Message | str, style: str, system_is_replaced: bool) -> str | None:
    """What is wrong with a message, with {} where it is to be named."""
    author_key, text_key = KEYS[style]
    if isinstance(message, str):
        return f"has {message} for {{}}: expected a mapping with {author_key} and {text_key}"
    author = _author(message, style)
    if author is None:
        return f"has no '{author_key}' in {{}}"
    if author not in ROLES[style]:
        return f"has another '{author_key}' in {{}} than {', '.join(ROLES[style])}: '{_braced(author)}'"
    if author == "system" and system_is_replaced:
        return None
    said = message.value if style == SHAREGPT else message.content
    if said == NULL:
        return f"has no '{text_key}' in {{}}"
    if said != TEXT and not (style == OPENAI and said == PARTS):
        return f"has {said} as '{text_key}' of {{}}, where text is read"
    return None


def _order_fault(roles: list[tuple[int, str]]) -> str | None:
    """What validate_messages would raise, with {} for the column; messages are numbered as in the file."""
    if len(roles) < 2:
        return f"has {len(roles) or 'no'} message{'s'[: len(roles) != 1]} in {{}}, and torchtune wants two or more"
    last = "assistant"
    for index, (number, role) in enumerate(roles):
        if role == "assistant" and last != "user":
            return f"has an answer in {{}}, message {number}, that follows no message of the user"
        if role == "user" and last == "user":
            return f"has two messages of the user in a row in {{}}, up to message {number}"
        if role == "system" and index:
            return f"has a system message in {{}}, message {number}, that is not the first"
        last = role
    return None
