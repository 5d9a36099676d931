"""A training that was killed goes on, and ends with the weights of one that was not: bit for bit, on the CPU in fp32."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from cruijff_kit import checkpoint, epochs, ownership, paths, records, resume, train
from cruijff_kit import stage as stage_module
from cruijff_kit.process_family import Family
from tests.recipe_server import RecipeServer
from tests.tiny_llama import tiny_base_config, write_tiny_data

LORA, FULL = "lora_finetune_single_device", "full_finetune_single_device"
EPOCHS = 3
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecipeServer]:
    running = RecipeServer(tmp_path_factory.mktemp("datasets"))
    yield running
    running.close()


@dataclass
class Experiment:
    """One run, with a config that draws random numbers, warms up, and shuffles."""

    folder: Path
    recipe: str
    server: RecipeServer

    def __post_init__(self) -> None:
        self.end = self.folder / "end"  # an image of what an uninterrupted training left
        self.results = self.folder / "results/run_000"
        self.config = self.folder / "train_000.yaml"
        self.training = train.Training(
            run="run_000",
            command=["tune", "run", self.recipe, "--config", str(self.config)],
            train_config=self.config,
            results=self.results,
            model=self.results / f"hf_model/epoch_{EPOCHS - 1}",
            folder=self.folder,
        )

    def write_config(self, model: Path, **changes: Any) -> None:
        import yaml

        config = tiny_base_config(model) | {"output_dir": str(self.results), "epochs": EPOCHS, "batch_size": 4}
        config["dataset"]["data_files"] = str(write_tiny_data(self.folder / "train.jsonl"))
        config["lr_scheduler"]["num_warmup_steps"] = 3
        if self.recipe == FULL:
            sizes = {key: value for key, value in config["model"].items() if "lora" not in key}
            config["model"] = {**sizes, "_component_": "torchtune.models.llama3_2.llama3_2", "attn_dropout": 0.1}
            config["model"].pop("scale_factor"), config["model"].pop("tie_word_embeddings")
            config["optimizer_in_bwd"] = False
            config["optimizer"]["lr"] = 1e-3
        else:
            config["model"]["lora_dropout"] = 0.1
        self.config.write_text(yaml.safe_dump(config | changes, sort_keys=False))

    def attempt(self, **options: Any) -> list[str]:
        """One attempt, as `train` makes it; returns the words beside the config."""
        _, _, recipe, *words = train.prepare(self.training)
        self.server.run(recipe, words, **options)
        return words[2:]

    def restore(self, image: Path) -> None:
        """The disk as it was when this image was taken."""
        shutil.rmtree(self.folder / "results", ignore_errors=True)
        shutil.copytree(image, self.results, symlinks=True)


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def uninterrupted(folder: Path, recipe: str, server: RecipeServer, model: Path, **changes: Any) -> tuple[Experiment, list[Path]]:
    """A run that ended, and an image of its results at each step of its writing."""
    folder.mkdir()
    run = Experiment(folder, recipe, server)
    run.write_config(model, **changes)
    images = folder / "images"
    images.mkdir()
    assert run.attempt(watched=run.results, images=images) == []
    assert run.training.fault() is None
    shutil.copytree(run.results, run.end, symlinks=True)
    return run, sorted(images.iterdir())


Ended = Callable[[str], tuple[Experiment, list[Path]]]


@pytest.fixture(scope="module")
def ended(server: RecipeServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The run of a recipe that ended, which the tests share: each begins by restoring an image."""
    folder = tmp_path_factory.mktemp("ended")
    return cache(lambda recipe: uninterrupted(folder / recipe, recipe, server, tiny_model))


RESUME = ["resume_from_checkpoint=True"]


