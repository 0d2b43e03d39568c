"""Prepared splits as files: JSONL, CSV, Parquet and a `save_to_disk` folder, with a data card and a report.

    python -m medassist data export --dataset starter --out prepared/

What is written is read back as the same examples. Conversations get a column `messages`; everything else is
question, answer, topic and source. Rows stream: memory does not grow with them.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from medassist.config import CLEANING_STEPS
from medassist.data.shapes import SPLITS, Example, PreparedData
from medassist.errors import DataError

FORMATS = ("jsonl", "csv", "parquet", "disk")
DISK_FOLDER = "dataset"  # of `save_to_disk`, beside the other files
CARD, REPORT = "README.md", "data-report.json"

_BATCH = 1000
# As the Hub's front matter spells the licences that our catalogue and others name.
_HUB_LICENCES = {"cc by 4.0": "cc-by-4.0", "cc-by-4.0": "cc-by-4.0", "mit": "mit", "apache-2.0": "apache-2.0",
                 "apache 2.0": "apache-2.0", "cc0": "cc0-1.0", "cc0-1.0": "cc0-1.0", "cc-by-sa-4.0": "cc-by-sa-4.0",
                 "cc by-sa 4.0": "cc-by-sa-4.0", "cc": "cc"}


def export_data(prepared: PreparedData, folder: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes each split in each format, the data card, and data-report.json last; returns what was written.

    Each file is written under another name and renamed, so that a full disk leaves no half file behind.

    Raises:
        DataError: an unknown format, or the folder cannot be written.
    """
    folder = Path(folder)
    unknown = [f for f in formats if f not in FORMATS]
    if unknown:
        raise DataError(f"'{unknown[0]:.40}' is not a format for export.", f"Use {', '.join(FORMATS)}.")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as staged:
            names = _write_all(prepared, Path(staged), formats)
            for name in names:
                _into_place(Path(staged) / name, folder / name)
                written.append(folder / name)
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be written: {error.strerror or error}.",
                        "Choose another folder, or make room.") from None
    return written


def _write_all(prepared: PreparedData, folder: Path, formats: Sequence[str]) -> list[str]:
    columns = _columns(prepared)
    names = []
    for kind in formats:
        if kind == "disk":
            _write_disk(folder / DISK_FOLDER, prepared, columns)
            names.append(DISK_FOLDER)
            continue
        for split in SPLITS:
            examples = getattr(prepared, split)
            _WRITERS[kind](folder / f"{split}.{kind}", examples, columns)
            names.append(f"{split}.{kind}")
    (folder / CARD).write_text(render_data_card(prepared, formats), encoding="utf-8")
    report = {"sha256": prepared.sha256, **prepared.report.to_json()}
    (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*names, CARD, REPORT]


