"""A launch's frozen files, its sbatch scripts, and the calls of sbatch."""

import pickle
import shlex
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from hydra.errors import CompactHydraException
from omegaconf import DictConfig
from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission

from cruijff_kit import slurm
from cruijff_kit.batch_script import additional_parameters, setup_lines
from cruijff_kit.errors import closest
from cruijff_kit.launches import SCRIPT, Launch, SentArray
from cruijff_kit.slurm_output import ranges

from ._job import absolute_sys_path
from ._slurm_arrays import Array
from ._slurm_job import ArrayStage
from ._works import Work

# of a stage's resources, those that are not submitit's parameters of the same name
OWN_OPTIONS = ("environment", "max_num_timeout")
SLURM_OPTIONS = (
    "partition", "account", "qos", "constraint", "exclude", "gres", "nodes", "gpus_per_node", "cpus_per_task",
    "mem_gb", "mem_per_gpu", "mem_per_cpu", "cpus_per_gpu", "gpus_per_task", "tasks_per_node", "timeout_min",
    "signal_delay_s", "array_parallelism", "comment", "additional_parameters", "setup", "mail_user", "mail_type",
)  # fmt: skip


class _Script(SlurmExecutor):
    """submitit's executor, of which the text of the sbatch script is wanted."""

    def text(self) -> str:
        return self._make_submission_file_text(self._submitit_command_str, "")


class Freezer:
    """Writes what the jobs of a launch will read: the context once, and each work's config once."""

    def __init__(self, launch: Launch, context: bytes, stage_key: str) -> None:
        self._stage_key = stage_key
        self._context, self._configs = launch.folder / "context.pkl", launch.folder / "configs.pkl"
        self._context.write_bytes(context)
        self._places: Dict[int, Tuple[int, int]] = {}

    def freeze(self, works: Sequence[Work]) -> None:
        """Pickle the config of each work."""
        with self._configs.open("wb") as file:
            for work in works:
                text = _pickled(work.config)
                self._places[id(work)] = (file.tell(), len(text))
                file.write(text)

    def callable(self, array: Array) -> ArrayStage:
        """What every task of the array runs."""
        return ArrayStage(
            str(self._context),
            str(self._configs),
            {index: self._places[id(work)] for index, work in array.works.items()},
            array.stage,
            self._stage_key,
            absolute_sys_path(),
            array.resources.get("max_num_timeout"),
        )


def _pickled(config: DictConfig) -> bytes:
    """The config as pickle has it, or where classes of the application's script are in it, as cloudpickle does, at three times the cost."""
    text = pickle.dumps(config)
    if b"__main__" not in text:
        return text
    import cloudpickle

    return cloudpickle.dumps(config)


def write_array(array: Array, record: SentArray, job: ArrayStage) -> None:
    """Write the pickle that all tasks of the array load, into the folder of its script and logs."""
    record.folder.mkdir()
    DelayedSubmission(job).dump(record.folder / "array.pkl")


def write_script(array: Array, record: SentArray, name: str, drop: bool) -> Path:
    """Write the sbatch script of an array; `drop` ends a task of which what it waits for has failed."""
    executor = _Script(record.folder)
    executor.update_parameters(**executor._convert_parameters(_parameters(array, record, name, drop)))
    executor.parameters["map_count"] = len(array.works)
    path = record.folder / SCRIPT
    path.write_text(executor.text())
    return path


