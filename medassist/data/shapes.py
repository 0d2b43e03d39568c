"""The shapes that data has inside medassist, and the words for why a row was dropped.

Plain values only: nothing here reads a file or knows a column's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
ONE_SENTENCE = "a text of one sentence"
BOILERPLATE = "nothing but boilerplate"
SITE_HELP = "help on using a web site"
TOO_SHORT = "too short to say anything"
OFF_TOPIC = "off topic for the gate"
PERSONAL = "personal data"
REPEATED = "repeated question and answer"
NEAR_REPEATED = "nearly the same as a row before"
REPEATED_ANSWER = "one answer to 20 or more questions"
OVER_LIMIT = "more rows than the limit"
ALSO_IN_TEST = "question also stands in the test split"
ALSO_IN_EVAL = "question also stands in the eval split"
LIKE_TEST = "answer or wording also stands in the test split"
LIKE_EVAL = "answer or wording also stands in the eval split"
OVER_TEST = "more held-out rows than test_size"
OVER_EVAL = "more held-out rows than eval_size"


Exchange = tuple[str, str]  # what was asked, what was answered


@dataclass(frozen=True)
class Example:
    """One question with its answer, as text; in a conversation the last one, with what went before."""

    question: str
    answer: str
    topic: str | None = None
    source: str = ""  # dataset id; for a local file its name without the folder
    history: tuple[Exchange, ...] = ()  # earlier exchanges; their answers are trained on too


@dataclass(frozen=True)
class Reading:
    """One way to read a table's columns, as a person may choose it. `confidence` is between 0 and 1."""

    label: str
    mapping: dict[str, str]  # role → column, as `datasets.0.mapping` takes it
    kind: str
    confidence: float
    evidence: tuple[str, ...] = ()


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
    confidence: float = 1.0  # that the columns are read rightly; 1.0 when said by the user or the catalogue
    evidence: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()  # the other ways to read it, likeliest first
    all_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class CleaningExample:
    """What a step did to one row, shortened; `after` is None when the row went. Personal data is covered."""

    source: str
    row: int  # from 1, as the source counts
    before: str
    after: str | None


@dataclass(frozen=True)
class StepReport:
    """One step of cleaning: how many rows it changed, dropped or flagged."""

    name: str  # in config.CLEANING_STEPS
    on: bool
    changed: int = 0
    dropped: int = 0
    flagged: int = 0
    examples: tuple[CleaningExample, ...] = ()


@dataclass(frozen=True)
class Overlap:
    """Questions of one benchmark that stand in the training split, whole or for a run of words."""

    benchmark: str
    questions: int
    found: int
    train_rows: int  # training rows that share with some question of it
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataReport:
    """What was read, used and dropped: sum of rows_read == sum of dropped + sum of splits."""

    sources: tuple[SourceReport, ...]
    dropped: dict[str, int]  # reason → rows
    splits: dict[str, int]  # split → examples
    notes: tuple[str, ...]
    steps: tuple[StepReport, ...] = ()
    drop_examples: dict[str, tuple[CleaningExample, ...]] = field(default_factory=dict)  # reason → rows
    personal: dict[str, int] = field(default_factory=dict)  # kind → rows flagged
    overlaps: tuple[Overlap, ...] = ()
    topics: int = 0  # different ones, where the data names them

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class PreparedData:
    """The three splits, ready to be rendered and trained on."""

    train: Sequence[Example]
    eval: Sequence[Example]
    test: Sequence[Example]
    report: DataReport
    sha256: str  # over questions and answers of all splits, in order
    mappings: tuple[dict[str, str], ...] = ()  # of each dataset, as found or said: what run.yaml keeps


RawRow = tuple[dict[str, Any], str | None]  # a row as it came, and the split its source filed it under

SAMPLE_ROWS = 20_000  # rows that columns, index bases and boilerplate are found from


@dataclass
class Table:
    """One source's raw rows, read afresh each time `read` is called, so that none are held in memory.

    `sample` are its first rows, at most SAMPLE_ROWS. `fingerprint` changes with the content: what was
    prepared from a table is kept under it.
    """

    id: str
    title: str
    licence: str
    read: Callable[[], Iterator[RawRow]]
    sample: list[dict[str, Any]]
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    streamed: bool = False  # from far away: read no further than needed

    def columns(self) -> list[str]:
        """Column names of the sample, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.sample for name in row))


@dataclass(frozen=True)
class ColumnMap:
    """Where the parts of an example stand in a row."""

    kind: str  # question_answer | instruction | messages | multiple_choice | term | text
    roles: dict[str, str]  # role → column
    index_base: int = 0  # of multiple-choice labels that are numbers
    constant_instruction: bool = False  # a standing order in every row: the input is the question
    notes: tuple[str, ...] = ()
    confidence: float = 1.0
    evidence: tuple[str, ...] = ()
