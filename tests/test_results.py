"""`results`: what Inspect's logs say, run by run, to the last digit; and what is missing or cannot be read, by name."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cruijff_kit import checkpoint, log_headers
from cruijff_kit.cli import main
from cruijff_kit.experiment import load
from cruijff_kit.generate import generate
from cruijff_kit.paths import Layout
from cruijff_kit.replicates import Mean, means
from cruijff_kit.results import Score, collect
from cruijff_kit.results_files import as_json, write_parquet
from cruijff_kit.results_files import records as rows_of
from cruijff_kit.results_table import lines, number
from cruijff_kit.run_mapping import Row, read
from tests import finished_runs, made_up_logs
from tests.tiny_experiment import specification, write_experiment, write_hollow_model

Command = Callable[..., subprocess.CompletedProcess[str]]


def made_value(run: str, task: str) -> float:
    """A score with as many digits as a float has."""
    return 1 / (3 + int(run.removeprefix("run_")) + len(task))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks with two seeds each, two tasks; run_002 is not evaluated, and the training of run_003 failed."""
    folder = tmp_path_factory.mktemp("results")
    model = write_hollow_model(folder / "model")
    spec = specification(model)
    del spec["controls"]["seed"]
    spec["variables"] = {"lora_rank": [2, 4], "seed": [1, 2]}
    spec["evaluation"]["tasks"] = [{"name": name, "file": "tasks.py", "function": "capitalize"} for name in ("words", "phrases")]
    write_experiment(folder / "a sweep", model, spec)
    generate(folder / "a sweep")
    layout = Layout.of(load(folder / "a sweep"))
    rows = {row.id: row.identity for row in read(layout).rows}
    for run in ("run_000", "run_001", "run_002"):
        finished_runs.train(layout, run, rows[run])
    for run in ("run_000", "run_001"):
        finished_runs.evaluate(layout, run, rows[run])
    finished_runs.record(layout, "run_003", "train", rows["run_003"], state="failed", reason="tune exited with 1: ValueError: no luck", exit_code=1)
    (layout.run_results("run_001") / "logs").mkdir()
    (layout.run_results("run_001") / "logs/log_1.txt").write_text("Step 1 | loss:2.5 lr:0.1 \nStep 2 | loss:1.25 lr:0.1 \n")
    made_up_logs.write(layout, made_value)
    return folder / "a sweep"


@pytest.fixture
def damaged(whole: Path) -> Path:
    """The same, to be damaged by a test."""
    aside = whole.with_name("as it was")
    shutil.copytree(whole / "eval_results", aside)
    yield whole
    shutil.rmtree(whole / "eval_results")
    aside.rename(whole / "eval_results")


def as_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def a_log(folder: Path, run: str, task: str) -> Path:
    (path,) = (folder / "eval_results" / run / task).rglob("*.eval")
    return path


def statuses(folder: Path) -> dict[tuple[str, str], str]:
    return {(score.run, score.task): score.status for score in collect(folder).scores}


def test_csv_and_json_have_the_numbers_of_inspects_logs_to_the_last_digit(whole: Path, cruijff: Command) -> None:
    from inspect_ai.log import read_eval_log

    printed = as_csv(cruijff("results", whole, "--csv").stdout)
    data = json.loads(cruijff("results", whole, "--json").stdout)["scores"]
    scored = [row for row in printed if row["status"] == "success"]
    assert len(scored) == 2 * 2 * 2  # runs, tasks, scorers
    for row, values in zip(scored, (values for values in data if values["status"] == "success"), strict=True):
        log = read_eval_log(str(whole / row["log"]))
        (score,) = (score for score in log.results.scores if score.name == row["scorer"])
        metrics = {name: metric.value for name, metric in score.metrics.items()}
        assert (float(row["value"]), float(row["stderr"])) == (metrics[row["metric"]], metrics["stderr"])
        assert (values["value"], values["stderr"], values["log"]) == (metrics[row["metric"]], metrics["stderr"], row["log"])
        assert (int(row["samples"]), int(row["tokens"])) == (log.results.completed_samples, 480)
    assert {row["value"] for row in scored if row["scorer"] == "match"} == {repr(made_value(run, task)) for run in ("run_000", "run_001") for task in ("words", "phrases")}


