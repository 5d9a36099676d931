"""Good experiment files, spoiled at random: every one is generated, or refused in words, and nothing else is touched.

FUZZ_EXAMPLES=20000 makes a long run of other examples each time; without it a few, the same each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from cruijff_kit.cli import main
from tests.mutations import spoiled_text, spoiled_values
from tests.tiny_experiment import specification, write_experiment

COMMAND = "generate"
SECONDS = 5.0

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
EXAMPLE_FOLDERS = Path(__file__).resolve().parent.parent / "examples"


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=EXAMPLES or examples, derandomize=not EXAMPLES, database=None, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
    )


def rich() -> dict[str, Any]:
    """An experiment that uses all of the language."""
    spec = specification("model")
    spec["experiment"] |= {"hypothesis": "Yes: é", "researcher": "R", "notes": "two\nlines", "date": "2025-10-22", "tags": ["a", "b"]}
    spec["variables"] = {
        "adapter": [{"lora_rank": 2, "lora_alpha": 4}, {"lora_rank": 4, "lora_alpha": 8, "optimizer.weight_decay": 0.1}],
        "dataset": ["data/train.jsonl", {"_component_": "torchtune.datasets.instruct_dataset", "source": "json", "data_files": "data/train.jsonl", "split": "train"}],
        "model.lora_dropout": [0.0, 0.1],
    }
    spec["exclude"] = [{"lora_rank": 2, "model.lora_dropout": 0.1}]
    spec["controls"] = {
        "learning_rate": "${div:1e-2,${lora_rank}}",
        "epochs": "${min:${lora_rank},3}",
        "seed": 1,
        "max_seq_len": 128,
        "_override": {"metric_logger": {"_component_": "torchtune.training.metric_logging.StdoutLogger"}, "checkpointer": {"checkpoint_dir": "${output_dir}/checkpoints"}},
    }
    task = {"file": "tasks.py", "function": "capitalize"}
    spec["evaluation"] |= {"tasks": [{"name": "exact", **task}, {"name": "includes", **task, "args": {"scorer": "includes"}}], "baseline": True, "limit": 5, "dtype": "fp32"}
    spec["output"] = {"configs_dir": "made/configs", "results_dir": "made/results", "eval_results_dir": "scores"}
    return spec


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Four good experiments; the working directory and HOME are below the same folder."""
    root = Path(os.path.realpath(tmp_path_factory.mktemp("fuzz")))
    write_experiment(root / "good" / "tiny", "model")
    write_experiment(root / "good" / "rich", "model", rich())
    for name in ("lora_rank_with_eval", "smollm2_capitalize"):
        shutil.copytree(EXAMPLE_FOLDERS / name, root / "good" / name, ignore=lambda *_: ["configs", "scripts", "results", "eval_results", ".cruijff-kit"])
    for folder in (*(root / "good" / name / "model" for name in ("tiny", "rich")), root / "home" / "SmolLM2-135M-Instruct"):
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text("")
    (root / "cwd").mkdir()
    (root / "canary.jsonl").write_text('{"input": "x", "output": "y"}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "cwd")
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("CRUIJFF_KIT_CACHE", str(root / "home"))
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setattr(sys, "stdin", io.StringIO())
        yield Place(root)


class TooSlow(BaseException):
    pass


class Place:
    """Where the spoiled experiments are generated, one after the other."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "experiment"
        self.succeeded = 0

    def good(self, name: str) -> bytes:
        return (self.root / "good" / name / "experiment.yaml").read_bytes()

    def check(self, name: str, text: bytes) -> int:
        """The exit code for the experiment `name` with `text` for its experiment.yaml, all promises checked."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.root / "good" / name, self.folder)
        (self.folder / "experiment.yaml").write_bytes(text)
        before = self.state()
        code = self.run()
        after = self.state()
        if code == 1:
            assert after == before
            return code
        self.succeeded += 1
        del before["experiment"]  # whose time is another by now
        assert {path: after.get(path) for path in before} == before
        assert self.run() == 0
        lock = "experiment/.cruijff-kit/lock"
        assert {**self.state(), lock: after.get(lock)} == after
        return code

    def run(self) -> int:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), time_limit(), watched(self.folder):
            code = main([COMMAND, str(self.folder), "--yes"])
            assert code in (0, 1), out.getvalue()
        assert "Traceback" not in out.getvalue()
        assert code == 0 or out.getvalue().strip()
        assert len(out.getvalue()) < 1_000_000
        return code

    def state(self) -> dict[str, Any]:
        """Everything below the root but the good experiments, with its content and time."""
        found = {}
        for folder, names, files in os.walk(self.root):
            if folder == str(self.root):
                names.remove("good")
            for name in [*names, *files]:
                path = os.path.join(folder, name)
                there = os.lstat(path)
                content = os.readlink(path) if os.path.islink(path) else Path(path).read_bytes() if name in files else None
                found[os.path.relpath(path, self.root)] = (there.st_mtime_ns, content)
        return found


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Ends what takes more than its seconds of work, or a minute of waiting."""

    def stop(*_: object) -> None:
        raise TooSlow

    old = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), old):
            signal.signal(number, handler)


_watching: list[str] = []  # an audit hook stays for good: it does nothing while this is empty
_CHANGES = ("os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.chown", "os.utime", "os.rename", "os.symlink", "os.link")
_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """What docs.python.org/3/library/audit_events.html says of each event."""
    if not _watching:
        return
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _changes(event, os.path.realpath(arguments[0]))
    elif event in _CHANGES:
        folder = os.readlink(f"/proc/self/fd/{arguments[-1]}") if arguments[-1] >= 0 else ""
        for path in arguments[event == "os.symlink" : 2 if event in ("os.rename", "os.symlink", "os.link") else 1]:
            head, tail = os.path.split(os.path.join(folder, path))  # a link itself is renamed or removed, not what it names
            _changes(event, os.path.join(os.path.realpath(head), tail))
    elif event in _PROCESSES:
        _watching.append(f"{event} {arguments}")


def _changes(event: str, path: str) -> None:
    if not f"{path}/".startswith(f"{_watching[0]}/"):
        _watching.append(f"{event} {path}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Fails if a file outside `folder` is opened for writing, made or removed, or a process started."""
    _watching[:] = [str(folder)]
    try:
        yield
    finally:
        outside = _watching[1:]
        _watching.clear()
    assert outside == []


