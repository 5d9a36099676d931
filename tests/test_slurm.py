"""What Slurm prints, pasted from Slurm 22.05, and how its programs are called: those here are small scripts on PATH."""

from __future__ import annotations

import os
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import pytest

from cruijff_kit import slurm
from cruijff_kit.slurm import SlurmError
from cruijff_kit.slurm_output import QUEUE, Ended, Jobs, Limits, Task, parse_ended, parse_jobs, parse_limits, parse_ranges

# squeue --noheader --user=0 --Format=QUEUE; the comment of array 29 holds a line break, task 5 of array 1 has started again.
SQUEUE = """\
2\x1f3\x1f18\x1fPENDING\x1fDependencyNeverSatisfied\x1f0\x1f0\x1f/home/me/a b|c/submission.sh\x1fsweep eval,2\x1fa b\x1e
4\x1f0-4:2,7%2\x1f4\x1fPENDING\x1fDependency\x1f0\x1f0\x1f(null)\x1flater\x1f(null)\x1e
1\x1f5\x1f12\x1fRUNNING\x1fNone\x1f1\x1f0\x1f/home/me/s.sh one two\x1fsweep-train\x1f/home/me/my exp|#1 "x"\x1e
29\x1f13\x1f29\x1fRUNNING\x1fNone\x1f0\x1f0\x1f(null)\x1fwrap\x1fline one
line two\x1e
3\x1fN/A\x1f3\x1fRUNNING\x1fNone\x1f0\x1f0\x1f(null)\x1falone\x1f(null)\x1e
"""

# The same with --states=all: tasks 3 and 5 of array 26 were cancelled one by one while it was held, and then the rest.
SQUEUE_ENDED = """\
10\x1fN/A\x1f10\x1fCANCELLED\x1fNone\x1f0\x1f15\x1f/home/me/job.sh\x1fcancel\x1f(null)\x1e
26\x1f0-2,4,6-7\x1f26\x1fCANCELLED\x1fJobHeldUser\x1f0\x1f0\x1f(null)\x1fwrap\x1f(null)\x1e
9\x1fN/A\x1f9\x1fCOMPLETED\x1fNone\x1f0\x1f0\x1f/home/me/job.sh\x1fok\x1f(null)\x1e
6\x1fN/A\x1f6\x1fFAILED\x1fJobLaunchFailure\x1f0\x1f9\x1f/home/me/job.sh\x1foombatch\x1f(null)\x1e
7\x1fN/A\x1f7\x1fFAILED\x1fNonZeroExitCode\x1f0\x1f35072\x1f/home/me/job.sh\x1fkill9\x1f(null)\x1e
8\x1fN/A\x1f8\x1fFAILED\x1fNonZeroExitCode\x1f0\x1f1792\x1f/home/me/job.sh\x1fexit7\x1f(null)\x1e
2\x1fN/A\x1f2\x1fNODE_FAIL\x1fNodeDown\x1f0\x1f0\x1f/home/me/job.sh\x1fnode\x1f(null)\x1e
13\x1f4-7\x1f13\x1fPENDING\x1fResources\x1f0\x1f0\x1f/home/me/submission.sh\x1ftiny-train\x1f0cb9431e\x1e
13\x1f3\x1f25\x1fTIMEOUT\x1fTimeLimit\x1f0\x1f15\x1f/home/me/submission.sh\x1ftiny-train\x1f0cb9431e\x1e
"""

# sacct --noheader --parsable2 --allocations --jobs=1,2,3,4 --format=JobID,State,ExitCode
SACCT = """\
3|CANCELLED by 0|0:0
1_0|COMPLETED|0:0
1_1|RUNNING|0:0
1_2|FAILED|0:9
1_3|FAILED|7:0
2_1|PENDING|0:0
2_2|CANCELLED by 1000|0:0
4_[0,3,7%2]|PENDING|0:0
5_[0-1,7%2]|CANCELLED by 0|0:0
"""

