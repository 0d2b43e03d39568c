"""CSV, TSV, JSON and JSONL, read by our own code within limits, after a look at the first bytes.

Uploads from strangers and local files pass the same code with different limits. Nothing is written, nothing
is unpacked, no format that can hold code is read. Knows nothing of columns' meaning.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medassist.errors import DataError

TEXT_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True)
class Limits:
    """What a file may hold. Sizes in bytes and characters."""

    file_bytes: int
    rows: int
    field_chars: int
    columns: int = 200
    depth: int = 8  # of lists and objects within one row
    values: int = 10_000  # in one row


UPLOAD_LIMITS = Limits(file_bytes=10_000_000, rows=20_000, field_chars=8_000)
LOCAL_LIMITS = Limits(file_bytes=4_000_000_000, rows=20_000_000, field_chars=1_000_000)

# One setting for the whole process; the smaller limits are checked field by field.
csv.field_size_limit(LOCAL_LIMITS.field_chars)

_MAGIC = [
    (b"\x1f\x8b", "gzip archive"), (b"PK\x03\x04", "zip archive or Excel file"),
    (b"PK\x05\x06", "zip archive"), (b"PAR1", "Parquet file"), (b"ARROW1", "Arrow file"),
    (b"BZh", "bzip2 archive"), (b"\xfd7zXZ", "xz archive"), (b"7z\xbc\xaf", "7z archive"),
    (b"\x28\xb5\x2f\xfd", "zstd archive"), (b"Rar!", "rar archive"),
    (b"%PDF", "PDF"), (b"\x7fELF", "program"), (b"MZ", "program"), (b"SQLite format 3", "SQLite database"),
    (b"\x89PNG", "picture"), (b"\xff\xd8\xff", "picture"), (b"GIF8", "picture"), (b"\x89HDF", "HDF5 file"),
    (b"\xd0\xcf\x11\xe0", "old Excel or Word file"), (b"{\\rtf", "RTF file"), (b"\x93NUMPY", "NumPy file"),
    (b"\xff\xfe", "UTF-16 text"), (b"\xfe\xff", "UTF-16 text"),
]
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\([dl]p\d+\r?\n|"
                     rb"c(?:os|posix|nt|builtins|__builtin__|subprocess|copy_?reg)\r?\n\w+\r?\n")
_SAVE_AS = "Save it as CSV or JSONL in UTF-8 and try again."


class _Refused(Exception):
    """Something in one value that we do not take; the text is the reason."""


def read_text_file(path: Path, limits: Limits) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV, JSON or JSONL file.

    Raises:
        DataError: one sentence on what is wrong with the file.
    """
    name, suffix = path.name[-100:], path.suffix.lower()
    if suffix not in TEXT_SUFFIXES:
        raise DataError(f"{name} is not a CSV, TSV, JSON or JSONL file.", _SAVE_AS)
    try:
        size = path.stat().st_size
        if size > limits.file_bytes:
            most = limits.file_bytes / 1e6
            raise DataError(f"{name} has {size / 1e6:.1f} MB; at most {most:.0f} MB are read.",
                            "Split it, or give it as a local path on the command line.")
        with path.open("rb") as file:
            check_first_bytes(file.read(4096), name)
            file.seek(0)
            rows = list(_READERS[suffix](file, name, limits))
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}.", "Check the path.") from None
    if not rows:
        raise DataError(f"{name} holds no rows.", "Check that it is the right file.")
    return rows


def check_first_bytes(head: bytes, name: str) -> None:
    """Refuse what is plainly not text.

    Raises:
        DataError: the file is empty, an archive, a pickle, UTF-16, or holds NUL.
    """
    if not head.strip():
        raise DataError(f"{name} is empty.", "Check that it is the right file.")
    found = next((what for magic, what in _MAGIC if head.startswith(magic)), None)
    if _PICKLE.match(head):
        found = "pickle"
    if found:
        raise DataError(f"{name} is not plain text: its first bytes are those of: {found}.", _SAVE_AS)
    if b"\0" in head:
        raise DataError(f"{name} holds NUL bytes, so it is not plain UTF-8 text.", _SAVE_AS)


