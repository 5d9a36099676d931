"""The prompts of training and evaluation, compared in a process beside the evaluation: what it finds, keeps, and survives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cruijff_kit import parity_probe
from cruijff_kit.parity_probe import Parity
from tests.tiny_llama import make_tiny_llama, tiny_base_config, write_tiny_data

NOT_COMPARED = "the prompts of training and evaluation were not compared: "

COMPONENTS = '''
import os, sys, time

def dies(max_seq_len=None):
    print(f"out of luck, GPUs: {os.environ['CUDA_VISIBLE_DEVICES']!r}", file=sys.stderr, flush=True)
    os._exit(7)

def hangs(max_seq_len=None):
    time.sleep(300)
'''


class Folder:
    """An experiment's folder with the configs of its runs, and a model that each run was trained from and saved as."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.path, self.model, self.hidden = folder, folder / "model", folder / "experiment/.cruijff-kit"
        shutil.copytree(model, self.model)
        self.hidden.mkdir(parents=True)
        self.data = write_tiny_data(self.hidden.parent / "train.jsonl")
        (self.hidden.parent / "components_of_a_user.py").write_text(COMPONENTS)

    def run(self, number: int, rank: int = 4, **tokenizer: Any) -> tuple[Path, Path, Path]:
        """The arguments of start for a run: its config reads the base model by a link of its own, and its model is a copy."""
        results = self.hidden.parent / f"results/run_{number:03d}"
        trained = results / "hf_model/epoch_0"
        trained.mkdir(parents=True, exist_ok=True)
        for path in self.model.iterdir():
            if path.suffix != ".safetensors":
                shutil.copy2(path, trained)
        (trained / "adapter_config.json").write_text(json.dumps({"r": rank}))
        if not (results / "checkpoints").exists():
            (results / "checkpoints").symlink_to(self.model)
        config = {**tiny_base_config(Path("${output_dir}/checkpoints")), "output_dir": str(results)}
        config["model"]["lora_rank"] = rank
        config["dataset"]["data_files"] = str(self.data)
        config["tokenizer"] = tokenizer or config["tokenizer"]
        file = self.hidden.parent / f"train_{number:03d}.yaml"
        file.write_text(yaml.safe_dump(config))
        return file, trained, self.hidden


@pytest.fixture(scope="module")
def chat(tmp_path_factory, tiny_model) -> tuple[Folder, Parity]:
    """A run that is trained on the model's own chat template, and what was found of it."""
    folder = Folder(tmp_path_factory.mktemp("chat"), tiny_model)
    with parity_probe.start(*folder.run(0)) as probe:
        return folder, probe.finish()


QWEN = {
    "_component_": "torchtune.models.qwen2.qwen2_tokenizer",
    "path": "${output_dir}/checkpoints/vocab.json",
    "merges_file": "${output_dir}/checkpoints/merges.txt",
    "special_tokens_path": "${output_dir}/checkpoints/special.json",
    "max_seq_len": None,
}


@pytest.fixture(scope="module")
def other(tmp_path_factory, tiny_model) -> tuple[Folder, Parity]:
    """A run that is trained with torchtune's tokenizer of another family, and what was found of it."""
    folder = Folder(tmp_path_factory.mktemp("other"), tiny_model)
    vocabulary = json.loads((folder.model / "tokenizer.json").read_text())["model"]
    (folder.model / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    (folder.model / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in vocabulary["merges"]))
    names = {"<|begin|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|endoftext|>": 2}
    (folder.model / "special.json").write_text(json.dumps({"added_tokens": [{"content": name, "id": at} for name, at in names.items()]}))
    with parity_probe.start(*folder.run(0, **QWEN)) as probe:
        return folder, probe.finish()


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes every start of a process fail; what is said then."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    return f"{NOT_COMPARED}[Errno 2] No such file or directory: '/nowhere/python'"


def asked(*arguments: Path) -> Parity:
    with parity_probe.start(*arguments) as probe:
        return probe.finish()


def test_nothing_is_said_of_prompts_that_are_the_same(chat):
    assert chat[1] == Parity([], [])


