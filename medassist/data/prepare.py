"""From a run's settings to three splits of examples and a report of every row: `prepare_data`.

The order is fixed: load, map, read, clean, drop repeats, choose rows, split. Each row that is lost is counted with
its reason. Texts stay on disk (`store`); in memory are hashes, about 220 bytes a row at the peak and 8 afterwards
(measured by `bench data`). Knows nothing of tokenizers, prompts or training.

    python -m medassist data check --dataset starter
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medassist.config import CLEANING_STEPS, DataConfig, DatasetConfig, RunConfig
from medassist.data import duplicates, shapes, stages
from medassist.data.boilerplate import REPEATED_ROWS
from medassist.data.load import load_table
from medassist.data.mapping import choose_mapping, list_readings
from medassist.data.overlap import find_overlaps
from medassist.data.shapes import (
    CleaningExample,
    ColumnMap,
    DataReport,
    Example,
    PreparedData,
    SourceReport,
    StepReport,
    Table,
)
from medassist.data.split import Rows, own_splits, split_rows
from medassist.data.store import Examples
from medassist.errors import DataError

# The reason for which each step drops rows; the other steps change or flag.
STEP_REASONS = {
    "boilerplate": shapes.BOILERPLATE, "repeated_answers": shapes.REPEATED_ANSWER, "site_help": shapes.SITE_HELP,
    "too_short": shapes.TOO_SHORT, "off_topic": shapes.OFF_TOPIC, "exact_duplicates": shapes.REPEATED,
    "near_duplicates": shapes.NEAR_REPEATED, "drop_personal_data": shapes.PERSONAL}
_EXAMPLES = 3
_OTHER_READINGS = 6


@dataclass
class _Source:
    """One dataset on its way."""

    table: Table
    columns: ColumnMap
    reads: stages.Reads
    rows: int


def prepare_data(config: RunConfig, *, catalogue_only: bool = False) -> PreparedData:
    """The train, eval and test examples of a run.

    Args:
        catalogue_only: take only datasets of the catalogue, as on a public Space.

    Raises:
        DataError: a dataset cannot be read or mapped, or nothing is left of it.
    """
    sources = [_read_source(dataset, config, catalogue_only) for dataset in config.datasets]
    return _Preparation(config, sources).run(catalogue_only)


def _read_source(dataset: DatasetConfig, config: RunConfig, catalogue_only: bool) -> _Source:
    table, hint = load_table(dataset, catalogue_only=catalogue_only)
    columns = choose_mapping(dataset.mapping, hint, table.sample, table.columns(), table.title)
    reads = stages.read_and_clean(table, columns, dataset, config.data)
    return _Source(table, columns, reads, len(reads.rows))


class _Preparation:
    """What has to look at all rows at once: repeats, row limits, splits. Works on arrays of hashes."""

    def __init__(self, config: RunConfig, sources: list[_Source]) -> None:
        import datasets

        self.config, self.sources, self.steps = config, sources, config.data.cleaning()
        parts = [s.reads.rows for s in sources]
        self.rows = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
        self.source = np.repeat(np.arange(len(sources), dtype=np.int16), [s.rows for s in sources])
        self.dropped: Counter[str] = Counter()
        self.drop_examples: dict[str, list[CleaningExample]] = {}
        for source in sources:
            for reason, shown in source.reads.drop_examples.items():
                self.drop_examples.setdefault(reason, []).extend(shown)
        self.alive = self._without_dropped()

    def run(self, catalogue_only: bool) -> PreparedData:
        data = self.config.data
        for number, source in enumerate(self.sources):
            self._need_rows(number, source, "")
        self._drop_repeated_answers()
        start, _ = own_splits(self.source[self.alive], self._column("split"), data.test_size)
        if "exact_duplicates" in self.steps:
            start = self._drop_exact(start)
        pairs = self._drop_near(start) if "near_duplicates" in self.steps else []
        near = np.zeros(len(self.rows), dtype=np.int64)  # rows alike share a number
        for earlier, later in pairs:
            near[later] = near[earlier] = near[earlier] or earlier + 1
        for number, source in enumerate(self.sources):
            self._need_rows(number, source, " after cleaning")
        self._choose()
        rows = self._waiting(near[self.alive])
        splits = split_rows(rows, test_size=data.test_size, eval_size=data.eval_size, seed=data.seed)
        self.dropped += splits.dropped
        places = {"train": splits.train, "eval": splits.eval, "test": splits.test}
        return self._prepared(places, splits.notes, catalogue_only)

    # ── rows and columns ─────────────────────────────────────────────────────────────────────────────

    def _column(self, name: str) -> np.ndarray:
        """A column of the rows still there, shape (alive,)."""
        return self._whole(name)[self.alive]

    def _whole(self, name: str) -> np.ndarray:
        return self.rows.data.column(name).to_numpy()

    def _without_dropped(self) -> np.ndarray:
        """Places of the rows that both passes kept; the others are counted."""
        import pyarrow.compute

        reasons = self.rows.data.column("reason")
        for found in pyarrow.compute.value_counts(reasons).to_pylist():
            if found["values"]:
                self.dropped[found["values"]] += found["counts"]
        return np.flatnonzero(pyarrow.compute.equal(reasons, "").to_numpy())

    def _drop(self, gone: np.ndarray, reason: str) -> None:
        """Takes rows out; `gone` is a mask over the rows still there."""
        if not gone.any():
            return
        self.dropped[reason] += int(gone.sum())
        shown = self.drop_examples.setdefault(reason, [])
        for place in self.alive[gone][: max(0, _EXAMPLES - len(shown))].tolist():
            row = self.rows[place]
            excerpt, _ = stages.excerpt(f"{row['question']} → {row['answer']}", None)
            shown.append(CleaningExample(row["source"], row["row"], excerpt, None))
        self.alive = self.alive[~gone]

    def _need_rows(self, number: int, source: _Source, when: str) -> None:
        if (self.source[self.alive] == number).any():
            return
        import pyarrow.compute

        found = pyarrow.compute.value_counts(source.reads.rows.data.column("reason")).to_pylist()
        lost = {f["values"]: f["counts"] for f in found if f["values"]}
        raise DataError(f"No row of {source.table.title} can be used{when}: {_in_words(lost or self.dropped)}.",
                        "Look at it with `python -m medassist data preview`, or set its columns by hand.")

    # ── repeats ──────────────────────────────────────────────────────────────────────────────────────

    def _drop_repeated_answers(self) -> None:
        """Rows whose answer is given to many questions: it says too little about any of them."""
        if "repeated_answers" not in self.steps:
            return
        for number, source in enumerate(self.sources):
            if source.columns.kind == "multiple_choice":
                continue  # options come again by their nature
            answers = np.where(self.source[self.alive] == number, self._column("answer_key"), 0)
            pairs = np.unique(np.stack([answers, self._column("key")], axis=1)[answers != 0], axis=0)
            values, counts = np.unique(pairs[:, 0], return_counts=True)
            self._drop(np.isin(answers, values[counts >= REPEATED_ROWS]), shapes.REPEATED_ANSWER)

    def _drop_exact(self, start: np.ndarray) -> np.ndarray:
        """All but the first of each question with its answer within one split."""
        # The split goes into the hash: a question in two splits is not a repetition but a leak, counted apart.
        marks = self._column("pair") ^ (start.astype(np.int64) * np.int64(0x5851F42D4C957F2D))
        first = np.zeros(len(marks), dtype=bool)
        first[np.unique(marks, return_index=True)[1]] = True
        self._drop(~first, shapes.REPEATED)
        return start[first]

    def _drop_near(self, start: np.ndarray) -> list[tuple[int, int]]:
        """Drops near duplicates within one split; returns those across splits, as places."""
        questions, answers = self.rows.data.column("question"), self.rows.data.column("answer")
        alive = self.alive

        def pair_at(index: int) -> tuple[str, str]:
            place = int(alive[index])
            return questions[place].as_py(), answers[place].as_py()

        found = duplicates.find_near((self._column(name) for name in stages.BAND_COLUMNS), self._column("order"), pair_at)
        gone = np.zeros(len(alive), dtype=bool)
        across = []
        for earlier, later in found:
            if start[earlier] == start[later]:
                gone[later] = True
            else:
                across.append((int(alive[earlier]), int(alive[later])))
        self._drop(gone, shapes.NEAR_REPEATED)
        return across

    # ── row limits and splits ────────────────────────────────────────────────────────────────────────

    def _choose(self) -> None:
        """At most max_rows of each source, shared out over its own splits in proportion."""
        keep = np.ones(len(self.alive), dtype=bool)
        source, own = self.source[self.alive], self._column("split")
        for number, dataset in enumerate(self.config.datasets):
            mine = np.flatnonzero(source == number)
            if dataset.max_rows is None or len(mine) <= dataset.max_rows:
                continue
            keep[mine] = False
            labels = list(dict.fromkeys(own[mine].tolist()))
            parts = [mine[own[mine] == label] for label in labels]
            rng = np.random.default_rng(self.config.data.seed)
            for part, share in zip(parts, _shares([len(p) for p in parts], dataset.max_rows)):
                keep[self._select(part, share, dataset.select, rng)] = True
        over = ~keep
        self.dropped[shapes.OVER_LIMIT] += int(over.sum())
        self.alive = self.alive[keep]

    def _select(self, part: np.ndarray, share: int, how: str, rng: np.random.Generator) -> np.ndarray:
        if how == "random":
            return rng.choice(part, share, replace=False)
        if how in ("longest_answer", "shortest_answer"):
            length = self._column("length")[part]
            return part[np.argsort(-length if how == "longest_answer" else length, kind="stable")][:share]
        if how == "balanced_topics":
            return part[_in_turn(self._column("topic_key")[part], rng)][:share]
        return part[:share]

    def _waiting(self, near: np.ndarray) -> Rows:
        """The rows still there, with the groups that must not be torn apart."""
        key = self._column("key")
        relations = [key]
        if self.steps:  # a long answer under two questions would be known beforehand
            relations += [self._column("answer_key"), near]
        group = duplicates.same_groups(len(key), relations)
        cut_group = group
        if self.config.data.split_by == "topic":
            cut_group = duplicates.same_groups(len(key), [*relations, self._column("topic_key")])
        return Rows(self.alive, self.source[self.alive], self._column("split"), key, group, cut_group)

    # ── the result ───────────────────────────────────────────────────────────────────────────────────

    def _prepared(self, places: Mapping[str, np.ndarray], split_notes: list[str], catalogue_only: bool) -> PreparedData:
        examples = {name: Examples(self.rows.select(p, keep_in_memory=True)) for name, p in places.items()}
        notes = [note for source in self.sources for note in source.reads.notes] + split_notes
        topics = np.unique(self._column("topic_key"))
        if self.config.data.split_by == "topic" and not topics.any():
            notes.append("data.split_by: no column names a topic, so the splits are by question.")
        report = DataReport(
            self._source_reports(places), {r: n for r, n in self.dropped.most_common() if n},
            {name: len(p) for name, p in places.items()}, tuple(notes), self._step_reports(),
            {reason: tuple(shown[:_EXAMPLES]) for reason, shown in self.drop_examples.items() if self.dropped[reason]},
            self._personal(), find_overlaps(self.config, examples["train"], catalogue_only), int((topics != 0).sum()))
        return PreparedData(**examples, report=report, sha256=fingerprint(examples),
                            mappings=tuple(dict(s.columns.roles) for s in self.sources))

    def _source_reports(self, places: Mapping[str, np.ndarray]) -> tuple[SourceReport, ...]:
        used = Counter(self.source[np.concatenate(list(places.values()))].tolist())
        reports = []
        for number, source in enumerate(self.sources):
            table, columns = source.table, source.columns
            names = table.columns()
            others = tuple(r for r in list_readings(table.sample, names) if r.confidence > 0)[:_OTHER_READINGS]
            reports.append(SourceReport(
                table.id, table.title, table.licence, source.rows, used[number], dict(columns.roles), columns.kind,
                columns.confidence, columns.evidence, others, tuple(map(str, names[:50]))))
        return tuple(reports)

    def _step_reports(self) -> tuple[StepReport, ...]:
        reports = []
        for name in CLEANING_STEPS:
            changed = sum(s.reads.changed.get(name, 0) for s in self.sources)
            shown = [e for s in self.sources for e in s.reads.examples.get(name, [])]
            reason = STEP_REASONS.get(name)
            dropped = self.dropped[reason] if reason else 0
            shown += self.drop_examples.get(reason, []) if reason else []
            changed, flagged = (0, changed) if name == "personal_data" else (changed, 0)
            reports.append(StepReport(name, name in self.steps, changed, dropped, flagged, tuple(shown[:2 * _EXAMPLES])))
        return tuple(reports)

    def _personal(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.reads.personal)
        return dict(total)


def _in_turn(topics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices such that topics take turns, each topic's rows in random order."""
    order = rng.permutation(len(topics))
    by_topic = order[np.argsort(topics[order], kind="stable")]
    ordered = topics[by_topic]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(topics)) - np.repeat(starts, np.diff(np.r_[starts, len(topics)]))
    return by_topic[np.argsort(rank, kind="stable")]