def test_a_row_has_the_parameters_of_its_run_and_what_its_training_and_evaluation_cost(whole: Path) -> None:
    (score,) = (score for score in collect(whole).scores if (score.run, score.task, score.scorer) == ("run_001", "words", "match"))
    assert (score.params, score.train_loss, score.samples, score.status, score.note) == ({"lora_rank": 2, "seed": 2}, 1.25, 40, "success", "")
    assert score.train_time_s == pytest.approx(30, abs=1)
    assert score.time_s is not None


def test_what_has_no_score_is_there_once_for_each_metric_with_the_reason(whole: Path) -> None:
    lacking = [(score.run, score.task, score.scorer, score.metric, score.value, score.status) for score in collect(whole).scores if score.status != "success"]
    failed = "training failed: tune exited with 1: ValueError: no luck"
    expected = [(run, status) for run, status in (("run_002", "not evaluated"), ("run_003", failed))]
    assert lacking == [(run, task, scorer, "accuracy", None, status) for run, status in expected for task in ("words", "phrases") for scorer in ("match", "includes")]


def test_the_table_fits_a_narrow_terminal_and_says_more_on_a_wide_one(whole: Path) -> None:
    scores = collect(whole).scores
    narrow, wide = ([str(line) for line in lines(scores, width)] for width in (100, 240))
    assert narrow[0].split() == ["run", "lora_rank", "seed", "task", "metric", "value", "stderr", "samples", "loss"]
    assert wide[0].split() == ["run", "lora_rank", "seed", "task", "metric", "value", "stderr", "samples", "loss", "tokens", "time", "log"]
    assert narrow[4].split() == ["run_000", "2", "1", "phrases", "match", "accuracy", "0.1000", "0.0100", "40"]
    assert " ".join(narrow[-4].split() + [word for line in narrow[-3:] for word in line.split()]).endswith("training failed: tune exited with 1: ValueError: no luck")


def test_numbers_are_shown_with_four_digits_unless_these_would_say_nothing() -> None:
    assert [number(value) for value in (None, 3, 0.0, 0.12345678, 12.5, 0.00001234, float("nan"))] == ["", "3", "0.0000", "0.1235", "12.5000", "1.23e-05", "nan"]


def test_a_truncated_log_is_named_and_skipped_and_the_rest_is_shown(damaged: Path, cruijff: Command) -> None:
    path = a_log(damaged, "run_000", "words")
    path.write_bytes(path.read_bytes()[:-200])
    done = cruijff("results", damaged, "--csv")
    rows = {(row["run"], row["task"], row["scorer"]): row for row in as_csv(done.stdout)}
    assert done.returncode == 0
    assert done.stderr.startswith(f"{path.relative_to(damaged)}: cannot be read: ")
    assert done.stderr.endswith(": skipped\n") and done.stderr.count("\n") == 1
    assert rows["run_000", "words", "match"]["status"].startswith("its log cannot be read: ")
    assert rows["run_000", "words", "match"]["value"] == ""
    assert rows["run_000", "phrases", "match"]["value"] == repr(made_value("run_000", "phrases"))


def rewrite(path: Path, **changes: object) -> None:
    """The log anew, with other values in its header."""
    from inspect_ai.log import read_eval_log, write_eval_log

    log = read_eval_log(str(path))
    assert log.status == "success"
    for name, value in changes.items():
        where, _, key = name.rpartition("__")
        setattr(log.eval if where else log, key, value)
    write_eval_log(log, str(path))


def test_the_log_of_another_experiment_is_named_and_skipped(damaged: Path) -> None:
    ours, path = a_log(damaged, "run_000", "words"), a_log(damaged, "run_001", "words")
    rewrite(path, eval__metadata={"experiment": "another", "run": "run_007", "task": "words", "digest": "0123"})
    shutil.copy(path, ours.with_name("stray.eval"))
    found = collect(damaged)
    assert statuses(damaged)["run_001", "words"] == "its log is of another evaluation: another run_007"
    assert statuses(damaged)["run_000", "words"] == "success"
    assert found.notes == [
        f"{path.relative_to(damaged)}: is of another evaluation: another run_007: skipped",
        f"{ours.with_name('stray.eval').relative_to(damaged)}: is not of run_000 of this experiment, but of another run_007: skipped",
    ]


