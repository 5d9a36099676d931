import time

import pytest

from cruijff_kit.errors import ExperimentError
from cruijff_kit.yaml_source import MAX_BYTES, format_key, parse_yaml, read_yaml


def parse(text: str):
    source = parse_yaml(text, "experiment.yaml")
    if source.problems:
        raise ExperimentError(source.problems)
    return source


def fault(text: str) -> str:
    with pytest.raises(ExperimentError) as error:
        parse(text)
    return str(error.value)


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("2.", 2.0),
        (".5", 0.5),
        ("1.e-8", 1e-8),
        ("-0.10", -0.1),
        ("16.0", 16.0),
        ("16", 16),
        ("+1", 1),
        ("1_000", 1000),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("[]", []),
        ("{}", {}),
        ("[1, {b: [x]}]", [1, {"b": ["x"]}]),
    ],
)
def test_a_value_is_what_yaml_1_2_says(text, value):
    read = parse(f"a: {text}\n").data["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "y", "1:30", "12:30:45", "e5", "1e", "0x", "1.2.3", "3e-4 x"])
def test_what_only_yaml_1_1_takes_for_something_else_is_text(text):
    assert parse(f"a: {text}\n").data == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'1e-5'", "1e-5"),
        ('"true"', "true"),
        ('"\\u00e9\\n"', "é\n"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        (">\n  two\n  lines\n", "two lines\n"),
        ("${mul:2,${lora_rank}}", "${mul:2,${lora_rank}}"),
    ],
)
def test_quoted_and_block_text_is_plain_text(text, value):
    read = parse(f"a: {text}\n").data["a"]
    assert read == value
    assert type(read) is str


def test_a_date_is_text_in_iso_form():
    assert parse("a: 2025-10-22\n").data == {"a": "2025-10-22"}
    assert type(parse("a: 2025-10-22 10:30:00\n").data["a"]) is str


def test_an_alias_has_the_value_of_its_anchor():
    text = "a: &a true\nb: *a\nc: &c 1e-5\nd: *c\ne: &e {x: [1]}\nf: *e\n"
    data = parse(text).data
    assert data == {"a": True, "b": True, "c": 1e-5, "d": 1e-5, "e": {"x": [1]}, "f": {"x": [1]}}
    assert [type(value) for value in data.values()] == [bool, bool, float, float, dict, dict]
    assert data["e"] is not data["f"]


def test_a_merge_key_brings_the_keys_that_are_not_there():
    assert parse("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n").data["b"] == {"x": 1, "y": 3}


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_values():
    source = parse("\ufeffa: 1\r\nb: x\r\n")
    assert source.data == {"a": 1, "b": "x"}
    assert source.line(("b",)) == 2


def test_values_are_plain_objects_all_the_way_down():
    def types(node):
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return {type(node)}.union(*map(types, children))

    text = "a: &a 0x1F\nb: 1_0\nc: 'q'\nd: |\n  x\ne: 1.50\nf: [*a, {g: true, h: 2025-01-01, i: null}]\n"
    assert types(parse(text).data) == {dict, list, int, float, str, bool, type(None)}


# Lines


def test_each_key_and_list_entry_has_its_line():
    source = parse(
        "# comment\n"
        "variables:\n"
        "  adapter:\n"
        "    - {lora_rank: 8,\n"
        "       lora_alpha: 16}\n"
        "    - lora_rank: 16\n"
        "\n"
        "      lora_alpha: 32\n"
        "  seed: [1,\n"
        "         2]\n"
    )
    assert dict(source.lines) == {
        ("variables",): 2,
        ("variables", "adapter"): 3,
        ("variables", "adapter", 0): 4,
        ("variables", "adapter", 0, "lora_rank"): 4,
        ("variables", "adapter", 0, "lora_alpha"): 5,
        ("variables", "adapter", 1): 6,
        ("variables", "adapter", 1, "lora_rank"): 6,
        ("variables", "adapter", 1, "lora_alpha"): 8,
        ("variables", "seed"): 9,
        ("variables", "seed", 0): 9,
        ("variables", "seed", 1): 10,
    }


def test_a_key_that_is_not_there_has_the_line_of_its_nearest_parent():
    source = parse("a:\n  b: 1\n")
    assert source.line(("a", "c", "d")) == 1
    assert source.line(("x",)) is None
    assert source.line(()) is None


def test_merge_keys_stand_in_lists_and_within_one_another_and_the_nearest_wins():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2, z: 2}\nc:\n  z: 3\n  <<: [*a, *b]\n"
    assert parse(text).data["c"] == {"x": 1, "y": 1, "z": 3}
    assert fault("a:\n  <<: 1\n") == "experiment.yaml:2  a.<<\n  a merge key takes a mapping, or a list of them"


def test_merges_of_merges_that_make_a_huge_value_are_refused():
    lines = ["a: &a {x: 1}"]
    lines += [f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}" for old, new in zip("abcdefgh", "bcdefghi")]
    assert fault("\n".join(lines)).endswith("\n  too many or too deeply nested values")


