"""Parquet and Excel files and folders of `save_to_disk`, streamed as rows; by local path only.

Each is looked at before it is unpacked: what its directory says it will become must be in proportion to what it
is. Arrow data is read with repeated values kept once, and measured before it becomes rows, since a file of
a few kilobytes can stand for gigabytes. No pickle is opened and no code of a dataset is run. Knows nothing of
columns' meaning. pyarrow and openpyxl are imported where they are used.

    python -m medassist data preview --dataset flashcards.parquet
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from medassist.catalog import plain
from medassist.data.textfiles import (
    LOCAL_LIMITS,
    Limits,
    check_header,
    check_row,
    check_row_count,
    file_name,
    open_regular,
)
from medassist.errors import DataError

Rows = Iterator[dict[str, Any]]

# A file may unpack to this many times its size, or to _FREE_BYTES if that is more. Real tables of text stay below 50.
_RATIO = 200
_FREE_BYTES = 64_000_000
_SLICE_BYTES = 16_000_000  # of Arrow data that become Python objects at a time
_BATCH_ROWS = 1024
_FOOTER_BYTES = 32_000_000
_EXCEL_BYTES = 500_000_000  # of all parts unpacked; the shared strings among them stand in memory
_EXCEL_ROWS = 1_048_576  # what Excel itself can hold
_EXCEL_PARTS = 5_000
_DECLARES = re.compile(rb"<\0?!\0?(?:D\0?O\0?C\0?T\0?Y\0?P\0?E|E\0?N\0?T\0?I\0?T\0?Y)", re.IGNORECASE)
_HEADER_WITHIN = 20  # rows in which a header of at least two cells is looked for
_SAVE_CSV = "Save the sheet as CSV."
_DOWNLOAD = "Check that the download is complete."
_SAVE_AGAIN = "Save it again with save_to_disk."


def stream_parquet(path: Path, limits: Limits = LOCAL_LIMITS) -> Rows:
    """The rows of a Parquet file.

    Raises:
        DataError: it is damaged, too large or too deep, or unpacks out of proportion to its size.
    """
    import pyarrow
    import pyarrow.parquet

    name = file_name(path)
    with open_regular(path, limits) as file:
        size = _check_parquet_frame(file, name)
        measure = _Measure(name, size)
        try:
            with pyarrow.parquet.ParquetFile(file) as found:
                dictionaries = _check_parquet(found, name, size, limits)
            # Repeated values stay one value with many references until a slice of rows is taken.
            with pyarrow.parquet.ParquetFile(file, read_dictionary=dictionaries, buffer_size=1 << 20) as found:
                yield from _checked(_batches(found), measure, name, limits)
        except DataError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, NotImplementedError) as error:
            raise DataError(f"{name} is not a readable Parquet file.", _DOWNLOAD) from error


def _batches(found: Any) -> Iterator[Any]:
    """Batches of one row group after the other: within a list, Arrow keeps repeated values once in a group only."""
    for group in range(found.num_row_groups):
        yield from found.iter_batches(_BATCH_ROWS, row_groups=[group], use_threads=False)


def _check_parquet_frame(file: BinaryIO, name: str) -> int:
    """The file's size, where it begins and ends as Parquet does and its directory is of sensible length."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    file.seek(0)
    directory = int.from_bytes(tail[:4], "little")
    if file.read(4) != b"PAR1" or tail[4:] != b"PAR1" or directory > size - 12:
        raise DataError(f"{name} is not a readable Parquet file.", _DOWNLOAD)
    if directory > _FOOTER_BYTES:
        raise DataError(f"{name} has a directory that is too large to be that of a table of text.", _DOWNLOAD)
    file.seek(0)
    return size


def _check_parquet(found: Any, name: str, size: int, limits: Limits) -> list[str]:
    """Refuse by the file's own directory, before anything is unpacked; returns the columns of bytes and text."""
    about = found.metadata
    check_row_count(about.num_rows, name, limits)
    if about.num_columns > limits.columns:
        raise DataError(f"{name} has {about.num_columns:,} columns; at most {limits.columns} are read.",
                        "Keep the columns with the question and the answer.")
    columns = [about.schema.column(i) for i in range(about.num_columns)]
    # A list of lists is `a.list.element.list.element`.
    if any(column.path.count(".") > 2 * limits.depth for column in columns):
        raise DataError(f"{name} has a column that is nested too deeply.",
                        "Keep the columns with the question and the answer.")
    groups = [about.row_group(i).total_byte_size for i in range(about.num_row_groups)]
    if min(groups, default=0) < 0 or sum(groups) > max(_FREE_BYTES, _RATIO * size):
        raise _out_of_proportion(name)
    return [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type != "DECIMAL"]


def _out_of_proportion(name: str) -> DataError:
    return DataError(f"{name} unpacks to more than {_RATIO} times its size.",
                     "Give the rows in a form that is not packed, such as JSONL, if this is wanted.")


