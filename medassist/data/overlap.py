"""Does the training data hold the exam? Questions of known benchmarks, looked for in the training split by runs of words.

Runs are of 13 words, as GPT-3's authors took them (Brown et al. 2020, appendix C). Exam questions share phrases of that
length ("comes to the physician because of a two-week history of …"), so a question counts as found when half of its
runs stand in one training row; a shorter one when all of its words do, eight at least. Options are left out.
Reads benchmarks like any dataset; knows none by heart.

    python -m medassist data check --dataset FILE --set data.benchmarks='[EXAM.parquet]'
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from medassist.config import DatasetConfig, RunConfig
from medassist.data import choice
from medassist.data.clean import question_key, tidy
from medassist.data.duplicates import hash64
from medassist.data.load import load_table
from medassist.data.mapping import list_readings
from medassist.data.shapes import Example, Overlap, Table
from medassist.errors import DataError

WORDS = 13
FEWEST = 8
_SHARE = 0.5  # of a question's runs
_EXAMPLES = 3


def find_overlaps(config: RunConfig, train: Sequence[Example], catalogue_only: bool = False) -> tuple[Overlap, ...]:
    """The overlap of the training split with each of `data.benchmarks`.

    Raises:
        DataError: a benchmark cannot be read or has no questions.
    """
    if not config.data.benchmarks:
        return ()
    runs: dict[int, list[tuple[int, int]]] = {}  # hash of a run of words → (benchmark, question)
    counts: Counter[tuple[int, int]] = Counter()  # (benchmark, question) → its runs
    sizes: set[int] = set()
    questions: list[list[str]] = []
    titles = []
    for number, name in enumerate(config.data.benchmarks):
        table, _ = load_table(DatasetConfig(id=name), catalogue_only=catalogue_only)
        titles.append(table.title)
        questions.append(list(dict.fromkeys(_questions(table))))
        for place, question in enumerate(questions[-1]):
            for size, run in set(_runs(question_key(question).split())):
                sizes.add(size)
                counts[number, place] += 1
                runs.setdefault(run, []).append((number, place))
    found: list[set[int]] = [set() for _ in questions]
    rows: list[int] = [0] * len(questions)
    for example in train:
        shared = Counter(where for run in set(_all_runs(_text(example), sizes)) for where in runs.get(run, ()))
        hit = {where for where, n in shared.items() if n >= _SHARE * counts[where]}
        for number in {number for number, _ in hit}:
            rows[number] += 1
        for number, place in hit:
            found[number].add(place)
    return tuple(Overlap(title, len(asked), len(places), count, tuple(asked[p][:200] for p in sorted(places)[:_EXAMPLES]))
                 for title, asked, places, count in zip(titles, questions, found, rows))


def _questions(table: Table) -> Iterator[str]:
    """The questions of a benchmark, without options; PubMedQA-like sets with a context are read by their question."""
    readings = list_readings(table.sample, table.columns())
    column = next((r.mapping[role] for r in readings for role in ("question", "instruction") if role in r.mapping), None)
    if column is None:
        column = next((c for c in table.columns() if c.strip().lower() in ("question", "query", "stem", "text")), None)
    if column is None:
        raise DataError(f"The benchmark {table.title} has no column that looks like a question.",
                        "Name the column 'question'.")
    for row, _ in table.read():
        text = row.get(column)
        if isinstance(text, str) and text.strip():
            yield tidy(text)


def _text(example: Example) -> str:
    """All that is asked and told in an example, exam options left out."""
    asked = [*(q for q, _ in example.history), example.question.partition(f"\n\n{choice.LETTERS[0]}. ")[0]]
    return "\n".join([*asked, *(a for _, a in example.history), example.answer])


def _runs(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(length, hash) of the runs by which a question is known."""
    if FEWEST <= len(words) < WORDS:
        yield len(words), hash64(" ".join(words))
    for at in range(len(words) - WORDS + 1):
        yield WORDS, hash64(" ".join(words[at:at + WORDS]))


def _all_runs(text: str, sizes: Iterable[int]) -> Iterator[int]:
    words = question_key(text).split()
    for size in sizes:
        for at in range(len(words) - size + 1):
            yield hash64(" ".join(words[at:at + size]))
