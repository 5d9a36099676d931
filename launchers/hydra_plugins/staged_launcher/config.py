"""The options of the plugins, registered as `hydra/sweeper=grid` and `hydra/launcher=staged_local`."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class GridSweeperConf:
    """Options of the sweeper that runs every combination of the values of its keys."""

    _target_: str = "hydra_plugins.staged_launcher.grid_sweeper.GridSweeper"

    # key -> values, written as on the command line: {lora_rank: "8,16", seed: "range(3)"}
    params: Optional[Dict[str, str]] = field(default_factory=dict)
    # points to leave out; each names some of the sweep's keys: [{lora_rank: 64, learning_rate: 0.001}]
    exclude: List[Dict[str, Any]] = field(default_factory=list)
    # points given to the launcher at once; null: all
    max_batch_size: Optional[int] = None


@dataclass
class StagedConf:
    """Options of every staged launcher."""

    _target_: str = MISSING

    # name -> {needs: an earlier stage, a list of them, or null}, in the order of a point's stages;
    # empty: the task function runs once a point, and no stage is set
    stages: Dict[str, Any] = field(default_factory=dict)
    # key of the application's config that is set to the name of the stage that runs
    stage_key: str = "stage"
    # key that may hold a list: the stages of this point that run; absent or null: all
    stages_key: str = "stages"
    # key with the name under which a point is shown; its overrides where there is none
    name_key: str = "run"
    # dotted path of a module or object that may have prepare(configs) and progress(line)
    hooks: Optional[str] = None


@dataclass
class StagedLocalConf(StagedConf):
    """Options of the launcher that runs the stages of each point on this machine."""

    _target_: str = "hydra_plugins.staged_launcher.local_launcher.StagedLocalLauncher"

    # jobs that run at once; null: as many as there are GPUs, one without any
    max_parallel: Optional[int] = None
    # where submitit keeps each job's pickles and log; %j is the job's id
    submitit_folder: str = "${hydra.sweep.dir}/.submitit/%j"
    # seconds between two looks at the running jobs
    poll_s: float = 0.2


@dataclass
class StagedSlurmConf(StagedConf):
    """Options of the launcher that sends each stage of all points to Slurm as an array.

    A stage may hold options of hydra-submitit-launcher's SlurmQueueConf for all points beside `needs`:
    partition, gpus_per_node, timeout_min, ...
    """

    _target_: str = "hydra_plugins.staged_launcher.slurm_launcher.StagedSlurmLauncher"

    # key that may hold, below a stage's name, a text that tells its work from any other, in this launch and earlier ones
    keys_key: str = "keys"
    # key that may hold, below a stage's name, options of SlurmQueueConf for this point
    resources_key: str = "cluster"
    # what the jobs are called, with the stage's name behind it
    name: str = "${hydra.job.name}"
    # where launches are kept: what they froze, their scripts, logs and results. A launch looks there for
    # jobs that an earlier one sent, and sends none of them again
    folder: str = "${hydra.sweep.dir}/.submitit"
    # have Slurm drop a stage of a point when what it waits for has failed; sites may forbid it
    kill_on_invalid_dep: bool = True
    # return when all jobs have ended, with their results; else when Slurm has accepted them
    wait: bool = False
    # seconds between two looks for results; Slurm itself is asked every 5 seconds at most
    poll_s: float = 1.0


ConfigStore.instance().store(
    group="hydra/sweeper", name="grid", node=GridSweeperConf(), provider="staged_launcher"
)
ConfigStore.instance().store(
    group="hydra/launcher", name="staged_local", node=StagedLocalConf(), provider="staged_launcher"
)
ConfigStore.instance().store(
    group="hydra/launcher", name="staged_slurm", node=StagedSlurmConf(), provider="staged_launcher"
)
