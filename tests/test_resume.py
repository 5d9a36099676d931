"""A training that was killed goes on, and ends with the weights of one that was not: bit for bit, on the CPU in fp32."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cruijff_kit import train
from tests.recipe_server import RecipeServer
from tests.tiny_llama import tiny_base_config, write_tiny_data

LORA, FULL = "lora_finetune_single_device", "full_finetune_single_device"
EPOCHS = 3


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
        shutil.rmtree(self.folder / "results", ignore_errors=True)
        shutil.copytree(image, self.results, symlinks=True)


def contents(epoch: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in epoch.iterdir()}


def uninterrupted(tmp: Path, recipe: str, server: RecipeServer, model: Path, **changes: Any) -> tuple[Experiment, list[Path], dict[str, str]]:
    """A run, an image of its results at each step of its savings, and the files that it ended with."""
    run = Experiment(tmp / "run", recipe, server)
    run.folder.mkdir()
    run.write_config(model, **changes)
    (tmp / "images").mkdir()
    assert run.attempt(watched=run.results, images=tmp / "images") == []
    assert run.training.fault() is None
    return run, sorted((tmp / "images").iterdir()), contents(run.training.model)


def test_x(server, tiny_model, tmp_path):
    import time
    t=time.time()
    run, images, whole = uninterrupted(tmp_path, LORA, server, tiny_model)
    print(time.time()-t, len(images), *[i.name for i in images], sep="\n")
    for image in images:
        t=time.time()
        run.restore(image)
        fault = run.training.fault()
        words = run.attempt() if fault else None
        print(image.name, words, fault, contents(run.training.model) == whole, time.time()-t, [p.name for p in (run.folder/"results").iterdir()])
