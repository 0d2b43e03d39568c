"""Rows of questions and answers, and files of every kind to hold them."""

from __future__ import annotations

import csv
import json


def cards(count, start=0, **extra):
    return [
        {"question": f"What is finding {i}?", "answer": f"Finding {i} is benign.", **extra}
        for i in range(start, start + count)
    ]


def write_rows(path, rows):
    """Rows as the file type that the path's ending names."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".xlsx":
        write_sheet(path, [list(rows[0]), *[list(r.values()) for r in rows]])
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def write_sheet(path, cells):
    import openpyxl

    book = openpyxl.Workbook()
    for row in cells:
        book.active.append(row)
    book.save(path)
    return path
