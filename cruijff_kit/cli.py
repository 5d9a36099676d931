"""The command line: parse, call one function, print.

Exit codes: 1 for a fault of the user's or a point that failed, 2 for a wrong
flag, 3 for a fault of ours, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cruijff_kit import __version__
from cruijff_kit.errors import CruijffKitError

if TYPE_CHECKING:
    from cruijff_kit.deep_check import DeepReport
    from cruijff_kit.plan import Plan

GENERATE_EPILOG = """\
example:
  cruijff-kit generate .
  cruijff-kit generate examples/lora_rank_with_eval --dry-run
  cruijff-kit generate . --keep-ids      after an edit: every run keeps its number and results
"""

CHECK_EPILOG = """\
exit code: 0 if nothing is wrong, 1 for an error, and with --strict for a warning too.

examples:
  cruijff-kit check .
  cruijff-kit check . --deep
  cruijff-kit check . --json | jq '.problems[].what'
"""

DOCTOR_EPILOG = """\
examples:
  cruijff-kit doctor .
  cruijff-kit doctor . --cluster gpu_node --wait 300
"""

PRUNE_EPILOG = """\
Only of runs whose training is finished, and that nobody trains now. What is evaluated stays.

examples:
  cruijff-kit prune . --dry-run          what would be deleted, and its size
  cruijff-kit prune . run_000 run_003    only of these runs
  cruijff-kit prune . --asides --yes     what later trainings moved aside too, without being asked
"""

RUN_EPILOG = """\
Everything after DIR goes to Hydra. Without --multirun one point runs: the first, unless overridden.

examples:
  cruijff-kit run . --multirun                               the sweep in experiment.yaml
  cruijff-kit run . --multirun lora_rank=4,8 seed=1,2        another sweep of the same experiment
  cruijff-kit run . learning_rate=1e-4 evaluation.limit=5    one point
  cruijff-kit run . torchtune.optimizer.weight_decay=0.1     any key of the torchtune config
  cruijff-kit run . --multirun stages=[eval]                 only the evaluations
  cruijff-kit run . --cfg job                                show the config, run nothing
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command in `argv`, sys.argv's by default."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show ✓ is no fault
    arguments, rest = _parser().parse_known_args(argv)
    if "runs" in arguments and not any(word.startswith("-") for word in rest):
        arguments.runs, rest = [*arguments.runs, *rest], []  # argparse leaves those that stand after a flag
    if rest and arguments.function is not _run:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    return report_faults(lambda: arguments.function(arguments, rest), getattr(arguments, "json", False))


def report_faults(command: Callable[[], int], as_json: bool = False) -> int:
    """What `command` returns; a fault is printed, and is 1 if it is the user's and 3 if it is ours."""
    try:
        return command()
    except CruijffKitError as error:
        if as_json:
            _print_json({"runs": [], "problems": error.as_dicts()})
        else:
            print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception:
        return _fault_of_ours()


