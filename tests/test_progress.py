"""How far a stage is, from logs that torchtune 0.6.1 and an evaluation wrote."""

from __future__ import annotations

import time

import pytest

from cruijff_kit import app
from cruijff_kit.progress import Bar, Progress, of_evaluation, of_training, shown

START = """\
submitit INFO (2026-11-24 18:12:17,119) - Starting with JobEnvironment(job_id=25965, hostname=vm, local_rank=0(1), node=0(1), global_rank=0(1))
run_000 train: tune run cruijff_kit/recipes/lora_finetune_single_device --config /home/user/tiny/.cruijff-kit/frozen/f416/train_000.yaml
\rGenerating train split: 0 examples [00:00, ? examples/s]\rGenerating train split: 12 examples [00:00, 2894.45 examples/s]
 Profiler config after instantiation: {'enabled': False}
"""
FIRST = "\r  0%|          | 0/6 [00:00<?, ?it/s]\r 17%|█▋        | 1/6 [00:01<00:07,  1.57s/it]"
FIRST_STEP = FIRST + "\r1|1|Loss: 6.934572219848633:  17%|█▋        | 1/6 [00:01<00:07,  1.57s/it]"
# the bar moves on before its text does
FIFTH = FIRST_STEP + "\r1|4|Loss: 7.828063011169434:  83%|████████▎ | 5/6 [00:04<00:00,  1.15it/s]"
SAVED = """\
\r1|6|Loss: 7.202729225158691: 100%|██████████| 6/6 [00:06<00:00,  1.02s/it]\x1b[AStarting checkpoint save...
Model checkpoint of size 0.00 GiB saved to /home/user/tiny/results/run_000/hf_model/epoch_0/model-00001-of-00001.safetensors
Checkpoint saved in 0.12 seconds.
"""
# the bar of an epoch is drawn for the last time when the next one's is there
SECOND = """\
\r  0%|          | 0/6 [00:00<?, ?it/s]\x1b[A\r1|6|Loss: 7.202729225158691: 100%|██████████| 6/6 [00:06<00:00,  1.02s/it]

\r 17%|█▋        | 1/6 [00:01<00:07,  1.60s/it]\x1b[A
"""
SECOND_STEP = SECOND + "\r2|8|Loss: 6.623367786407471:  33%|███▎      | 2/6 [00:03<00:06,  1.59s/it]\x1b[A\n"
END = """\
\r3|18|Loss: 5.5425519943237305: 100%|██████████| 6/6 [00:05<00:00,  1.02it/s]
submitit INFO (2026-11-24 18:12:47,069) - Job completed successfully
"""
LOGS = [
    ("", None),
    (START, None),
    (START + FIRST, None),
    (START + FIRST_STEP, Progress(1, 3, 1, 6, 6.934572219848633, None, 26)),  # 7 + 2 epochs of 6 steps of 1.57 s
    (START + FIFTH, Progress(1, 3, 5, 6, 7.828063011169434, None, 10)),  # 0 + 12 steps at 1.15 a second
    (START + FIFTH + SAVED, Progress(1, 3, 6, 6, 7.202729225158691, None, 12)),
    (START + FIFTH + SAVED + SECOND, Progress(1, 3, 6, 6, 7.202729225158691, None, 12)),
    (START + FIFTH + SAVED + SECOND_STEP, Progress(2, 3, 2, 6, 6.623367786407471, None, 16)),
    (START + FIFTH + SAVED + SECOND_STEP + END, Progress(3, 3, 6, 6, 5.5425519943237305, None, 0)),
    ((START + FIFTH + SAVED + SECOND_STEP)[-90:], Progress(2, 3, 2, 6, 6.623367786407471, None, 16)),
    (START + FIFTH[:-8], Progress(1, 3, 1, 6, 6.934572219848633, None, 26)),  # the last bar is not whole yet
    (START + FIFTH + START, None),  # requeued
]


@pytest.mark.parametrize(("log", "progress"), LOGS)
def test_the_progress_of_a_training_is_that_of_its_last_bar(log: str, progress: Progress | None) -> None:
    assert of_training(log, None, 3) == progress


def test_the_tokens_a_second_stand_beside_what_the_bar_shows() -> None:
    assert of_training(START + SECOND_STEP, 2531.82, 3) == Progress(2, 3, 2, 6, 6.623367786407471, 2531.82, 16)
    assert of_training(START, 2531.82, 3) is None


