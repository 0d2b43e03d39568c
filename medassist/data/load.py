"""A dataset's raw rows, from the catalogue, the Hub, a file, or a folder: `load_table`.

A table is read as a stream, as often as wanted, and never held: a file of a million rows needs the memory of
a few. Knows nothing of what the columns mean.

    python -m medassist data preview --dataset starter
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from medassist import catalog
from medassist.catalog import plain
from medassist.config import DatasetConfig
from medassist.data import tablefiles
from medassist.data.hub import check_split, fetch
from medassist.data.medquad import looks_like_medquad, stream_document
from medassist.data.shapes import SAMPLE_ROWS, RawRow, Table
from medassist.data.textfiles import LOCAL_LIMITS, TEXT_SUFFIXES, file_name, open_regular, stream_text_file
from medassist.errors import DataError

_NOT_STATED = "not stated"
_SPLIT_NAMES = {"train": "train", "training": "train", "validation": "eval", "valid": "eval", "val": "eval",
                "dev": "eval", "eval": "eval", "evaluation": "eval", "test": "test", "testing": "test",
                "heldout": "test"}
_SPLIT_COLUMNS = ("split", "set", "partition", "fold")
# JSON files that stand beside data and hold none.
_SIDE_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json",
               "data-report.json"}
# Of one table in several formats, as an export writes it, the first of these is read.
_PREFERRED = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".xml")
_FOLDER_ENTRIES = 200_000  # MedQuAD has 11,274 files
_SAMPLE_CHARS = 50_000_000  # so that a sample of very long rows stays small too
_READERS_VERSION = b"1"  # raise it when the readers give other rows for the same bytes


@dataclass(frozen=True)
class _Part:
    """One file or one split."""

    rows: Callable[[], Iterator[dict[str, Any]]]
    split: str | None = None  # train, eval or test, where the source says so


@dataclass
class _Source:
    """Where rows come from, before any is read."""

    id: str
    title: str
    licence: str
    parts: list[_Part]
    fingerprint: Callable[[], str]
    notes: list[str] = field(default_factory=list)
    sample_rows: int = SAMPLE_ROWS
    from_network: bool = False  # each reading costs a transfer: the sample is not read twice


def load_table(dataset: DatasetConfig, *,
               catalogue_only: bool = False) -> tuple[Table, Mapping[str, str] | None]:
    """The raw rows, and the catalogue's column mapping where the rows are the catalogue's own.

    Only the sample is read here. A fault further down shows as a DataError while `read` is iterated; close what
    `read` gives when it is left before its end, so that files and connections are closed too.

    Raises:
        DataError: the dataset is unknown, missing, gated, out of reach, unreadable or empty.
    """
    name = catalog.check_dataset_id(dataset.id, catalogue_only=catalogue_only)
    entry = catalog.find_dataset(name)
    if entry and entry.id == "starter":
        source = _starter(entry)
    elif entry:
        source = _from_hub(entry.id, dataset.subset or entry.subset, dataset, entry.title, entry.license)
    elif catalog.is_hub_id(name) and not Path(name).exists():
        source = _from_hub(name, dataset.subset, dataset, name, "")
    else:
        source = _from_path(Path(name).expanduser(), dataset.split)
    if dataset.split and source.id == "starter":
        raise _no_splits(source.title)
    return _table(source), entry.mapping if entry else None


def split_name(text: Any) -> str | None:
    """train, eval or test for a source's name of a split ("train_subset", "validation", "Dev"); else None."""
    words = re.split(r"[\W_]+", re.sub("held[-_ ]out", "heldout", str(text).strip().lower()))
    return _SPLIT_NAMES.get(words[0]) if len(str(text)) <= 60 else None


# From a source to a table


def _table(source: _Source) -> Table:
    read: Callable[[], Iterator[RawRow]] = partial(_read_parts, tuple(source.parts))
    first, whole = _first_rows(read, source.sample_rows)
    if not first:
        raise DataError(f"{source.title} holds no rows.", "Check that it is the right dataset.")
    if source.from_network:
        read = partial(_continued, first, read, whole)
    sample = [row for row, _ in first]
    table = Table(source.id, source.title, source.licence, read, sample, source.fingerprint(), source.notes,
                  source.from_network)
    if all(part.split is None for part in source.parts):
        column = _split_column(table)
        if column is not None:
            table.read = partial(_filed, read, column, table)
    return table