def test_a_merged_key_has_the_line_of_the_mapping_that_it_is_merged_into():
    assert parse("a: &a {x: 1}\nb:\n  <<: *a\n").line(("b", "x")) == 2


def test_a_problem_stands_at_the_line_of_its_key():
    source = parse("a:\n  - b: 1\n")
    assert str(source.problem(("a", 0, "b"), "too small", "try 2")) == "experiment.yaml:2  a[0].b\n  too small\n  try 2"
    assert str(source.problem(("c",), "odd", level="warning")) == "experiment.yaml  c\n  warning: odd"


def test_a_key_path_is_written_as_one_would_say_it():
    assert format_key(("variables", "adapter", 1, "lora_rank")) == "variables.adapter[1].lora_rank"
    assert format_key(()) == ""


# Faults


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "a: 1\nb:\n  c: 1\n  c: 2\n": (
            "experiment.yaml:4  b.c\n  the key 'c' is there twice, the first time in line 3"
        ),
        "a: [1\nb: 2\n": "experiment.yaml:2\n  invalid YAML: did not find expected ',' or ']' (column 2)",
        "a: 1\n b: 2\n": "experiment.yaml:2\n  invalid YAML: mapping values are not allowed in this context (column 3)",
        "a:\n\tb: 1\n": "experiment.yaml:2\n  invalid YAML: found character that cannot start any token (column 1)",
        "a: 'x\n": "experiment.yaml:2\n  invalid YAML: found unexpected end of stream (column 1)",
        "a: *b\n": "experiment.yaml:1\n  invalid YAML: found undefined alias 'b' (column 4)",
        "a: 1\n---\nb: 1\n": "experiment.yaml:2\n  invalid YAML: but found another document (column 1)",
        "- 1\n": "experiment.yaml:1\n  expected a mapping of keys to values",
        "text\n": "experiment.yaml:1\n  expected a mapping of keys to values",
        "": "experiment.yaml:1\n  expected a mapping of keys to values",
        "# nothing\n": "experiment.yaml:1\n  expected a mapping of keys to values",
        "1: a\n": "experiment.yaml:1  1\n  the key 1 is no text\n  write it in quotes: '1'",
        "a:\n  true: b\n": "experiment.yaml:2  a.true\n  the key true is no text\n  write it in quotes: 'true'",
        "~: b\n": "experiment.yaml:1  ~\n  the key ~ is no text\n  write it in quotes: '~'",
        "a: .inf\n": "experiment.yaml:1  a\n  inf is no finite number",
        "a: [1, -.INF]\n": "experiment.yaml:1  a[1]\n  -inf is no finite number",
        "a: .nan\n": "experiment.yaml:1  a\n  nan is no finite number",
        "a: 1e999\n": "experiment.yaml:1  a\n  inf is no finite number",
        "a: !!set {x, y}\n": "experiment.yaml:1  a\n  the YAML tag !!set is not supported",
        "a: !!binary aGk=\n": "experiment.yaml:1  a\n  the YAML tag !!binary is not supported",
    }.items(),
)
def test_a_fault_is_said_with_its_place(text, expected):
    assert fault(text) == expected


def test_all_faults_of_a_file_are_said_together():
    assert fault("a: .inf\nb:\n  1: x\nc: !!python/name:os.system x\n") == (
        "experiment.yaml:1  a\n  inf is no finite number\n"
        "experiment.yaml:3  b.1\n  the key 1 is no text\n  write it in quotes: '1'\n"
        "experiment.yaml:4  c\n  the YAML tag !!python/name:os.system is not supported"
    )


@pytest.mark.parametrize(
    "text",
    [
        "!!python/name:os.system x",
        "!!python/object/apply:os.system ['touch x']",
        "!!python/object:os.system {x: 1}",
        "!ours {x: 1}",
        "!ours [1]",
        "!!str 1",
        "!!merge x",
    ],
)
def test_a_tag_is_refused_whatever_it_stands_at(text):
    assert fault(f"a: {text}\n") == f"experiment.yaml:1  a\n  the YAML tag {text.split()[0]} is not supported"


@pytest.mark.parametrize(
    "text",
    ["&a\nb: *a\n", "a: &a [1, *a]\n", "a: &a {b: *a}\n", "a: &a\n  - b:\n    - *a\n", "a: &a\n  <<: *a\n"],
)
def test_an_alias_that_contains_itself_is_refused_and_not_read_as_null(text):
    said = fault(text)
    assert said.startswith("experiment.yaml:")
    assert "an alias that contains itself" in said


def test_values_nested_too_deeply_are_refused():
    said = "experiment.yaml:2\n  too many or too deeply nested values"
    assert fault(f"a:\n {'[' * 60}{']' * 60}\n") == said
    assert fault(f"a:\n {'[' * 900_000}\n") == said
    assert fault(f"a:\n {'- ' * 450_000}\n") == said
    assert parse(f"a: {'[' * 49}{']' * 49}\n").data