def _lines(file: BinaryIO, name: str, limits: Limits) -> Iterator[str]:
    """Lines as text, never longer than a row may be."""
    longest = min(limits.file_bytes, limits.field_chars * 64)
    number = 0
    while raw := file.readline(longest + 1):
        number += 1
        if len(raw) > longest:
            raise DataError(f"Line {number} of {name} is longer than {longest:,} bytes.",
                            "Write one row a line, or check for a missing quotation mark.")
        if b"\0" in raw:
            raise DataError(f"Line {number} of {name} holds a NUL byte, so it is not plain text.", _SAVE_AS)
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"Line {number} of {name} is not UTF-8 text.", _SAVE_AS) from None


def _read_csv(file: BinaryIO, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    lines = _lines(file, name, limits)
    header_line = next(lines, "")
    delimiter = "\t" if name.lower().endswith(".tsv") else max(",;\t|", key=header_line.count)
    reader = csv.reader(_chain(header_line, lines), delimiter=delimiter)
    try:
        header = _header(next(reader, []), name, limits)
        for count, cells in enumerate(reader, 1):
            if not any(c.strip() for c in cells):
                continue
            _check_row_count(count, name, limits)
            if len(cells) > len(header) and any(c.strip() for c in cells[len(header):]):
                raise DataError(f"Row {count} of {name} has {len(cells)} fields, its header {len(header)}.",
                                "Check for a missing quotation mark or an unquoted separator.")
            row = dict(zip(header, cells, strict=False))  # a short row has no cell in the last columns
            for column, text in row.items():
                if len(text) > limits.field_chars:
                    raise _too_long(count, column, len(text), name, limits)
            yield row
    except csv.Error:
        raise DataError(f"{name} is not well-formed CSV near line {reader.line_num}, or a field there has "
                        f"more than {limits.field_chars:,} characters.",
                        "Check for a missing quotation mark.") from None


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _header(cells: list[str], name: str, limits: Limits) -> list[str]:
    header = [c.strip()[:200] or f"column_{i + 1}" for i, c in enumerate(cells)]
    if len(header) > limits.columns:
        raise DataError(f"{name} has {len(header)} columns; at most {limits.columns} are read.",
                        "Keep the columns with the question and the answer.")
    twice = next((c for i, c in enumerate(header) if c in header[:i]), None)
    if twice is not None:
        raise DataError(f"{name} has two columns named '{twice:.60}'.", "Rename one of them.")
    return header


def _read_jsonl(file: BinaryIO, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    count = 0
    for number, line in enumerate(_lines(file, name, limits), 1):
        if not line.strip():
            continue
        count += 1
        _check_row_count(count, name, limits)
        yield _checked(_parse(line, f"Line {number} of {name}"), count, name, limits)


def _read_json(file: BinaryIO, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    """A list of rows, read element by element; or an object that holds one (or several, as named splits)."""
    raw = file.read(limits.file_bytes + 1)
    if b"\0" in raw:
        raise DataError(f"{name} holds NUL bytes, so it is not plain UTF-8 text.", _SAVE_AS)
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8 text.", _SAVE_AS) from None
    if text.startswith("["):
        for count, row in enumerate(_elements(text, name), 1):
            _check_row_count(count, name, limits)
            yield _checked(row, count, name, limits)
        return
    if text.count("\n{") and _is_one_object(text.split("\n", 1)[0]):  # JSON lines under the name .json
        file.seek(0)
        yield from _read_jsonl(file, name, limits)
        return
    yield from _rows_of_object(_parse(text, name), name, limits)


def _is_one_object(line: str) -> bool:
    try:
        return isinstance(_DECODER.decode(line), dict)
    except (ValueError, RecursionError, _Refused):
        return False


def _rows_of_object(value: Any, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    lists = {k: v for k, v in value.items() if isinstance(v, list)} if isinstance(value, dict) else {}
    of_rows = {k: v for k, v in lists.items() if v and all(isinstance(r, dict) for r in v)}
    count = 0
    if of_rows:
        for key, rows in of_rows.items():
            for row in rows:
                count += 1
                _check_row_count(count, name, limits)
                row = _checked(row, count, name, limits)
                yield row if len(of_rows) == 1 else {"split": key, **row}
        return
    if lists and len(lists) == len(value) and len({len(v) for v in lists.values()}) == 1:
        for cells in zip(*lists.values(), strict=True):  # {"question": […], "answer": […]}
            count += 1
            _check_row_count(count, name, limits)
            yield _checked(dict(zip(lists, cells, strict=True)), count, name, limits)
        return
    if isinstance(value, dict) and value and not lists:
        yield _checked(value, 1, name, limits)
        return
    raise DataError(f"{name} holds no list of rows.",
                    "Write a list of objects, or one object a line (JSONL).")


def _elements(text: str, name: str) -> Iterator[Any]:
    at, end = _skip_space(text, 1), len(text)
    if at < end and text[at] == "]":
        return
    while True:
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError, _Refused) as error:
            raise DataError(_why_not_json(error, f"{name} (near character {at:,})"),
                            "Check it with a JSON tool.") from None
        yield value
        at = _skip_space(text, at)
        if text[at:at + 1] == ",":
            at = _skip_space(text, at + 1)
            continue
        if text[at:at + 1] == "]" and not text[at + 1:].strip():
            return
        raise DataError(f"{name} is not valid JSON near character {at:,}.", "Check it with a JSON tool.")


_SPACE = re.compile(r"\s*")


def _skip_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _number(kind: type) -> Any:
    def parse(digits: str) -> Any:
        if len(digits) > 40:
            raise _Refused(f"holds a number of {len(digits):,} digits")
        return kind(digits)
    return parse


_DECODER = json.JSONDecoder(parse_int=_number(int), parse_float=_number(float), parse_constant=lambda _: None)


def _parse(text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError, _Refused) as error:
        raise DataError(_why_not_json(error, where), "Check it with a JSON tool.") from None


def _why_not_json(error: Exception, where: str) -> str:
    if isinstance(error, RecursionError):
        return f"{where} is nested too deeply to be a row."
    if isinstance(error, _Refused):
        return f"{where} {error}."
    return f"{where} is not valid JSON."


def _checked(row: Any, count: int, name: str, limits: Limits) -> dict[str, Any]:
    """The row, if it is an object within the limits."""
    if not isinstance(row, dict):
        raise DataError(f"Row {count} of {name} is not an object with named fields.",
                        'Write rows such as {"question": "…", "answer": "…"}.')
    if len(row) > limits.columns:
        raise DataError(f"Row {count} of {name} has {len(row):,} fields; at most {limits.columns} are read.",
                        "Keep the fields with the question and the answer.")
    seen = 0
    stack: list[tuple[Any, int, str]] = [(v, 1, str(k)) for k, v in row.items()]
    while stack:
        value, depth, column = stack.pop()
        seen += 1
        if depth > limits.depth or seen > limits.values:
            raise DataError(f"Row {count} of {name} is nested too deeply or has too many values.",
                            "Keep the fields with the question and the answer.")
        if isinstance(value, str) and len(value) > limits.field_chars:
            raise _too_long(count, column, len(value), name, limits)
        if isinstance(value, dict):
            stack.extend((v, depth + 1, column) for v in value.values())
        elif isinstance(value, list):
            stack.extend((v, depth + 1, column) for v in value)
    return row


def _check_row_count(count: int, name: str, limits: Limits) -> None:
    if count > limits.rows:
        raise DataError(f"{name} has more than {limits.rows:,} rows.",
                        "Split it, or give it as a local path on the command line.")


def _too_long(count: int, column: str, chars: int, name: str, limits: Limits) -> DataError:
    return DataError(f"Row {count} of {name} has {chars:,} characters in '{column:.60}'; "
                     f"at most {limits.field_chars:,} are read.",
                     "Shorten it, or check for a missing quotation mark.")


_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl}