def _parameters(array: Array, record: SentArray, name: str, drop: bool) -> Dict[str, Any]:
    """submitit's parameters: the stage's resources, and what makes it this array."""
    given = {key: array.resources[key] for key in SLURM_OPTIONS if array.resources.get(key) is not None}
    limit = given.pop("array_parallelism", None)
    extra = additional_parameters(given)
    if array.resources.get("max_num_timeout"):
        extra.setdefault("requeue", True)  # a site may have set JobRequeue=0
    extra["array"] = ranges(array.works) + (f"%{limit}" if limit else "")
    if array.dependency:
        extra["dependency"] = array.dependency
        extra.update({"kill-on-invalid-dep": "yes"} if drop else {})
    return {
        "timeout_min": None,  # submitit's default is 5 minutes; Slurm's own holds where nothing is said
        "nodes": None,
        "tasks_per_node": 1,
        "wckey": None,
        **given,
        "name": f"{name}-{array.stage.name}" if array.stage.name else name,
        "comment": " ".join(filter(None, [given.get("comment"), record.token])),
        "signal_delay_s": _signal_delay_s(given),
        "stderr_to_stdout": True,
        "setup": ["set -eo pipefail", *setup_lines(array.resources), *_own_lines(record.folder)],
        # a process that waits for one that has failed would wait to the time limit
        "srun_args": ["--kill-on-bad-exit=1", *_cores(given)],
        "additional_parameters": extra,
    }


def _cores(given: Mapping[str, Any]) -> List[str]:
    """srun does not take over sbatch's --cpus-per-task (Slurm 22.05 and later)."""
    return [f"--cpus-per-task={given['cpus_per_task']}"] if "cpus_per_task" in given else []


def _signal_delay_s(given: Mapping[str, Any]) -> int:
    """How long before its time limit a task is told; of a short one at most a third, or it would never get to work."""
    wanted = int(given.get("signal_delay_s", 90))  # submitit's default
    limit = given.get("timeout_min")
    return wanted if limit is None else min(wanted, int(limit) * 60 // 3)


def _own_lines(folder: Path) -> List[str]:
    """Remove what an earlier start of the task left, and give it the name under which submitit looks for its pickle.

    submitit renames pickles when sbatch has returned, and a client killed before that loses them all.
    """
    task = f'{shlex.quote(str(folder))}/"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"'
    return [f"rm -f {task}_*_result.pkl", f"ln -sfn array.pkl {task}_submitted.pkl"]


def processes(resources: Mapping[str, Any]) -> int:
    """How many processes srun starts of a task."""
    return int(resources.get("nodes") or 1) * int(resources.get("tasks_per_node") or 1)


def check_folder(folder: Path) -> None:
    """Raise on a folder that cannot stand in a batch script: Slurm and submitit replace %j there, and a line ends at its end."""
    for sign, name in (("%", "a % sign"), ("\\", "a backslash"), ("\n", "a line break"), ("\r", "a line break")):
        if sign in str(folder):
            raise CompactHydraException(
                f"hydra.launcher.folder\n  {str(folder)!r} holds {name}, which Slurm does not take in the name of a log\n"
                "  choose another folder"
            )


def check_options(resources: Mapping[str, Any], where: str) -> None:
    """Raise on a name that is no option of a stage."""
    for key in resources:
        if key not in (*SLURM_OPTIONS, *OWN_OPTIONS):
            known = f"known options: {', '.join((*SLURM_OPTIONS, *OWN_OPTIONS))}"
            raise CompactHydraException(f"{where}.{key}\n  unknown option\n  {closest(key, SLURM_OPTIONS + OWN_OPTIONS) or known}")


def send(script: Path, lock: int) -> int:
    """Call sbatch; returns the job id."""
    answer = slurm.call(["sbatch", "--parsable", str(script)], pass_fds=[lock])
    return int(answer.split(";")[0])


def test_only(array: Array) -> None:
    """Ask Slurm whether it would take a job with these resources; raises with its words if not."""
    record = SentArray(Path("/"), array.stage.name, "", None, 1, {})
    executor = _Script(Path("/"))
    executor.update_parameters(**executor._convert_parameters(_parameters(array, record, "test", False)))
    options = [word for flag in _flags(executor.text()) for word in shlex.split(flag)]
    try:
        slurm.test_only([option for option in options if option.partition("=")[0] not in (*slurm.SBATCH_ONLY, "--comment")])
    except slurm.SlurmError as error:
        raise CompactHydraException(f"{f'stage {array.stage.name}: ' if array.stage.name else ''}{error}") from error


def _flags(script: str) -> Iterator[str]:
    return (line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH "))
