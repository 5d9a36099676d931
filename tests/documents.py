"""The fenced blocks of a Markdown page, and a reader who types every one of them, in order, in one folder.

What a block is for stands in its info string:

- `bash`: commands, by a real bash that stops at the first failure;
- `console`, `console exit=N`: lines after `$ ` are commands, the others are what they print; the last one exits with N;
- `python`: a program;
- `yaml`: a whole experiment, for `cruijff-kit check`; `yaml FILE`: what FILE holds, word for word;
- `diff FILE`: an edit of FILE;
- `text`: something to look at. Anything else is a fault: no block is passed over.

In what a command prints `…` stands for anything within a line, and on a line of its own for any lines. How wide a gap or
a rule is does not count, nor do empty lines.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

PROMPT = "$ "
TIMEOUT_S = 1200


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        line: of the page, from 1, on which the block's text begins.
        words: those of the info string after the language.
    """

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every block of code on the page: fenced, or only indented, which then has no language."""
    found = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language, *words = token.info.split() or [""]
            found.append(Block(page, token.map[0] + 1 + (token.type == "fence"), language, tuple(words), token.content))
    return found


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it prints. A command goes on after a backslash at the end of its line.

    Raises:
        ValueError: the block does not begin with a command.
    """
    found: list[list[str]] = []
    goes_on = False
    for line in block.text.splitlines(keepends=True):
        if goes_on or line.startswith(PROMPT):
            goes_on, command = line.endswith("\\\n"), line.removeprefix(PROMPT)
            found = [*found, [command, ""]] if line.startswith(PROMPT) else [*found[:-1], [found[-1][0] + command, ""]]
        elif not found:
            raise ValueError(f"does not begin with `{PROMPT}`")
        else:
            found[-1][1] += line
    return [(command, shown) for command, shown in found]


def exit_code(block: Block) -> int:
    """The one with which the last command of a console block ends."""
    return int(block.words[0].removeprefix("exit=")) if block.words else 0


def edited(text: str, block: Block) -> str:
    """`text` after the edit of a diff block: its lines that begin with ` ` or `-`, found once, become those with ` ` or `+`.

    Raises:
        ValueError: they are not there, or more than once.
    """
    lines = block.text.splitlines(keepends=True)
    before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
    places = [found.start() for found in re.finditer(f"^(?={re.escape(before)})", text, re.MULTILINE)]
    if len(places) != 1:
        raise ValueError(f"{block.place}: these lines do not stand once in {block.words[0]}:\n{before}")
    return text[: places[0]] + after + text[places[0] + len(before) :]


def fault(block: Block) -> str | None:
    """Why the block cannot be run, as far as it tells without being run."""
    judge = {
        "bash": _bash_fault, "console": _console_fault, "python": _python_fault, "yaml": _yaml_fault, "diff": _diff_fault, "text": _text_fault,
    }.get(block.language)  # fmt: skip
    if judge is None:
        return f"nobody runs a block of {block.language or 'no language'}: one that is only shown is `text`"
    try:
        return judge(block)
    except (ValueError, SyntaxError, yaml.YAMLError) as error:
        return str(error)


def _shell_fault(script: str) -> str | None:
    done = subprocess.run(["bash", "-n", "-c", script], text=True, capture_output=True)
    return done.stderr or None


def _bash_fault(block: Block) -> str | None:
    return _surplus(block, 0) or _shell_fault(block.text)


def _console_fault(block: Block) -> str | None:
    if block.words and not re.fullmatch(r"exit=[1-9]\d*", block.words[0]):
        return f"a console block takes exit=N, and not {block.words[0]}"
    return _surplus(block, 1) or _shell_fault("".join(command for command, _ in commands(block)))


def _python_fault(block: Block) -> str | None:
    compile(block.text, block.place, "exec")
    return _surplus(block, 0)


def _yaml_fault(block: Block) -> str | None:
    if not isinstance(yaml.safe_load(block.text), dict):
        return "is no mapping"
    return _surplus(block, 1)