def test_a_log_of_a_newer_format_is_named_and_skipped(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = a_log(damaged, "run_000", "words")
    with monkeypatch.context() as newer:  # an Inspect that writes another format
        newer.setattr("inspect_ai.log._recorders.eval.LOG_SCHEMA_VERSION", 7)
        rewrite(path)
    assert collect(damaged).notes == [f"{path.relative_to(damaged)}: of a newer Inspect: format 7 of a log, where 2 is the newest known here: skipped"]
    assert statuses(damaged)["run_000", "phrases"] == "success"


def test_scores_made_by_several_versions_of_inspect_are_shown_and_said(damaged: Path) -> None:
    from importlib.metadata import version

    rewrite(a_log(damaged, "run_000", "words"), eval__packages={"inspect_ai": "0.3.100"})
    assert statuses(damaged)["run_000", "words"] == "success"
    assert collect(damaged).notes == [f"the scores were made by several versions of Inspect: 1 by 0.3.100, 3 by {version('inspect_ai')}"]


def test_a_log_that_is_gone_is_said(damaged: Path) -> None:
    a_log(damaged, "run_000", "words").unlink()
    assert statuses(damaged)["run_000", "words"] == "its log is gone"


def test_results_that_name_no_log_are_said(damaged: Path) -> None:
    path = damaged / "eval_results/run_000/words/results.json"
    results = json.loads(path.read_text())
    del results["log"], results["digest"]
    path.write_text(json.dumps(results))
    assert statuses(damaged)["run_000", "words"] == "its results.json names no log"


def test_a_header_is_read_again_only_when_size_or_time_of_the_log_changed(damaged: Path) -> None:
    path = a_log(damaged, "run_000", "words")
    collect(damaged)
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert statuses(damaged)["run_000", "words"] == "success"
    os.utime(path)
    assert statuses(damaged)["run_000", "words"].startswith("its log cannot be read")


@pytest.mark.parametrize("logs", ["[]", '{"PATH": null}', '{"PATH": [[1, 2]]}', '{"PATH": [[1, 2], null]}', '{"PATH": [[1, 2], {"another": 1}]}'])
def test_headers_that_were_kept_in_another_form_are_no_fault(whole: Path, logs: str) -> None:
    edition = json.dumps(log_headers._edition())[:-1]
    (whole / ".cruijff-kit/logs.json").write_text(f'{edition}, "logs": {logs.replace("PATH", str(a_log(whole, "run_000", "words")))}}}')
    assert statuses(whole)["run_000", "words"] == "success"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 0, "inspect": "0.3.285", "logs": {}}'])
def test_headers_that_were_kept_and_cannot_be_read_are_no_fault(whole: Path, content: str) -> None:
    (whole / ".cruijff-kit/logs.json").write_text(content)
    assert statuses(whole)["run_000", "words"] == "success"


def test_a_log_that_could_not_be_read_once_is_tried_again(damaged: Path) -> None:
    path = a_log(damaged, "run_000", "words")
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (damaged / ".cruijff-kit/logs.json").unlink(missing_ok=True)
    assert statuses(damaged)["run_000", "words"].startswith("its log cannot be read")
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert statuses(damaged)["run_000", "words"] == "success"


def test_results_of_a_run_may_be_a_link_to_another_disk(damaged: Path, tmp_path: Path) -> None:
    shutil.move(damaged / "eval_results/run_000", tmp_path / "disk")
    (damaged / "eval_results/run_000").symlink_to(tmp_path / "disk")
    assert statuses(damaged)["run_000", "words"] == "success"
    (damaged / "eval_results/run_000").unlink()


def test_a_log_without_scores_is_said(damaged: Path) -> None:
    from inspect_ai.log import EvalResults

    path = a_log(damaged, "run_000", "words")
    rewrite(path, results=EvalResults(total_samples=40, completed_samples=40, scores=[]))
    assert statuses(damaged)["run_000", "words"] == "its log has no scores"


@pytest.mark.parametrize(("trained_with", "params", "note"), [
    ({"seed": 7}, {"lora_rank": 2, "seed": 7}, ""),
    ({"model_dir": "/elsewhere"}, {"lora_rank": 2, "seed": 1}, "model_dir=/elsewhere"),
    (None, {"lora_rank": 2, "seed": 1}, ""),
])  # fmt: skip
def test_what_a_run_was_trained_with_instead_stands_beside_its_scores(damaged: Path, trained_with: object, params: dict, note: str) -> None:
    path = damaged / "eval_results/run_000/words/results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trained_with": trained_with}))
    (score, *_) = (score for score in collect(damaged).scores if (score.run, score.task) == ("run_000", "words"))
    assert (score.status, score.params, score.note) == ("success", params, note)


