"""A run and its number: what --keep-ids keeps, and numbers that are in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cruijff_kit.cli import main
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.generate import check_current, generate
from cruijff_kit.plan import plan
from tests.test_generate import edit, listing, tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny experiment, ranks 2 and 4, generated."""
    folder = tiny(tmp_path / "experiment")
    generate(folder)
    return folder


def rows(folder: Path) -> dict[str, object]:
    """The rank of each row of run_mapping.yaml; a retired one in brackets."""
    runs = yaml.safe_load((folder / "configs/run_mapping.yaml").read_text())["runs"]
    return {row["id"]: [row["params"]["lora_rank"]] if row.get("retired") else row["params"]["lora_rank"] for row in runs}


def configs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "configs").glob("train_*.yaml"))


def give_results(folder: Path, run: str) -> Path:
    """Something that a training of `run` would leave."""
    path = folder / "results" / run / "torchtune_config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((folder / f"configs/train_{run[4:]}.yaml").read_text())
    return path


def test_kept_ids_are_matched_by_what_is_trained(folder):
    edit(folder, variables={"lora_rank": [1, 4, 8]})
    generate(folder, keep_ids=True)
    assert rows(folder) == {"run_002": 1, "run_001": 4, "run_003": 8, "run_000": [2]}
    assert configs(folder) == ["train_001.yaml", "train_002.yaml", "train_003.yaml"]
    assert yaml.safe_load((folder / "configs/train_002.yaml").read_text())["model"]["lora_rank"] == 1


def test_kept_ids_stay_so_without_the_flag(folder):
    edit(folder, variables={"lora_rank": [1, 4]})
    generate(folder, keep_ids=True)
    before = listing(folder)
    generate(folder)
    generate(folder, force=True)
    check_current(plan(folder))
    assert listing(folder) == before
    edit(folder, variables={"lora_rank": [8, 1]})
    generate(folder, force=True)
    assert rows(folder) == {"run_003": 8, "run_002": 1, "run_000": [2], "run_001": [4]}


def test_a_point_that_comes_back_has_its_number_again(folder):
    edit(folder, variables={"lora_rank": [4]})
    generate(folder, keep_ids=True)
    assert rows(folder) == {"run_001": 4, "run_000": [2]}
    edit(folder, variables={"lora_rank": [8, 2, 4]})
    generate(folder, keep_ids=True)
    assert rows(folder) == {"run_002": 8, "run_000": 2, "run_001": 4}


def test_what_changes_every_run_retires_every_run(folder):
    edit(folder, controls={"learning_rate": 1e-3})
    generate(folder, keep_ids=True)
    assert rows(folder) == {"run_002": 2, "run_003": 4, "run_000": [2], "run_001": [4]}


