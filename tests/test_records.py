"""The record of a stage: whole or not at all, of this version, and never in the way of the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cruijff_kit import records
from cruijff_kit.errors import CruijffKitError, Interrupted
from cruijff_kit.ownership import TakenOver
from cruijff_kit.stage_command import CommandFailed


def begun(path: Path, config: str = "abc") -> records.Record:
    return records.fresh(path, "run_000", "train", config, epochs=3, gpus=["0"], git={"commit": "c0ffee", "dirty": True})


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = begun(tmp_path / "record.json")
    records.write(tmp_path / "record.json", record)
    assert records.read(tmp_path / "record.json") == record


def test_a_stage_that_ends_well_is_done(tmp_path: Path) -> None:
    path = tmp_path / "results" / "record.json"
    with records.kept(path, begun(path)):
        assert records.read(path).state == "running"
    record = records.read(path)
    assert (record.state, record.exit_code, record.attempt) == ("done", 0, 1)
    assert record.ended_s >= record.started_s


class Told(Interrupted, RuntimeError):
    pass


ENDS = {
    "a command that failed": (CommandFailed("tune", 1, "ValueError: no luck"), ("failed", 1, "tune exited with 1: ValueError: no luck")),
    "a command that was killed": (CommandFailed("tune", -9, ""), ("failed", -9, "tune was killed by SIGKILL (out of memory?)")),
    "a fault": (CruijffKitError("data/x.jsonl is gone"), ("failed", None, "data/x.jsonl is gone")),
    "a fault of ours": (KeyError("x"), ("failed", None, "'x'")),
    "a signal": (Told("Slurm told it to end"), ("interrupted", None, "Slurm told it to end")),
    "Ctrl-C": (KeyboardInterrupt(), ("interrupted", None, "interrupted")),
    "an exit": (SystemExit(3), ("interrupted", None, "SystemExit")),
}


@pytest.mark.parametrize(("error", "expected"), ENDS.values(), ids=ENDS)
def test_how_a_stage_ended_is_in_its_record(tmp_path: Path, error: BaseException, expected: tuple) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(type(error)), records.kept(path, begun(path)):
        raise error
    record = records.read(path)
    assert (record.state, record.exit_code, record.reason) == expected


def test_a_copy_that_was_taken_over_leaves_the_record_to_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(TakenOver), records.kept(path, begun(path)):
        successor = begun(path)
        records.write(path, successor)
        raise TakenOver("stopped")
    assert records.read(path) == successor


def test_attempts_count_as_long_as_the_run_is_the_same_and_not_done(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    for _ in range(2):
        with pytest.raises(CruijffKitError), records.kept(path, begun(path)):
            raise CruijffKitError("no luck")
    assert records.read(path).attempt == 2
    assert begun(path, config="another").attempt == 1
    with records.kept(path, begun(path)):
        pass
    assert records.read(path).attempt == 3
    assert begun(path).attempt == 1


def unreadable(text: str) -> dict[str, str]:
    values = json.loads(text)
    return {
        "empty": "",
        "cut off": text[: len(text) // 2],
        "no JSON": "\0" * 40,
        "another kind": "[]",
        "a text": '"done"',
        "of a newer version": json.dumps({**values, "version": 2}),
        "without a version": json.dumps({key: value for key, value in values.items() if key != "version"}),
        "without a state": json.dumps({key: value for key, value in values.items() if key != "state"}),
        "a time that is none": json.dumps({**values, "started_s": "yesterday"}),
        "a state that is none": json.dumps({**values, "state": None}),
    }


@pytest.mark.parametrize("kind", unreadable('{"version": 1, "state": "done"}'))
def test_what_cannot_be_read_counts_as_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "record.json"
    records.write(path, begun(path))
    path.write_text(unreadable(path.read_text())[kind])
    assert records.read(path) is None


def test_one_with_more_than_this_version_knows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    records.write(path, begun(path))
    path.write_text(json.dumps({**json.loads(path.read_text()), "mood": "good"}))
    assert records.read(path).run == "run_000"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from cruijff_kit import records
path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: writing fails
with records.kept(path, records.fresh(path, "run_000", "train", "abc")):
    before = path.read_text()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
assert path.read_text() == before
print("trained")
"""


def test_a_disk_that_is_full_loses_the_record_and_not_the_work(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert done.stderr == f"warning: {path} was not written: File too large\n"
    assert records.read(path).state == "running"
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]
