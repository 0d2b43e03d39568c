"""Makes the learned part of the gate's vocabulary from labelled questions.

It reads question sets (medical and everyday) and running text from a data folder, learns one weight for each word
and word part with a logistic regression, keeps those that matter, and writes `learned.tsv`, `parts.tsv` and
`settings.txt`. The hand-written lists beside them are held fixed, and are what the rest is learned around.
It knows nothing about how the gate is measured; sets that are for measuring only are not in its list.

    python -m medassist maintain vocab --data DIR [--out vocab] [--leave-out SOURCE …]
"""

from __future__ import annotations

import argparse
import datetime
import math
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medassist.errors import DataError
from medassist.gate import (
    HAND_FILES,
    VOCAB_DIR,
    MatchedTerm,
    TermIndex,
    gate_words,
    read_stop_words,
    read_terms,
    singular,
    word_parts,
)
from medassist.spelling import Speller, fold, split_words

COPIED_FILES = (*HAND_FILES, "stems.tsv", "phrases.txt", "stop_words.txt", "follow_up.txt")


@dataclass(frozen=True)
class Source:
    """One set of texts: where it lies, which column, what it counts as, and how it is cut."""

    name: str
    label: str  # medical | everyday
    path: str
    column: str
    family: str  # left out together: the questions and the answers of one collection
    licence: str
    sentences: int = 0  # running text: so many sentences are drawn; 0: each cell is one question
    exclude: tuple[str, ...] = ()  # values of the column `intent` that are no clear everyday request


SOURCES = (
    Source("flashcards", "medical", "qa/medical_flashcards_2400", "input", "flashcards", "cc"),
    Source("medquad", "medical", "qa/medquad_answered", "question", "medquad", "CC BY 4.0"),
    Source(
        "medquad_unanswered",
        "medical",
        "qa/medquad_questions_without_answer",
        "question",
        "medquad",
        "CC BY 4.0",
    ),
    Source("wikidoc", "medical", "qa/medical_meadow_wikidoc_1000", "input", "wikidoc", "cc"),
    Source(
        "wikidoc_patients",
        "medical",
        "qa/medical_meadow_wikidoc_patient_information",
        "input",
        "wikidoc",
        "cc",
    ),
    Source("medmcqa", "medical", "qa/medmcqa_dev", "question", "medmcqa", "MIT"),
    Source("ai_chatbot", "medical", "qa/ai_medical_chatbot_1000", "Question", "ai_chatbot", "Apache 2.0"),
    Source("chatdoctor", "medical", "qa/chatdoctor5k", "input", "chatdoctor", "Apache 2.0"),
    Source("ehealthforum", "medical", "qa/lasseregin_ehealthforumQAs", "question", "lasseregin", "MIT"),
    Source("icliniq", "medical", "qa/lasseregin_icliniqQAs", "question", "lasseregin", "MIT"),
    Source("question_doctor", "medical", "qa/lasseregin_questionDoctorQAs", "question", "lasseregin", "MIT"),
    Source("disease_names", "medical", "terms/disease_ontology_names_all", "label", "terms", "CC0"),
    Source("topics", "medical", "terms/medquad_focus_names", "focus", "medquad", "CC BY 4.0"),
    Source("nursing_glossary", "medical", "terms/openstax_nursing_glossary", "term", "nursing", "CC BY 4.0"),
    Source("nursing_text", "medical", "corpus/openstax_nursing_text", "text", "nursing", "CC BY 4.0", 8000),
    Source("medquad_answers", "medical", "qa/medquad_answered", "answer", "medquad", "CC BY 4.0", 8000),
    Source("flashcards_answers", "medical", "qa/medical_flashcards_2400", "output", "flashcards", "cc", 3000),
    Source("chatdoctor_answers", "medical", "qa/chatdoctor5k", "output", "chatdoctor", "Apache 2.0", 3000),
    Source("wikidoc_answers", "medical", "qa/medical_meadow_wikidoc_1000", "output", "wikidoc", "cc", 3000),
    Source("medmcqa_explanations", "medical", "qa/medmcqa_dev", "exp", "medmcqa", "MIT", 4000),
    Source(
        "clinc",
        "everyday",
        "everyday/clinc150_train_val",
        "text",
        "clinc",
        "CC BY 3.0",
        exclude=("vaccines", "oos"),
    ),
    Source("banking", "everyday", "everyday/banking77_train", "text", "banking", "CC BY 4.0"),
    Source("nq_open", "everyday", "everyday/nq_open_dev", "question", "nq_open", "Apache 2.0"),
    Source("alpaca", "everyday", "everyday/alpaca_en_demo_999", "instruction", "alpaca", "Apache 2.0"),
    Source(
        "alpaca_answers", "everyday", "everyday/alpaca_en_demo_999", "output", "alpaca", "Apache 2.0", 3000
    ),
    Source("stories", "everyday", "corpus/public_domain_stories", "body", "stories", "public domain", 20000),
    Source("wikipedia", "everyday", "corpus/wiki_demo", "text", "wikipedia", "CC BY-SA", 2000),
)


