"""Data files, as we read them and as the real `datasets` does; what torchtune's datasets can be trained on."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cruijff_kit import data_files, dataset_checks, dataset_columns, dataset_files, training_steps
from cruijff_kit.errors import Fault
from cruijff_kit.file_text import Reading


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """datasets.load_dataset, the real one, with a cache of its own."""
    import datasets

    cache = str(tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    yield lambda *args, **kwargs: datasets.load_dataset(*args, cache_dir=cache, **{"split": "train", **kwargs})
    datasets.logging.set_verbosity(before)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def node(path: Path | str, component: str = "instruct_dataset", **arguments: Any) -> dict[str, Any]:
    """A dataset node of torchtune's for a file."""
    source = {".csv": "csv", ".parquet": "parquet"}.get(Path(path).suffix, "json")
    return {"_component_": f"torchtune.datasets.{component}", "source": source, "data_files": str(path), "split": "train", **arguments}


def faults(dataset: Any, **config: Any) -> list[Fault]:
    recipe, gpus = config.pop("recipe", ""), config.pop("gpus", 1)
    return list(dataset_checks.data_faults({"dataset": dataset, **config}, recipe, gpus))


# How a file is read

WHOLE = [
    ("x.jsonl", '{"a":"x"}\n\n  \n{"a":"y"}', {}, 2),
    ("x.jsonl", '\n\n{"a":"x"}\n', {}, 1),
    ("x.jsonl", b'\xef\xbb\xbf{"a":"x"}\n{"a":"y"}\n', {}, 2),
    ("x.jsonl", '{"a":"x"}\r\n{"a":"y"}\r\n', {}, 2),
    ("x.jsonl", '{"a":"x"}\r{"a":"y"}\r', {}, 2),
    ("x.jsonl", '{"a":"x\u2028y"}\n{"a":"y\x85"}\n', {}, 2),
    ("x.jsonl", '{"a":"x","n":1}\n{"a":"x","n":NaN}\n', {}, 2),
    ("x.jsonl", '{"a":"x"} {"a":"y"}{"a":"z"}\n', {}, 3),
    ("x.jsonl", '{"a":"\\ud83d\\ude00"}\n{"a":"\\\\ud83d"}\n', {}, 2),
    ("x.json", '{"a":\n"x"}\n{"a":\n"y"}\n', {}, 2),
    ("x.json", b'\xef\xbb\xbf[{"a":"x"}]', {}, 1),
    ("x.json", '\n [{"a":"x"},{"a":"y"}]\n\n', {}, 2),
    ("x.json", '[\n {\n  "a": "x"\n },\n {\n  "a": "x"\n }\n]', {}, 2),
    ("x.json", '[{"a":"x","n":NaN},{"a":"x\ty","a":"z"}]', {}, 2),
    ("x.json", '["x","y"]', {}, 2),
    ("x.json", '{"data":[{"a":"x"},{"a":"y"}]}', {}, 1),
    ("x.json", '{"data":[{"a":"x"},{"b":"y"}],"version":3}', {"field": "data"}, 2),
    ("x.json", '{"data":["x","y"]}', {"field": "data"}, 2),
    ("x.json", '{"data":{"a":["x","y"]}}', {"field": "data"}, 2),
    ("x.json", b'{"a":"\xe9"}\n', {"encoding": "latin-1"}, 1),
    ("x.csv", 'a,b\nx,y\n"3\n4",z\n', {}, 2),
    ("x.csv", "\n\na,b\n\nx,y\n  \n\np,q\n", {}, 2),
    ("x.csv", 'a,b\nx,"y""z"\nx,y"z\nx,"y"z\n', {}, 3),
    ("x.csv", b"\xef\xbb\xbfa,b\r\nx,y\r\n", {}, 1),
    ("x.csv", "a,b\rx,y\r", {}, 1),
    ("x.csv", "a,a,a.1\nx,y,z\n", {}, 1),
    ("x.csv", "a,b\nx\np,q\n", {}, 2),
    ("x.csv", "a,\nx,y\n", {}, 1),
    ("x.csv", "a;b\nx;y\n", {"sep": ";"}, 1),
    ("x.csv", "a;b\nx;y\n", {"delimiter": ";"}, 1),
    ("x.csv", "a,b\nx\u2028,y\x85\n", {}, 1),
    ("x.csv", b"a,b\nx,\xe9\n", {"encoding": "latin-1"}, 1),
]


@pytest.mark.parametrize(("name", "content", "arguments", "rows"), WHOLE)
def test_a_file_has_the_rows_and_columns_that_datasets_finds(load, tmp_path, name, content, arguments, rows):
    path = written(tmp_path / name, content)
    dataset = node(path, "something", **arguments)
    loaded = load(dataset["source"], data_files=str(path), **arguments)
    found = data_files.summary(path, dataset_checks._reading(dataset))
    assert (found.rows, sorted(found.columns)) == (rows, sorted(loaded.column_names)) == (len(loaded), sorted(loaded.column_names))
    assert faults(dataset) == []


