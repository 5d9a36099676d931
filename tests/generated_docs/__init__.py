"""The pages of docs/ that are made from the code, and nothing else: `make docs` writes them, a test compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.generated_docs import cluster_reference, commands, experiment_reference

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"

PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "experiment_reference.md": experiment_reference.page,
    "cluster_reference.md": cluster_reference.page,
}
