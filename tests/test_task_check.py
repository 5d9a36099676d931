"""Building evaluation tasks in processes of their own: what they are, and what is wrong with them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cruijff_kit import task_check
from cruijff_kit.generate import Plan, plan
from cruijff_kit.task_check import TaskFacts
from tests.tiny_experiment import specification, write_experiment

EXAMPLES = Path(__file__).parents[1] / "examples"

HEAD = """\
import os
import subprocess
import sys
import threading
import time

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser

"""

# One task a function, all in one file that prints what would disturb a reader of its output.
FUNCTIONS = {
    "good": ("", "return Task(dataset=[Sample(input='Say a.\\n', target='a'), Sample(input='Say b.', target='b')])"),
    "chat": ("", "return Task(dataset=[Sample(input=[ChatMessageSystem(content='Be brief.'), ChatMessageUser(content='Hi')])])"),
    "noisy": (
        "weights, text",
        "os.write(1, b'\\xff{}' * 100000)\n    os.write(2, b'\\xff\\n' * 100000)\n"
        "    threading.Thread(target=time.sleep, args=(300,)).start()\n"
        "    assert weights == {'1': 0.5}\n    return Task(dataset=[Sample(input=text)])",
    ),
    "empty": ("", "made = Task(dataset=[Sample(input='x')])\n    made.dataset = MemoryDataset([])\n    return made"),
    "raises": ("", "from deeper import fail\n    fail()"),
    "exits": ("", "exit(0)"),
    "dies": ("", "print('out of luck', file=sys.stderr, flush=True)\n    os._exit(7)"),
    "no_task": ("", "return 3"),
    "hangs": ("", "subprocess.Popen(['sleep', '299.5'])\n    time.sleep(300)"),
}
ARGUMENTS = {"noisy": {"weights": {"1": 0.5}, "text": "$(touch owned) 'quoted' \" \n ${x}"}}


def source() -> str:
    functions = (f"@task\ndef {name}({arguments}):\n    {body}\n" for name, (arguments, body) in FUNCTIONS.items())
    return HEAD + "\n\n".join(functions)


def made(folder: Path, model: Path, *names: str) -> Plan:
    """The plan of an experiment with these tasks."""
    spec = specification(model)
    spec["evaluation"]["tasks"] = [
        {"name": name, "file": "tasks.py", "function": name, "args": ARGUMENTS.get(name, {})} for name in names
    ]
    write_experiment(folder, model, spec)
    (folder / "evals" / "tasks.py").write_text(source())
    (folder / "evals" / "deeper.py").write_text("def fail():\n    raise ValueError('no such split\\nand more')\n")
    return plan(folder)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, tiny_model) -> tuple[Path, dict[str, TaskFacts], dict[str, Any]]:
    """The folder, and what was said of each task but the one that hangs."""
    folder = tmp_path_factory.mktemp("tasks") / "experiment"
    names = [name for name in FUNCTIONS if name != "hangs"]
    with task_check.start(made(folder, tiny_model, *names)) as check:
        facts, problems = check.finish()
    by_key = {f"evaluation.tasks[{index}]": name for index, name in enumerate(names)}
    return folder, {each.name: each for each in facts}, {by_key[each.key]: each for each in problems}


def test_a_task_has_its_samples_and_its_first_prompt(outcome):
    _, facts, problems = outcome
    assert facts["good"] == TaskFacts("good", 2, "Say a.\n")
    assert facts["good"].as_dict() == {"name": "good", "samples": 2, "first_prompt": "Say a.\n"}
    assert facts["chat"] == TaskFacts("chat", 1, "system: Be brief.\nuser: Hi")
    assert not {"good", "chat"} & problems.keys()


def test_arguments_arrive_as_the_evaluation_gets_them_and_are_never_code(outcome):
    folder, facts, _ = outcome
    assert facts["noisy"].first_prompt == ARGUMENTS["noisy"]["text"]
    assert not list(folder.rglob("owned"))


def test_what_a_task_prints_or_leaves_running_disturbs_nothing(outcome):
    assert outcome[1]["noisy"].samples == 1


def line(function: str) -> int:
    """The line of the statement in which the function fails."""
    lines = source().splitlines()
    start = next(number for number, text in enumerate(lines, 1) if text.startswith(f"def {function}("))
    return start + FUNCTIONS[function][1].count("\n") + 1


@pytest.mark.parametrize(
    ("name", "what"),
    {
        "empty": "task 'empty' has no samples: there would be no score",
        "raises": "task 'raises' cannot be built: evals/deeper.py:2: ValueError: no such split",
        "exits": f"task 'exits' cannot be built: evals/tasks.py:{line('exits')}: it ends the process: SystemExit: 0",
        "dies": "task 'dies' cannot be built: its process ended with exit code 7: out of luck",
        "no_task": "task 'no_task' cannot be built: evals/tasks.py: it returns no Task",
    }.items(),
)
def test_a_task_that_cannot_be_evaluated_is_named_with_the_users_own_line(outcome, name, what):
    problem = outcome[2][name]
    assert (problem.what, problem.level) == (what, "error")
    assert problem.file.endswith("experiment.yaml") and problem.line


def running(command: str) -> list[str]:
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True)
    return [each for each in done.stdout.splitlines() if each == command]


def test_a_task_that_hangs_is_ended_with_all_that_it_started(tmp_path, tiny_model):
    with task_check.start(made(tmp_path / "experiment", tiny_model, "hangs"), limit_s=6) as check:
        facts, problems = check.finish()
    assert facts == []
    assert [(each.what, each.fix) for each in problems] == [
        (
            "task 'hangs' cannot be built: it was not built after 6 s, and was ended",
            "does it wait for a network, or for another process?",
        )
    ]
    assert running("sleep 299.5") == []


CHECK = """
import sys
from pathlib import Path
from cruijff_kit import task_check
from cruijff_kit.generate import plan