BROKEN = [
    ("x.jsonl", '{"a":"x","a":"z"}\n', {}, "line 1: the key 'a' stands twice"),
    ("x.jsonl", '{"a":"x"},\n{"a":"y"}\n', {}, "line 1, column 10: Expecting value"),
    ("x.jsonl", '{"a":"x"}\n{"a":"y"', {}, "line 2, column 9: Expecting ',' delimiter"),
    ("x.jsonl", '{"a":"x"}\nbroken\n', {}, "line 2, column 1: Expecting value"),
    ("x.jsonl", "{'a':'x'}\n", {}, "line 1, column 2: Expecting property name enclosed in double quotes"),
    ("x.jsonl", '{"a":"x"}\n\n3\n', {}, "line 3: expected a mapping of columns to values, got a number"),
    ("x.jsonl", '{"a":"x"}\n{"a":"\\ud800"}\n', {}, "line 2: half a surrogate pair (\\ud800 to \\udfff) is no text"),
    ("x.jsonl", '{"a":"\\ude00"}\n', {}, "line 1: half a surrogate pair (\\ud800 to \\udfff) is no text"),
    ("x.jsonl", '{"a":"x\ty"}\n', {}, "line 1, column 8: Invalid control character at"),
    ("x.jsonl", b'{"a":"x"}\n{"a":"\xe9"}\n', {}, "line 2: byte 0xe9 is no utf-8 text"),
    ("x.jsonl", '{"a":"x"}\n'.encode("utf-16"), {}, "line 1: byte 0xff is no utf-8 text"),
    ("x.jsonl", '{"a":"x"}\n{"a":' + "[" * 3000 + "]" * 3000 + "}\n", {}, "line 2: nested too deep"),
    ("x.json", '[{"a":"x"},]', {}, "line 1, column 12: Expecting value"),
    ("x.json", '[{"a":"x"}]\n[{"a":"y"}]', {}, "line 2, column 1: Extra data"),
    ("x.json", '[{"a":"x"},3]', {}, "row 2: expected a mapping of columns to values, got a number"),
    ("x.json", '{"data":[{"a":"x"}]}', {"field": "dta"}, "it has no field 'dta'; it has data"),
    ("x.json", '[{"a":"x"}]', {"field": "data"}, "expected one object with the field 'data', got a list"),
    ("x.json", '{"data":"x"}', {"field": "data"}, "expected a list of rows below 'data', got text"),
    ("x.json", '{"data":[{"a":"x"},3]}', {"field": "data"}, "row 2: expected a mapping of columns to values, got a number"),
    ("x.csv", "", {}, "it is empty: the first line names the columns"),
    ("x.csv", "a,b\nx,y\np,q,r\n", {}, "row 2 (line 3) has 3 cells, and the header has 2: quote what holds a comma"),
    ("x.csv", 'a,b\nx,y\np,"q\n', {}, "line 3: a quote is opened and never closed"),
    ("x.csv", b"a,b\nx,y\nx,\xe9\n", {}, "line 3: byte 0xe9 is no utf-8 text"),
    ("x.parquet", b"no parquet", {}, "no parquet file: it does not start with PAR1"),
]


@pytest.mark.parametrize(("name", "content", "arguments", "why"), BROKEN)
def test_a_file_that_cannot_be_read_is_one_that_datasets_fails_on(load, tmp_path, name, content, arguments, why):
    path = written(tmp_path / name, content)
    dataset = node(path, **arguments)
    assert faults(dataset) == [Fault("dataset.data_files", f"cannot read {path}: {why}")]
    with pytest.raises(Exception):  # noqa: B017 - whatever datasets raises
        list(load(dataset["source"], data_files=str(path), **arguments))


def test_a_csv_row_that_would_be_shifted_cannot_be_read(load, tmp_path):
    """pandas takes the first column for row names if the first row is too long."""
    path = written(tmp_path / "x.csv", "input,output\nx,y,z\n")
    assert faults(node(path))[0].what.endswith("row 1 (line 2) has 3 cells, and the header has 2: quote what holds a comma")
    assert load("csv", data_files=str(path))[0]["input"] == "y"


@pytest.mark.parametrize(("name", "content"), [("x.jsonl", ""), ("x.jsonl", "\n\n"), ("x.json", "[]"), ("x.csv", "a,b\n")])
def test_a_file_without_rows(load, tmp_path, name, content):
    path = written(tmp_path / name, content)
    assert faults(node(path)) == [Fault("dataset.data_files", f"{path} has no rows: datasets fails on it")]
    with pytest.raises((ValueError, StopIteration)):
        load(node(path)["source"], data_files=str(path))


def test_a_compressed_file_and_unknown_options_are_not_looked_into(load, tmp_path):
    path = written(tmp_path / "x.json", gzip.compress(b'{"a":"x"}\n'))
    assert len(load("json", data_files=str(path))) == 1
    assert (faults(node(path)), dataset_checks.dataset_rows({"dataset": node(path)})) == ([], None)
    path = written(tmp_path / "x.csv", "x,y\n")
    assert faults(node(path, column_names=["input", "output"])) == []


def test_a_column_that_comes_after_what_datasets_reads_at_once(load, tmp_path):
    row = json.dumps({"input": "x" * 1000, "output": "y"}) + "\n"
    path = written(tmp_path / "x.jsonl", row * 10300 + '{"input":"x","output":"y","note":"z"}\n')
    assert faults(node(path)) == [
        Fault(
            "dataset.data_files",
            f"{path}: row 10301 (line 10301) has the column 'note', which no row of the first 10 MB has: datasets fails on it",
            "give it to every row, or to none",
        )
    ]
    with pytest.raises(Exception, match="generating the dataset"):
        load("json", data_files=str(path))


