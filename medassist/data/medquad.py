"""MedQuAD's own XML, one document a file, as rows of question, answer and what stands around them: `stream_document`.

Nothing that a document declares is followed: a document type or an entity of its own is refused before it is
read, so that neither expansion nor a file elsewhere can come in by it. Knows nothing of folders or of what
the columns are used for.

    python -m medassist data preview --dataset MedQuAD/1_CancerGov_QA
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.parsers import expat

from medassist.data.textfiles import LOCAL_LIMITS, check_row, file_name, open_regular
from medassist.errors import DataError

# The largest document of MedQuAD has a fifth of a megabyte.
_LIMITS = replace(LOCAL_LIMITS, file_bytes=5_000_000, rows=10_000)
_CHUNK = 1_000_000  # few and large: expat goes over a token that is cut again from its start
_DEPTH = 20
_ROOT = re.compile(rb"<Document[\s>]")
_LISTS = {"CUI": "umls_cui", "SemanticType": "semantic_types", "Synonym": "synonyms"}
_TEXTS = {"Focus": "focus", "Category": "category", "SemanticGroup": "semantic_group"}
_PAIR = {"Question": "question", "Answer": "answer"}
_NEXT_STEP = "Give documents as abachaa/MedQuAD has them, or save the rows as CSV or JSONL."


def looks_like_medquad(path: Path) -> bool:
    """Whether an .xml file begins as MedQuAD's documents do."""
    with open_regular(path, LOCAL_LIMITS) as file:
        return bool(_ROOT.search(file.read(4096)))


def stream_document(path: Path) -> Iterator[dict[str, Any]]:
    """One row for each question of a document; an answer that it leaves out (for copyright) is "".

    Raises:
        DataError: it is not a MedQuAD document, not well-formed, too large, or declares entities.
    """
    name = file_name(path)
    document = _Document(path.resolve().parent.name, name)
    count = 0
    with open_regular(path, _LIMITS) as file:
        while chunk := file.read(_CHUNK):
            for row in document.feed(chunk):
                count += 1
                yield check_row(row, count, name, _LIMITS)
        document.feed(b"", last=True)


class _Document:
    """What has been read of one document; rows come out as their pairs end."""

    def __init__(self, collection: str, name: str) -> None:
        self._name = name
        self._path: list[str] = []
        self._text: list[str] | None = None  # of the field that is open
        self._about: dict[str, Any] = {"collection": collection, "document_id": "", "source": "", "url": "",
                                       "focus": "", "category": None, "umls_cui": [], "semantic_types": [],
                                       "semantic_group": None, "synonyms": []}
        self._row: dict[str, Any] = {}
        self._rows: list[dict[str, Any]] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._declared
        self._parser.EntityDeclHandler = self._declared
        self._parser.ExternalEntityRefHandler = self._declared

    def feed(self, chunk: bytes, *, last: bool = False) -> list[dict[str, Any]]:
        """The rows that `chunk` completes."""
        try:
            self._parser.Parse(chunk, last)
        except expat.ExpatError as error:
            raise DataError(f"{self._name} is not well-formed XML near line {error.lineno}.", _NEXT_STEP) from None
        except ValueError:  # an encoding that expat knows of and Python does not
            raise DataError(f"{self._name} is in an encoding that cannot be read.", _NEXT_STEP) from None
        rows, self._rows = self._rows, []
        return rows

    def _declared(self, *_: Any) -> None:
        raise DataError(f"{self._name} declares a document type or entities, which are not read.", _NEXT_STEP)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._path and tag != "Document":
            raise DataError(f"{self._name} is not a MedQuAD document: it begins with <{tag[:40]}>.", _NEXT_STEP)
        if len(self._path) >= _DEPTH:
            raise DataError(f"{self._name} is nested too deeply to be a MedQuAD document.", _NEXT_STEP)
        self._path.append(tag)
        if len(self._path) == 1:
            self._about |= {"document_id": attributes.get("id", ""), "source": attributes.get("source", ""),
                            "url": attributes.get("url", "")}
        elif tag == "QAPair":
            self._row = {"pid": attributes.get("pid", ""), "qid": "", "qtype": "", "question": "", "answer": ""}
        elif tag == "Question":
            self._row |= {"qid": attributes.get("qid", ""), "qtype": attributes.get("qtype", "")}
        if tag in _LISTS or tag in _TEXTS or tag in _PAIR:
            self._text = []

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, tag: str) -> None:
        self._path.pop()
        if tag == "QAPair":
            self._rows.append({**self._about, **self._row})
        if self._text is None or not (tag in _LISTS or tag in _TEXTS or tag in _PAIR):
            return
        text, self._text = "".join(self._text).strip(), None
        if tag in _LISTS:
            self._about[_LISTS[tag]] = [*self._about[_LISTS[tag]], text][:_LIMITS.columns]
        elif tag in _TEXTS:
            self._about[_TEXTS[tag]] = text
        else:
            self._row[_PAIR[tag]] = text
