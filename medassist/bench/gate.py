"""Measures the gate and the red flags on labelled questions: share decided right, with interval, and the median time of one.

It reads JSON Lines by path, so anyone can bring another set: each row has `text` and `label`, and may have
`source` and `history` ([{role, content}]). It knows nothing about where questions come from, and trains nothing.

    python -m medassist bench gate questions.jsonl [--strictness strict] [--vocab DIR] [--wrong 20] [--json]
    python -m medassist bench gate questions.jsonl --against train.jsonl    # other ways to gate, in the same run

A label says which routes are right. medical, follow_up: answer or emergency. everyday: out_of_scope or greeting.
emergency: emergency. lookalike: anything but emergency. greeting: greeting.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medassist.errors import DataError
from medassist.gate import STRICTNESS, Gate, gate_words

RIGHT_ROUTES = {
    "medical": ("answer", "emergency"),
    "follow_up": ("answer", "emergency"),
    "everyday": ("out_of_scope", "greeting"),
    "emergency": ("emergency",),
    "lookalike": ("answer", "greeting", "out_of_scope"),
    "greeting": ("greeting",),
}


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's formula; (0, 1) for no case at all."""
    if count == 0:
        return 0.0, 1.0
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a labelled JSON Lines file; raises DataError with the line number for one that does not fit."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}).") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, label = row["text"], row["label"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}, line {number}: not an object with text and label.") from None
        if label not in RIGHT_ROUTES or not isinstance(text, str):
            raise DataError(
                f"{path}, line {number}: label {label!r} is unknown.",
                f"Use one of {', '.join(RIGHT_ROUTES)}.",
            )
        yield {"source": path.stem, "history": (), **row}


@dataclass
class Tally:
    """What was counted for one source and label."""

    source: str
    label: str
    count: int = 0
    right: int = 0
    emergencies: int = 0
    times_s: list[float] = field(default_factory=list)  # processor time of each question, red flags included
    wrong: list[tuple[str, str, float]] = field(default_factory=list)  # text, route, score

    def to_json(self) -> dict[str, Any]:
        """The tally as plain values."""
        low, high = wilson(self.right, self.count)
        return {
            "source": self.source,
            "label": self.label,
            "count": self.count,
            "right": round(self.right / self.count, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "emergencies": self.emergencies,
            "us_per_question": round(1e6 * statistics.median(self.times_s), 1),
        }


def measure(gate: Gate, rows: Iterable[dict[str, Any]], keep_wrong: int = 0) -> list[Tally]:
    """One tally for each source and label, in the order in which they come."""
    tallies: dict[tuple[str, str], Tally] = {}
    for row in rows:
        key = (str(row["source"]), row["label"])
        tally = tallies.setdefault(key, Tally(*key))
        began = time.process_time()
        decision = gate.check(row["text"], row["history"])
        tally.times_s.append(time.process_time() - began)
        tally.count += 1
        tally.emergencies += decision.route == "emergency"
        if decision.route in RIGHT_ROUTES[row["label"]]:
            tally.right += 1
        elif len(tally.wrong) < keep_wrong:
            tally.wrong.append((row["text"], decision.route, decision.score))
    return list(tallies.values())


# ---------------------------------------------------------------------------- other ways to gate


def other_gates(train: Sequence[dict[str, Any]], gate: Gate) -> dict[str, Callable[[str], bool]]:
    """Other gates made from the same labelled questions: name → whether a text is let in.

    shared word: the rule of the system that this one replaces, any word of the medical questions but stop words.
    word list: any word of the vocabulary that speaks for medicine, whatever its weight.
    tf-idf: scikit-learn's logistic regression over TF-IDF of words and word pairs.

    Raises:
        DataError: there are no questions of one of the labels, or scikit-learn is not installed.
    """
    medical = [r["text"] for r in train if r["label"] == "medical"]
    everyday = [r["text"] for r in train if r["label"] == "everyday"]
    if not medical or not everyday:
        raise DataError("--against needs questions labelled medical and everyday.", "Give a file with both.")
    stop = gate.vocabulary.stop_words
    shared = {word for text in medical for word in gate_words(text)} - stop
    listed = {word for word, term in gate.vocabulary.index.words.items() if term.weight > 0}
    return {
        "shared word": lambda text: any(word in shared for word in gate_words(text)),
        "word list": lambda text: any(word in listed for word in gate_words(text)),
        "tf-idf": _tf_idf(medical, everyday),
    }


def _tf_idf(medical: list[str], everyday: list[str]) -> Callable[[str], bool]:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise DataError("The TF-IDF baseline needs scikit-learn.", "Install it: pip install scikit-learn.") from None
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
    )
    model.fit(medical + everyday, [1] * len(medical) + [0] * len(everyday))
    return lambda text: bool(model.predict([text])[0])