def test_aliases_of_aliases_that_make_a_huge_value_are_refused():
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi")]
    assert fault("\n".join(lines)).endswith("\n  too many or too deeply nested values")


def test_a_number_of_thousands_of_digits_is_refused():
    said = "experiment.yaml:1  a\n  a whole number of more than 64 bits"
    for digits in ("9" * 5000, "-" + "9" * 900_000, "0x" + "f" * 17, str(2**64)):
        assert fault(f"a: {digits}\n") == said
    assert parse(f"a: {2**64 - 1}\n").data == {"a": 2**64 - 1}


def test_a_file_cannot_ask_for_the_yaml_1_1_that_would_read_yes_as_true():
    try:
        assert parse("%YAML 1.1\n---\na: yes\n").data == {"a": "yes"}
    except ExperimentError as error:
        assert str(error).startswith("experiment.yaml:1\n")


@pytest.mark.parametrize(
    ("before", "line"), [("", 1), ("\ufeff", 1), ("# a comment\n", 2), ("\n\n", 3), ("\ufeff# 5 %\n", 2)], ids=ascii
)
@pytest.mark.parametrize("directive", ["%YAML 1.1", "%YAML 1.2", "%TAG !e! tag:example.org,2000:"])
def test_a_directive_is_refused_with_its_own_line_wherever_it_stands(before, line, directive):
    said = f"experiment.yaml:{line}\n  a YAML directive is not supported: this is YAML 1.2\n  remove the line"
    assert fault(f"{before}{directive}\n# then\n---\na: yes\n") == said


def test_what_would_keep_a_slow_parser_busy_is_read_or_refused_at_once():
    dense = ["[" + "1," * 450_000 + "1]", "\n" + "- &a 1\n" * 60_000, "b:" * 450_000, "1_" * 450_000, "\n" * 900_000, "? " * 450_000]
    texts = [*dense, "'" + "x " * 450_000 + "'", "|\n" + "  xy\n" * 180_000, "[" + "{a: [" * 100_000, "[" + "{x: 1, y: 2}," * 70_000 + "]"]
    start = time.monotonic()
    for text in texts:
        try:
            parse(f"a: {text}")
        except ExperimentError:
            continue
    assert time.monotonic() - start < 20
    pairs = parse("a:\n" + "- {lora_rank: 8, lora_alpha: 16}\n" * 4000)
    assert len(pairs.data["a"]) == 4000


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "a:\n" + "".join(f"  k{number}: 1\n" for number in range(1001)): "experiment.yaml:1  a\n  a mapping of more than 1,000 keys",
        f"a: {'x' * 100_001}\n": "experiment.yaml:1  a\n  more than 100,000 characters",
        "a:\n" + f"- ${{{'x' * 5000}}}\n" * 4: "experiment.yaml:5  a[3]\n  too many or too long interpolations",
    }.items(),
    ids=["keys", "text", "interpolations"],
)
def test_what_nobody_writes_is_refused(text, expected):
    assert fault(text) == expected


def test_a_percent_sign_is_no_directive():
    assert parse("a: |\n  %YAML 1.1\nb: 5 %\n").data == {"a": "%YAML 1.1\n", "b": "5 %"}


# Files


def test_a_file_that_is_not_there_is_named_with_its_folder(tmp_path):
    with pytest.raises(ExperimentError) as error:
        read_yaml(tmp_path / "experiment.yaml")
    assert str(error.value) == (
        f"experiment.yaml\n  no such file\n  write one there, or name the folder that holds it: {tmp_path}"
    )


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "experiment.yaml").write_text("a: 1\n" + "#" * MAX_BYTES)
    with pytest.raises(ExperimentError) as error:
        read_yaml(tmp_path / "experiment.yaml")
    assert str(error.value) == "experiment.yaml\n  1,000,005 bytes: an experiment has at most 1,000,000"


def test_a_file_that_is_no_utf_8_or_no_file_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ExperimentError) as error:
        read_yaml(tmp_path / "latin.yaml")
    assert str(error.value) == (
        "latin.yaml\n  cannot be read: 'utf-8' codec can't decode byte 0xe9 in position 3: invalid continuation byte"
    )
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ExperimentError) as error:
        read_yaml(tmp_path / "folder.yaml")
    assert str(error.value) == f"folder.yaml\n  cannot be read: [Errno 21] Is a directory: '{tmp_path}/folder.yaml'"


def test_a_file_is_read_with_its_name_and_lines(tmp_path):
    (tmp_path / "experiment.yaml").write_text("# é\na: é\n", encoding="utf-8")
    source = read_yaml(tmp_path / "experiment.yaml")
    assert (source.file, source.data, dict(source.lines)) == ("experiment.yaml", {"a": "é"}, {("a",): 2})
