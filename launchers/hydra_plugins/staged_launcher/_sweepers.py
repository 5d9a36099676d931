"""What a sweeper wants from a launcher."""

from omegaconf import DictConfig

# the sweepers that look at no job's value; every other may choose its next points by them
_BLIND = ("GridSweeper", "BasicSweeper")


def needs_values(hydra: DictConfig) -> bool:
    """Whether the sweeper of this `hydra` node waits for a value of each point, as an optimising one does."""
    return str(hydra.sweeper._target_).rpartition(".")[2] not in _BLIND


def sweeper_name(hydra: DictConfig) -> str:
    """As it is chosen on the command line: `optuna`."""
    return str(hydra.runtime.choices.get("hydra/sweeper", hydra.sweeper._target_))