CONFIG = """\
Configuration data as of 2026-11-24T13:37:13
AccountingStorageEnforce = none
AccountingStorageHost   = localhost
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = lab
KillWait                = 5 sec
MaxArraySize            = 1001
SLURM_VERSION           = 22.05.8
SlurmctldHost[0]        = vm(127.0.0.1)
SlurmctldParameters     = (null)

Slurmctld(primary) at vm is UP
"""


def test_squeue_lists_tasks_and_jobs_whatever_their_comments_hold():
    tasks = [
        Task(2, 3, "PENDING", "DependencyNeverSatisfied", "a b", "sweep eval,2", 18, "/home/me/a b|c/submission.sh"),
        *(Task(4, index, "PENDING", "Dependency", "", "later", 4) for index in (0, 2, 4, 7)),
        Task(1, 5, "RUNNING", "None", '/home/me/my exp|#1 "x"', "sweep-train", 12, "/home/me/s.sh one two", 1),
        Task(29, 13, "RUNNING", "None", "line one\nline two", "wrap", 29),
        Task(3, None, "RUNNING", "None", "", "alone", 3),
    ]
    assert parse_jobs(SQUEUE) == Jobs(tasks, {})


def test_squeue_says_how_jobs_ended_that_it_has_not_forgotten():
    jobs = parse_jobs(SQUEUE_ENDED)
    assert [str(task) for task in jobs.live] == ["13_4", "13_5", "13_6", "13_7"]
    assert jobs.ended == {
        (10, None): Ended("CANCELLED", "0:15", reason="None"),
        **{(26, index): Ended("CANCELLED", "0:0", reason="JobHeldUser") for index in (0, 1, 2, 4, 6, 7)},
        (9, None): Ended("COMPLETED", "0:0", reason="None"),
        (6, None): Ended("FAILED", "0:9", reason="JobLaunchFailure"),
        (7, None): Ended("FAILED", "9:0", reason="NonZeroExitCode"),
        (8, None): Ended("FAILED", "7:0", reason="NonZeroExitCode"),
        (2, None): Ended("NODE_FAIL", "0:0", reason="NodeDown"),
        (13, 3): Ended("TIMEOUT", "0:15", reason="TimeLimit"),
    }


# man squeue 22.05, JOB STATE CODES
STATES = {
    True: "CONFIGURING COMPLETING PENDING RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING SIGNALING SPECIAL_EXIT "
    "STAGE_OUT STOPPED SUSPENDED",
    False: "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT",
}


@pytest.mark.parametrize(("state", "lives"), [(state, lives) for lives, states in STATES.items() for state in states.split()])
def test_a_job_in_each_state_lives_or_is_over(state, lives):
    jobs = parse_jobs(SQUEUE_ENDED.splitlines(keepends=True)[0].replace("CANCELLED", state))
    assert [task.state for task in jobs.live] == [state] * lives
    assert [ended.state for ended in jobs.ended.values()] == [state] * (not lives)
    assert bool(parse_ended(f"3|{state}|0:0\n")) is not lives


def test_thousands_of_tasks_are_parsed_in_little_more_than_splitting_them():
    """Each is a record of its own once it has started or ended, or waits for its twin."""
    text = "".join(
        f"{job}\x1f{index}\x1f{job + index}\x1fPENDING\x1fDependency\x1f0\x1f0\x1f/home/me/exp/.cruijff-kit/slurm/{job}/submission.sh"
        f"\x1ftiny-eval\x1f5671333388ae454b93c2281502a015c4\x1e\n"
        for job in (10, 5000)
        for index in range(2000)
    )

    def split() -> int:
        return sum(len(line.split("\x1f")) for line in text.splitlines())

    assert len(parse_jobs(text).live) == 4000
    parsing, splitting = (min(timeit.repeat(work, number=1, repeat=5, timer=time.process_time)) for work in (lambda: parse_jobs(text), split))
    assert parsing < 60 * splitting


def test_a_task_is_named_as_scancel_names_it():
    assert [str(task) for task in parse_jobs(SQUEUE).live] == ["2_3", "4_0", "4_2", "4_4", "4_7", "1_5", "29_13", "3"]


