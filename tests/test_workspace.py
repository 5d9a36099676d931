"""The one writer: all or nothing, whatever is in the way and whenever it is killed."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cruijff_kit import workspace
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.workspace import Change, locked, recover, write

NOBODY = 65534
DISK = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.chmod", "os.scandir", "os.listdir", "shutil.rmtree")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment's folder as an earlier generate left it, with files of the user's."""
    return furnish(tmp_path / "experiment")


def furnish(folder: Path) -> Path:
    for name, text in {
        "experiment.yaml": "the user's",
        "configs/notes.txt": "the user's",
        "configs/train_000.yaml": "old 0",
        "configs/train_001.yaml": "old 1",
        "configs/train_002.yaml": "old 2",
        "scripts/train_sweep.sh": "old script",
        "results/run_000/hf_model/epoch_0/model.safetensors": "the user's",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "results/run_000/checkpoints").symlink_to("/models/old")
    return folder


def change(folder: Path) -> Change:
    """Files new, changed, and in new folders; links new and changed; removals of what is there and of what is not."""
    files = {
        "configs/train_000.yaml": "new 0",
        "configs/train_003.yaml": "new é",
        "configs/deep/er/eval_000.py": "",
        "scripts/train_sweep.sh": "new script",
    }
    links = {"results/run_000/checkpoints": "/models/new", "results/run_003/checkpoints": "/models/new"}
    removals = ("configs/train_001.yaml", "configs/train_002.yaml", "configs/train_009.yaml", "no/such/folder")
    return Change(
        {folder / name: text for name, text in files.items()},
        {folder / name: target for name, target in links.items()},
        tuple(folder / name for name in removals),
    )


def state(folder: Path) -> dict[str, str]:
    """What lies in the folder: text of files and targets of links, by path; what is executable has a star."""
    found = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            star = "*" if not path.is_symlink() and path.stat().st_mode & stat.S_IXUSR else ""
            found[f"{path.relative_to(folder)}{star}"] = path.read_text() if not path.is_symlink() else ""
        for path in (entry for entry in Path(place).iterdir() if entry.is_symlink()):
            found[str(path.relative_to(folder))] = f"-> {os.readlink(path)}"
    return {name: text for name, text in found.items() if name != ".cruijff-kit/lock"}


def make(folder: Path, what: Change | None = None) -> None:
    with locked(folder / ".cruijff-kit"):
        write(change(folder) if what is None else what, folder, folder / ".cruijff-kit")


NEW = {
    "experiment.yaml": "the user's",
    "configs/notes.txt": "the user's",
    "configs/train_000.yaml": "new 0",
    "configs/train_003.yaml": "new é",
    "configs/deep/er/eval_000.py": "",
    "scripts/train_sweep.sh*": "new script",
    "results/run_000/hf_model/epoch_0/model.safetensors": "the user's",
    "results/run_000/checkpoints": "-> /models/new",
    "results/run_003/checkpoints": "-> /models/new",
}


# Writing


def test_a_change_is_made_and_nothing_else(folder):
    make(folder)
    assert state(folder) == NEW


def test_a_change_that_was_made_can_be_made_again(folder):
    make(folder)
    make(folder)
    assert state(folder) == NEW


def test_an_empty_change_changes_nothing(folder):
    before = state(folder)
    make(folder, Change())
    assert state(folder) == before


def test_a_written_file_has_the_mode_of_any_new_file(folder):
    os.umask(old := os.umask(0))
    make(folder)
    assert stat.S_IMODE((folder / "configs/train_003.yaml").stat().st_mode) == 0o666 & ~old


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(folder):
    (folder / "configs/train_000.yaml").unlink()
    (folder / "configs/train_000.yaml").symlink_to(folder / "experiment.yaml")
    make(folder)
    assert state(folder) == NEW


def test_a_folder_that_is_a_link_is_written_through(folder):
    os.rename(folder / "configs", folder.parent / "elsewhere")
    (folder / "configs").symlink_to(folder.parent / "elsewhere")
    make(folder)
    assert (folder.parent / "elsewhere/train_000.yaml").read_text() == "new 0"
    assert (folder / "configs").is_symlink()