def compare(gates: dict[str, Callable[[str], bool]], rows: Sequence[dict[str, Any]]) -> list[Tally]:
    """One tally for each gate and label; greetings and red flags are ours alone, so only two labels count."""
    tallies = []
    for name, let_in in gates.items():
        for label in ("medical", "everyday"):
            tally = Tally(name, label)
            for row in rows:
                if row["label"] != label or row["history"]:
                    continue
                began = time.process_time()
                allowed = let_in(row["text"])
                tally.times_s.append(time.process_time() - began)
                tally.count += 1
                tally.right += allowed == (label == "medical")
            if tally.count:
                tallies.append(tally)
    return tallies


def _totals(tallies: Sequence[Tally]) -> list[Tally]:
    """One tally for each label over all sources."""
    totals: dict[str, Tally] = {}
    for tally in tallies:
        total = totals.setdefault(tally.label, Tally("all", tally.label))
        total.count += tally.count
        total.right += tally.right
        total.emergencies += tally.emergencies
        total.times_s += tally.times_s
    return list(totals.values())


def render_table(tallies: Sequence[Tally]) -> str:
    """The tallies as a text table, one line each."""
    lines = [
        f"{'source':24} {'label':10} {'count':>7} {'right':>7} {'95 % interval':>15} {'emerg.':>7} {'median µs':>10}"
    ]
    for tally in tallies:
        row = tally.to_json()
        interval = f"{row['low']:.3f}-{row['high']:.3f}"
        lines.append(
            f"{tally.source[:24]:24} {tally.label:10} {tally.count:7d} {row['right']:7.3f} {interval:>15} "
            f"{tally.emergencies:7d} {row['us_per_question']:10.1f}"
        )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m medassist bench gate`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="labelled questions, JSON Lines")
    parser.add_argument("--strictness", choices=STRICTNESS, default="balanced", help="the gate's strictness")
    parser.add_argument("--vocab", type=Path, metavar="DIR", help="another vocabulary folder")
    parser.add_argument(
        "--wrong", type=int, default=0, metavar="N", help="show so many wrong decisions of each set"
    )
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="labelled questions that other ways to gate are made from"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def main(args: argparse.Namespace) -> int:
    """Measures, and prints one line for each source and label, then the totals."""
    gate = Gate.load(args.vocab, args.strictness)
    rows = [row for path in args.files for row in read_rows(path)]
    tallies = measure(gate, rows, args.wrong)
    shown = tallies + _totals(tallies)
    if args.against is not None:
        others = other_gates(list(read_rows(args.against)), gate)
        shown += compare({**others, "this gate": lambda text: gate.check(text).route in ("answer", "emergency")}, rows)
    if args.json:
        for tally in shown:
            print(json.dumps(tally.to_json(), ensure_ascii=False))
    else:
        print(render_table(shown))
    for tally in tallies:
        for text, route, score in tally.wrong:
            print(f"[{tally.source} {tally.label} → {route} {score:+.2f}] {text[:160]}", file=sys.stderr)
    return 0
