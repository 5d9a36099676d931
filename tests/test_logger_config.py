"""What a run's metric logger is told, and that no run is another for it. What the loggers write: test_metric_loggers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from cruijff_kit import checkpoint, frozen, job_configs, logger_config, preparation, run_mapping, sweep_state
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.experiment import read
from cruijff_kit.generate import change, check_current, generate, train_config_text
from cruijff_kit.job_configs import Filler
from cruijff_kit.overrides import Point
from cruijff_kit.paths import Layout
from cruijff_kit.plan import plan
from cruijff_kit.selection import Selection
from tests.test_generate import edit, tiny

DISK = "torchtune.training.metric_logging.DiskLogger"
THEIRS, OURS = "torchtune.training.metric_logging.WandBLogger", "cruijff_kit.metric_loggers.WandBLogger"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny experiment, ranks 2 and 4, generated."""
    folder = tiny(tmp_path / "experiment")
    generate(folder)
    return folder


def log_with(folder: Path, **node: Any) -> None:
    edit(folder, controls={"_override": {"metric_logger": node}})


def loggers(folder: Path) -> dict[str, Any]:
    """metric_logger of each generated config, as torchtune reads it."""
    generate(folder, force=True)
    paths = sorted((folder / "configs").glob("train_*.yaml"))
    return {path.stem: OmegaConf.to_container(OmegaConf.load(path), resolve=True)["metric_logger"] for path in paths}


def identities(folder: Path) -> dict[str, str]:
    return {run.id: run.identity for run in plan(folder).all_runs}


def finish(folder: Path, run: str) -> Path:
    """torchtune's copy of the run's config, as a training would leave it."""
    copy = folder / "results" / run / checkpoint.CONFIG_COPY
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text((folder / "configs" / f"train_{run[4:]}.yaml").read_text())
    return copy


@pytest.mark.parametrize("component", [THEIRS, OURS])
def test_wandb_is_told_the_experiment_the_run_and_its_parameters_and_stays_offline(component: str, folder: Path) -> None:
    log_with(folder, _component_=component, project="p")
    edit(folder, experiment={"tags": ["$${a}", "b c"]}, variables={"optimizer.weight_decay": [0.1]})
    assert loggers(folder)["train_001"] == {
        "_component_": component,
        "log_dir": str(folder / "results/run_001/logs"),
        "project": "p",
        "group": "tiny",
        "name": "run_001",
        "config": {"lora_rank": 4, "optimizer.weight_decay": 0.1},
        "tags": ["$${a}", "b c"],
        "mode": "offline",
        "allow_val_change": True,
    }


def test_what_the_user_says_of_the_logger_stands(folder: Path) -> None:
    own = {"_component_": OURS, "dir": "/x", "group": "g", "name": None, "config": {}, "tags": [], "mode": "online", "allow_val_change": False}
    log_with(folder, **own)
    assert loggers(folder)["train_000"] == {**own, "log_dir": str(folder / "results/run_000/logs")}


def test_a_dotted_control_chooses_the_logger_too(folder: Path) -> None:
    edit(folder, controls={"metric_logger._component_": THEIRS, "metric_logger.project": "p"})
    assert [(node["project"], node["name"]) for node in loggers(folder).values()] == [("p", "run_000"), ("p", "run_001")]


def test_a_swept_mapping_stands_in_the_config_and_not_among_the_parameters(folder: Path) -> None:
    dataset = {"_component_": "torchtune.datasets.instruct_dataset", "source": "json", "data_files": "data/train.jsonl", "split": "train"}
    edit(folder, variables={"dataset": [dataset]}, controls={"dataset": None, "_override": {"metric_logger": {"_component_": OURS}}})
    assert [node["config"] for node in loggers(folder).values()] == [{"lora_rank": 2}, {"lora_rank": 4}]


@pytest.mark.parametrize("component", [DISK, "cruijff_kit.metric_loggers.CSVLogger", "cruijff_kit.metric_loggers.TensorBoardLogger"])
def test_other_loggers_are_told_no_more_than_where_their_files_lie(component: str, folder: Path) -> None:
    log_with(folder, _component_=component)
    assert loggers(folder)["train_000"] == {"_component_": component, "log_dir": str(folder / "results/run_000/logs")}


# Identity


@pytest.mark.parametrize("component", [OURS, "cruijff_kit.metric_loggers.CSVLogger", "torchtune.training.metric_logging.StdoutLogger"])
def test_another_logger_makes_no_other_run(component: str, folder: Path) -> None:
    before, copies = identities(folder), [finish(folder, run) for run in ("run_000", "run_001")]
    log_with(folder, _component_=component)
    with pytest.raises(CruijffKitError, match="generate --force"):
        generate(folder)
    for way in ({"force": True}, {"keep_ids": True}):
        generate(folder, **way)  # no number that is in use would become another run
        assert identities(folder) == before
    check_current(plan(folder))
    for run, copy in zip(before, copies):
        assert checkpoint.differences(folder / "configs" / f"train_{run[4:]}.yaml", copy.parent, folder) == {}
        assert checkpoint.trained_identity(copy.parent, folder) == before[run]


