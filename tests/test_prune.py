"""Epochs that nothing needs any more: what a training removes by itself, and `cruijff-kit prune`."""

from __future__ import annotations

import json
import os
import pty
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cruijff_kit import atomic, checkpoint, disk_space, epochs, ownership, paths, resume, workspace
from cruijff_kit.cli import main
from cruijff_kit.generate import change, generate
from cruijff_kit.job_configs import Filler, Point
from cruijff_kit.plan import plan
from tests.recipe_server import WRITING
from tests.test_generate import edit, tiny

DATA = 500_000  # bytes of the one tensor of a model


def write_epoch(checkpoints: Path, number: int) -> Path:
    """A whole model, as torchtune leaves it."""
    folder = checkpoints / f"epoch_{number}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    header = json.dumps({"weight": {"dtype": "U8", "shape": [DATA], "data_offsets": [0, DATA]}}).encode()
    shard = "model-00001-of-00001.safetensors"
    (folder / shard).write_bytes(struct.pack("<Q", len(header)) + header + bytes(DATA))
    (folder / checkpoint.INDEX).write_text(json.dumps({"weight_map": {"weight": shard}}))
    return folder


def write_state(checkpoints: Path, epochs_run: int) -> None:
    """The recipe state after so many epochs, which goes with the last of them."""
    folder = checkpoints / resume.STATE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / resume.FILE).write_bytes(bytes(DATA))
    resume.mark(checkpoints, epochs_run, [f"epoch_{epochs_run - 1}/model-00001-of-00001.safetensors"], "the config\n")


