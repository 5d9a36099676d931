"""The whole config of each point of a sweep, as Hydra composes it, at a small part of the cost."""

import pickle
from typing import Dict, List, Sequence, Tuple

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
        self._groups: Dict[str, bool] = {}
        self._bases: Dict[Tuple[str, ...], bytes] = {}

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """The whole config of one point, with `number` as that of its job."""
        config = self._composed(overrides)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.num = number
        return config

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        parsed = [self._parse(line) for line in overrides]
        choices = [override for override in parsed if self._is_choice(override)]
        config = pickle.loads(self._base(tuple(str(override.input_line) for override in choices)))
        try:
            self._set(config, [override for override in parsed if override not in choices], parsed)
        except Exception:  # Hydra's own way says what is wrong
            return self._loader.load_sweep_config(self._master, list(overrides))
        return config

    def _parse(self, line: str) -> Override:
        if line not in self._parsed:
            self._parsed[line] = self._parser.parse_override(line)
        return self._parsed[line]

    def _is_choice(self, override: Override) -> bool:
        """Whether the override has a say in which files are merged."""
        key = override.key_or_group
        if key not in self._groups:
            hydra = OmegaConf.to_container(self._master.hydra.overrides.hydra)
            name = self._master.hydra.job.config_name
            options = self._loader.get_group_options(key, None, config_name=name, overrides=hydra)
            self._groups[key] = bool(options)
        return self._groups[key] or override.package is not None or override.is_hydra_override()

    def _base(self, choices: Tuple[str, ...]) -> bytes:
        if choices not in self._bases:
            config = self._loader.load_sweep_config(self._master, list(choices))
            self._bases[choices] = pickle.dumps(config)
        return self._bases[choices]

    def _set(self, config: DictConfig, values: List[Override], overrides: List[Override]) -> None:
        from hydra._internal.config_loader_impl import get_overrides_dirname

        self._loader._apply_overrides_to_config(values, config)
        job, given = config.hydra.job, [override for override in overrides if not override.is_hydra_override()]
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in given]
            job.override_dirname = get_overrides_dirname(given, **job.config.override_dirname)
        OmegaConf.copy_cache(from_config=self._master, to_config=config)
