"""Makes vocab/follow_up.txt anew: how much the words of a short turn say that it leans on the turns before it.

    PYTHONPATH=. python tests/make_follow_up_weights.py tests/cases/follow_ups.jsonl tests/cases/gate_{dev,hard,more}.jsonl \\
        --everyday questions.jsonl

The cases are lines of {text, label: follow_up or everyday}; `--everyday` takes lines of {text} with everyday requests
and trivia, which count little each. The weights are those of a logistic regression over `medassist.gate.turn_features`.
Needs numpy, scipy and scikit-learn.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from make_red_flag_weights import write
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from medassist.gate import FOLLOW_UP_WORDS, VOCAB_DIR, gate_words, load_vocabulary, turn_features

HEAD = """# How much a short turn leans on the turns before it: a weight (log-odds), then the features that have it: word,
# two words (^ the beginning, $ the end), <losses> (the sum of what speaks against medicine), <gains>, <words>, <own> (words
# that are no stop words), <phrase> (a wording of phrases.txt); words and pairs count by the root of the number of words.
# Made by tests/make_follow_up_weights.py on 2026-11-25; not to be edited by hand. Weights computed from the project's own
# cases and from everyday questions of CLINC150 (CC BY 3.0), BANKING77 (CC BY 4.0), NQ-open (Apache 2.0) and the alpaca demo
# of LLaMA-Factory (Apache 2.0). Licence of the weights: the project's.
"""
WORDS, RIDGE, ORDINARY, KEEP = 3.0, 2.0, 0.35, 0.12


def main() -> None:
    """Read the cases and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("--everyday", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=VOCAB_DIR / "follow_up.txt")
    args = parser.parse_args()
    rows = [(row, 1.0) for path in args.cases for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())]
    ordinary = map(json.loads, args.everyday.read_text(encoding="utf-8").splitlines())
    rows += [({"text": row["text"], "label": "everyday"}, ORDINARY) for row in ordinary]
    vocabulary = load_vocabulary()
    found, labels, weights = [], [], []
    for row, weight in rows:
        words = gate_words(row["text"])
        if row["label"] in ("follow_up", "everyday") and 0 < len(words) <= FOLLOW_UP_WORDS:
            found.append(turn_features(words, vocabulary.find_terms(words), vocabulary))
            labels.append(row["label"] == "follow_up")
            weights.append(weight)
    often = Counter(name for features in found for name in features)
    names = sorted(name for name, n in often.items() if n >= 2)
    place = {name: at for at, name in enumerate(names)}
    scale = np.array([1.0 if name[0] == "<" else WORDS for name in names])
    cells = [(at, place[n], v * scale[place[n]]) for at, f in enumerate(found) for n, v in f.items() if n in place]
    at, column, value = zip(*cells, strict=True)
    table = csr_matrix((value, (at, column)), shape=(len(found), len(names)))
    model = LogisticRegression(C=RIDGE, solver="liblinear", random_state=0).fit(table, labels, sample_weight=weights)
    learned = dict(zip(names, (model.coef_[0] * scale).tolist(), strict=True))
    write({"": {"<bias>": float(model.intercept_[0])} | learned}, args.out, HEAD, KEEP)


if __name__ == "__main__":
    main()