def test_results_of_a_retired_run_are_left_alone(folder):
    path = give_results(folder, "run_000")
    before = path.read_bytes()
    edit(folder, variables={"lora_rank": [4]})
    generate(folder, keep_ids=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("force", [False, True])
def test_a_number_that_has_results_is_not_given_to_another_run(folder, force):
    give_results(folder, "run_000")
    (folder / "eval_results/run_001/capitalize").mkdir(parents=True)
    edit(folder, variables={"lora_rank": [8, 16]})
    before = listing(folder)
    with pytest.raises(CruijffKitError) as error:
        generate(folder, force=force)
    assert str(error.value) == (
        "numbers that are in use would become other runs:\n"
        "  run_000 has the results of lora_rank=2, and would be lora_rank=8\n"
        "  run_001 has the results of lora_rank=4, and would be lora_rank=16\n"
        "nothing was written; to keep every run's number and give new ones to new runs:\n"
        f"cruijff-kit generate --keep-ids {folder}\n"
        "or move those results away first"
    )
    assert listing(folder) == before
    generate(folder, keep_ids=True)
    assert rows(folder) == {"run_002": 8, "run_003": 16, "run_000": [2], "run_001": [4]}


def test_run_says_so_too(folder):
    give_results(folder, "run_000")
    edit(folder, variables={"lora_rank": [8, 16]})
    with pytest.raises(CruijffKitError, match="^experiment.yaml changed since generate.*\n.*\n  run_000 has the results of lora_rank=2, and would be lora_rank=8\n"):
        check_current(plan(folder))


def test_a_run_whose_controls_changed_is_another_run(folder):
    give_results(folder, "run_000")
    edit(folder, controls={"batch_size": 1})
    with pytest.raises(CruijffKitError, match="  run_000 has the results of lora_rank=2, and would be the same with other controls\n"):
        generate(folder, force=True)


def test_a_number_without_results_may_become_another_run(folder):
    give_results(folder, "run_000")
    edit(folder, variables={"lora_rank": [2, 8]})
    generate(folder, force=True)
    assert rows(folder) == {"run_000": 2, "run_001": 8}


def test_results_without_a_mapping_are_known_by_torchtunes_copy_of_their_config(folder):
    give_results(folder, "run_000")
    give_results(folder, "run_001")
    (folder / "configs/run_mapping.yaml").unlink()
    edit(folder, variables={"lora_rank": [2, 8]})
    with pytest.raises(CruijffKitError, match="  run_001 has the results of another config, and would be lora_rank=8\n"):
        generate(folder, force=True)
    edit(folder, variables={"lora_rank": [2, 4]})
    generate(folder, force=True)


def test_a_number_that_is_being_trained_is_not_given_to_another_run(folder):
    program = "import sys; from cruijff_kit import workspace, paths; from pathlib import Path\n"
    program += "with workspace.locked(paths.held(Path(sys.argv[1]), 'train', 'run_001')): print(flush=True); sys.stdin.read()"
    edit(folder, variables={"lora_rank": [2, 8]})
    with subprocess.Popen([sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        training.stdout.readline()
        with pytest.raises(CruijffKitError, match="  run_001 is the training of lora_rank=4, and would be lora_rank=8\n"):
            generate(folder, force=True)
        training.stdin.close()
    generate(folder, force=True)
    assert rows(folder) == {"run_000": 2, "run_001": 8}


def test_a_number_in_training_is_nobody_elses_though_its_point_was_removed_before(folder):
    program = "import sys; from cruijff_kit import workspace, paths; from pathlib import Path\n"
    program += "with workspace.locked(paths.held(Path(sys.argv[1]), 'train', 'run_001')): print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        training.stdout.readline()
        edit(folder, variables={"lora_rank": [2]})
        generate(folder, force=True)
        edit(folder, variables={"lora_rank": [2, 8]})
        with pytest.raises(CruijffKitError, match="  run_001 is the training of another config, and would be lora_rank=8\n"):
            generate(folder, force=True)
        training.stdin.close()


def test_a_multirun_that_cannot_be_read_is_no_addition(folder):
    (folder / "configs/multirun.yaml").write_text("a: [")
    with pytest.raises(CruijffKitError, match="cruijff-kit generate --force"):
        generate(folder)


def test_a_dry_run_finishes_nothing_that_was_interrupted(folder):
    (folder / ".cruijff-kit/pending").mkdir()
    before = listing(folder)
    generate(folder, dry_run=True)
    assert listing(folder) == before


def test_another_task_or_tag_needs_no_flag_and_keeps_the_numbers(folder):
    give_results(folder, "run_000")
    tasks = yaml.safe_load((folder / "experiment.yaml").read_text())["evaluation"]["tasks"]
    other = {"name": "included", "file": "tasks.py", "function": "capitalize", "args": {"scorer": "includes"}}
    edit(folder, experiment={"tags": ["new"]}, evaluation={"tasks": [*tasks, other]})
    generate(folder)
    assert '"name": "included"' in (folder / "configs/eval_000.py").read_text()
    check_current(plan(folder))


@pytest.mark.parametrize("what", ["a setting as well", "another run as well", "an edited script"])
def test_a_task_beside_another_change_needs_the_word(folder, what):
    spec = yaml.safe_load((folder / "experiment.yaml").read_text())
    other = {"name": "included", "file": "tasks.py", "function": "capitalize"}
    edit(folder, evaluation={"tasks": [*spec["evaluation"]["tasks"], other]})
    if what == "a setting as well":
        edit(folder, evaluation={"limit": 3})
    elif what == "another run as well":
        edit(folder, variables={"lora_rank": [2, 4, 8]})
    else:
        script = folder / "configs/eval_001.py"
        script.write_text(script.read_text() + "print('mine')\n")
    before = listing(folder)
    with pytest.raises(CruijffKitError, match="cruijff-kit generate --force"):
        generate(folder)
    assert listing(folder) == before


def test_the_flag_on_the_command_line(folder, capsys):
    edit(folder, variables={"lora_rank": [4, 8]})
    assert main(["generate", "--keep-ids", str(folder)]) == 0
    assert rows(folder) == {"run_001": 4, "run_002": 8, "run_000": [2]}
    assert "✓ Generated 2 training configs (train_001.yaml to train_002.yaml)" in capsys.readouterr().out