@pytest.mark.parametrize("recipe", [LORA, FULL])
def test_a_kill_at_any_step_of_any_save_costs_an_epoch_at_most_and_changes_no_bit(recipe: str, ended: Ended) -> None:
    """What remains to be trained is a function of the disk after `prepare`: the images are trained that differ there.

    Where earlier epochs do not stay they may have been removed at each step, as soon as nothing needs them.
    """
    run, images = ended(recipe)
    run.restore(run.end)
    whole, trained = contents(run.training.model), {}
    all_kept = after_a_kill(run, images, None, whole, trained)
    assert after_a_kill(run, images, [EPOCHS - 1], whole, trained) == all_kept
    assert set(all_kept) == {0, 1, 2}
    begun = [int(max((path.name[-1] for path in image.glob("hf_model/epoch_*")), default="0")) for image in images]
    assert all(number >= epoch for number, epoch in zip(all_kept, begun))  # epoch 2's folder: epochs 0 and 1 are kept


def after_a_kill(run: Experiment, images: list[Path], kept: list[int] | None, whole: dict[str, str], trained: dict) -> list[int]:
    """How many epochs are gone on from after a kill at each image; that all end in the weights `whole`.

    Args:
        kept: the epochs that stay; None for all.
        trained: the weights that each state of the disk was found to end in.
    """
    after = []
    for image in images:
        run.restore(image)
        checkpoints = run.training.checkpoints
        epochs.EarlierEpochs(checkpoints, kept, resumable=True, check=lambda: None).remove_meanwhile()
        words = train.prepare(run.training)[5:]
        left = contents(run.results / "hf_model")
        state = resume.last_state(checkpoints)
        after.append(state.epochs_run if state else 0)
        if kept is not None and state:  # that of the last finished epoch, and what was moved aside is not there
            assert sorted(checkpoints.glob("epoch_*")) == [checkpoints / f"epoch_{state.epochs_run - 1}"]
        assert words == (RESUME if state else [])
        key = (*words, *left.items())
        if key not in trained:
            run.server.run(train.RESUMABLE[run.recipe], ["--config", str(run.config), *words])
            trained[key] = contents(run.training.model)
            assert run.training.fault() is None
        assert trained[key] == whole, image.name
    assert after == sorted(after)  # never back behind a state that was whole before
    return after


def test_gradients_that_an_epoch_leaves_to_the_next_are_not_lost(server: RecipeServer, tiny_model: Path, tmp_path: Path) -> None:
    for recipe in (LORA, FULL):
        changes = {"gradient_accumulation_steps": 2, "clip_grad_norm": 1.0}
        run, images = uninterrupted(tmp_path / recipe, recipe, server, tiny_model, **changes)
        whole = contents(run.training.model)
        run.restore(next(image for image in images if image.name.endswith("os.mkdir epoch_1")))
        assert run.attempt() == RESUME
        assert contents(run.training.model) == whole


def test_the_schedule_of_a_cut_epoch_goes_on(server: RecipeServer, tiny_model: Path, tmp_path: Path) -> None:
    run, images = uninterrupted(tmp_path / "run", LORA, server, tiny_model, max_steps_per_epoch=2)
    whole = contents(run.training.model)
    run.restore(next(image for image in images if image.name.endswith("os.mkdir epoch_2")))
    assert run.attempt() == RESUME
    assert contents(run.training.model) == whole


def test_our_recipe_writes_what_torchtunes_writes(server: RecipeServer, ended: Ended) -> None:
    for recipe, same in ((LORA, ["epoch_0"]), (FULL, ["epoch_0", "epoch_1", "epoch_2"])):  # LoRA's later epochs: on a CPU torchtune's are corrupted
        run, _ = ended(recipe)
        run.restore(run.end)
        ours = {epoch: contents(run.training.checkpoints / epoch) for epoch in same}
        shutil.rmtree(run.results)
        server.run(recipe, ["--config", str(run.config)])
        assert {epoch: contents(run.training.checkpoints / epoch) for epoch in same} == ours


