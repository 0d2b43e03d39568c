"""Files that strangers might send: `CASES`, each with what is said of it, and a table of what reading each costs.

Every case is tried as an upload (`load_upload`) and by its path (`load_table` and all of `read`), in a process
of its own that is given up after a while. It knows nothing of how the readers work.

    python tests/hostile.py            # name, bytes, sentence, cpu_s, peak_MB
    python tests/hostile.py --json     # one object a line
"""

from __future__ import annotations

import argparse
import codecs
import gzip
import io
import json
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = b"question,answer\n"
ROW = b"Why?,Because.\n"
LINE = b'{"question": "Why?", "answer": "Because."}\n'
LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE Document [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]>"
)
PAIR = "<QAPairs><QAPair pid='1'><Question qid='1-1' qtype='x'>Why?</Question><Answer>{}</Answer></QAPair></QAPairs>"
GIVE_UP_S = 20

NOT_TAKEN = "not taken as an upload"
Said = str | int | None  # words of the sentence; or how many rows are read; None: not tried


@dataclass(frozen=True)
class Case:
    """One file or folder: how it is made at a path, and what comes of it on each road."""

    file: str
    make: Callable[[Path], None]
    upload: Said
    path: Said


def same(file: str, make: Callable[[Path], None], said: Said) -> Case:
    """A case with one outcome on both roads."""
    return Case(file, make, said, said)


def _bytes(content: Callable[[], bytes] | bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content() if callable(content) else content) and None


def _zip(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# Parquet


def _parquet_bomb(path: Path, length: int = 1_000_000, rows: int = 100_000, lists: bool = False) -> None:
    """One string that many rows refer to: kilobytes on disk, a hundred gigabytes as rows."""
    import pyarrow
    import pyarrow.parquet

    cells = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array(["x" * length])
    )
    column: Any = cells
    if lists:
        column = pyarrow.ListArray.from_arrays(pyarrow.array([0, rows], pyarrow.int32()), cells)
    pyarrow.parquet.write_table(pyarrow.table({"question": column}), path, store_schema=False)


def _parquet_of_zeros(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["y" * 999_999 + str(i) for i in range(100)]})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)


def _parquet_columns(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({f"c{i}": ["x"] for i in range(5_000)}), path)


