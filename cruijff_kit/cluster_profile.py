"""Cluster profiles: what a stage asks Slurm for, read from conf/cluster/ or from the user's own folder.

A profile is the same for the scripts and for Hydra: one schema, one reader, the same faults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit.batch_script import additional_parameters
from cruijff_kit.cluster_faults import form_fault, key_faults, type_fault, value_faults
from cruijff_kit.cluster_schema import OPTIONS, STAGES, Profile
from cruijff_kit.errors import COMMAND_LINE, ExperimentError, Problem, closest
from cruijff_kit.paths import conf_dir


def own_conf() -> Path:
    """The folder of the user's own part of conf/."""
    return Path(os.environ.get("CRUIJFF_KIT_CONF") or Path.home() / ".config" / "cruijff-kit").expanduser().absolute()


def folders() -> list[Path]:
    """Where profiles lie; one in an earlier folder comes before one of the same name."""
    return [own_conf() / "cluster", conf_dir() / "cluster"]


def file_of(name: str) -> Path:
    """The file of the profile `name`.

    Raises:
        ExperimentError: there is none.
    """
    path = None if os.sep in name else next((folder / f"{name}.yaml" for folder in folders() if (folder / f"{name}.yaml").is_file()), None)
    if path is None:
        names = sorted({file.stem for folder in folders() for file in folder.glob("*.yaml")})
        places = " and ".join(str(folder) for folder in folders())
        fix = f"{closest(name, names) or 'there are ' + ', '.join(names)}\nprofiles lie in {places}"
        raise ExperimentError([Problem(COMMAND_LINE, f"no cluster profile '{name}'", "cluster", fix=fix)])
    return path


def profile(name: str) -> dict[str, dict[str, Any]]:
    """The cluster profile `name`, every key of both stages: the user's own, else the packaged one.

    Raises:
        ExperimentError: there is none of that name, or something in it is wrong.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = file_of(name)
    try:
        given = OmegaConf.load(path)  # as Hydra does
        if fault := form_fault(OmegaConf.to_container(given), str(path)):
            raise ExperimentError([_placed(fault, path)])
        merged = OmegaConf.merge(with_defaults(), given)
    except OmegaConfBaseException as error:
        raise ExperimentError([_placed(type_fault(error, str(path)), path)]) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ExperimentError([Problem(str(path), f"cannot be read: {error}")]) from None
    try:
        return checked(merged, str(path))
    except ExperimentError as error:
        raise ExperimentError(_placed(problem, path) for problem in error.problems) from None


@cache
def with_defaults() -> Any:
    """A profile that sets nothing, typed."""
    from omegaconf import OmegaConf

    stage = OmegaConf.load(conf_dir() / "cluster_keys.yaml")
    return OmegaConf.merge(schema(), dict.fromkeys(STAGES, stage))


def schema() -> Any:
    """The types of a profile, without values; what is named by the user may be added without a `+`."""
    from omegaconf import OmegaConf

    typed = OmegaConf.structured(Profile)
    for stage in STAGES:
        for key in ("environment", "additional_parameters"):
            typed[stage][key] = {}
            OmegaConf.set_struct(typed[stage][key], False)
    return typed


def checked(stages: Any, file: str = COMMAND_LINE, above: str = "") -> dict[str, dict[str, Any]]:
    """Both stages of a profile as plain values, each of which Slurm and the shell may be given.

    Args:
        stages: an OmegaConf node of the schema.
        file: where faults are said to stand.
        above: what is before `train` in the keys of faults: `cluster.`.

    Raises:
        ExperimentError: all that is wrong with them.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(stages, resolve=True)
    except OmegaConfBaseException as error:
        fix = "a ${NAME} that is meant for the shell is written \\${NAME}, or $NAME"
        raise ExperimentError([Problem(file, str(error.msg or error).splitlines()[0], str(error.full_key or ""), fix=fix)]) from None
    problems = list(key_faults(plain, file, above))
    for stage in STAGES:
        problems += [Problem(file, what, f"{above}{stage}.{key}") for key, value in plain[stage].items() for what in value_faults(key, value)]
    if problems:
        raise ExperimentError(problems)
    return plain


def _placed(problem: Problem, path: Path) -> Problem:
    """`problem` with its line, where the file is read that far."""
    from cruijff_kit.yaml_source import read_yaml

    try:
        line = read_yaml(path).line(tuple(problem.key.split(".")))
    except ExperimentError:
        return problem
    return replace(problem, line=line)


# What becomes of a stage's values


def gpus_per_node(stage: Mapping[str, Any]) -> int:
    """The GPUs of each node: `gpus_per_node`, or those of `gres`, as in gpu:a100:2; one where neither says."""
    if stage["gpus_per_node"] is not None:
        return max(1, stage["gpus_per_node"])
    counts = [part.split(":")[1:] for part in (stage["gres"] or "").split(",") if part.split(":")[0] == "gpu"]
    return max(1, sum(int(count[-1]) if count and count[-1].isdigit() else 1 for count in counts))


def nodes(stage: Mapping[str, Any]) -> int:
    return max(1, stage["nodes"] or 1)


def gpus(stage: Mapping[str, Any]) -> int:
    """The GPUs that a stage has, over all of its nodes; one where it says none."""
    return nodes(stage) * gpus_per_node(stage)


def additional_options(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The options of sbatch that submitit has no parameter for: mail, and whatever else the profile names; True has no value."""
    mail = {OPTIONS[key]: stage[key] for key in ("mail_user", "mail_type") if stage[key] is not None}
    return {**mail, **additional_parameters(stage)}


def sbatch_options(stage: Mapping[str, Any]) -> list[str]:
    """All options of sbatch that the stage's values are, one argument each: `--mem=64G`."""
    units = {"mem_gb": "G"}
    named = {option: f"{stage[key]}{units.get(key, '')}" for key, option in OPTIONS.items() if stage[key] is not None}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in {**named, **additional_options(stage)}.items()]
