"""A Slurm of its own on this machine: real daemons, two nodes, four pretended GPUs, nothing outside one folder."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from tests.slurm.configuration import (
    GPUS_PER_NODE,
    NODES,
    Place,
    Settings,
    cgroup_conf,
    gres_conf,
    slurm_conf,
    slurmdbd_conf,
    user,
)
from tests.slurm.counted_sbatch import CountedSbatch
from tests.slurm.daemons import PROGRAMS, Daemons, program
from tests.slurm.node_processes import hang_training, kill_jobs

# Below what the kernel gives to clients: a port that a daemon left for a moment is still free when it comes back.
PORTS = range(20000, 30000)
# For each daemon: far more than it needs, on a machine that is busy with other tests as well.
START_TIMEOUT_S = 60


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Returns as soon as `condition()` is true; an AssertionError that names `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    ports: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free ports from {PORTS.start} to {PORTS.stop}")


def listens(at: Path | int) -> bool:
    """Whether a process takes connections at a socket's path or at a port."""
    local = isinstance(at, Path)
    with socket.socket(socket.AF_UNIX if local else socket.AF_INET) as client:
        return client.connect_ex(str(at) if local else ("127.0.0.1", at)) == 0


class PrivateSlurm:
    """A Slurm whose daemons live as long as this process at the most. A context manager."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        controller, database, *nodes = free_ports(2 + len(NODES))
        self.place = Place(folder, controller, database, tuple(nodes))
        self.settings = settings or Settings()
        self._daemons: Daemons | None = None

    def __enter__(self) -> PrivateSlurm:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment for its Slurm commands to mean this one."""
        return {"SLURM_CONF": str(self.place.slurm_conf)}

    def start(self) -> None:
        """Returns when a job that is submitted would start."""
        for name in PROGRAMS:
            program(name)
        self._write()
        self._daemons = Daemons(self.place.logs)
        try:
            self._start_daemons()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every daemon and every process of every job, and removes what they kept. The logs stay."""
        if self._daemons is not None:
            self._daemons.end()
            self._daemons = None
        if self.place.state.exists():
            shutil.rmtree(self.place.state)

    # What a test does with it

    def run(self, *words: str | Path, timeout_s: float = 20) -> str:
        """What a client command printed on stdout. An AssertionError with its message when it fails."""
        done = subprocess.run(
            [*map(str, words)], env=self._whole_environment(), text=True, capture_output=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"{words} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *words: str | Path) -> str:
        """The id of the job that `sbatch WORDS…` makes."""
        return self.run("sbatch", "--parsable", *words).strip()

    def states(self, job: str) -> dict[str, str]:
        """The state of each element of an array by its index; of a job that is none, by `N/A`.

        Slurm knows an ended job for five minutes without accounting.
        """
        listing = self.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%K %T")
        return dict(line.split() for line in listing.splitlines())

    def wait_for(self, job: str, *states: str, timeout_s: float = 30) -> None:
        """Returns when the job, or every element of the array, is in one of the states."""
        wait_until(lambda: set(self.states(job).values()) <= {*states}, timeout_s, f"job {job} {' or '.join(states)}")

    def wait_until_saved(self) -> None:
        """Returns when the controller has written down all that it accepted so far.

        It does within 5 s; what is younger is lost when it is killed.
        """
        name = f"saved-{secrets.token_hex(8)}"
        marker = self.submit("--hold", f"--job-name={name}", "--output=/dev/null", "--wrap", "true")
        saved = self.place.state / "controller" / "job_state"
        wait_until(lambda: saved.exists() and name.encode() in saved.read_bytes(), 20, f"{saved} holds a new job")
        self.run("scancel", marker)

    def wait_until_idle(self, timeout_s: float = 300) -> None:
        """Returns when no job waits or runs; else says which do."""
        deadline = time.monotonic() + timeout_s
        while there := self.run("squeue", "--noheader", "--format=%i %j %T %r %N"):
            assert time.monotonic() < deadline, f"not over within {timeout_s} s:\n{there}"
            time.sleep(0.1)

    def kill_controller(self) -> None:
        self._daemons.kill("slurmctld")

    def start_controller(self) -> None:
        """Returns when the controller answers."""
        self._start("slurmctld", "-D")
        wait_until(self._controller_answers, START_TIMEOUT_S, f"slurmctld answers (logs: {self.place.logs})")

    def kill_node(self, name: str) -> None:
        """Kills that slurmd; the processes of its jobs live on."""
        self._daemons.kill(name)

    def lose_node(self, name: str) -> None:
        """As when its machine loses power: its jobs are gone too, without a word."""
        self.kill_node(name)
        kill_jobs(name, self.place.slurm_conf)

    def hang(self, task: str) -> None:
        """Stops the training of a task, named `12_3`, once it has begun: it stays until its time is over, or it is cancelled."""
        wait_until(lambda: hang_training(task, self.place.slurm_conf), 120, f"{task} trains")

    def start_node(self, name: str) -> None:
        """Returns before the controller has heard of it."""
        self._start("slurmd", "-D", "-N", name, daemon=name)

    def forget(self) -> None:
        """Returns when the controller knows nothing more of jobs that are over, and soon forgets those to come."""
        self.place.slurm_conf.write_text(slurm_conf(self.place, replace(self.settings, min_job_age_s=2)))
        self.run("scontrol", "reconfigure")
        wait_until(lambda: not self.run("squeue", "--noheader", "--states=all"), 60, "it has forgotten them")

    def nodes_are_idle(self) -> bool:
        """Whether all nodes are there, and no job runs or ends on any."""
        return self._printed("sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D") == str(len(NODES))

    def counting(self, folder: Path) -> CountedSbatch:
        """A count of the sbatch calls of the processes that are given its environment. Makes the folder."""
        return CountedSbatch(folder, self.environment).write()

    # How it comes to be

    def _write(self) -> None:
        place = self.place
        for folder in (place.logs, place.state / "controller", *(place.state / node for node in NODES)):
            folder.mkdir(parents=True, exist_ok=True)
        key = place.state / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        place.slurm_conf.write_text(slurm_conf(place, self.settings))
        (place.folder / "cgroup.conf").write_text(cgroup_conf())
        (place.folder / "gres.conf").write_text(gres_conf(place))
        for node in NODES:
            for number in range(GPUS_PER_NODE):
                place.gpu(node, number).symlink_to(os.devnull)
        if self.settings.accounting:
            slurmdbd = place.folder / "slurmdbd.conf"
            slurmdbd.touch(mode=0o600)
            slurmdbd.write_text(slurmdbd_conf(place))

    def _start_daemons(self) -> None:
        self._start_munged()
        if self.settings.accounting:
            self._start_accounting()
        self._start("slurmctld", "-D")
        for name in NODES:
            self.start_node(name)
        wait_until(self.nodes_are_idle, START_TIMEOUT_S, f"the nodes are idle (logs: {self.place.logs})")

    def _start_munged(self) -> None:
        state = self.place.state
        files = {
            "key-file": state / "munge.key",
            "socket": self.place.munge_socket,
            "pid-file": state / "munged.pid",
            "seed-file": state / "munged.seed",
            "log-file": self.place.logs / "munged.log",
        }
        # --force: the folders above need not be what munged asks for, the key is only for this Slurm
        self._start("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()))
        wait_until(lambda: listens(self.place.munge_socket), START_TIMEOUT_S, f"munged listens (logs: {self.place.logs})")

    def _start_accounting(self) -> None:
        state = self.place.state
        mariadb = [
            *("--no-defaults", f"--user={user()}", f"--datadir={state / 'mariadb'}", f"--tmpdir={state}"),
            # nothing has to survive a power cut, and a busy disk takes seconds for each sync
            *("--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=8M"),
            *("--sync-frm=0", "--skip-log-bin", "--skip-name-resolve"),
        ]
        without = ("--skip-test-db", "--auth-root-authentication-method=normal", "--force")  # no test, password, look-up of names
        self.run(program("mariadb-install-db"), *mariadb, *without, timeout_s=START_TIMEOUT_S)
        socket_files = (f"--socket={self.place.mariadb_socket}", f"--pid-file={state / 'mariadb.pid'}")
        # the longer wait is what slurmdbd asks for
        self._start("mariadbd", *mariadb, "--skip-networking", *socket_files, "--innodb-lock-wait-timeout=900")
        wait_until(lambda: listens(self.place.mariadb_socket), START_TIMEOUT_S, f"mariadbd listens (logs: {self.place.logs})")
        self._start("slurmdbd", "-D")
        wait_until(lambda: listens(self.place.database_port), START_TIMEOUT_S, f"slurmdbd listens (logs: {self.place.logs})")
        self.run("sacctmgr", "--immediate", "--quiet", "add", "cluster", "private", timeout_s=START_TIMEOUT_S)

    def _whole_environment(self) -> dict[str, str]:
        """This process's, without what a job of another Slurm around it would have left."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SQUEUE"))}
        return {**own, **self.environment}

    def _start(self, name: str, *words: str, daemon: str | None = None) -> None:
        # the environment names the socket where a client of "localhost" finds MariaDB
        environment = {**self._whole_environment(), "MYSQL_UNIX_PORT": str(self.place.mariadb_socket)}
        self._daemons.start(daemon or name, [program(name), *words], environment)

    def _controller_answers(self) -> bool:
        return self._printed("scontrol", "ping").endswith("is UP")

    def _printed(self, *words: str) -> str:
        """What a command printed that may fail, or hang, as long as the controller is not there."""
        try:
            return self.run(*words, timeout_s=3).strip()
        except (AssertionError, subprocess.TimeoutExpired):
            return ""
