"""The first rows of a dataset as the model will see them, with the real torchtune, datasets and Inspect."""

from __future__ import annotations

import base64
import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cruijff_kit import prompt_check, prompt_parity
from cruijff_kit.evaluated_model import tokenizer_call_args
from cruijff_kit.prompt_check import PromptReport
from cruijff_kit.training_checks import Fault
from tests.test_chat_tokenizer import sent_by_inspect
from tests.tiny_llama import WORDS, make_tiny_llama, tiny_base_config, write_tiny_data

HEADER = "<|begin|><|im_start|>system↵\nYou are tiny.<|im_end|>↵\n"


@pytest.fixture(autouse=True)
def no_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the datasets library."""
    import datasets.config

    (folder := tmp_path / "datasets cache").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "plain", chat_template=None)


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> dict[str, Any]:
    """The tiny model's config, over twelve rows."""
    return {**with_data(tiny_base_config(tiny_model), write_tiny_data(tmp_path / "train.jsonl")), "output_dir": str(tmp_path)}


def with_data(config: dict[str, Any], file: Path, **settings: Any) -> dict[str, Any]:
    return {**config, "dataset": {**config["dataset"], "data_files": str(file), **settings}}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def qwen_tokenizer(model: Path, **settings: Any) -> dict[str, Any]:
    """torchtune's tokenizer of ChatML over the tiny model's vocabulary: no BOS, and no system message of its own."""
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]
    (model / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    (model / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in vocabulary["merges"]))
    return {
        "_component_": "cruijff_kit_test_components.qwen",
        "path": str(model / "vocab.json"),
        "merges_file": str(model / "merges.txt"),
        "max_seq_len": None,
        **settings,
    }


COMPONENTS = '''
from torch.utils.data import Dataset
from torchtune.data import Message, PromptTemplate
from torchtune.models.qwen2 import Qwen2Tokenizer

SPECIAL = {"<|begin|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def qwen(path, merges_file, max_seq_len=None, roles=None):
    template = PromptTemplate({role: tuple(texts) for role, texts in roles.items()}) if roles else None
    return Qwen2Tokenizer(path, merges_file, SPECIAL, max_seq_len, prompt_template=template,
                          bos_token="<|begin|>", eos_token="<|im_end|>", pad_token="<|im_end|>")


class Custom(Dataset):
    """A dataset of the user's own, which says which rows were asked for."""

    asked = []

    def __init__(self, tokenizer, words, packed=False):
        assert not packed
        self.tokenizer, self.words = tokenizer, words

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        self.asked.append(index)
        if self.words[index] == "bad":
            raise LookupError("no such word\\nnor another")
        messages = [Message("user", self.words[index], masked=True), Message("assistant", "yes", masked=self.words[index] == "masked")]
        made = self.tokenizer({"messages": messages})
        return {"tokens": made["tokens"], "labels": [-100 if masked else token for token, masked in zip(made["tokens"], made["mask"])]}
'''


@pytest.fixture
def components(tmp_path, monkeypatch) -> str:
    """The name of a module with components of the user's."""
    (tmp_path / "cruijff_kit_test_components.py").write_text(COMPONENTS)
    monkeypatch.syspath_prepend(tmp_path)
    return "cruijff_kit_test_components"


def custom(config: dict[str, Any], components: str, words: list[str], **settings: Any) -> dict[str, Any]:
    return {**config, "dataset": {"_component_": f"{components}.Custom", "words": words, **settings}}


def test_the_rows_are_counted_and_one_is_shown_as_the_model_will_see_it(config):
    report = prompt_check.check(config, evaluated=True)
    assert report.faults == []
    assert report.shown == HEADER + "<|im_start|>user↵\nCapitalize: apple<|im_end|>↵\n<|im_start|>assistant↵\n⟦Apple<|im_end|>⟧"
    assert report.rows == 12
    assert 20 < (report.mean_tokens or 0) < 40
    assert report.as_dict() == {"faults": [], "shown": report.shown, "mean_tokens": report.mean_tokens, "rows": 12}


def test_the_input_is_shown_as_trained_on_where_it_is(config):
    config["dataset"]["train_on_input"] = True
    report = prompt_check.check(config, evaluated=True)
    assert report.faults == []
    assert report.shown == f"⟦{HEADER}<|im_start|>user↵\nCapitalize: apple<|im_end|>↵\n<|im_start|>assistant↵\nApple<|im_end|>⟧"


