"""A preparation's report as plain text: what was read and how, what each step did, what went and why.

    python -m medassist data check --dataset FILE

Knows the report's shape only; nothing here reads data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medassist.config import CLEANING_STEPS
from medassist.data.shapes import CleaningExample, DataReport, SourceReport

_SHAPES = {"question_answer": "questions and answers", "instruction": "instructions", "messages": "conversations",
           "multiple_choice": "multiple choice", "term": "terms and meanings", "text": "plain text"}


def confidence_words(confidence: float) -> str:
    """How sure a reading is, in words with its figure."""
    word = "sure" if confidence >= 0.9 else "likely" if confidence >= 0.6 else "a guess" if confidence >= 0.3 else "doubtful"
    return f"{word} ({confidence:.2f})"


def shape_words(kind: str) -> str:
    """What a table's shape is called."""
    return _SHAPES.get(kind, kind)


def report_text(report: DataReport, *, examples: bool = False) -> str:
    """The report in lines.

    Args:
        examples: also rows that each step changed or dropped, shortened, personal data covered.
    """
    lines = [", ".join(f"{n:,} {name}" for name, n in report.splits.items())]
    for source in report.sources:
        lines += _source_lines(source)
    lines += _step_lines(report, examples)
    lines += [f"dropped: {n:,} {reason}" for reason, n in report.dropped.items()]
    if report.personal:
        lines.append("personal data: " + ", ".join(f"{n:,} rows with a likely {kind}" for kind, n in report.personal.items())
                     + "; drop them with --set data.clean='[default, drop_personal_data]'")
    for overlap in report.overlaps:
        lines.append(f"overlap: {overlap.found:,} of {overlap.questions:,} questions of {overlap.benchmark} stand in "
                     f"{overlap.train_rows:,} training rows")
        lines += [f"    {text}" for text in overlap.examples if examples]
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)


def _source_lines(source: SourceReport) -> Iterator[str]:
    yield f"{source.id}: {source.rows_used:,} of {source.rows_read:,} rows · licence {source.licence}"
    columns = ", ".join(f"{role} from {column}" for role, column in source.columns.items())
    yield f"  read as {shape_words(source.mapping_kind)}, {confidence_words(source.confidence)}: {columns}"
    for reading in source.readings[:4]:
        if reading.mapping != source.columns:
            mapping = ", ".join(f"{role}: {column}" for role, column in reading.mapping.items())
            yield f"  or, {confidence_words(reading.confidence)}: --set datasets.0.mapping='{{{mapping}}}'"


def _step_lines(report: DataReport, examples: bool) -> Iterator[str]:
    for step in report.steps:
        did = [f"{n:,} {word}" for n, word in ((step.changed, "changed"), (step.dropped, "dropped"), (step.flagged, "flagged")) if n]
        if not step.on:
            did = ["off"]
        if not did:
            continue
        yield f"cleaning: {CLEANING_STEPS[step.name].title}: {', '.join(did)}"
        if examples:
            for example in step.examples:
                yield from _example_lines(example)
    if examples:
        by_steps = {e for step in report.steps for e in step.examples}
        for reason, shown in report.drop_examples.items():
            rest = [e for e in shown if e not in by_steps]
            if rest:
                yield f"examples: {reason}"
            for example in rest:
                yield from _example_lines(example)


def _example_lines(example: CleaningExample) -> Iterator[str]:
    yield f"    {example.source} row {example.row}: {_flat(example.before)}"
    yield "      → (gone)" if example.after is None else f"      → {_flat(example.after)}"


def _flat(text: str) -> str:
    return " ⏎ ".join(part for part in text.split("\n") if part)


def report_json(report: DataReport, sha256: str) -> dict[str, Any]:
    """The report as plain values, with the hash of the prepared data."""
    return {**report.to_json(), "dataset_sha256": sha256}