def _read_parts(parts: Sequence[_Part]) -> Generator[RawRow]:
    for part in parts:
        with closing(part.rows()) as rows:
            for row in rows:
                yield row, part.split


def _first_rows(read: Callable[[], Iterator[RawRow]], most: int) -> tuple[list[RawRow], bool]:
    """The first rows, and whether they are all there are."""
    found: list[RawRow] = []
    chars = 0
    with closing(read()) as rows:
        for raw in rows:
            found.append(raw)
            chars += sum(len(v) if isinstance(v, str) else len(repr(v)) for v in raw[0].values())
            if len(found) >= most or chars > _SAMPLE_CHARS:
                return found, False
    return found, True


def _continued(first: list[RawRow], read: Callable[[], Iterator[RawRow]], whole: bool) -> Generator[RawRow]:
    """The rows that are known already; a new reading begins only if more are asked for."""
    yield from first
    if not whole:
        with closing(read()) as rows:
            yield from islice(rows, len(first), None)


def _split_column(table: Table) -> str | None:
    """The column that files rows under splits, if all of its values in the sample are names of splits."""
    column = next((c for c in table.columns() if str(c).strip().lower() in _SPLIT_COLUMNS), None)
    if column is None:
        return None
    values = {str(v) for v in (row.get(column) for row in table.sample) if v not in (None, "")}
    unknown = sorted(v for v in values if split_name(v) is None)
    if unknown:
        table.notes.append(f"{table.title}: the column '{plain(column)}' was not taken as the split: it holds "
                           f"'{plain(unknown[0], 60)}'.")
        return None
    return column


def _filed(read: Callable[[], Iterator[RawRow]], column: str, table: Table) -> Generator[RawRow]:
    """Rows under the splits that a column names. A name below the sample that is none is told, once."""
    with closing(read()) as rows:
        for row, _ in rows:
            value = row.get(column)
            split = None if value in (None, "") else split_name(value)
            if split is None and value not in (None, ""):
                split = "train"
                note = f"{table.title}: rows whose '{plain(column)}' names no split were taken as training data."
                if note not in table.notes:
                    table.notes.append(note)
            yield row, split


# Files and folders


def _starter(entry: catalog.DatasetEntry) -> _Source:
    if not catalog.STARTER_FILE.is_file():
        raise DataError("The embedded dataset medassist/starter/flashcards.jsonl is missing.",
                        "Restore it from the project's repository.")
    return _Source("starter", entry.title, entry.license, [_Part(partial(_stream_file, catalog.STARTER_FILE))],
                   partial(_digest, [("starter", catalog.STARTER_FILE)]))


def _from_path(path: Path, split: str | None) -> _Source:
    if path.is_dir() and tablefiles.is_saved(path):
        return _from_saved(path, split)
    if split:
        raise _no_splits(file_name(path))
    if path.is_dir():
        return _from_folder(path)
    name = file_name(path)
    # A MedQuAD row names the folder that its document stands in.
    known_as = f"{path.resolve().parent.name}/{name}" if path.suffix.lower() == ".xml" else name
    return _Source(name, name, _NOT_STATED, [_Part(partial(_stream_file, path))],
                   partial(_digest, [(known_as, path)]))


def _no_splits(title: str) -> DataError:
    return DataError(f"{title} has no splits to choose from: a split is chosen of a Hub or saved dataset.",
                     "Leave datasets.0.split out; a column named 'split' is found by itself.")


def _stream_file(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return stream_text_file(path, LOCAL_LIMITS)
    if suffix == ".parquet":
        return tablefiles.stream_parquet(path)
    if suffix == ".xlsx":
        return tablefiles.stream_excel(path)
    if suffix == ".xml":
        return stream_document(path)
    raise DataError(f"{file_name(path)} has no ending that is known here.",
                    "Give a .csv, .tsv, .json, .jsonl, .parquet or .xlsx file, a folder of them, or MedQuAD's XML.")


def _digest(files: Sequence[tuple[str, Path]]) -> str:
    """Over the names and bytes of files; a name can decide a row's split and source."""
    digest = hashlib.blake2b(_READERS_VERSION, digest_size=32)
    for name, path in files:
        with open_regular(path, LOCAL_LIMITS) as file:
            content = hashlib.file_digest(file, "blake2b").digest()
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)
    return digest.hexdigest()