def test_a_run_has_the_digest_that_it_had_when_the_logger_was_part_of_it(folder: Path) -> None:
    """Of a config with the logger that all of torchtune's have: what was generated and trained before keeps its numbers."""
    import hashlib
    import json

    from cruijff_kit.identity import normalised

    for run in plan(folder).all_runs:
        whole = {**normalised(run.config, folder), "metric_logger": {"_component_": DISK, "log_dir": "${output_dir}/logs"}}
        assert run.config["metric_logger"] == whole["metric_logger"]
        assert run.identity == hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def test_points_that_differ_in_their_logger_alone_are_one_point_twice(folder: Path) -> None:
    edit(folder, variables={"lora_rank": None, "metric_logger.log_dir": ["/a", "/b"]}, controls={"lora_rank": 2})
    with pytest.raises(CruijffKitError) as fault:
        plan(folder)
    assert str(fault.value) == (
        "experiment.yaml:9  variables\n"
        "  run_001 and run_000 compose to the same torchtune config, but for metric_logger, which changes nothing in what is trained\n"
        "  remove one of the two points"
    )


@pytest.mark.parametrize(
    ("node", "where", "said"),
    [
        ({"log_dir": "/scratch/logs"}, "log_dir", "log_dir is /scratch/logs: what 2 runs log would lie there together"),
        ({"log_dir": "logs"}, "log_dir", "log_dir is logs: what 2 runs log would lie there together"),
        ({"log_dir": "${output_dir}/../logs"}, "log_dir", "log_dir is ${output_dir}/../logs: what 2 runs log would lie there together"),
        ({"log_dir": "/logs", "filename": "log"}, "log_dir", "log_dir is /logs: what 2 runs log would lie there in one file"),
        ({"_component_": "cruijff_kit.metric_loggers.CSVLogger", "log_dir": "/a"}, "log_dir", "log_dir is /a: what 2 runs log would lie there in one file"),
    ],
)
def test_a_folder_in_which_several_runs_would_log_is_a_warning(node: dict[str, str], where: str, said: str, folder: Path) -> None:
    log_with(folder, **node)
    (warning,) = [problem for problem in plan(folder).warnings if "run" in problem.what]
    assert (warning.level, warning.key) == ("warning", f"controls._override.metric_logger.{where}")
    assert warning.what == f"{said}, and no table could show a run's loss from there"
    assert warning.fix == f"{where}: ${{output_dir}}/logs gives each run its own"


def test_folders_in_which_each_run_logs_alone_are_no_warning(folder: Path) -> None:
    for place in ("${output_dir}/elsewhere", "/scratch/${output_dir}/logs", "/scratch/${model.lora_rank}"):
        log_with(folder, log_dir=place)
        assert plan(folder).warnings == []
    edit(folder, variables={"lora_rank": None, "pair": [{"lora_rank": rank, "metric_logger.log_dir": f"/logs/{rank}"} for rank in (2, 4)]})
    edit(folder, controls={"_override": None})
    assert plan(folder).warnings == []


def overridden(folder: Path, raw: dict[str, Any]) -> tuple[Any, Any]:
    """The plan, and the run that the second point becomes with an override below `torchtune`."""
    made = plan(folder)
    run = made.runs[1]
    point = Point({**run.params, **{f"metric_logger.{name}": value for name, value in raw.items()}}, dict(run.settings), {"metric_logger": raw})
    return made, preparation._run_of(made, {each.identity: each for each in made.all_runs}, point)


def test_an_override_of_the_logger_holds_for_the_run_that_is_there(folder: Path) -> None:
    log_with(folder, _component_=OURS, project="p")
    generate(folder, force=True)
    made, run = overridden(folder, {"project": "q", "mode": "online"})
    assert (run.id, made.added) == ("run_001", [])
    node = yaml.safe_load(train_config_text(made, run))["metric_logger"]
    assert node == {**made.runs[1].config["metric_logger"], "project": "q", "mode": "online"}
    assert node["config"] == {"lora_rank": 4}


