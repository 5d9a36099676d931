"""The pages, as far as it tells within seconds; and who reads them. README.md and the tutorial are executed by slurm/test_tutorial.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.documents import Block, Reader, agrees, blocks, commands, edited, fault

CHECKOUT = Path(__file__).resolve().parent.parent
TUTORIAL = CHECKOUT / "docs" / "tutorial.md"
EXECUTED = [CHECKOUT / "README.md", TUTORIAL]
QUICKSTART = CHECKOUT / "examples" / "smollm2_capitalize"
GUIDES = sorted({*(CHECKOUT / "docs").glob("*.md"), *(CHECKOUT / "examples").rglob("*.md")} - {*EXECUTED})
FAULTS = {
    "": "nobody runs a block of no language: one that is only shown is `text`",
    "fish": "nobody runs a block of fish: one that is only shown is `text`",
    "bash later": "means nothing to the tests: later",
    "console": "does not begin with `$ `",
    "console exit=0": "a console block takes exit=N, and not exit=0",
    "yaml": "is no mapping",
    "diff": "does not say which file it edits",
}


def reader(folder: Path) -> Reader:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return Reader(folder, {**os.environ, "PATH": path})


@pytest.fixture
def page(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a page."""

    def write(text: str) -> Path:
        path = tmp_path / "page.md"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.name)
def test_every_block_of_an_executed_page_is_one_that_can_be_run(path: Path) -> None:
    found = blocks(path)
    assert len(found) >= 5
    assert {block.place: why for block in found if (why := fault(block))} == {}


def test_the_edits_of_the_tutorial_fit_the_files_of_quickstart() -> None:
    files: dict[str, str] = {}
    for block in (block for block in blocks(TUTORIAL) if block.language in ("yaml", "diff")):
        (name,) = block.words
        text = files.setdefault(name, (QUICKSTART / name).read_text(encoding="utf-8"))
        if block.language == "diff":
            files[name] = edited(text, block)
        else:
            assert block.text == text, block.place
    assert [*files] == ["experiment.yaml"]


def test_blocks_of_the_guides_are_well_formed_where_they_are_of_a_kind_that_is_run_elsewhere() -> None:
    found = [block for path in GUIDES for block in blocks(path) if block.language in ("bash", "console", "python", "yaml")]
    assert len(found) > 20
    assert {block.place: why for block in found if (why := fault(block))} == {}


def test_a_page_is_typed_in_one_folder_from_block_to_block(page: Callable[[str], Path], tmp_path: Path) -> None:
    one = reader(tmp_path)
    text = """
```bash
mkdir inner; cd inner
printf 'a: 1\\nb: 2\\n' > file.yaml
```

- in a list:

  ```yaml file.yaml
  a: 1
  b: 2
  ```

  ```diff file.yaml
   a: 1
  -b: 2
  +b: 3
  ```

```python
print(open("file.yaml").read(), file=open("copy", "w"), end="")
```

```console exit=2
$ cat \\
  copy
a: …
…
$ ls --no-such-option
ls: unrecognized option …
Try …
```
"""
    one.read(page(text))
    assert one.folder == (tmp_path / "inner").resolve()
    assert one.printed["cat \\\n  copy"] == "a: 1\nb: 3\n"


def test_a_yaml_block_without_a_file_is_checked_as_an_experiment(page: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:2: exited with 1 and not 0: cruijff-kit check (.|\n)*missing"):
        reader(tmp_path).read(page("```yaml\ncontrols: {epochs: 1}\n```\n"))


@pytest.mark.parametrize("info", FAULTS)
def test_a_block_that_nobody_can_run_fails(info: str, page: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"^page\.md:4: ") as failure:
        reader(tmp_path).read(page(f"text\n\n```{info}\n- as it is\n```\n"))
    assert str(failure.value).partition("\n")[0] == f"page.md:4: {FAULTS[info]}"


def test_an_indented_block_fails_too(page: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"^page\.md:3: nobody runs a block of no language"):
        reader(tmp_path).read(page("text\n\n    make test\n"))


def test_a_command_that_fails_in_the_middle_of_a_block_fails(page: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"^page\.md:2: exited with 1 and not 0: false \| true\n"):
        reader(tmp_path).read(page("```bash\nfalse | true\necho not here\n```\n"))


def test_a_command_that_prints_something_else_fails(page: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"^page\.md:2: echo one\nprints\none\n\nand not\ntwo\n"):
        reader(tmp_path).read(page("```console\n$ echo one\ntwo\n```\n"))


def test_what_is_done_in_the_place_of_a_block_must_have_its_block(page: Callable[[str], Path], tmp_path: Path) -> None:
    one = Reader(tmp_path, os.environ, {"make test\n": lambda: None})
    with pytest.raises(AssertionError, match=r"page\.md has no block of \['make test\\n'\]"):
        one.read(page("```bash\ntrue\n```\n"))


def test_an_ellipsis_stands_for_what_differs_and_nothing_else_may() -> None:
    assert agrees("run     loss  \n───────\n\n7  0.25\n", "run loss\n───\n7 0.…\n")
    assert agrees("a\nb\nc\n", "a\n…\n") and agrees("a\n", "a\n…\n") and agrees("a\nb\nc\n", "…\nc\n")
    assert not agrees("a\nb\n", "a\n") and not agrees("a 1 b\n", "a …\nb\n") and not agrees("A\n", "a\n")


def test_an_edit_that_fits_nowhere_or_twice_fails() -> None:
    block = Block(Path("page.md"), 7, "diff", ("file",), "-a\n+b\n")
    assert edited("x\na\n", block) == "x\nb\n"
    for text in ("x a\n", "a\na\n"):
        with pytest.raises(ValueError, match="page.md:7: these lines do not stand once in file:\na\n"):
            edited(text, block)


def test_the_commands_of_a_console_block_are_told_from_what_they_print() -> None:
    block = Block(Path("page.md"), 7, "console", (), "$ one \\\n  two\nsaid\n\nmore\n$ three\n")
    assert commands(block) == [("one \\\n  two\n", "said\n\nmore\n"), ("three\n", "")]