def finish(folder: Path, run: str, epochs_run: int = 3) -> Path:
    """The results of a training that ended well; its folder of checkpoints."""
    results = folder / "results" / run
    results.mkdir(parents=True, exist_ok=True)
    (results / checkpoint.CONFIG_COPY).write_text((folder / f"configs/train_{run[4:]}.yaml").read_text())
    checkpoints = results / "hf_model"
    for number in range(epochs_run):
        write_epoch(checkpoints, number)
        if number + 1 < epochs_run:
            write_state(checkpoints, number + 1)
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny experiment of two runs of three epochs, generated."""
    folder = tiny(tmp_path / "experiment")
    edit(folder, controls={"epochs": 3, "device": "cuda"})
    generate(folder)
    return folder


# What a training that goes on removes


def earlier(checkpoints: Path, resumable: bool = True, kept: list[int] | None = [2], check: Callable[[], None] = lambda: None) -> epochs.EarlierEpochs:
    return epochs.EarlierEpochs(checkpoints, kept, resumable, check)


def test_an_epoch_stays_until_the_state_of_a_later_one_is_whole(tmp_path: Path) -> None:
    write_epoch(tmp_path, 0)
    write_state(tmp_path, 1)
    newer = write_epoch(tmp_path, 1)
    resume.keep_state(tmp_path)
    earlier(tmp_path).remove_meanwhile()
    assert names(tmp_path) == ["epoch_0", "epoch_1", "recipe_state_before"]
    write_state(tmp_path, 2)
    earlier(tmp_path).remove_meanwhile()
    assert names(tmp_path) == ["epoch_1", "recipe_state"]
    assert resume.last_state(tmp_path).weights == [f"{newer.name}/model-00001-of-00001.safetensors"]


def test_of_a_recipe_that_is_not_ours_an_epoch_goes_once_a_later_model_is_whole(tmp_path: Path) -> None:
    write_epoch(tmp_path, 0)
    later = write_epoch(tmp_path, 1)
    (later / checkpoint.INDEX).rename(later / "index")  # of several shards the first alone is there
    earlier(tmp_path, resumable=False).remove_meanwhile()
    assert names(tmp_path) == ["epoch_0", "epoch_1"]
    (later / "index").rename(later / checkpoint.INDEX)
    earlier(tmp_path, resumable=False).remove_meanwhile()
    assert names(tmp_path) == ["epoch_1"]


def test_epochs_that_are_kept_stay(tmp_path: Path) -> None:
    for number in range(4):
        write_epoch(tmp_path, number)
    write_state(tmp_path, 3)
    earlier(tmp_path, kept=[0, 3]).remove_meanwhile()
    assert names(tmp_path) == ["epoch_0", "epoch_2", "epoch_3", "recipe_state"]
    earlier(tmp_path, kept=[0, 3]).remove_at_the_end(3)
    assert names(tmp_path) == ["epoch_0", "epoch_3"]


def test_nothing_is_removed_where_all_epochs_are_kept(tmp_path: Path) -> None:
    for number in range(3):
        write_epoch(tmp_path, number)
    write_state(tmp_path, 2)
    before = names(tmp_path)
    earlier(tmp_path, kept=None).remove_meanwhile()
    earlier(tmp_path, kept=None).remove_at_the_end(2)
    assert names(tmp_path) == before


def test_nothing_is_removed_of_a_run_that_was_taken_over(tmp_path: Path) -> None:
    checkpoints = tmp_path / "hf_model"
    for number in range(3):
        write_epoch(checkpoints, number)
    with ownership.owned(tmp_path / "training") as owner:
        other = replace(owner.me, token="another")
        atomic.write_json(owner.path, asdict(other))
        with pytest.raises(ownership.TakenOver):
            earlier(checkpoints, resumable=False, check=owner.check).remove_meanwhile()
        with pytest.raises(ownership.TakenOver):
            earlier(checkpoints, check=owner.check).remove_at_the_end(2)
    assert names(checkpoints) == ["epoch_0", "epoch_1", "epoch_2"]


def test_only_folders_of_epochs_in_the_checkpoints_folder_itself_are_removed_also_on_another_disk(tmp_path: Path) -> None:
    disk, checkpoints = tmp_path / "disk", tmp_path / "hf_model"
    for number in range(1, 4):
        write_epoch(disk, number)
    moved = write_epoch(tmp_path / "elsewhere", 0)
    (disk / "epoch_0").symlink_to(moved)
    (disk / "epoch_1_best").mkdir()
    checkpoints.symlink_to(disk)
    earlier(checkpoints, kept=[3]).remove_at_the_end(3)
    assert names(checkpoints) == ["epoch_0", "epoch_1_best", "epoch_3"]
    assert checkpoint.fault(moved) is None
    assert checkpoints.is_symlink()


def test_a_disk_that_refuses_is_said_once_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_epoch(tmp_path, 0)
    write_epoch(tmp_path, 1)
    write_state(tmp_path, 2)
    (tmp_path / ".removed.epoch_0").write_text("in the way")
    removal = earlier(tmp_path)
    for _ in range(3):
        removal.remove_meanwhile()
    assert names(tmp_path) == [".removed.epoch_0", "epoch_0", "epoch_1", "recipe_state"]
    reason = f"[Errno 20] Not a directory: '{tmp_path}/epoch_0' -> '{tmp_path}/.removed.epoch_0'"
    assert capsys.readouterr().err == f"warning: {tmp_path}/epoch_0 could not be removed: {reason}\n"


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Runs `work` in a process that dies before it changes the disk for the `step`th time; whether it did die."""
    child = os.fork()
    if child == 0:
        left = [step]

        def hook(event: str, arguments: object) -> None:
            if event in WRITING - {"open"}:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_at_any_step_of_a_removal_leaves_no_half_epoch_and_the_next_removal_ends_it(tmp_path: Path) -> None:
    image, checkpoints = tmp_path / "image", tmp_path / "hf_model"
    for number in range(3):
        write_epoch(image, number)
    write_state(image, 2)
    steps = 0
    died = True
    while died:
        shutil.copytree(image, checkpoints)
        died = killed_at(steps, earlier(checkpoints).remove_meanwhile)
        assert resume.last_state(checkpoints).epochs_run == 2
        assert all(checkpoint.fault(path) is None for path in checkpoints.glob("epoch_*"))
        earlier(checkpoints).remove_meanwhile()
        assert names(checkpoints) == ["epoch_1", "epoch_2", "recipe_state"]
        shutil.rmtree(checkpoints)
        steps += 1
    assert steps == 6  # rename, three files, the folder; and the last one lived


