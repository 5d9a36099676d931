"""A JSON file as `datasets` 5.2 reads it: objects one after another, a list of them, or a list below one field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cruijff_kit.file_text import Reading, text_of
from cruijff_kit.row_shapes import KINDS, Lines, Summary, Tally

BATCH = 10 << 20  # bytes that datasets reads at once; the first batch decides which columns there are
# an escape that is half a pair, or looks like it
HALF_PAIR = re.compile(r"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])")
BLANK = re.compile(r"[ \t\r\n]*")


def read(path: Path, reading: Reading) -> Summary:
    """What the file holds.

    Raises:
        OSError, ValueError: it cannot be read; the text says where.
    """
    tally = Tally()
    if reading.field is not None:
        tally.add((row, None) for row in _field(text_of(path.read_bytes(), reading), reading.field))
        return tally.summary({})
    first_line = 1
    with path.open("rb") as file:
        while batch := file.read(BATCH):
            if first_line == 1 and batch.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
                tally.add((row, None) for row in _listed(text_of(batch + file.read(), reading)))
                return tally.summary()
            batch += file.readline()  # as datasets does
            text = text_of(batch, reading, first_line)
            tally.add(_objects(text, first_line), Lines(text, first_line))
            tally.end_batch()
            first_line += text.count("\n")
    return tally.summary(fills=True)


class _Twice(ValueError):
    """A key that stands twice in one object; pyarrow fails on it."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in found if names.count(name) > 1))
    return found


def _objects(text: str, first_line: int) -> Iterator[tuple[Mapping[str, Any], int]]:
    """JSON objects one after another, each with where it starts: mostly one a line, but no line is needed."""
    decode, skip = json.JSONDecoder(object_pairs_hook=_once).raw_decode, BLANK.match
    halves, end = HALF_PAIR.search(text) is not None, len(text)
    offset = skip(text).end()
    while offset < end:
        try:
            row, after = decode(text, offset)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {first_line + error.lineno - 1}, column {error.colno}: {error.msg}") from None
        except _Twice as error:
            raise ValueError(f"line {_line(text, offset, first_line)}: the key '{error}' stands twice") from None
        except RecursionError:
            raise ValueError(f"line {_line(text, offset, first_line)}: nested too deep") from None
        if type(row) is not dict:
            raise ValueError(f"line {_line(text, offset, first_line)}: {_no_row(row)}")
        if halves and _is_broken(row):
            raise ValueError(f"line {_line(text, offset, first_line)}: half a surrogate pair (\\ud800 to \\udfff) is no text")
        yield row, offset
        offset = skip(text, after).end()


def _line(text: str, offset: int, first_line: int) -> int:
    return first_line + text.count("\n", 0, offset)


def _is_broken(row: Mapping[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _no_row(value: Any) -> str:
    return f"expected a mapping of columns to values, got {KINDS[type(value)]}"


def _whole(text: str) -> Any:
    """One JSON value; what is lax here is lax in datasets' reader of whole files too."""
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _listed(text: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a list of objects, or of a list of texts, which become the column `text`."""
    texts = "{" not in text[:100].split('"', 1)[0]
    return _as_rows(_whole(text), texts)


def _as_rows(values: list[Any], texts: bool) -> Iterator[Mapping[str, Any]]:
    for number, value in enumerate(values, 1):
        if texts:
            yield {"text": value}
        elif value is None:
            yield {}
        elif type(value) is dict:
            yield value
        else:
            raise ValueError(f"row {number}: {_no_row(value)}")


def _field(text: str, field: str) -> Iterator[Mapping[str, Any]]:
    """The rows below one key of a single object."""
    whole = _whole(text)
    if not isinstance(whole, dict):
        raise ValueError(f"expected one object with the field '{field}', got {KINDS[type(whole)]}")
    if field not in whole:
        raise ValueError(f"it has no field '{field}'; it has {', '.join(whole) or 'none'}")
    values = whole[field]
    if isinstance(values, dict) and values and all(isinstance(column, list) for column in values.values()):
        if len({len(column) for column in values.values()}) > 1:
            raise ValueError(f"the columns below '{field}' differ in length")
        return iter([dict(zip(values, row)) for row in zip(*values.values())])
    if not isinstance(values, list):
        raise ValueError(f"expected a list of rows below '{field}', got {KINDS[type(values)]}")
    return _as_rows(values, bool(values) and all(isinstance(value, str) for value in values))
