"""Where the results of a report come from, out of the records that each stage of each run left."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cruijff_kit.records import Record
from cruijff_kit.report_tables import Table, without_empty
from cruijff_kit.status import duration

STAGES = {"train": "training", "eval": "evaluation"}
MAX_RANGES = 6
SHORT_COMMIT = 12  # letters


@dataclass(frozen=True)
class Kept:
    """The record of a stage of a run as it is now; `order` is the run's place among all."""

    run: str
    stage: str
    record: Record
    order: int


def stages(kept: Sequence[Kept]) -> Table:
    """When and where each was trained and evaluated."""
    headings = ["run", "stage", "state", "started", "took", "attempt", "host", "job", "GPUs", "git commit", "run with"]
    return without_empty(Table(headings, [_stage(each.run, each.stage, each.record) for each in kept], frozenset({4, 5}), BY_HAND))


BY_HAND = "A stage that is not here left no record: it was done by hand, or not at all."


def _stage(run: str, stage: str, record: Record) -> list[str]:
    took = duration(record.ended_s - record.started_s) if record.ended_s is not None else ""
    gpus = ", ".join(gpu.split(" (UUID")[0] for gpu in record.gpus) or "none"
    return [run, STAGES[stage], record.state, moment(record.started_s), took, str(record.attempt), record.host, record.job or "", gpus,
            _commit(record)[: SHORT_COMMIT + len(" + changes")], shlex.join(record.asked)]  # fmt: skip


def moment(seconds: float) -> str:
    """Local time with its distance from UTC."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def _commit(record: Record) -> str:
    git = record.git or {}
    return f"{str(git.get('commit', ''))[:SHORT_COMMIT]}{' + changes' if git.get('dirty') else ''}"


def versions(kept: Sequence[Kept]) -> Table:
    """Each version of each package, and which stages ran with it."""
    found = _users({(name, version): None for each in kept for name, version in (each.record.versions or {}).items()}, kept)
    return Table(["package", "version", "ran"], [[name, version, where] for (name, version), where in found.items()])


def _users(keys: Mapping[tuple[str, str], None], kept: Sequence[Kept]) -> dict[tuple[str, str], str]:
    return {key: _where([each for each in kept if (each.record.versions or {}).get(key[0]) == key[1]], kept) for key in sorted(keys)}


def inputs(kept: Sequence[Kept]) -> Table:
    """SHA-256 of data and task files, and who read them so."""
    readers: dict[tuple[str, str], list[Kept]] = {}
    for each in kept:
        for path, digest in (each.record.inputs or {}).items():
            readers.setdefault((path, digest), []).append(each)
    return Table(["file", "SHA-256", "read by"], [[path, digest, _where(some, kept)] for (path, digest), some in sorted(readers.items())])


def warnings(kept: Sequence[Kept]) -> Iterator[str]:
    """What makes runs less alike than their parameters say."""
    ran = versions(kept).rows
    for name, several in _differing([(name, version) for (name, version, _) in ran]):
        places = "; ".join(f"{version} in the {where}" for (other, version, where) in ran if other == name)
        yield f"{name} differs between runs: {', '.join(several)} ({places})"
    for path, several in _differing([(path, digest) for path, digest, _ in inputs(kept).rows]):
        yield f"{path} did not hold the same for all that read it: {len(several)} contents, see “Provenance”"
    commits = sorted({_commit(each.record) for each in kept if each.record.git})
    if len(commits) > 1:
        yield f"not all ran at one git commit: {', '.join(commits)}"
    elif any((each.record.git or {}).get("dirty") for each in kept):
        yield "what the runs depend on was changed and not committed when they were started: the git commit alone does not bring it back"


def _differing(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    for name in dict.fromkeys(name for name, _ in pairs):
        values = [value for other, value in pairs if other == name]
        if len(values) > 1:
            yield name, values


def _where(some: Sequence[Kept], kept: Sequence[Kept]) -> str:
    """`training of run_000 to run_003, evaluation of all`."""
    return "; ".join(filter(None, (_of_stage(stage, some, kept) for stage in STAGES)))


def _of_stage(stage: str, some: Sequence[Kept], kept: Sequence[Kept]) -> str:
    mine, every = ([each for each in group if each.stage == stage] for group in (some, kept))
    if not mine:
        return ""
    return f"{STAGES[stage]} of {'all' if len(mine) == len(every) else _ranges(mine)}"


def _ranges(some: Sequence[Kept]) -> str:
    """`run_000 to run_003, run_007`."""
    ends: list[list[Kept]] = []
    for each in some:
        if ends and each.order == ends[-1][-1].order + 1:
            ends[-1][1:] = [each]
        else:
            ends.append([each])
    words = [" to ".join(each.run for each in pair) for pair in ends]
    return ", ".join(words[:MAX_RANGES]) + (f" and others ({len(some)} in all)" if len(words) > MAX_RANGES else "")


def commands(kept: Sequence[Kept], added: Mapping[str, str]) -> list[str]:
    """What to type, in the experiment's folder, to have the same again.

    Args:
        added: of the runs that came from an override, their recipes.
    """
    commits = {str((each.record.git or {}).get("commit")) for each in kept if each.record.git}
    installed = [(name, version) for name, version, _ in versions(kept).rows if name not in ("python", "cruijff-kit")]
    found = dict(installed)
    one = len(found) == len(installed)
    lines = [f"git checkout {shlex.quote(*commits)}"] if len(commits) == 1 else []
    lines += [shlex.join(["pip", "install", *(f"{name}=={version}" for name, version in found.items())])] if found and one else []
    lines += ["cruijff-kit generate .", "cruijff-kit run . --multirun"]
    for run, recipe in added.items():
        number = run.removeprefix("run_")
        lines += [f"tune run {shlex.quote(recipe)} --config configs/train_{number}.yaml", f"python configs/eval_{number}.py"]
    lines += [shlex.join(["python", f"configs/eval_{each.run.removeprefix('run_')}.py", *each.record.asked]) for each in kept if each.record.asked][:20]
    return [*lines, "cruijff-kit report . --force"]
