"""What `cruijff-kit prune` prints and asks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cruijff_kit.disk_space import human
from cruijff_kit.errors import Problem
from cruijff_kit.prune import Folder, Found, find, remove
from cruijff_kit.question import confirm

SHOWN = 10  # of the runs that are left alone


@dataclass(frozen=True)
class Wishes:
    """The flags of the command line."""

    asides: bool = False
    dry_run: bool = False
    yes: bool = False
    json: bool = False


def prune(folder: Path, runs: Sequence[str], wishes: Wishes) -> int:
    """Lists what can go, asks, and deletes it; the exit code.

    Raises:
        CruijffKitError: the answer is no, or nobody can be asked.
    """
    found = find(folder, runs)
    chosen = [folder for folder in found.folders if wishes.asides or not folder.aside]
    if not wishes.json:
        _print_found(found, wishes.asides)
    freed, problems = 0, []
    for each, fault in _removed(found, chosen, wishes):
        freed += 0 if fault else each.size
        problems += [Problem(found.layout.relative(each.path), f"could not be deleted: {fault}")] if fault else []
    if wishes.json:
        _print_json(found, sum(each.size for each in chosen), freed, problems)
    elif freed or (chosen and not problems and not wishes.dry_run):
        print(f"✓ Freed {human(freed)}")
    for problem in () if wishes.json else problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


def _removed(found: Found, chosen: Sequence[Folder], wishes: Wishes) -> Iterator[tuple[Folder, str | None]]:
    if not chosen or wishes.dry_run or (wishes.json and not wishes.yes):
        return
    if not wishes.yes:
        size = human(sum(each.size for each in chosen))
        confirm("Delete them?", f"{size} to delete, and no terminal to ask on: say --yes", "nothing was deleted")
    yield from remove(found, chosen)


def _print_found(found: Found, with_asides: bool) -> None:
    for line in _left_alone(found):
        print(line, file=sys.stderr)
    lines = list(_lines(found, with_asides))
    width = max((len(text) for text, _ in lines), default=0)
    for text, size in lines:
        print(f"{text:<{width}}  {size:>10}" if size else text)
    chosen = [folder for folder in found.folders if with_asides or not folder.aside]
    print(f"{human(sum(folder.size for folder in chosen))} to delete" if chosen else "Nothing to delete")


def _left_alone(found: Found) -> Iterator[str]:
    said = [f"{run}: left alone: {why}" for run, why in found.left_alone.items()]
    yield from said[:SHOWN]
    if len(said) > SHOWN:
        yield f"and {len(said) - SHOWN} more runs"


def _lines(found: Found, with_asides: bool) -> Iterator[tuple[str, str]]:
    """Each line with its size, which stands in a column of its own."""
    by_run: dict[str, list[Folder]] = {}
    for folder in found.folders:
        if not folder.aside:
            by_run.setdefault(folder.run, []).append(folder)
    for run, folders in by_run.items():
        yield f"{run}  {', '.join(folder.path.name for folder in folders)}", human(sum(folder.size for folder in folders))
    asides = [folder for folder in found.folders if folder.aside]
    if asides:
        yield "moved aside by a later training:" if with_asides else "moved aside by a later training, and deleted only with --asides:", ""
    for folder in asides:
        yield f"  {found.layout.relative(folder.path)}", human(folder.size)


def _print_json(found: Found, to_delete: int, freed: int, problems: Sequence[Problem]) -> None:
    values = {
        "folders": [folder.as_dict() for folder in found.folders],
        "left_alone": found.left_alone,
        "bytes_to_delete": to_delete,
        "bytes_freed": freed,
        "problems": [problem.as_dict() for problem in problems],
    }
    print(json.dumps(values, indent=2, ensure_ascii=False))
