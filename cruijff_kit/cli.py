"""The command line: parse, call one function, print.

Exit codes: 1 for a fault of the user's or a point that failed, 2 for a wrong
flag, 3 for a fault of ours, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cruijff_kit.cli_parser import parser
from cruijff_kit.errors import CruijffKitError

if TYPE_CHECKING:
    from cruijff_kit.deep_check import DeepReport
    from cruijff_kit.plan import Plan


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command in `argv`, sys.argv's by default."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show ✓ is no fault
    words = parser()
    if "_ARGCOMPLETE" in os.environ:  # a TAB, in a shell that has the script of `completion`
        from cruijff_kit.completion import complete

        complete(words)
    arguments, rest = words.parse_known_args(argv)
    if "runs" in arguments and not any(word.startswith("-") for word in rest):
        arguments.runs, rest = [*arguments.runs, *rest], []  # argparse leaves those that stand after a flag
    if rest and arguments.command != "run":
        words.error(f"unrecognized arguments: {' '.join(rest)}")
    commands = {
        "generate": _generate, "check": _check, "doctor": _doctor, "run": _run, "status": _status, "logs": _logs, "cancel": _cancel,
        "prune": _prune, "results": _results, "report": _report, "init": _init, "completion": _completion,
    }  # fmt: skip
    return report_faults(lambda: commands[arguments.command](arguments, rest), getattr(arguments, "json", False))


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
    print(f"please report this with {log.name}\ncruijff-kit failed, and should not have: {what}", file=sys.stderr)
    return 3


def _init(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.init import init

    given = {name: getattr(arguments, name) for name in ("name", "question", "base_config", "model_dir", "data")}
    made = init(arguments.dir, arguments.template, given, arguments.yes)
    for warning in made.warnings:
        print(warning, file=sys.stderr)
    print(f"✓ Wrote {arguments.dir} ({arguments.template}): {', '.join(made.files)}")
    print("next:", *made.commands, sep="\n  ")
    return 0


def _completion(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.completion import script

    print(script(arguments.shell))
    return 0


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

    words = ["only=failed"] if arguments.failed else []
    words += [f"again=[{','.join(run for words in arguments.again for run in words.split(','))}]"] if arguments.again else []
    words += ["dry_run=true"] if arguments.dry_run else []
    return app.run(arguments.dir, [*rest, *words])


def _status(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit import columns, status, status_watch

    if arguments.json:
        state = status.look(arguments.dir)
        _print_json(status.as_dict(state, status.rows(state)))
        return 0
    console = columns.console()
    if arguments.watch is not None:
        status_watch.watch(arguments.dir, console, arguments.watch)
    else:
        status.print_status(arguments.dir, console)
    return 0


def _results(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.results import collect
    from cruijff_kit.results_command import Form, show

    if arguments.force and arguments.parquet is None:
        arguments.refuse("argument --force: only with argument --parquet")
    show(collect(arguments.dir), Form(arguments.csv, arguments.json, arguments.parquet, arguments.means, arguments.force))
    return 0


def _report(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.report import write

    print(f"✓ {write(arguments.dir, arguments.output, arguments.force)}")
    return 0


def _logs(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.logs import print_log

    print_log(arguments.dir, arguments.run, arguments.stage, arguments.follow)
    return 0


def _cancel(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from cruijff_kit.cancel import cancel

    lines = cancel(arguments.dir, arguments.runs)
    print("\n".join(lines) or "nothing of this experiment is queued or running")
    return 0
