"""Makes weights.txt and categories.txt anew: how much what is found in a passage speaks for an emergency, and for which.

    PYTHONPATH=. python tests/make_red_flag_weights.py tests/cases/red_flags_{train,dev,own}.jsonl tests/cases_red_flags.txt \\
        --calm calm.txt tests/cases/gate_{dev,hard,more}.jsonl

The cases are lines of {text, label: emergency or lookalike, category, history}, or "label category | text". The calm
texts, one a line or a JSON object each, are ordinary ones (everyday requests, exam questions, encyclopaedic and common
questions), none of them an emergency; each counts little;
`--patients` takes lines of {text} with questions of patients (ChatDoctor, LasseRegin, ai-medical-chatbot): those with a
label for training in `cases/patient_labels.tsv`, read and judged for this project, count as cases. The weights are those of logistic regressions over the features of `medassist.safety.weighing`; an emergency is learned from its most
telling passage, a look-alike from all of its passages. Nothing is learned when the app runs.
Needs numpy, scipy and scikit-learn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from medassist.safety import RED_FLAGS_DIR, RedFlags, decision, weighing
from medassist.safety.reading import read_text

HEAD = """# {what}
# Each line: a weight (log-odds), then the features that have it: word, two words, begin* (words that begin so),
# {{concept}} and {{past concept}} of the lexicon, <fact> about the text; how they are summed up: medassist/safety/weighing.py.
# Made by tests/make_red_flag_weights.py on {date}; not to be edited by hand. Weights computed from the project's own
# cases{others}. Licence of the weights: the project's.
"""
OTHERS = """ and from ordinary questions of MedMCQA (MIT), MedQA (MIT), medical flashcards and wikidoc of medalpaca (cc),
# MedQuAD (CC BY 4.0), NQ-open (Apache 2.0), BANKING77 (CC BY 4.0), CLINC150 (CC BY 3.0), the alpaca demo of LLaMA-Factory
# (Apache 2.0), from sentences of public-domain stories, and from questions of patients in LasseRegin medical-question-answer-data (MIT), ChatDoctor and ai-medical-chatbot
# (Apache 2.0)"""
WORDS = 5.0  # words count so much beside concepts before the ridge
RIDGE = 0.5  # scikit-learn's C: the smaller, the stronger
TABLE = 3.0  # the weight of a case of the table, which must all be right, beside another
CALM, CASE_CALM = 1.0, 0.7  # the weight of one ordinary text beside one case; of one written for this project
ROUNDS = 3  # of choosing the most telling passage of each emergency
KINDS = frozenset(  # those that have enough cases; the others are left to their rules
    ["cardiac", "stroke", "breathing", "anaphylaxis", "poisoning", "suicide", "seizure", "bleeding", "sepsis", "obstetric", "head_injury", "diabetic", "other"]
)
KEEP = {"": 0.25, "category": 1.0}  # smaller weights are left out


@dataclass
class Text:
    """A text with the features of its passages."""

    passages: list[dict[str, float]]
    emergency: bool
    category: str
    weight: float


def read_passages(text: str, history: list, flags: RedFlags) -> list[dict[str, float]]:
    """The features of each passage of a text, as the detector finds them."""
    names = {bit: name for name, bit in flags.bits.items()}
    own = read_text(text, flags)
    frame = decision.Frame.of(own, flags)
    earlier = decision.earlier_of(own, history, flags) if history else []
    facts = decision.facts_of_text(own, text, frame, bool(earlier))
    windows = decision.windows_of(own, earlier)
    return [weighing.features(weighing.found_in(w), facts, names, flags.context) for w in windows] or [{}]


def read_cases(path: Path, flags: RedFlags, weight: float = 1.0) -> list[Text]:
    """The texts of a case file."""
    rows = read_table(path) if path.suffix == ".txt" else read_lines(path)
    return [
        Text(
            read_passages(row["text"], row.get("history") or [], flags),
            row["label"] == "emergency",
            row.get("category", ""),
            weight,
        )
        for row in rows
        if row["label"] in ("emergency", "lookalike")
    ]


def read_lines(path: Path) -> list[dict]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_patients(path: Path, flags: RedFlags) -> list[Text]:
    """The questions of patients that were judged an emergency or none, for training."""
    labels = {}
    for line in (Path(__file__).parent / "cases" / "patient_labels.tsv").read_text(encoding="utf-8").splitlines():
        if line[0] != "#":
            mark, label, part, _ = line.split("\t")
            labels[mark] = label if part == "train" else ""
    found = {}
    for row in read_lines(path):
        text = row["text"][:1200]
        mark = hashlib.sha256(text.encode()).hexdigest()[:16]
        if labels.get(mark) in ("emergency", "no"):
            found[mark] = Text(read_passages(text, [], flags), labels[mark] == "emergency", "", 1.0)
    return [found[mark] for mark in labels if mark in found]


