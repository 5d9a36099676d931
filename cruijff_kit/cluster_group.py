"""`cluster` in the Hydra application: its schema, the user's own profiles, and what is wrong with a choice or an override."""

from __future__ import annotations

import re

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from cruijff_kit import cluster_profile
from cruijff_kit.cluster_faults import type_fault, unknown_key
from cruijff_kit.errors import COMMAND_LINE, ExperimentError

ABOVE = "cluster."


class OwnProfiles(SearchPathPlugin):
    """The folder of the user's own conf, before the packaged one; registered by hand, so that no other application has it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = cluster_profile.own_conf()
        if folder.is_dir():
            search_path.prepend("cruijff-kit-own", str(folder), anchor="main")


def register() -> None:
    """Makes the keys and the user's folder known to Hydra; may be called again.

    The keys go in as a node: read from their file by Hydra, they would cost each point of a sweep 20 ms.
    """
    ConfigStore.instance().store(name="cluster_stages", node={"cluster": cluster_profile.with_defaults()}, provider="cruijff_kit")
    Plugins.instance().register(OwnProfiles)


def explain(error: BaseException) -> str | None:
    """What is wrong with the profile that was chosen or with an override of it; None if it is something else."""
    text = str(error)
    named = re.search(r"Could not find 'cluster/([^']+)'|In 'cluster/([^']+)'|/cluster/([^/\"]+)\.yaml\"", text)
    if named:
        return _fault_of(next(name for name in named.groups() if name))
    unknown = re.search(rf"Could not override '({re.escape(ABOVE)}[^']+)'", text)
    if unknown:
        return str(unknown_key(unknown[1], COMMAND_LINE, ABOVE))
    cause = error.__cause__
    if str(getattr(cause, "full_key", None) or "").startswith(ABOVE):
        return str(type_fault(cause, COMMAND_LINE, ABOVE))
    return None


def _fault_of(name: str) -> str | None:
    try:
        cluster_profile.profile(name)
    except ExperimentError as fault:
        return str(fault)
    return None