def _diff_fault(block: Block) -> str | None:
    if not block.words:
        return "does not say which file it edits"
    if odd := [line for line in block.text.splitlines() if line[:1] not in (" ", "-", "+")]:
        return f"begins with none of ` `, `-` and `+`: {odd[0]}"
    return _surplus(block, 1)


def _text_fault(block: Block) -> str | None:
    return _surplus(block, 0)


def _surplus(block: Block, at_most: int) -> str | None:
    return f"means nothing to the tests: {' '.join(block.words[at_most:])}" if len(block.words) > at_most else None


def agrees(printed: str, shown: str) -> bool:
    """Whether a page shows what a command printed."""
    pattern = ""
    for line in _plain(shown):
        pattern += "(?:.*\n)*?" if line == "…" else ".*?".join(map(re.escape, line.split("…"))) + "\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _plain(printed))) is not None


def _plain(text: str) -> list[str]:
    lines = (" ".join(re.sub("─+", "─", line).split()) for line in text.splitlines())
    return [line for line in lines if line]


class Reader:
    """One who types what a page says. The folder and what is in it last from block to block, as in a terminal; variables do not.

    Args:
        environment: of every command.
        instead: what is done in the place of a bash block, by its text.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], instead: Mapping[str, Callable[[], None]] | None = None) -> None:
        self.folder = folder.resolve()
        self._environment = {**environment, "PWD": str(self.folder)}
        self._instead = dict(instead or {})
        self.printed: dict[str, str] = {}
        """By what was typed: a command of a console block, or a whole bash block."""

    def read(self, page: Path) -> None:
        """Types the page. An AssertionError names the first block that does not do what it says."""
        found = blocks(page)
        assert found, f"{page} has no block"
        for block in found:
            why = fault(block)
            assert why is None, f"{block.place}: {why}"
            if block.language == "bash" and block.text in self._instead:
                self._instead.pop(block.text)()
            else:
                getattr(self, f"_{block.language}")(block)
        assert not self._instead, f"{page.name} has no block of {[*self._instead]}"

    def _bash(self, block: Block) -> None:
        self._type(block, block.text)

    def _console(self, block: Block) -> None:
        typed = commands(block)
        for number, (command, shown) in enumerate(typed, start=1):
            printed = self._type(block, command, exit_code(block) if number == len(typed) else 0)
            assert agrees(printed, shown), f"{block.place}: {command}prints\n{printed}\nand not\n{shown}"

    def _python(self, block: Block) -> None:
        done = subprocess.run(
            [sys.executable, "-c", block.text], cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL,
            text=True, capture_output=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.place}: exited with {done.returncode}\n{done.stdout}{done.stderr}"

    def _yaml(self, block: Block) -> None:
        if block.words:
            text = (self.folder / block.words[0]).read_text(encoding="utf-8")
            assert text == block.text, f"{block.place}: {block.words[0]} holds\n{text}"
            return
        copy = self.folder.with_name(f"{self.folder.name} of {block.place}")
        shutil.copytree(self.folder, copy, ignore=shutil.ignore_patterns("results", "eval_results", ".cruijff-kit"))
        (copy / "experiment.yaml").write_text(block.text, encoding="utf-8")
        self._type(block, f"cruijff-kit check '{copy}'")
        shutil.rmtree(copy)

    def _diff(self, block: Block) -> None:
        path = self.folder / block.words[0]
        path.write_text(edited(path.read_text(encoding="utf-8"), block), encoding="utf-8")

    def _text(self, block: Block) -> None:
        """Shown, and no more."""

    def _type(self, block: Block, script: str, code: int = 0) -> str:
        """What the script prints, both streams as a terminal shows them; the reader is then where the script went."""
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as place:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", f"trap 'pwd >\"$0\"' EXIT\n{script}", place.name], cwd=self.folder, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S,
            )  # fmt: skip
            self.folder = Path(place.read().rstrip("\n"))
        self.printed[script.rstrip("\n")] = done.stdout
        assert done.returncode == code, f"{block.place}: exited with {done.returncode} and not {code}: {script}\n{done.stdout}"
        return done.stdout