class _Measure:
    """Counts what a file has unpacked to, and refuses what is out of proportion to its size."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._most, self._sum = name, max(_FREE_BYTES, _RATIO * size), 0

    def add(self, unpacked: int) -> None:
        self._sum += unpacked
        if self._sum > self._most:
            raise _out_of_proportion(self._name)


def _checked(batches: Iterator[Any], measure: _Measure | None, name: str, limits: Limits) -> Rows:
    count = 0
    for batch in batches:
        for row in rows_of_batch(batch, name, measure.add if measure else None):
            count += 1
            check_row_count(count, name, limits)
            yield check_row(row, count, name, limits)


def rows_of_batch(batch: Any, name: str, add: Callable[[int], None] | None = None) -> Rows:
    """Rows of an Arrow batch as dicts, never more of them at a time than fit into a few megabytes.

    Args:
        add: is told the unpacked bytes of each slice before it is unpacked.

    Raises:
        DataError: a single row is larger than that by far.
    """
    unpacked = sum(_unpacked_bytes(column) for column in batch.columns)
    if unpacked <= _SLICE_BYTES or batch.num_rows <= 1:
        if unpacked > 4 * _SLICE_BYTES:
            raise DataError(f"{name} has a row of {unpacked / 1e6:,.0f} MB.",
                            "Keep the columns with the question and the answer.")
        if add:
            add(unpacked)
        yield from _plain_columns(batch).to_pylist()
        return
    half = batch.num_rows // 2
    yield from rows_of_batch(batch.slice(0, half), name, add)
    yield from rows_of_batch(batch.slice(half), name, add)


def _plain_columns(batch: Any) -> Any:
    """The batch with its dictionaries unpacked, which Arrow does faster than Python value by value."""
    import pyarrow

    columns = [c.dictionary_decode() if pyarrow.types.is_dictionary(c.type) else c for c in batch.columns]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _unpacked_bytes(array: Any) -> int:
    """Bytes of an Arrow array with each repeated value counted as often as it occurs."""
    import pyarrow
    import pyarrow.compute

    if isinstance(array, pyarrow.ChunkedArray):
        return sum(_unpacked_bytes(chunk) for chunk in array.chunks)
    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        if not _is_bytes(kind.value_type):
            return array.nbytes
        lengths = pyarrow.compute.binary_length(array.dictionary).take(array.indices)
        return (pyarrow.compute.sum(lengths).as_py() or 0) + 8 * len(array)
    if pyarrow.types.is_struct(kind):
        return sum(_unpacked_bytes(part) for part in array.flatten())
    if pyarrow.types.is_map(kind):
        return _unpacked_bytes(array.keys) + _unpacked_bytes(array.items)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return _unpacked_bytes(array.flatten()) + 8 * len(array)
    return array.nbytes


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)


# Excel


def stream_excel(path: Path, limits: Limits = LOCAL_LIMITS) -> Rows:
    """The rows of an .xlsx file's active sheet, below its header; empty rows are skipped.

    Raises:
        DataError: it is no such file, is damaged, or unpacks out of proportion to its size.
    """
    import openpyxl

    name = file_name(path)
    with open_regular(path, limits) as file:
        _check_archive(file, name)
        try:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            with contextlib.closing(book):
                yield from _sheet_rows(book.active, name, limits)
        except DataError:
            raise
        except Exception as error:  # openpyxl has no error type of its own for a damaged file
            raise DataError(f"{name} is not a readable Excel file.", _SAVE_CSV) from error


def _check_archive(file: BinaryIO, name: str) -> None:
    """Refuse by the archive's own directory; no part unpacks to more than it says there."""
    size = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            names = {part.filename for part in parts}
            if "[Content_Types].xml" not in names or not any(n.startswith("xl/") for n in names):
                raise DataError(f"{name} is an archive, but not an Excel file.", _SAVE_CSV)
            unpacked = sum(part.file_size for part in parts)
            if len(parts) > _EXCEL_PARTS or unpacked > _EXCEL_BYTES or unpacked > max(_FREE_BYTES, _RATIO * size):
                raise DataError(f"{name} unpacks to {unpacked / 1e6:,.0f} MB in {len(parts):,} parts, which is "
                                "too much for an Excel file.", _SAVE_CSV)
            for part in parts:
                _check_part(archive, part, name)
    except DataError:
        raise
    except Exception as error:  # zipfile lets several types through, struct.error and NotImplementedError among them
        raise DataError(f"{name} is not a readable Excel file.", _SAVE_CSV) from error
    file.seek(0)


def _check_part(archive: zipfile.ZipFile, part: zipfile.ZipInfo, name: str) -> None:
    """Excel declares neither document types nor entities; a declaration must stand before the first element."""
    if not part.filename.lower().endswith((".xml", ".rels", ".vml")):
        return
    with archive.open(part) as opened:
        if _DECLARES.search(opened.read(65_536)):
            raise DataError(f"{name} holds XML that declares a document type or entities, which are not read.",
                            _SAVE_CSV)