@pytest.mark.parametrize("packed", [False, True])
def test_only_the_first_rows_are_read_and_no_cache_is_written(config, tmp_path, no_hub_cache, packed):
    rows = [{"input": f"Capitalize: {word}", "output": word} for word in WORDS[:8]] + [{"input": None, "output": 3}] * 3
    config = with_data(config, write_rows(tmp_path / "rows.jsonl", rows), packed=packed)
    config["tokenizer"]["max_seq_len"] = 200
    report = prompt_check.check(config, evaluated=True)
    assert (report.faults, report.rows) == ([], 11)
    assert list(no_hub_cache.iterdir()) == []


def test_files_of_every_kind_give_the_same_rows(config, tmp_path):
    from datasets import Dataset

    rows = [{"input": f"Capitalize: {word}", "output": word.capitalize()} for word in WORDS]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["input", "output"], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "nested.json").write_text(json.dumps({"rows": rows}))
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    expected = prompt_check.check(config, evaluated=False)
    for source, file, settings in (
        ("csv", "rows.csv", {"delimiter": ";"}),
        ("json", "rows.json", {}),
        ("parquet", "rows.parquet", {}),
        ("json", "nested.json", {"field": "rows"}),
        ("json", "*.jsonl", {}),
    ):
        report = prompt_check.check(with_data(config, tmp_path / file, source=source, **settings), evaluated=False)
        assert (report.shown, report.mean_tokens) == (expected.shown, expected.mean_tokens), file
        assert report.rows == 12, file


@pytest.mark.parametrize(
    ("split", "word", "rows"),
    [("train[10:]", "ocean", 2), ("train[2:5]", "stone", 3), ("train[50%:]", "music", 6), ("train[-2:]", "ocean", 2)],
)
def test_a_split_is_cut_where_it_says(config, split, word, rows):
    config["dataset"]["split"] = split
    report = prompt_check.check(config, evaluated=False)
    assert f"Capitalize: {word}" in (report.shown or "")
    assert (report.faults, report.rows) == ([], rows)


def test_a_list_of_datasets_is_read_one_by_one(config, tmp_path):
    other = {**config["dataset"], "data_files": str(write_rows(tmp_path / "b.jsonl", [{"input": "x", "output": "y"}, {"output": "z"}]))}
    report = prompt_check.check({**config, "dataset": [config["dataset"], other]}, evaluated=True)
    assert report.rows == 14
    assert [fault.what for fault in report.faults] == [f"dataset[1] row 2: {NO_TEXT}"]


NO_TEXT = "TypeError: sequence item 0: expected str instance, NoneType found; it has no input"


def test_a_row_that_cannot_be_tokenized_is_named(config, tmp_path):
    rows = [{"input": "Capitalize: apple", "output": "Apple"}] * 3 + [{"input": None, "output": "River"}]
    report = prompt_check.check(with_data(config, write_rows(tmp_path / "rows.jsonl", rows)), evaluated=True)
    assert report.faults == [Fault("dataset", f"row 4: {NO_TEXT}", "training stops there")]
    assert "Capitalize: apple" in (report.shown or "")


def test_a_dataset_component_of_the_users_is_asked_for_its_first_rows_only(config, components):
    words = ["good", "bad", "masked", "good", "bad", *["good"] * 20]
    report = prompt_check.check(custom(config, components, words, packed=True), evaluated=True)
    assert report.faults == [
        Fault("dataset", "row 2, row 5: LookupError: no such word", "training stops there"),
        Fault(
            "dataset",
            "nothing is trained on in 1 of the first 6 rows: row 3",
            "give each row an answer, or remove it; a batch of such rows alone makes the loss NaN",
            "warning",
        ),
    ]
    assert report.rows == 25


def test_rows_of_which_none_is_trained_on_are_an_error(config, components):
    report = prompt_check.check(custom(config, components, ["masked", "masked"]), evaluated=False)
    assert [(fault.what, fault.level) for fault in report.faults] == [
        ("nothing is trained on in 2 of the first 2 rows: row 1, row 2", "error")
    ]
    assert "⟦" not in (report.shown or "")


def test_a_row_longer_than_max_seq_len_is_a_warning_with_its_length(config, tmp_path):
    rows = [{"input": "apple", "output": "Apple"}, {"input": "apple", "output": "Apple " * 60}, {"input": "apple " * 60, "output": "A"}]
    config = with_data(config, write_rows(tmp_path / "rows.jsonl", rows))
    config["tokenizer"]["max_seq_len"] = 60
    report = prompt_check.check(config, evaluated=True)
    cut, masked = report.faults
    assert (cut.name, cut.what, cut.level) == ("max_seq_len", "max_seq_len 60 cuts 2 of the first 3 rows: row 2, row 3", "warning")
    assert masked == Fault(
        "max_seq_len",
        "nothing is trained on in 1 of the first 3 rows: row 3",
        "max_seq_len cuts off the whole answer: raise it; a batch of such rows alone makes the loss NaN",
        "warning",
    )


