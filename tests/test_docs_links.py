"""Every link and anchor of the pages leads somewhere; what they show can be typed, and what they say of versions is so."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from markdown_it import MarkdownIt
from markdown_it.token import Token

from cruijff_kit.cli_parser import parser
from cruijff_kit.schema import validated
from cruijff_kit.yaml_source import read_yaml
from tests.generated_docs.commands import commands

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted([*CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("examples/**/README.md")])]
IDS = [page.relative_to(CHECKOUT).as_posix() for page in PAGES]
NOW = [page for page in PAGES if page.name != "CHANGELOG.md"]  # that one tells of commands as they were
PARSER = parser()
NAMES = [command.prog for command in commands(PARSER) if command is not PARSER]
SEPARATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<"}


@cache
def tokens(page: Path) -> list[Token]:
    """The page's blocks, and the pieces of its running text."""
    blocks = MarkdownIt("gfm-like", {"linkify": False}).parse(page.read_text(encoding="utf-8"))
    return [piece for block in blocks for piece in (block, *(block.children or ()))]


@cache
def anchors(page: Path) -> set[str]:
    """What GitHub calls the page's headings: lower case, without punctuation, spaces as hyphens, numbered where they come again."""
    found: dict[str, int] = {}
    for heading, text in zip(tokens(page), tokens(page)[1:]):
        if heading.type == "heading_open":
            words = "".join(piece.content for piece in text.children or () if piece.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {slug + (f"-{number}" if number else "") for slug, count in found.items() for number in range(count + 1)}


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        where = token.attrGet("href") if token.type == "link_open" else token.attrGet("src") if token.type == "image" else None
        if where is not None:
            yield str(where)


def fault(page: Path, link: str) -> str | None:
    """Why a link of the page leads nowhere; what is elsewhere is not fetched."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        well_formed = parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc)
        return None if well_formed else f"{link}: no https address"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if parts.path and not (target.exists() and target.is_relative_to(CHECKOUT)):
        return f"{link}: there is no such file"
    if parts.fragment and parts.fragment not in (anchors(target) if target.suffix == ".md" else ()):
        return f"{link}: {target.name} has no heading #{parts.fragment}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_somewhere(page):
    assert [found for link in links(page) if (found := fault(page, link))] == []


def test_headings_have_the_anchors_that_github_gives_them(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# experiment.yaml\n## `run`: what's *left*\n## A & B\n## Run\n## Run\n", encoding="utf-8")
    assert anchors(page) == {"experimentyaml", "run-whats-left", "a--b", "run", "run-1"}
    assert fault(page, "#run-1") is None and fault(page, "#run-2") == "#run-2: page.md has no heading #run-2"


def lines(page: Path) -> Iterator[str]:
    """The lines of fenced blocks, those that go on put together, and the code within sentences, where that is more than a command's name."""
    for token in tokens(page):
        if token.type == "fence":
            yield from re.sub(r"\\\n\s*", "", token.content).splitlines()
        elif token.type == "code_inline" and token.content not in NAMES:
            yield token.content


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after each `cruijff-kit` that begins a command, up to a pipe, a comment, or two spaces and an explanation."""
    for line in lines(page):
        line = line.strip().removeprefix("$ ").removeprefix("example: ")
        if re.match(r"([A-Z_]+=\S+ )*cruijff-kit \S", line):
            lexer = shlex.shlex(re.split(r"\s{2,}", line)[0], posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            yield from statements(list(lexer))


def statements(words: list[str]) -> Iterator[list[str]]:
    """The words of each command of ours in a line of several."""
    ends = [*(index for index, word in enumerate(words) if word in SEPARATORS), len(words)]
    for start, end in zip([0, *(index + 1 for index in ends)], ends):
        plain = words[start:end]
        if "cruijff-kit" in plain:
            yield plain[plain.index("cruijff-kit") + 1 :]


def refusal(words: list[str]) -> str | None:
    """What the command line says of the words; nothing is run."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            arguments, rest = PARSER.parse_known_args(words)
            if rest and arguments.command == "run":
                OverridesParser.create().parse_overrides(get_args_parser().parse_args(rest).overrides)
            elif rest and not ("runs" in arguments and not any(word.startswith("-") for word in rest)):
                return f"unrecognized: {' '.join(rest)}"
        except OverrideParseException as error:
            return str(error)
        except SystemExit as end:
            return said.getvalue().strip() if end.code else None
    return None


@pytest.mark.parametrize("page", NOW, ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_every_command_that_is_shown_can_be_typed(page):
    assert [f"cruijff-kit {shlex.join(words)}: {why}" for words in command_lines(page) if (why := refusal(words))] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("cruijff-kit generate . --dry_run", True),
        ("cruijff-kit generat .", True),
        ("cruijff-kit run . --multirun 'lora_rank=4,8' # a comment", False),
        ("cruijff-kit run . --multirun lora_rank=[4", True),
        ("cruijff-kit run . --multi-run", True),
        ("HF_HUB_OFFLINE=0 cruijff-kit check . --deep --json | jq .", False),
        ("cruijff-kit check . && cruijff-kit generat .", True),
        ("cruijff-kit prune . --yes run_000", False),
    ],
)
def test_a_command_that_cannot_be_typed_is_noticed(tmp_path: Path, line: str, wrong: bool):
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{line}\n```\n", encoding="utf-8")
    shown = list(command_lines(page))
    assert shown and any(refusal(words) for words in shown) == wrong


def test_the_pages_show_commands():
    assert sum(len(list(command_lines(page))) for page in NOW) > 50


def test_every_command_is_explained_on_a_page_that_a_person_wrote():
    shown = {" ".join(["cruijff-kit", *words]) for page in NOW if page.name != "commands.md" for words in command_lines(page)}
    assert [name for name in NAMES if not any(f"{line} ".startswith(f"{name} ") for line in shown)] == []


def experiments(page: Path) -> list[str]:
    """The YAML on the page that is a whole experiment."""
    return [token.content for token in tokens(page) if token.type == "fence" and token.info.startswith("yaml") and re.match(r"(#.*\n)*experiment:", token.content)]


def test_every_experiment_that_is_shown_has_the_form_of_one(tmp_path: Path):
    shown = [(page.name, text) for page in NOW for text in experiments(page)]
    assert {"comparison.md", "experiment_reference.md"} <= {name for name, _ in shown}
    for name, text in shown:
        (tmp_path / "experiment.yaml").write_text(text, encoding="utf-8")
        assert (name, validated(read_yaml(tmp_path / "experiment.yaml"))[2]) == (name, [])


def test_administrators_are_told_of_the_versions_that_the_tests_run_with():
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {name.replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    told = re.findall(r"([a-z-]+)\s+(\d+\.\d+\.\d+)\b(?!\.)", (CHECKOUT / "docs" / "administrators.md").read_text(encoding="utf-8"))
    assert len(told) > 6 and [(name, version) for name, version in told if pins.get(name) != version] == []
