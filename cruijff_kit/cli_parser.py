"""The words of the command line: every command, its flags, and its help, which ends in examples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cruijff_kit import __version__

INIT_EPILOG = """\
templates:
  quickstart   trains a small model on a CPU within minutes; asks nothing (the default)
  rank-sweep   a LoRA rank sweep of your own model and data
  grid         LoRA rank by learning rate, each with two seeds

On a terminal what has no good default is asked for. What is written passes `cruijff-kit check`; nothing is overwritten.

examples:
  cruijff-kit init quickstart
  cruijff-kit init my_study --template rank-sweep
  cruijff-kit init my_study --template grid --yes --base-config llama3_2/1B_lora_single_device \\
      --model-dir ~/models/Llama-3.2-1B-Instruct --data train.jsonl
"""

COMPLETION_EPILOG = """\
Where to put it, once:
  bash   eval "$(cruijff-kit completion bash)"            in ~/.bashrc
  zsh    eval "$(cruijff-kit completion zsh)"             in ~/.zshrc, after compinit
  fish   cruijff-kit completion fish | source             in ~/.config/fish/config.fish

example:
  eval "$(cruijff-kit completion bash)"                   then: cruijff-kit run . --multirun lora_<TAB>
"""

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

RESULTS_EPILOG = """\
A run that has no score stands there with the reason. Numbers in files have all of their digits. Where runs differ in
their seed alone, a second table has the mean of each score and its 95 % confidence interval over seeds.

examples:
  cruijff-kit results .
  cruijff-kit results . --csv > scores.csv
  cruijff-kit results . --parquet means.parquet --means
  cruijff-kit results . --json | jq '.scores[] | select(.status != "success") | [.run, .task, .status]'
"""

REPORT_EPILOG = """\
The file holds everything: it can be mailed and printed, and shows itself without a network and without scripts. One that
an earlier report wrote is replaced.

examples:
  cruijff-kit report .
  cruijff-kit report . --output ~/lora_rank.html
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
  cruijff-kit run . --multirun --dry-run                     what is missing, and why
  cruijff-kit run . --multirun --failed cluster.train.mem_gb=64    what failed, with more memory
  cruijff-kit run . --multirun --again run_003               a finished run anew
  cruijff-kit run . --cfg job                                show the config, run nothing
"""


STATUS_EPILOG = """\
examples:
  cruijff-kit status .
  cruijff-kit status . --watch
  cruijff-kit status . --json | jq '.runs[] | select(.stages.train.state == "failed") | .run'
"""

LOGS_EPILOG = """\
examples:
  cruijff-kit logs . run_003
  cruijff-kit logs . run_003 --stage eval -f
"""

CANCEL_EPILOG = """\
Jobs of other experiments are left alone. What was trained stays, and the next `run` goes on from there.

examples:
  cruijff-kit cancel .
  cruijff-kit cancel . run_003 run_004