def test_an_empty_queue_is_empty():
    assert parse_jobs("") == Jobs([], {})


def test_sacct_says_how_tasks_ended_and_those_of_an_array_that_never_started_too():
    assert parse_ended(SACCT) == {
        (3, None): Ended("CANCELLED", "0:0", by=0),
        (1, 0): Ended("COMPLETED", "0:0"),
        (1, 2): Ended("FAILED", "0:9"),
        (1, 3): Ended("FAILED", "7:0"),
        (2, 2): Ended("CANCELLED", "0:0", by=1000),
        (5, 0): Ended("CANCELLED", "0:0", by=0),
        (5, 1): Ended("CANCELLED", "0:0", by=0),
        (5, 7): Ended("CANCELLED", "0:0", by=0),
    }


def test_a_job_of_several_kinds_is_passed_over():
    assert parse_ended("12+0|FAILED|1:0\n") == {}


@pytest.mark.parametrize(
    ("text", "numbers"), [("7", [7]), ("0-3,7", [0, 1, 2, 3, 7]), ("0-8:4", [0, 4, 8]), ("1,3-5,9-10", [1, 3, 4, 5, 9, 10])]
)
def test_slurms_ranges_are_read(text, numbers):
    assert parse_ranges(text) == numbers


def test_the_limits_are_read_from_the_configuration():
    assert parse_limits(CONFIG) == Limits(1001, True, "22.05.8", "lab", ())


def test_a_cluster_without_accounting_says_so():
    assert not parse_limits(CONFIG.replace("slurmdbd", "none")).accounting


def test_what_a_submission_must_satisfy_is_a_list():
    text = CONFIG.replace("Enforce = none", "Enforce = associations,limits,qos")
    assert parse_limits(text).enforced == ("associations", "limits", "qos")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a shell script on PATH under the name of one of Slurm's programs, and no other program of Slurm's."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")

    def write(name: str, body: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return tmp_path

    return write


def test_what_a_program_prints_is_returned(program):
    program("squeue", 'echo "$1 done"')
    assert slurm.call(["squeue", "--me"]) == "--me done\n"


def test_a_program_inherits_the_files_that_it_is_given(program, tmp_path):
    """So a lock outlives whoever took it, until the program has ended."""
    with (tmp_path / "lock").open("w") as lock:
        program("sbatch", f"echo held > /dev/fd/{lock.fileno()}")
        slurm.call(["sbatch"], pass_fds=[lock.fileno()])
    assert (tmp_path / "lock").read_text() == "held\n"


def test_a_missing_program_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError) as caught:
        slurm.call(["sbatch", "x.sh"])
    assert str(caught.value) == "sbatch was not found: is this a login node of the cluster? Slurm's programs must be on PATH"


def test_a_program_that_may_not_be_run_is_one_message(program, monkeypatch):
    folder = program("sbatch", "true")
    (folder / "sbatch").chmod(0o644)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(SlurmError, match=r"^sbatch cannot be run: Permission denied$"):
        slurm.call(["sbatch", "x.sh"])


def test_a_program_that_hangs_is_one_message(program):
    program("squeue", "exec sleep 60")
    with pytest.raises(SlurmError) as caught:
        slurm.call(["squeue"], timeout_s=0.2)
    assert str(caught.value) == (
        "Slurm does not answer (squeue took more than 0.2 s): its controller may be down: see `scontrol ping`, or try again later"
    )


def test_a_program_that_hangs_and_says_why_is_quoted(program):
    program("squeue", "echo 'squeue: error: cannot stat file /etc/slurm.conf, retrying in 1sec up to 60sec' >&2; exec sleep 60")
    with pytest.raises(SlurmError) as caught:
        slurm.call(["squeue"], timeout_s=1)
    assert str(caught.value) == (
        "Slurm does not answer (squeue took more than 1 s): cannot stat file /etc/slurm.conf, retrying in 1sec up to 60sec"
    )


