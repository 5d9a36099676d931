"""What launches sent, and whether a task of Slurm's is theirs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cruijff_kit.job_configs import _keys
from cruijff_kit.launches import SCRIPT, Launch, UnreadableLaunch, find, new_launch, open_launches
from cruijff_kit.slurm_output import Task
from cruijff_kit.sweep import Run


def sent(folder: Path) -> Launch:
    """A launch of one array of two tasks, job 12."""
    launch = new_launch(folder)
    array = launch.add("0_train", "train", {0: "run_000 abc", 1: "run_001 def"}, 1)
    array.folder.mkdir()
    (array.folder / SCRIPT).write_text("#!/bin/sh\n")
    array.job = 12
    launch.save()
    return launch


def queued(launch: Launch, index: int = 0, **values: object) -> Task:
    array = launch.records[0]
    known = {"job": 12, "index": index, "state": "PENDING", "reason": "Resources", "comment": f"mine {array.token}", "name": "x-train"}
    return Task(**{**known, "command": str(array.folder / SCRIPT), **values})


def live(folder: Path, *tasks: Task) -> list[str]:
    return sorted(text for _, text in find(open_launches(folder), tasks).live)


def test_what_was_sent_is_found_in_the_queue(tmp_path: Path) -> None:
    launch = sent(tmp_path / "slurm")
    assert live(tmp_path / "slurm", queued(launch), queued(launch, 1)) == ["run_000 abc", "run_001 def"]


def test_a_job_that_has_an_id_that_came_again_is_not_ours(tmp_path: Path) -> None:
    launch = sent(tmp_path / "slurm")
    assert live(tmp_path / "slurm", queued(launch, comment="somebody else's")) == []


def test_a_copied_folder_has_nothing_of_its_originals_jobs(tmp_path: Path) -> None:
    launch = sent(tmp_path / "slurm")
    shutil.copytree(tmp_path / "slurm", tmp_path / "copy")
    assert live(tmp_path / "copy", queued(launch), queued(launch, 1)) == []
    assert find(open_launches(tmp_path / "copy"), [queued(launch, reason="DependencyNeverSatisfied")]).stuck == []


def test_a_moved_folder_keeps_its_jobs(tmp_path: Path) -> None:
    launch = sent(tmp_path / "slurm")
    task = queued(launch)
    shutil.move(tmp_path / "slurm", tmp_path / "moved")
    assert live(tmp_path / "moved", task) == ["run_000 abc"]


def test_an_array_whose_id_was_never_written_down_is_found_by_its_token(tmp_path: Path) -> None:
    launch = sent(tmp_path / "slurm")
    launch.records[0].job = None
    launch.save()
    assert live(tmp_path / "slurm", queued(launch)) == ["run_000 abc"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"arrays": 3, "delivered": true, "closed": false}', "\0"])
def test_a_launch_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    launch = sent(tmp_path)
    (launch.folder / "launch.json").write_text(text)
    with pytest.raises(UnreadableLaunch) as fault:
        open_launches(tmp_path)
    assert str(fault.value).startswith(f"{launch.folder}/launch.json cannot be read (")


RUN = Run("run_000", {}, {}, "lora_finetune_single_device", {}, "abc")


def test_a_queued_stage_keeps_the_name_that_it_was_sent_by() -> None:
    plain = _keys(RUN, b"files", ["limit=5"], "", {})
    again = _keys(RUN, b"files", ["limit=5"], "again-7", {})
    assert plain["train"] == "run_000 abc" and again["train"] == "run_000 abc again-7"
    assert plain["eval"].startswith("run_000 abc ") and again["eval"].startswith("run_000 abc again-7 ")
    assert _keys(RUN, b"files", ["limit=5"], "", again) == again  # which is queued, and asked for once more
    assert _keys(RUN, b"other files", ["limit=5"], "", again)["eval"] not in (again["eval"], plain["eval"])