"""


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("from 1 to 3600 seconds")
    return seconds


def _add_init(words: argparse.ArgumentParser) -> None:
    words.add_argument("dir", type=Path, metavar="DIR", help="folder to write: a new one, or one that holds other files")
    words.add_argument("--template", choices=("quickstart", "rank-sweep", "grid"), default="quickstart", help="quickstart by default")
    words.add_argument("--name", help="of the experiment; the folder's by default")
    words.add_argument("--question", metavar="TEXT", help="what you want to find out")
    words.add_argument("--base-config", metavar="NAME", help="a LoRA config of torchtune, as `tune ls` names it")
    words.add_argument("--model-dir", metavar="FOLDER", help="the pretrained weights, in the Hugging Face layout")
    words.add_argument("--data", metavar="DATA", help="training data: a .json, .jsonl, .csv or .parquet file, or an id on the Hub")
    words.add_argument("--yes", action="store_true", help="ask nothing: what has no default must be given")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="cruijff-kit",
        description="From one experiment.yaml to fine-tuned and evaluated models.",
        epilog="example: cruijff-kit generate . && cruijff-kit run . --multirun",
    )
    made.add_argument("--version", action="version", version=f"cruijff-kit {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def bare(name: str, text: str, epilog: str, **options: Any) -> argparse.ArgumentParser:
        raw = argparse.RawDescriptionHelpFormatter
        words = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=raw, **options)
        words.set_defaults(command=name, refuse=words.error)
        return words

    def command(name: str, text: str, epilog: str, **options: Any) -> argparse.ArgumentParser:
        """A command on an experiment's folder."""
        words = bare(name, text, epilog, **options)
        words.add_argument("dir", type=Path, metavar="DIR", help="folder that holds experiment.yaml")
        return words

    _add_init(bare("init", "write a new experiment folder from a template", INIT_EPILOG))
    completion = bare("completion", "print the script that completes commands, folders, runs and overrides in a shell", COMPLETION_EPILOG)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that reads it")

    text = "check experiment.yaml and write a torchtune config and an evaluation script for each point of the sweep"
    generate = command("generate", text, GENERATE_EPILOG)
    generate.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    generate.add_argument("--force", action="store_true", help="overwrite generated files that differ")
    generate.add_argument("--keep-ids", action="store_true", help="likewise, and runs that were there keep their numbers, new ones get the next")
    generate.add_argument("--yes", action="store_true", help="do not ask before 100 runs or more")
    generate.add_argument("--cluster", metavar="NAME", help="cluster profile of the #SBATCH lines in scripts/")
    generate.add_argument("--json", action="store_true", help="print runs and problems as JSON")

    text = "check experiment.yaml as generate does, and write nothing"
    check = command("check", text, CHECK_EPILOG)
    check.add_argument("--deep", action="store_true", help="build models, data and evaluation tasks too: runs your task files, needs torch")
    check.add_argument("--strict", action="store_true", help="a warning counts as an error")
    check.add_argument("--json", action="store_true", help="print runs and problems as JSON")

    text = "check what a sweep needs of Slurm, of its nodes and of the disks, before it waits in a queue"
    doctor = command("doctor", text, DOCTOR_EPILOG)
    doctor.add_argument("--cluster", metavar="NAME", help="cluster profile; that of scripts/ by default")
    doctor.add_argument("--wait", type=int, default=30, metavar="SECONDS", help="for a free node, which a short job looks at (30); 0 for no job")
    doctor.add_argument("--json", action="store_true", help="print the checks as JSON")

    text = "train and evaluate, here or on Slurm: one point, or with --multirun the sweep"
    usage = "cruijff-kit run DIR [--multirun] [--failed] [--again RUN] [--dry-run] [hydra overrides]"
    run = command("run", text, RUN_EPILOG, usage=usage, allow_abbrev=False)
    run.add_argument("--failed", action="store_true", help="only the points of which a stage failed, was cancelled or is lost")
    run.add_argument("--again", action="append", metavar="RUN", help="do this run anew, and no other; its results are moved aside")
    run.add_argument("--dry-run", action="store_true", help="show what would be done and why, and do nothing")

    text = "show what every run does: waiting, queued, running, done, failed, cancelled or lost"
    status = command("status", text, STATUS_EPILOG)
    status.add_argument("--watch", type=_seconds, nargs="?", const=5.0, metavar="SECONDS", help="go on until nothing is queued or running, with a look every 5 seconds")
    status.add_argument("--json", action="store_true", help="print it as JSON")

    text = "show every score beside the parameters of its run, as a table or as data"
    results = command("results", text, RESULTS_EPILOG)
    form = results.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print it as CSV")
    form.add_argument("--json", action="store_true", help="print it as JSON")
    form.add_argument("--parquet", type=Path, metavar="FILE", help="write it to a Parquet file")
    results.add_argument("--means", action="store_true", help="only the means over seeds")
    results.add_argument("--force", action="store_true", help="with --parquet: overwrite FILE")

    text = "write question, plan, scores, figures and provenance into one HTML file"
    report = command("report", text, REPORT_EPILOG)
    report.add_argument("--output", type=Path, metavar="FILE", help="where to; DIR/report.html by default")
    report.add_argument("--force", action="store_true", help="overwrite a file that is no report of ours")

    text = "print what a stage of a run said"
    logs = command("logs", text, LOGS_EPILOG)
    logs.add_argument("run", metavar="RUN", help="run_003, or base for the untouched model")
    logs.add_argument("--stage", choices=("train", "eval"), help="of a run that has both: the one that runs, or else failed, or else was the last")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the stage is over")

    text = "end what this experiment has in Slurm or runs on this machine"
    cancel = command("cancel", text, CANCEL_EPILOG)
    cancel.add_argument("runs", nargs="*", metavar="RUN", help="only these runs, each with all of its stages")

    text = "delete intermediate epochs that a later one makes unneeded; asks first"
    prune = command("prune", text, PRUNE_EPILOG)
    prune.add_argument("runs", nargs="*", metavar="RUN", help="only of these runs")
    prune.add_argument("--asides", action="store_true", help="delete what was moved aside too: results/run_000.20261124T093000")
    prune.add_argument("--dry-run", action="store_true", help="print what would be deleted")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    prune.add_argument("--json", action="store_true", help="print it as JSON; nothing is deleted then without --yes")
    return made