def test_beside_a_score_of_earlier_weights_stands_no_loss_of_the_training_that_replaces_them(damaged: Path) -> None:
    layout = Layout.of(load(damaged))
    results, record = layout.run_results("run_001"), layout.record("train", "run_001")
    before = record.read_bytes()
    (results / "hf_model").rename(results / "moved")
    finished_runs.record(layout, "run_001", "train", json.loads(before)["config"], state="failed", reason="no luck", exit_code=1)
    scores = [score for score in collect(damaged).scores if score.run == "run_001"]
    (results / "moved").rename(results / "hf_model")
    record.write_bytes(before)
    assert {(score.status, score.train_loss, score.train_time_s) for score in scores} == {("success", None, None)}


def test_of_many_logs_batches_are_read_in_several_processes_and_a_bad_one_spoils_none(damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(log_headers, "BATCH", 1)
    copy = a_log(damaged, "run_000", "words").with_name("copy.eval")
    shutil.copy(a_log(damaged, "run_000", "words"), copy)
    bad = copy.with_name("bad.eval")
    bad.write_text("no log")
    found = log_headers.read(log_headers.find(damaged / "eval_results"), damaged / "kept.json")
    assert capsys.readouterr().err == "reading 6 logs of Inspect\n"
    assert len(found) == 6
    assert found.pop(bad).fault.startswith("cannot be read: ")
    assert all(header.scores for header in found.values())
    assert found[copy] == found[a_log_of(found, damaged, "run_000", "words")]
    assert log_headers.read([copy], damaged / "kept.json") == {copy: found[copy]}


def a_log_of(found: dict[Path, log_headers.Header], folder: Path, run: str, task: str) -> Path:
    return next(path for path in found if path.is_relative_to(folder / "eval_results" / run / task) and path.name != "copy.eval")


def score(run: str, value: float | None, **params: object) -> Score:
    return Score(run, params, task="words", scorer="match", metric="accuracy", value=value, status="success" if value is not None else "not evaluated")


def test_runs_that_differ_in_their_seed_alone_have_a_mean_and_its_interval() -> None:
    rows = [score("base", 0.5), *(score(f"run_{seed}", value, lora_rank=2, seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0, None)))]
    base, mean = means(rows)
    half = 4.302652729749464 / 3**0.5  # the quantile of Student's t with 2 degrees of freedom, from a table
    assert mean == Mean("", {"lora_rank": 2}, "", "words", "match", "accuracy", 2.0, 1.0, pytest.approx(2 - half), pytest.approx(2 + half), 3, 1)
    assert (base.run, base.mean, base.low, base.n) == ("base", 0.5, None, 1)


def test_one_replicate_that_has_a_score_has_no_interval() -> None:
    (mean,) = means([score("run_0", 0.25, seed=1), score("run_1", None, seed=2)])
    assert (mean.mean, mean.sd, mean.low, mean.high, mean.n, mean.missing) == (0.25, None, None, None, 1, 1)


def test_runs_that_differ_in_more_than_their_seed_have_no_means() -> None:
    assert means([score("run_0", 0.25, seed=1, lora_rank=2), score("run_1", 0.5, seed=2, lora_rank=4)]) == []


def test_means_alone_are_printed_and_where_there_are_none_it_is_said(whole: Path, tmp_path: Path, cruijff: Command) -> None:
    (words, *_) = as_csv(cruijff("results", whole, "--csv", "--means").stdout)
    values = [made_value(run, "words") for run in ("run_000", "run_001")]
    assert (words["lora_rank"], words["n"], float(words["mean"])) == ("2", "2", sum(values) / 2)
    assert "seed" not in words
    experiment = write_experiment(tmp_path / "one seed", write_hollow_model(tmp_path / "model"))
    generate(experiment)
    done = cruijff("results", experiment, "--means")
    assert (done.returncode, done.stderr) == (1, "no two runs differ in their seed alone, so that there are no means: variables: seed: [1, 2, 3]\n")
    table = cruijff("results", experiment).stdout
    assert "Means over seeds" not in table and table.count("not trained") == 2


