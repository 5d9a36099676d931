"""What configs/eval_group.py runs: the evaluations of several runs in one process, which loads a base model that they share once."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cruijff_kit import ownership, paths, provenance, records, torchtune_catalog
from cruijff_kit.errors import CruijffKitError, closest
from cruijff_kit.evaluate import check_inspect, evaluate_run
from cruijff_kit.evaluated_model import Models
from cruijff_kit.evaluation_request import Request, check_model, override
from cruijff_kit.identity import identity

RECORDED = "CRUIJFF_KIT_RECORDED"  # what a stage knows for the records of the runs, as JSON; without it none are kept


def evaluate_group(scripts: Sequence[str]) -> None:
    """Evaluates the runs of `scripts`, which lie beside the one that calls this, one after the other; then exits.

    Its command line may name runs, else all are meant, and settings for all of them: `run_000 run_002 limit=5`. One that is not
    trained yet, or that fails, is said, and the next one begins. The exit code is 1 if there was any.
    """
    from cruijff_kit.cli import report_faults

    script = Path(sys.argv[0]).absolute()
    sys.exit(report_faults(lambda: _evaluate([script.parent / name for name in scripts], sys.argv[1:])))


def _evaluate(scripts: Sequence[Path], words: Sequence[str]) -> int:
    requests = _chosen([Request.in_script(script) for script in scripts], words)
    check_inspect()
    trained, failed = _trained(requests)
    left_out = [request.run for request in requests if request.run not in trained and request.run not in failed]
    ready = [request for request in requests if request.run in trained]
    ready.sort(key=lambda request: (str(request.base_model), request.dtype, request.device))
    with Models([each.model for request in ready for each in request.each()]) as models:
        for request in ready:
            if not _is_evaluated(request, trained[request.run], models, [each.run for each in requests]):
                failed.append(request.run)
    if failed or left_out:
        print(f"{len(failed + left_out)} of {len(requests)} runs were not evaluated, or not well: {', '.join(failed + left_out)}", file=sys.stderr)
    return 1 if failed or left_out and RECORDED not in os.environ else 0  # in a sweep, the training has said that it failed


def _trained(requests: Sequence[Request]) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """What check_model says of each run that is trained, and the runs of which it cannot be told; of all others why not is said."""
    trained: dict[str, Mapping[str, Any]] = {}
    failed = []
    for request in requests:
        try:
            trained[request.run] = check_model(request)
        except CruijffKitError as error:
            print(f"{request.run} is left out: {error}", file=sys.stderr, flush=True)
        except Exception:  # a file that cannot be read is no reason to leave the others out
            traceback.print_exc()
            failed.append(request.run)
    return trained, failed


def _chosen(requests: Sequence[Request], words: Sequence[str]) -> list[Request]:
    names, settings = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    known = [request.run for request in requests]
    for name in names:
        if name not in known:
            raise CruijffKitError(f"there is no run '{name}': {closest(name, known) or ', '.join(known)}")
    return [override(request, settings) for request in requests if not names or request.run in names]


def _is_evaluated(request: Request, trained_with: Mapping[str, Any], models: Models, runs: Sequence[str]) -> bool:
    """Evaluates a run; whether that ended well. What went wrong is said, and leaves nothing for the next run to stumble on."""
    try:
        with _recorded(request):
            if failed := evaluate_run(request, trained_with, models, runs):
                raise _TasksFailed(f"ended in error: {', '.join(failed)}")
        return True
    except ownership.TakenOver:
        raise
    except _TasksFailed:  # said; the model is as it was
        return False
    except Exception as error:  # a fault of ours too: the others are evaluated all the same
        if not isinstance(error, CruijffKitError):
            traceback.print_exc()
        print(f"{request.run}: {error}", file=sys.stderr, flush=True)
        models.close()
        return False


class _TasksFailed(CruijffKitError):
    """Tasks of a run ended in error."""


@contextmanager
def _recorded(request: Request) -> Iterator[None]:
    """Keeps the record of the run's evaluation, as its own stage would."""
    text = os.environ.get(RECORDED)
    if text is None:
        yield
        return
    known: dict[str, Any] = json.loads(text)
    recorded, name = Path(known.pop("recorded")), known.pop("inputs")
    path, owner = request.results_dir / request.run / paths.RECORD, ownership.Owner.here()
    assert request.train_config
    config = identity(torchtune_catalog.read_config(request.train_config), request.folder)
    record = records.fresh(path, request.run, "eval", config, job=owner.job, restart=owner.restart, **known)
    with records.kept(path, record, lambda: provenance.surroundings(recorded, name)):
        yield
