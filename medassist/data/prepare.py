"""From a run's settings to three splits of examples and a report of every row: `prepare_data`.

The order is fixed: load, map, clean, drop repeats, choose rows, split. Each row that is lost is counted with
its reason. Knows nothing of tokenizers, prompts or training.

    python -m medassist data check --dataset starter
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medassist.config import DatasetConfig, RunConfig
from medassist.data import shapes
from medassist.data.clean import strip, tidy
from medassist.data.load import load_table
from medassist.data.mapping import choose_mapping
from medassist.data.rows import ReadOptions, read_row
from medassist.data.shapes import Candidate, ColumnMap, DataReport, Example, PreparedData, SourceReport, Table
from medassist.data.split import Splits, split_candidates
from medassist.errors import DataError


def prepare_data(config: RunConfig, *, catalogue_only: bool = False) -> PreparedData:
    """The train, eval and test examples of a run.

    Args:
        catalogue_only: take only datasets of the catalogue, as on a public Space.

    Raises:
        DataError: a dataset cannot be read or mapped, or nothing is left of it.
    """
    candidates: list[Candidate] = []
    sources: list[tuple[Table, ColumnMap]] = []
    dropped: Counter[str] = Counter()
    notes: list[str] = []
    for place, dataset in enumerate(config.datasets):
        table, hint = load_table(dataset, catalogue_only=catalogue_only)
        columns = choose_mapping(dataset.mapping, hint, table.rows, table.columns(), table.title)
        found, lost = _read_table(table, columns, dataset, place, config.data.clean == "default", notes)
        if not found:
            raise DataError(f"No row of {table.title} can be used: {_in_words(lost)}.",
                            "Look at it with `python -m medassist data preview`, or set its columns by hand.")
        chosen = _choose(found, dataset, config.data.seed)
        lost[shapes.OVER_LIMIT] += len(found) - len(chosen)
        candidates += chosen
        dropped += lost
        sources.append((table, columns))
    splits = split_candidates(candidates, test_size=config.data.test_size, eval_size=config.data.eval_size,
                              seed=config.data.seed, keep_repeats=config.data.clean == "none")
    return _prepared(splits, sources, dropped + splits.dropped, notes + splits.notes)


def preview_rows(dataset: DatasetConfig, limit: int, *,
                 catalogue_only: bool = False) -> list[tuple[dict[str, Any], Example | None, str]]:
    """The first `limit` raw rows, each with the example it becomes or the reason why it becomes none.

    Raises:
        DataError: the dataset cannot be read or mapped.
    """
    table, hint = load_table(dataset, catalogue_only=catalogue_only)
    columns = choose_mapping(dataset.mapping, hint, table.rows, table.columns(), table.title)
    how = _how(dataset, True)
    shown = []
    for row in table.rows[:limit]:
        pair = read_row(row, columns, how)
        if isinstance(pair, str):
            shown.append((row, None, pair))
        else:
            shown.append((row, Example(pair.question, pair.answer, pair.topic, table.id), ""))
    return shown


def _how(dataset: DatasetConfig, clean: bool) -> ReadOptions:
    return ReadOptions(tidy=tidy if clean else strip, clean=clean,
                       options_in_prompt=dataset.options_in_prompt,
                       single_answer_only=dataset.single_answer_only)


def _read_table(table: Table, columns: ColumnMap, dataset: DatasetConfig, place: int, clean: bool,
                notes: list[str]) -> tuple[list[Candidate], Counter[str]]:
    """Rows as candidates without repeats, and why the others are none."""
    how = _how(dataset, clean)
    found: list[Candidate] = []
    lost: Counter[str] = Counter()
    seen: set[bytes] = set()
    extra_turns = 0
    for row, split in table:
        pair = read_row(row, columns, how)
        if isinstance(pair, str):
            lost[pair] += 1
            continue
        if clean:
            # 16 bytes a row instead of its text; the split is in it, because a question in two splits is
            # not a repetition but a leak, which is counted apart.
            mark = hashlib.blake2b(f"{split}\0{pair.key}\0{pair.answer}".encode(), digest_size=16).digest()
            if mark in seen:
                lost[shapes.REPEATED] += 1
                continue
            seen.add(mark)
        extra_turns += pair.extra_turns
        found.append(Candidate(Example(pair.question, pair.answer, pair.topic, table.id), split, pair.key,
                               pair.length, place))
    notes += [f"{table.title}: {n}" for n in columns.notes] + table.notes
    if extra_turns:
        notes.append(f"{table.title}: {extra_turns} later answers of longer conversations were not used.")
    if dataset.single_answer_only and "choice_type" not in columns.roles:
        notes.append(f"{table.title}: no column says which questions have a single answer; all were kept.")
    return found, lost


def _choose(found: list[Candidate], dataset: DatasetConfig, seed: int) -> list[Candidate]:
    """At most max_rows, shared out over the source's own splits in proportion, in their order."""
    limit = dataset.max_rows
    if limit is None or len(found) <= limit:
        return found
    by_split: dict[str | None, list[int]] = {}
    for i, candidate in enumerate(found):
        by_split.setdefault(candidate.split, []).append(i)
    rng = random.Random(seed)
    kept: set[int] = set()
    shares = _shares([len(places) for places in by_split.values()], limit)
    for share, places in zip(shares, by_split.values(), strict=True):
        if dataset.select == "random":
            places = rng.sample(places, share)
        elif dataset.select == "longest_answer":
            places = sorted(places, key=lambda i: -found[i].length)
        kept.update(places[:share])
    return [c for i, c in enumerate(found) if i in kept]


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
                     for reason, count in lost.items()) or "it has none"


def _prepared(splits: Splits, sources: Sequence[tuple[Table, ColumnMap]], dropped: Counter[str],
              notes: Sequence[str]) -> PreparedData:
    parts = {name: getattr(splits, name) for name in shapes.SPLITS}
    used = Counter(c.source for rows in parts.values() for c in rows)
    reports = tuple(SourceReport(t.id, t.title, t.licence, len(t.rows), used[i], dict(m.roles), m.kind)
                    for i, (t, m) in enumerate(sources))
    report = DataReport(reports, {r: n for r, n in dropped.most_common() if n},
                        {name: len(rows) for name, rows in parts.items()}, tuple(notes))
    examples = {name: tuple(c.example for c in rows) for name, rows in parts.items()}
    return PreparedData(**examples, report=report, sha256=fingerprint(examples))


def fingerprint(examples: Mapping[str, Sequence[Example]]) -> str:
    """SHA-256 over the questions and answers of all splits, in order; where they came from is not in it."""
    digest = hashlib.sha256()
    for name in shapes.SPLITS:
        for example in examples[name]:
            row = [name, example.question, example.answer]
            digest.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()
