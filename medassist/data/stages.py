"""The two passes over a table's rows, each kept on disk: `read_rows` (cells → question and answer) and `clean_rows`.

Both stream: what they keep in memory does not grow with the rows. A row that is dropped stays, with its reason, so
that every row is counted. What needs all rows at once (repeats, splits) is done afterwards, on hashes.

Knows nothing of splits' sizes or of files' formats.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from medassist.config import CLEANING_STEPS, DataConfig, DatasetConfig
from medassist.data import duplicates, personal, shapes, store
from medassist.data.boilerplate import REPEATED_WORDS, find_repeated_sentences, is_site_help, strip_boilerplate
from medassist.data.clean import TextCleaner, cut_at_sentence, is_yes_no, question_key, says_nothing
from medassist.data.rows import ReadOptions, read_row
from medassist.data.shapes import CleaningExample, ColumnMap, Table

BITS = {name: 1 << i for i, name in enumerate(CLEANING_STEPS)}
SPLIT_CODES = {None: -1, "train": 0, "eval": 1, "test": 2}
BAND_COLUMNS = tuple(f"band_{i}" for i in range(duplicates.BANDS))

_CELL_STEPS = ("html", "mojibake", "control_characters", "white_space", "exam_phrases")
_EXAMPLES = 3  # shown of each step and of each reason
_SHOWN = 240  # characters of an example
_BATCH = 1000
_YES_NO_ROWS, _YES_NO_SHARE = 5, 0.1  # of the sample; where more answers are a bare yes or no, the set is made of them


@dataclass
class Reads:
    """One table, read and cleaned: rows in the table's order, with what was found on the way."""

    rows: Any  # datasets.Dataset; see _cleaned_features
    changed: dict[str, int]  # step → rows changed
    personal: dict[str, int]  # kind → rows flagged
    examples: dict[str, list[CleaningExample]]  # step → rows that it changed
    drop_examples: dict[str, list[CleaningExample]]  # reason → rows
    notes: list[str]


def read_and_clean(table: Table, columns: ColumnMap, dataset: DatasetConfig, data: DataConfig) -> Reads:
    """Both passes, from disk where they were made before.

    Raises:
        DataError: a row cannot be read, or the disk is full.
    """
    steps = data.cleaning()
    first = store.key_of("read", table.fingerprint, asdict(columns), sorted(steps & set(_CELL_STEPS)),
                         dataset.options_in_prompt, dataset.single_answer_only, _wanted(table, dataset))
    read, noted = store.kept(first, lambda path: _read_rows(path, table, columns, dataset, steps))
    second = store.key_of("clean", first, sorted(steps), data.min_answer_words, data.max_answer_chars, table.id)
    cleaned, found = store.kept(second, lambda path: _clean_rows(path, read, table, columns, data))
    examples = _examples(noted["examples"], table.id)
    for step, rows in _examples(found["examples"], table.id).items():
        examples.setdefault(step, []).extend(rows)
    drops = _examples(noted["drop_examples"], table.id)
    drops |= _examples(found["drop_examples"], table.id)
    changed = Counter(noted["changed"]) + Counter(found["changed"])
    return Reads(cleaned, dict(changed), found["personal"], examples, drops, [*noted["notes"], *found["notes"]])


def _examples(noted: Mapping[str, Iterable[Any]], source: str) -> dict[str, list[CleaningExample]]:
    return {name: [CleaningExample(source, row, before, after) for row, before, after in rows]
            for name, rows in noted.items()}