def test_a_parquet_file_has_typed_columns_and_overwrites_nothing_without_force(whole: Path, tmp_path: Path, cruijff: Command) -> None:
    import pyarrow.parquet

    file = tmp_path / "scores.parquet"
    done = cruijff("results", whole, "--parquet", file)
    assert (done.returncode, done.stderr) == (0, f"{file}: 16 rows\n")
    table = pyarrow.parquet.read_table(file)
    assert {name: str(table.schema.field(name).type) for name in ("lora_rank", "value", "task", "samples")} == {
        "lora_rank": "int64", "value": "double", "task": "string", "samples": "int64",
    }  # fmt: skip
    assert table["value"].to_pylist()[0] == made_value("run_000", "words")
    done = cruijff("results", whole, "--parquet", file)
    assert (done.returncode, done.stderr) == (1, f"{file} is there already: --force overwrites it\n")
    assert cruijff("results", whole, "--parquet", file, "--force").returncode == 0
    done = cruijff("results", whole, "--parquet", tmp_path / "none" / "scores.parquet")
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'none' / 'scores.parquet'} cannot be written: No such file or directory\n")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith("parquet")) == ["scores.parquet"]


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_force_without_a_file_is_a_wrong_flag(form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["results", ".", *form, "--force"])
    assert end.value.code == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("usage: cruijff-kit results ")
    assert shown[-1] == "cruijff-kit results: error: argument --force: only with argument --parquet"


