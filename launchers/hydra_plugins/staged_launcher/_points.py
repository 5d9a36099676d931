"""From a sweep's points to works, and from works that are over to the points' results."""

import copy
from typing import Any, Dict, List, Sequence, Tuple

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, filter_overrides
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ._hooks import Prepared
from ._stages import Stage, point_stages
from ._works import Part, State, Work


def plan(prepared: Prepared, stages: Tuple[Stage, ...], stages_key: str, name_key: str) -> List[Work]:
    """The works in the order in which they should begin: extras, then points; a shared config is one work."""
    works: Dict[int, Work] = {}
    for index, config in enumerate(prepared.points):
        if id(config) not in works:
            selected = point_stages(config, stages, stages_key)
            works[id(config)] = Work(_name(config, name_key, f"point {index}"), config, selected)
        works[id(config)].points.append(index)
    by_point = {index: work for work in works.values() for index in work.points}
    apart = [(extra, after) for extra, after in zip(prepared.extras, prepared.after) if id(extra) not in works]
    extras = []
    for number, (config, after) in enumerate(apart):
        extras.append(_extra(config, number, stages, stages_key, name_key))
        extras[-1].follows = list(dict.fromkeys(by_point[index] for index in after))
    return extras + list(works.values())


def _extra(config: DictConfig, index: int, stages: Tuple[Stage, ...], stages_key: str, name_key: str) -> Work:
    """A work without a point; a number below zero and a folder of its own keep it off every point's."""
    name = _name(config, name_key, f"extra {index}")
    config = _numbered(copy.deepcopy(config), -1 - index)
    with read_write(config.hydra):
        config.hydra.sweep.subdir = f"extra_{index}"
    return Work(name, config, point_stages(config, stages, stages_key))


def _numbered(config: DictConfig, number: int) -> DictConfig:
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.num = number
    return config


def _name(config: DictConfig, name_key: str, fallback: str) -> str:
    """What to call a work: the value at its name key, or its overrides."""
    try:
        name = OmegaConf.select(config, name_key)
    except OmegaConfBaseException:  # an interpolation that only the job can resolve
        name = None
    if isinstance(name, (str, int, float)):
        return str(name)
    return " ".join(filter_overrides(config.hydra.overrides.task)) or fallback


def point_returns(works: Sequence[Work], configs: Sequence[DictConfig]) -> List[JobReturn]:
    """One result a point, in the order of the points; `configs` are the points as composed."""
    works_by_point = {index: work for work in works for index in work.points}
    results = []
    for index, config in enumerate(configs):
        result = copy.copy(_work_return(works_by_point[index]))
        result.overrides = OmegaConf.to_container(config.hydra.overrides.task)
        results.append(result)
    return results


def _work_return(work: Work) -> JobReturn:
    """The last stage's result, or the exception of the first that failed."""
    failed = [part for part in work.parts.values() if part.state is State.FAILED]
    if failed:
        return _made_up(JobStatus.FAILED, failed[0].error)
    done: List[Part] = list(work.parts.values())
    result = done[-1].result if done else None  # none yet where the launch does not wait for its jobs
    return result or _made_up(JobStatus.COMPLETED, None)


def _made_up(status: JobStatus, value: Any) -> JobReturn:
    """A JobReturn for a work of which no job returned one."""
    return JobReturn(task_name=JobRuntime.instance().get("name"), status=status, _return_value=value)
