"""`python -m tests.generated_docs`: writes docs/ anew where the code says otherwise now."""

from __future__ import annotations

from cruijff_kit.atomic import write_text
from tests.generated_docs import DOCS, PAGES

for name, page in PAGES.items():
    write_text(DOCS / name, page())
    print(f"docs/{name}")