def test_a_prompt_that_the_evaluation_writes_otherwise_is_shown_beside_its(config, components, tiny_model):
    config["tokenizer"] = qwen_tokenizer(tiny_model)
    report = prompt_check.check(config, evaluated=True)
    assert [(fault.name, fault.level, fault.what) for fault in report.faults] == [
        (
            "_override",
            "warning",
            "training and evaluation make different prompts of the same messages: "
            "they part at token 1 (1 in training, 0 in the evaluation); so do 8 of the first 8 rows",
        )
    ]
    assert report.faults[0].fix == (
        "training    <|im_start|>user\\nCapitalize: apple<|im_end|>\\n⟦<|im_start|>assistant\\nApple<|im_end|>⟧\n"
        "evaluation  <|begin|><|im_start|>system\\nYou are tiny.<|im_end|>\\n<|im_start|>user\\nCapitalize: apple<|im_end|>\\n"
        "<|im_start|>assistant\\n\n"
        "to train on the model's own chat template, add under controls:\n"
        "  _override:\n"
        "    tokenizer:\n"
        "      _component_: cruijff_kit.chat_tokenizer.ChatTemplateTokenizer\n"
        f"      path: {tiny_model}"
    )
    assert prompt_check.check(config, evaluated=False).faults == []


CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""


def test_torchtunes_tokenizer_is_fine_where_it_writes_what_the_template_does(config, components, tmp_path):
    """It trains on the header of the answer too, which makes no other prompt."""
    model = make_tiny_llama(tmp_path / "model", CHATML)
    config["checkpointer"]["checkpoint_dir"] = str(model)
    config["tokenizer"] = qwen_tokenizer(model)
    for train_on_input in (False, True):
        config["dataset"]["train_on_input"] = train_on_input
        assert prompt_check.check(config, evaluated=True).faults == []


def test_a_model_without_a_chat_template_is_sent_its_roles(config, components, plain_model):
    config["checkpointer"]["checkpoint_dir"] = str(plain_model)
    config["tokenizer"] = qwen_tokenizer(plain_model, roles={"user": ["user: ", "\n"], "assistant": ["", ""]})
    report = prompt_check.check(config, evaluated=True)
    assert [fault.what for fault in report.faults] == [
        "training and evaluation make different prompts of the same messages: "
        "they part at token 1 (1 in training, 0 in the evaluation); so do 8 of the first 8 rows"
    ]
    assert (report.faults[0].fix or "").splitlines()[1:] == [
        "evaluation  <|begin|>user: Capitalize: apple\\n",
        f"{plain_model} has no chat template: the evaluation writes 'user: …' and a line break for each message",
        "evaluate a chat model, add a chat_template.jinja there and train with cruijff_kit.chat_tokenizer.ChatTemplateTokenizer,",
        "or give the tokenizer a prompt_template that writes the same",
    ]


def test_each_of_several_datasets_is_compared(config, components, tmp_path):
    """One whose rows the template writes otherwise stands behind one that is fine, one of plain text, and one without answers."""
    model = make_tiny_llama(tmp_path / "model", CHATML.replace("message['content']", "message['content'] | trim"))
    config["checkpointer"]["checkpoint_dir"] = str(model)
    config["tokenizer"] = qwen_tokenizer(model)
    text = {"_component_": "torchtune.datasets.text_completion_dataset", "source": "json", "column": "input", "add_eos": True}
    padded = write_rows(tmp_path / "padded.jsonl", [{"input": "apple", "output": "Apple"}, {"input": " apple", "output": "Apple"}])
    datasets = [
        config["dataset"],
        {**text, "data_files": config["dataset"]["data_files"]},
        custom(config, components, ["masked"])["dataset"],
        {**config["dataset"], "data_files": str(padded)},
    ]
    found = prompt_check.compare({**config, "dataset": datasets}, model)
    skipped = "the prompts of training and evaluation were not compared: "
    assert [(fault.level, re.sub(r"\(\d+ in training, \d+ in the evaluation\)", "(…)", fault.what)) for fault in found] == [
        ("note", f"dataset[1]: {skipped}the dataset trains on plain text, and not on messages"),
        ("note", f"dataset[2]: {skipped}none of the first rows has an answer that is trained on"),
        (
            "warning",
            "dataset[3]: training and evaluation make different prompts of the same messages: "
            "they part at token 4 (…); so do 1 of the first 2 rows",
        ),
    ]