task_check.start(plan(Path(sys.argv[1]))).finish()
"""


def test_ctrl_c_ends_what_was_started(tmp_path, tiny_model):
    made(folder := tmp_path / "experiment", tiny_model, "hangs")
    with subprocess.Popen([sys.executable, "-c", CHECK, folder], stderr=subprocess.PIPE, text=True) as check:
        deadline = time.monotonic() + 60
        while not running("sleep 299.5") and time.monotonic() < deadline:
            time.sleep(0.2)
        assert running("sleep 299.5")
        check.send_signal(signal.SIGINT)
        _, said = check.communicate(timeout=10)
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert running("sleep 299.5") == []


def test_nothing_is_built_where_evaluation_is_off(tmp_path, tiny_model):
    spec = specification(tiny_model)
    spec["evaluation"] = {"enabled": False}
    with task_check.start(plan(write_experiment(tmp_path / "experiment", tiny_model, spec))) as check:
        assert check.finish() == ([], [])


def test_the_tasks_of_the_small_example_are_built():
    with task_check.start(plan(EXAMPLES / "smollm2_capitalize")) as check:
        facts, problems = check.finish()
    assert problems == []
    assert [(each.name, each.samples) for each in facts] == [("capitalize", 40), ("capitalize_phrase", 40)]
    assert (facts[0].first_prompt or "").startswith("Capitalize: ")


def test_data_of_the_hub_that_is_not_here_is_named_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    folder = EXAMPLES / "lora_rank_with_eval"
    with task_check.start(plan(folder)) as check:
        facts, problems = check.finish()
    assert [(each.name, each.samples) for each in facts] == [("domain_qa", 16)]
    assert [(each.key, each.what, each.fix) for each in problems] == [
        (
            "evaluation.tasks[0]",
            "task 'mmlu_subset' cannot be built: evals/mmlu_subset.py:9: "
            "ConnectionError: Couldn't reach 'cais/mmlu' on the Hub (OfflineModeIsEnabled)",
            f"fetch its data once, on a machine with a network: HF_HUB_OFFLINE=0 cruijff-kit check {folder} --deep",
        )
    ]