BARS = [
    ("1|5|Loss: 2.31:  25%|██▌       | 5/20 [00:10<00:30,  2.00s/it]", Bar(1, 5, 20, 2.31, 30, 2.0)),
    ("1|5|Loss: nan:  25%|##5       | 5/20 [10:10<1:02:03,  1.00it/s]", Bar(1, 5, 20, pytest.approx(float("nan"), nan_ok=True), 3723, 1.0)),
    ("12|5000|Loss: 1e-05:   0%|          | 5/20000 [00:10<?, ?it/s]", Bar(12, 5, 20000, 1e-05, None, None)),
    ("1|5|Loss: 2.31:  25%|██▌       | 5/2", None),  # all that is written yet
    ("1|5|Loss: 2.31:  25%|██▌       | 5/20 [00:10<00:3", None),
    ("1|5|Loss: 2.31:  25%|██▌       | 5/20 [00:10<00:30,  0.00it/s]", Bar(1, 5, 20, 2.31, 30, None)),
    (" 17%|█▋        | 1/6 [00:01<00:07,  1.60s/it]", None),
    ("Loss is initialized.", None),
]


@pytest.mark.parametrize(("line", "bar"), BARS)
def test_a_bar_is_read_whole_or_not_at_all(line: str, bar: Bar | None) -> None:
    assert Bar.of(line) == bar


@pytest.mark.parametrize(
    ("left_s", "step_s", "epochs", "remaining_s"), [(30, 2.0, 1, 30), (30, 2.0, 3, 110), (30, None, 1, 30), (30, None, 3, None), (None, 2.0, 1, None)]
)
def test_what_remains_is_the_rest_of_the_epoch_and_the_epochs_that_are_left(
    left_s: int | None, step_s: float | None, epochs: int, remaining_s: int | None
) -> None:
    assert Bar(1, 5, 20, 2.31, left_s, step_s).remaining_s(epochs) == remaining_s


EVALUATION = """\
submitit INFO (2026-11-24 18:12:47,946) - Starting with JobEnvironment(job_id=26438, hostname=vm, local_rank=0(1), node=0(1), global_rank=0(1))
run_000 eval: python /home/user/tiny/.cruijff-kit/frozen/f416a491b07ff7c5/eval_000.py
\rLoading weights:   0%|          | 0/20 [00:00<?, ?it/s]\rLoading weights: 100%|██████████| 20/20 [00:00<00:00, 12731.23it/s]
"""
SAID = ["run_000 capitalize: 12 samples", "run_000 capitalize: exact mean 0.4583, exact stderr 4.5e-05", "base other: error: ValueError('no')"]


@pytest.mark.parametrize("count", range(len(SAID) + 1))
def test_an_evaluation_is_where_it_last_said_it_is(count: int) -> None:
    log = EVALUATION + "".join(f"{line}\nended in error: other\n" for line in SAID[:count])
    assert of_evaluation(log) == (SAID[count - 1] if count else None)
    assert of_evaluation(log + EVALUATION) is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("1|5|Loss: 2.3126:  25%|██▌       | 5/20 [00:10<00:30,  2.00s/it]", "epoch 1 step 5/20 loss 2.313"),
        ("run_000 train: tune run recipe --config a.yaml", "run_000 train: tune run recipe --config a.yaml"),
        ("base capitalize: 12 samples", "base capitalize: 12 samples"),
        ("Loss is initialized.", None),
    ],
)
def test_the_launcher_shows_of_a_log_the_bar_and_what_is_said_of_a_run(line: str, text: str | None) -> None:
    assert shown(line) == app.progress(line) == text


def seconds(log: str) -> float:
    """The shortest of five times that reading a training's progress takes."""
    times = []
    for _ in range(5):
        begin = time.process_time()
        of_training(log, 1.5, 3)
        times.append(time.process_time() - begin)
    return min(times)


@pytest.mark.parametrize("piece", [FIFTH, FIRST, "1", "1|1|Loss: ", "1|1|Loss: 1: 1%|"])
def test_a_log_of_four_times_the_length_takes_about_four_times_as_long(piece: str) -> None:
    short, long = (piece * (length // len(piece)) for length in (16_384, 65_536))
    assert seconds(long) < 10 * max(seconds(short), 1e-3)  # sixteen times where a pattern is quadratic