@dataclass(frozen=True)
class Recipe:
    """The numbers of the learning; chosen by leaving one source out at a time."""

    rows: int = 6000  # of one source at most
    min_count: int = 3  # texts in which a word must occur
    min_families: int = 2  # collections in which a word must occur
    epochs: int = 6
    rate: float = 0.25
    decay: float = 0.002  # pull of each weight towards zero
    max_words: int = 5500
    max_parts: int = 1500
    smallest: float = 0.25  # a smaller weight is not worth a line
    clear: float = 4.0  # a word speaks for medicine when it is so many times as frequent there; others weigh nothing
    clear_against: float = 8.0  # the same against medicine
    slope_for: float = 0.7  # weight for each e-fold of that ratio, at most
    slope_against: float = 0.4
    most_for: float = 3.0
    most_against: float = 1.5
    max_neutral: int = 1200  # ordinary words that are listed with weight 0
    ordinary_stories: int = 12  # a word of so many stories is ordinary: no typing error, and not judged by its parts
    most_for_ordinary: float = 0.8
    seed: int = 7
    floor: float = -3.0
    thresholds: dict[str, float] = field(
        default_factory=lambda: {"lenient": -0.8, "balanced": -0.19, "strict": 0.6}
    )


# ---------------------------------------------------------------------------- reading


def _read_column(data_dir: Path, source: Source) -> list[str]:
    import pyarrow.parquet as pq

    path = data_dir / f"{source.path}.parquet"
    if not path.is_file():
        raise DataError(
            f"There is no file {source.path}.parquet in {data_dir.name}.", "Name the data folder by --data."
        )
    columns = [source.column] + (["intent"] if source.exclude else [])
    rows = pq.read_table(path, columns=columns).to_pylist()
    texts = (
        str(r[source.column] or "") for r in rows if not source.exclude or r["intent"] not in source.exclude
    )
    return list(dict.fromkeys(" ".join(t.split()) if not source.sentences else t for t in texts if t.strip()))


def _sentences(texts: list[str], count: int, rng: random.Random) -> list[str]:
    """About `count` sentences, spread over the texts."""
    rng.shuffle(texts)
    each = max(1, round(1.5 * count / max(1, len(texts))))
    found: list[str] = []
    for text in texts:
        cut = [s for s in re.split(r"[.!?]\s|\n", text[:20_000]) if 25 < len(s) < 220]
        found += rng.sample(cut, min(each, len(cut)))
        if len(found) >= count:
            break
    return found[:count]


def read_texts(
    data_dir: Path, recipe: Recipe, leave_out: Sequence[str] = ()
) -> dict[str, tuple[Source, list[str]]]:
    """The texts of each source that is not left out, by name or by family."""
    texts: dict[str, tuple[Source, list[str]]] = {}
    for source in SOURCES:
        if source.name in leave_out or source.family in leave_out:
            continue
        rng = random.Random(f"{recipe.seed} {source.name}")
        found = _read_column(data_dir, source)
        if source.sentences:
            found = _sentences(found, source.sentences, rng)
        texts[source.name] = (source, found if len(found) <= recipe.rows else rng.sample(found, recipe.rows))
    return texts


# ---------------------------------------------------------------------------- learning


@dataclass
class _Example:
    words: list[str]  # unlisted words, each once
    offset: float  # what the hand-written terms add
    target: float  # 1 medical, 0 everyday
    weight: float = 1.0


def _examples(texts: dict[str, tuple[Source, list[str]]], hand: TermIndex, stop: set[str]) -> list[_Example]:
    """One example a text; each source weighs as the square root of its size, each label as much as the other."""
    totals: Counter[str] = Counter()
    for source, found in texts.values():
        totals[source.label] += len(found) ** 0.5
    examples = []
    for source, found in texts.values():
        weight = len(found) ** 0.5 / totals[source.label] / max(1, len(found))
        for text in found:
            walked = hand.walk(gate_words(text), stop)
            words = [word for word, term in walked.items() if term is None]
            offset = sum(term.weight for term in walked.values() if term is not None)
            examples.append(_Example(words, max(offset, -6.0), float(source.label == "medical"), weight))
    scale = len(examples) / sum(example.weight for example in examples)
    for example in examples:
        example.weight *= scale
    return examples


