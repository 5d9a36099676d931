"""What a training logged, from the files that torchtune 0.6.1 and our own loggers write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cruijff_kit.training_metrics import last, loss_at, read

DISK = """\
Step 1 | loss:6.128767013549805 lr:0.006710100716628344 tokens_per_second_per_gpu:2.32368540763855 
Step 2 | loss:6.623367786407471 lr:0.005868240888334653 tokens_per_second_per_gpu:2531.82 peak_memory_active:1.5 grad_norm:0.5 
Step 3 | loss:6.670931816101074 lr:0.005 tok"""
CSV = """\
step,loss,lr,tokens_per_second_per_gpu,grad_norm
1,6.128767013549805,0.006710100716628344,2.32368540763855,
2,6.623367786407471,0.005868240888334653,2531.82,0.5
3,6.670931816101074,0.0"""
FIRST = {"loss": 6.128767013549805, "lr": 0.006710100716628344, "tokens_per_second_per_gpu": 2.32368540763855}
SECOND = {"loss": 6.623367786407471, "lr": 0.005868240888334653, "tokens_per_second_per_gpu": 2531.82, "grad_norm": 0.5}


def write(results: Path, files: dict[str, str], config: str = "") -> Path:
    """The results of a training whose logger left `files` in logs/, the oldest first."""
    for second, (name, text) in enumerate(files.items()):
        path = results / name if "/" in name else results / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1700000000 + second, 1700000000 + second))
    if config:
        (results / "torchtune_config.yaml").write_text(config)
    return results


def steps(begin: int, end: int, loss: float = 0.0) -> str:
    """The lines of a DiskLogger."""
    return "".join(f"Step {step} | loss:{loss + step} lr:0.1 \n" for step in range(begin, end + 1))


def rows(begin: int, end: int, loss: float = 0.0) -> str:
    return "step,loss,lr\n" + "".join(f"{step},{loss + step},0.1\n" for step in range(begin, end + 1))


def losses(results: Path) -> dict[int, float]:
    return {step: values["loss"] for step, values in read(results)}


def test_a_disk_logger_is_read_without_the_line_that_a_kill_cut(tmp_path: Path) -> None:
    results = write(tmp_path, {"log_1700000000.txt": DISK})
    assert read(results) == [(1, FIRST), (2, SECOND | {"peak_memory_active": 1.5})]
    assert last(results) == SECOND | {"peak_memory_active": 1.5}


def test_a_csv_is_read_without_the_line_that_a_kill_cut(tmp_path: Path) -> None:
    results = write(tmp_path, {"metrics.csv": CSV})
    assert read(results) == [(1, FIRST), (2, SECOND)]
    assert last(results) == SECOND


@pytest.mark.parametrize(
    "files",
    [
        {"log_999999999.txt": steps(1, 8), "log_1000000000.txt": steps(7, 12, loss=100)},
        {"log_1700000000.txt": steps(1, 8) + steps(7, 12, loss=100)},  # two starts within a second
        {"metrics.csv": rows(1, 8) + rows(7, 12, loss=100).partition("\n")[2]},
        {"log_1700000000.txt": steps(1, 8), "metrics.csv": rows(7, 12, loss=100)},
        {"metrics.csv": rows(1, 8), "log_1700000001.txt": steps(7, 12, loss=100)},
    ],
)
def test_of_a_step_that_was_logged_twice_the_later_one_counts(files: dict[str, str], tmp_path: Path) -> None:
    results = write(tmp_path, files)
    assert losses(results) == {step: step + (100 if step >= 7 else 0) for step in range(1, 13)}
    assert last(results)["loss"] == 112


def test_what_was_logged_beyond_the_step_that_a_training_went_on_from_does_not_count(tmp_path: Path) -> None:
    results = write(tmp_path, {"log_1700000000.txt": steps(1, 11), "log_1700000009.txt": steps(7, 8, loss=100)})
    assert losses(results) == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 107, 8: 108}


def test_steps_that_a_resumed_training_counted_from_1_again_are_not_told(tmp_path: Path) -> None:
    files = {"log_1700000000.txt": steps(1, 15), "log_1700000009.txt": steps(1, 6)}
    assert read(write(tmp_path / "resumed", files, "epochs: 3\nresume_from_checkpoint: true\n")) == []
    assert len(read(write(tmp_path / "anew", files, "epochs: 3\nresume_from_checkpoint: false\n"))) == 6


def test_a_training_that_was_resumed_before_it_logged_a_step_twice_is_read_whole(tmp_path: Path) -> None:
    files = {"log_1700000000.txt": steps(1, 6), "log_1700000009.txt": steps(7, 12)}
    assert len(read(write(tmp_path, files, "resume_from_checkpoint: true\n"))) == 12


@pytest.mark.parametrize(
    ("place", "node"),
    [
        ("results/elsewhere/metrics.csv", "log_dir: ${output_dir}/elsewhere"),
        ("results/a b/metrics.csv", "log_dir: '{root}/results/a b'"),
        ("results/$\u007bx/metrics.csv", "log_dir: '{root}/results/\\$\u007bx'"),
        ("results/own/metrics.csv", "log_dir: /nowhere\n  dir: ${output_dir}/own"),  # of a W&B logger
        ("disk{root}/results/metrics.csv", "log_dir: '{root}/disk${output_dir}'"),
        ("results/logs/own name", "log_dir: ${output_dir}/logs\n  filename: own name"),
    ],
)
def test_the_files_lie_where_the_config_says(place: str, node: str, tmp_path: Path) -> None:
    place = place.replace("{root}", str(tmp_path))
    text = rows(1, 2) if place.endswith("csv") else steps(1, 2)
    node = node.replace("{root}", str(tmp_path))
    write(tmp_path, {place: text})
    (tmp_path / "results").mkdir(exist_ok=True)
    (tmp_path / "results/torchtune_config.yaml").write_text(f"epochs: 1\nmetric_logger:\n  _component_: x\n  {node}\nseed: 1\n")
    assert losses(tmp_path / "results") == {1: 1, 2: 2}


@pytest.mark.parametrize("log_dir", ["{root}/logs", "${output_dir}/../logs", "${output_dir}s/logs", "logs", "logs${output_dir}"])
def test_files_that_may_be_of_other_runs_are_not_read(log_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "run_1"
    for folder in ("logs", "run_1s/logs", f"logs{results}"):
        write(tmp_path, {f"{folder}/log_1.txt": steps(1, 2)})
    results.mkdir()
    log_dir = log_dir.replace("{root}", str(tmp_path))
    (results / "torchtune_config.yaml").write_text(f"metric_logger:\n  _component_: x\n  log_dir: {log_dir}\n")
    assert (read(results), last(results)) == ([], {})


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"log_1.txt": ""},
        {"log_1.txt": "\0\0\0\n\nStep | loss:1\nStep x | loss:1 \nSteps 3\n"},
        {"metrics.csv": ""},
        {"metrics.csv": "loss,lr\n1,2\n"},
        {"metrics.csv": "step,loss\n\n1\n1,2,3\nx,2\n1,x\n\0,1\n"},
        {"metrics.csv": f"step,loss\n\"{'x' * 200_000}\n"},  # more than csv takes for a cell
        {"log_1.txt/folder": "", "metrics.csv/folder": ""},
    ],
)
def test_what_cannot_be_read_is_nothing(files: dict[str, str], tmp_path: Path) -> None:
    results = write(tmp_path, {f"logs/{name}": text for name, text in files.items()})
    assert read(results) == []
    assert last(results) == {}
    for config in ("metric_logger:\n  - {\n", "metric_logger:\n  log_dir: [1]\n", "metric_logger:\n  log_dir: logs\n", 'metric_logger:\n  log_dir: "/\\0"\n', "\0"):
        (results / "torchtune_config.yaml").write_text(config)
        assert read(results) == []


def test_damage_in_the_middle_costs_the_lines_that_it_hit(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/log_1.txt").write_bytes(steps(1, 2).encode() + b"\xff\0Step 3 | loss:3\n" + steps(4, 4).encode() + b"Step 5 | lo:x loss:nan 7\n")
    assert [(step, sorted(values)) for step, values in read(tmp_path)] == [(1, ["loss", "lr"]), (2, ["loss", "lr"]), (4, ["loss", "lr"]), (5, ["loss"])]


def test_the_last_values_are_at_the_end_of_a_long_file(tmp_path: Path) -> None:
    for name, text in {"log_1.txt": steps(1, 5000), "metrics.csv": rows(1, 5000)}.items():
        assert last(write(tmp_path / name, {name: text})) == {"loss": 5000, "lr": 0.1}


@pytest.mark.parametrize(
    "files",
    [
        {"log_1.txt": steps(1, 3), "log_2.txt": ""},  # resumed, and no step yet
        {"log_1.txt": steps(1, 3), "log_2.txt": "Step 4 | lo"},
        {"log_1.txt": steps(1, 3) + "Step 3 | mine:1 \n" * 1000},
        {"log_1.txt": steps(1, 2) + f"Step 3 | loss:3 lr:0.1 {' '.join(f'm{n}:1' for n in range(2000))}\n"},
        {"metrics.csv": rows(1, 3), "log_2.txt": ""},
        {"metrics.csv": "step,loss,lr,mine\n3,3,0.1,\n" + "3,,,1\n" * 2000},
        {"metrics.csv": f"step,loss,lr,{'m' * 9000}\n3,3,0.1,\n"},
    ],
)
def test_the_last_loss_is_found_however_far_back_it_stands(files: dict[str, str], tmp_path: Path) -> None:
    values = last(write(tmp_path, files))
    assert (values["loss"], values["lr"]) == (3, 0.1)
    assert [step_values["loss"] for _, step_values in read(tmp_path)][-1] == 3


def test_what_was_logged_after_the_last_loss_is_the_last_too(tmp_path: Path) -> None:
    assert last(write(tmp_path, {"log_1.txt": "Step 1 | loss:1 lr:0.2 \nStep 2 | mine:2 lr:0.1 \nStep 2 | mine:3 \n"})) == {"loss": 1, "lr": 0.1, "mine": 3}
    (tmp_path / "logs/log_1.txt").write_text("Step 2 | mine:2 \n")
    assert last(tmp_path) == {"mine": 2}


def logged(last_step: int, every: int = 1) -> list[tuple[int, dict[str, float]]]:
    return [(step, {"loss": float(step)}) for step in range(every, last_step + 1, every)]


@pytest.mark.parametrize(
    ("steps", "every", "epochs", "expected"),
    [
        (18, 1, 3, {"": 18, "epoch_0": 6, "epoch_1": 12, "epoch_2": 18}),
        (18, 4, 3, {"": 16, "epoch_0": 4, "epoch_1": 12, "epoch_2": 16}),  # 16, 17, 18 or 19 steps: 18 is three epochs
        (18, 5, 3, {"": 15, "epoch_0": None, "epoch_1": None, "epoch_2": 15}),  # 15 to 19: three epochs of 5 or of 6
        (17, 1, 3, {"": 17, "epoch_0": None, "epoch_1": None, "epoch_2": 17}),  # no training that finished
        (24, 8, 6, {"": 24, "epoch_0": None, "epoch_1": None, "epoch_5": 24}),
        (20, 8, 2, {"": 16, "epoch_0": None, "epoch_1": 16}),
        (4, 4, 1, {"": 4, "epoch_0": 4}),
        (18, 1, None, {"": 18, "epoch_0": None}),
        (0, 1, 3, {"": None, "epoch_0": None, "epoch_2": None}),
    ],
)
def test_the_loss_of_an_epoch_is_the_last_that_was_logged_in_it(steps: int, every: int, epochs: int | None, expected: dict[str, float | None]) -> None:
    assert {epoch: loss_at(logged(steps, every), epoch, epochs) for epoch in expected} == expected


def test_an_epoch_in_which_no_loss_was_logged_has_none() -> None:
    assert loss_at([(1, {"lr": 0.1}), (2, {"loss": 2.0})], "epoch_0", 2) is None
    assert loss_at([(1, {"lr": 0.1}), (2, {"loss": 2.0})], "final", 2) is None
