"""The shapes that data has inside medassist, and the words for why a row was dropped.

Plain values only: nothing here reads a file or knows a column's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

SPLITS = ("train", "eval", "test")

# Why a row does not reach a split. The report counts each; with the splits they make up every row read.
NO_QUESTION = "no question"
NO_ANSWER = "no answer"
NOT_TEXT = "a cell that is not text"
NO_PAIR = "no user turn followed by an assistant turn"
NO_OPTIONS = "fewer than two options"
NO_RIGHT_OPTION = "no right option marked"
NOT_SINGLE = "not a single-answer question"
REPEATED = "repeated question and answer"
OVER_LIMIT = "more rows than the limit"
ALSO_IN_TEST = "question also stands in the test split"
ALSO_IN_EVAL = "question also stands in the eval split"
OVER_TEST = "more held-out rows than test_size"
OVER_EVAL = "more held-out rows than eval_size"


@dataclass(frozen=True)
class Example:
    """One question with its answer, as text."""

    question: str
    answer: str
    topic: str | None = None
    source: str = ""  # dataset id; for a local file its name without the folder


@dataclass(frozen=True)
class SourceReport:
    """What became of one dataset."""

    id: str
    title: str
    licence: str
    rows_read: int
    rows_used: int
    columns: dict[str, str]  # role → column
    mapping_kind: str


@dataclass(frozen=True)
class DataReport:
    """What was read, used and dropped: sum of rows_read == sum of dropped + sum of splits."""

    sources: tuple[SourceReport, ...]
    dropped: dict[str, int]  # reason → rows
    splits: dict[str, int]  # split → examples
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {**asdict(self), "sources": [asdict(s) for s in self.sources], "notes": list(self.notes)}


@dataclass(frozen=True)
class PreparedData:
    """The three splits, ready to be rendered and trained on."""

    train: tuple[Example, ...]
    eval: tuple[Example, ...]
    test: tuple[Example, ...]
    report: DataReport
    sha256: str  # over questions and answers of all splits, in order


@dataclass
class Table:
    """Raw rows of one source as they came, with the split each was filed under (None: not said)."""

    id: str
    title: str
    licence: str
    rows: list[dict[str, Any]]
    splits: list[str | None]
    notes: list[str] = field(default_factory=list)

    def columns(self) -> list[str]:
        """All column names, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __iter__(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        return zip(self.rows, self.splits, strict=True)


@dataclass(frozen=True)
class Candidate:
    """A row that became an example and waits for selection and splitting."""

    example: Example
    split: str | None  # the split that its source filed it under
    key: str  # normalised question; the same key never stands in two splits
    length: int  # characters of the explanation, or of the answer where there is none
    source: int  # place in config.datasets


@dataclass(frozen=True)
class ColumnMap:
    """Where the parts of an example stand in a row."""

    kind: str  # question_answer | instruction | messages | multiple_choice
    roles: dict[str, str]  # role → column
    index_base: int = 0  # of multiple-choice labels that are numbers
    constant_instruction: bool = False  # a standing order in every row: the input is the question
    notes: tuple[str, ...] = ()
