"""One experiment.yaml a fault, each with the whole text that `generate` has to say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cruijff_kit.errors import ExperimentError
from cruijff_kit.plan import plan
from tests.tiny_experiment import write_experiment

FOLDER = Path(__file__).with_name("bad_experiments")
BAD = sorted(FOLDER.rglob("*.yaml"))

# beside what every tiny experiment has
FILES = {
    "model/config.json": "",
    "model/model.safetensors": "",
    "data/empty.jsonl": "\n",
    "data/numbers.csv": "input,output\n" + "Double: 2,4\n" * 4,
    "data/nested.json": '{"data": [{"input": "a", "output": "b"}]}\n',
    "data/nulls.jsonl": ('{"input": "a", "output": "b"}\n' * 2 + '\n{"input": "a", "output": null}\n{"input": "a"}\n') * 3,
    "data/chat.jsonl": '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 4
    + '{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}\n',
    "data/odd [1].jsonl": '{"input": "a", "output": "b"}\n' * 4,
    "data/broken.json": '[{"input": "Capitalize: apple", "output": "Apple"},\n',
    "evals/broken.py": "from inspect_ai import task\n\n\n@task\ndef capitalize(:\n    return None\n",
    "evals/imports.py": "import nowhere_to_be_found\nfrom inspect_evals.mmlu import mmlu\nfrom inspect_ai import task\n\n\n@task\ndef imports():\n    return None\n",
    "evals/needs.py": "from inspect_ai import task\n\n\n@task\ndef needs(data, *, limit):\n    return None\n",
}


def said(folder: Path) -> str:
    """The report on the experiment in `folder`: its faults, or its warnings where it has none."""
    try:
        problems = plan(folder).warnings
    except ExperimentError as error:
        problems = error.problems
    text = "".join(f"{problem}\n" for problem in problems)
    return text.replace(str(folder), "{folder}").replace(str(folder.parent), "{parent}")


def test_there_are_bad_experiments_and_each_has_its_text():
    assert len(BAD) > 70
    assert [path.stem for path in BAD] == sorted(path.stem for path in FOLDER.rglob("*.txt"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_the_fault_is_said(path, tmp_path):
    folder = write_experiment(tmp_path / "experiment", "model")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "experiment.yaml").write_bytes(path.read_bytes())
    assert said(folder) == path.with_suffix(".txt").read_text(encoding="utf-8")