def _fault_of_ours() -> int:
    """Says that something is wrong with us; the traceback goes to a file."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="cruijff-kit-", suffix=".log", delete=False) as log:
        log.write(traceback.format_exc())
    what = " ".join("".join(traceback.format_exception_only(sys.exception())).split())
    print(f"cruijff-kit failed, and should not have: {what}\nplease report it with {log.name}", file=sys.stderr)
    return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cruijff-kit",
        description="From one experiment.yaml to fine-tuned and evaluated models.",
        epilog="example: cruijff-kit generate . && cruijff-kit run . --multirun",
    )
    parser.add_argument("--version", action="version", version=f"cruijff-kit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter

    text = "check experiment.yaml and write a torchtune config and an evaluation script for each point of the sweep"
    generate = commands.add_parser("generate", help=text, description=text, epilog=GENERATE_EPILOG, formatter_class=raw)
    generate.add_argument("dir", type=Path, metavar="DIR", help="folder that holds experiment.yaml")
    generate.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    generate.add_argument("--force", action="store_true", help="overwrite generated files that differ")
    generate.add_argument("--keep-ids", action="store_true", help="likewise, and runs that were there keep their numbers, new ones get the next")
    generate.add_argument("--yes", action="store_true", help="do not ask before 100 runs or more")
    generate.add_argument("--cluster", metavar="NAME", help="cluster profile of the #SBATCH lines in scripts/")
    generate.add_argument("--json", action="store_true", help="print runs and problems as JSON")
    generate.set_defaults(function=_generate)

    text = "check experiment.yaml as generate does, and write nothing"
    check = commands.add_parser("check", help=text, description=text, epilog=CHECK_EPILOG, formatter_class=raw)
    check.add_argument("dir", type=Path, metavar="DIR", help="folder that holds experiment.yaml")
    check.add_argument("--deep", action="store_true", help="build models, data and evaluation tasks too: runs your task files, needs torch")
    check.add_argument("--strict", action="store_true", help="a warning counts as an error")
    check.add_argument("--json", action="store_true", help="print runs and problems as JSON")
    check.set_defaults(function=_check)

    text = "check what a sweep needs of Slurm, of its nodes and of the disks, before it waits in a queue"
    doctor = commands.add_parser("doctor", help=text, description=text, epilog=DOCTOR_EPILOG, formatter_class=raw)
    doctor.add_argument("dir", type=Path, metavar="DIR", help="folder that holds experiment.yaml")
    doctor.add_argument("--cluster", metavar="NAME", help="cluster profile; that of scripts/ by default")
    doctor.add_argument("--wait", type=int, default=30, metavar="SECONDS", help="for a free node, which a short job looks at (30); 0 for no job")
    doctor.add_argument("--json", action="store_true", help="print the checks as JSON")
    doctor.set_defaults(function=_doctor)

    text = "delete intermediate epochs that a later one makes unneeded; asks first"
    prune = commands.add_parser("prune", help=text, description=text, epilog=PRUNE_EPILOG, formatter_class=raw)
    prune.add_argument("dir", type=Path, metavar="DIR", help="folder that holds experiment.yaml")
    prune.add_argument("runs", nargs="*", metavar="run_000", help="only of these runs")
    prune.add_argument("--asides", action="store_true", help="delete what was moved aside too: results/run_000.20261124T093000")
    prune.add_argument("--dry-run", action="store_true", help="print what would be deleted")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    prune.add_argument("--json", action="store_true", help="print it as JSON; nothing is deleted then without --yes")
    prune.set_defaults(function=_prune)

    text = "train and evaluate on this machine: one point, or with --multirun the sweep"
    run = commands.add_parser(
        "run", help=text, description=text, epilog=RUN_EPILOG, formatter_class=raw, usage="cruijff-kit run DIR [--multirun] [hydra overrides]"
    )
    run.add_argument("dir", type=Path, metavar="DIR", help="folder that holds experiment.yaml")
    run.set_defaults(function=_run)
    return parser


def _generate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.generate import generate

    made = generate(
        arguments.dir,
        dry_run=arguments.dry_run,
        force=arguments.force,
        keep_ids=arguments.keep_ids,
        cluster=arguments.cluster,
        confirm=lambda runs: None if arguments.yes else _confirm(runs),
    )
    if arguments.json:
        _print_json(made.as_dict())
    else:
        _print_plan(made, arguments.dry_run)
    return 0


def _check(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.errors import ExperimentError, strictly
    from cruijff_kit.plan import plan

    made = plan(arguments.dir)
    found, problems = made.as_dict(), made.warnings
    if arguments.deep:
        report = _deep_report(made, arguments.json)
        found["deep"], problems = report.as_dict(), [*problems, *report.problems]
    problems = strictly(problems) if arguments.strict else problems
    wrong = any(problem.level == "error" for problem in problems)
    if arguments.json:
        _print_json({**found, "problems": [problem.as_dict() for problem in problems]})
        return int(wrong)
    if wrong:
        raise ExperimentError(problems)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"✓ No errors: {_count(made.runs, 'run')}, {_count(made.experiment.tasks, 'evaluation task')}")
    return 0


def _deep_report(made: Plan, quiet: bool) -> DeepReport:
    """What the deep check found, printed but for its problems."""
    from rich.console import Console

    from cruijff_kit.deep_check import deep_check
    from cruijff_kit.deep_report import render

    report = deep_check(made)
    if not quiet:
        render(report, Console())
    return report


def _doctor(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.doctor import examine

    checks = []
    for check in examine(arguments.dir, arguments.cluster, arguments.wait, say=lambda text: print(text, file=sys.stderr)):
        checks.append(check)
        if not arguments.json:
            print(check, flush=True)
    failed = any(check.state == "failed" for check in checks)
    if arguments.json:
        _print_json({"checks": [check.as_dict() for check in checks]})
    return int(failed)


def _print_json(values: object) -> None:
    import json

    print(json.dumps(values, indent=2, ensure_ascii=False))


def _print_plan(made: Plan, dry_run: bool) -> None:
    for warning in made.warnings:
        print(warning, file=sys.stderr)
    layout, runs = made.layout, made.runs
    if dry_run:
        for run in runs:
            print(f"{run.id}  {' '.join(f'{name}={value!r}' for name, value in run.params.items())}")
    mark = "Would generate" if dry_run else "✓ Generated"
    evaluated = made.experiment.spec.evaluation.enabled
    print(f"{mark} {_count(runs, 'training config')} ({_span([layout.train_config(run.id).name for run in runs])})")
    if evaluated:
        print(f"{mark} {_count(runs, 'evaluation script')} ({_span([layout.eval_script(run.id).name for run in runs])})")
        print("✓ Validated all evaluation tasks")


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _confirm(runs: int) -> None:
    from cruijff_kit.question import confirm

    confirm(f"{runs} runs. Continue?", f"{runs} runs: say --yes to generate that many", "nothing was written")


def _prune(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.prune_command import Wishes, prune

    return prune(arguments.dir, arguments.runs, Wishes(arguments.asides, arguments.dry_run, arguments.yes, arguments.json))


def _run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit import app

    return app.run(arguments.dir, list(rest))