GOOD = ("tiny", "rich", "lora_rank_with_eval", "smollm2_capitalize")


@pytest.mark.parametrize("name", GOOD)
def test_the_good_experiments_are_good(name, place):
    assert place.check(name, place.good(name)) == 0


@pytest.mark.parametrize("name", GOOD)
def test_spoiled_values_are_generated_or_refused(name, place):
    place.succeeded = 0
    good = yaml.safe_load(place.good(name))

    @fuzz(80)
    @given(spoiled_values(good))
    def check(text):
        place.check(name, text)

    check()
    print(f"\n{name}: {place.succeeded} generated")
    assert place.succeeded


@pytest.mark.parametrize("name", GOOD)
def test_spoiled_text_is_generated_or_refused(name, place):
    @fuzz(40)
    @given(spoiled_text(place.good(name)))
    def check(text):
        place.check(name, text)

    check()


def big(spec: dict[str, Any], **sections: Any) -> bytes:
    return json.dumps({**spec, **sections}).encode()


def many(count: int) -> dict[str, int]:
    return {f"key{number}": number for number in range(count)}


PLAIN = {"lora_rank": 2, "lora_alpha": 4, "dataset": "data/train.jsonl"}
LARGE: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "text": lambda spec: yaml.dump(spec).encode() + b"# " + b"x" * 10_000_000,
    "allowed comments": lambda spec: yaml.dump(spec).encode() + b"# x\n" * 240_000,
    "brackets": lambda spec: b"a: " + b"[" * 500_000 + b"]" * 500_000,
    "braces": lambda spec: b"a: " + b"{a: " * 200_000,
    "dashes": lambda spec: b"- " * 450_000,
    "dense": lambda spec: yaml.dump(spec).encode() + b"exclude: [" + b"1," * 440_000 + b"1]",
    "laughs": lambda spec: b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in b"abcdefgh"),
    "notes": lambda spec: big(spec, experiment={**spec["experiment"], "notes": "x\n" * 300_000}),
    "tags": lambda spec: big(spec, experiment={**spec["experiment"], "tags": ["x"] * 90_000}),
    "sections": lambda spec: big(spec, **many(45_000)),
    "controls": lambda spec: big(spec, controls=many(40_000)),
    "override": lambda spec: big(spec, controls={**spec["controls"], "_override": {"model": many(20_000), **many(20_000)}}),
    "dotted": lambda spec: big(spec, controls={**spec["controls"], **{f"model.k{number}": 1 for number in range(40_000)}}),
    "values": lambda spec: big(spec, variables={"seed": list(range(90_000))}),
    "bad values": lambda spec: big(spec, variables={"seed": ["x"] * 90_000}),
    "pairs": lambda spec: big(spec, variables={"pair": [{"seed": number} for number in range(30_000)]}),
    "variables": lambda spec: big(spec, variables={f"v{number}": [{"seed": 1}] for number in range(20_000)}),
    "exclude": lambda spec: big(spec, exclude=[{"lora_rank": number} for number in range(25_000)]),
    "generate": lambda spec: big(spec, evaluation={**spec["evaluation"], "generate": many(40_000)}),
    "tasks": lambda spec: big(spec, evaluation={**spec["evaluation"], "tasks": [{"name": f"t{number}", "file": "tasks.py", "function": "capitalize"} for number in range(10_000)]}),
    "args": lambda spec: big(spec, evaluation={**spec["evaluation"], "tasks": [{"name": "t", "file": "tasks.py", "function": "capitalize", "args": many(40_000)}]}),
    "dataset": lambda spec: big(spec, controls={**spec["controls"], "dataset": many(40_000)}),
    "interpolations": lambda spec: big(spec, controls={**spec["controls"], "lora_alpha": "${mul:" + "1," * 300_000 + "1}"}),
    "allowed controls": lambda spec: big(spec, controls=many(990)),
    "allowed override": lambda spec: big(spec, controls={**spec["controls"], "_override": {"model": many(990), **many(990)}}),
    "allowed dotted": lambda spec: big(spec, controls={**spec["controls"], **{f"model.k{number}": 1 for number in range(990)}}),
    "allowed bad values": lambda spec: big(spec, variables={"seed": ["x"] * 45_000}),
    "allowed exclusions": lambda spec: big(spec, variables={"seed": list(range(1000))}, controls=PLAIN, exclude=[{"seed": number} for number in range(990)]),
    "allowed tasks": lambda spec: big(spec, evaluation={**spec["evaluation"], "tasks": [{"name": f"t{number}", "file": "tasks.py", "function": "capitalize"} for number in range(990)]}),
    "allowed args": lambda spec: big(spec, evaluation={**spec["evaluation"], "tasks": [{"name": "t", "file": "tasks.py", "function": "capitalize", "args": many(990)}]}),
    "allowed interpolations": lambda spec: big(spec, controls={**spec["controls"], "lora_alpha": "${mul:" + "1," * 4_000 + "1}", "dataset": {"x": "${min:" + "1," * 4_000 + "1}"}}),
    "allowed points": lambda spec: big(spec, variables={"seed": list(range(300))}, controls=PLAIN),
    "paths": lambda spec: big(spec, output={"results_dir": "a/" * 400_000}),
}  # fmt: skip


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_experiment_is_generated_or_refused_in_time(kind, place):
    text = LARGE[kind](yaml.safe_load(place.good("tiny")))
    assert place.check("tiny", text) in (0, 1)
