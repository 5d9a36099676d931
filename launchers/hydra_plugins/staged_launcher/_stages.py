"""The stages of an application, read from the launcher's config; and the config of one stage.

Knows nothing of processes or machines: the same for every staged launcher.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


@dataclass(frozen=True)
class Stage:
    """A stage, and the stages of the same point that have to succeed before it.

    `name` is None for the one stage of an application that names none.
    """

    name: Optional[str]
    needs: Tuple[str, ...] = ()


WHOLE = Stage(None)


def read_stages(conf: Dict[str, Any], known: Tuple[str, ...] = ("needs",)) -> Tuple[Stage, ...]:
    """The stages in their order; raises on a name, a key or a need that cannot be.

    `known` are the keys that the launcher understands in a stage.
    """
    stages: Dict[str, Stage] = {}
    for name, spec in conf.items():
        where = f"hydra.launcher.stages.{name}"
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise CompactHydraException(f"{where}\n  a stage's name is made of letters, digits, _ . and -")
        spec = _spec(where, spec, known)
        needs = spec["needs"] if isinstance(spec["needs"], list) else [spec["needs"]]
        needs = [need for need in needs if need is not None]
        for need in needs:
            if need not in stages:
                raise CompactHydraException(
                    f"{where}.needs\n  '{need}' is no earlier stage\n  {_listing('earlier stages', stages)}"
                )
        stages[name] = Stage(name, tuple(needs))
    return tuple(stages.values()) or (WHOLE,)


def _spec(where: str, spec: Any, known: Tuple[str, ...]) -> Dict[str, Any]:
    """A stage's keys, `needs` among them."""
    if spec is not None and not isinstance(spec, dict):
        raise CompactHydraException(f"{where}\n  expected keys such as {{needs: null}}, found {spec!r}")
    for key in spec or {}:
        if key not in known:
            raise CompactHydraException(f"{where}.{key}\n  unknown key\n  {_listing('known keys', known)}")
    return {"needs": None, **(spec or {})}


def _listing(title: str, names: Any) -> str:
    return f"{title}: {', '.join(names) or 'none'}"


def point_stages(config: DictConfig, stages: Tuple[Stage, ...], stages_key: str) -> Tuple[Stage, ...]:
    """The stages that this point runs; a need that is not among them counts as met."""
    chosen = None if stages == (WHOLE,) else OmegaConf.select(config, stages_key)
    if not OmegaConf.is_list(chosen):
        return stages
    unknown = [name for name in chosen if name not in {stage.name for stage in stages}]
    if unknown:
        names = [stage.name for stage in stages]
        raise CompactHydraException(
            f"{stages_key}\n  unknown stage '{unknown[0]}'\n  {_listing('stages', names)}"
        )
    return tuple(
        Stage(stage.name, tuple(need for need in stage.needs if need in chosen))
        for stage in stages
        if stage.name in chosen
    )


def stage_config(config: DictConfig, stage: Stage, stage_key: str) -> DictConfig:
    """A copy of a point's config for one stage.

    Each stage has a folder of its own below the point's, or they would overwrite each other's
    `.hydra` and logs.
    """
    config = copy.deepcopy(config)
    if stage.name is None:
        return config
    with read_write(config), open_dict(config):
        OmegaConf.update(config, stage_key, stage.name, force_add=True)
    subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]
    with read_write(config.hydra):
        config.hydra.sweep.subdir = f"{subdir}/{stage.name}"
    return config
