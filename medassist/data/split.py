"""Train, eval and test: by question, so that no question stands in two splits.

    from medassist.data.split import split_candidates

A source's own splits are kept. Where it has an eval but no test split, that is the test split, and eval is
cut from train. A question in two splits stays in the later one of train < eval < test. Knows no files.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from medassist.data import shapes
from medassist.data.shapes import Candidate
from medassist.errors import DataError

_EVAL_CAP = 200  # the default eval split is for a loss curve; more only costs time


@dataclass
class Splits:
    """The three splits, what was dropped on the way, and notes for the report."""

    train: list[Candidate] = field(default_factory=list)
    eval: list[Candidate] = field(default_factory=list)
    test: list[Candidate] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def split_candidates(candidates: Sequence[Candidate], *, test_size: int | None, eval_size: int | None,
                     seed: int, keep_repeats: bool = False) -> Splits:
    """Split by question.

    Args:
        candidates: in order; each keeps its place within its split.
        test_size: examples held out; None for the data's own test split, else a tenth; 0 for none.
        eval_size: None for the data's own, else a tenth of the training part; never more than 200.
        seed: decides which questions are held out.
        keep_repeats: keep a question that has the same answer twice within one split.

    Raises:
        DataError: nothing would be left to train on.
    """
    splits = Splits()
    own = _own_splits(candidates, test_size, splits)
    if not keep_repeats:
        _take_out_repeats(splits)
    _take_out_leaks(splits)
    rng = random.Random(seed)

    pool = len([c for c in splits.train if c.source not in own["test"]])
    wanted = test_size if test_size is not None else len(splits.test) + _tenth(pool)
    splits.test = _fit(splits.test, wanted, shapes.OVER_TEST, splits, rng)
    splits.test += _cut(splits, wanted - len(splits.test), own["test"], rng, "test_size")

    pool = len([c for c in splits.train if c.source not in own["eval"]])
    wanted = eval_size if eval_size is not None else min(_EVAL_CAP, len(splits.eval) + _tenth(pool))
    splits.eval = _fit(splits.eval, wanted, shapes.OVER_EVAL, splits, rng)
    splits.eval += _cut(splits, wanted - len(splits.eval), own["eval"] if eval_size is None else set(), rng,
                        "eval_size")
    if not splits.train:
        raise DataError(f"Nothing is left to train on: {len(splits.test)} examples went to test and "
                        f"{len(splits.eval)} to eval.",
                        "Lower data.test_size and data.eval_size, or add rows.")
    return splits


def _tenth(count: int) -> int:
    return max(1, round(count / 10)) if count > 1 else 0


def _own_splits(candidates: Sequence[Candidate], test_size: int | None,
                splits: Splits) -> dict[str, set[int]]:
    """File candidates under their sources' own splits; returns which sources have such splits."""
    named = {s: {c.source for c in candidates if c.split == s} for s in shapes.SPLITS}
    promoted = named["eval"] - named["test"] if test_size != 0 else set()
    if promoted:
        splits.notes.append("The data's own evaluation split is the test split; eval is cut from train.")
    for candidate in candidates:
        place = candidate.split or "train"
        if place == "eval" and candidate.source in promoted:
            place = "test"
        getattr(splits, place).append(candidate)
    return {"test": named["test"] | promoted, "eval": named["eval"] - promoted}


def _take_out_repeats(splits: Splits) -> None:
    """One of each pair within a split; sources may hold the same rows."""
    for name in shapes.SPLITS:
        seen: set[tuple[str, str]] = set()
        kept = []
        for candidate in getattr(splits, name):
            pair = (candidate.key, candidate.example.answer)
            if pair in seen:
                splits.dropped[shapes.REPEATED] += 1
            else:
                seen.add(pair)
                kept.append(candidate)
        setattr(splits, name, kept)


def _take_out_leaks(splits: Splits) -> None:
    """Take questions out of a split that stand in a later one of train < eval < test."""
    for name, later, reason in (("eval", "test", shapes.ALSO_IN_TEST), ("train", "test", shapes.ALSO_IN_TEST),
                                ("train", "eval", shapes.ALSO_IN_EVAL)):
        keys = {c.key for c in getattr(splits, later)}
        rows = getattr(splits, name)
        kept = [c for c in rows if c.key not in keys]
        splits.dropped[reason] += len(rows) - len(kept)
        setattr(splits, name, kept)


def _fit(rows: list[Candidate], wanted: int, reason: str, splits: Splits,
         rng: random.Random) -> list[Candidate]:
    """At most `wanted` of a data's own held-out rows; the others are not trained on either."""
    if len(rows) <= wanted:
        return rows
    chosen = set(rng.sample(range(len(rows)), wanted))
    splits.dropped[reason] += len(rows) - wanted
    return [c for i, c in enumerate(rows) if i in chosen]


def _cut(splits: Splits, wanted: int, not_from: set[int], rng: random.Random,
         setting: str) -> list[Candidate]:
    """Move `wanted` examples out of train, whole questions at a time, from sources without such a split."""
    if wanted <= 0:
        return []
    eligible = {c.key for c in splits.train if c.source not in not_from}
    groups = Counter(c.key for c in splits.train if c.key in eligible)
    order = list(groups)
    rng.shuffle(order)
    taken: set[str] = set()
    count = 0
    for key in order:
        if count + groups[key] <= wanted:
            taken.add(key)
            count += groups[key]
        if count == wanted:
            break
    if count < wanted:
        splits.notes.append(f"data.{setting}: {wanted - count} fewer held-out examples than asked for, "
                            "because questions are not torn apart and own splits are kept.")
    cut = [c for c in splits.train if c.key in taken]
    splits.train = [c for c in splits.train if c.key not in taken]
    return cut