def _shares(sizes: Sequence[int], limit: int) -> list[int]:
    """`limit` divided in proportion to `sizes`, by largest remainder."""
    total = sum(sizes)
    shares = [size * limit // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(sizes[i] * limit % total))
    for i in by_remainder[:limit - sum(shares)]:
        shares[i] += 1
    return shares


def _in_words(lost: Mapping[str, int]) -> str:
    return ", ".join(f"{count} rows with {reason}" if reason.startswith("no ") else f"{count} rows: {reason}"
                     for reason, count in lost.items() if count) or "it has none"


def fingerprint(examples: Mapping[str, Iterable[Example]]) -> str:
    """SHA-256 over the questions and answers of all splits, in order; where they came from is not in it."""
    digest = hashlib.sha256()
    for name in shapes.SPLITS:
        for example in examples[name]:
            row: list[Any] = [name, example.question, example.answer]
            if example.history:
                row.append(example.history)
            digest.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def preview_rows(dataset: DatasetConfig, limit: int, *, data: DataConfig | None = None,
                 catalogue_only: bool = False) -> list[tuple[dict[str, Any], Example | None, str]]:
    """The first `limit` raw rows, each with the example it becomes or the reason why it becomes none.

    What needs all rows (repeats, splits, row limits) is not looked at.

    Raises:
        DataError: the dataset cannot be read or mapped.
    """
    table, hint = load_table(dataset, catalogue_only=catalogue_only)
    columns = choose_mapping(dataset.mapping, hint, table.sample, table.columns(), table.title)
    reads = stages.read_and_clean(table, columns, dataset, data or DataConfig())
    shown = []
    for raw, row in zip(table.sample[:limit], reads.rows.select(range(min(limit, len(reads.rows))), keep_in_memory=True)):
        if row["reason"]:
            shown.append((raw, None, row["reason"]))
        else:
            history = tuple((q, a) for q, a in json.loads(row["history"])) if row["history"] else ()
            shown.append((raw, Example(row["question"], row["answer"], row["topic"] or None, table.id, history), ""))
    return shown