def test_a_refusal_is_shown_whole(program):
    said = "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid partition name specified"
    program("sbatch", f"echo '{said}' >&2; exit 1")
    with pytest.raises(SlurmError) as caught:
        slurm.call(["sbatch", "x.sh"])
    assert str(caught.value) == (
        "sbatch: error: invalid partition specified: nope\nBatch job submission failed: Invalid partition name specified"
    )


def test_a_controller_that_is_down_does_not_answer(program):
    program("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    with pytest.raises(SlurmError) as caught:
        slurm.queue()
    assert str(caught.value) == (
        "Slurm does not answer (squeue): slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    )


def test_a_program_that_fails_without_a_word_is_one_message(program):
    program("sacct", "exit 3")
    with pytest.raises(SlurmError, match=r"^sacct failed with exit code 3 and said nothing$"):
        slurm.ended([1])


@pytest.mark.parametrize(("ask", "nothing", "states"), [(slurm.queue, [], []), (slurm.jobs, Jobs([], {}), ["--states=all"])])
def test_squeue_is_asked_once_for_mine_only_and_free_of_the_users_settings(program, monkeypatch, ask, nothing, states):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    folder = program("squeue", 'printf "%s\\n" "$@" "${SQUEUE_STATES-unset}" "$SLURM_BITSTR_LEN" >> "${0%/*}/asked"')
    assert ask() == nothing
    asked = (folder / "asked").read_text().split("\n")
    assert asked == ["--noheader", f"--user={os.getuid()}", *states, f"--Format={QUEUE}", "unset", "0", ""]


def test_without_accounting_nothing_is_known_to_have_ended(program):
    program("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert slurm.ended([1, 2]) == {}


def test_nothing_is_asked_about_no_jobs(program):
    program("sacct", "exit 9")
    program("scancel", "exit 9")
    assert slurm.ended([]) == {}
    slurm.cancel([])


def test_a_job_that_is_over_may_be_cancelled(program):
    program("scancel", "echo 'scancel: error: Kill job error on job id 9: Invalid job id specified' >&2; exit 1")
    slurm.cancel(["9"])


def test_a_job_of_someone_else_may_not_be_cancelled(program):
    program("scancel", "echo 'scancel: error: Kill job error on job id 9: Access/permission denied' >&2; exit 1")
    with pytest.raises(SlurmError, match=r"^scancel: error: Kill job error on job id 9: Access/permission denied$"):
        slurm.cancel(["9"])


@pytest.mark.parametrize(("job", "name"), [("29", "29_13"), ("12", "1_5"), ("29_13", "29_13"), ("3", "3")])
def test_one_task_is_requeued_though_it_has_the_id_of_its_array(program, job, name):
    folder = program("squeue", f"cat <<'END'\n{SQUEUE}END")
    program("scontrol", 'echo "$@" > "${0%/*}/asked"')
    slurm.requeue(job)
    assert (folder / "asked").read_text() == f"requeue {name}\n"


def test_the_state_of_one_task_is_its_own(program):
    program("squeue", f"cat <<'END'\n{SQUEUE}END")
    assert [slurm.state(job) for job in ("29", "4_7", "77")] == ["RUNNING", "PENDING", None]


def test_a_job_that_slurm_does_not_know_has_no_state(program):
    program("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.state("9999") is None


def test_a_trial_inside_a_job_is_not_a_step_of_that_job(program, monkeypatch):
    for name, value in {"SLURM_JOB_ID": "5", "SLURM_CPUS_PER_TASK": "8", "SLURM_CONF": "/x", "SBATCH_ACCOUNT": "me"}.items():
        monkeypatch.setenv(name, value)
    folder = program("srun", 'env | grep ^SLURM_ | sort > "${0%/*}/asked"; echo "$@" >> "${0%/*}/asked"')
    slurm.test_only(["--partition=gpu"])
    assert (folder / "asked").read_text() == "SLURM_ACCOUNT=me\nSLURM_CONF=/x\n--test-only --partition=gpu true\n"
