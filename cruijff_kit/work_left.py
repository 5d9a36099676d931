"""Which stages of a sweep's points are still to be done, and why. Decides only: whoever runs them acts on it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cruijff_kit.errors import CruijffKitError
from cruijff_kit.stage_state import CANCELLED, DONE, FAILED, LOST, WAITING, StageState
from cruijff_kit.sweep_state import RunState

MISSING, ONLY_FAILED = "missing", "failed"
CHOICES = (MISSING, ONLY_FAILED)
AGAIN = "again"


@dataclass(frozen=True)
class Wish:
    """What a command asks of each point.

    Args:
        stages: those that it wants done.
        only: `missing`, or `failed` for the points of which a stage failed.
        again: runs that are done anew; all others are then left alone.
        repeats: evaluations are wanted even where they are done: their values are.
        adopts: the launcher waits for what Slurm has already.
    """

    stages: Sequence[str]
    only: str = MISSING
    again: Sequence[str] = ()
    repeats: bool = False
    adopts: bool = False


@dataclass(frozen=True)
class Left:
    """What is to be done for one run.

    Args:
        stages: in their order.
        why: for each stage that was wanted, why it is done or left alone.
        tasks: those to evaluate, of all that were asked for; None for all.
        sent: what the launches called those that Slurm has already.
    """

    stages: tuple[str, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] | None = None
    sent: Mapping[str, str] = field(default_factory=dict)


def decide(run: RunState, wish: Wish, unsettled: Mapping[str, str], asked: Sequence[str]) -> Left:
    """What is left of one run.

    Args:
        unsettled: the tasks without a result, and why; see Evaluations.unsettled.
        asked: the tasks that were asked for.

    Raises:
        CruijffKitError: it is to be done again, and is under way.
    """
    if wish.again and run.run in wish.again:
        return _again(run, wish)
    if wish.again:
        return Left(why=dict.fromkeys(wish.stages, "not named by --again"))
    if wish.only == ONLY_FAILED and not any(state.state in (FAILED, CANCELLED, LOST) for state in run.stages.values()):
        return Left(why=dict.fromkeys(wish.stages, "nothing of it failed"))
    why = dict(_reasons(run, wish, unsettled))
    stages = tuple(stage for stage in ("train", "eval") if stage in why and not why[stage].startswith(NOTHING))
    some = () if "train" in stages else tuple(task for task in asked if task in unsettled)
    sent = {stage: state.key for stage, state in run.stages.items() if state.key}
    return Left(stages, why, some if 0 < len(some) < len(asked) and not wish.repeats else None, sent)


NOTHING = (DONE, "left ")


def _reasons(run: RunState, wish: Wish, unsettled: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each stage that is wanted, or that is waited for, and why; a reason in NOTHING says that it is not to be done."""
    evaluated = "eval" in wish.stages and run.eval is not None and (bool(unsettled) or wish.repeats or _is_due(run, wish))
    barred = None
    if run.train is not None:
        reason = _of_training(run, wish, evaluated)
        if "train" in wish.stages or evaluated and reason.startswith(ADOPTED):
            yield "train", reason
        elif reason != DONE:
            barred = "left out: it is not trained"
        barred = "left alone: its training is not over" if reason.startswith("left ") else barred
    if "eval" in wish.stages and run.eval is not None:
        yield "eval", (barred if evaluated and barred else _of_evaluation(run, wish, unsettled) if evaluated else DONE)


ADOPTED = "already "


def _is_due(run: RunState, wish: Wish) -> bool:
    """Whether the training is to be done: what was evaluated of other weights is then no score of these."""
    return run.train is not None and run.train.state != DONE and "train" in wish.stages


def _of_training(run: RunState, wish: Wish, evaluated: bool) -> str:
    assert run.train is not None
    if run.train.state == DONE and not (run.weights_removed and evaluated):
        return f"{DONE}; its weights were removed: --again {run.run} trains it anew" if run.weights_removed else DONE
    if run.weights_removed:
        return "its weights were removed, and are to be evaluated"
    return _under_way(run.train, wish) or _why(run.train)


def _of_evaluation(run: RunState, wish: Wish, unsettled: Mapping[str, str]) -> str:
    state = run.eval
    assert state is not None
    if words := _under_way(state, wish):
        again = "; if it begins before this training ends, the same command again evaluates it"
        return words + (again if _is_due(run, wish) and words.startswith("left ") else "")
    if state.state in (FAILED, CANCELLED, LOST):
        return _why(state)
    return "; ".join(f"{task}: {why}" for task, why in unsettled.items()) or ("it is trained anew" if _is_due(run, wish) else "its value is asked for")


def _under_way(state: StageState, wish: Wish) -> str | None:
    """Of what Slurm has, or another process is at: it is adopted by a launcher that can, and left alone by others."""
    if not state.is_under_way:
        return None
    how = f"{state.state} as job {state.job}" if state.job else state.state
    return f"{ADOPTED}{how}" if state.key and wish.adopts else f"left alone: {how}"


def _why(state: StageState) -> str:
    if state.why and state.why != state.state:
        return f"{state.state}: {state.why.splitlines()[0]}"
    return "not begun" if state.state == WAITING else state.state


def _again(run: RunState, wish: Wish) -> Left:
    under_way = {stage: state for stage, state in run.stages.items() if state.is_under_way}
    if under_way:
        stage, state = next(iter(under_way.items()))
        raise CruijffKitError(
            f"{run.run} {stage} is {state.state}: cancel it before it is done again: cruijff-kit cancel DIR {run.run}"
            "\n  (of runs that are evaluated together, all of it: cruijff-kit cancel DIR)"
        )
    stages = tuple(stage for stage in wish.stages if stage in run.stages)
    return Left(stages, dict.fromkeys(stages, AGAIN))


def check_again(again: Sequence[str], runs: Collection[str]) -> None:
    """That each run to be done again is among those of this sweep, the untouched model included where it is evaluated.

    Raises:
        CruijffKitError: one is not.
    """
    others = [name for name in again if name not in runs]
    if others:
        raise CruijffKitError(
            f"{', '.join(others)}: no point of this sweep\n"
            "  --multirun takes the points of experiment.yaml; of a run that came from overrides, give these as well"
        )
