"""Every message that docs/troubleshooting.md quotes is one that the source prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.generated_docs import DOCS

CHECKOUT = DOCS.parent
VARIES = "…"
MESSAGES = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts of a module that are no docstrings, with `…` for what is put in."""
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    bare = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VARIES for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts | bare:
            yield node.value


@pytest.fixture(scope="module")
def printed() -> str:
    """All texts of the package and the launchers, one a paragraph."""
    sources = [*(CHECKOUT / "cruijff_kit").rglob("*.py"), *(CHECKOUT / "launchers").rglob("*.py")]
    assert len(sources) > 100
    return "\n\n".join(" ".join(text.split()) for source in sources for text in texts(ast.parse(source.read_text(encoding="utf-8"))))


def is_printed(message: str, printed: str) -> bool:
    """Whether one text holds all that the message says, in its order."""
    said = [piece for piece in message.split(VARIES) if piece.strip(" :,.")]
    return bool(said) and re.search(".*".join(map(re.escape, said)), printed) is not None


def test_the_page_quotes_messages():
    assert len(MESSAGES) > 30 and len(MESSAGES) == len(set(MESSAGES))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_stands_in_the_source(message, printed):
    assert is_printed(message, printed), "no text of the source says this: correct docs/troubleshooting.md"


@pytest.mark.parametrize("message", ["Function '…' was not found in …", "two tasks are named '…'", "…"])
def test_a_message_that_nothing_prints_is_noticed(message, printed):
    assert not is_printed(message, printed)