def _features(words: Iterable[str], listed: set[str]) -> set[str]:
    """Listed words as themselves, others by their parts."""
    names: set[str] = set()
    for word in words:
        if word in listed:
            names.add(word)
        elif word.isalpha() and len(word) <= 40:
            names.update(word_parts(word))
    return names


def _learn(
    examples: list[_Example],
    listed: set[str],
    allowed: set[str] | None,
    bounds: dict[str, tuple[float, float]],
    recipe: Recipe,
) -> dict[str, float]:
    """Weights by feature name, and the bias under "": logistic regression with AdaGrad.

    A listed word weighs within its bounds.
    """
    import numpy as np

    ids: dict[str, int] = {}
    rows = []
    for example in examples:
        names = _features(example.words, listed)
        if allowed is not None:
            names = {name for name in names if name in listed or name in allowed}
        rows.append(
            np.array(sorted(ids.setdefault(name, len(ids)) for name in sorted(names)), dtype=np.int64)
        )
    weights, squares = np.zeros(len(ids)), np.full(len(ids), 0.01)
    bias, bias_square = 0.0, 0.01
    low, high = np.array([bounds.get(name, (-9.0, 9.0)) for name in ids]).T
    order = np.arange(len(rows))
    rng = np.random.default_rng(recipe.seed)
    for _ in range(recipe.epochs):
        rng.shuffle(order)
        for at in order:
            example, row = examples[at], rows[at]
            z = weights[row].sum() + bias + example.offset
            slope = (1 / (1 + np.exp(-max(-30.0, min(30.0, z)))) - example.target) * example.weight
            gradient = slope + recipe.decay * weights[row]
            squares[row] += gradient * gradient
            moved = weights[row] - recipe.rate * gradient / np.sqrt(squares[row])
            weights[row] = np.minimum(np.maximum(moved, low[row]), high[row])
            bias_square += slope * slope
            bias -= 0.3 * recipe.rate * slope / bias_square**0.5
    return {"": float(bias)} | {name: float(weights[at]) for name, at in ids.items()}


@dataclass
class _Counts:
    """What was counted over all texts, by word."""

    texts: Counter[str]
    families: dict[str, set[str]]
    forms: Counter[tuple[str, str]]  # (word, written form)
    rates: dict[str, dict[str, float]]  # label → word → the highest share of texts of a family that hold it
    labels: dict[str, Counter[str]]  # word → label → families that hold it
    ordinary: set[str] = field(default_factory=set)  # words of many stories

    def bounds(self, word: str, recipe: Recipe) -> tuple[float, float]:
        """What a word may weigh: by how much more often it occurs on its clear side; (0, 0) for a word of both.

        The highest share of any collection counts on either side, so that a word which patients use somewhere
        weighs little against medicine, and one that is usual anywhere else weighs little for it.
        """
        medical = self.rates["medical"].get(word, 0.0) + 1e-4
        everyday = self.rates["everyday"].get(word, 0.0) + 1e-4
        ratio = medical / everyday
        labels = self.labels.get(word, {})
        if ratio > recipe.clear and labels.get("medical", 0) >= recipe.min_families:
            most = recipe.most_for_ordinary if word in self.ordinary else recipe.most_for
            return 0.0, min(most, recipe.slope_for * math.log(ratio))
        if ratio < 1 / recipe.clear_against and labels.get("everyday", 0) >= recipe.min_families:
            return max(-recipe.most_against, recipe.slope_against * math.log(ratio)), 0.0
        return 0.0, 0.0


def _count(texts: dict[str, tuple[Source, list[str]]], hand: TermIndex, stop: set[str]) -> _Counts:
    """In how many texts a word occurs, in which families, how often there, and in which written form."""
    counts = _Counts(Counter(), {}, Counter(), {"medical": {}, "everyday": {}}, {})
    by_family: dict[tuple[str, str], Counter[str]] = {}
    sizes: Counter[tuple[str, str]] = Counter()
    for source, found in texts.values():
        key = (source.family, source.label)
        sizes[key] += len(found)
        in_family = by_family.setdefault(key, Counter())
        for text in found:
            for form in set(split_words(fold(text))):
                word = singular(form)
                if form[0].isalpha() and word not in stop and word not in hand.words and len(word) > 1:
                    in_family[word] += 1
                    counts.forms[word, form] += 1
    for (family, label), in_family in by_family.items():
        size = max(500, sizes[family, label])
        best = counts.rates[label]
        for word, n in in_family.items():
            counts.texts[word] += n
            counts.families.setdefault(word, set()).add(family)
            counts.labels.setdefault(word, Counter())[label] += 1
            best[word] = max(best.get(word, 0.0), n / size)
    return counts


