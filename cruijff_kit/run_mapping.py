"""configs/run_mapping.yaml: which run has which parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cruijff_kit import __version__, logger_config, torchtune_catalog, yaml_text
from cruijff_kit.errors import ExperimentError, Problem
from cruijff_kit.paths import Layout
from cruijff_kit.sweep import Run

HEADER = [
    "Which run has which parameters. Written by `cruijff-kit generate`.",
    "Runs marked `added` came from an override on the command line, and stay; those marked `retired` are no points of the",
    "sweep any more, and keep number and results.",
]


@dataclass(frozen=True)
class Row:
    """One run.

    Args:
        added: it came from an override, and is composed from `settings` and `torchtune`.
        retired: it was a point of the sweep once.
    """

    id: str
    params: Mapping[str, Any]
    recipe: str
    identity: str
    added: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    torchtune: Mapping[str, Any] = field(default_factory=dict)
    retired: bool = False

    @classmethod
    def of(cls, run: Run) -> Row:
        return cls(run.id, run.params, run.recipe, run.identity)

    def told_apart(self, controls: Mapping[str, Any]) -> dict[str, Any]:
        """What sets it apart from the points of the sweep as it is now: of one that was added, what was a control then and is another now, too."""
        names = {**self.settings, **controls} if self.added else {}
        other = [name for name in names if name not in self.params and self.settings.get(name) != controls.get(name)]
        return logger_config.without_logger({**self.params, **{name: self.settings.get(name) for name in other}})

    def as_dict(self) -> dict[str, Any]:
        row = {"id": self.id, "params": dict(self.params), "recipe": self.recipe, "identity": self.identity}
        if self.added:
            row.update(added=True, settings=dict(self.settings), torchtune=dict(self.torchtune))
        if self.retired:
            row.update(retired=True)
        return row


@dataclass(frozen=True)
class RunMapping:
    """The whole file.

    Args:
        experiment_dir: where it was generated: the configs hold absolute paths.
        cluster: the profile of scripts/.
        keep_ids: a run keeps its number when others are added or removed.
    """

    experiment_name: str
    experiment_dir: str
    generated_at: str
    rows: tuple[Row, ...]
    cluster: str = "default"
    keep_ids: bool = False

    def row(self, run: str) -> Row | None:
        return next((row for row in self.rows if row.id == run), None)

    def render(self) -> str:
        return yaml_text.header(HEADER) + yaml_text.dump_yaml(
            {
                "experiment_name": self.experiment_name,
                "experiment_dir": self.experiment_dir,
                "generated_at": self.generated_at,
                "cluster": self.cluster,
                "cruijff_kit": __version__,
                "keep_ids": self.keep_ids,
                "total_runs": len(self.rows),
                "runs": [row.as_dict() for row in self.rows],
            }
        )


def _row(values: Mapping[str, Any]) -> Row:
    row = Row(**values)
    if not re.fullmatch(r"run_\d+", str(row.id)) or not isinstance(row.params, Mapping) or not isinstance(row.identity, str):
        raise ValueError(f"{row.id!r} is no row of a run")
    return row


def read(layout: Layout, force: bool = False) -> RunMapping | None:
    """The mapping of an experiment's folder, or None if nothing was generated there.

    Args:
        force: a file that cannot be read counts as none.

    Raises:
        ExperimentError: the file is there and cannot be read.
    """
    import yaml

    path = layout.run_mapping
    try:
        data = torchtune_catalog.read_config(path)
        return RunMapping(
            data["experiment_name"],
            data["experiment_dir"],
            data["generated_at"],
            tuple(_row(row) for row in data["runs"]),
            data["cluster"],
            data.get("keep_ids", False),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        if force:
            return None
        what = f"cannot be read: {error}"
        raise ExperimentError([Problem(layout.relative(path), what, fix="cruijff-kit generate --force writes it anew")]) from None
