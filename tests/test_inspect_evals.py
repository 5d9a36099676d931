"""Tasks of inspect_evals: from data that is on this machine, and what to fetch where it is not."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cruijff_kit import offline
from tests import dataset_hub
from tests.tiny_experiment import specification, write_experiment

EXAMPLE = Path(__file__).parents[1] / "examples" / "lora_rank_with_eval"
OTHER_SUBJECT = "virology"
PER_SUBJECT = 2

CARD = """\
---
configs:
- config_name: all
  data_files:
  - {split: test, path: all/test-*}
  - {split: dev, path: all/dev-*}
- config_name: abstract_algebra
  data_files:
  - {split: test, path: abstract_algebra/test-*}
---
"""


def example_task() -> dict[str, Any]:
    tasks = yaml.safe_load((EXAMPLE / "experiment.yaml").read_text())["evaluation"]["tasks"]
    return next(task for task in tasks if task["name"] == "mmlu_subset")


def mmlu() -> dict[str, bytes]:
    """The files of a small cais/mmlu: the example's subjects, and one that it does not ask for."""
    subjects = [*example_task()["args"]["subjects"], OTHER_SUBJECT]
    return {
        "README.md": CARD.encode(),
        **{f"all/{split}-00000-of-00001.parquet": questions(split, subjects) for split in ("test", "dev")},
        "abstract_algebra/test-00000-of-00001.parquet": questions("test", ["abstract_algebra"]),
    }


def questions(split: str, subjects: list[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"question": f"{subject}, {split} {number}?", "subject": subject, "choices": ["one", "two", "three", "four"], "answer": number}
        for subject in subjects
        for number in range(PER_SUBJECT)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file := io.BytesIO())
    return file.getvalue()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, cruijff: Callable[..., Any]) -> Path:
    """An experiment on the tiny model with the example's task, as it is."""
    spec = specification(tiny_model)
    spec["variables"] = {"lora_rank": [2]}
    spec["evaluation"] |= {"tasks": [example_task()], "baseline": True}
    folder = write_experiment(tmp_path_factory.mktemp("inspect_evals") / "the experiment", tiny_model, spec)
    shutil.copy(EXAMPLE / "evals" / "mmlu_subset.py", folder / "evals")
    done = cruijff("generate", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which everything that is started looks for data and keeps it."""
    for name, folder in {"HF_HOME": "hub", "HF_DATASETS_CACHE": "datasets", "XDG_CACHE_HOME": "others"}.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path


def evaluate_baseline(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, folder / "configs" / "eval_base.py"], text=True, capture_output=True)


def test_inspects_own_loader_asks_once_where_nothing_may_be_fetched(monkeypatch):
    from inspect_ai.dataset._sources import hf

    monkeypatch.setattr(hf, "_should_retry_hf_error", hf._should_retry_hf_error)  # to be put back
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    offline.fail_at_once()
    asked = []

    def load() -> None:
        asked.append("cache")
        raise ValueError("Couldn't find cache for some/dataset")

    with pytest.raises(ValueError):
        hf._call_with_hf_retry(load)
    assert asked == ["cache"]


def test_what_is_missing_is_said_at_once_with_a_line_that_fetches_all_of_it(generated, cache):
    # what another program fetched of the same dataset: Inspect's loaders would wait for the rest of it
    other = cache / "datasets" / "cais___mmlu" / "abstract_algebra" / "0.0.0" / "1234"
    other.mkdir(parents=True)
    (other / "dataset_info.json").write_text(json.dumps({"config_name": "abstract_algebra"}))

    failed = evaluate_baseline(generated)
    line = f"HF_HUB_OFFLINE=0 cruijff-kit check '{generated}' --deep"
    assert (failed.returncode, failed.stdout.count("Loading dataset cais/mmlu")) == (1, 1)
    assert failed.stderr.splitlines()[-3:] == [
        "task 'mmlu_subset' cannot be built: ValueError: Couldn't find cache for cais/mmlu for config 'all'",
        "Available configs in the cache: ['abstract_algebra']",
        f"  fetch its data once, on a machine with a network: {line}",
    ]

    with dataset_hub.serving("cais/mmlu", mmlu()) as address:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        fetched = subprocess.run(line, shell=True, text=True, capture_output=True, env={**os.environ, "HF_ENDPOINT": address, "PATH": path})
    assert fetched.returncode == 0, fetched.stderr

    done = evaluate_baseline(generated)
    assert done.returncode == 0, done.stderr
    results = json.loads((generated / "eval_results" / "base" / "mmlu_subset" / "results.json").read_text())
    asked = len(example_task()["args"]["subjects"]) * PER_SUBJECT
    assert (results["status"], results["samples"]) == ("success", {"total": asked, "completed": asked})
    assert [list(score["metrics"]) for score in results["scores"]] == [["accuracy", "stderr"]]
