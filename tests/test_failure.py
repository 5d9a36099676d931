"""What a log says of why its job failed. The logs are real ones, with most frames of their tracebacks left out."""

from __future__ import annotations

import time

import pytest

from cruijff_kit.failure import MAX_LETTERS, Failure, offer, telling

START = """\
submitit INFO (2026-11-24 18:12:50,776) - Starting with JobEnvironment(job_id=5_0, hostname=vm, local_rank=0(1), node=0(1), global_rank=0(1))
submitit INFO (2026-11-24 18:12:50,777) - Loading pickle: /home/user/tiny/.cruijff-kit/slurm/0_train/5_0_submitted.pkl
run_000 train: tune run cruijff_kit/recipes/lora_finetune_single_device --config /home/user/tiny/.cruijff-kit/frozen/f416/train_000.yaml
"""
BAR = "\r  0%|          | 0/6 [00:00<?, ?it/s]\r1|1|Loss: 6.93:  17%|█▋        | 1/6 [00:01<00:07,  1.57s/it]"
SUCCESS = f"{START}{BAR}\x1b[AStarting checkpoint save...\nsubmitit INFO (2026-11-24 18:14:11,886) - Job completed successfully\nJob completed successfully\n"

FRAMES = """\
Traceback (most recent call last):
  File "/home/user/env/lib/python3.11/site-packages/recipes/lora_finetune_single_device.py", line 808, in <module>
    sys.exit(recipe_main())
             ^^^^^^^^^^^^^
"""
SUBMITIT = """\
Error executing job with overrides: ['lora_rank=2']
submitit ERROR (2026-11-24 18:16:10,827) - Submitted job triggered an exception
submitit ERROR (2026-11-24 18:16:10,827) - Submitted job triggered an exception
[2026-11-24 18:16:10,827][submitit][ERROR] - Submitted job triggered an exception
Traceback (most recent call last):
  File "/home/user/env/lib/python3.11/site-packages/submitit/core/submission.py", line 69, in process_job
    raise error
"""
DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"
FROM = "\nThe above exception was the direct cause of the following exception:\n\n"


def stage(raised: str, last: str | None = None) -> str:
    """The log of a stage whose command failed with a traceback, behind a bar."""
    said = raised.strip().splitlines()[-1] if last is None else last
    return f"{START}{BAR}{FRAMES}{raised}\n{SUBMITIT}cruijff_kit.errors.CruijffKitError: tune exited with 1: {said}\n"


CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.05 GiB is free. Including "
    "non-PyTorch memory, this process has 78.04 GiB memory in use. Of the allocated memory 76.20 GiB is allocated by PyTorch, and 1.31 GiB "
    "is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
ASYNCHRONOUS = "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect."
NCCL = (
    "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
)
CUBLAS = "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
CPU = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4398046511104 bytes. Error code 12 (Cannot allocate memory)"
)
NUMPY = "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64"

