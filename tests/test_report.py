"""`report`: one HTML file, which says what is in the folder, and which a real browser shows without script or network."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cruijff_kit import __version__, records, report, report_records, report_tables
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.experiment import load
from cruijff_kit.generate import generate
from cruijff_kit.paths import Layout
from cruijff_kit.records import Record
from cruijff_kit.report_records import Kept
from cruijff_kit.results import Score
from cruijff_kit.run_mapping import read
from tests import finished_runs, made_up_logs
from tests.browser import Browser, chromium
from tests.tiny_experiment import specification, write_experiment, write_hollow_model

Command = Callable[..., subprocess.CompletedProcess[str]]

NASTY = "</pre><script>document.title='run'</script> \"quoted\" & 'so'\n${x} {{ 7*7 }}"
VERSIONS = {"python": "3.11.2", "torch": "2.13.0", "torchtune": "0.6.1", "inspect-ai": "0.3.285"}
COMMIT = "8a1f" * 10
OUT_OF_MEMORY = "OutOfMemoryError: CUDA out of <memory>"


def made_value(run: str, task: str) -> float:
    """NaN for one of them."""
    if run == "base":
        return 0.125
    return float("nan") if (run, task) == ("run_004", "phrases") else 0.3 + int(run.removeprefix("run_")) / 50


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variables and three seeds, the baseline and two tasks; the training of run_003 failed, and run_007 is not evaluated."""
    folder = tmp_path_factory.mktemp("report") / "a <b>sweep"
    folder.mkdir()
    model = write_hollow_model(folder / "model")
    spec = specification(model)
    del spec["controls"]["seed"], spec["controls"]["learning_rate"]
    spec["experiment"].update(question=NASTY, hypothesis="It rises.", researcher="Ada <ada@example.org>")
    spec["experiment"].update(date="2026-11-20", tags=["lora", "<i>"], notes="One.\nTwo.")
    spec["variables"] = {"lora_rank": [2, 4], "learning_rate": [1e-4, 1e-3], "seed": [1, 2, 3]}
    spec["evaluation"].update(baseline=True, tasks=[{"name": name, "file": "tasks.py", "function": "capitalize"} for name in ("words", "phrases")])
    write_experiment(folder / "experiment", model, spec)
    generate(folder / "experiment")
    layout = Layout.of(load(folder / "experiment"))
    for number, row in enumerate(read(layout).rows):
        leave(layout, number, row.id, row.identity)
    finished_runs.evaluate(layout, "base", None)
    made_up_logs.write(layout, made_value)
    return folder / "experiment"


def leave(layout: Layout, number: int, run: str, identity: str) -> None:
    """What the stages of a run leave."""
    git, data = {"commit": COMMIT, "dirty": False}, {"/data/train.jsonl": "ab" * 32}
    known = {"versions": VERSIONS, "host": f"node{number}", "git": git, "inputs": data, "job": f"41_{number}"}
    if number == 3:
        finished_runs.record(layout, run, "train", identity, **known, state="failed", reason=OUT_OF_MEMORY, exit_code=1)
        return
    finished_runs.train(layout, run, identity)
    weights = records.read(layout.record("train", run)).weights
    versions = {**VERSIONS, "torch": "2.12.1"} if number == 5 else VERSIONS
    finished_runs.record(layout, run, "train", identity, **{**known, "versions": versions}, epochs=1, weights=weights)
    logs = layout.run_results(run) / "logs"
    logs.mkdir()
    (logs / "log_1.txt").write_text("".join(f"Step {step} | loss:{3 - step / 20} lr:0.1 \n" for step in range(1, 41)))
    if number == 7:
        finished_runs.record(layout, run, "eval", "another run")  # that had this number once
    else:
        finished_runs.evaluate(layout, run, identity)


