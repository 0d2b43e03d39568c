"""CSV, TSV, JSON and JSONL, streamed row by row by our own code within limits, after a look at the first bytes.

Uploads from strangers and local files pass the same code with different limits. Nothing is written, nothing
is unpacked, no format that can hold code is read, and no more than one row is held in memory. Knows nothing of
columns' meaning.

    python -c "from pathlib import Path; from medassist.data.textfiles import LOCAL_LIMITS, stream_text_file
    print(next(stream_text_file(Path('flashcards.csv'), LOCAL_LIMITS)))"
"""

from __future__ import annotations

import codecs
import csv
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medassist.catalog import plain
from medassist.errors import DataError

TEXT_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True)
class Limits:
    """What a file may hold. Sizes in bytes and characters."""

    file_bytes: int
    rows: int
    field_chars: int
    row_bytes: int  # of one row as it stands in the file
    lines: int  # of text, blank ones and those within a field too
    json_bytes: int  # of a JSON file that is one object: only a list is read element by element
    columns: int = 200
    depth: int = 8  # of lists and objects within one row
    values: int = 10_000  # in one row


UPLOAD_LIMITS = Limits(10_000_000, 20_000, 8_000, row_bytes=512_000, lines=1_000_000, json_bytes=10_000_000)
LOCAL_LIMITS = Limits(20_000_000_000, 50_000_000, 1_000_000, row_bytes=8_000_000, lines=1_000_000_000,
                      json_bytes=100_000_000)

# One setting for the whole process; the smaller limits are checked field by field.
csv.field_size_limit(LOCAL_LIMITS.field_chars)

_MAGIC = [
    (b"\x1f\x8b", "gzip archive"), (b"PK\x03\x04", "zip archive or Excel file"),
    (b"PK\x05\x06", "zip archive"), (b"PAR1", "Parquet file"), (b"ARROW1", "Arrow file"),
    (b"BZh", "bzip2 archive"), (b"\xfd7zXZ", "xz archive"), (b"7z\xbc\xaf", "7z archive"),
    (b"\x28\xb5\x2f\xfd", "zstd archive"), (b"Rar!", "rar archive"),
    (b"%PDF", "PDF"), (b"\x7fELF", "program"), (b"SQLite format 3", "SQLite database"),
    (b"\x89PNG", "picture"), (b"\xff\xd8\xff", "picture"), (b"GIF8", "picture"), (b"\x89HDF", "HDF5 file"),
    (b"\xd0\xcf\x11\xe0", "old Excel or Word file"), (b"{\\rtf", "RTF file"), (b"\x93NUMPY", "NumPy file"),
    (b"\xff\xfe", "UTF-16 text"), (b"\xfe\xff", "UTF-16 text"),
]
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\([dl]p\d+\r?\n|"
                     rb"c(?:os|posix|nt|builtins|__builtin__|subprocess|copy_?reg)\r?\n\w+\r?\n")
_SAVE_AS = "Save it as CSV or JSONL in UTF-8 and try again."
_CHECK_JSON = "Check it with a JSON tool."
_WINDOW_CHARS = 1 << 18  # of a JSON list that are decoded at a time


class _Refused(Exception):
    """Something in one value that we do not take; the text is the reason."""


def file_name(path: Path) -> str:
    """A file's name for a sentence: its end, with nothing in it that moves the cursor."""
    return plain(path.name[-100:], 100)


def open_regular(path: Path, limits: Limits) -> BinaryIO:
    """Open a file for reading; a pipe or a device, which may never end, is refused without waiting for it.

    Raises:
        DataError: it is no regular file, too large, or cannot be read.
    """
    name = file_name(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _not_regular(name)
        # Between the look and the opening it may have become a pipe: never wait for its writer.
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name} cannot be read: {reason}.", "Check the path.") from None
    info = os.fstat(file.fileno())
    if stat.S_ISREG(info.st_mode) and info.st_size <= limits.file_bytes:
        return file
    file.close()
    if not stat.S_ISREG(info.st_mode):
        raise _not_regular(name)
    raise DataError(f"{name} has {info.st_size / 1e6:,.1f} MB; at most {limits.file_bytes / 1e6:,.0f} MB are read.",
                    "Split it, or give it as a local path on the command line.")


def _not_regular(name: str) -> DataError:
    return DataError(f"{name} is not a regular file.", "Give a file that holds the rows, not a pipe or a device.")


def read_text_file(path: Path, limits: Limits) -> list[dict[str, Any]]:
    """All rows of a CSV, TSV, JSON or JSONL file.

    Raises:
        DataError: one sentence on what is wrong with the file.
    """
    rows = list(stream_text_file(path, limits))
    if not rows:
        raise DataError(f"{file_name(path)} holds no rows.", "Check that it is the right file.")
    return rows