def _sheet_rows(sheet: Any, name: str, limits: Limits) -> Rows:
    sheet.reset_dimensions()  # some programs write a range that is too small, and rows beyond it would be lost
    # One column more than may be: whether the sheet is too wide must show.
    filled = _filled(sheet.iter_rows(max_col=limits.columns + 1, values_only=True), name)
    first = []
    for row in filled:
        first.append(row)
        if _width(row) > 1 or len(first) == _HEADER_WITHIN:
            break
    if not first:
        return
    # A title above the table has one cell; a table of one column has its header in the first row.
    start = next((i for i, row in enumerate(first) if sum(c is not None for c in row) > 1), 0)
    names = first[start][:_width(first[start])]
    header = check_header(["" if cell is None else str(cell) for cell in names], name, limits)
    for count, cells in enumerate(_then(first[start + 1:], filled), 1):
        check_row_count(count, name, limits)
        beyond = {f"column_{i + 1}": c for i, c in enumerate(cells) if i >= len(header) and c is not None}
        yield check_row({**dict(zip(header, cells, strict=False)), **beyond}, count, name, limits)


def _filled(rows: Iterator[tuple[Any, ...]], name: str) -> Iterator[tuple[Any, ...]]:
    """Rows with anything in them. A sheet may claim a row number beyond all sense, with empty rows up to it."""
    empty: tuple[Any, ...] | None = None
    for number, row in enumerate(rows, 1):
        if number > _EXCEL_ROWS:
            raise DataError(f"{name} has more rows than an Excel sheet can hold.", _SAVE_CSV)
        if row is empty:
            continue
        if any(cell is not None and cell != "" for cell in row):
            yield row
        else:
            empty = row  # openpyxl fills every gap with this one tuple


def _width(row: tuple[Any, ...]) -> int:
    return max((i + 1 for i, cell in enumerate(row) if cell is not None), default=0)


def _then(first: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    yield from first
    yield from rest


# Folders of save_to_disk


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by save_to_disk."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved_parts(folder: Path) -> dict[str, list[Path]]:
    """Split name → its Arrow files; "" where the folder is one dataset without splits.

    Raises:
        DataError: a file of it is missing or damaged, or it names files outside of itself.
    """
    if not (folder / "dataset_dict.json").is_file():
        return {"": _saved_files(folder, folder)}
    names = _read_state(folder / "dataset_dict.json", folder).get("splits")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise _not_saved(folder)
    return {name: _saved_files(_inside(folder, name, folder), folder) for name in names[:100]}


def _saved_files(part: Path, folder: Path) -> list[Path]:
    state = _read_state(part / "state.json", folder)
    named = state.get("_data_files")
    if not isinstance(named, list) or state.get("_indices_data_files"):
        raise _not_saved(folder)
    return [_inside(part, entry.get("filename") if isinstance(entry, dict) else None, folder) for entry in named]


def _inside(parent: Path, name: Any, folder: Path) -> Path:
    if not isinstance(name, str) or "\0" in name or not name:
        raise _not_saved(folder)
    path = parent / name
    if Path(name).name != name or folder.resolve() not in path.resolve().parents:
        raise DataError(f"The saved dataset {file_name(folder)} names a file outside of itself: '{plain(name, 60)}'.",
                        _SAVE_AGAIN)
    return path


def _read_state(path: Path, folder: Path) -> dict[str, Any]:
    try:
        with open_regular(path, LOCAL_LIMITS) as file:
            found = json.loads(file.read(5_000_000))
    except (DataError, ValueError, RecursionError, OSError):
        raise _not_saved(folder) from None
    if not isinstance(found, dict):
        raise _not_saved(folder)
    return found


def _not_saved(folder: Path) -> DataError:
    return DataError(f"The folder {file_name(folder)} is not a readable saved dataset.", _SAVE_AGAIN)


def stream_arrow(path: Path, folder: Path, limits: Limits = LOCAL_LIMITS) -> Rows:
    """The rows of one Arrow file of a saved dataset.

    Raises:
        DataError: it is damaged.
    """
    import pyarrow

    name = file_name(path)
    with open_regular(path, limits) as file:
        try:
            with pyarrow.ipc.open_stream(file) as reader:
                if len(reader.schema.names) > limits.columns:
                    raise DataError(f"{name} has {len(reader.schema.names):,} columns; "
                                    f"at most {limits.columns} are read.",
                                    "Keep the columns with the question and the answer.")
                measure = _Measure(name, path.stat().st_size)
                yield from _checked(_valid(reader), measure, name, limits)
        except DataError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, NotImplementedError) as error:
            raise _not_saved(folder) from error


def _valid(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        batch.validate(full=True)  # offsets that point elsewhere would be followed
        yield batch
