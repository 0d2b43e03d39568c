"""Texts for the embedded base model: questions with answers and prose, from Parquet and JSONL files.

Questions and answers come through the project's own data steps (`medassist.data`), so that what is cleaned for people
is cleaned here; a share of their topics is held out. Prose is read by column. Knows nothing of tokens or models.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medassist.config import DataConfig, DatasetConfig, RunConfig
from medassist.data import Example, prepare_data
from medassist.errors import DataError
from medassist.prompts import sentence_ends


class SourceConfig(BaseModel):
    """One file of the mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Below the data folder; .parquet or .jsonl.")
    kind: Literal["questions", "prose", "terms"]
    licence: str
    weight: float = Field(1.0, gt=0, description="How often it is drawn from, against the others of its kind.")
    mapping: dict[str, str] | Literal["auto"] = "auto"
    held_out: int = Field(0, ge=0, description="Rows kept out of training, by whole topics where the data names them.")
    max_answer_chars: int = Field(1200, ge=100)
    max_rows: int | None = None
    leave_out: str = Field("", description="Questions: a pattern; rows whose answer holds it are left out.")
    column: str = Field("text", description="Prose: the column with the text.")
    title: str = Field("", description="Prose: the column that names a part; parts are held out whole.")
    reading: bool = Field(True, description="Whether questions about its passages are made.")


@dataclass(frozen=True)
class Term:
    """A name and what it means, as a dictionary has it."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Prose:
    """A part of a book: its paragraphs in order."""

    title: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """What was read of one source: for training, and what is held out."""

    source: SourceConfig
    train: tuple[Example | Prose | Term, ...]
    held_out: tuple[Example | Prose | Term, ...] = ()


def read_source(folder: Path, source: SourceConfig, seed: int = 0) -> Texts:
    """The texts of one source.

    Raises:
        DataError: the file is not there, or has not the columns.
    """
    path = folder / source.path
    if not path.is_file():
        raise DataError(f"There is no file {source.path} in {folder.name}.", "Name the data folder by --data.")
    if source.kind == "questions":
        return _read_questions(path, source, seed)
    rows = list(_rows(path))
    if not rows or source.column not in rows[0]:
        raise DataError(f"{source.path} has no column '{source.column}'.", "Set `column` in the configuration.")
    random.Random(f"{seed} {source.path}").shuffle(rows)
    rows = rows[: source.max_rows]
    if source.kind == "terms":
        found: list[Prose | Term] = [t for r in rows if (t := _term(r, source)) is not None]
    else:
        found = [
            Prose(str(r.get(source.title) or ""), tuple(split_paragraphs(str(r[source.column] or "")))) for r in rows
        ]
    return Texts(source, tuple(found[source.held_out :]), tuple(found[: source.held_out]))


def _read_questions(path: Path, source: SourceConfig, seed: int) -> Texts:
    config = RunConfig(
        datasets=(DatasetConfig(id=str(path), mapping=source.mapping, max_rows=source.max_rows, select="random"),),
        data=DataConfig(
            seed=seed,
            eval_size=0,
            test_size=source.held_out,
            split_by="topic" if source.held_out else "question",
            max_answer_chars=source.max_answer_chars,
        ),
    )
    prepared = prepare_data(config)
    unwanted = re.compile(source.leave_out or r"(?!)")
    train, held_out = (
        tuple(plain for e in part if not unwanted.search(e.answer) and (plain := _plain(e)).answer)
        for part in (prepared.train, prepared.test)
    )
    return Texts(source, train, held_out)


def _plain(example: Example) -> Example:
    """Without what MedQuAD's forms put in: `What is (are)`, a heading, the question once more before the answer."""
    answer = re.sub(r"^(?:Key Points\s*)?(?:-\s+)?", "", example.answer)
    first, *rest = split_sentences(answer) or [""]
    if first.endswith("?") and rest:
        answer = answer[answer.index(first) + len(first) :].strip() if first in answer else " ".join(rest)
    return replace(example, question=example.question.replace("What is (are) ", "What is "), answer=answer.strip())


def _rows(path: Path) -> Iterator[dict]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())
    else:
        raise DataError(f"{path.name} is neither .parquet nor .jsonl.", "Convert it first.")


def _term(row: dict, source: SourceConfig) -> Term | None:
    """A term with a meaning in plain words: ontologies write relations such as `has_material_basis_in` into theirs."""
    name, meaning = str(row.get(source.title) or "").strip(), " ".join(str(row.get(source.column) or "").split())
    meaning = _plain_relations(meaning).rstrip(".")
    if not name or not 3 <= len(meaning.split()) <= 60 or "_" in meaning:
        return None
    return Term(name, meaning)


_RELATIONS = {
    "has_material_basis_in": "is caused by",
    "results_in_formation_of": "forms",
    "located_in": "is located in",
    "has_symptom": "has the symptom",
    "results_in": "results in",
    "transmitted_by": "is transmitted by",
    "derives_from": "derives from",
    "composed_of": "is composed of",
    "realized_by_suppression_with": "is suppressed with",
    "realized_by": "is treated with",
    "has_physical_basis_in": "is based in",
}


def _plain_relations(text: str) -> str:
    """`A disease that has_material_basis_in X located_in Y` → `A disease that is caused by X and is located in Y`."""
    for name, words in _RELATIONS.items():
        text = re.sub(rf"\b(that|which|and|or) (?:is )?{name}\b", rf"\1 {words}", text)
        text = re.sub(rf"(?:,? ?\bis|,)? ?\b{name}\b", f" and {words}", text)
    return text.replace(" and and ", " and ").replace(" or has the symptom ", " or ")


def split_paragraphs(text: str) -> list[str]:
    """Paragraphs of running text; headings and bullets are left out, but those that are whole sentences."""
    found = []
    for line in text.splitlines():
        line = " ".join(line.strip().lstrip("-*• ").split())
        if len(line.split()) >= 8 and line[0] != "#" and line[-1:] in ".?!\"”":
            found.append(line)
    return found


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order."""
    text = " ".join(text.split())
    ends = [0, *sentence_ends(text), len(text)]
    return [s for a, b in zip(ends, ends[1:], strict=False) if (s := text[a:b].strip())]


def is_plain_sentence(sentence: str) -> bool:
    """Whether it can stand alone as an answer: a statement of 6 to 40 words that points at nothing outside it."""
    words = sentence.split()
    return (
        6 <= len(words) <= 40
        and sentence[0].isupper()
        and sentence[-1] == "."
        and not re.match(r"(?:This|These|That|Those|It|They|He|She|His|Her|Their|Its|Such|However|But|And|Also|Other|In addition|"
                         r"For example|See|Figure|Table|Box|Click|As (?:shown|seen|noted)|Key Points|Some|Many|Most)\b", sentence)
        and not re.search(r"Human Phenotype Ontology|[Tt]hese resources|[Ff]requently [Aa]sked|the following|[Cc]lick|below", sentence)
        and not re.search(r"https?:|www\.|\bFigure\b|\bTable\b|\bChapter\b|\[|\]|\bclick\b|\be\.g\b|\.\.| - ", sentence)
        and sum(c.isalpha() or c == " " for c in sentence) > 0.88 * len(sentence)
    )
