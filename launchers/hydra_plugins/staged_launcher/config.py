"""The options of the plugins, registered as `hydra/sweeper=grid` and `hydra/launcher=staged_local`."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from hydra.core.config_store import ConfigStore


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
class StagedLocalConf:
    """Options of the launcher that runs the stages of each point on this machine."""

    _target_: str = "hydra_plugins.staged_launcher.local_launcher.StagedLocalLauncher"

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
    # jobs that run at once; null: as many as there are GPUs, one without any
    max_parallel: Optional[int] = None
    # where submitit keeps each job's pickles and log; %j is the job's id
    submitit_folder: str = "${hydra.sweep.dir}/.submitit/%j"
    # seconds between two looks at the running jobs
    poll_s: float = 0.2


ConfigStore.instance().store(
    group="hydra/sweeper", name="grid", node=GridSweeperConf(), provider="staged_launcher"
)
ConfigStore.instance().store(
    group="hydra/launcher", name="staged_local", node=StagedLocalConf(), provider="staged_launcher"
)
