"""Metric loggers at work: what they leave on disk, read back by the libraries whose files it is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cruijff_kit import training_metrics
from cruijff_kit.generate import generate
from tests.test_generate import edit
from tests.tiny_experiment import specification, write_experiment

OURS = "cruijff_kit.metric_loggers.WandBLogger"


def payloads() -> Iterator[tuple[int, dict[str, Any]]]:
    """What torchtune's recipes hand to a logger: tensors among numbers; of a GPU and of a clipped gradient from some step on."""
    import torch

    for step in range(1, 7):
        values = {"loss": torch.tensor(7.0) / step, "lr": 0.1 / step, "tokens_per_second_per_gpu": torch.tensor(100) / 0.3}
        yield step, values | ({"grad_norm": torch.tensor(0.7, dtype=torch.bfloat16)} if step > 3 else {})


def log(logger: Any, steps: range = range(1, 7)) -> None:
    for step, values in payloads():
        if step in steps:
            logger.log_dict(values, step=step)
    logger.close()


@pytest.fixture(scope="module")
def by_disk_logger(tmp_path_factory: pytest.TempPathFactory) -> training_metrics.Metrics:
    """The numbers as torchtune's own logger writes them."""
    from torchtune.training.metric_logging import DiskLogger

    results = tmp_path_factory.mktemp("disk")
    log(DiskLogger(str(results / "logs")))
    metrics = training_metrics.read(results)
    assert [sorted(values) for _, values in metrics] == [["loss", "lr", "tokens_per_second_per_gpu"]] * 3 + [
        ["grad_norm", "loss", "lr", "tokens_per_second_per_gpu"]
    ] * 3
    return metrics


def test_a_csv_holds_the_numbers_of_torchtunes_disk_logger(by_disk_logger: training_metrics.Metrics, tmp_path: Path) -> None:
    from cruijff_kit.metric_loggers import CSVLogger

    log(CSVLogger(str(tmp_path / "logs")))
    assert training_metrics.read(tmp_path) == by_disk_logger
    header, first, *_ = (tmp_path / "logs/metrics.csv").read_text().splitlines()
    assert header == "step,loss,lr,tokens_per_second_per_gpu,grad_norm"
    assert first == "1,7.0,0.1,333.33331298828125,"
    import pandas

    frame = pandas.read_csv(tmp_path / "logs/metrics.csv", index_col="step")
    assert list(frame.loss) == [values["loss"] for _, values in by_disk_logger]


def test_a_training_that_goes_on_adds_to_the_csv(by_disk_logger: training_metrics.Metrics, tmp_path: Path) -> None:
    from cruijff_kit.metric_loggers import CSVLogger

    file = tmp_path / "logs/metrics.csv"
    log(CSVLogger(str(file.parent)), range(1, 6))
    with file.open("a") as killed:
        killed.write("6,1.16")
    log(CSVLogger(str(file.parent)), range(4, 7))
    assert [line.partition(",")[0] for line in file.read_text().splitlines()] == ["step", "1", "2", "3", "4", "5", "4", "5", "6"]
    assert training_metrics.read(tmp_path) == by_disk_logger


def test_a_row_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    from cruijff_kit.metric_loggers import CSVLogger

    logger = CSVLogger(str(tmp_path / "logs"))
    logger.log("loss", 2.5, step=1)
    assert training_metrics.last(tmp_path) == {"loss": 2.5}
    logger.log("accuracy, in %", float("nan"), step=1)
    assert (tmp_path / "logs/metrics.csv").read_text() == 'step,loss,"accuracy, in %"\n1,2.5,\n1,,nan\n'


def test_of_several_processes_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import distributed

    from cruijff_kit.metric_loggers import CSVLogger

    # a real group of two would take seconds; torchtune asks these
    for name, value in {"is_available": True, "is_initialized": True, "get_world_size": 2, "get_rank": 1}.items():
        monkeypatch.setattr(distributed, name, lambda value=value: value)
    log(CSVLogger(str(tmp_path / "logs")))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_the_numbers_of_the_csv(by_disk_logger: training_metrics.Metrics, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from cruijff_kit.metric_loggers import TensorBoardLogger

    log(TensorBoardLogger(str(tmp_path / "logs")))
    assert training_metrics.read(tmp_path) == by_disk_logger
    (events,) = (tmp_path / "logs").rglob("events.out.tfevents.*")
    read = EventAccumulator(str(events.parent))
    read.Reload()
    for name, count in {"loss": 6, "lr": 6, "tokens_per_second_per_gpu": 6, "grad_norm": 3}.items():
        there = [(step, values[name]) for step, values in by_disk_logger if name in values]
        assert [(each.step, each.tensor_proto.float_val[0]) for each in read.Tensors(name)] == [(step, pytest.approx(value)) for step, value in there]
        assert len(there) == count


def wandb_records(folder: Path) -> dict[str, list[Any]]:
    """The records of the one offline run below `folder`, by their kind."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    store, found = DataStore(), {}
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        found.setdefault(kind, []).append(getattr(record, kind))
    return found


def values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, cruijff: Callable[..., subprocess.CompletedProcess[str]]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """An experiment with one run that our W&B logger logged, under another project than its config says."""
    spec = specification(tiny_model)
    del spec["evaluation"]
    spec["experiment"]["tags"] = ["tiny"]
    spec["variables"] = {"lora_rank": [2], "dataset": ["data/train.jsonl"]}
    del spec["controls"]["dataset"]
    spec["controls"]["_override"] = {"metric_logger": {"_component_": OURS, "project": "ours"}}
    folder = write_experiment(tmp_path_factory.mktemp("trained") / "e", tiny_model, spec)
    generate(folder)
    return folder, cruijff("run", folder, "stages=[train]", "torchtune.metric_logger.project=theirs", cwd=tmp_path_factory.mktemp("cwd"))


def test_an_offline_run_of_wandb_lies_in_the_results_with_name_group_and_parameters(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = trained
    assert done.returncode == 0, done.stderr
    records = wandb_records(folder / "results/run_000/logs")
    (run,) = records["run"]
    assert (run.project, run.run_group, run.display_name, list(run.tags)) == ("theirs", "tiny", "run_000", ["tiny"])
    assert values(run.config.update) | {"_wandb": {}} == {"_wandb": {}, "lora_rank": 2, "dataset": "data/train.jsonl"}
    whole = values(records["config"][0].update)
    assert (whole["model"]["lora_rank"], whole["dataset"]["data_files"]) == (2, str(folder / "data/train.jsonl"))
    logged = [values(row.item) for row in records["history"]]
    metrics = training_metrics.read(folder / "results/run_000")
    assert [(row["global_step"], row["loss"]) for row in logged] == [(step, row["loss"]) for step, row in metrics]
    assert len(metrics) == 6
    assert not list(folder.glob("wandb"))


def test_an_override_of_the_logger_changes_no_file_and_makes_no_run(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = trained
    before = {path: path.read_bytes() for path in (folder / "configs").iterdir()}
    assert generate(folder).added == []
    assert {path: path.read_bytes() for path in (folder / "configs").iterdir()} == before
    assert b"project: ours" in before[folder / "configs/train_000.yaml"]


def test_what_was_trained_stays_trained_under_another_logger(
    trained: tuple[Path, subprocess.CompletedProcess[str]], cruijff: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder, _ = trained
    edit(folder, controls={"_override": None})
    generate(folder, force=True)
    (run,) = json.loads(cruijff("status", folder, "--json").stdout)["runs"]
    assert run["stages"]["train"]["state"] == "done", run
