"""Train, eval and test: by group, so that no question stands in two splits.

    from medassist.data.split import split_rows

A source's own splits are kept. Where it has an eval but no test split, that is the test split, and eval is
cut from train. What stands in two splits stays in the later one of train < eval < test. Works on hashes of the rows,
a few dozen bytes each; knows no files and no texts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from medassist.data import shapes
from medassist.errors import DataError

TRAIN, EVAL, TEST = 0, 1, 2
_EVAL_CAP = 200  # the default eval split is for a loss curve; more only costs time


@dataclass
class Rows:
    """The rows that wait for a split, in order; arrays of shape (rows,)."""

    place: np.ndarray  # int64, in the prepared dataset
    source: np.ndarray  # int16, in config.datasets
    own: np.ndarray  # int8, the split that the source filed it under: -1 for none, else TRAIN, EVAL or TEST
    key: np.ndarray  # int64, hash of the question
    group: np.ndarray  # int64; rows of one group never stand in two splits
    cut_group: np.ndarray  # int64; as group, and also a topic's rows together where that is wanted

    def __len__(self) -> int:
        return len(self.place)

    def take(self, chosen: np.ndarray) -> Rows:
        """The rows that a mask or an array of indices chooses."""
        return Rows(self.place[chosen], self.source[chosen], self.own[chosen], self.key[chosen], self.group[chosen],
                    self.cut_group[chosen])


@dataclass
class Splits:
    """Places of the three splits, what was dropped on the way, and notes for the report."""

    train: np.ndarray
    eval: np.ndarray
    test: np.ndarray
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def own_splits(source: np.ndarray, own: np.ndarray, test_size: int | None) -> tuple[np.ndarray, dict[int, set[int]]]:
    """The split that each row starts in, and which sources have a test and an eval split of their own.

    A source's eval split is its test split where it has none and one is wanted.
    """
    named = {code: set(source[own == code].tolist()) for code in (EVAL, TEST)}
    promoted = named[EVAL] - named[TEST] if test_size != 0 else set()
    start = np.where(own < 0, TRAIN, own).astype(np.int8)
    if promoted:
        start[(start == EVAL) & np.isin(source, sorted(promoted))] = TEST
    return start, {TEST: named[TEST] | promoted, EVAL: named[EVAL] - promoted}


def split_rows(rows: Rows, *, test_size: int | None, eval_size: int | None, seed: int) -> Splits:
    """Split by group.

    Args:
        test_size: examples held out; None for the data's own test split, else a tenth; 0 for none.
        eval_size: None for the data's own, else a tenth of the training part; never more than 200.
        seed: decides which groups are held out.

    Raises:
        DataError: nothing would be left to train on.
    """
    dropped: Counter[str] = Counter()
    notes: list[str] = []
    start, own = own_splits(rows.source, rows.own, test_size)
    if (start[rows.own == EVAL] == TEST).any():
        notes.append("The data's own evaluation split is the test split; eval is cut from train.")
    parts = {code: rows.take(start == code) for code in (TRAIN, EVAL, TEST)}
    for code, later, same, like in ((EVAL, TEST, shapes.ALSO_IN_TEST, shapes.LIKE_TEST),
                                    (TRAIN, TEST, shapes.ALSO_IN_TEST, shapes.LIKE_TEST),
                                    (TRAIN, EVAL, shapes.ALSO_IN_EVAL, shapes.LIKE_EVAL)):
        parts[code] = _without_leaks(parts[code], parts[later], same, like, dropped)
    rng = np.random.default_rng(seed)
    held = {}
    for code, size, reason, setting in ((TEST, test_size, shapes.OVER_TEST, "test_size"),
                                        (EVAL, eval_size, shapes.OVER_EVAL, "eval_size")):
        pool = int((~np.isin(parts[TRAIN].source, sorted(own[code]))).sum())
        wanted = size if size is not None else len(parts[code]) + _tenth(pool)
        if code == EVAL and size is None:
            wanted = min(_EVAL_CAP, wanted)
        fitted = _fit(parts[code], wanted, reason, dropped, rng)
        closed = set() if code == EVAL and size is not None else own[code]
        parts[TRAIN], cut, short = _cut(parts[TRAIN], wanted - len(fitted), closed, rng)
        if short:
            notes.append(f"data.{setting}: {short} fewer held-out examples than asked for, "
                         "because questions are not torn apart and own splits are kept.")
        held[code] = np.concatenate([fitted.place, cut.place])
    if not len(parts[TRAIN]):
        raise DataError(f"Nothing is left to train on: {len(held[TEST])} examples went to test and "
                        f"{len(held[EVAL])} to eval.",
                        "Lower data.test_size and data.eval_size, or add rows.")
    return Splits(parts[TRAIN].place, held[EVAL], held[TEST], dropped, notes)


def _tenth(count: int) -> int:
    return max(1, round(count / 10)) if count > 1 else 0


def _without_leaks(rows: Rows, later: Rows, same: str, like: str, dropped: Counter[str]) -> Rows:
    """Rows without those whose question, answer or wording stands in a later split."""
    question = np.isin(rows.key, later.key)
    group = np.isin(rows.group, later.group)
    dropped[same] += int(question.sum())
    dropped[like] += int((group & ~question).sum())
    return rows.take(~(question | group))


def _fit(rows: Rows, wanted: int, reason: str, dropped: Counter[str], rng: np.random.Generator) -> Rows:
    """At most `wanted` of a data's own held-out rows; the others are not trained on either."""
    if len(rows) <= wanted:
        return rows
    dropped[reason] += len(rows) - wanted
    return rows.take(np.sort(rng.choice(len(rows), wanted, replace=False)))


def _cut(train: Rows, wanted: int, not_from: set[int], rng: np.random.Generator) -> tuple[Rows, Rows, int]:
    """`wanted` rows moved out of train, whole groups at a time, from sources without such a split.

    Returns:
        What stays, what was cut, and how many fewer were found than wanted.
    """
    if wanted <= 0 or not len(train):
        return train, train.take(np.zeros(len(train), dtype=bool)), max(wanted, 0)
    groups, index, counts = np.unique(train.cut_group, return_inverse=True, return_counts=True)
    closed = np.zeros(len(groups), dtype=bool)
    closed[index[np.isin(train.source, sorted(not_from))]] = True
    taken = np.zeros(len(groups), dtype=bool)
    count = 0
    for group in rng.permutation(len(groups)).tolist():
        if not closed[group] and count + counts[group] <= wanted:
            taken[group] = True
            count += int(counts[group])
            if count == wanted:
                break
    cut = taken[index]
    return train.take(~cut), train.take(cut), wanted - count
