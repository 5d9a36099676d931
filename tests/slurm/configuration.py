"""The configuration files of a private Slurm: text made of values, nothing is written here."""

from __future__ import annotations

import hashlib
import os
import pwd
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

NODES = ("node0", "node1")
GPUS_PER_NODE = 2
CPUS_PER_NODE = 4
MEMORY_MB = 64_000


@dataclass(frozen=True)
class Settings:
    """What a test may want otherwise."""

    accounting: bool = False
    max_array_size: int = 1001
    slurmd_timeout_s: int = 8
    """How long a node may be silent until it is down and its jobs are requeued."""
    message_timeout_s: int = 5
    """A silent node is asked again for as long, twice, before `slurmd_timeout_s` counts: 16 s in all with these, 11 s with
    5 and 3."""
    min_job_age_s: int = 300
    """How long the controller knows a job that is over, which without accounting nobody else does."""
    kill_wait_s: int = 2
    """Between SIGTERM and SIGKILL of a job that is cancelled or out of time."""
    over_memory_kill: bool = False
    """Whether Slurm ends a step that holds more than its job's --mem: a look at each second, as there are no cgroups."""


@dataclass(frozen=True)
class Place:
    """Where a private Slurm keeps its files, and the ports that it listens at."""

    folder: Path
    controller_port: int
    database_port: int
    node_ports: tuple[int, ...]

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def state(self) -> Path:
        """Everything that the daemons keep, and their sockets: gone when they are stopped.

        A socket's path may have 107 letters, and slurmstepd's is this one with thirty more.
        """
        return Path(tempfile.gettempdir()) / f"slurm-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]}"

    @property
    def munge_socket(self) -> Path:
        return self.state / "munge.sock"

    @property
    def mariadb_socket(self) -> Path:
        return self.state / "mariadb.sock"

    def gpu(self, node: str, number: int | str) -> Path:
        return self.state / f"{node}_gpu{number}"


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def slurm_conf(place: Place, settings: Settings) -> str:
    host = socket.gethostname().partition(".")[0]  # slurmctld compares it with its own short name
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
        f"CoresPerSocket={CPUS_PER_NODE} RealMemory={MEMORY_MB} Gres=gpu:{GPUS_PER_NODE}"
        for node, port in zip(NODES, place.node_ports, strict=True)
    )
    return f"""\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={place.controller_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user()}
SlurmdUser={user()}
AuthType=auth/munge
CredType=cred/munge
# A requeued job is held for as long as a credential lives and a second more. Less than 5 s counts as the default, 120 s.
AuthInfo=socket={place.munge_socket},cred_expire=5
StateSaveLocation={place.state}/controller
SlurmdSpoolDir={place.state}/%n
SlurmctldPidFile={place.state}/slurmctld.pid
SlurmdPidFile={place.state}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
{memory(settings)}
GresTypes=gpu
PriorityType=priority/basic
SchedulerType=sched/backfill
# What is ready starts at once, and what had to wait is looked at each second.
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
# The nodes are one machine, and have more CPUs and memory than it.
SlurmdParameters=config_overrides
ReturnToService=2
EnforcePartLimits=ALL
JobRequeue=1
KillWait={settings.kill_wait_s}
SlurmdTimeout={settings.slurmd_timeout_s}
MessageTimeout={settings.message_timeout_s}
MaxArraySize={settings.max_array_size}
MaxJobCount=20000
MinJobAge={settings.min_job_age_s}
{accounting(place) if settings.accounting else "AccountingStorageType=accounting_storage/none"}
{nodes}
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=60
PartitionName=gpu Nodes=ALL DefaultTime=10 MaxTime=60
PartitionName=short Nodes=ALL DefaultTime=1 MaxTime=1
"""


def accounting(place: Place) -> str:
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={place.database_port}
AccountingStoragePass={place.munge_socket}
AccountingStorageTRES=gres/gpu"""


def memory(settings: Settings) -> str:
    """Who measures what the processes of a job hold, which sacct shows, and what comes of it.

    Slurm knows a limit only where memory is given out as CPUs are; a job that asks for none gets its CPUs' share.
    """
    if not settings.over_memory_kill:
        return f"SelectTypeParameters=CR_Core\nJobAcctGatherType=jobacct_gather/{'linux' if settings.accounting else 'none'}"
    return f"""\
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={MEMORY_MB // CPUS_PER_NODE}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill"""


def cgroup_conf() -> str:
    """The version that asks for nothing when nothing uses it: slurmd starts without cgroups, or systemd, as in a container."""
    return "CgroupPlugin=cgroup/v1\n"


def gres_conf(place: Place) -> str:
    """Slurm takes any device for a GPU: /dev/null stands for each."""
    gpus = f"[0-{GPUS_PER_NODE - 1}]"
    return "".join(f"NodeName={node} Name=gpu File={place.gpu(node, gpus)}\n" for node in NODES)


def slurmdbd_conf(place: Place) -> str:
    """The database has no port: localhost means its socket, which the environment names."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={place.munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={place.database_port}
SlurmUser={user()}
PidFile={place.state}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""