def test_a_resumed_run_is_the_run_of_its_config(ended: Ended) -> None:
    run, images = ended(LORA)
    run.restore(run.end)
    identity = checkpoint.trained_identity(run.results, run.folder)
    run.restore(images[-1])
    assert run.attempt() == RESUME
    assert "resume_from_checkpoint: true" in (run.results / checkpoint.CONFIG_COPY).read_text()
    assert checkpoint.differences(run.config, run.results, run.folder) == {}
    assert checkpoint.trained_identity(run.results, run.folder) == identity


def test_another_config_or_another_model_starts_anew_and_what_was_there_is_kept(
    ended: Ended, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    run, images = ended(LORA)
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    text = run.config.read_text()
    request.addfinalizer(lambda: run.config.write_text(text))  # it is of all these tests
    for changed in (text.replace("seed: 1", "seed: 2"), text.replace(str(tiny_model), str(moved))):
        run.restore(images[-1])
        before = contents(run.results)
        run.config.write_text(changed)
        assert train.prepare(run.training) == ["tune", "run", train.RESUMABLE[LORA], "--config", str(run.config)]
        (aside,) = (path for path in run.results.parent.iterdir() if path != run.results)
        assert contents(aside) == before
        assert contents(run.results) == {}
        assert capsys.readouterr().out.splitlines()[-1] == f"moved aside to {aside}: what was in {run.results}"


def test_a_recipe_that_is_not_ours_starts_anew_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results/run_000"
    (results / "hf_model/epoch_0").mkdir(parents=True)
    command = ["tune", "run", "--nproc_per_node", "2", "lora_finetune_distributed", "--config", "train.yaml"]
    training = train.Training("run_000", command, tmp_path / "train.yaml", results, results / "hf_model/epoch_1", tmp_path)
    assert train.prepare(training) == command
    assert capsys.readouterr().out.splitlines()[-1] == (
        "run_000 train: starting from the beginning: its recipe cannot go on with what was interrupted"
    )


def test_the_epochs_on_another_disk_are_set_aside_there(ended: Ended, tmp_path: Path) -> None:
    run, images = ended(LORA)
    run.restore(next(image for image in images if "adapter_config.json" in image.name and (image / "hf_model/epoch_2").exists()))
    assert run.training.fault() == "its save was interrupted"
    disk = tmp_path / "disk/hf_model"
    disk.parent.mkdir()
    (run.results / "hf_model").rename(disk)
    (run.results / "hf_model").symlink_to(disk)
    assert train.prepare(run.training)[-1:] == RESUME
    (aside,) = (path for path in disk.parent.iterdir() if path != disk)
    assert [path.name for path in aside.iterdir()] == ["epoch_2"]
    assert [path.name for path in run.results.parent.iterdir()] == ["run_000"]


def test_by_hand_our_recipe_says_that_there_is_nothing_to_go_on_from(server: RecipeServer, tiny_model: Path, tmp_path: Path) -> None:
    run = Experiment(tmp_path, LORA, server)
    run.write_config(tiny_model)
    with pytest.raises(AssertionError) as failed:
        server.run(train.RESUMABLE[LORA], ["--config", str(run.config), *RESUME])
    assert str(failed.value).splitlines()[-1] == (
        f"ValueError: {run.training.checkpoints}: no epoch was finished that this recipe can go on from: "
        "start it without resume_from_checkpoint=True"
    )


PROGRAM = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from cruijff_kit import inputs, stage
folder = Path(sys.argv[1])
command = ["tune", "run", "lora_finetune_single_device", "--config", str(folder / "train_000.yaml")]
read = {"recorded": str(inputs.record({"nothing": []}, folder)), "train": "nothing"}
config = {"experiment_dir": str(folder), "run": "run_000", "identity": "abc", "commands": {"train": command}, "inputs": read, "git": None}
stage.run(OmegaConf.create({**config, "kept_epochs": [2], "scores": str(folder / "eval_results/run_000")}), "train")
"""


class Stage:
    """The train stage of a run, in processes of its own."""

    def __init__(self, run: Experiment) -> None:
        self._run = run
        self._command = [sys.executable, "-c", PROGRAM, str(run.folder)]

    def start(self, **environment: str) -> subprocess.Popen[str]:
        one_thread = {"OMP_NUM_THREADS": "1"}  # as the recipe server has: the order of sums depends on it
        whole = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **one_thread, **environment}
        return subprocess.Popen(self._command, env=whole, cwd=self._run.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def owner(self) -> ownership.Owner | None:
        return ownership.read(paths.held(self._run.folder, "train", "run_000") / ownership.FILE)

    def wait_for_an_epoch(self, process: subprocess.Popen[str]) -> None:
        while not (self._run.training.checkpoints / resume.STATE / resume.MARK).exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)


@pytest.fixture
def stage(server: RecipeServer, tiny_model: Path, tmp_path: Path) -> tuple[Stage, Experiment, dict[str, str]]:
    """A run of a second an epoch, and the files that it ends with."""
    run, _ = uninterrupted(tmp_path / "run", LORA, server, tiny_model, batch_size=1)
    whole = contents(run.training.model)
    shutil.rmtree(run.results)
    return Stage(run), run, whole


def test_the_whole_stage_killed_by_sigkill_goes_on_when_it_is_started_again(stage: tuple[Stage, Experiment, dict[str, str]]) -> None:
    train_stage, run, whole = stage
    killed = train_stage.start()
    train_stage.wait_for_an_epoch(killed)
    killed.kill()  # what it started lives on, until its successor ends that
    killed.communicate()
    again = train_stage.start()
    said, errors = again.communicate()
    assert again.returncode == 0, errors
    assert f"run_000 train: tune run {train.RESUMABLE[LORA]} --config {run.config} resume_from_checkpoint=True" in said.splitlines()
    assert contents(run.training.model) == whole
    record = records.read(run.training.results / paths.RECORD)
    assert (record.state, record.attempt, record.epochs) == ("done", 2, EPOCHS)
    assert checkpoint.is_sealed(record.weights, run.training.results)
    assert [path.name for path in run.training.checkpoints.iterdir()] == ["epoch_2"]
    assert train_stage.start().communicate()[0] == f"run_000 is trained already: {run.training.model}\n"


def test_a_copy_that_comes_back_from_the_dead_ends_itself_and_its_successor_goes_on(stage: tuple[Stage, Experiment, dict[str, str]]) -> None:
    train_stage, run, whole = stage
    dead = train_stage.start(SLURM_JOB_ID="12")
    train_stage.wait_for_an_epoch(dead)
    before = train_stage.owner()
    frozen = [dead.pid, *(process.pid for process in Family(before.token).alive())]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    successor = train_stage.start(SLURM_JOB_ID="12", SLURM_RESTART_COUNT="1")
    while (now := train_stage.owner()) == before:
        assert successor.poll() is None
        time.sleep(0.01)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    assert dead.communicate()[1].splitlines()[-1] == f"cruijff_kit.ownership.TakenOver: stopped: this run was taken over by {now}"
    assert dead.returncode == 1
    said, errors = successor.communicate()
    assert successor.returncode == 0, errors
    assert f"taking over from {before}" in errors.splitlines()
    assert "run_000 train: going on after its epoch 1" in said.splitlines()
    assert contents(run.training.model) == whole


def test_of_several_nodes_only_the_first_looks_after_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    results = tmp_path / "results/run_000"
    results.mkdir(parents=True)
    (results / "left").touch()
    train_config = {"output_dir": str(results), "checkpointer": {"output_dir": str(results)}, "epochs": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train_config))
    command = [sys.executable, "-c", "open('ran', 'w')", "--config", str(tmp_path / "train.yaml")]
    stage_module.run(OmegaConf.create({"experiment_dir": str(tmp_path), "run": "run_000", "commands": {"train": command}}), "train")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ran", "results", "train.yaml"]
    assert (results / "left").exists()