def test_a_difference_is_a_warning_with_both_prompts_and_how_to_mend_it(other):
    folder, found = other
    assert found.notes == []
    assert found.as_dict()["warnings"] == [
        "training and evaluation make different prompts of the same messages: "
        "they part at token 1 (1 in training, 0 in the evaluation); so do 8 of the first 8 rows\n"
        "training    <|im_start|>user\\nCapitalize: apple<|im_end|>\\n⟦<|im_start|>assistant\\nApple<|im_end|>⟧\n"
        "evaluation  <|begin|><|im_start|>system\\nYou are tiny.<|im_end|>\\n<|im_start|>user\\nCapitalize: apple<|im_end|>\\n"
        "<|im_start|>assistant\\n\n"
        "to train on the model's own chat template, add under controls:\n"
        "  _override:\n"
        "    tokenizer:\n"
        "      _component_: cruijff_kit.chat_tokenizer.ChatTemplateTokenizer\n"
        f"      path: {folder.model}"
    ]


def test_the_next_run_of_a_sweep_starts_no_process(chat, other, no_process):
    assert asked(*chat[0].run(1, rank=8)) == Parity([], [])
    assert asked(*other[0].run(1, rank=8, **QWEN)) == other[1]


def spoil(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


CHANGES = {
    "data": lambda folder: spoil(folder.data),
    "template": lambda folder: spoil(folder.model / "chat_template.jinja"),
    "tokenizer": lambda folder: spoil(folder.model / "tokenizer.json"),
    "kept": lambda folder: next((folder.hidden / "parity").iterdir()).write_text('{"warnings": ["a'),
    "kept otherwise": lambda folder: next((folder.hidden / "parity").iterdir()).write_text('{"warnings": []}'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_the_answer_starts_one(chat, no_process, change):
    """Where none can be started, that is no failure of the evaluation."""
    folder = chat[0]
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    change(folder)
    try:
        assert asked(*folder.run(2)) == Parity([], [no_process])
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert asked(*folder.run(2)) == Parity([], [])


def test_one_that_dies_is_a_note_with_its_last_words_and_asked_again(tmp_path, tiny_model):
    folder = Folder(tmp_path, tiny_model)
    arguments = folder.run(0, _component_="components_of_a_user.dies")
    assert asked(*arguments) == Parity([], [f"{NOT_COMPARED}its process ended with exit code 7: out of luck, GPUs: ''"])
    assert not (folder.hidden / "parity").exists()


def process_of(parent: int) -> psutil.Process:
    (process,) = (child for child in psutil.Process(parent).children() if "cruijff_kit.parity_probe" in child.cmdline())
    return process


def test_one_that_hangs_is_ended_and_a_note(tmp_path, tiny_model):
    arguments = Folder(tmp_path, tiny_model).run(0, _component_="components_of_a_user.hangs")
    with parity_probe.start(*arguments, limit_s=2) as probe:
        process = process_of(os.getpid())
        assert probe.finish() == probe.finish() == Parity([], [f"{NOT_COMPARED}that took more than 2 s, and was ended"])
    assert not process.is_running()


def test_it_ends_with_an_evaluation_that_fails(tmp_path, tiny_model):
    arguments = Folder(tmp_path, tiny_model).run(0, _component_="components_of_a_user.hangs")
    with pytest.raises(LookupError), parity_probe.start(*arguments):
        process = process_of(os.getpid())
        raise LookupError
    assert not process.is_running()


PARENT = """
import sys, time
from pathlib import Path
from cruijff_kit import parity_probe

probe = parity_probe.start(*map(Path, sys.argv[1:]))
print("started", flush=True)
time.sleep(300)
"""


def test_it_ends_with_an_evaluation_that_is_killed(tmp_path, tiny_model):
    arguments = Folder(tmp_path, tiny_model).run(0, _component_="components_of_a_user.hangs")
    command = [sys.executable, "-c", PARENT, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}) as parent:
        assert parent.stdout and parent.stdout.readline() == "started\n"
        process = process_of(parent.pid)
        parent.kill()
    deadline = time.monotonic() + 8  # it would hang for minutes
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