def test_a_job_with_such_an_override_has_a_config_of_its_own_and_counts_as_the_same_work(folder: Path) -> None:
    log_with(folder, _component_=OURS, project="p")
    generate(folder, force=True)
    made, other = overridden(folder, {"project": "q"})
    config = {
        "stages": ["train"], "only": "missing", "again": [], "evaluation": {"enabled": False, "baseline": False, "tasks": [], "objective": None},
        "hydra": {"launcher": {"_target_": "StagedSlurmLauncher"}},
    }  # fmt: skip
    filled = {}
    for run in (made.runs[1], other):
        filler = Filler(made, change(made).files, Selection(sweep_state.look(folder)))
        (filled[run.config["metric_logger"]["project"]],) = filler.prepared([job_configs.Point(OmegaConf.create(config), run, (), ())]).points
    assert filled["p"]["keys"] == filled["q"]["keys"]
    for project, point in filled.items():
        path = Path(point.commands.train[-1])
        assert path.parent == frozen.place(folder, point.frozen.files)
        frozen.thaw(folder, point.frozen.files)
        assert yaml.safe_load(path.read_text())["metric_logger"]["project"] == project


def test_a_point_without_such_an_override_has_the_generated_config(folder: Path) -> None:
    log_with(folder, _component_=OURS)
    generate(folder, force=True)
    made, run = overridden(folder, {})
    assert run == made.runs[1]


def test_a_logger_sets_no_run_apart(folder: Path, cruijff: Callable[..., CompletedProcess[str]]) -> None:
    """Nor would seeds be averaged that differ in it."""
    edit(folder, controls={"metric_logger.filename": "log"})
    generate(folder, force=True)
    done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local", "stages=[]", "lora_rank=2", "seed=5,6", "torchtune.metric_logger.log_dir=/a")
    assert done.returncode == 0, done.stderr
    mapping = run_mapping.read(Layout.of(read(folder)[0]))
    assert mapping is not None
    rows = [row for row in mapping.rows if row.added]
    assert [row.params for row in rows] == [{"lora_rank": 2, "seed": 5}, {"lora_rank": 2, "seed": 6}]
    assert {run.id: run.config["metric_logger"]["log_dir"] for run in plan(folder).added} == {"run_002": "/a", "run_003": "/a"}
    apart = replace(rows[0], params={**rows[0].params, "metric_logger.log_dir": "/a"}).told_apart({**rows[0].settings, "metric_logger.filename": "other"})
    assert apart == {"lora_rank": 2, "seed": 5}


CSV = "cruijff_kit.metric_loggers.CSVLoger"
NO_CSV = "metric_logger._component_\n  there is no 'CSVLoger' in cruijff_kit.metric_loggers\n  did you mean 'CSVLogger'?"
WRONG = {
    f"torchtune.metric_logger._component_={CSV}": NO_CSV,
    "torchtune.metric_logger._component_=torchtune.training.metric_logging.CometLogger": (
        "metric_logger._component_\n  torchtune.training.metric_logging.CometLogger needs the package comet_ml, which is not installed\n  pip install comet_ml"
    ),
    "torchtune.metric_logger=null": (
        "metric_logger\n  lora_finetune_single_device makes a logger of metric_logger, and it is not set\n"
        + "\n".join(f"  {line}" for line in logger_config.USUAL_BLOCK.splitlines())
    ),
    "+torchtune.metric_logger.log_dirr=/x": f"metric_logger.log_dirr\n  {DISK} does not accept 'log_dirr'\n  did you mean 'log_dir'?",
}


@pytest.mark.parametrize("word", WRONG)
def test_an_override_of_the_logger_of_a_run_that_is_there_is_checked(word: str, folder: Path, cruijff: Callable[..., CompletedProcess[str]]) -> None:
    done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local", "dry_run=true", word)
    assert (done.returncode, done.stderr) == (1, f"command line  {WRONG[word]}\n")


@pytest.mark.parametrize("controls", [{"_override": {"metric_logger": {"_component_": DISK}}}, {"metric_logger._component_": DISK}])
def test_a_fault_stands_at_the_word_that_beats_experiment_yaml(controls: dict[str, Any], folder: Path) -> None:
    edit(folder, controls=controls)
    with pytest.raises(CruijffKitError) as fault:
        overridden(folder, {"_component_": CSV})
    assert str(fault.value) == f"command line  {NO_CSV}"


def test_points_of_a_command_line_that_differ_in_their_logger_alone_are_a_fault(folder: Path, cruijff: Callable[..., CompletedProcess[str]]) -> None:
    for rank, run in ((2, "run_000"), (8, "run_002")):
        words = ["dry_run=true", "torchtune.metric_logger.log_dir=/a,/b", f"lora_rank={rank}"]
        done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local", *words)
        assert done.returncode == 1
        assert done.stderr == (
            "command line  torchtune.metric_logger\n"
            f"  points that differ in metric_logger alone, which changes nothing in what is trained, are one run, {run}\n"
            "  give it one value\n"
        )
    done = cruijff("run", folder, "--multirun", "hydra/launcher=staged_local", "dry_run=true", "torchtune.metric_logger.log_dir=/a")
    assert done.returncode == 0, done.stderr
