"""Prepared splits as files: JSONL, CSV or Parquet, one file a split, and the report beside them.

    python -m medassist data export --dataset starter --out prepared/
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medassist.data.shapes import SPLITS, Example, PreparedData
from medassist.errors import DataError

_COLUMNS = ("question", "answer", "topic", "source")


def export_data(prepared: PreparedData, folder: str | Path,
                formats: Sequence[str] = ("jsonl", "csv", "parquet")) -> list[Path]:
    """Write each split in each format, and report.json last; returns the files written.

    Raises:
        DataError: an unknown format, or the folder cannot be written.
    """
    folder = Path(folder)
    unknown = [f for f in formats if f not in _WRITERS]
    if unknown:
        raise DataError(f"'{unknown[0]}' is not a format for export.", "Use jsonl, csv or parquet.")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            for kind in formats:
                path = folder / f"{split}.{kind}"
                _WRITERS[kind](path, getattr(prepared, split))
                written.append(path)
        report = folder / "report.json"
        report.write_text(json.dumps({"sha256": prepared.sha256, **prepared.report.to_json()}, indent=2,
                                     ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be written: {error.strerror or error}.",
                        "Choose another folder, or make room.") from None
    return [*written, report]


def _write_jsonl(path: Path, examples: Sequence[Example]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")


def _write_csv(path: Path, examples: Sequence[Example]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(e) for e in examples)


def _write_parquet(path: Path, examples: Sequence[Example]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(c, pyarrow.string()) for c in _COLUMNS])
    table = pyarrow.Table.from_pylist([asdict(e) for e in examples], schema=schema)
    pyarrow.parquet.write_table(table, path)


_WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}
