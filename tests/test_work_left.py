"""Which stages of a point are still to be done."""

from __future__ import annotations

from typing import Any

import pytest

from cruijff_kit.errors import CruijffKitError
from cruijff_kit.stage_state import STUCK, StageState
from cruijff_kit.sweep_state import RunState
from cruijff_kit.work_left import Left, Wish, check_again, decide

BOTH = ("train", "eval")


def run(train: StageState, evaluated: StageState, unsettled: dict[str, str] | None = None, **more: Any) -> RunState:
    return RunState("run_003", {"lora_rank": 8}, "abc", train, evaluated, unsettled or {}, **more)


def state(word: str, why: str = "", **more: Any) -> StageState:
    return StageState(word, why, **more)


DONE, WAITING = state("done"), state("waiting")
FAILED = state("failed", "tune exited with 1: ValueError: no luck\n  more", kind="error")
NEW = {"a": "not evaluated", "b": "not evaluated"}
MORE = {"b": "not evaluated"}
SENT = state("queued", job="12_3", in_slurm=True, key="run_003 abc")
AFTER = state("waiting", "for its training", job="13_3", in_slurm=True, key="run_003 abc 123")
BY_HAND = state("queued", job="14_3", in_slurm=True)
KEYS = {"train": "run_003 abc", "eval": "run_003 abc 123"}
HERE = state("running")

# what a run is, what is wished: the stages to do, why of each, and the tasks if not all
CASES = {
    "nothing was done": (run(WAITING, WAITING, NEW), Wish(BOTH), BOTH, ["not begun", "a: not evaluated; b: not evaluated"], None),
    "all is done": (run(DONE, DONE), Wish(BOTH), (), ["done", "done"], None),
    "a task is new": (run(DONE, WAITING, MORE), Wish(BOTH), ("eval",), ["done", "b: not evaluated"], ("b",)),
    "only its training failed": (run(FAILED, WAITING, NEW), Wish(BOTH), BOTH, ["failed: tune exited with 1: ValueError: no luck", "a: not evaluated; b: not evaluated"], None),
    "only its evaluation failed": (run(DONE, state("failed", "no luck"), NEW), Wish(BOTH), ("eval",), ["done", "failed: no luck"], None),
    "it is lost": (run(state("lost", "gone"), WAITING, NEW), Wish(("train",)), ("train",), ["lost: gone"], None),
    "queued, for Slurm": (run(SENT, AFTER, NEW), Wish(BOTH, adopts=True), BOTH, ["already queued as job 12_3", "already waiting as job 13_3"], None),
    "queued, for this machine": (run(SENT, AFTER, NEW), Wish(BOTH), (), ["left alone: queued as job 12_3", "left alone: its training is not over"], None),
    "queued by hand, for Slurm": (run(BY_HAND, WAITING, NEW), Wish(BOTH, adopts=True), (), ["left alone: queued as job 14_3", "left alone: its training is not over"], None),
    "its evaluation once ran in Slurm": (run(DONE, state("waiting", job="13_3"), MORE), Wish(BOTH), ("eval",), ["done", "b: not evaluated"], ("b",)),
    "its weights are gone, and all was evaluated": (run(WAITING, DONE), Wish(BOTH), BOTH, ["not begun", "it is trained anew"], None),
    "trained here, for Slurm": (run(HERE, WAITING, NEW), Wish(BOTH, adopts=True), (), ["left alone: running", "left alone: its training is not over"], None),
    "stuck behind a failure": (
        run(FAILED, state("waiting", "for ever", job="13_3", kind=STUCK, in_slurm=True), NEW), Wish(("eval",)), (), ["left out: it is not trained"], None,
    ),
    "only evaluations, and it is trained": (run(DONE, WAITING, NEW), Wish(("eval",)), ("eval",), ["a: not evaluated; b: not evaluated"], None),
    "only evaluations, and it is not": (run(WAITING, WAITING, NEW), Wish(("eval",)), (), ["left out: it is not trained"], None),
    "only evaluations, and it is in Slurm": (
        run(SENT, WAITING, NEW), Wish(("eval",), adopts=True), BOTH, ["already queued as job 12_3", "a: not evaluated; b: not evaluated"], None,
    ),
    "only evaluations, all done": (run(SENT, DONE), Wish(("eval",), adopts=True), (), ["done"], None),
    "weights removed, all else done": (
        run(DONE, DONE, weights_removed=True), Wish(BOTH), (), ["done; its weights were removed: --again run_003 trains it anew", "done"], None,
    ),
    "weights removed, and needed": (
        run(DONE, WAITING, MORE, weights_removed=True), Wish(BOTH), BOTH, ["its weights were removed, and are to be evaluated", "b: not evaluated"], None,
    ),
    "its value is wanted": (run(DONE, DONE), Wish(BOTH, repeats=True), ("eval",), ["done", "its value is asked for"], None),
    "only what failed, and it did": (run(DONE, state("failed", "no luck"), MORE), Wish(BOTH, only="failed"), ("eval",), ["done", "failed: no luck"], ("b",)),
    "only what failed, and it did not": (run(WAITING, WAITING, NEW), Wish(BOTH, only="failed"), (), ["nothing of it failed"] * 2, None),
    "again": (run(DONE, DONE), Wish(BOTH, again=["run_003"]), BOTH, ["again", "again"], None),
    "again, only the evaluation": (run(DONE, DONE), Wish(("eval",), again=["run_003"]), ("eval",), ["again"], None),
    "another again": (run(FAILED, WAITING, NEW), Wish(BOTH, again=["run_001"]), (), ["not named by --again"] * 2, None),
}  # fmt: skip


@pytest.mark.parametrize(("found", "wish", "stages", "why", "tasks"), CASES.values(), ids=CASES)
def test_what_is_left(found: RunState, wish: Wish, stages: tuple[str, ...], why: list[str], tasks: tuple[str, ...] | None) -> None:
    left = decide(found, wish, found.unsettled, ["a", "b"])
    assert (left.stages, list(left.why.values()), left.tasks) == (stages, why, tasks)
    assert left.sent in ({}, {"train": "run_003 abc"}, KEYS)


def test_the_untouched_model_is_only_evaluated() -> None:
    base = RunState("base", {}, "base", None, WAITING, NEW)
    assert decide(base, Wish(BOTH), NEW, ["a", "b"]) == Left(("eval",), {"eval": "a: not evaluated; b: not evaluated"})


def test_without_evaluations_only_the_training_is_left() -> None:
    found = RunState("run_003", {}, "abc", WAITING, None)
    assert decide(found, Wish(BOTH), {}, []) == Left(("train",), {"train": "not begun"})


def test_what_is_under_way_is_not_done_again() -> None:
    with pytest.raises(CruijffKitError) as fault:
        decide(run(SENT, AFTER, NEW), Wish(BOTH, again=["run_003"], adopts=True), NEW, ["a", "b"])
    assert str(fault.value) == (
        "run_003 train is queued: cancel it before it is done again: cruijff-kit cancel DIR run_003\n"
        "  (of runs that are evaluated together, all of it: cruijff-kit cancel DIR)"
    )


def test_what_is_no_point_of_the_sweep_is_not_done_again() -> None:
    check_again(["run_000", "base"], ["base", "run_000", "run_001"])
    with pytest.raises(CruijffKitError) as fault:
        check_again(["run_009"], ["run_000", "run_001"])
    assert str(fault.value).startswith("run_009: no point of this sweep\n")
