"""The whole config of each point of a sweep, as Hydra composes it, at a small part of the cost."""

import copy
import functools
import itertools
import pickle
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from hydra._internal.config_repository import IConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


class PointComposer:
    """Composes points as Hydra's load_sweep_config does, which reads and merges every file for each.

    Values, unlike choices of a config group, are set in what the files gave (hydra-core 1.3,
    ConfigLoaderImpl._load_configuration_impl): that is composed once for each set of choices.
    """

    def __init__(self, hydra_context: HydraContext, master: DictConfig) -> None:
        self._loader, self._master = hydra_context.config_loader, master
        self._parser = OverridesParser.create(config_loader=self._loader)
        self._parsed: Dict[str, Override] = {}
        self._files: Optional[IConfigRepository] = None
        self._bases: Dict[Tuple[str, ...], Callable[[], DictConfig]] = {}

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """The whole config of one point, with `number` as that of its job."""
        try:
            config = self._composed([self._parse(line) for line in overrides])
        except Exception:  # Hydra's own way says what is wrong, of all that is, in its order
            config = self._loader.load_sweep_config(self._master, list(overrides))
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.num = number
        return config

    def _composed(self, overrides: List[Override]) -> DictConfig:
        whole = [self._needs_all(override) for override in overrides]
        config = self._base(tuple(str(override.input_line) for override in itertools.compress(overrides, whole)))
        values = [override for override, apart in zip(overrides, whole) if not apart]
        self._loader._apply_overrides_to_config(values, config)
        self._name(config, [override for override in overrides if not override.is_hydra_override()])
        OmegaConf.copy_cache(from_config=self._master, to_config=config)
        return config

    def _parse(self, line: str) -> Override:
        if line not in self._parsed:
            self._parsed[line] = self._parser.parse_override(line)
        return self._parsed[line]

    def _needs_all(self, override: Override) -> bool:
        """Whether the override has a say in which files are merged, or in Hydra's own part, or is refused before that."""
        if override.package is not None or override.is_hydra_override() or override.is_sweep_override():
            return True
        return not isinstance(override.value(), dict) and self._group_exists(override.key_or_group)

    def _group_exists(self, group: str) -> bool:
        if self._files is None:
            name, words = self._master.hydra.job.config_name, OmegaConf.to_container(self._master.hydra.overrides.hydra)
            _, self._files = self._loader._parse_overrides_and_create_caching_repo(name, words)
        return self._files.group_exists(group)

    def _base(self, choices: Tuple[str, ...]) -> DictConfig:
        """What the files give with these choices: a copy of its own."""
        if choices not in self._bases:
            self._bases[choices] = _copier(self._loader.load_sweep_config(self._master, list(choices)))
        return self._bases[choices]()

    def _name(self, config: DictConfig, overrides: List[Override]) -> None:
        """Leave the application's overrides where Hydra does."""
        from hydra._internal.config_loader_impl import get_overrides_dirname

        job = config.hydra.job
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in overrides]
            job.override_dirname = get_overrides_dirname(overrides, **job.config.override_dirname)


def _copier(config: DictConfig) -> Callable[[], DictConfig]:
    """What makes copies of the config: by pickle, at a third of deepcopy's cost, where its classes allow that."""
    try:
        return functools.partial(pickle.loads, pickle.dumps(config))
    except (pickle.PicklingError, AttributeError, TypeError):  # a class that no module has under its name
        return functools.partial(copy.deepcopy, config)