def test_a_folder_that_is_a_link_to_another_filesystem_is_written_through(folder):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == folder.stat().st_dev:
        pytest.skip("there is no other filesystem to write to")
    with tempfile.TemporaryDirectory(dir=elsewhere) as other:
        for name in ("configs", "results"):
            shutil.copytree(folder / name, Path(other, name), symlinks=True)
            shutil.rmtree(folder / name)
            (folder / name).symlink_to(Path(other, name))
        make(folder)
        assert sorted(path.name for path in Path(other, "configs").iterdir()) == ["deep", "notes.txt", "train_000.yaml", "train_003.yaml"]
        assert os.readlink(Path(other, "results/run_000/checkpoints")) == "/models/new"
        assert sorted(path.name for path in Path(other, "results/run_000").iterdir()) == ["checkpoints", "hf_model"]


def test_what_a_change_needs_is_what_is_not_so_already(folder):
    whole = change(folder)
    needed = whole.needed()
    assert needed == Change(whole.files, whole.links, tuple(folder / f"configs/train_00{number}.yaml" for number in (1, 2)))
    make(folder, needed)
    assert state(folder) == NEW
    assert whole.needed() == Change({}, {}, ())
    assert not whole.needed()
    (folder / "configs/train_000.yaml").write_text("edited")
    (folder / "results/run_003/checkpoints").unlink()
    assert whole.needed() == Change(
        {folder / "configs/train_000.yaml": "new 0"}, {folder / "results/run_003/checkpoints": "/models/new"}, ()
    )


def test_what_differs_is_what_a_change_would_overwrite_or_remove(folder):
    names = ["configs/train_000.yaml", "scripts/train_sweep.sh", "configs/train_001.yaml", "configs/train_002.yaml"]
    assert change(folder).needed().differing() == [folder / name for name in names]
    make(folder)
    assert change(folder).needed().differing() == []
    (folder / "configs/train_003.yaml").write_bytes(b"\xff")
    (folder / "scripts/train_sweep.sh").unlink()
    (folder / "scripts/train_sweep.sh").symlink_to("/nowhere")
    assert change(folder).needed().differing() == [folder / "configs/train_003.yaml", folder / "scripts/train_sweep.sh"]


# What is in the way


def refused(folder: Path, what: Change | None = None) -> str:
    """Why the change cannot be made; the folder is as it was."""
    before = state(folder)
    with pytest.raises(CruijffKitError) as error:
        make(folder, what)
    assert state(folder) == before
    with locked(folder / ".cruijff-kit"):
        recover(folder / ".cruijff-kit")
    assert state(folder) == before
    return str(error.value)