def learn_vocabulary(
    texts: dict[str, tuple[Source, list[str]]], hand_dir: Path, recipe: Recipe, ordinary: Iterable[str] = ()
) -> dict[str, Any]:
    """The learned terms, parts and bias: learn with all words, keep what matters, learn again with those."""
    hand = TermIndex(term for name in HAND_FILES for term in read_terms(hand_dir / name))
    stop = read_stop_words(hand_dir)
    counts = _count(texts, hand, stop)
    counts.ordinary = {singular(w) for w in ordinary}
    common = {
        w
        for w, n in counts.texts.items()
        if n >= recipe.min_count and len(counts.families[w]) >= recipe.min_families
    }
    bounds = {word: counts.bounds(word, recipe) for word in common}
    listed = {word for word in common if bounds[word] != (0.0, 0.0)}
    neutral = common - listed
    examples = _examples(texts, hand, stop | neutral)
    first = _learn(examples, listed, None, bounds, recipe)

    def worth(word: str) -> float:
        return abs(first.get(word, 0.0)) * min(counts.texts[word], 400) ** 0.35

    kept = set(sorted(sorted(listed), key=worth, reverse=True)[: recipe.max_words])
    kept = {word for word in kept if abs(first.get(word, 0.0)) >= recipe.smallest}
    neutral |= _lookalikes(listed - kept, kept, first, hand, counts.texts)
    shown = set(sorted(sorted(neutral), key=lambda w: counts.texts[w], reverse=True)[: recipe.max_neutral])
    parts = _choose_parts(first, counts.texts, kept | shown, recipe)
    second = _learn(_examples(texts, hand, stop | shown), kept, parts, bounds, recipe)
    best: dict[str, str] = {}
    for (word, form), n in counts.forms.items():
        if n > counts.forms[word, best.get(word, "")]:
            best[word] = form
    return {
        "bias": second[""],
        "words": {best[word]: second.get(word, 0.0) for word in kept} | {best[word]: 0.0 for word in shown},
        "parts": {part: second[part] for part in parts if abs(second.get(part, 0.0)) >= 0.1},
    }


def ordinary_words(data_dir: Path, recipe: Recipe) -> Counter[str]:
    """In how many of the public-domain stories each word stands, where it stands in enough of them."""
    import pyarrow.parquet as pq

    source = next(s for s in SOURCES if s.name == "stories")
    counts: Counter[str] = Counter()
    with pq.ParquetFile(data_dir / f"{source.path}.parquet") as file:
        for batch in file.iter_batches(batch_size=200, columns=[source.column]):
            for cell in batch.column(0).to_pylist():
                text = str(cell or "")
                # `fold` reads both ends of a long text; the middle of a story is read piece by piece.
                pieces = (text[at : at + 12_000] for at in range(0, min(len(text), 60_000), 12_000))
                counts.update({w for piece in pieces for w in split_words(fold(piece)) if w.isalpha() and len(w) > 2})
    return Counter({w: n for w, n in counts.items() if n >= recipe.ordinary_stories})


def _choose_parts(
    weights: dict[str, float], count: Counter[str], listed: set[str], recipe: Recipe
) -> set[str]:
    """The word parts that tell most about words that are not listed."""
    uses: Counter[str] = Counter()
    for word, n in count.items():
        if word not in listed:
            uses.update({part: min(n, 20) for part in word_parts(word)})
    parts = sorted(name for name in weights if "-" in name and uses[name] >= 8)
    parts.sort(key=lambda part: abs(weights[part]) * min(uses[part], 200) ** 0.5, reverse=True)
    return set(parts[: recipe.max_parts])


def _lookalikes(
    rest: set[str], kept: set[str], weights: dict[str, float], hand: TermIndex, count: Counter
) -> set[str]:
    """Ordinary words one letter from a medical one: listed too, so that they are not taken for a typing error."""
    medical = {w for w in kept if weights.get(w, 0.0) >= 1} | {
        w for w, t in hand.words.items() if t.weight >= 1
    }
    speller = Speller(sorted(w for w in medical if len(w) >= 6 and w.isalpha()))
    return {w for w in rest if count[w] >= 5 and len(w) >= 6 and w.isalpha() and speller.find(w)}


# ---------------------------------------------------------------------------- writing


