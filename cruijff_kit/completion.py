"""What a TAB in the shell completes: commands and flags by argcomplete, and here folders, runs, profiles and overrides.

Nothing is written, and nothing of the user's is executed. What goes wrong is nobody's business at a TAB:
argcomplete's scripts show neither errors nor output.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import argcomplete
from argcomplete.lexers import split_line

FILE_NAME = "experiment.yaml"  # as in experiment.py, whose import takes longer than a TAB may
COMMAND = "cruijff-kit"
_T = TypeVar("_T")
DEPTH = 4  # below a folder: how far experiments are looked for
SEARCH_S = 0.1  # and for how long: a home directory may lie on a slow disk
HYDRA_FLAGS = {
    "--multirun": "run every point of the sweep",
    "--cfg": "show the config, run nothing",
    "--info": "show what Hydra knows",
    "--package": "the part of the config that --cfg shows",
    "--resolve": "with interpolations resolved",
}


def script(shell: str) -> str:
    """What bash, zsh or fish reads to complete the command."""
    return argcomplete.shellcode([COMMAND], use_defaults=False, shell=shell)


def complete(parser: argparse.ArgumentParser) -> None:
    """Prints what the line may go on with, for the script that asked, and ends the process."""
    for command, words in _commands(parser).items():
        if command == "run":
            _add_hydra_flags(words)
        for action in words._actions:
            if completer := COMPLETERS.get((command, action.dest)) or COMPLETERS.get(action.dest):
                action.completer = completer
    _Finder()(parser, always_complete_options=False, default_completer=_nothing)


class _Finder(argcomplete.CompletionFinder):
    """argparse has given its positional words away when it meets the first flag: those that may stand after one are found here."""

    def collect_completions(self, active_parsers: list[argparse.ArgumentParser], parsed_args: argparse.Namespace, cword_prefix: str) -> list[str]:
        found = super().collect_completions(active_parsers, parsed_args, cword_prefix)
        anywhere = ANYWHERE.get(getattr(parsed_args, "command", ""))
        if found or anywhere is None or cword_prefix.startswith("-") or getattr(parsed_args, "dir", None) is None:
            return found
        return [each for each in anywhere(cword_prefix, parsed_args) if each.startswith(cword_prefix)]

    def quote_completions(self, completions: list[str], cword_prequote: str, last_wordbreak_pos: int | None) -> list[str]:
        quoted = super().quote_completions(completions, cword_prequote, last_wordbreak_pos)
        for each in quoted:
            self.get_display_completions().setdefault(each, "")  # zsh would show 'None' beside it
        return quoted


def _typed() -> list[str]:
    """The words of the line before the one that is completed."""
    return split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(dict(action.choices) for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _add_hydra_flags(words: argparse.ArgumentParser) -> None:
    """What `run` hands on to Hydra unparsed."""
    words.add_argument("-m", "--multirun", action="store_true", help=HYDRA_FLAGS["--multirun"])
    words.add_argument("-c", "--cfg", choices=("job", "hydra", "all"), help=HYDRA_FLAGS["--cfg"])
    words.add_argument("--info", choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"), help=HYDRA_FLAGS["--info"])
    words.add_argument("--package", help=HYDRA_FLAGS["--package"])
    words.add_argument("--resolve", action="store_true", help=HYDRA_FLAGS["--resolve"])


def _nothing(**_: object) -> Iterable[str]:
    return ()


# Folders


def folders(prefix: str, **_: object) -> list[str]:
    """The folders that begin with `prefix` and hold an experiment.yaml, and with a `/` those that lead to one.

    Where none does, as far as was looked, all folders.
    """
    until = time.monotonic() + SEARCH_S
    shown = [text for text, is_folder in _named(prefix) if is_folder]
    found = [text for text in shown if _holds(os.path.expanduser(text))]
    leading = [f"{text}/" for text in _until(shown, until) if _leads(os.path.expanduser(text), DEPTH, until)]
    here = ["."] if prefix in ("", ".") and _holds(".") else []
    if not here and not found and len(leading) == 1:
        return folders(leading[0])  # the only way on
    return [*here, *found, *leading] or [f"{text}/" for text in shown]


def _paths(*suffixes: str) -> Callable[..., list[str]]:
    """Completes folders, and files of these kinds; argcomplete's own starts a bash for each kind."""

    def paths(prefix: str, **_: object) -> list[str]:
        return [f"{text}/" if is_folder else text for text, is_folder in _named(prefix) if is_folder or text.endswith(suffixes)]

    return paths


def _named(prefix: str) -> list[tuple[str, bool]]:
    """What is there that begins with `prefix`, as one would go on typing, and whether it is a folder."""
    parent, start = os.path.split(prefix)
    entries = [entry for entry in _entries(os.path.expanduser(parent) or ".") if entry.name.startswith(start)]
    return sorted((os.path.join(parent, entry.name), entry.is_dir()) for entry in entries if start or not entry.name.startswith("."))


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


def _holds(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, FILE_NAME))


def _leads(folder: str, depth: int, until: float) -> bool:
    """Whether an experiment lies below `folder`; False too if it was not found in time."""
    inside = [entry.path for entry in _until(_entries(folder), until) if not entry.name.startswith(".") and entry.is_dir()]
    return any(map(_holds, _until(inside, until))) or (depth > 1 and any(_leads(path, depth - 1, until) for path in _until(inside, until)))


def _until(things: Iterable[_T], until: float) -> Iterator[_T]:
    """Those of `things` that are reached in time."""
    return itertools.takewhile(lambda _: time.monotonic() <= until, things)


# Runs and profiles


def runs(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The runs of the experiment that the line names, but for those that it has already; `run_000,` goes on to the next."""
    before, comma, _ = prefix.rpartition(",")
    given = {*before.split(","), *_typed()}
    found = sorted(path.stem.replace("train_", "run_", 1) for path in _configs(parsed_args.dir).glob("train_*.yaml"))
    return [f"{before}{comma}{run}" for run in found if run not in given]


def _runs_and_base(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    base = ["base"] if (_configs(parsed_args.dir) / "eval_base.py").is_file() else []
    return [*runs(prefix, parsed_args), *base]


def _configs(folder: Path) -> Path:
    """Where the experiment's configs are: `output.configs_dir`, read without the schema, which takes too long."""
    folder = Path(folder).expanduser()
    with suppress(OSError, UnicodeDecodeError):
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
        if "configs_dir" in text:
            return folder / _configs_dir(text)
    return folder / "configs"


def _configs_dir(text: str) -> str:
    import yaml

    with suppress(yaml.YAMLError, AttributeError, KeyError, TypeError):
        return str(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["output"]["configs_dir"])
    return "configs"


def profiles(prefix: str, **_: object) -> list[str]:
    """The cluster profiles, packaged ones and the user's own."""
    from cruijff_kit import cluster_profile

    return sorted({path.stem for folder in cluster_profile.folders() for path in folder.glob("*.yaml")})


def _overrides(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    from cruijff_kit.completion_overrides import overrides

    return overrides(_configs(parsed_args.dir), prefix, [word for word in _typed() if "=" in word and not word.startswith("-")])


COMPLETERS = {
    "dir": folders,
    ("init", "dir"): _paths(),
    "model_dir": _paths(),
    "data": _paths(".json", ".jsonl", ".csv", ".parquet"),
    "run": _runs_and_base,
    "runs": runs,
    "again": runs,
    "cluster": profiles,
    "parquet": _paths(".parquet"),
    "output": _paths(".html"),
}
ANYWHERE = {"run": _overrides, "cancel": runs, "prune": runs}