class _Noted:
    """Counts, and the first few examples of each name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[int, str, str | None]]] = {}

    def add(self, name: str, row: int, before: str, after: str | None) -> None:
        self.counts[name] += 1
        shown = self.examples.setdefault(name, [])
        if len(shown) < _EXAMPLES:
            shown.append((row, *excerpt(before, after)))


def excerpt(before: str, after: str | None) -> tuple[str, str | None]:
    """Both texts, shortened to the place where they begin to differ, personal data covered."""
    before = personal.mask_personal(before[:20_000])
    if after is None:
        return _clip(before, 0), None
    after = personal.mask_personal(after[:20_000])
    same = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
    start = max(0, before.rfind(" ", 0, max(0, same - 40)) + 1)
    return _clip(before, start), _clip(after, start)


def _clip(text: str, start: int) -> str:
    shown = text[start:start + _SHOWN]
    return ("… " if start else "") + shown + (" …" if len(text) > start + _SHOWN else "")


# ── the first pass ───────────────────────────────────────────────────────────────────────────────────


def _wanted(table: Table, dataset: DatasetConfig) -> int | None:
    """How many usable rows are read of a streamed table: some more than asked for, since repeats go later."""
    if not table.streamed or dataset.max_rows is None or dataset.select != "first":
        return None
    return dataset.max_rows + dataset.max_rows // 5 + 200


def _read_rows(path: Path, table: Table, columns: ColumnMap, dataset: DatasetConfig, steps: frozenset[str]
               ) -> dict[str, Any]:
    """Writes question, answer, history, topic, reason, split, length and row of each raw row."""
    import pyarrow

    text, whole = pyarrow.string(), pyarrow.int64()
    schema = pyarrow.schema([("question", text), ("answer", text), ("history", text), ("topic", text), ("reason", text),
                             ("split", pyarrow.int8()), ("length", whole), ("row", whole)])
    noted, drops = _Noted(), _Noted()
    options = ReadOptions(TextCleaner(steps & set(_CELL_STEPS)), dataset.options_in_prompt, dataset.single_answer_only)
    rows = _read(table, columns, options, noted, drops, _wanted(table, dataset))
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
        for batch in _batches(rows):
            writer.write_batch(pyarrow.RecordBatch.from_arrays(
                [pyarrow.array(column, field.type) for column, field in zip(zip(*batch), schema)], schema=schema))
    notes = list(columns.notes)
    if dataset.single_answer_only and "choice_type" not in columns.roles:
        notes.append("no column says which questions have a single answer; all were kept.")
    return {"changed": noted.counts, "examples": noted.examples, "drop_examples": drops.examples,
            "notes": [*(f"{table.title}: {note}" for note in notes), *table.notes]}


def _read(table: Table, columns: ColumnMap, options: ReadOptions, noted: _Noted, drops: _Noted, wanted: int | None
          ) -> Iterator[tuple[Any, ...]]:
    usable = 0
    rows = table.read()
    try:
        for number, (row, split) in enumerate(rows, 1):
            pair = read_row(row, columns, options)
            code = SPLIT_CODES.get(split, -1)
            if isinstance(pair, str):
                drops.add(pair, number, _raw_excerpt(row, columns), None)
                yield "", "", "", "", pair, code, 0, number
                continue
            for step, (before, after) in options.cleaner.changed.items():
                noted.add(step, number, before, after)
            history = json.dumps(pair.history, ensure_ascii=False) if pair.history else ""
            yield (pair.question, pair.answer, history, pair.topic or "", "", code, pair.length, number)
            usable += 1
            if usable == wanted:
                break
    finally:
        close = getattr(rows, "close", None)
        if close is not None:
            close()


def _raw_excerpt(row: Mapping[str, Any], columns: ColumnMap) -> str:
    """What a row that could not be read holds, as "column: text", the mapped columns first."""
    names = list(dict.fromkeys([*columns.roles.values(), *row]))
    parts = [f"{name}: {str(row[name])[:100]}" for name in names if row.get(name) not in (None, "")]
    return " · ".join(parts[:4]) or "(an empty row)"


def _batches(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    return iter(lambda: list(islice(rows, _BATCH)), [])


# ── the second pass ──────────────────────────────────────────────────────────────────────────────────


def _clean_rows(path: Path, read: Any, table: Table, columns: ColumnMap, data: DataConfig) -> dict[str, Any]:
    """Maps the rows read to cleaned ones with the hashes by which repeats and splits are found."""
    cleaner = _RowCleaner(read, columns, data)
    if len(read):
        read.map(lambda batch: cleaner.clean_batch(batch, table.id), batched=True, batch_size=_BATCH,
                 remove_columns=read.column_names, features=_cleaned_features(), cache_file_name=str(path),
                 load_from_cache_file=False, new_fingerprint=path.stem)
    else:  # map would write no file
        import pyarrow

        schema = _cleaned_features().arrow_schema
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema):
            pass
    return {"changed": cleaner.noted.counts, "examples": cleaner.noted.examples, "personal": cleaner.personal,
            "drop_examples": cleaner.drops.examples, "notes": [f"{table.title}: {note}" for note in cleaner.notes]}


@cache
def _cleaned_features() -> Any:
    """The columns of cleaned rows. key, pair, answer_key and topic_key are 64-bit hashes; 0 stands for none."""
    import datasets

    texts = ("question", "answer", "history", "topic", "source", "reason")
    numbers = ("length", "row", "key", "pair", "answer_key", "topic_key", "order", *BAND_COLUMNS)
    return datasets.Features({**{n: datasets.Value("string") for n in texts}, "split": datasets.Value("int8"),
                              **{n: datasets.Value("int64") for n in numbers}})


class _RowCleaner:
    """Cleans rows that were read; what it needs to know of all of them comes from a sample."""

    def __init__(self, read: Any, columns: ColumnMap, data: DataConfig) -> None:
        self.steps, self.data = data.cleaning(), data
        self.is_choice = columns.kind == "multiple_choice"
        self.noted, self.drops = _Noted(), _Noted()
        self.personal: Counter[str] = Counter()
        self.notes: list[str] = []
        self.repeated: frozenset[str] = frozenset()
        sample = _sample(read)
        self.yes_no = sum(map(is_yes_no, sample)) >= max(_YES_NO_ROWS, _YES_NO_SHARE * len(sample))
        if "boilerplate" in self.steps:
            self.repeated = find_repeated_sentences(sample)
        if self.repeated:
            self.notes.append(f"{len(self.repeated)} sentences that stand in many answers were taken out of all of them.")

    def clean_batch(self, batch: Mapping[str, list[Any]], source: str) -> dict[str, list[Any]]:
        rows = [self._clean(dict(zip(batch, values)), source) for values in zip(*batch.values())]
        return {name: [row[name] for row in rows] for name in _cleaned_features()}

    def _clean(self, row: dict[str, Any], source: str) -> dict[str, Any]:
        row |= {"source": source, **dict.fromkeys(("key", "pair", "answer_key", "topic_key", "order", *BAND_COLUMNS), 0)}
        if row["reason"]:
            return row
        talk = [*json.loads(row["history"] or "[]"), (row["question"], row["answer"])]
        cleaned = [(q, *self._answer(q, a, row["row"])) for q, a in talk]
        kept = [(q, a) for q, a, why in cleaned if not why]
        # Of a conversation only the exchange goes that says nothing; the row goes when none is left.
        reason = "" if kept else cleaned[-1][2]
        *history, (question, answer) = kept or talk
        flagged = frozenset()
        if "personal_data" in self.steps or "drop_personal_data" in self.steps:
            flagged = personal.find_personal("\n".join(text for exchange in talk for text in exchange))
            self.personal.update(flagged)
            self.noted.counts["personal_data"] += bool(flagged)
        if flagged and not reason and "drop_personal_data" in self.steps:
            reason = shapes.PERSONAL
        if reason:
            self.drops.add(reason, row["row"], f"{row['question']} → {row['answer']}", None)
            return row | {"reason": reason}
        row |= {"question": question, "answer": answer, "history": json.dumps(history, ensure_ascii=False) if history else ""}
        return row | self._hashes(question, answer, history, row["topic"])

    def _answer(self, question: str, answer: str, number: int) -> tuple[str, str]:
        """The cleaned answer, and the reason why its row goes or ""."""
        steps, before = self.steps, answer
        if "boilerplate" in steps:
            answer = strip_boilerplate(answer, self.repeated)
            if answer != before:
                self.noted.add("boilerplate", number, before, answer)
            if not answer:
                return "", shapes.BOILERPLATE
        if "site_help" in steps and is_site_help(question, answer):
            return answer, shapes.SITE_HELP
        if "too_short" in steps and self._is_too_short(question, answer):
            return answer, shapes.TOO_SHORT
        if "off_topic" in steps and not _gate().check(question.split("\n\nA. ")[0]).allowed:
            return answer, shapes.OFF_TOPIC
        if "too_long" in steps and len(answer) > self.data.max_answer_chars:
            cut = cut_at_sentence(answer, self.data.max_answer_chars)
            self.noted.add("too_long", number, answer, cut)
            answer = cut
        return answer, ""

    def _is_too_short(self, question: str, answer: str) -> bool:
        if not any(len(word) > 1 and word[0].isalpha() for word in question_key(question).split()):
            return True
        if self.is_choice or self.yes_no and is_yes_no(answer):
            return False
        return says_nothing(answer, self.data.min_answer_words)

    def _hashes(self, question: str, answer: str, history: list[tuple[str, str]], topic: str) -> dict[str, int]:
        hash64 = duplicates.hash64
        key = self._key(history[0][0] if history else question)
        words = question_key(answer)
        found = {"key": hash64(key), "topic_key": hash64(question_key(topic)) if topic else 0,
                 "pair": hash64(json.dumps([key, question, answer, history], ensure_ascii=False)
                                if history else f"{key}\0{answer}"),
                 "answer_key": hash64(words) if words.count(" ") >= REPEATED_WORDS - 1 else 0}
        if "near_duplicates" in self.steps:
            told = " ".join([*(t for pair in history for t in pair), answer])
            asked = history[0][0] if history else question
            found["order"] = hash64(" ".join(duplicates.substance(question_key(asked))))
            found |= dict(zip(BAND_COLUMNS, duplicates.signature(asked, told)))
        return found

    def _key(self, question: str) -> str:
        """A question's words; of an exam question the options in whatever order, without their letters."""
        if not self.is_choice or "\n\nA. " not in question:
            return question_key(question)
        stem, _, options = question.partition("\n\nA. ")
        texts = [line.partition(". ")[2] or line for line in f"A. {options}".split("\n")]
        return " | ".join([question_key(stem), *sorted(map(question_key, texts))])


@cache
def _gate() -> Any:
    from medassist.gate import load_gate

    return load_gate()


def _sample(read: Any) -> list[str]:
    """Answers of up to SAMPLE_ROWS rows, evenly taken."""
    step = max(1, len(read) // shapes.SAMPLE_ROWS)
    places = range(0, len(read), step)
    found: list[str] = []
    for start in range(0, len(places), _BATCH):
        rows = read.select(places[start:start + _BATCH], keep_in_memory=True)
        found += [a for a, reason in zip(rows["answer"], rows["reason"]) if not reason]
    return found