def test_values_of_several_kinds_are_text_in_a_file(tmp_path: Path) -> None:
    import pyarrow.parquet

    rows = rows_of([score("run_0", float("nan"), dataset={"source": "a, b"}, packed=True), score("run_1", 1.0, dataset="data/train.jsonl", packed=False)])
    write_parquet(rows, tmp_path / "x.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert table["dataset"].to_pylist() == ['{"source": "a, b"}', "data/train.jsonl"]
    assert table["packed"].to_pylist() == [True, False]
    assert [row["value"] for row in as_json(rows)] == [None, 1.0]


def test_an_experiment_without_evaluation_has_a_row_a_run(tmp_path: Path) -> None:
    model = write_hollow_model(tmp_path / "model")
    spec = specification(model)
    del spec["evaluation"]
    folder = write_experiment(tmp_path / "sweep", model, spec)
    generate(folder)
    layout = Layout.of(load(folder))
    finished_runs.train(layout, "run_000", read(layout).rows[0].identity)
    assert [(row.run, row.task, row.status) for row in collect(folder).scores] == [("run_000", "", "not evaluated"), ("run_001", "", "not trained")]


def test_each_checkpoint_is_a_row_with_the_loss_at_the_end_of_its_epoch(tmp_path: Path) -> None:
    model = write_hollow_model(tmp_path / "model")
    spec = specification(model)
    spec["framework_config"]["recipe"] = "cruijff_kit.recipes.lora_finetune_single_device"
    spec["controls"]["epochs"] = 2
    spec["evaluation"]["checkpoint"] = "all"
    folder = write_experiment(tmp_path / "sweep", model, spec)
    generate(folder)
    layout = Layout.of(load(folder))
    identity = read(layout).rows[0].identity
    first = finished_runs.train(layout, "run_000", identity)
    second = shutil.copytree(first, first.with_name("epoch_1"))
    results = layout.run_results("run_000")
    finished_runs.record(layout, "run_000", "train", identity, epochs=2, weights=checkpoint.seal(second, results), exit_code=0)
    (results / "logs").mkdir()
    (results / "logs/log_1.txt").write_text("".join(f"Step {step} | loss:{10 - step} lr:0.1 \n" for step in range(1, 9)))
    finished_runs.evaluate(layout, "run_000", identity)
    made_up_logs.write(layout, made_value)
    rows = [(row.run, row.checkpoint, row.train_loss, row.status) for row in collect(folder).scores if row.scorer == "match"]
    scored = [("run_000", "epoch_0", 6.0, "success"), ("run_000", "epoch_1", 2.0, "success")]
    assert rows == [*scored, *(("run_001", epoch, None, "not trained") for epoch in ("epoch_0", "epoch_1"))]


def test_a_mean_says_which_of_its_scores_were_made_otherwise() -> None:
    rows = [score("run_0", 0.25, seed=1), dataclasses.replace(score("run_1", 0.5, seed=2), note="limit=5")]
    (mean,) = means(rows)
    assert (mean.mean, mean.n, mean.missing, mean.note) == (0.25, 1, 1, "without one made otherwise: limit=5")
    (mean,) = means([dataclasses.replace(row, note="limit=5") for row in rows])
    assert (mean.mean, mean.n, mean.missing, mean.note) == (0.375, 2, 0, "limit=5")


def test_a_score_that_is_no_number_and_a_seed_that_comes_twice_are_said() -> None:
    (mean,) = means([score("run_0", 0.25, seed=1), score("run_1", 0.5, seed=1), score("run_2", float("nan"), seed=2)])
    assert (mean.mean, mean.n, mean.missing, mean.note) == (0.375, 2, 1, "3 runs have 2 seeds; 1 not finite")


def test_of_an_experiment_without_variables_the_first_run_is_a_replicate_too() -> None:
    (mean,) = means([score("run_000", 1.0), score("run_001", 2.0, seed=2), score("run_002", 3.0, seed=3)])
    assert (mean.mean, mean.n, mean.note) == (2.0, 3, "")


def test_a_run_that_was_added_before_the_controls_changed_is_no_replicate_of_one_that_was_not() -> None:
    row = Row("run_004", {"lora_rank": 8}, "recipe", "identity", added=True, settings={"lora_rank": 8, "learning_rate": 1e-3, "seed": 1, "epochs": 2})
    assert row.told_apart({"learning_rate": 3e-4, "epochs": 2}) == {"lora_rank": 8, "learning_rate": 1e-3, "seed": 1}
    assert row.told_apart({"learning_rate": 1e-3, "epochs": 2, "seed": 1, "shuffle": True}) == {"lora_rank": 8, "shuffle": None}
    assert dataclasses.replace(row, added=False).told_apart({"learning_rate": 3e-4}) == {"lora_rank": 8}


def test_logs_of_runs_that_were_moved_aside_are_no_strangers(damaged: Path) -> None:
    shutil.copytree(damaged / "eval_results/run_000", damaged / "eval_results/run_000.20261128T164500")
    assert collect(damaged).notes == []


def test_names_samples_and_errors_are_those_of_each_scorer(tmp_path: Path) -> None:
    """As Inspect has them: scorers that share a name, samples without a score, epochs, groups, and errors that are of no mean."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import Score as Mark
    from inspect_ai.scorer import accuracy, grouped, mean, metric, scorer, stderr, std

    @metric
    def f1():
        return lambda scores: 0.125

    def marks(name: str, metrics: object, value: Callable[[int], object]):
        @scorer(metrics=metrics, name=name)
        def made():
            async def mark(state, target):
                return Mark(value=value(int(state.sample_id)))

            return mark

        return made()

    scorers = [
        marks("first", {"a": [mean(), stderr()]}, lambda number: {"a": number}),
        marks("second", {"a": [mean(), stderr()]}, lambda number: {"a": -number}),
        marks("partly", [mean(), stderr()], lambda number: float("nan") if number < 4 else 1.0),
        marks("corpus", [f1(), stderr()], lambda number: number),
        marks("spread", [std(), stderr(), accuracy()], lambda number: number % 2),
        marks("by_group", [grouped(mean(), "kind"), stderr()], lambda number: number),
    ]
    data = [Sample(input="x", target="x", id=number, metadata={"kind": "mean" if number % 2 else "A"}) for number in range(6)]
    (log,) = eval(Task(dataset=data, solver=[], scorer=scorers), model="mockllm/model", display="none", log_dir=str(tmp_path), epochs=2)
    assert log.status == "success", log.error
    (header,) = _headers(tmp_path)
    scores = {score["scorer"]: score for score in header.scores}
    assert list(scores) == ["first/a", "second/a", "partly", "corpus", "spread", "by_group"]
    assert (scores["first/a"]["metrics"]["mean"][0], scores["second/a"]["metrics"]["mean"][0]) == (2.5, -2.5)
    assert (scores["partly"]["scored"], scores["partly"]["unscored"]) == (2, 4)
    assert {key: error is not None for key, (_, error) in scores["corpus"]["metrics"].items()} == {"f1": False, "stderr": False}
    assert {key: error is not None for key, (_, error) in scores["spread"]["metrics"].items()} == {"std": False, "accuracy": True}
    assert all(error is None for _, error in scores["by_group"]["metrics"].values())
    assert (header.completed, header.total) == (12, 12)


def _headers(folder: Path) -> list[log_headers.Header]:
    (path,) = folder.rglob("*.eval")
    return list(log_headers.read([path], folder / "kept.json").values())