def test_a_tokenizer_that_is_not_the_evaluated_models_is_named(config, tiny_model, plain_model, tmp_path):
    (other := tmp_path / "other").mkdir()
    for path in tiny_model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "chat_template.jinja").write_text(CHATML)

    def last_line() -> str:
        (fault,) = prompt_check.compare(config, other)
        return (fault.fix or "").splitlines()[-1]

    assert last_line() == f"{tiny_model} and the evaluated model have not the same tokenizer and chat template: one was changed since the training"
    config["checkpointer"]["checkpoint_dir"] = str(other)
    assert last_line() == f"tokenizer.path and checkpointer.checkpoint_dir should be one model's: {tiny_model}, {other}"


def test_the_models_folder_stands_for_a_link_that_is_not_there_yet(config, tiny_model):
    config["checkpointer"]["checkpoint_dir"] = "${output_dir}/checkpoints"
    assert prompt_check.check(config, True, model_dir=str(tiny_model)).faults == []
    folder = f"{config['output_dir']}/checkpoints"
    assert prompt_check.check(config, True).faults == [
        Fault("model_dir", f"the prompts of training and evaluation were not compared: {folder} is no folder", level="note")
    ]


def test_missing_tokenizer_files_are_named(config, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, missing in ((tmp_path / "nowhere", tmp_path / "nowhere"), (tmp_path / "empty", tmp_path / "empty/tokenizer.json")):
        config["tokenizer"]["path"] = str(path)
        what = f"the tokenizer needs {missing}: not found, and no prompt was looked at"
        assert prompt_check.check(config, True) == PromptReport([Fault("model_dir", what, level="warning")], rows=12)


@pytest.mark.parametrize("name", ["tokenizer", "dataset"])
def test_a_config_without_one_of_the_two_is_a_fault(config, name):
    del config[name]
    assert prompt_check.check(config, True) == PromptReport([Fault("_override", f"the config has no {name}")])


def test_a_dataset_that_cannot_be_built_is_a_fault_with_its_reason(config, tmp_path):
    config["dataset"]["data_files"] = str(tmp_path / "nothing.jsonl")
    (fault,) = prompt_check.check(config, evaluated=True).faults
    assert (fault.name, fault.what) == (
        "dataset",
        f"the dataset cannot be built: FileNotFoundError: Unable to find '{tmp_path}/nothing.jsonl'",
    )
    config["dataset"] = {"_component_": "torchtune.datasets.chat_dataset", "source": "json", "data_files": str(tmp_path / "train.jsonl")}
    (fault,) = prompt_check.check(config, evaluated=True).faults
    assert fault.what == (
        "the dataset cannot be built: TypeError: chat_dataset() missing 2 required keyword-only arguments: "
        "'conversation_column' and 'conversation_style'"
    )


def test_a_tokenizer_that_cannot_be_built_is_a_fault_with_its_reason(config, plain_model):
    config["tokenizer"]["path"] = str(plain_model)
    (fault,) = prompt_check.check(config, evaluated=True).faults
    assert fault.what == (
        f"the tokenizer cannot be built: ValueError: {plain_model} has no chat template, "
        "neither chat_template.jinja nor one in tokenizer_config.json"
    )
    assert fault.fix == "take a chat model, add a chat_template.jinja, or use one of torchtune's own tokenizers"


def test_without_a_tokenizer_a_dataset_of_the_users_is_not_built(config, components):
    config["tokenizer"]["path"] = "/nowhere"
    report = prompt_check.check(custom(config, components, ["good"], nothing="of the kind"), evaluated=True)
    assert [(fault.name, report.rows) for fault in report.faults] == [("model_dir", None)]


def cached_hub_dataset(cache: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """What load_dataset leaves in its cache of a dataset of the Hub."""
    from datasets import Dataset, load_dataset

    Dataset.from_list(rows).to_parquet(cache / "rows.parquet")
    load_dataset("parquet", data_files=str(cache / "rows.parquet"), cache_dir=str(cache / "made"))
    (made,) = (path for path in (cache / "made" / "parquet").glob("*/*/*") if path.is_dir())
    info = json.loads((made / "dataset_info.json").read_text())
    folder = name.split("/")[1]
    place = cache / name.replace("/", "___") / "default" / "0.0.0" / "0123abc"
    place.parent.mkdir(parents=True)
    made.rename(place)
    info.update(dataset_name=folder, config_name="default")
    (place / "dataset_info.json").write_text(json.dumps(info))
    (place / "parquet-train.arrow").rename(place / f"{folder}-train.arrow")


def test_a_dataset_of_the_hub_that_is_in_the_cache_is_read_there(config, tmp_path, monkeypatch):
    import datasets.config

    rows = [{"instruction": f"Capitalize {word}", "input": "", "output": word} for word in WORDS]
    cached_hub_dataset(tmp_path, "yahma/alpaca-cleaned", rows)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    config["dataset"] = {"_component_": "torchtune.datasets.alpaca_cleaned_dataset", "packed": True}
    report = prompt_check.check(config, evaluated=True)
    assert (report.faults, report.rows) == ([], 12)
    assert "### Instruction:↵\nCapitalize apple" in (report.shown or "")


@pytest.mark.parametrize("source", ["yahma/alpaca-cleaned", None])
def test_a_dataset_of_the_hub_that_is_not_here_is_a_note_at_once(config, source):
    config["dataset"] = {"_component_": "torchtune.datasets.alpaca_cleaned_dataset", **({"source": source} if source else {})}
    report = prompt_check.check(config, evaluated=True)
    assert report == PromptReport(
        [
            Fault(
                "dataset",
                "yahma/alpaca-cleaned is not on this machine: its rows were not looked at",
                "it is fetched when the training starts, or now by HF_HUB_OFFLINE=0 in front of this command",
                "note",
            )
        ],
        rows=None,
    )


def test_a_file_of_another_machine_is_not_fetched(config):
    config["dataset"]["data_files"] = "https://example.org/train.jsonl"
    (fault,) = prompt_check.check(config, evaluated=True).faults
    assert (fault.level, fault.what) == ("note", "https://example.org/train.jsonl is not on this machine: its rows were not looked at")


def test_plain_text_has_no_prompt_to_compare(config, tmp_path):
    file = write_rows(tmp_path / "text.jsonl", [{"text": "Capitalize: apple\x1b[31m"}])
    config["dataset"] = {"_component_": "torchtune.datasets.text_completion_dataset", "source": "json", "data_files": str(file)}
    report = prompt_check.check(config, evaluated=True)
    assert report.shown == "⟦<|begin|>Capitalize: apple\\x1b[31m<|im_end|>⟧"
    assert [(fault.level, fault.what) for fault in report.faults] == [
        ("note", "the prompts of training and evaluation were not compared: the dataset trains on plain text, and not on messages")
    ]


def tiktoken_file(path: Path) -> Path:
    """A vocabulary of single bytes."""
    path.write_text("".join(f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)))
    return path


def test_torchtunes_own_tokens_are_visible_where_the_model_has_no_tokenizer_beside_it(config, tmp_path):
    config["tokenizer"] = {
        "_component_": "torchtune.models.llama3.llama3_tokenizer",
        "path": str(tiktoken_file(tmp_path / "tokenizer.model")),
        "max_seq_len": None,
    }
    (tmp_path / "model").mkdir()
    config["checkpointer"]["checkpoint_dir"] = str(tmp_path / "model")
    report = prompt_check.check(config, evaluated=True)
    assert report.shown == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>↵\n↵\nCapitalize: apple<|eot_id|>"
        "⟦<|start_header_id|>assistant<|end_header_id|>↵\n↵\nApple<|eot_id|>⟧<|end_of_text|>"
    )
    (note,) = report.faults
    start = f"the prompts of training and evaluation were not compared: transformers loads no tokenizer from {tmp_path / 'model'}: "
    assert (note.level, note.what[: len(start)]) == ("note", start)


CONVERSATIONS = [
    [("user", " Capitalize: apple\n")],
    [("system", "Be brief."), ("user", "One."), ("user", "Two."), ("assistant", "Three."), ("user", "Four.")],
]


@pytest.mark.parametrize("model", ["tiny_model", "plain_model"])
def test_what_is_compared_is_what_inspect_sends(request, model):
    from torchtune.data import Message
    from transformers import AutoTokenizer

    folder = request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [[Message(role=role, content=text) for role, text in turns] for turns in CONVERSATIONS]
    really = sent_by_inspect(folder, CONVERSATIONS, tokenizer_call_args=tokenizer_call_args(folder))
    assert sorted(prompt_parity.sent(tokenizer, folder, each) for each in messages) == sorted(really)
