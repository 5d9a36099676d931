"""ChatTemplateTokenizer against what Inspect's hf provider hands to the model's generate."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cruijff_kit.chat_tokenizer import ChatTemplateTokenizer
from tests.tiny_llama import CHAT_TEMPLATE, make_tiny_llama, write_tiny_data

GET_MODEL = Path(__file__).parents[1] / "examples" / "smollm2_capitalize" / "get_model.py"

CONVERSATIONS = {
    "one turn": [("user", "Capitalize: apple")],
    "a system message": [("system", "Be brief."), ("user", "Capitalize: apple")],
    "several turns": [
        ("user", "Capitalize: apple"),
        ("assistant", "Apple"),
        ("user", "And river?"),
        ("assistant", "River"),
        ("user", "And stone?"),
    ],
    "a system message and several turns": [
        ("system", "Be brief."),
        ("user", "Capitalize: apple"),
        ("assistant", "Apple"),
        ("user", "And river?"),
    ],
    "white space at the seams": [("user", " Capitalize: apple \n\n")],
    "letters beyond ASCII": [("user", "Capitalize: éclair → 日本 🙂")],
}
ANSWERS = ["Apple", " Apple", "\nApple\n", "", "日本"]


def sent_by_inspect(folder: Path, conversations: list[list[tuple[str, str]]], **arguments) -> list[list[int]]:
    """The prompt tokens that reach `model.generate` for each conversation, without padding."""
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        GenerateConfig,
        get_model,
    )

    message = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    model = get_model(
        "hf/test", model_path=str(folder), device="cpu", do_sample=False, dtype="float32", memoize=False, **arguments
    )
    received: list[list[int]] = []
    generate = model.api.model.generate

    def record(input_ids, attention_mask, **settings):
        received.extend(ids[kept.bool()].tolist() for ids, kept in zip(input_ids, attention_mask, strict=True))
        return generate(input_ids=input_ids, attention_mask=attention_mask, **settings)

    async def send_all() -> None:
        inputs = [[message[role](content=text) for role, text in turns] for turns in conversations]
        config = GenerateConfig(max_tokens=1, max_connections=len(inputs))
        await asyncio.gather(*(model.generate(turns, config=config) for turns in inputs))

    model.api.model.generate = record
    asyncio.run(send_all())
    assert len(received) == len(conversations)
    return received


def messages(turns: list[tuple[str, str]], answer: str | None = None):
    """torchtune's messages as its datasets make them: masked, but for the last answer."""
    from torchtune.data import Message

    prompt = [Message(role=role, content=text, masked=True) for role, text in turns]
    return prompt if answer is None else [*prompt, Message(role="assistant", content=answer)]


def trained_on(tokenizer: ChatTemplateTokenizer, sample) -> str:
    """The text of the tokens that are not masked."""
    tokens, mask = tokenizer.tokenize_messages(sample)
    return tokenizer.decode([token for token, masked in zip(tokens, mask, strict=True) if not masked])


def split(tokenizer: ChatTemplateTokenizer, sample) -> tuple[list[int], list[int]]:
    """The masked tokens and the others, which must all come after them."""
    tokens, mask = tokenizer.tokenize_messages(sample)
    start = mask.index(False)
    assert mask == [True] * start + [False] * (len(mask) - start)
    return tokens[:start], tokens[start:]