NO_MEMORY = [
    (f"torch.OutOfMemoryError: {CUDA}", "CUDA out of memory. Tried to allocate 2.00 GiB", True),
    (f"torch.cuda.OutOfMemoryError: {CUDA}", "CUDA out of memory. Tried to allocate 2.00 GiB", True),
    (f"RuntimeError: CUDA error: out of memory{ASYNCHRONOUS}", "CUDA error: out of memory", True),
    (f"torch.AcceleratorError: CUDA error: out of memory{ASYNCHRONOUS}", "CUDA error: out of memory", True),
    (CUBLAS, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate", True),
    (NCCL, "Cuda failure 2 'out of memory", True),
    (CPU, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4398046511104 bytes", False),
    ("MemoryError", "MemoryError", False),
    (NUMPY, "_ArrayMemoryError: Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64", False),
    ("OSError: [Errno 12] Cannot allocate memory", "OSError: [Errno 12] Cannot allocate memory", False),
]


@pytest.mark.parametrize(("raised", "line", "on_gpu"), NO_MEMORY)
def test_memory_that_did_not_do_is_told_without_the_advice_behind_it(raised: str, line: str, on_gpu: bool) -> None:
    failure = telling(stage(raised))
    assert failure == Failure("memory", line)
    assert failure.on_gpu == on_gpu


def test_memory_is_told_where_the_traceback_has_left_the_end_of_the_log() -> None:
    text = f"{SUBMITIT}cruijff_kit.errors.CruijffKitError: tune exited with 1: torch.OutOfMemoryError: {CUDA}\n"
    assert telling(text) == Failure("memory", "CUDA out of memory. Tried to allocate 2.00 GiB")


SLURM_OVER = """\
slurmstepd-node0: error: StepId=1.0 exceeded memory limit (317964288 > 314572800), being killed
slurmstepd-node0: error: Exceeded job memory limit
slurmstepd-node0: error: *** STEP 1.0 ON node0 CANCELLED AT 2026-11-24T18:15:44 ***
srun: Job step aborted: Waiting up to 4 seconds for job step to finish.
srun: error: node0: tasks 0-1: Killed
"""
SLURM_KILLED = """\
slurmstepd: error: Detected 1 oom-kill event(s) in StepId=5.0. Some of your processes may have been killed by the cgroup out-of-memory handler.
srun: error: node0: task 0: Out Of Memory
"""
SLURM_KILLED_LATER = """\
srun: error: node0: task 0: Out Of Memory
slurmstepd: error: Detected 1 oom_kill event in StepId=5.batch. Some of the step tasks have been OOM Killed.
"""
TIME_LIMIT = """\
little time is left, and after 0 restarts there is no other: going on to the end
submitit WARNING (2026-11-24 18:13:14,117) - Bypassing signal SIGCONT
slurmstepd-node0: error: *** STEP 2.0 ON node0 CANCELLED AT 2026-11-24T18:14:14 DUE TO TIME LIMIT ***
slurmstepd-node0: error: *** JOB 2 ON node0 CANCELLED AT 2026-11-24T18:14:14 DUE TO TIME LIMIT ***
srun: Job step aborted: Waiting up to 4 seconds for job step to finish.
srun: got SIGCONT
srun: forcing job termination
"""
ENDED = f"""\
{SUBMITIT}hydra_plugins.staged_launcher._slurm_job.Ended: cancelled, or out of time: Slurm told it to end (SIGTERM)
srun: error: node0: task 0: Exited with exit code 1
srun: launch/slurm: _step_signal: Terminating StepId=2.0
"""
NODE = """\
srun: error: Node failure on node1
slurmstepd-node1: error: *** JOB 5 ON node1 CANCELLED AT 2026-11-24T18:13:17 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***
slurmstepd-node1: error: *** STEP 5.0 ON node1 CANCELLED AT 2026-11-24T18:13:17 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***
srun: got SIGCONT
"""
PREEMPTED = "slurmstepd: error: *** JOB 5 ON node0 CANCELLED AT 2026-11-24T12:00:00 DUE TO PREEMPTION ***\n"
CANCELLED = """\
slurmstepd-node0: error: *** STEP 6.0 ON node0 CANCELLED AT 2026-11-24T18:13:02 ***
slurmstepd-node0: error: *** JOB 6 ON node0 CANCELLED AT 2026-11-24T18:13:02 ***
srun: forcing job termination
"""
ALONE = "slurmstepd: error: *** STEP 5.0 ON node0 CANCELLED AT 2026-11-24T12:00:00 DUE TO TIME LIMIT ***\n"

BY_SLURM = [
    (SLURM_OVER, Failure("memory", "StepId=1.0 exceeded memory limit (317964288 > 314572800), being killed")),
    (
        SLURM_KILLED,
        Failure("memory", "Detected 1 oom-kill event(s) in StepId=5.0. Some of your processes may have been killed by the cgroup out-of-memory handler"),
    ),
    (SLURM_KILLED_LATER, Failure("memory", "srun: error: node0: task 0: Out Of Memory")),
    ("slurmstepd: error: Exceeded job memory limit\n", Failure("memory", "Exceeded job memory limit")),
    (TIME_LIMIT + ENDED, Failure("time", "STEP 2.0 ON node0 CANCELLED AT 2026-11-24T18:14:14 DUE TO TIME LIMIT")),
    (ALONE, Failure("time", "STEP 5.0 ON node0 CANCELLED AT 2026-11-24T12:00:00 DUE TO TIME LIMIT")),
    (NODE + ENDED, Failure("node", "Node failure on node1")),
    (PREEMPTED, Failure("cancelled", "JOB 5 ON node0 CANCELLED AT 2026-11-24T12:00:00 DUE TO PREEMPTION")),
    (CANCELLED + ENDED, Failure("cancelled", "STEP 6.0 ON node0 CANCELLED AT 2026-11-24T18:13:02")),
    (ENDED, Failure("cancelled", "Ended: cancelled, or out of time: Slurm told it to end (SIGTERM)")),
]


@pytest.mark.parametrize(("end", "failure"), BY_SLURM)
def test_what_slurm_did_is_the_reason_whatever_the_process_said_when_it_was_hit(end: str, failure: Failure) -> None:
    assert telling(START + BAR + end) == failure
    assert not failure.on_gpu


def test_a_step_that_srun_cancelled_because_one_of_its_tasks_had_failed_has_the_reason_of_that_task() -> None:
    text = """\
Traceback (most recent call last):
  File "<string>", line 2, in <module>
ValueError: no
srun: error: node1: task 1: Exited with exit code 1
srun: launch/slurm: _step_signal: Terminating StepId=3.0
slurmstepd-node1: error: *** STEP 3.0 ON node1 CANCELLED AT 2026-11-24T18:15:43 ***
srun: error: node1: task 0: Terminated
srun: Force Terminated StepId=3.0
"""
    assert telling(text) == Failure("error", "ValueError: no")
    assert telling(text.partition("no\n")[2]) == Failure("error", "srun: error: node1: task 1: Exited with exit code 1")


def test_what_a_process_says_after_it_was_cancelled_comes_of_that() -> None:
    text = f"{CANCELLED}{FRAMES}RuntimeError: DataLoader worker (pid 7) is killed by signal: Terminated. \n"
    assert telling(START + text) == Failure("cancelled", "STEP 6.0 ON node0 CANCELLED AT 2026-11-24T18:13:02")


def test_the_failure_of_another_process_of_the_job_is_told_as_it_is() -> None:
    text = "hydra_plugins.staged_launcher._slurm_job.Ended: another process of this job has failed: RuntimeError: the second had no luck\n"
    assert telling(START + SUBMITIT + text) == Failure("error", "RuntimeError: the second had no luck")


DISK = "safetensors._safetensors_rust.SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)"
GENERATION = "datasets.exceptions.DatasetGenerationError: An error occurred while generating the dataset"
COMPONENT = "torchtune.config._errors.InstantiationError: Error loading 'torchtune.models.llama9.lora':"
STATE = (
    "RuntimeError: Error(s) in loading state_dict for Linear:\n"
    "\tsize mismatch for weight: copying a param with shape torch.Size([2, 2]) from checkpoint, the shape is torch.Size([4, 3])."
)
WORKER = f"KeyError: Caught KeyError in DataLoader worker process 0.\nOriginal {FRAMES}KeyError: 'output'\n"
REMOTE = f'multiprocess.pool.RemoteTraceback: \n"""\n{FRAMES}TypeError: no\n"""\n{FROM}{FRAMES}TypeError: no'

RAISED = [
    ("ValueError: no column 'output'\n", "ValueError: no column 'output'"),
    (f"{DISK}\n{BAR}", "SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)"),
    ("OSError: [Errno 122] Disk quota exceeded: '/home/user/tiny'", "OSError: [Errno 122] Disk quota exceeded: '/home/user/tiny'"),
    (f"pyarrow.lib.ArrowInvalid: JSON parse error{FROM}{FRAMES}{GENERATION}", "ArrowInvalid: JSON parse error"),
    (f"ValueError: Trailing data{DURING}{FRAMES}ArrowInvalid: JSON parse error{FROM}{FRAMES}{GENERATION}", "ArrowInvalid: JSON parse error"),
    (f"RuntimeError: iostream error{DURING}{FRAMES}RuntimeError: unexpected pos 576", "RuntimeError: iostream error"),
    (f"KeyError: 'llama9'{DURING}{FRAMES}ValueError: no model 'llama9'", "ValueError: no model 'llama9'"),
    (f"ModuleNotFoundError: No module named 'a'{FROM}{FRAMES}{COMPONENT}\nAre you sure?", "ModuleNotFoundError: No module named 'a'"),
    (
        STATE,
        "RuntimeError: Error(s) in loading state_dict for Linear: size mismatch for weight: copying a param with shape torch.Size([2, 2]) "
        "from checkpoint, the shape is torch.Size([4, 3])",
    ),
    (WORKER, "KeyError: 'output'"),
    (REMOTE, "TypeError: no"),
    ("AssertionError", "AssertionError"),
    ("ValueError: \x07bell", "ValueError: \\x07bell"),
    ("ValueError: " + "a" * 300, "ValueError: " + "a" * (MAX_LETTERS - 13) + "…"),
]


@pytest.mark.parametrize(("raised", "line"), RAISED)
def test_what_was_raised_first_is_the_reason_and_not_what_passed_it_on(raised: str, line: str) -> None:
    assert telling(stage(raised)) == Failure("error", line)


GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/home/user/tiny/evals/tasks.py", line 5, in <module>
  |     asyncio.run(main())
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/home/user/tiny/evals/tasks.py", line 2, in a
    |     async def a(): raise ValueError("no such target: Ocean")
    | ValueError: no such target: Ocean
    +------------------------------------
"""


def test_the_member_of_a_group_of_exceptions_is_the_reason() -> None:
    assert telling(GROUP) == Failure("error", "ValueError: no such target: Ocean")


def test_a_traceback_that_python_passed_over_is_no_reason() -> None:
    ignored = f"Exception ignored in: <function DiskLogger.__del__ at 0x7f>\n{FRAMES}AttributeError: 'DiskLogger' object has no attribute '_file'\n"
    assert telling(START + ignored) is None
    assert telling(START + FRAMES + "PermissionError: logs\n" + ignored) == Failure("error", "PermissionError: logs")


RANKS = """\
[rank1]: Traceback (most recent call last):
[rank0]: Traceback (most recent call last):
[rank1]:   File "/home/user/rank.py", line 4, in <module>
[rank0]:   File "/home/user/rank.py", line 5, in <module>
[rank1]:     raise ValueError("no column 'output' in the dataset")
[rank0]:     work.wait()
[rank1]: ValueError: no column 'output' in the dataset
[rank0]: RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4529.
"""
TORCHRUN = """\
W1124 18:16:47.170000 7837 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 7870 closing signal SIGTERM
E1124 18:16:47.208000 7837 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 1 (pid: 7871) of binary: python3.11
Traceback (most recent call last):
  File "/home/user/env/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
rank.py FAILED
------------------------------------------------------------
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 7870)  (SIGTERM)
  traceback : Signal 15 (SIGTERM) received by PID 7870
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
"""
NO_TRACEBACK = "  exitcode  : 1 (pid: 7871)\n  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html\n"
KILLED_RANK = "  exitcode  : -9 (pid: 7871)\n  traceback : Signal 9 (SIGKILL) received by PID 7871\n"
LINE = "============================================================\n"


def test_of_several_ranks_the_one_that_failed_by_itself_has_the_reason() -> None:
    text = f"{START}{RANKS}{TORCHRUN}{NO_TRACEBACK}{LINE}{SUBMITIT}cruijff_kit.errors.CruijffKitError: tune exited with 1: {LINE}"
    assert telling(text) == Failure("error", "ValueError: no column 'output' in the dataset")


def test_a_rank_that_ran_out_of_memory_is_the_reason_of_the_others() -> None:
    other = RANKS.replace("ValueError: no column 'output' in the dataset", f"torch.OutOfMemoryError: {CUDA}")
    assert telling(START + other + TORCHRUN + NO_TRACEBACK) == Failure("memory", "CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_rank_that_was_killed_left_only_a_line_in_the_table_of_torchrun() -> None:
    assert telling(START + TORCHRUN + KILLED_RANK + LINE) == Failure("error", "Signal 9 (SIGKILL) received by PID 7871")


EVALUATION = """\
run_000 capitalize: 12 samples
run_000 capitalize: error: {}
ended in error: capitalize
"""


def test_a_task_that_ended_in_error_is_the_reason_of_its_evaluation() -> None:
    wrapper = f"{SUBMITIT}cruijff_kit.errors.CruijffKitError: python exited with 1: ended in error: capitalize\n"
    said = "ValueError('no such target: Ocean')"
    assert telling(START + EVALUATION.format(said) + wrapper) == Failure("error", f"run_000 capitalize: error: {said}")
    memory = Failure("memory", "CUDA out of memory. Tried to allocate 2.00 GiB")
    assert telling(START + EVALUATION.format(f"OutOfMemoryError('{CUDA}')") + wrapper) == memory


LAST_WORDS = [
    ("cruijff_kit.errors.CruijffKitError: tune exited with -9: " + BAR.split("\r")[-1], "tune exited with -9"),
    ("cruijff_kit.errors.CruijffKitError: python exited with 1: no such model", "python exited with 1: no such model"),
    ("cruijff_kit.errors.CruijffKitError: training ended without its checkpoint: epoch_0", "CruijffKitError: training ended without its checkpoint: epoch_0"),
]


@pytest.mark.parametrize(("raised", "line"), LAST_WORDS)
def test_where_only_we_say_that_it_failed_that_is_the_reason(raised: str, line: str) -> None:
    assert telling(f"{START}{BAR}{SUBMITIT}{raised}\n") == Failure("error", line)


WITHOUT_PYTHON = [
    "srun: error: node1: task 0: Killed",
    "bash: line 1: 18538 Killed                  python train.py",
    "Fatal Python error: Segmentation fault",
    "train.sh: line 3: tune: command not found",
    "execve(): tune: No such file or directory",
    "error: argument --config: expected one argument",
]


@pytest.mark.parametrize("line", WITHOUT_PYTHON)
def test_where_nothing_was_raised_the_last_words_are_the_reason(line: str) -> None:
    assert telling(f"Loss is initialized.\n{line}\n") == Failure("error", line)


@pytest.mark.parametrize("text", ["", "\n\r\n", START, SUCCESS, START + BAR, EVALUATION.partition("\n")[0], START + FRAMES])
def test_a_log_without_a_failure_says_nothing(text: str) -> None:
    assert telling(text) is None


REQUEUED = """\
out of time, or preempted: requeueing job 5_1 (restart 1 of 1)
slurmstepd-node0: error: *** STEP 7.0 ON node0 CANCELLED AT 2026-11-24T18:12:51 DUE TO JOB REQUEUE ***
slurmstepd-node0: error: *** JOB 7 ON node0 CANCELLED AT 2026-11-24T18:12:51 DUE TO JOB REQUEUE ***
srun: got SIGCONT
srun: error: node0: task 0: Exited with exit code 140
srun: launch/slurm: _step_signal: Terminating StepId=7.0
"""


def test_only_what_comes_after_the_last_start_counts() -> None:
    first = START + BAR + f"{FRAMES}ValueError: of the first start\n" + REQUEUED + ENDED
    assert telling(first + SUCCESS) is None
    assert telling(first + START + ALONE) == BY_SLURM[5][1]
    assert telling(START + NODE + ENDED + stage("ValueError: of the second")) == Failure("error", "ValueError: of the second")


def test_a_job_that_waits_for_its_next_start_has_not_failed() -> None:
    assert telling(START + BAR + REQUEUED) is None
    assert telling(START + BAR + REQUEUED + ENDED) is None


def test_one_that_was_cancelled_after_it_had_been_requeued_is_cancelled() -> None:
    cancelled = Failure("cancelled", "STEP 6.0 ON node0 CANCELLED AT 2026-11-24T18:13:02")
    assert telling("".join([START, REQUEUED, CANCELLED])) == cancelled  # as a script of sbatch's whose log is appended to


def seconds(text: str) -> float:
    """The shortest of five times that telling takes."""
    times = []
    for _ in range(5):
        begin = time.process_time()
        telling(text)
        times.append(time.process_time() - begin)
    return min(times)


LONG = [BAR, "a", "a ", "1|1|Loss: ", "error", "srun: ", f"{FRAMES}ValueError: CUDA ", "[rank0]: x\n", "  | x\n", "Signal 9 ("]


@pytest.mark.parametrize("piece", LONG)
@pytest.mark.parametrize("before", ["", f"{FRAMES}ValueError: "])
def test_a_log_of_four_times_the_length_takes_about_four_times_as_long(piece: str, before: str) -> None:
    short, long = (before + piece * (length // len(piece)) for length in (8_192, 32_768))
    assert seconds(long) < 10 * max(seconds(short), 1e-3)  # sixteen times where a pattern is quadratic


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "offered"),
    [(8, 1, (4, 2)), (6, 2, (3, 4)), (9, 4, (3, 12)), (7, 3, (1, 21)), (2, 1, (1, 2)), (1, 8, None), (15, 2, (5, 6))],
)
def test_a_smaller_batch_is_offered_with_the_accumulation_that_keeps_their_product(
    batch_size: int, accumulation: int, offered: tuple[int, int] | None
) -> None:
    assert offer(batch_size, accumulation) == offered