def _into_place(staged: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        # Only what an export wrote before is replaced: a folder of that name with anything else in it stays.
        if not (target / "dataset_dict.json").is_file():
            raise DataError(f"The folder {target} is not one that an export wrote.", "Choose another folder.")
        shutil.rmtree(target)
    staged.replace(target)


def _columns(prepared: PreparedData) -> tuple[str, ...]:
    talk = any(e.history for split in SPLITS for e in getattr(prepared, split))
    return ("question", "answer", "topic", "source", *(("messages",) if talk else ()))


def _row(example: Example, columns: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"question": example.question, "answer": example.answer, "topic": example.topic,
                           "source": example.source}
    if "messages" in columns:
        row["messages"] = [{"role": role, "content": text} for pair in (*example.history, (example.question, example.answer))
                           for role, text in zip(("user", "assistant"), pair)]
    return row


def _batches(examples: Iterable[Example], columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    rows = (_row(e, columns) for e in examples)
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch


def _write_jsonl(path: Path, examples: Iterable[Example], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(_row(example, columns), ensure_ascii=False) + "\n")


def _write_csv(path: Path, examples: Iterable[Example], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for example in examples:
            row = _row(example, columns)
            if "messages" in row:
                row["messages"] = json.dumps(row["messages"], ensure_ascii=False)
            writer.writerow(row)


def _write_parquet(path: Path, examples: Iterable[Example], columns: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    message = pyarrow.struct([("role", text), ("content", text)])
    schema = pyarrow.schema([(c, pyarrow.list_(message) if c == "messages" else text) for c in columns])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(examples, columns):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


_WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}


def _write_disk(folder: Path, prepared: PreparedData, columns: Sequence[str]) -> None:
    """A DatasetDict by `save_to_disk`; empty splits are left out."""
    import datasets

    with tempfile.TemporaryDirectory(prefix="medassist-export-") as work, _no_progress_bars():
        parts = {}
        for split in SPLITS:
            examples = getattr(prepared, split)
            if len(examples):
                file = Path(work) / f"{split}.parquet"
                _write_parquet(file, examples, columns)
                parts[split] = datasets.Dataset.from_parquet(str(file), cache_dir=work)
        datasets.DatasetDict(parts).save_to_disk(str(folder))


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            datasets.enable_progress_bars()


# ── the data card ────────────────────────────────────────────────────────────────────────────────────


def render_data_card(prepared: PreparedData, formats: Sequence[str] = FORMATS) -> str:
    """The README.md of an export: front matter as the Hub reads it, then sources, counts of each step, and hash."""
    report = prepared.report
    head = yaml.safe_dump(_front_matter(prepared, formats), sort_keys=False, allow_unicode=True, width=100)
    parts = ["# Medical questions and answers, prepared with medassist", _splits(prepared), "## Sources", _sources(prepared),
             "## What was done to the rows", _steps(prepared)]
    if report.personal:
        flagged = ", ".join(f"{n:,} with a likely {kind}" for kind, n in report.personal.items())
        parts += ["## Personal data", f"Rows flagged while reading: {flagged}. They were counted and not shown."]
    if report.overlaps:
        parts += ["## Overlap with benchmarks", _overlaps(prepared)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    parts += ["## Use", "For education and for training assistants that are checked by people. Nothing in it is medical "
              "advice, and answers were not verified by preparing them."]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _front_matter(prepared: PreparedData, formats: Sequence[str]) -> dict[str, Any]:
    licences = list(dict.fromkeys(s.licence for s in prepared.report.sources))
    known = [_HUB_LICENCES.get(licence.strip().lower()) for licence in licences]
    head: dict[str, Any] = {"license": known[0] if len(known) == 1 and known[0] else "other"}
    if head["license"] == "other":
        head["license_name"] = "as-the-sources"
    head |= {"language": ["en"], "tags": ["medical", "medassist"], "task_categories": ["question-answering"]}
    shown = next((f for f in ("parquet", "jsonl", "csv") if f in formats), None)
    if shown:
        names = {"train": "train", "eval": "validation", "test": "test"}
        head["configs"] = [{"config_name": "default", "data_files": [
            {"split": names[s], "path": f"{s}.{shown}"} for s in SPLITS if len(getattr(prepared, s))]}]
    return head


def _splits(prepared: PreparedData) -> str:
    counts = ", ".join(f"{n:,} {name}" for name, n in prepared.report.splits.items())
    return f"{counts}. SHA-256 over questions and answers of all splits, in order: `{prepared.sha256}`."


def _sources(prepared: PreparedData) -> str:
    lines = ["| source | licence | rows read | rows used | columns |", "|---|---|---:|---:|---|"]
    for source in prepared.report.sources:
        columns = ", ".join(f"{role} from `{_cell(column)}`" for role, column in source.columns.items())
        lines.append(f"| {_cell(source.title)} | {_cell(source.licence)} | {source.rows_read:,} | {source.rows_used:,} | "
                     f"{columns} |")
    return "\n".join(lines)


def _steps(prepared: PreparedData) -> str:
    lines = ["| step | rows changed | rows dropped |", "|---|---:|---:|"]
    for step in prepared.report.steps:
        if step.on:
            lines.append(f"| {CLEANING_STEPS[step.name].title} | {step.changed:,} | {step.dropped:,} |")
    reasons = "\n".join(f"- {n:,} rows: {reason}" for reason, n in prepared.report.dropped.items())
    return "\n".join(lines) + ("\n\nRows that reached no split, by reason:\n\n" + reasons if reasons else "")


def _overlaps(prepared: PreparedData) -> str:
    return "\n".join(f"- {o.benchmark}: {o.found:,} of {o.questions:,} questions share a run of words with "
                     f"{o.train_rows:,} training rows." for o in prepared.report.overlaps)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:200]