def assert_prompts_are_those_that_inspect_sends(folder: Path) -> None:
    tokenizer = ChatTemplateTokenizer(str(folder))
    sent = sent_by_inspect(folder, list(CONVERSATIONS.values()), tokenizer_call_args={"add_special_tokens": False})
    for answer in ANSWERS:
        parts = [split(tokenizer, messages(turns, answer)) for turns in CONVERSATIONS.values()]
        assert sorted(prompt for prompt, _ in parts) == sorted(sent)
        assert {tokenizer.decode(trained) for _, trained in parts} == {f"{answer}<|im_end|>"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> ChatTemplateTokenizer:
    return ChatTemplateTokenizer(str(tiny_model))


def test_the_prompt_of_a_sample_is_what_inspect_sends(tiny_model):
    assert_prompts_are_those_that_inspect_sends(tiny_model)


def test_the_prompt_of_a_sample_is_what_inspect_sends_for_smollm2():
    made = subprocess.run([sys.executable, GET_MODEL], text=True, capture_output=True)
    assert made.returncode == 0, made.stderr
    assert_prompts_are_those_that_inspect_sends(Path(made.stdout.splitlines()[-1]))


def test_without_the_argument_inspect_puts_a_second_bos_before_the_template(tiny_model, tokenizer):
    turns = CONVERSATIONS["one turn"]
    prompt, _ = split(tokenizer, messages(turns, "Apple"))
    assert sent_by_inspect(tiny_model, [turns]) == [[tokenizer.bos_id, *prompt]]


def test_a_prompt_alone_is_open_for_an_answer(tokenizer):
    turns = CONVERSATIONS["several turns"]
    prompt, _ = split(tokenizer, messages(turns, "Stone"))
    assert tokenizer({"messages": messages(turns)}, inference=True)["tokens"] == prompt
    assert tokenizer({"messages": messages(turns, "")}, inference=True)["tokens"] == prompt


def test_call_replaces_messages_by_tokens_and_mask(tokenizer):
    sample = messages(CONVERSATIONS["one turn"], "Apple")
    tokens, mask = tokenizer.tokenize_messages(sample)
    assert tokenizer({"messages": sample, "id": 7}) == {"id": 7, "tokens": tokens, "mask": mask}


def test_every_answer_that_is_not_masked_is_trained_on_through_its_end_of_turn(tokenizer):
    sample = messages(CONVERSATIONS["several turns"], "Stone")
    sample[1].masked = False
    assert trained_on(tokenizer, sample) == "Apple<|im_end|>Stone<|im_end|>"


def test_a_masked_answer_is_not_trained_on(tokenizer):
    sample = messages(CONVERSATIONS["one turn"], "Apple")
    sample[-1].masked = True
    assert trained_on(tokenizer, sample) == ""


def test_a_prompt_that_is_not_masked_is_trained_on_without_the_masked_system_message(tokenizer):
    sample = messages(CONVERSATIONS["a system message"], "Apple")
    sample[1].masked = False
    expected = "<|im_start|>user\nCapitalize: apple<|im_end|>\n<|im_start|>assistant\nApple<|im_end|>"
    assert trained_on(tokenizer, sample) == expected


def test_the_end_of_turn_is_found_after_an_answer_that_quotes_it(tokenizer):
    assert trained_on(tokenizer, messages([("user", "End?")], "<|im_end|> it is")) == "<|im_end|> it is<|im_end|>"


def test_tokens_beyond_max_seq_len_are_cut_off(tiny_model, tokenizer):
    sample = messages(CONVERSATIONS["one turn"], "Apple, and river, and stone")
    tokens, mask = tokenizer.tokenize_messages(sample)
    short = ChatTemplateTokenizer(str(tiny_model), max_seq_len=len(tokens) - 3)
    with warnings.catch_warnings(action="error"):
        assert short.tokenize_messages(sample) == (tokens[:-3], mask[:-3])


def test_a_max_seq_len_that_leaves_no_answer_is_warned_of(tiny_model, tokenizer):
    sample = messages(CONVERSATIONS["one turn"], "Apple")
    short = ChatTemplateTokenizer(str(tiny_model), max_seq_len=8)
    with pytest.warns(UserWarning) as warned:
        assert short.tokenize_messages(sample)[1] == [True] * 8
    length = len(tokenizer.tokenize_messages(sample)[0])
    assert str(warned[0].message) == (
        f"max_seq_len 8 cuts off the whole answer of a sample of {length} tokens; "
        "a batch of such samples alone makes the loss NaN: raise max_seq_len"
    )


def test_plain_text_is_encoded_without_the_template(tokenizer):
    tokens = tokenizer.encode("apple")
    assert tokens[0] == tokenizer.bos_id and tokens[-1] == tokenizer.eos_id
    assert tokenizer.encode("apple", add_bos=False, add_eos=False) == tokens[1:-1]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "apple"


def test_packed_samples_hold_the_same_tokens(tiny_model, tmp_path):
    from torchtune.datasets import instruct_dataset

    data = write_tiny_data(tmp_path / "train.jsonl")
    settings = {"source": "json", "data_files": str(data), "cache_dir": str(tmp_path / "cache")}
    tokenizer = ChatTemplateTokenizer(str(tiny_model), max_seq_len=200)
    samples = list(instruct_dataset(tokenizer, **settings))
    packs = list(instruct_dataset(tokenizer, packed=True, **settings))
    packed = [token for pack in packs for token in pack["tokens"][: pack["seq_lens"][:-1].sum()].tolist()]
    assert packed == [token for sample in samples for token in sample["tokens"]]


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    folder = make_tiny_llama(tmp_path / "model", chat_template=None)
    with pytest.raises(ValueError) as error:
        ChatTemplateTokenizer(str(folder))
    assert str(error.value) == (
        f"{folder} has no chat template, neither chat_template.jinja nor one in tokenizer_config.json\n"
        "  take a chat model, add a chat_template.jinja, or use one of torchtune's own tokenizers"
    )


def test_a_template_that_rewrites_an_earlier_turn_is_refused(tmp_path):
    last_alone = CHAT_TEMPLATE.replace("message['content']", "(message['content'] if loop.last else '(cut)')")
    tokenizer = ChatTemplateTokenizer(str(make_tiny_llama(tmp_path / "model", last_alone)))
    with pytest.raises(ValueError) as error:
        tokenizer.tokenize_messages(messages(CONVERSATIONS["one turn"], "Apple"))
    assert str(error.value) == (
        "the chat template rewrites what came before when a message is added:\n"
        "  it wrote 'Capitalize: apple<|im_end|>\\n<|im_start|>', and then "
        "'(cut)<|im_end|>\\n<|im_start|>assistant\\nAp' in its place\n"
        "  train on one answer a sample: split the conversation, a row for each"
    )


def test_a_template_without_an_end_of_turn_gets_one_after_the_last_answer(tmp_path):
    endless = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    endless += "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = ChatTemplateTokenizer(str(make_tiny_llama(tmp_path / "model", endless)))
    assert trained_on(tokenizer, messages([("user", "Capitalize: apple")], "Apple")) == "Apple\n<|im_end|>"