@pytest.mark.parametrize("name", ["configs/train_000.yaml", "configs/deep/er/eval_000.py", "results/run_003/checkpoints"])
def test_a_folder_in_the_place_of_a_file_or_link(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir(parents=True)
    (folder / name / "mine").touch()
    assert refused(folder) == f"{folder}: nothing was written: {folder}/{name} is in the way"


def test_a_file_in_the_place_of_a_link(folder):
    (folder / "results/run_000/checkpoints").unlink()
    (folder / "results/run_000/checkpoints").write_text("mine")
    assert refused(folder) == f"{folder}: nothing was written: {folder}/results/run_000/checkpoints is in the way"


@pytest.mark.parametrize("name", ["configs", "scripts", "configs/deep", "results/run_003"])
def test_a_file_in_the_place_of_a_folder(folder, name):
    if (folder / name).exists():
        shutil.rmtree(folder / name)
    (folder / name).write_text("mine")
    assert refused(folder).startswith(f"{folder}: nothing was written: {folder}/{name} ")


@pytest.mark.parametrize("name", ["configs", "configs/deep", "results/run_003"])
def test_a_link_to_nowhere_in_the_place_of_a_folder(folder, name):
    if (folder / name).exists():
        shutil.rmtree(folder / name)
    (folder / name).symlink_to("/no/such/folder")
    assert refused(folder).startswith(f"{folder}: nothing was written: ")


def test_a_folder_in_the_place_of_a_file_that_is_to_be_removed(folder):
    (folder / "configs/train_001.yaml").unlink()
    (folder / "configs/train_001.yaml").mkdir()
    (folder / "configs/train_001.yaml/mine").touch()
    assert refused(folder).startswith(f"{folder}: nothing was written: ")


@pytest.mark.parametrize("place", ["../outside", "configs/../../outside"])
@pytest.mark.parametrize("kind", ["file", "link", "removal"])
def test_nothing_outside_the_folder_is_written_linked_or_removed(folder, place, kind):
    outside = folder / place
    if kind == "removal":
        (folder.parent / "outside").write_text("not ours")
    changes = {"file": Change({outside: "x"}), "link": Change({}, {outside: "/models/new"}), "removal": Change({}, {}, (outside,))}
    with pytest.raises((CruijffKitError, ValueError)):
        make(folder, changes[kind])
    assert os.path.lexists(outside) == (kind == "removal")


def in_a_child(act: Callable[[], None]) -> int:
    """Runs `act` in a process of its own; what os.waitpid says of it, with 0 for a normal end and 256 for an exception."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A furnished folder of a user who is not root, and where that user can get at it."""
    top = Path(tempfile.mkdtemp(prefix="cruijff-kit-test-"))
    top.chmod(0o755)
    folder = furnish(top / "experiment")
    (folder / ".cruijff-kit").mkdir()
    (folder / ".cruijff-kit/lock").touch()
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(top)


def refused_to_nobody(folder: Path, what: Change | None = None) -> str:
    """Like `refused`, for a user whom file modes bind."""

    def act() -> None:
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            make(folder, what)
            said = "it was written"
        except CruijffKitError as error:
            said = str(error)
        except Exception as error:  # to be seen in the test
            said = repr(error)
        os.write(end, said.encode())

    before = state(folder)
    start, end = os.pipe()
    in_a_child(act)
    os.close(end)
    said = b"".join(iter(lambda: os.read(start, 4096), b"")).decode()
    os.close(start)
    assert state(folder) == before
    return said


@pytest.mark.parametrize("name", ["configs", "scripts", "results/run_000", "results", "configs/deep"])
def test_a_folder_that_is_not_writable(nobodys, name):
    (nobodys / name).mkdir(exist_ok=True)
    (nobodys / name).chmod(0o555)
    assert refused_to_nobody(nobodys) == f"{nobodys}: nothing was written: {nobodys}/{name} is not writable"


def test_a_folder_that_nothing_can_be_removed_from(nobodys):
    (nobodys / "configs").chmod(0o555)
    what = Change({nobodys / "scripts/train_sweep.sh": "new"}, {}, (nobodys / "configs/train_001.yaml",))
    assert refused_to_nobody(nobodys, what) == f"{nobodys}: nothing was written: {nobodys}/configs is not writable"


def test_a_folder_whose_hidden_part_is_not_writable(nobodys):
    (nobodys / ".cruijff-kit").chmod(0o555)
    assert refused_to_nobody(nobodys).startswith(f"{nobodys}: nothing was written: ")


def test_an_experiment_that_is_not_writable_at_all(nobodys):
    shutil.rmtree(nobodys / ".cruijff-kit")
    for path in (nobodys, *nobodys.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o555)
    assert refused_to_nobody(nobodys).startswith(f"{nobodys}: nothing was written: ")


def test_a_disk_that_takes_no_more(folder):
    """A limit on the size of files fails as a full disk does: in the middle of writing one."""

    def act() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(CruijffKitError, match="nothing was written: .*File too large"):
            make(folder, Change({folder / "configs/train_000.yaml": "new", folder / "configs/big": "x" * 200_000}))

    before = state(folder)
    assert in_a_child(act) == 0
    assert state(folder) == before
    make(folder)
    assert state(folder) == NEW


# Killed


def killed(moment: int, act: Callable[[], None]) -> bool:
    """Runs `act` in a process that is killed before its disk operation or line of workspace.py number `moment`."""

    def doomed() -> None:
        passed = -1

        def count(*_: object) -> None:
            nonlocal passed
            passed += 1
            if passed == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def trace(frame, event, argument):
            if frame.f_code.co_filename != workspace.__file__:
                return None
            if event == "line":
                count()
            return trace

        sys.addaudithook(lambda event, arguments: count() if event in DISK else None)
        sys.settrace(trace)
        act()
        sys.settrace(None)

    status = in_a_child(doomed)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def moments(
    tmp_path: Path, act: Callable[[Path], None], prepare: Callable[[Path], object] = furnish, step: int = 1
) -> Iterator[tuple[int, Path]]:
    """A folder for each moment at which `act` can be killed, as it is then."""
    template = tmp_path / "template"
    prepare(template)
    for moment in range(0, 10_000, step):
        folder = tmp_path / f"killed_{moment}"
        shutil.copytree(template, folder, symlinks=True)
        if not killed(moment, lambda: act(folder)):
            assert moment > 50
            return
        yield moment, folder
        shutil.rmtree(folder)


def test_a_killed_writer_leaves_the_old_or_after_recovery_the_new(tmp_path):
    old = state(furnish(tmp_path / "old"))
    ends, stuck = [], {}
    for moment, folder in moments(tmp_path, make):
        try:
            with locked(folder / ".cruijff-kit"):
                recover(folder / ".cruijff-kit")
        except Exception as error:
            stuck[moment] = repr(error)
            continue
        end = state(folder)
        assert end in (old, NEW), f"killed at {moment}"
        ends.append(end == NEW)
    assert stuck == {}
    assert ends == sorted(ends)
    assert {*ends} == {False, True}


def test_a_recovery_that_is_killed_is_finished_by_the_next(tmp_path):
    def committed(folder: Path) -> None:
        """Killed at the first move into place: from there on the change is to be finished."""
        furnish(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", lambda *paths: os.kill(os.getpid(), signal.SIGKILL))
            assert in_a_child(lambda: make(folder)) == signal.SIGKILL
        assert (folder / ".cruijff-kit/pending").is_dir()

    stuck = {}
    for moment, folder in moments(tmp_path, lambda folder: recover(folder / ".cruijff-kit"), committed):
        try:
            recover(folder / ".cruijff-kit")
        except Exception as error:
            stuck[moment] = repr(error)
            continue
        assert state(folder) == NEW, f"killed at {moment}"
    assert stuck == {}


def test_the_next_change_finishes_what_a_killed_writer_left(tmp_path):
    stuck = {}
    for moment, folder in moments(tmp_path, make, step=7):
        try:
            make(folder, Change({folder / "configs/train_000.yaml": "newest"}))
        except Exception as error:
            stuck[moment] = repr(error)
            continue
        assert (folder / "configs/train_000.yaml").read_text() == "newest"
        assert not (folder / ".cruijff-kit/pending").exists()
    assert stuck == {}


def test_a_folder_that_was_moved_before_the_recovery_is_finished_where_it_is(folder, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: os.kill(os.getpid(), signal.SIGKILL))
        assert in_a_child(lambda: make(folder)) == signal.SIGKILL
    moved = tmp_path / "moved"
    folder.rename(moved)
    recover(moved / ".cruijff-kit")
    assert state(moved) == NEW


def test_there_is_nothing_to_recover_where_nothing_was_begun(folder):
    before = state(folder)
    recover(folder / ".cruijff-kit")
    assert state(folder) == before


def test_what_was_laid_down_and_not_committed_is_thrown_away(folder):
    before = state(folder)
    staging = folder / ".cruijff-kit/pending.tmp"
    staging.mkdir(parents=True)
    (staging / "0").write_text("new")
    (staging / "change.json").write_text(json.dumps({"moves": ["configs/train_000.yaml"], "removals": []}))
    recover(folder / ".cruijff-kit")
    assert state(folder) == before


# The lock


def test_the_lock_keeps_others_out_until_it_is_released(folder):
    hidden = folder / ".cruijff-kit"
    with locked(hidden), (hidden / "lock").open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (hidden / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_killed_holder_of_the_lock_keeps_nobody_out(folder):
    def act() -> None:
        with locked(folder / ".cruijff-kit"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(act) == signal.SIGKILL
    with (folder / ".cruijff-kit/lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", [".cruijff-kit", ".cruijff-kit/lock"])
def test_something_else_in_the_place_of_the_lock_is_a_fault_of_the_users(folder, name):
    if name == ".cruijff-kit":
        (folder / name).write_text("mine")
    else:
        (folder / name).mkdir(parents=True)
    with pytest.raises(CruijffKitError, match="cruijff-kit"), locked(folder / ".cruijff-kit"):
        pass