def test_a_kill_at_any_step_of_the_removal_at_the_end_leaves_a_finished_training(tmp_path: Path) -> None:
    image, checkpoints = tmp_path / "image", tmp_path / "hf_model"
    for number in range(3):
        write_epoch(image, number)
    write_state(image, 2)
    step, died = 0, True
    while died:
        shutil.copytree(image, checkpoints)
        died = killed_at(step, lambda: earlier(checkpoints).remove_at_the_end(2))
        assert all(checkpoint.fault(path) is None for path in checkpoints.glob("epoch_*"))
        state = resume.last_state(checkpoints)
        assert state is None or state.epochs_run == 2
        earlier(checkpoints).remove_at_the_end(2)
        assert names(checkpoints) == ["epoch_2"]
        shutil.rmtree(checkpoints)
        step += 1
    assert step > 12


# How a job learns what stays


def test_the_jobs_are_told_which_epochs_stay_and_the_configs_are_not(folder: Path) -> None:
    written = {path: path.read_text() for path in (folder / "configs").iterdir()}
    assert told(folder) == [None, None]
    edit(folder, output={"keep_checkpoints": "last"})
    assert told(folder) == [[2], [2]]
    generate(folder)  # nothing that it writes differs
    assert {path: path.read_text() for path in (folder / "configs").iterdir()} == written


def told(folder: Path) -> list[list[int] | None]:
    """`kept_epochs` of each point."""
    made = plan(folder)
    config = {"stages": ["train"], "evaluation": {"enabled": False, "baseline": False}}
    points = [Point(OmegaConf.create(config), run, (), ()) for run in made.runs]
    filled = Filler(made, change(made).files, None).prepared(points).points
    return [OmegaConf.to_container(point)["kept_epochs"] for point in filled]


# The command


def test_prune_lists_what_can_go_run_by_run_with_sizes_and_deletes_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = finish(folder, "run_000"), finish(folder, "run_001")
    shutil.rmtree(second / "epoch_0")
    listed = "run_000  epoch_0, epoch_1, recipe_state      1.5 MB\nrun_001  epoch_1, recipe_state               1.0 MB\n2.5 MB to delete\n"
    assert main(["prune", str(folder), "--dry-run"]) == 0
    assert capsys.readouterr() == (listed, "")
    assert names(first) == ["epoch_0", "epoch_1", "epoch_2", "recipe_state"]
    assert main(["prune", str(folder), "--yes"]) == 0
    assert capsys.readouterr() == (f"{listed}✓ Freed 2.5 MB\n", "")
    assert names(first) == names(second) == ["epoch_2"]
    assert main(["prune", str(folder), "--yes"]) == 0
    assert capsys.readouterr() == ("Nothing to delete\n", "")


def test_prune_leaves_the_epochs_that_are_evaluated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = finish(folder, "run_000")
    edit(folder, output={"keep_checkpoints": "last"}, evaluation={"checkpoint": [0]})
    generate(folder, force=True)
    assert told(folder) == [[0, 2], [0, 2]]
    assert main(["prune", str(folder), "--yes"]) == 0
    assert names(checkpoints) == ["epoch_0", "epoch_2"]
    edit(folder, evaluation={"checkpoint": "all"})
    generate(folder, force=True)
    assert told(folder) == [[0, 1, 2], [0, 1, 2]]


def test_prune_takes_only_the_runs_that_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = finish(folder, "run_000"), finish(folder, "run_001")
    assert main(["prune", str(folder), "--yes", "run_001"]) == 0
    assert (len(names(first)), names(second)) == (4, ["epoch_2"])
    assert main(["prune", str(folder), "run_001", "--yes", "run_000"]) == 0
    assert names(first) == ["epoch_2"]
    assert main(["prune", str(folder), "run_007"]) == 1
    assert capsys.readouterr().err == "there is no run_007: the runs are in configs/run_mapping.yaml\n"


def test_without_a_terminal_prune_names_the_flag_and_deletes_nothing(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = finish(folder, "run_000")
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["prune", str(folder)]) == 1
    assert capsys.readouterr().err == "1.5 MB to delete, and no terminal to ask on: say --yes\n"
    assert len(names(checkpoints)) == 4