def read_table(path: Path) -> list[dict]:
    """The rows of the table of cases: "emergency cardiac | text"."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, sep, text = line.partition("|")
        if sep and line[0] != "#":
            label, _, category = kind.strip().partition(" ")
            rows.append({"text": text.strip(), "label": label if label == "emergency" else "lookalike", "category": category})
    return rows


def read_calm(path: Path) -> list[str]:
    """Ordinary texts, one a line or one an object."""
    if path.suffix == ".jsonl":
        return [row["text"] for row in read_lines(path)]
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def is_word(name: str) -> bool:
    """Whether a feature is a word or a piece of words."""
    return name[0] not in "{<"


class Matrix:
    """Features by column; words are scaled so that the ridge weighs less on them."""

    def __init__(self, passages: list[dict[str, float]], at_least: int = 5) -> None:
        often = Counter(name for passage in passages for name in passage)
        self.names = sorted(name for name, n in often.items() if n >= at_least)
        self.place = {name: at for at, name in enumerate(self.names)}
        self.scale = np.array([WORDS if is_word(name) else 1.0 for name in self.names])

    def of(self, passages: list[dict[str, float]]) -> csr_matrix:
        """One row for each passage."""
        found = [(at, self.place[n], v) for at, p in enumerate(passages) for n, v in p.items() if n in self.place]
        rows, columns, values = zip(*found, strict=True)
        values = np.array(values) * self.scale[list(columns)]
        return csr_matrix((values, (rows, columns)), shape=(len(passages), len(self.names)))

    def weights(self, model: LogisticRegression) -> dict[str, float]:
        """The weights of a fitted model by name."""
        return {"<bias>": float(model.intercept_[0])} | dict(
            zip(self.names, (model.coef_[0] * self.scale).tolist(), strict=True)
        )


def fit_urgency(texts: list[Text], ridge: float = RIDGE) -> tuple[dict[str, float], list[int]]:
    """The weights of urgency, and the place of the most telling passage of each text."""
    passages = [passage for text in texts for passage in text.passages]
    owner = np.array([at for at, text in enumerate(texts) for _ in text.passages])
    matrix = Matrix(passages)
    table = matrix.of(passages)
    emergency = np.array([text.emergency for text in texts])
    count = np.bincount(owner, minlength=len(texts))
    each = np.array([text.weight for text in texts])
    alone = each[owner] / np.sqrt(count[owner])
    chosen, weight = np.ones(len(owner), bool), alone
    for _ in range(ROUNDS):
        model = LogisticRegression(C=ridge, max_iter=500, solver="liblinear", random_state=0)
        model.fit(table[chosen], emergency[owner][chosen], sample_weight=weight[chosen])
        score = model.decision_function(table)
        best = np.full(len(texts), -np.inf)
        np.maximum.at(best, owner, score)
        chosen = ~emergency[owner] | (score >= best[owner] - 1e-9)
        weight = np.where(emergency[owner], each[owner], alone)
    first = np.searchsorted(owner, np.arange(len(texts)))
    telling = [int(np.argmax(score[f : f + n])) for f, n in zip(first, count, strict=True)]
    return matrix.weights(model), telling


def fit_categories(texts: list[Text], telling: list[int]) -> dict[str, dict[str, float]]:
    """For each category the weights that tell it from the others, from the most telling passages of emergencies."""
    chosen = [
        (text.passages[at], "urgent" if text.category == "other" else text.category)
        for text, at in zip(texts, telling, strict=True)
        if text.emergency and text.category in KINDS
    ]
    passages = [{n: v for n, v in passage.items() if n[0] != "<" and (n[0] == "{" or " " not in n)} for passage, _ in chosen]
    matrix = Matrix(passages, at_least=4)
    table = matrix.of(passages)
    out = {}
    for category in sorted({name for _, name in chosen}):
        model = LogisticRegression(C=RIDGE, max_iter=500, solver="liblinear", random_state=0)
        out[category] = matrix.weights(model.fit(table, [name == category for _, name in chosen]))
    return out


def write(sections: dict[str, dict[str, float]], path: Path, head: str, least: float) -> None:
    """The weights in groups of equal value, largest first, section by section."""
    lines = []
    for section, weights in sections.items():
        if section:
            lines.append(f"[{section}]")
        lines.append(f"{weights['<bias>']:.2f} <bias>")
        groups: dict[str, list[str]] = {}
        for name, weight in sorted(weights.items()):
            if name != "<bias>" and abs(weight) >= least * (1 if is_word(name) else 0.2):
                groups.setdefault(f"{weight:.1f}" if is_word(name) else f"{weight:.2f}", []).append(name)
        for value in sorted(groups, key=float, reverse=True):
            listed = groups[value]
            lines += [f"{value} {', '.join(listed[at : at + 14])}" for at in range(0, len(listed), 14)]
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def unweighed(folder: Path) -> RedFlags:
    """The red flags of a folder, whatever its weights are."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "red_flags"
        shutil.copytree(folder, copy)
        (copy / "weights.txt").write_text("0 <bias>\n")
        (copy / "categories.txt").write_text("[urgent]\n0 <bias>\n")
        return RedFlags(copy)


def main() -> None:
    """Read the cases and the ordinary texts, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("--calm", nargs="+", type=Path, required=True)
    parser.add_argument("--patients", type=Path)
    parser.add_argument("--date", default="2026-11-25")
    parser.add_argument("--out", type=Path, default=RED_FLAGS_DIR)
    args = parser.parse_args()
    flags = unweighed(RED_FLAGS_DIR)
    texts = [text for path in args.cases for text in read_cases(path, flags, TABLE if path.suffix == ".txt" else 1.0)]
    if args.patients:
        texts += read_patients(args.patients, flags)
    calm = [(text, CASE_CALM if path.suffix == ".jsonl" else CALM) for path in args.calm for text in read_calm(path)]
    texts += [Text(read_passages(text, [], flags), False, "", weight) for text, weight in calm]
    weights, telling = fit_urgency(texts)
    head = HEAD.format(what="How much what is found in a passage speaks for an emergency.", date=args.date, others=OTHERS)
    write({"": weights}, args.out / "weights.txt", head, KEEP[""])
    head = HEAD.format(what="How much what is found in an emergency speaks for each kind.", date=args.date, others="")
    write(fit_categories(texts, telling), args.out / "categories.txt", head, KEEP["category"])


if __name__ == "__main__":
    main()
