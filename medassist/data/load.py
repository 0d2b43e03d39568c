"""A dataset's raw rows, from the catalogue, the Hub, a file, or a folder: `load_table`.

Knows nothing of what the columns mean. pyarrow, datasets and openpyxl are imported where they are used.

    python -m medassist data preview --dataset starter
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medassist import catalog
from medassist.config import DatasetConfig
from medassist.data.shapes import Table
from medassist.data.textfiles import LOCAL_LIMITS, TEXT_SUFFIXES, read_text_file
from medassist.errors import DataError

_NOT_STATED = "not stated"
_SPLIT_NAMES = {"train": "train", "training": "train", "validation": "eval", "valid": "eval", "val": "eval",
                "dev": "eval", "eval": "eval", "evaluation": "eval", "test": "test", "testing": "test",
                "heldout": "test"}
_SPLIT_COLUMNS = ("split", "set", "partition", "fold")
# JSON files that stand beside data and hold none.
_SIDE_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json"}


def load_table(dataset: DatasetConfig, *,
               catalogue_only: bool = False) -> tuple[Table, Mapping[str, str] | None]:
    """The raw rows, and the catalogue's column mapping where the rows are the catalogue's own.

    Raises:
        DataError: the dataset is unknown, missing, gated, out of reach, unreadable or empty.
    """
    name = catalog.check_dataset_id(dataset.id, catalogue_only=catalogue_only)
    entry = catalog.find_dataset(name)
    if entry and entry.id == "starter":
        table = _starter(entry)
    elif entry:
        subset = dataset.subset or entry.subset
        table = _from_hub(entry.id, subset, dataset.revision, entry.title, entry.license)
    elif catalog.is_hub_id(name) and not Path(name).exists():
        table = _from_hub(name, dataset.subset, dataset.revision, name, "")
    else:
        table = _from_path(Path(name).expanduser())
    if not table.rows:
        raise DataError(f"{table.title} holds no rows.", "Check that it is the right dataset.")
    _read_split_column(table)
    return table, entry.mapping if entry else None


def split_name(text: Any) -> str | None:
    """train, eval or test for a source's name of a split ("train_subset", "validation", "Dev"); else None."""
    words = re.split(r"[\W_]+", re.sub("held[-_ ]out", "heldout", str(text).strip().lower()))
    return _SPLIT_NAMES.get(words[0]) if len(str(text)) <= 60 else None


def _read_split_column(table: Table) -> None:
    """File rows under the splits that a column names, where all of its values are names of splits."""
    if any(table.splits):
        return
    column = next((c for c in table.columns() if str(c).strip().lower() in _SPLIT_COLUMNS), None)
    if column is None:
        return
    values = {str(v) for v in (row.get(column) for row in table.rows) if v not in (None, "")}
    unknown = sorted(v for v in values if split_name(v) is None)
    if unknown:
        table.notes.append(f"The column '{column}' was not taken as the split: it holds '{unknown[0][:60]}'.")
        return
    table.splits = [split_name(row.get(column) or "") for row in table.rows]


def _starter(entry: catalog.DatasetEntry) -> Table:
    if not catalog.STARTER_FILE.is_file():
        raise DataError("The embedded dataset medassist/starter/flashcards.jsonl is missing.",
                        "Restore it from the project's repository.")
    rows = read_text_file(catalog.STARTER_FILE, LOCAL_LIMITS)
    return Table("starter", entry.title, entry.license, rows, [None] * len(rows))


def _from_path(path: Path) -> Table:
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _from_saved(path)
        return _from_folder(path)
    rows = _read_file(path)
    return Table(path.name, path.name, _NOT_STATED, rows, [None] * len(rows))


def _read_file(path: Path) -> list[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix == ".xlsx":
        return _read_excel(path)
    if suffix in TEXT_SUFFIXES:
        return read_text_file(path, LOCAL_LIMITS)
    raise DataError(f"{path.name} has no ending that is known here.",
                    "Give a .csv, .tsv, .json, .jsonl or .parquet file, or a folder of such files.")


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return [row for batch in file.iter_batches(batch_size=4096) for row in batch.to_pylist()]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file.",
                        "Check that the download is complete.") from error


def _read_excel(path: Path) -> list[dict[str, Any]]:
    if importlib.util.find_spec("openpyxl") is None:
        raise DataError(f"{path.name} is an Excel file, and reading it needs the openpyxl library.",
                        "Install openpyxl, or save the sheet as CSV.")
    import openpyxl

    try:
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).active
        cells = sheet.iter_rows(values_only=True)
        header = [str(c) if c is not None else f"column_{i + 1}" for i, c in enumerate(next(cells, ()))]
        return [dict(zip(header, row, strict=False)) for row in cells if any(c is not None for c in row)]
    except Exception as error:  # openpyxl has no error type of its own for a damaged file
        raise DataError(f"{path.name} is not a readable Excel file.", "Save the sheet as CSV.") from error


def _from_folder(path: Path) -> Table:
    """All data files of a folder, filed under the split that a file's name begins with."""
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in catalog.DATA_SUFFIXES and f.is_file()
                   and f.name not in _SIDE_FILES and not _is_hidden(f.relative_to(path)))
    if not files:
        raise DataError(f"The folder {path.name} holds no CSV, TSV, JSON, JSONL or Parquet files.",
                        "Check the path.")
    rows: list[dict[str, Any]] = []
    splits: list[str | None] = []
    for file in files[:1000]:
        found = _read_file(file)
        rows += found
        splits += [split_name(file.stem)] * len(found)
    table = Table(path.name, path.name, _NOT_STATED, rows, splits)
    table.notes.append(f"{path.name}: read from {len(files)} files.")
    return table


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _from_saved(path: Path) -> Table:
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"The folder {path.name} is not a readable saved dataset.",
                        "Save it again with save_to_disk.") from error
    return _table(path.name, path.name, _NOT_STATED, saved)


def _table(table_id: str, title: str, licence: str, loaded: Any) -> Table:
    """Rows of a Dataset or DatasetDict, with their splits where there are several."""
    parts: Iterable[tuple[str, Any]] = loaded.items() if isinstance(loaded, dict) else [("", loaded)]
    table = Table(table_id, title, licence, [], [])
    unknown = []
    for name, part in parts:
        split = split_name(name) if name else None
        if name and split is None:
            unknown.append(name)
        for batch in part.with_format("arrow").iter(batch_size=4096):
            table.rows += batch.to_pylist()
        table.splits += [split] * (len(table.rows) - len(table.splits))
    if unknown:
        table.notes.append(f"{title}: the split '{unknown[0][:60]}' was taken as training data.")
    return table


def _from_hub(hub_id: str, subset: str | None, revision: str | None, title: str, licence: str) -> Table:
    from medassist.data.hub import fetch

    loaded, found = fetch(hub_id, subset, revision)
    return _table(hub_id, title, licence or found or _NOT_STATED, loaded)
