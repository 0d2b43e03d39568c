"""Makes weights.txt anew: how much each word, and each pair of neighbours, speaks for an emergency.

    python tests/make_red_flag_weights.py tests/cases/red_flags_dev.jsonl tests/cases/red_flags_own.jsonl \\
        --calm calm.txt

The cases are lines of {text, label: emergency or lookalike}. `calm.txt` holds ordinary
texts, one a line: everyday requests, exam questions, encyclopaedic questions and consumer questions, which count
little each. The weights are those of a logistic regression on the presence of words; nothing is learned when the app
runs. Needs numpy.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from medassist import safety
from medassist.safety import patterns, reading

HEAD = """# How much a word, or a pair of neighbours, speaks for an emergency (above 0) or against one: the net under the rules.
# A text in which no rule matches but some sign is found is an emergency where bias + sum / root of their number is
# above SOUNDS_URGENT in safety/decision.py. Made by tests/make_red_flag_weights.py on 2026-11-25 from the project's own cases and
# from ordinary questions of LasseRegin medical-question-answer-data (MIT), ChatDoctor (Apache 2.0), ai-medical-chatbot
# (Apache 2.0), MedMCQA (MIT), MedQA (MIT), medical flashcards and wikidoc of medalpaca (cc), MedQuAD (CC BY 4.0), NQ-open
# (Apache 2.0), BANKING77 (CC BY 4.0), CLINC150 (CC BY 3.0) and the alpaca demo of LLaMA-Factory (Apache 2.0).
# Licence of the weights: the project's.
"""
# Words that only say which language it is: the ordinary texts are English, so that their weights would mislead.
_FOREIGN = (
    "al ale alla anche au aux avec bin che co com como con czy d da dai das dass de dei del della dem den der des di "
    "dos du e een ein eine einem einen einer el ele ella elle em en er es est esta este estoy et eu fue gli ha habe "
    "hanno het hij ho hoy ich ihr ihre il ils io ist j ja je jest jestem la las le lei les lo los lui m ma mais mal "
    "mam mas mein meine meinen meiner mes met meu mi mia miei mij mijn minha mio mir mis mit mnie moj moja moje mon "
    "na nao nas ne nicht nie niet noch non nos nosso notre nous o og ogni om ons ou para pas per pero plus po por "
    "pour qu que qui s sa se sein seine sem ses si sich sie sind son sono sta sto su sua suis sur te tem ten tengo "
    "tenho tiene tu u um uma un una und une uns unser van vom von vous w wir y z ze zij zu zum zur "
)
FOREIGN = frozenset(_FOREIGN.split())
CALM = 0.18  # the weight of one ordinary text beside one case
KEEP = 0.12  # smaller weights are left out


def pieces(text: str, flags: safety.RedFlags) -> set[str]:
    """The words and pairs of a text, as the detector hears them."""
    tokens = patterns.contract(reading.repair(list(reading.tokens_of(text)), flags))
    heard = {piece for words, _ in reading.sentences_of(tokens) for piece in reading.word_pieces(words)}
    return {piece for piece in heard if not FOREIGN.issuperset(piece.split())}


def read_cases(path: Path) -> list[tuple[str, int]]:
    """(text, 1 for an emergency) of a case file."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(row["text"], int(row["label"] == "emergency")) for row in rows]


def fit(texts: list[set[str]], labels: list[int], counts: list[float], rounds: int = 400) -> dict[str, float]:
    """Weights by gradient descent with a small ridge; "bias" among them."""
    often = Counter(piece for text in texts for piece in text)
    names = sorted(piece for piece, n in often.items() if n >= 2)
    place = {piece: at for at, piece in enumerate(names)}
    found = [np.array([place[p] for p in sorted(text) if p in place], dtype=int) for text in texts]
    row = np.concatenate([np.full(len(f), at) for at, f in enumerate(found)])
    col = np.concatenate(found)
    value = np.array([1 / max(1, len(f)) ** 0.5 for f in found])[row]
    target, count = np.array(labels, float), np.array(counts)
    weights, bias = np.zeros(len(names)), 0.0
    for _ in range(rounds):
        error = 1 / (1 + np.exp(-np.bincount(row, weights[col] * value, len(texts)) - bias)) - target
        error *= count
        slope = np.bincount(col, error[row] * value, len(names)) * 50 + weights / 2
        weights -= slope / len(texts)
        bias -= 2 * error.mean()
    return {"bias": bias, **dict(zip(names, weights))}


def write(weights: dict[str, float], path: Path) -> None:
    """The weights in groups of equal value, largest first."""
    groups: dict[str, list[str]] = {}
    for piece, weight in sorted(weights.items()):
        if piece != "bias" and abs(weight) >= KEEP:
            groups.setdefault(f"{weight:.1f}", []).append(piece)
    lines = [f"{weights['bias']:.2f} bias"]
    for value in sorted(groups, key=float, reverse=True):
        lines += [f"{value} {', '.join(groups[value][at : at + 12])}" for at in range(0, len(groups[value]), 12)]
    path.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Read the cases and the ordinary texts, and write weights.txt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("--calm", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=safety.RED_FLAGS_DIR / "weights.txt")
    args = parser.parse_args()
    flags = safety.load_red_flags()
    texts = [(text, label, 1.0) for path in args.cases for text, label in read_cases(path)]
    texts += [(line, 0, CALM) for line in args.calm.read_text(encoding="utf-8").splitlines() if line.strip()]
    heard = [pieces(text, flags) for text, _, _ in texts]
    write(fit(heard, [t[1] for t in texts], [t[2] for t in texts]), args.out)


if __name__ == "__main__":
    main()
