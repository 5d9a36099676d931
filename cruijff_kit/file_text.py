"""The text of a data file, and how it is to be read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """How a file is read: the arguments of `load_dataset` that matter here."""

    source: str
    field: str | None = None
    encoding: str | None = None
    separator: str = ","
    null_words: bool = True  # whether a CSV's NA, None, null and the like are no text


def text_of(data: bytes, reading: Reading, first_line: int = 1) -> str:
    """`data` as text, without a byte order mark; it starts at line `first_line` of its file.

    Raises:
        ValueError: it is no text in that encoding.
    """
    encoding = reading.encoding or "utf-8"
    try:
        return data.decode(encoding).removeprefix("\ufeff" if first_line == 1 else "")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise ValueError(f"line {line}: byte 0x{data[error.start]:02x} is no {encoding} text") from None
    except LookupError:
        raise ValueError(f"unknown encoding {encoding}") from None