@pytest.fixture(scope="module")
def page(finished: Path, cruijff: Command) -> Path:
    """The report, as the command writes it."""
    done = cruijff("report", finished)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"✓ {re.escape(str(finished))}/report\.html: 12 runs: 10 done, 1 failed, 1 waiting; 44 scores; 0\.\d MB\n", done.stdout), done.stdout
    return finished / "report.html"


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def table(text: str, label: str) -> list[list[str]]:
    """The cells of the table under a heading, line by line."""
    (found,) = re.findall(rf'aria-label="{label}">\s*<table>(.*?)</table>', text, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def test_what_the_user_wrote_is_text_and_nothing_else(text):
    assert "<script" not in text
    assert html.escape("</pre><script>document.title='run'</script> \"quoted\" & 'so'", quote=False).replace('"', "&#34;").replace("'", "&#39;") in text
    assert "{{ 7*7 }}" in text and "<i>" not in text
    assert "<dd>One.\nTwo.</dd>" in text
    for words in ("It rises.", "Ada &lt;ada@example.org&gt;", "2026-11-20", "lora, &lt;i&gt;"):
        assert f"<dd>{words}</dd>" in text


def test_the_plan_is_there(text):
    listed = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert listed["Variable learning_rate"] == "0.0001, 0.001"
    assert listed["Control lora_alpha"] == "${mul:2,${lora_rank}}"
    assert listed["Base config"] == "base.yaml"
    assert listed["Recipe"] == "cruijff_kit/recipes/lora_finetune_single_device"
    assert listed["Task words"] == "capitalize in tasks.py"
    assert listed["Evaluated"] == "checkpoint last, as hf, and the untouched model"
    assert listed["Settings"] == "backend=hf, max_tokens=4"
    assert listed["Runs"] == "12"


def test_each_score_and_each_mean_is_in_a_table(text):
    heading, base, first, *_ = rows = table(text, "Scores of each run")
    metrics = ["words: match accuracy, n = 40", "words: includes accuracy, n = 40", "phrases: match accuracy, n = 40", "phrases: includes accuracy, n = 40"]
    assert heading == ["run", "lora_rank", "learning_rate", "seed", "training loss", *metrics, "note"]
    assert base[:6] == ["base", "", "", "", "", "0.1250 ± 0.0125"]
    assert first[:6] == ["run_000", "2", "0.0001", "1", "1.0000", "0.3000 ± 0.0300"]
    assert rows[5] == ["run_003", "2", "0.001", "1", "", "×", "×", "×", "×", f"training failed: {OUT_OF_MEMORY}"]
    assert len(rows) == 14
    heading, base, first, second, *_ = table(text, "Means over seeds")
    assert heading[:4] == ["run", "lora_rank", "learning_rate", "words: match accuracy, n = 3"]
    assert base[3] == "0.1250 (n = 1)"
    assert first[:4] == ["", "2", "0.0001", "0.3200 [0.2703, 0.3697]"]
    assert second[3] == "0.3900 [0.2629, 0.5171] (n = 2)"


def test_what_is_missing_is_named_with_the_reason(text):
    assert table(text, "Missing") == [
        ["run", "parameters", "tasks", "reason"],
        ["run_003", "lora_rank=2, learning_rate=0.001, seed=1", "words, phrases", f"training failed: {OUT_OF_MEMORY}"],
        ["run_004", "lora_rank=2, learning_rate=0.001, seed=2", "phrases", "its score is no number: nan"],
        ["run_007", "lora_rank=4, learning_rate=0.0001, seed=2", "words, phrases", "not evaluated"],
    ]
    assert "<li>3 points have no score, or not all: see “Missing”</li>" in text


def test_where_the_scores_come_from_is_there(text):
    heading, *rows = table(text, "Provenance")
    assert heading == ["run", "stage", "state", "started", "took", "attempt", "host", "job", "GPUs", "git commit"]
    assert [row[1] for row in rows if row[0] == "run_007"] == ["training"]
    (failed,) = [row for row in rows if row[0] == "run_003"]
    assert failed[1:3] == ["training", "failed"] and failed[4:] == ["30 s", "1", "node3", "41_3", "none", "8a1f8a1f8a1f"]
    assert table(text, "Data and tasks")[1] == ["/data/train.jsonl", "ab" * 32, "training of all"]


def test_versions_that_differ_are_a_warning(text):
    everywhere = "training of run_000 to run_004, run_006 to run_011"
    assert ["torch", "2.12.1", "training of run_005"] in table(text, "Versions")
    assert ["torch", "2.13.0", everywhere] in table(text, "Versions")
    assert f"<li>torch differs between runs: 2.12.1, 2.13.0 (2.12.1 in the training of run_005; 2.13.0 in the {everywhere})</li>" in text


def test_the_commands_that_reproduce_it_are_there_with_the_file_itself(text, finished):
    commands, source = re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert commands == f"git checkout {COMMIT}\ncruijff-kit generate .\ncruijff-kit run . --multirun\ncruijff-kit report . --force"
    assert html.unescape(source).strip() == (finished / "experiment.yaml").read_text().strip()


def test_it_is_written_over_nothing_but_an_earlier_report(finished, page, tmp_path):
    assert report.MARK + __version__ in page.read_text()[: report.MARK_WITHIN]
    theirs = tmp_path / "report.html"
    theirs.write_text("<title>mine</title>")
    with pytest.raises(CruijffKitError, match="is there already and is no report of cruijff-kit: --force overwrites it, --output FILE writes another") as error:
        report.write(finished, theirs)
    assert str(error.value).startswith(f"{theirs} is there already")
    assert theirs.read_text() == "<title>mine</title>"
    report.write(finished, theirs, force=True)
    assert report.MARK in theirs.read_text()


def test_a_file_that_cannot_be_written_is_a_fault_of_the_users(finished, tmp_path):
    with pytest.raises(CruijffKitError) as error:
        report.write(finished, tmp_path / "gone" / "report.html")
    assert str(error.value) == f"{tmp_path}/gone/report.html cannot be written: there is no folder {tmp_path}/gone"
    assert not (tmp_path / "gone").exists()


def test_before_anything_ran_there_is_a_report_of_the_plan_and_it_is_written_again(tmp_path):
    spec = specification(write_hollow_model(tmp_path / "model"))
    folder = write_experiment(tmp_path / "experiment", tmp_path / "model", spec)
    with pytest.raises(CruijffKitError, match="nothing was generated there yet"):
        report.write(folder)
    generate(folder)
    assert report.write(folder) == report.write(folder)
    text = (folder / "report.html").read_text()
    for words in ("There is no score yet.", "There are no records: nothing was run, or it was run by hand.", "They are not recorded."):
        assert f"<p>{words}</p>" in text
    assert [row[-1] for row in table(text, "Missing")] == ["reason", "not trained", "not trained"]


def test_where_nothing_is_evaluated_that_is_not_missing():
    trained, failed = Score("run_000", {}), Score("run_001", {"lora_rank": 8}, status="training failed: no luck")
    assert report_tables.missing([trained, failed], evaluated=False).rows == [["run_001", "lora_rank=8", "training failed: no luck"]]
    assert report_tables.missing([trained, failed], evaluated=True).rows[0] == ["run_000", "", "not evaluated"]


def kept(run: int, stage: str = "train", **values: object) -> Kept:
    return Kept(f"run_{run:03}", stage, Record(f"run_{run:03}", stage, "x", "done", 1, 0.0, "host", 1, **values), run)


def test_data_commits_and_changes_that_differ_are_warnings():
    clean, changed = {"commit": "a" * 40, "dirty": False}, {"commit": "a" * 40, "dirty": True}
    assert list(report_records.warnings([kept(0, git=clean), kept(1, git=clean), kept(2)])) == []
    assert list(report_records.warnings([kept(0, git=clean), kept(1, git=changed)])) == ["not all ran at one git commit: aaaaaaaaaaaa, aaaaaaaaaaaa + changes"]
    what = "what the runs depend on was changed and not committed when they were started: the git commit alone does not bring it back"
    assert list(report_records.warnings([kept(0, git=changed)])) == [what]
    (said,) = report_records.warnings([kept(0, inputs={"d.jsonl": "1"}), kept(1, inputs={"d.jsonl": "2"})])
    assert said == "d.jsonl did not hold the same for all that read it: 2 contents, see “Provenance”"


def test_what_came_from_the_command_line_is_reproduced_by_its_own_config():
    found = report_records.commands([kept(0, "eval", asked=["limit=5", "a b"], versions={"torch": "2.13.0", "python": "3"})], {"run_004": "lora"})
    assert found == [
        "pip install torch==2.13.0",
        "cruijff-kit generate .",
        "cruijff-kit run . --multirun",
        "tune run lora --config configs/train_004.yaml",
        "python configs/eval_004.py",
        "python configs/eval_000.py limit=5 'a b'",
        "cruijff-kit report . --force",
    ]


def test_a_table_says_n_of_each_score_where_it_differs():
    rows = [Score(f"run_00{n}", {}, "", "qa", "match", "accuracy", 0.5, None, n, "success", note="limit=5") for n in (1, 2)]
    made = report_tables.scores(rows)
    assert made.headings == ["run", "qa: match accuracy", "note"]
    assert made.rows == [["run_001", "0.5000 (n = 1)", "limit=5"], ["run_002", "0.5000 (n = 2)", "limit=5"]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_it_without_a_word_a_request_or_a_page_that_scrolls_sideways(browser, page, width):
    browser.open(page, width)
    assert browser.said() == []
    assert [address for address in browser.requests() if not address.startswith("data:image/svg+xml;base64,")] == [page.as_uri()]
    assert browser.ask("document.scrollingElement.scrollWidth") <= width
    assert browser.ask("document.querySelectorAll('.wide').length") == 6


def test_every_figure_is_drawn_and_has_an_alternative_and_a_caption(browser, page):
    browser.open(page, 360)
    words = "f.querySelector('img').naturalWidth, f.querySelector('img').alt, f.querySelector('figcaption').innerText"
    found = browser.ask(f"[...document.querySelectorAll('figure')].map(f => [{words}])")
    assert len(found) == 4 * 3 + 2
    assert all(width > 200 and len(alternative) > 60 and len(caption) > 60 for width, alternative, caption in found)
    assert sum("confidence interval" in caption for *_, caption in found) == 8
    assert browser.ask("document.querySelectorAll('img').length") == len(found)


def test_no_script_runs_in_it(browser, page, tmp_path):
    """The page forbids it, whatever gets into it."""
    copy = tmp_path / "report.html"
    copy.write_text(page.read_text().replace("</main>", "<script>document.title = 'it ran'</script></main>"))
    browser.open(copy, 1200)
    assert browser.ask("document.title") == "tiny"
    assert any("Content Security Policy" in message for message in browser.said())


def test_it_prints_with_nothing_cut_off(browser, page, tmp_path):
    browser.open(page, 1200)
    browser.print(tmp_path / "report.pdf")
    printed = subprocess.run(["pdftotext", tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True).stdout
    pages = printed.split("\f")[:-1]
    assert len(pages) > 3 and all(page.strip() for page in pages)
    sizes = subprocess.run(["pdfinfo", "-l", "99", tmp_path / "report.pdf"], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"Page +\d+ size: +(\d+)", sizes)) == {"595", "841"}  # wide tables have pages that are wide
    words = " ".join(printed.split())
    for heading in ("Plan", "Means over seeds", "Figures", "Scores of each run", "Missing", "Provenance", "Versions", "To reproduce it"):
        assert heading in words
    assert words.count("CUDA out of <memory>") == 2  # in the last column of two tables
    assert words.count("8a1f8a1f8a1f ") >= 11
    assert json.dumps("quoted") in words


@pytest.mark.parametrize(("tables", "width"), [("section:not(.broad) .wide", 680), (".broad .wide", 1009)])
def test_on_paper_no_table_is_wider_than_its_page(browser, page, tables, width):
    """A4 with margins of 15 mm, upright and across."""
    browser.open(page, width, "print")
    wide = browser.ask(f"[...document.querySelectorAll('{tables}')].map(table => [table.scrollWidth, getComputedStyle(table).overflowX])")
    assert len(wide) > 1
    assert [each for each in wide if each[0] > width or each[1] != "visible"] == []


def test_its_help_ends_in_an_example(cruijff):
    done = cruijff("report", "--help")
    assert done.stdout.endswith("examples:\n  cruijff-kit report .\n  cruijff-kit report . --output ~/lora_rank.html\n")