def stream_text_file(path: Path, limits: Limits) -> Iterator[dict[str, Any]]:
    """The rows of a CSV, TSV, JSON or JSONL file, one at a time; the file is closed with the stream.

    Raises:
        DataError: one sentence on what is wrong with the file.
    """
    name, suffix = file_name(path), path.suffix.lower()
    if suffix not in TEXT_SUFFIXES:
        raise DataError(f"{name} is not a CSV, TSV, JSON or JSONL file.", _SAVE_AS)
    with open_regular(path, limits) as file:
        try:
            check_first_bytes(file.read(4096), name)
            file.seek(0)
            yield from _READERS[suffix](file, name, limits)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}.", "Check the path.") from None


def check_first_bytes(head: bytes, name: str) -> None:
    """Refuse what is plainly not text.

    Raises:
        DataError: the file is empty, an archive, a pickle, UTF-16, or holds NUL.
    """
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{name} is empty.", "Check that it is the right file.")
    found = next((what for magic, what in _MAGIC if head.startswith(magic)), None)
    if _PICKLE.match(head):
        found = "pickle"
    if found:
        raise DataError(f"{name} is not plain text: its first bytes are those of: {found}.", _SAVE_AS)
    if b"\0" in head:
        raise DataError(f"{name} holds NUL bytes, so it is not plain UTF-8 text.", _SAVE_AS)


class _Lines:
    """Lines as text, ended by LF, CRLF or a lone CR (which old tools write, alone or among the others).

    `row_bytes` grows until the reader sets it back, so that no row grows without end.
    """

    def __init__(self, file: BinaryIO, name: str, limits: Limits) -> None:
        self._file, self._name, self._limits = file, name, limits
        self.row_bytes = 0
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        longest, readline = self._limits.row_bytes, self._file.readline
        if self._file.read(3) != codecs.BOM_UTF8:
            self._file.seek(0)
        while raw := readline(longest + 1):
            self.number += 1
            self.row_bytes += len(raw)
            if self.row_bytes > longest or self.number > self._limits.lines or b"\0" in raw:
                raise self._refused(raw)
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                raise DataError(f"Line {self.number} of {self._name} is not UTF-8 text.", _SAVE_AS) from None
            if b"\r" in raw and text.find("\r") < len(text.rstrip("\r\n")):
                yield from _LINE.findall(text)
            else:
                yield text

    def _refused(self, raw: bytes) -> DataError:
        if b"\0" in raw:
            return DataError(f"Line {self.number} of {self._name} holds a NUL byte, so it is not plain text.", _SAVE_AS)
        if self.number > self._limits.lines:
            return DataError(f"{self._name} has more than {self._limits.lines:,} lines.",
                             "Take out blank lines, or give it as a local path on the command line.")
        most = self._limits.row_bytes
        return DataError(f"The row at line {self.number} of {self._name} is longer than {most:,} bytes.",
                         "Write one row a line, or check for a missing quotation mark.")