def _parquet_deep(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    kind, cell = pyarrow.string(), "x"
    for _ in range(500):
        kind, cell = pyarrow.list_(kind), [cell]
    pyarrow.parquet.write_table(pyarrow.table({"question": pyarrow.array([cell], kind)}), path)


def _parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"question": f"What is {i}?", "answer": "A thing."} for i in range(1_000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _parquet_cut(path: Path) -> None:
    _parquet(path)
    path.write_bytes(path.read_bytes()[:-700])


def _parquet_patched(path: Path) -> None:
    """Right at both ends and wrong between."""
    _parquet(path)
    content = bytearray(path.read_bytes())
    content[40:400] = b"\xff" * 360
    path.write_bytes(content)


def _parquet_latin(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([b"na\xefve"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 1, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"question": text}), path)


# Excel

TYPES = b'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'


def _excel(path: Path, rows: list[list[Any]] | None = None) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in rows or [["question", "answer"], ["Why?", "Because."]]:
        book.active.append(row)
    book.save(path)


def _excel_with_sheet(sheet: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _excel(path)
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["xl/worksheets/sheet1.xml"] = sheet(parts["xl/worksheets/sheet1.xml"])
        path.write_bytes(_zip(parts))

    return make


def _far_row(sheet: bytes) -> bytes:
    return sheet.replace(b'<row r="2"', b'<row r="99999999999"')


def _far_column(sheet: bytes) -> bytes:
    return sheet.replace(b'r="B2"', b'r="ZZZZZZZZ2"')


# Folders


def _saved(path: Path, files: list[str], content: bytes | None = None) -> None:
    import pyarrow

    path.mkdir()
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": f} for f in files], "_fingerprint": "f"}))
    (path / "dataset_info.json").write_text("{}")
    table = pyarrow.table({"question": ["Why?"], "answer": ["Because."]})
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (path / "data.arrow").write_bytes(sink.getvalue() if content is None else content)
    (path.parent / "x.arrow").write_bytes(sink.getvalue())


def _folder(**files: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("__", ".")).write_bytes(content)

    return make


def _folder_with_link(path: Path) -> None:
    path.mkdir()
    (path / "train.csv").symlink_to("/etc/passwd")


def _folder_with_linked_folder(path: Path) -> None:
    path.mkdir()
    (path / "fair.csv").write_bytes(HEAD + ROW)
    (path / "etc").symlink_to("/etc")


def _folder_with_pipe(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "train.csv")
    (path / "test.csv").write_bytes(HEAD + ROW)


def _saved_that_points_out(path: Path) -> None:
    _saved(path, ["../x.arrow"])


def _saved_that_links_out(path: Path) -> None:
    _saved(path, ["y.arrow"])
    (path / "y.arrow").symlink_to(path.parent / "x.arrow")


def _saved_dict_that_points_out(path: Path) -> None:
    _saved(path.parent / "other", ["data.arrow"])
    path.mkdir()
    (path / "dataset_dict.json").write_text('{"splits": ["../other"]}')


def _saved_broken(path: Path) -> None:
    path.mkdir()
    (path / "state.json").write_text('{"_data_files": [')


def _many(cell: bytes, count: int) -> Callable[[], bytes]:
    return lambda: HEAD + cell * count


_LONG_NAME = "x" * 251 + ".csv"

CASES: dict[str, Case] = {
    # Not what the name says
    "gzip as csv": same("x.csv", _bytes(lambda: gzip.compress(HEAD * 1_000)), "gzip archive"),
    "gzip bomb as json": same("x.json", _bytes(lambda: gzip.compress(b"[" * 30_000_000)), "gzip archive"),
    "zip as jsonl": same("x.jsonl", _bytes(lambda: _zip({"x.jsonl": LINE})), "zip archive"),
    "Excel as csv": same("x.csv", _excel, "zip archive or Excel file"),
    "pickle, protocol 0": same("x.csv", _bytes(lambda: pickle.dumps({"q": "x"}, 0)), "pickle"),
    "pickle, protocol 2": same("x.jsonl", _bytes(lambda: pickle.dumps({"q": "x"}, 2)), "pickle"),
    "pickle, protocol 4": same("x.json", _bytes(lambda: pickle.dumps({"q": "x"}, 4)), "pickle"),
    "pickle by name": Case("x.pkl", _bytes(lambda: pickle.dumps([1])), "is not a CSV", "no ending that is known"),
    "parquet as jsonl": same("x.jsonl", _parquet, "Parquet file"),
    "PDF as csv": same("x.csv", _bytes(b"%PDF-1.7\n"), "PDF"),
    "program as csv": same("x.csv", _bytes(b"\x7fELF\x02"), "program"),
    "SQLite as csv": same("x.csv", _bytes(b"SQLite format 3\0"), "SQLite database"),
    # Parquet
    "parquet": Case("x.parquet", _parquet, NOT_TAKEN, 1_000),
    "parquet bomb": Case("x.parquet", _parquet_bomb, NOT_TAKEN, "times its size"),
    "parquet bomb in one row": Case("x.parquet", lambda p: _parquet_bomb(p, lists=True), NOT_TAKEN, "row of"),
    "parquet bomb of long fields": Case(
        "x.parquet", lambda p: _parquet_bomb(p, 2_000_000), NOT_TAKEN, "2,000,000 characters"
    ),
    "parquet of zeros": Case("x.parquet", _parquet_of_zeros, NOT_TAKEN, "times its size"),
    "parquet of 5,000 columns": Case("x.parquet", _parquet_columns, NOT_TAKEN, "5,000 columns"),
    "parquet 500 levels deep": Case("x.parquet", _parquet_deep, NOT_TAKEN, "deeply|not a readable Parquet file"),
    "parquet, cut": Case("x.parquet", _parquet_cut, NOT_TAKEN, "not a readable Parquet file"),
    "parquet, overwritten": Case("x.parquet", _parquet_patched, NOT_TAKEN, "not a readable Parquet file"),
    "parquet that is not UTF-8": Case("x.parquet", _parquet_latin, NOT_TAKEN, "not a readable Parquet file"),
    "parquet, two marks only": Case("x.parquet", _bytes(b"PAR1PAR1"), NOT_TAKEN, "not a readable Parquet"),
    "parquet with a directory of 2 GB": Case(
        "x.parquet", _bytes(b"PAR1" + b"\0" * 90 + b"\xff\xff\xff\x7fPAR1"), NOT_TAKEN, "not a readable Parquet"
    ),
    "parquet with a directory of 33 MB": Case(
        "x.parquet",
        _bytes(b"PAR1" + b"\0" * 33_000_000 + b"\x40\x8a\xf7\x01PAR1"),
        NOT_TAKEN,
        "directory that is too large",
    ),
    # Excel
    "Excel": Case(
        "x.xlsx", lambda p: _excel(p, [["Our cards"], [], ["question", "answer"], [], ["Why?", "=1+1"]]), NOT_TAKEN, 1
    ),
    "Excel bomb": Case(
        "x.xlsx",
        _excel_with_sheet(lambda s: s.replace(b"<sheetData>", b"<sheetData>" + b" " * 300_000_000)),
        NOT_TAKEN,
        "too much for an Excel file",
    ),
    "Excel of something else": Case(
        "x.xlsx", _bytes(lambda: _zip({"readme.txt": b"hello"})), NOT_TAKEN, "is an archive, but not an Excel file"
    ),
    "Excel without a sheet": Case(
        "x.xlsx",
        _bytes(lambda: _zip({"[Content_Types].xml": TYPES, "xl/x.xml": b"<x/>"})),
        NOT_TAKEN,
        "not a readable Excel file",
    ),
    "Excel that is text": Case("x.xlsx", _bytes(HEAD + ROW), NOT_TAKEN, "not a readable Excel file"),
    "Excel that laughs": Case(
        "x.xlsx",
        _excel_with_sheet(lambda s: (LAUGHS + s.decode().split("?>")[-1]).encode()),
        NOT_TAKEN,
        "declares a document type",
    ),
    "Excel with row 99,999,999,999": Case(
        "x.xlsx", _excel_with_sheet(_far_row), NOT_TAKEN, "more rows than an Excel sheet can hold"
    ),
    "Excel with column ZZZZZZZZ": Case(
        "x.xlsx", _excel_with_sheet(_far_column), NOT_TAKEN, "not a readable Excel file"
    ),
    "Excel of 300 columns": Case(
        "x.xlsx", lambda p: _excel(p, [[f"c{i}" for i in range(300)], ["x"] * 300]), NOT_TAKEN, "columns; at most 200"
    ),
    # JSON
    "JSON 100,000 levels deep": same("x.json", _bytes(b"[" * 100_000), "nested too deeply"),
    "JSON object 100,000 levels deep": same("x.json", _bytes(b'{"a":' * 100_000), "nested too deeply"),
    "JSON line 100,000 levels deep": Case(
        "x.jsonl", _bytes(b'{"q":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"), "nested too deeply", "nested too deeply"
    ),
    "JSON nine levels deep": same("x.jsonl", _bytes(b'{"q":' + b"[" * 9 + b"]" * 9 + b"}\n"), "nested too deeply"),
    "integer of 4,300 digits": same("x.jsonl", _bytes(b'{"q": ' + b"9" * 4_300 + b"}\n"), "40 digits"),
    "integer of 100,000 digits": same("x.json", _bytes(b'[{"q": ' + b"9" * 100_000 + b"}]"), "40 digits"),
    "float of a million digits": same("x.json", _bytes(b'[{"q": 1.' + b"9" * 1_000_000 + b"}]"), "40 digits"),
    "NaN and Infinity": same("x.jsonl", _bytes(b'{"q": NaN, "a": -Infinity, "b": 1e999}\n'), 1),
    "a field named twice": same("x.jsonl", _bytes(b'{"question": "x", "question": "y"}\n'), "'question' twice"),
    "lone surrogates": same("x.jsonl", _bytes(b'{"question": "a\\ud800b", "\\udfff": ["\\ud83d"]}\n'), 1),
    "a number": same("x.json", _bytes(b"42"), "holds no list of rows"),
    "a string": same("x.json", _bytes(b'"hello"'), "holds no list of rows"),
    "a list of lists": Case("x.json", _bytes(b"[[1, 2], [3]]"), "Row 1 of x.json is not an object", "is not an object"),
    "an empty list": same("x.json", _bytes(b"[]"), "holds no rows"),
    "an object of uneven lists": same("x.json", _bytes(b'{"q": ["a", "b"], "a": ["c"]}'), "holds no list"),
    "JSON cut off": same("x.json", _bytes(b'[{"question": "x"'), "not valid JSON"),
    "JSON and more": same("x.json", _bytes(b'[{"question": "x"}] and more'), "not valid JSON"),
    "3,000,000 empty objects": Case(
        "x.json", _bytes(lambda: b"[" + b"{}," * 3_000_000 + b"{}]"), "more than 20,000 rows", None
    ),
    "a row of a million numbers": Case(
        "x.json", _bytes(lambda: b'[{"q": [' + b"1," * 999_999 + b"1]}]"), "row of more than 512,000", "too many values"
    ),
    "10,000 fields in a row": Case(
        "x.jsonl",
        _bytes(lambda: json.dumps({str(i): 1 for i in range(10_000)}).encode()),
        "10,000 fields",
        "10,000 fields",
    ),
    "a line of 11 MB": Case(
        "x.jsonl",
        _bytes(lambda: b'{"question": "' + b"x" * 11_000_000 + b'"}\n'),
        "11.0 MB",
        "longer than 8,000,000 bytes",
    ),
    "a line of 7 MB": Case(
        "x.jsonl",
        _bytes(lambda: b'{"question": "' + b"x" * 7_000_000 + b'"}\n'),
        "longer than 512,000",
        "7,000,000 characters",
    ),
    "a bad line": same("x.jsonl", _bytes(LINE + b"oops\n"), "Line 2 of x.jsonl is not valid"),
    # Bytes and lines
    "NUL in CSV": same("x.csv", _bytes(_many(ROW, 3_000)() + b"x,\0\n"), "Line 3002"),
    "NUL in JSONL": same("x.jsonl", _bytes(LINE * 200 + b'{"question": "\0"}\n'), "Line 201"),
    "NUL in JSON": same("x.json", _bytes(b'[{"question": "' + b"x" * 5_000 + b'\0"}]'), "NUL"),
    "UTF-16": same("x.csv", _bytes("question,answer\nx,y\n".encode("utf-16")), "UTF-16"),
    "UTF-16 without its mark": same("x.csv", _bytes("question,answer\n".encode("utf-16-le")), "NUL"),
    "Latin-1": Case(
        "x.csv", _bytes(HEAD + "naïve,ja\n".encode("latin-1")), "Line 2 of x.csv is not UTF-8", "not UTF-8"
    ),
    "mixed line ends": same("x.csv", _bytes(HEAD[:-1] + b'\r\na,b\rc,d\n"e\rf",g\r\nh,i'), 4),
    "only carriage returns": same("x.jsonl", _bytes((LINE * 3).replace(b"\n", b"\r")), 3),
    "colours and reversed text": same("x.csv", _bytes(HEAD + "\x1b[31mred\x1b[0m,\u202egnal\u202c\n".encode()), 1),
    "colours in a header": same("x.csv", _bytes(b"\x1b[2Jq,\x1b[2Jq\nx,y\n"), "two columns named"),
    "formulas": same("x.csv", _bytes(HEAD + b'=cmd|\' /C calc\'!A0,"=HYPERLINK(""http://x"")"\n'), 1),
    # CSV
    "a field of a million characters": Case(
        "x.csv", _bytes(HEAD + b"x," + b"y" * 1_000_000 + b"\n"), "longer than 512,000", 1
    ),
    "a field of 1,000,001 characters": Case(
        "x.csv",
        _bytes(HEAD + b"x," + b"y" * 1_000_001 + b"\n"),
        "longer than 512,000",
        "more than 1,000,000 characters",
    ),
    "a field of 8,001 characters": Case(
        "x.csv", _bytes(HEAD + b"x," + b"y" * 8_001 + b"\n"), "8,001 characters in 'answer'", 1
    ),
    "open quotation mark, 6 MB": Case(
        "x.csv", _bytes(HEAD + b'"x,y\n' + b"x,y\n" * 1_500_000), "longer than 512,000", "not well-formed CSV"
    ),
    "one row without end": Case(
        "x.csv", _bytes(HEAD + b'"' + b'a","\n' * 1_900_000), "longer than 512,000", "longer than 8,000,000"
    ),
    "10,000 columns": Case(
        "x.csv",
        _bytes(lambda: ",".join(f"c{i}" for i in range(10_000)).encode() + b"\nx\n"),
        "10,000 columns",
        "10,000 columns",
    ),
    "200,001 rows": Case("x.csv", _bytes(_many(ROW, 200_001)), "more than 20,000 rows", 200_001),
    "more fields than the header": Case(
        "x.csv", _bytes(HEAD + b"x,y,z\n"), "Row 1 of x.csv has 3 fields, its header 2", "3 fields, its header 2"
    ),
    "ten million commas": Case(
        "x.csv", _bytes(HEAD + b"," * 9_900_000), "longer than 512,000", "longer than 8,000,000"
    ),
    "a header twice the same": same("x.csv", _bytes(b"question,question\nx,y\n"), "two columns named"),
    "empty": same("x.csv", _bytes(lambda: b""), "is empty"),
    "only a byte order mark": same("x.csv", _bytes(codecs.BOM_UTF8), "is empty"),
    "only a header": same("x.csv", _bytes(HEAD), "holds no rows"),
    "only blank lines": same("x.jsonl", _bytes(b" \n" * 2_000_000), "is empty"),
    "900,000 blank lines": same("x.jsonl", _bytes(LINE + b"\n" * 900_000), 1),
    "9,000,000 blank lines": Case("x.jsonl", _bytes(LINE + b"\n" * 9_000_000), "more than 1,000,000 lines", None),
    "fields of 7,000 lines": Case(
        "x.csv", _bytes(lambda: HEAD + (b'x,"' + b"\n" * 7_000 + b'"\n') * 1_400), "more than 1,000,000 lines", None
    ),
    # XML
    "MedQuAD": Case(
        "1.xml",
        _bytes(f"<Document id='1' source='S' url='u'><Focus>F</Focus>{PAIR.format('A.')}</Document>".encode()),
        NOT_TAKEN,
        1,
    ),
    "billion laughs": Case(
        "1.xml",
        _bytes(f"{LAUGHS}<Document>{PAIR.format('&j;')}</Document>".encode()),
        NOT_TAKEN,
        "declares a document type or entities",
    ),
    "external entity": Case(
        "1.xml",
        _bytes(
            b"<!DOCTYPE Document [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><Document>"
            + PAIR.format("&x;").encode()
            + b"</Document>"
        ),
        NOT_TAKEN,
        "declares a document type or entities",
    ),
    "quadratic blow-up": Case(
        "1.xml",
        _bytes(
            lambda: (
                "<!DOCTYPE Document [<!ENTITY x '"
                + "y" * 50_000
                + "'>]><Document>"
                + PAIR.format("&x;" * 50_000)
                + "</Document>"
            ).encode()
        ),
        NOT_TAKEN,
        "declares a document type or entities",
    ),
    "an entity that nobody declared": Case(
        "1.xml", _bytes(f"<Document>{PAIR.format('&x;')}</Document>".encode()), NOT_TAKEN, "not well-formed XML"
    ),
    "XML 100,000 levels deep": Case("1.xml", _bytes(b"<Document>" + b"<a>" * 100_000), NOT_TAKEN, "too deeply"),
    "XML of 6 MB": Case("1.xml", _bytes(b"<Document>" + b" " * 6_000_000 + b"</Document>"), NOT_TAKEN, "6.0 MB"),
    "an attribute of 4 MB": Case("1.xml", _bytes(b"<Document id='" + b"x" * 4_000_000), NOT_TAKEN, "well-formed"),
    "XML of another kind": Case(
        "1.xml", _bytes(b"<html><body>hello</body></html>"), NOT_TAKEN, "is not a MedQuAD document"
    ),
    # Folders, links, pipes and names
    "a link out of a folder": Case("folder", _folder_with_link, None, "links that lead out of it are not followed"),
    "a linked folder": Case("folder", _folder_with_linked_folder, None, 1),
    "a pipe": Case("x.csv", os.mkfifo, "gone", "is not a regular file"),
    "a pipe in a folder": Case("folder", _folder_with_pipe, None, 1),
    "a device": Case("x.csv", lambda p: p.symlink_to("/dev/zero"), "gone", "is not a regular file"),
    "a folder named x.csv": Case("x.csv", lambda p: p.mkdir(), "gone", "holds no CSV"),
    "a link to itself": Case("x.csv", lambda p: p.symlink_to(p), "gone", "no file or folder"),
    "a name with a line break": same("a\nb\x1b[2J.csv", _bytes(HEAD), "holds no rows"),
    "a name of 255 letters": same(_LONG_NAME, _bytes(HEAD + ROW), 1),
    "a folder with a loading script": Case(
        "folder", _folder(code__py=b"raise SystemExit('run')"), None, "holds no CSV"
    ),
    "a folder with web pages": Case(
        "folder", _folder(a__xml=b"<html/>", b__xml=b"<x/>"), None, "not MedQuAD documents"
    ),
    "saved, with a broken state": Case("folder", _saved_broken, None, "not a readable saved dataset"),
    "saved, pointing out": Case("folder", _saved_that_points_out, None, "names a file outside of itself"),
    "saved, linking out": Case("folder", _saved_that_links_out, None, "names a file outside of itself"),
    "saved, splits pointing out": Case("folder", _saved_dict_that_points_out, None, "names a file outside of itself"),
    "saved, no Arrow inside": Case(
        "folder", lambda p: _saved(p, ["data.arrow"], b"\xff" * 500), None, "not a readable saved"
    ),
    "saved, cut": Case(
        "folder", lambda p: _saved(p, ["data.arrow"], b"\xff\xff\xff\xff\x00\xff\xff\x7f"), None, "not a readable saved"
    ),
}


# Running them


def read_upload(path: Path) -> int:
    """Rows of an upload."""
    from medassist.data.upload import load_upload

    return len(load_upload(path))


def read_path(path: Path) -> int:
    """Rows of a local path, all of them read."""
    from medassist.config import DatasetConfig
    from medassist.data.load import load_table

    table, _ = load_table(DatasetConfig(id=str(path)))
    return sum(1 for _ in table.read())


def measure(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each road of a case: what was said, what it cost, what it left behind."""
    case = CASES[name]
    target = folder / case.file
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    _in_child(lambda: case.make(target))
    assert target.is_symlink() or target.exists(), f"{name} was not made"
    size = target.lstat().st_size if not target.is_dir() else sum(f.lstat().st_size for f in target.rglob("*"))
    before = _listing(folder)
    for road, read, expected in (("upload", read_upload, case.upload), ("path", read_path, case.path)):
        if expected is None:
            continue
        found = _in_child(lambda read=read: _read(read, target))
        yield {
            "name": name,
            "road": road,
            "bytes": size,
            "expected": expected,
            **found,
            "left_behind": sorted(_listing(folder) - before),
        }


def _listing(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def _read(read: Callable[[Path], int], path: Path) -> dict[str, Any]:
    from medassist.errors import DataError

    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    base, started = _status("VmRSS"), time.process_time()
    said: dict[str, Any]
    try:
        said = {"rows": read(path), "sentence": "", "next_step": ""}
    except DataError as error:
        said = {"rows": None, "sentence": error.message, "next_step": error.next_step}
    except BaseException as error:
        said = {"rows": None, "sentence": "", "next_step": "", "bug": repr(error)[:500]}
    return {
        **said,
        "cpu_s": round(time.process_time() - started, 2),
        "peak_mb": round((_status("VmHWM") - base) / 1024),
    }


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns, done in a fork that is ended when it takes too long."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(theirs, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        if not select.select([answer], [], [], GIVE_UP_S)[0]:
            os.kill(child, signal.SIGKILL)
        content = answer.read()
    _, status = os.waitpid(child, 0)
    if content:
        return json.loads(content)
    return {
        "rows": None,
        "sentence": "",
        "next_step": "",
        "bug": f"ended with status {status}",
        "cpu_s": 0,
        "peak_mb": 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("names", nargs="*", help="only these cases")
    args = parser.parse_args()
    # What the readers import counts in no case.
    import openpyxl  # noqa: F401
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401

    import medassist.data.load
    import medassist.data.upload  # noqa: F401

    base = tempfile.gettempdir()
    for name in args.names or CASES:
        with tempfile.TemporaryDirectory(dir=base) as folder:
            for row in measure(name, Path(folder)):
                if args.json:
                    print(json.dumps(row), flush=True)
                    continue
                said = row["sentence"] or row.get("bug") or f"read: {row['rows']:,} rows"
                print(
                    f"{name:34} {row['road']:6} {row['bytes']:>11,} {row['cpu_s']:5.2f} s {row['peak_mb']:4} MB  {said}",
                    flush=True,
                )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