@pytest.mark.parametrize(("answer", "code", "ends"), [("n", 1, "nothing was deleted"), ("y", 0, "✓ Freed 1.5 MB")])
def test_on_a_terminal_prune_asks_first(folder: Path, answer: str, code: int, ends: str) -> None:
    checkpoints = finish(folder, "run_000")
    terminal, inside = pty.openpty()
    command = [Path(sys.executable).with_name("cruijff-kit"), "prune", folder]
    process = subprocess.Popen(command, stdin=inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    os.write(terminal, f"{answer}\n".encode())
    said, _ = process.communicate(timeout=60)
    os.close(terminal), os.close(inside)
    assert said.splitlines()[1:] == ["1.5 MB to delete", f"Delete them? [y/N] {ends}"]
    assert process.returncode == code
    assert len(names(checkpoints)) == (4 if answer == "n" else 1)


def test_an_unfinished_run_is_left_alone_and_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = finish(folder, "run_000", epochs_run=2)
    assert main(["prune", str(folder), "--yes"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("Nothing to delete\n", "run_000: left alone: its training is not finished: there is no such folder\n")
    assert len(names(checkpoints)) == 3


def test_a_run_that_is_being_trained_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = finish(folder, "run_000")
    held = paths.held(folder, "train", "run_000")
    with workspace.locked(held):
        assert main(["prune", str(folder), "--yes"]) == 0
    atomic.write_json(held / ownership.FILE, asdict(replace(ownership.Owner.here(), host="another")))  # its lock may not reach here
    assert main(["prune", str(folder), "--yes"]) == 0
    assert capsys.readouterr().err == "run_000: left alone: it is being trained\n" * 2
    assert len(names(checkpoints)) == 4


def test_a_run_that_left_the_sweep_and_one_with_a_broken_config_are_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(folder, "run_000"), finish(folder, "run_001")
    edit(folder, variables={"lora_rank": [4]})
    generate(folder, keep_ids=True)
    (folder / "configs/train_001.yaml").write_text("{")
    assert main(["prune", str(folder), "--yes"]) == 0
    out, err = capsys.readouterr()
    assert out == "Nothing to delete\n"
    lines = sorted(err.splitlines())
    assert lines[0] == "run_000: left alone: it has no config any more"
    assert lines[1].startswith("run_001: left alone: its config cannot be read: ")


def test_a_copy_of_the_folder_does_not_prune_the_original(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = finish(folder, "run_000")
    copy = shutil.copytree(folder, folder.parent / "copy", symlinks=True)
    assert main(["prune", str(copy), "--yes"]) == 1
    assert capsys.readouterr().err.startswith(f"the folder was moved or copied: its configs were generated for {folder}\n")
    assert len(names(checkpoints)) == 4


def test_by_another_path_to_the_folder_prune_finds_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(folder, "run_000")
    (folder.parent / "link").symlink_to(folder)
    assert main(["prune", str(folder.parent / "link"), "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("\n1.5 MB to delete\n")


def test_what_was_moved_aside_is_shown_and_deleted_only_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_epoch(folder / "results/run_000.20261124T093000/hf_model", 0)
    write_epoch(folder / "results/run_009.20261124T093000_2/hf_model", 0)  # of a sweep that was longer
    mine = folder / "results/run_000.mine"
    mine.mkdir()
    disk = folder.parent / "disk/hf_model"
    checkpoints = finish(folder, "run_001")
    disk.parent.mkdir()
    shutil.move(checkpoints, disk)
    checkpoints.symlink_to(disk)
    write_epoch(folder.parent / "disk/hf_model.20261124T093000", 1)
    assert main(["prune", str(folder), "--yes"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["run_001", "epoch_0,", "epoch_1,", "recipe_state", "1.5", "MB"]
    assert out[1] == "moved aside by a later training, and deleted only with --asides:"
    asides = ["results/run_000.20261124T093000", f"{disk}.20261124T093000", "results/run_009.20261124T093000_2"]
    assert [line.split() for line in out[2:5]] == [[aside, "0.5", "MB"] for aside in asides]
    assert out[5:] == ["1.5 MB to delete", "✓ Freed 1.5 MB"]
    assert main(["prune", str(folder), "--asides", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["1.5 MB to delete", "✓ Freed 1.5 MB"]
    assert names(folder / "results") == ["run_000.mine", "run_001"]
    assert names(folder.parent / "disk") == ["hf_model"]


def test_as_json_prune_lists_and_deletes_only_with_yes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = finish(folder, "run_000")
    sizes = {name: disk_space.occupied_bytes(checkpoints / name) for name in ("epoch_0", "epoch_1", "recipe_state")}
    expected = {
        "folders": [{"run": "run_000", "path": str(checkpoints / name), "bytes": size, "aside": False} for name, size in sizes.items()],
        "left_alone": {},
        "bytes_to_delete": sum(sizes.values()),
        "bytes_freed": 0,
        "problems": [],
    }
    assert main(["prune", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert len(names(checkpoints)) == 4
    assert main(["prune", str(folder), "--json", "--yes"]) == 0
    assert json.loads(capsys.readouterr().out) == {**expected, "bytes_freed": sum(sizes.values())}
    assert names(checkpoints) == ["epoch_2"]


def test_what_cannot_be_deleted_is_said_and_the_rest_goes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = finish(folder, "run_000")
    (checkpoints / ".removed.epoch_0").write_text("in the way")
    assert main(["prune", str(folder), "--yes"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "✓ Freed 1.0 MB"
    assert err.splitlines()[0] == "results/run_000/hf_model/epoch_0"
    assert err.splitlines()[1].startswith("  could not be deleted: [Errno 20] Not a directory: ")
    assert names(checkpoints) == [".removed.epoch_0", "epoch_0", "epoch_2"]


def test_a_half_removed_epoch_is_listed_and_deleted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = finish(folder, "run_000")
    for name in ("epoch_1", "recipe_state"):
        shutil.rmtree(checkpoints / name)
    (checkpoints / "epoch_0").rename(checkpoints / ".removed.epoch_0")
    assert main(["prune", str(folder), "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["run_000", ".removed.epoch_0", "0.5", "MB"]
    assert names(checkpoints) == ["epoch_2"]


# What is on a disk


def test_what_a_folder_occupies(tmp_path: Path) -> None:
    (tmp_path / "one/two").mkdir(parents=True)
    (tmp_path / "one/a").write_bytes(bytes(1000))
    (tmp_path / "one/two/b").write_bytes(bytes(200))
    os.link(tmp_path / "one/a", tmp_path / "one/two/a")
    (tmp_path / "outside").write_bytes(bytes(5000))
    (tmp_path / "one/link").symlink_to(tmp_path / "outside")
    (tmp_path / "one/up").symlink_to(tmp_path)
    links = sum((tmp_path / "one" / name).lstat().st_size for name in ("link", "up"))
    assert disk_space.occupied_bytes(tmp_path / "one") == 1200 + links
    assert disk_space.occupied_bytes(tmp_path / "none") == 0
    assert disk_space.occupied_bytes(tmp_path / "outside") == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (99, "99 bytes"), (1500, "1.5 kB"), (99_000_000, "99.0 MB"), (100_000_000, "0.1 GB"), (1_640_000_000, "1.6 GB"), (2 * 10**13, "20,000.0 GB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert disk_space.human(size) == text


# With the real torchtune


def test_a_run_that_keeps_the_last_epoch_ends_with_it_alone_and_prune_does_the_same_later(experiment: Path, cruijff: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    edit(experiment, controls={"epochs": 2})
    words = ["run", experiment, "stages=[train]"]
    assert cruijff("generate", experiment).returncode == 0
    kept = cruijff(*words, "lora_rank=2")
    assert kept.returncode == 0, kept.stderr
    edit(experiment, output={"keep_checkpoints": "last"})
    removed = cruijff("run", experiment, "--multirun", "hydra/launcher=staged_local", "stages=[train]", "lora_rank=4")  # in a job, from what was frozen
    assert removed.returncode == 0, removed.stderr
    checkpoints = [experiment / "results" / run / "hf_model" for run in ("run_000", "run_001")]
    assert [names(each) for each in checkpoints] == [["epoch_0", "epoch_1", "recipe_state"], ["epoch_1"]]
    pruned = cruijff("prune", experiment, "--yes")
    assert pruned.returncode == 0, pruned.stderr
    assert pruned.stdout.startswith("run_000  epoch_0, recipe_state  ")
    assert names(checkpoints[0]) == ["epoch_1"]
    again = cruijff(*words, "lora_rank=2")
    assert again.stdout == f"run_000 is trained already: {checkpoints[0]}/epoch_1\n"