_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def _read_csv(file: BinaryIO, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    source = _Lines(file, name, limits)
    lines = iter(source)
    header_line = next(lines, "")
    delimiter = "\t" if name.lower().endswith(".tsv") else max(",;\t|", key=header_line.count)
    reader = csv.reader(_chain(header_line, lines), delimiter=delimiter)
    count = 0
    try:
        header = check_header(next(reader, []), name, limits)
        for cells in reader:
            source.row_bytes = 0
            if not any(c and not c.isspace() for c in cells):
                continue
            count += 1
            check_row_count(count, name, limits)
            yield _csv_row(header, cells, count, name, limits)
    except csv.Error:
        raise DataError(f"{name} is not well-formed CSV near line {reader.line_num}, or a field there has "
                        f"more than {limits.field_chars:,} characters.",
                        "Check for a missing quotation mark.") from None


def _csv_row(header: list[str], cells: list[str], count: int, name: str, limits: Limits) -> dict[str, Any]:
    if len(cells) > len(header) and any(c.strip() for c in cells[len(header):]):
        raise DataError(f"Row {count} of {name} has {len(cells):,} fields, its header {len(header)}.",
                        "Check for a missing quotation mark or an unquoted separator.")
    row = dict(zip(header, cells, strict=False))  # a short row has no cell in the last columns
    for column, text in row.items():
        if len(text) > limits.field_chars:
            raise _too_long(count, column, len(text), name, limits)
    return row


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def check_header(cells: list[str], name: str, limits: Limits) -> list[str]:
    """Column names: stripped, numbered where empty.

    Raises:
        DataError: too many, or two of one name.
    """
    header = [c.strip()[:200] or f"column_{i + 1}" for i, c in enumerate(cells)]
    if len(header) > limits.columns:
        raise DataError(f"{name} has {len(header):,} columns; at most {limits.columns} are read.",
                        "Keep the columns with the question and the answer.")
    twice = next((c for i, c in enumerate(header) if c in header[:i]), None)
    if twice is not None:
        raise DataError(f"{name} has two columns named '{plain(twice, 60)}'.", "Rename one of them.")
    return header


def _read_jsonl(file: BinaryIO, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    count = 0
    lines = _Lines(file, name, limits)
    for line in lines:
        lines.row_bytes = 0
        if line.isspace():
            continue
        count += 1
        check_row_count(count, name, limits)
        row = check_row(_parse(line, f"Line {lines.number} of {name}"), count, name, limits)
        yield _mended(row) if "\\u" in line else row


def _read_json(file: BinaryIO, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    """A list of rows, read element by element; or an object that holds one (or several, as named splits)."""
    start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    file.seek(0)
    if start == b"[":
        yield from _elements(file, name, limits)
    elif start == b"{" and _is_lines(file, limits):
        yield from _read_jsonl(file, name, limits)
    else:
        text = _whole(file, name, limits)
        rows = _rows_of_object(_parse(text, name), name, limits)
        yield from map(_mended, rows) if "\\u" in text else rows


def _is_lines(file: BinaryIO, limits: Limits) -> bool:
    """Whether a file named .json holds one object a line; it is left at its start."""
    first = file.readline(limits.row_bytes)
    follows = next((line for _ in range(100) if (line := file.readline(4096)).strip()), b"")
    file.seek(0)
    try:
        return follows.lstrip().startswith(b"{") and isinstance(_DECODER.decode(first.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError, _Refused):
        return False


def _whole(file: BinaryIO, name: str, limits: Limits) -> str:
    raw = file.read(limits.json_bytes + 1)
    if len(raw) > limits.json_bytes:
        raise DataError(f"{name} is one JSON value of more than {limits.json_bytes / 1e6:,.0f} MB.",
                        "Write a list of rows, or one object a line (JSONL): those are read row by row.")
    if b"\0" in raw:
        raise DataError(f"{name} holds NUL bytes, so it is not plain UTF-8 text.", _SAVE_AS)
    try:
        return raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8 text.", _SAVE_AS) from None


def _elements(file: BinaryIO, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    """The rows of a JSON list."""
    window = _Window(file, name, limits.row_bytes)
    window.take("[")
    if window.peek() == "]":
        window.take("]")
        window.check_end()
        return
    for count in range(1, limits.rows + 2):
        check_row_count(count, name, limits)
        value, text = window.decode()
        row = check_row(value, count, name, limits)
        yield _mended(row) if "\\u" in text else row
        if window.peek() != ",":
            break
        window.take(",")
    window.take("]")
    window.check_end()


class _Window:
    """A stretch of a JSON file that moves on as its elements are decoded."""

    def __init__(self, file: BinaryIO, name: str, longest: int) -> None:
        self._file, self._name, self._longest = file, name, longest
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._before, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at:self._at + 1]
            self._more()

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise DataError(f"{self._name} is not valid JSON near character {self._before + self._at:,}.", _CHECK_JSON)
        self._at += 1

    def check_end(self) -> None:
        if self.peek():
            raise DataError(f"{self._name} is not valid JSON near character {self._before + self._at:,}.", _CHECK_JSON)

    def decode(self) -> tuple[Any, str]:
        """The next value and its text; reads on while the value is cut by the window's end."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                text, self._at = self._text[self._at:end], end
                return value, text
            except (RecursionError, _Refused) as error:
                raise self._not_json(error) from None
            except ValueError as error:
                if self._ended:
                    raise self._not_json(error) from None
                if len(self._text) - self._at > self._longest:
                    raise DataError(f"{self._where()} is not valid JSON, or has a row of more than "
                                    f"{self._longest:,} characters there.", _CHECK_JSON) from None
            self._more()

    def _not_json(self, error: Exception) -> DataError:
        return DataError(_why_not_json(error, self._where()), _CHECK_JSON)

    def _where(self) -> str:
        return f"{self._name} (near character {self._before + self._at:,})"

    def _more(self) -> None:
        """At least doubles what is not yet decoded, so that a long value is tried only a few times."""
        kept = self._text[self._at:]
        raw = self._file.read(max(_WINDOW_CHARS, len(kept)))
        if b"\0" in raw:
            raise DataError(f"{self._name} holds NUL bytes, so it is not plain UTF-8 text.", _SAVE_AS)
        try:
            fresh = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError:
            raise DataError(f"{self._name} is not UTF-8 text.", _SAVE_AS) from None
        self._before += self._at
        self._text, self._at, self._ended = kept + fresh, 0, not raw


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _mended(value: Any) -> Any:
    """Half of a surrogate pair, which only an escape can bring in, is no text: a replacement mark in its place."""
    if isinstance(value, str):
        return value if value.isascii() else _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_mended(k): _mended(v) for k, v in value.items()}
    return [_mended(v) for v in value] if isinstance(value, list) else value


def _rows_of_object(value: Any, name: str, limits: Limits) -> Iterator[dict[str, Any]]:
    lists = {k: v for k, v in value.items() if isinstance(v, list)} if isinstance(value, dict) else {}
    of_rows = {k: v for k, v in lists.items() if v and all(isinstance(r, dict) for r in v)}
    count = 0
    if of_rows:
        for key, rows in of_rows.items():
            for row in rows:
                count += 1
                check_row_count(count, name, limits)
                row = check_row(row, count, name, limits)
                yield row if len(of_rows) == 1 else {"split": key, **row}
        return
    if lists and len(lists) == len(value) and len({len(v) for v in lists.values()}) == 1:
        for cells in zip(*lists.values(), strict=True):  # {"question": […], "answer": […]}
            count += 1
            check_row_count(count, name, limits)
            yield check_row(dict(zip(lists, cells, strict=True)), count, name, limits)
        return
    if isinstance(value, dict) and value and not lists:
        yield check_row(value, 1, name, limits)
        return
    raise DataError(f"{name} holds no list of rows.",
                    "Write a list of objects, or one object a line (JSONL).")


_SPACE = re.compile(r"\s*")


def _number(kind: type) -> Any:
    def parse(digits: str) -> Any:
        if len(digits) > 40:
            raise _Refused("holds a number of more than 40 digits")
        value = kind(digits)
        return value if math.isfinite(value) else None
    return parse


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; one that names a field twice is refused, since either value could be the one meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise _Refused(f"names the field '{plain(next(n for n in names if names.count(n) > 1), 60)}' twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number(int), parse_float=_number(float),
                            parse_constant=lambda _: None)


def _parse(text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError, _Refused) as error:
        raise DataError(_why_not_json(error, where), _CHECK_JSON) from None


def _why_not_json(error: Exception, where: str) -> str:
    if isinstance(error, RecursionError):
        return f"{where} is nested too deeply to be a row."
    if isinstance(error, _Refused):
        return f"{where} {error}."
    return f"{where} is not valid JSON."


def check_row(row: Any, count: int, name: str, limits: Limits) -> dict[str, Any]:
    """The row, if it is an object within the limits.

    Raises:
        DataError: it is none, or a cell of it is too long, too deep or of too many parts.
    """
    if not isinstance(row, dict):
        raise DataError(f"Row {count} of {name} is not an object with named fields.",
                        'Write rows such as {"question": "…", "answer": "…"}.')
    if len(row) > limits.columns:
        raise DataError(f"Row {count} of {name} has {len(row):,} fields; at most {limits.columns} are read.",
                        "Keep the fields with the question and the answer.")
    for column, value in row.items():
        if isinstance(value, str):
            if len(value) > limits.field_chars:
                raise _too_long(count, column, len(value), name, limits)
        elif isinstance(value, (dict, list)):
            _check_nested(value, count, column, name, limits)
    return row


def _check_nested(cell: Any, count: int, column: str, name: str, limits: Limits) -> None:
    seen = 0
    stack: list[tuple[Any, int]] = [(cell, 1)]
    while stack:
        value, depth = stack.pop()
        seen += 1
        if depth > limits.depth or seen > limits.values:
            raise DataError(f"Row {count} of {name} is nested too deeply or has too many values.",
                            "Keep the fields with the question and the answer.")
        if isinstance(value, str) and len(value) > limits.field_chars:
            raise _too_long(count, column, len(value), name, limits)
        if isinstance(value, dict):
            stack.extend((v, depth + 1) for v in value.values())
        elif isinstance(value, list):
            stack.extend((v, depth + 1) for v in value)


def check_row_count(count: int, name: str, limits: Limits) -> None:
    """Raises:
        DataError: the file has more rows than are read.
    """
    if count > limits.rows:
        raise DataError(f"{name} has more than {limits.rows:,} rows.",
                        "Split it, or give it as a local path on the command line.")


def _too_long(count: int, column: str, chars: int, name: str, limits: Limits) -> DataError:
    return DataError(f"Row {count} of {name} has {chars:,} characters in '{plain(column, 60)}'; "
                     f"at most {limits.field_chars:,} are read.",
                     "Shorten it, or check for a missing quotation mark.")


_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl}