def _from_folder(folder: Path) -> _Source:
    """All data files of a folder, filed under the split that a file's name begins with."""
    title = file_name(folder.resolve())
    every, links = _data_files(folder)
    found = _one_format(every)
    files = [f for f in found if f.suffix.lower() != ".xml" or looks_like_medquad(f)]
    if not files:
        if found:
            raise DataError(f"The XML files of the folder {title} are not MedQuAD documents.",
                            "Save the rows as CSV or JSONL.")
        raise DataError(f"The folder {title} holds no CSV, TSV, JSON, JSONL, Parquet or Excel (.xlsx) files"
                        f"{'; links that lead out of it are not followed' if links else ''}.", "Check the path.")
    notes = [f"{title}: read from {len(files):,} files."]
    if len(found) < len(every):
        notes.append(f"{title}: {len(every) - len(found):,} files are others in another format and were not read again.")
    if links:
        notes.append(f"{title}: {links:,} links that lead out of the folder were not followed.")
    if len(files) < len(found):
        notes.append(f"{title}: {len(found) - len(files):,} XML files are not MedQuAD documents and were left out.")
    parts = [_Part(partial(_stream_file, file), split_name(file.stem)) for file in files]
    names = [(f"{title}/{file.relative_to(folder).as_posix()}", file) for file in files]
    return _Source(title, title, _NOT_STATED, parts, partial(_digest, names), notes)


def _one_format(files: Sequence[Path]) -> list[Path]:
    """One file of each name; train.csv beside train.parquet is the same table again."""
    best: dict[Path, Path] = {}
    for file in files:
        name = file.with_suffix("")
        if name not in best or _PREFERRED.index(file.suffix.lower()) < _PREFERRED.index(best[name].suffix.lower()):
            best[name] = file
    return sorted(best.values())


def _data_files(folder: Path) -> tuple[list[Path], int]:
    """Files with an ending that is known, in order, and how many links lead out of the folder."""
    root, found, links, seen = folder.resolve(), [], 0, 0
    for parent, folders, names in os.walk(folder):  # follows no links to folders
        folders[:] = [f for f in folders if not f.startswith(".")]
        seen += len(folders) + len(names)
        if seen > _FOLDER_ENTRIES:
            raise DataError(f"The folder {file_name(root)} holds more than {_FOLDER_ENTRIES:,} files.",
                            "Give the folder that holds the dataset alone.")
        for name in names:
            path = Path(parent) / name
            if (name.startswith(".") or name in _SIDE_FILES
                    or path.suffix.lower() not in catalog.DATA_SUFFIXES or not path.is_file()):
                continue
            if path.is_symlink() and root not in path.resolve().parents:
                links += 1
            else:
                found.append(path)
    return sorted(found), links


def _from_saved(folder: Path, split: str | None) -> _Source:
    title = file_name(folder.resolve())
    named = tablefiles.saved_parts(folder)
    check_split(split, named, title)
    named = {name: files for name, files in named.items() if split in (None, name)}
    parts, notes = _parts({name: partial(_stream_arrow_files, files, folder) for name, files in named.items()}, title)
    files = [(f"{name}/{file.name}", file) for name, files in named.items() for file in files]
    return _Source(title, title, _NOT_STATED, parts, partial(_digest, files), notes)


def _stream_arrow_files(files: Sequence[Path], folder: Path) -> Generator[dict[str, Any]]:
    for file in files:
        with closing(tablefiles.stream_arrow(file, folder)) as rows:
            yield from rows


def _parts(named: Mapping[str, Callable[[], Iterator[dict[str, Any]]]], title: str) -> tuple[list[_Part], list[str]]:
    """A source's splits under our names for them. A name that we do not know is training data."""
    notes = [f"{title}: the split '{plain(name, 60)}' was taken as training data."
             for name in named if name and split_name(name) is None]
    return [_Part(rows, split_name(name) if name else None) for name, rows in named.items()], notes[:1]


# The Hub


def _from_hub(hub_id: str, subset: str | None, dataset: DatasetConfig, title: str, licence: str) -> _Source:
    found = fetch(hub_id, subset, dataset)
    parts, notes = _parts(found.splits, title)
    sample = SAMPLE_ROWS
    if found.streams and dataset.max_rows is not None:
        sample = min(SAMPLE_ROWS, max(200, 2 * dataset.max_rows))  # what is not asked for is not transferred
    return _Source(hub_id, title, licence or found.licence or _NOT_STATED, parts, lambda: found.fingerprint,
                   notes + [f"{title}: {note}" for note in found.notes], sample, found.streams)