def _classes(data_dir: Path) -> dict[str, str]:
    """What kind of medical word it is, where the term lists say so."""
    kinds: dict[str, str] = {}
    for path, column, kind in (
        ("terms/openstax_nursing_glossary", "term", "nursing"),
        ("terms/disease_ontology_names_all", "label", "disease"),
        ("terms/disease_ontology_disease_symptom", "symptom_label", "symptom"),
    ):
        source = Source(kind, "medical", path, column, "terms", "")
        for text in _read_column(data_dir, source):
            for word in gate_words(text):
                kinds[word] = kind
    return kinds


def _header(what: str, texts: dict[str, tuple[Source, list[str]]]) -> str:
    today = datetime.date.today().isoformat()
    names = ", ".join(f"{source.path} ({source.licence})" for source, _ in texts.values())
    return (
        f"# {what}\n# Made by `python -m medassist maintain vocab` on {today}; do not edit: the hand-written lists win.\n"
        f"# Weights computed from: {names}.\n# Licence of the weights: the project's. Columns: term, weight "
        "(log-odds; above 0 speaks for medicine), class.\n"
    )


def _write_terms(path: Path, header: str, terms: Iterable[MatchedTerm]) -> None:
    lines = [f"{t.term}\t{t.weight:.2f}\t{t.cls}\n" for t in sorted(terms, key=lambda t: (t.cls, t.term))]
    path.write_text(header + "".join(lines), encoding="utf-8")


def build_vocabulary(
    data_dir: Path,
    out_dir: Path,
    leave_out: Sequence[str] = (),
    recipe: Recipe | None = None,
    hand_dir: Path = VOCAB_DIR,
) -> dict[str, int]:
    """Writes the learned vocabulary into `out_dir`, with the hand-written lists copied where they lie elsewhere.

    Answers with the counts of what was written. Raises DataError where the data folder lacks a file.
    """
    recipe = recipe or Recipe()
    texts = read_texts(data_dir, recipe, leave_out)
    ordinary = ordinary_words(data_dir, recipe)
    learned = learn_vocabulary(texts, hand_dir, recipe, ordinary)
    kinds = _classes(data_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    if out_dir.resolve() != hand_dir.resolve():
        for name in COPIED_FILES:
            shutil.copyfile(hand_dir / name, out_dir / name)
    words = [
        MatchedTerm(w, v, "everyday" if v < 0 else kinds.get(singular(w), "medical") if v else "neutral")
        for w, v in learned["words"].items()
    ]
    parts = [
        MatchedTerm(p, v, "ending" if p.startswith("-") else "beginning") for p, v in learned["parts"].items()
    ]
    _write_terms(out_dir / "learned.tsv", _header("Learned words of the gate.", texts), words)
    _write_terms(out_dir / "parts.tsv", _header("Word parts, for words that are in no list.", texts), parts)
    known = {singular(w) for w in learned["words"]} | TermIndex(t for n in HAND_FILES for t in read_terms(hand_dir / n)).words.keys()
    plain = sorted({singular(w) for w in ordinary} - known)
    head = "# Ordinary words, of which none is a typing error of a medical word or judged by its parts: those of many\n" \
        "# public-domain stories (corpus/public_domain_stories). Made by `python -m medassist maintain vocab`.\n"
    (out_dir / "ordinary.txt").write_text(head + "\n".join(plain) + "\n", encoding="utf-8")
    settings = {
        "bias": learned["bias"],
        "floor": recipe.floor,
        **recipe.thresholds,
    }
    lines = [f"{name}\t{value:.2f}\n" for name, value in settings.items()]
    head = (
        "# Numbers of the gate, written by `python -m medassist maintain vocab`. Columns: name, value.\n"
        "# bias: added to every score. floor: words against medicine take away no more than this.\n"
        "# Then the threshold of each strictness.\n"
    )
    (out_dir / "settings.txt").write_text(head + "".join(lines), encoding="utf-8")
    return {"texts": sum(len(t) for _, t in texts.values()), "words": len(words), "parts": len(parts)}


# ---------------------------------------------------------------------------- command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m medassist maintain vocab`."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with the question sets"
    )
    parser.add_argument(
        "--out", type=Path, default=VOCAB_DIR, metavar="DIR", help="where to write (default: vocab)"
    )
    parser.add_argument(
        "--leave-out",
        nargs="*",
        default=[],
        metavar="SOURCE",
        help="sources or families to leave out, for measuring",
    )


def main(args: argparse.Namespace) -> int:
    """Makes the vocabulary; prints what was written."""
    counts = build_vocabulary(args.data, args.out, args.leave_out)
    print(
        f"{counts['words']} words and {counts['parts']} word parts from {counts['texts']} texts",
        file=sys.stderr,
    )
    print(args.out)
    return 0