def test_a_parquet_file_is_known_by_its_footer(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    table = {"input": ["a", None, "c"], "output": ["a", "b", "c"], "n": [1, 2, 3], "m": [[{"role": "user"}]] * 3}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert dataset_checks.dataset_rows({"dataset": node(path, "something")}) == 3
    assert faults(node(path)) == [Fault("dataset.data_files", f"{path} has null in 'input', where text is read; 1 of 3 rows is bad")]
    column_map = {"input": "output", "output": "n"}
    what = f"{path} has a number in 'n', where text is read; 3 of 3 rows are bad"
    assert faults(node(path, column_map=column_map)) == [Fault("dataset.data_files", what)]
    assert faults(node(path, "chat_dataset", conversation_column="m", conversation_style="openai")) == []


# What torchtune reads of it


class Tokenizer:
    """In place of a tokenizer: what is no text fails as it does in a real one."""

    max_seq_len = None

    def encode(self, text: str, **_: bool) -> list[int]:
        return list(text.encode())

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if any(message.contains_media for message in sample["messages"]):
            raise RuntimeError("an image")
        tokens = [token for message in sample["messages"] for token in self.encode(message.text_content)]
        return {"tokens": tokens, "mask": [False] * len(tokens)}


def trained_on(dataset: dict[str, Any], cache: Path) -> list[bool]:
    """For each row, whether torchtune's own dataset makes tokens of it."""
    import torchtune.datasets

    arguments = {key: value for key, value in dataset.items() if key != "_component_"}
    built = getattr(torchtune.datasets, dataset["_component_"].rpartition(".")[2])(tokenizer=Tokenizer(), cache_dir=str(cache), **arguments)
    done = []
    for index in range(len(built)):
        try:
            done.append(len(built[index]["tokens"]) > 0)
        except Exception:  # noqa: BLE001 - whatever torchtune raises
            done.append(False)
    return done


def chat(style: str, *turns: tuple[Any, Any]) -> dict[str, Any]:
    keys = {"sharegpt": ("from", "value"), "openai": ("role", "content")}[style]
    return {"m": [{key: text for key, text in zip(keys, turn) if text is not ...} for turn in turns]}


PAIR, ALPACA, TEXT = {"input": "a", "output": "b"}, {"instruction": "a", "output": "b"}, {"text": "a"}
OPENAI, SHAREGPT = chat("openai", ("user", "a"), ("assistant", "b")), chat("sharegpt", ("human", "a"), ("gpt", "b"))
STYLE = {style: {"conversation_column": "m", "conversation_style": style} for style in ("openai", "sharegpt")}

GOOD = [
    ("instruct_dataset", {}, [PAIR, {"input": "", "output": "b"}]),
    ("instruct_dataset", {"column_map": {"input": "q", "output": "a"}, "new_system_prompt": "s"}, [{"q": "x", "a": "y", "n": 3}]),
    ("grammar_dataset", {}, [PAIR]),
    ("samsum_dataset", {}, [{"dialogue": "a", "summary": "b"}]),
    ("samsum_dataset", {"column_map": {"input": "q", "output": "a"}}, [{"q": "x", "a": "y"}]),
    ("alpaca_dataset", {}, [ALPACA, {**ALPACA, "input": "c"}, {**ALPACA, "input": None}, {**ALPACA, "instruction": "2020-01-01"}]),
    ("alpaca_cleaned_dataset", {"column_map": {"output": "answer"}}, [{"instruction": "x", "answer": "y"}]),
    ("alpaca_dataset", {}, [{**ALPACA, "instruction": 3}, {**ALPACA, "instruction": 4}]),
    ("slimorca_dataset", {"column_map": {"conversations": "m"}}, [SHAREGPT]),
    ("chat_dataset", STYLE["sharegpt"], [SHAREGPT, chat("sharegpt", ("system", "s"), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d"))]),
    ("chat_dataset", {**STYLE["sharegpt"], "new_system_prompt": "s"}, [chat("sharegpt", ("human", "a"), ("system", None), ("gpt", "b"))]),
    ("chat_dataset", STYLE["openai"], [OPENAI, chat("openai", ("user", [{"type": "text", "text": "a"}]), ("assistant", "b"))]),
    ("chat_dataset", {**STYLE["openai"], "new_system_prompt": "s", "train_on_input": True}, [chat("openai", ("user", "a"))]),
    ("text_completion_dataset", {}, [TEXT]),
    ("text_completion_dataset", {"column": "page"}, [{"page": "a"}, {"page": "b"}]),
]  # fmt: skip


@pytest.mark.parametrize(("component", "arguments", "rows"), GOOD)
def test_rows_without_fault_are_trained_on(tmp_path, component, arguments, rows):
    dataset = node(written(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), component, **arguments)
    assert faults(dataset) == []
    assert trained_on(dataset, tmp_path) == [True] * len(rows)


ORDER = "torchtune wants two or more"
BAD = [
    ("instruct_dataset", {}, PAIR, {"input": "a"}, "has no 'output'"),
    ("instruct_dataset", {}, PAIR, {"input": "a", "output": None}, "has null in 'output', where text is read"),
    ("instruct_dataset", {}, PAIR, {"input": 3, "output": "b"}, "has a number in 'input', where text is read"),
    ("instruct_dataset", {}, PAIR, {"input": ["a"], "output": "b"}, "has a list in 'input', where text is read"),
    ("samsum_dataset", {}, {"dialogue": "a", "summary": "b"}, {"dialogue": "a", "summary": True}, "has true or false in 'summary', where text is read"),
    ("alpaca_dataset", {}, ALPACA, {"instruction": "a", "output": 3}, "has a number in 'output', where text is read"),
    ("text_completion_dataset", {}, TEXT, {"text": {"a": 1}}, "has a mapping in 'text', where text is read"),
    ("slimorca_dataset", {"column_map": {"conversations": "m"}}, SHAREGPT, {"m": None}, "has no 'm'"),
    ("chat_dataset", STYLE["sharegpt"], SHAREGPT, {"m": "a"}, "has text in 'm', where messages are read"),
    ("chat_dataset", STYLE["sharegpt"], SHAREGPT, {"m": []}, f"has no messages in 'm', and {ORDER}"),
    ("chat_dataset", STYLE["sharegpt"], SHAREGPT, chat("sharegpt", ("human", "a")), f"has 1 message in 'm', and {ORDER}"),
    ("chat_dataset", STYLE["sharegpt"], SHAREGPT, chat("sharegpt", ("human", "a"), ("bot", "b")), "has another 'from' in message 2 of 'm' than system, human, gpt: 'bot'"),
    ("chat_dataset", STYLE["sharegpt"], SHAREGPT, chat("sharegpt", ("human", "a"), (..., "b")), "has no 'from' in message 2 of 'm'"),
    ("chat_dataset", STYLE["sharegpt"], SHAREGPT, chat("sharegpt", ("human", "a"), ("gpt", ...)), "has no 'value' in message 2 of 'm'"),
    ("chat_dataset", STYLE["sharegpt"], SHAREGPT, chat("sharegpt", ("human", 3), ("gpt", "b")), "has a number as 'value' of message 1 of 'm', where text is read"),
    ("chat_dataset", STYLE["openai"], OPENAI, chat("openai", ("user", "a"), (..., "b")), "has no 'role' in message 2 of 'm'"),
    ("chat_dataset", STYLE["openai"], OPENAI, chat("openai", ("user", None), ("assistant", "b")), "has no 'content' in message 1 of 'm'"),
    ("chat_dataset", STYLE["openai"], OPENAI, chat("openai", ("user", "a"), ("user", "b")), "has two messages of the user in a row in 'm', up to message 2"),
    ("chat_dataset", STYLE["openai"], OPENAI, chat("openai", ("assistant", "a"), ("user", "b")), "has an answer in 'm', message 1, that follows no message of the user"),
    ("chat_dataset", STYLE["openai"], OPENAI, chat("openai", ("user", "a"), ("system", "b")), "has a system message in 'm', message 2, that is not the first"),
    ("chat_dataset", STYLE["openai"], OPENAI, {"m": ["a", "b"]}, "has a list of no messages in 'm', where messages are read"),
]  # fmt: skip


@pytest.mark.parametrize(("component", "arguments", "good", "bad", "said"), BAD)
def test_the_first_bad_row_is_named_and_is_the_first_that_torchtune_fails_on(tmp_path, component, arguments, good, bad, said):
    text = "".join(json.dumps(row) + "\n" for row in (good, bad, good, bad))
    dataset = node(written(tmp_path / "x.jsonl", text), component, **arguments)
    (fault,) = faults(dataset)
    assert (fault.name, fault.what) == ("dataset.data_files", f"{dataset['data_files']}: row 2 (line 2) {said}; 2 of 4 rows are bad")
    assert trained_on(dataset, tmp_path) == [True, False, True, False]


SILENT = [
    ("alpaca_dataset", {}, ALPACA, {"output": "b"}, "has no 'instruction'"),  # trained on 'None'
    ("chat_dataset", STYLE["openai"], OPENAI, chat("openai", ("user", "a"), ("assistant", None)), "has no 'content' in message 2 of 'm'"),  # repeats message 1
    ("chat_dataset", STYLE["openai"], OPENAI, chat("openai", ("user", "a"), ("bot", "b")), "has another 'role' in message 2 of 'm' than system, user, assistant, ipython: 'bot'"),
    ("chat_dataset", STYLE["openai"], OPENAI, chat("openai", ("system", "a"), ("user", "b")), "has no message of 'assistant' in 'm': nothing to train on"),
]  # fmt: skip


@pytest.mark.parametrize(("component", "arguments", "good", "bad", "said"), SILENT)
def test_a_row_that_torchtune_trains_on_wrongly_without_a_word(tmp_path, component, arguments, good, bad, said):
    dataset = node(written(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in (good, bad))), component, **arguments)
    (fault,) = faults(dataset)
    assert fault.what == f"{dataset['data_files']}: row 2 (line 2) {said}; 1 of 2 rows is bad"
    assert trained_on(dataset, tmp_path) == [True, True]


def test_columns_that_are_not_read_as_text(tmp_path):
    """A JSON column of dates becomes datetimes, a CSV column of numbers numbers, a CSV cell 'None' null."""
    dates = node(written(tmp_path / "x.jsonl", '{"input":"a","output":"2020-01-01"}\n{"input":"a","output":"2020-01-02 10:00"}\n'))
    assert faults(dates) == [
        Fault(
            "dataset.data_files",
            f"{tmp_path}/x.jsonl: row 1 (line 1) has a date in 'output', where text is read; 2 of 2 rows are bad",
            "a JSON column of nothing but dates is read as dates: put words around them",
        )
    ]
    numbers = node(written(tmp_path / "x.csv", "input,output\na,3\nb, 4.5\n"))
    assert faults(numbers) == [
        Fault(
            "dataset.data_files",
            f"{tmp_path}/x.csv: row 1 (line 2) has a number in 'output', where text is read; 2 of 2 rows are bad",
            "a CSV column of nothing but numbers, or of true and false, is not read as text: write it as JSON lines",
        )
    ]
    nulls = node(written(tmp_path / "y.csv", 'input,output\na,b\n"a\nb",None\nc\n'))
    assert faults(nulls) == [
        Fault(
            "dataset.data_files",
            f"{tmp_path}/y.csv: row 2 (line 3) has null in 'output', where text is read; 2 of 3 rows are bad",
            "an empty cell is null, and so are NA, None, null and nan unless dataset.keep_default_na is false",
        )
    ]
    assert trained_on(dates, tmp_path) == [False, False]
    assert trained_on(numbers, tmp_path) == [False, False]
    assert trained_on(nulls, tmp_path) == [True, False, False]
    mixed = node(written(tmp_path / "z.csv", "input,output\na,3\nb,four\n"))
    assert faults(mixed) == []
    assert trained_on(mixed, tmp_path) == [True, True]


def test_a_column_named_image_makes_a_text_dataset_fail(tmp_path):
    dataset = node(written(tmp_path / "x.jsonl", '{"input":"a","output":"b","image":"c"}\n'))
    assert faults(dataset) == [
        Fault(
            "dataset.data_files",
            f"{tmp_path}/x.jsonl has a column 'image': instruct_dataset takes its rows for images with text",
            "rename or remove the column",
        )
    ]
    assert trained_on(dataset, tmp_path) == [False]


def test_missing_columns_are_named_with_what_would_mend_it(tmp_path):
    path = written(tmp_path / "x.json", '{"data": [{"input": "a", "output": "b"}]}')
    assert faults(node(path)) == [
        Fault(
            "dataset.data_files",
            f"{path} lacks input, output; it has data",
            "if the rows are those below 'data', add below dataset:\n  field: data",
        )
    ]
    assert faults(node(path, field="data")) == []
    path = written(tmp_path / "x.jsonl", '{"a":"x"}\n')
    assert faults(node(path, "text_completion_dataset")) == [
        Fault("dataset.data_files", f"{path} lacks text; it has a", "dataset.column names the column that text_completion_dataset reads")
    ]
    assert faults(node(path, "chat_dataset", **STYLE["openai"])) == [
        Fault("dataset.data_files", f"{path} lacks m; it has a", "dataset.conversation_column names the column that chat_dataset reads")
    ]


def test_messages_of_the_other_style_are_recognized(tmp_path):
    path = written(tmp_path / "x.jsonl", json.dumps(SHAREGPT) + "\n")
    (fault,) = faults(node(path, "chat_dataset", **STYLE["openai"]))
    assert fault.fix == "conversation_style: sharegpt"


ARGUMENTS = [
    ("instruct_dataset", {"column_map": {"input": "a"}}, "column_map", "column_map lacks output, and instruct_dataset fails without", "column_map:\n  input: a\n  output: output"),
    ("instruct_dataset", {"column_map": {}}, "column_map", "column_map lacks input, output, and instruct_dataset fails without", "column_map:\n  input: input\n  output: output"),
    ("slimorca_dataset", {"column_map": {"image": "a"}}, "column_map", "column_map lacks conversations, and slimorca_dataset fails without", "column_map:\n  conversations: conversations"),
    ("chat_dataset", {**STYLE["openai"], "column_map": {"messages": "m"}}, "column_map", "chat_dataset takes no column_map", "dataset.conversation_column names the column that it reads"),
    ("text_completion_dataset", {"column_map": {"text": "m"}}, "column_map", "text_completion_dataset takes no column_map", "dataset.column names the column that it reads"),
    ("chat_dataset", {**STYLE["openai"], "conversation_style": "opnai"}, "conversation_style", "unknown conversation_style 'opnai'", "did you mean 'openai'?"),
    ("cnn_dailymail_articles_dataset", {}, "", "cnn_dailymail_articles_dataset cannot read a file: it hands max_seq_len to datasets, which fails on it", "dataset:\n  _component_: torchtune.datasets.text_completion_dataset\n  column: article"),
    ("wikitext_dataset", {}, "", "wikitext_dataset cannot read a file: it hands max_seq_len to datasets, which fails on it", "dataset:\n  _component_: torchtune.datasets.text_completion_dataset\n  column: page"),
]  # fmt: skip


@pytest.mark.parametrize(("component", "arguments", "key", "what", "fix"), ARGUMENTS)
def test_arguments_that_torchtune_fails_on(tmp_path, component, arguments, key, what, fix):
    dataset = node(written(tmp_path / "x.jsonl", json.dumps({**PAIR, **SHAREGPT}) + "\n"), component, **arguments)
    assert faults(dataset) == [Fault(f"dataset.{key}".rstrip("."), what, fix)]
    with pytest.raises((ValueError, TypeError)):
        trained_on(dataset, tmp_path)


def test_a_column_map_with_a_name_that_is_not_read(tmp_path):
    path = written(tmp_path / "x.jsonl", '{"instruction":"a","answer":"b"}\n')
    assert faults(node(path, "alpaca_dataset", column_map={"ouput": "answer"})) == [
        Fault("dataset.column_map", "column_map gives a column for 'ouput', which alpaca_dataset does not read", "did you mean 'output'?")
    ]
    assert faults(node(path, "alpaca_dataset", column_map={"output": 3})) == [
        Fault("dataset.column_map", "column_map.output: expected the name of a column, got 3")
    ]
    assert faults(node(path, "alpaca_dataset", column_map=["answer"])) == [
        Fault("dataset.column_map", "column_map: expected a mapping, got ['answer']", "its keys are instruction, input, output")
    ]


def test_every_text_dataset_of_torchtune_is_known():
    import torchtune.datasets

    known = {*dataset_columns.COMPONENTS, dataset_columns.CHAT, *dataset_columns.COMPLETION, *dataset_columns.BROKEN}
    others = {"stack_exchange_paired_dataset", "preference_dataset", "PreferenceDataset", "hh_rlhf_helpful_dataset", "multimodal",
              "SFTDataset", "PackedDataset", "ConcatDataset"}  # fmt: skip
    assert set(torchtune.datasets.__all__) - others == known
    assert not known & others


# Files and splits


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two files of ten and five rows, and others."""
    for name, rows in {"a.jsonl": 10, "b.jsonl": 5, "sub/c.jsonl": 3, "x[1].jsonl": 2}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, (json.dumps(PAIR) + "\n") * rows)
    return tmp_path


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ("{0}/a.jsonl", 10),
        (["{0}/a.jsonl", "{0}/b.jsonl", "{0}/a.jsonl"], 25),
        ({"train": ["{0}/a.jsonl"], "test": "{0}/b.jsonl"}, 10),
        ("{0}/[ab].jsonl", 15),
        ("{0}/**/?.jsonl", 18),
    ],
)
def test_files_are_given_in_any_form(load, files, value, rows):
    value = json.loads(json.dumps(value).replace("{0}", str(files)))
    dataset = {**node(files / "a.jsonl"), "data_files": value}
    assert faults(dataset) == []
    assert dataset_checks.dataset_rows({"dataset": dataset}) == rows == len(load("json", data_files=value))


def test_files_that_are_not_there(load, files):
    cases = {
        "nope.jsonl": ("dataset not found: {}", "paths start at the folder of experiment.yaml"),
        "nope*.jsonl": ("dataset not found: {}", "paths start at the folder of experiment.yaml"),
        "sub": ("dataset is a folder: {}", "name its files: {}/*.jsonl"),
        "x[1].jsonl": ("{} is taken for a pattern, which does not match it", "rename it: a name holds no *, ? or ["),
    }
    for name, (what, fix) in cases.items():
        path = f"{files}/{name}"
        assert faults(node(path)) == [Fault("dataset.data_files", what.format(path), fix.format(path))]
        with pytest.raises((FileNotFoundError, StopIteration)):
            load("json", data_files=path)
    both = faults({**node(files / "a.jsonl"), "data_files": [f"{files}/n.jsonl", f"{files}/a.jsonl", f"{files}/m.jsonl"]})
    assert [fault.what for fault in both] == [f"dataset not found: {files}/n.jsonl", f"dataset not found: {files}/m.jsonl"]


@pytest.mark.parametrize("value", [[], {}, 3, {"train": []}, [3]])
def test_data_files_of_another_type(value):
    (fault,) = faults({**node("x.jsonl"), "data_files": value})
    assert fault.what.startswith("data_files: expected a path, a list of paths, or either by split, got ")


def test_files_that_cannot_be_looked_into_are_not_counted(files):
    for dataset in (
        node("https://x.org/a.jsonl"),
        node("${output_dir}/a.jsonl"),
        {**node("x"), "data_files": [f"{files}/a.jsonl", "hf://x/a.jsonl"]},
        {**node("x"), "source": "someone/data"},
        {**node("x"), "data_files": None, "data_dir": str(files)},
    ):
        assert (faults(dataset, batch_size=1000), dataset_checks.dataset_rows({"dataset": dataset})) == ([], None)


def test_a_source_without_files():
    assert faults({"_component_": "torchtune.datasets.instruct_dataset", "source": "json"}) == [
        Fault("dataset", "source json names no file: it needs data_files", "data_files: data/train.jsonl")
    ]
    assert faults({"source": "json", "data_dir": "/nowhere/data"}) == [Fault("dataset.data_dir", "data_dir not found: /nowhere/data")]


def test_each_bad_file_is_said(files):
    written(files / "b.jsonl", '{"input":"a"}\n')
    written(files / "a.jsonl", json.dumps(PAIR) + "\n{}\n")
    dataset = {**node("x"), "data_files": [f"{files}/a.jsonl", f"{files}/b.jsonl"]}
    assert [fault.what for fault in faults(dataset)] == [
        f"{files}/a.jsonl: row 2 (line 2) has no 'input'; 1 of 2 rows is bad",
        f"{files}/b.jsonl lacks output; it has input",
    ]


LINES, WIDE_LINES = '{"input":"a","output":"b"}\n', '{"input":"a","output":"b","n":1}\n'
CSV, WIDE_CSV = "input,output\na,b\n", "input,output,n\na,b,1\n"


@pytest.mark.parametrize(
    ("first", "second", "other"),
    [
        (LINES, WIDE_LINES, "n more"),
        (WIDE_LINES, LINES, None),
        (f"[{WIDE_LINES}]", LINES, "no n"),
        (f"[{LINES}]", WIDE_LINES, "n more"),
        ("", WIDE_LINES, None),
        (LINES, "\n", None),
        (CSV, WIDE_CSV, "n more"),
        (WIDE_CSV, CSV, "no n"),
    ],
)
def test_a_later_file_with_other_columns(load, tmp_path, first, second, other):
    end = "csv" if first in (CSV, WIDE_CSV) else "json"
    paths = [str(written(tmp_path / f"{number}.{end}", text)) for number, text in enumerate((first, second))]
    dataset = {**node(paths[0]), "data_files": paths}
    fault = Fault("dataset.data_files", f"{paths[1]} has other columns than {paths[0]}: {other}", "datasets fails on it: give all files the same columns")
    assert faults(dataset) == ([fault] if other else [])
    if other is None:
        load(dataset["source"], data_files=dataset["data_files"])
    else:
        with pytest.raises(Exception, match="generating the dataset"):
            load(dataset["source"], data_files=dataset["data_files"])


def test_another_split_with_other_columns(load, tmp_path):
    paths = {split: str(written(tmp_path / f"{split}.jsonl", text)) for split, text in {"train": LINES, "test": WIDE_LINES}.items()}
    what = f"{paths['test']} has other columns than {paths['train']}: n more"
    assert [fault.what for fault in faults({**node("x"), "data_files": paths})] == [what]
    with pytest.raises(Exception, match="generating the dataset"):
        load("json", data_files=paths)


def test_the_class_under_the_builders_has_no_split_of_its_own(tmp_path):
    dataset = node(written(tmp_path / "x.jsonl", '{"text":"a"}\n'), "TextCompletionDataset")
    assert faults(dataset) == []
    del dataset["split"]
    assert faults(dataset) == [Fault("dataset.split", "expected the name of a split, got None", "split: train")]
    assert trained_on({**dataset, "split": "train"}, tmp_path) == [True]


SPLITS = ["train", "train[:50%]", "train[:3]", "train[-3:]", "train[3:5]", "train[:33%]", "train[:15%]", "train[:35%](closest)", "train[:20]",
          "train[5:3]", "train[:-3]", "train[-20:]", "train[:25%]+train[75%:]", "all"]  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_takes_the_rows_that_datasets_takes(load, files, split):
    assert dataset_files.rows_taken(split, {"train": 10}) == len(load("json", data_files=f"{files}/a.jsonl", split=split))


@pytest.mark.parametrize(
    ("split", "what", "fix"),
    [
        ("validation", "there is no split 'validation': datasets calls these files train", "split: train"),
        ("train[:3]+test", "there is no split 'test': datasets calls these files train", "split: train"),
        ("train[0]", "split 'train[0]' is none: it is written like train, train[:100] or train[:50%]", "split: train"),
        (" train", "split ' train' is none: it is written like train, train[:100] or train[:50%]", "split: train"),
        ("train[:200%]", "split 'train[:200%]': a percentage is at most 100", "split: train"),
        ("train[20:]", "split 'train[20:]' takes none of the 10 rows of {0}/a.jsonl: datasets fails on it", None),
        ("train[:50%](pct1_dropremainder)", "split 'train[:50%](pct1_dropremainder)': pct1_dropremainder needs 100 rows, and there are 10", None),
        (None, "expected the name of a split, got None", "split: train"),
    ],
)
def test_a_split_that_cannot_be(load, files, split, what, fix):
    assert faults(node(files / "a.jsonl", split=split)) == [Fault("dataset.split", what.replace("{0}", str(files)), fix)]
    with pytest.raises((ValueError, KeyError)):
        load("json", data_files=f"{files}/a.jsonl", split=split)[0]


def test_bad_rows_that_the_split_does_not_take(files):
    """Only the first of rows alike is known: that another one is taken is a warning."""
    path = files / "a.jsonl"
    written(path, (json.dumps(PAIR) + "\n") * 10 + '{"input":"a"}\n')
    whole = f"{path}: row 11 (line 11) has no 'output'; 1 of 11 rows is bad"
    assert faults(node(path)) == [Fault("dataset.data_files", whole)]
    assert faults(node(path, split="train[:10]")) == []
    assert faults(node(path, split="train[:3]+train[10:]")) == [Fault("dataset.data_files", whole)]
    assert faults({**node(path), "data_files": {"train": f"{files}/b.jsonl", "test": str(path)}}) == []
    both = {**node(path, split="train[:12]"), "data_files": [f"{files}/b.jsonl", str(path)]}
    assert faults(both) == []
    assert faults({**both, "split": "train[:16]"}) == [Fault("dataset.data_files", whole)]
    written(path, ('{"input":"a"}\n' + json.dumps(PAIR) + "\n") * 2)
    warning = f"{path}: row 1 (line 1) has no 'output'; 2 of 4 rows are bad"
    assert faults(node(path, split="train[1:2]")) == [Fault("dataset.data_files", warning, None, "warning")]


@pytest.mark.parametrize("name", ["field", "encoding", "column"])
def test_an_option_of_another_type(tmp_path, name):
    path = written(tmp_path / "x.jsonl", '{"text":"a"}\n')
    what = f"{name}: expected {'the name of a column' if name == 'column' else 'text'}, got ['a']"
    assert faults(node(path, "text_completion_dataset", **{name: ["a"]})) == [Fault(f"dataset.{name}", what)]


def test_whatever_a_dataset_holds_is_no_traceback(tmp_path):
    path = str(written(tmp_path / "x.jsonl", json.dumps({**PAIR, **OPENAI}) + "\n"))
    components = [*dataset_columns.COMPONENTS, dataset_columns.CHAT, *dataset_columns.COMPLETION, *dataset_columns.BROKEN, "other"]
    values = [None, 3, -1, 1.5, True, "", "a", "csv", "parquet", "${x}", "a\0b", "\ud800", [], {}, ["a"], {"a": 1}, {"input": None}, {1: 2},
              {"input": "input", "output": [1]}, path, [path], {"train": path}, str(tmp_path), "train[:50%]", "x" * 5000, "openai", 10**400]  # fmt: skip
    keys = ["_component_", "source", "data_files", "split", "column_map", "column", "conversation_column", "conversation_style", "field",
            "encoding", "sep", "keep_default_na", "packed", "new_system_prompt", "train_on_input", "data_dir"]  # fmt: skip
    chosen = random.Random(0)
    for _ in range(5000):
        changes = {key: chosen.choice(values) for key in chosen.sample(keys, chosen.randint(1, 3))}
        found = faults({**node(path, chosen.choice(components)), **changes}, batch_size=chosen.choice([1, 2, None, "x"]))
        assert all(isinstance(fault, Fault) for fault in found)


# Steps


def test_the_slice_of_a_split_is_what_is_counted(files):
    dataset = node(files / "a.jsonl", split="train[:50%]")
    assert faults(dataset, batch_size=5) == []
    assert faults(dataset, batch_size=6) == [
        Fault(
            "gradient_accumulation_steps",
            "5 rows are fewer than batch_size 6 × gradient_accumulation_steps 1: no optimizer step would be taken",
            "lower batch_size or gradient_accumulation_steps",
            reads=training_steps.READS,
        )
    ]


def test_the_rows_of_several_datasets_are_added(files):
    both = [node(files / "a.jsonl"), node(files / "b.jsonl")]
    assert faults(both, batch_size=15) == []
    assert [fault.name for fault in faults(both, batch_size=16)] == ["gradient_accumulation_steps"]


def test_every_gpu_of_a_distributed_recipe_needs_its_rows(files):
    dataset, sizes = node(files / "a.jsonl"), {"batch_size": 2, "gradient_accumulation_steps": 2, "gpus": 4}
    assert faults(dataset, **sizes, recipe="lora_finetune_distributed") == [
        Fault(
            "gradient_accumulation_steps",
            "10 rows are fewer than batch_size 2 × gradient_accumulation_steps 2 × 4 GPUs: no optimizer step would be taken",
            "lower batch_size or gradient_accumulation_steps",
            reads=training_steps.READS,
        )
    ]
    assert faults(dataset, **sizes, recipe="lora_finetune_single_device") == []


@pytest.mark.parametrize("gpus", [1, 2, 3, 4])
@pytest.mark.parametrize(("rows", "batch", "accumulation"), [(10, 2, 1), (13, 4, 1), (13, 2, 2), (7, 3, 2), (2, 1, 1)])
def test_steps_are_those_of_the_recipes_loader(rows, batch, accumulation, gpus):
    from torch.utils.data import DataLoader
    from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

    data = list(range(rows))
    sampler = StatefulDistributedSampler(data, num_replicas=gpus, rank=gpus - 1, shuffle=True, seed=0)
    config = {"batch_size": batch, "gradient_accumulation_steps": accumulation}
    loader = DataLoader(data, batch_size=batch, sampler=sampler, drop_last=True)
    assert training_steps.steps_per_epoch(config, rows, "full_finetune_distributed", gpus) == len(loader) // accumulation


def test_gpus_that_share_one_copy_of_the_rows():
    config = {"batch_size": 1, "tensor_parallel_dim": 2}
    assert training_steps.steps_per_epoch(config, 8, "full_finetune_distributed", 4) == 4
    assert training_steps.steps_per_epoch(config, 8, "lora_finetune_distributed", 4) == 2
    assert training_steps.steps_per_epoch({**config, "max_steps_per_epoch": 3}, 8, "full_finetune_distributed", 4) == 3


# Cost


def test_a_file_is_read_once_whatever_is_asked_of_it(tmp_path, monkeypatch):
    path = written(tmp_path / "x.jsonl", (json.dumps({**PAIR, **OPENAI}) + "\n") * 50)
    data_files._summary.cache_clear()
    dataset_checks._looked_into.cache_clear()
    for batch in range(1, 50):
        assert faults(node(path), batch_size=batch) == []
        assert faults(node(path, "chat_dataset", **STYLE["openai"]), batch_size=batch) == []
        assert faults(node(path, column_map={"input": "output", "output": "input"}), batch_size=batch) == []
    assert data_files._summary.cache_info().misses == 1
    written(path, '{"input":"a"}\n')
    assert [fault.what for fault in faults(node(path))] == [f"{path} lacks output; it has input"]


def test_a_large_file_takes_about_as_long_as_its_json(tmp_path):
    row = json.dumps({"input": "Capitalize: apple " * 6, "output": "Apple " * 15, "id": 3}) + "\n"
    path = written(tmp_path / "x.jsonl", row * 50_000)
    start = time.perf_counter()
    for line in path.read_text().split("\n")[:-1]:
        json.loads(line)
    parsed = time.perf_counter()
    found = data_files.summary(path, Reading("json"))
    assert found.rows == 50_000
    assert time.perf_counter() - parsed < 4 * (parsed - start) + 0.5


def test_4000_points_with_4_datasets_take_no_time(tmp_path):
    paths = [written(tmp_path / f"{number}.jsonl", (json.dumps(PAIR) + "\n") * 1000) for number in range(4)]
    start = time.perf_counter()
    for point in range(4000):
        assert faults(node(paths[point % 4]), batch_size=2) == []
    assert time.perf_counter() - start < 2
