"""The gate: decides from a weighted vocabulary whether a text is a medical question. No model is involved.

Each word, phrase or (for a word that is not listed) word part adds its weight; the sum is held against a
threshold. Before that, red flags are looked for, and greetings, tasks ("write a haiku about …") and attempts to
switch the rules off are told apart. A follow-up counts with the accepted turns before it.
It knows nothing about models, retrieval or the page. A missing or damaged vocabulary raises VocabularyError.

    python -m medassist gate "What does insulin do?"

The vocabulary is readable text in `vocab/`; `python -m medassist maintain vocab` makes its learned part.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medassist.errors import VocabularyError
from medassist.safety import Escalation, check_red_flags
from medassist.safety.flags import read_weights
from medassist.safety.patterns import GrowingTree, contract
from medassist.spelling import Speller, fold, split_words

VOCAB_DIR = Path(__file__).parents[1] / "vocab"
STRICTNESS = ("lenient", "balanced", "strict")
# Shares of medical and of everyday questions that each lets in, on sources that its words were not learned from: the
# mean over 14 medical and 6 everyday sources, each left out in turn (`maintain vocab --leave-out`, `bench gate`).
LETS_IN = {"lenient": (0.976, 0.084), "balanced": (0.966, 0.045), "strict": (0.944, 0.029)}

OUT_OF_SCOPE_MESSAGE = (
    "I can only help with questions about health and medicine. Please ask me about a disease, a symptom, "
    "a medicine, a test or the body."
)
GREETING_MESSAGE = (
    "Hello! I answer questions about health and medicine for learning: diseases, symptoms, medicines, tests and "
    "the body. What would you like to know?"
)

# Written by hand; later files win, and all of them over what was learned.
HAND_FILES = ("languages.tsv", "sciences.tsv", "drugs.tsv", "lay.tsv", "medical.tsv", "everyday.tsv")
TERM_FILES = ("learned.tsv", *HAND_FILES)
PART_FILE = "parts.tsv"
STEM_FILE = "stems.tsv"
HISTORY_TURNS = 12  # user turns before the current one that are decided anew
MAX_WORDS = 2_000  # words of a text that are scored, half from each end
FOLLOW_UP_WORDS = 16  # a longer text stands on its own
LEANS = -0.7  # the weight (log-odds) from which a short turn leans on the turns before it
LONG_TEXT, TASK_START = 30, 10  # words: of a longer text only the beginning can say that it is a task
OWN_QUESTIONS, OWN_WEIGHT = 2, 1.5  # of an adapter's own words: questions that have it, and what it adds
REPAIRS = 40  # unknown words of one text that are tried as typing errors


@dataclass(frozen=True)
class MatchedTerm:
    """A term of the vocabulary that was found, with what it added to the score."""

    term: str
    weight: float
    cls: str


@dataclass(frozen=True)
class GateDecision:
    """Where a text goes and why. `allowed` is false for the route out_of_scope alone."""

    route: str
    allowed: bool
    score: float
    threshold: float
    matched_terms: tuple[MatchedTerm, ...]
    reason: str
    escalation: Escalation | None = None

    def to_json(self) -> dict[str, Any]:
        """The decision as plain values, as the command line prints it."""
        terms = [{"term": t.term, "weight": t.weight, "class": t.cls} for t in self.matched_terms]
        return {
            "route": self.route,
            "allowed": self.allowed,
            "score": round(self.score, 3),
            "matched_terms": terms,
            "reason": self.reason,
        }


# ---------------------------------------------------------------------------- words


def singular(word: str) -> str:
    """The word without a plural ending; the same cut is made to the vocabulary, so it need not be perfect."""
    if len(word) > 4 and word[-1] == "s":
        if word.endswith("ies"):
            return word[:-3] + "y"
        if word.endswith(("sses", "xes", "ches", "shes")):
            return word[:-2]
        if word[-2] not in "sui":
            return word[:-1]
    return word


def gate_words(text: str) -> list[str]:
    """The words of a text as the vocabulary knows them: folded, singular, without marks, both ends of a long text."""
    words = [singular(w) for w in contract(split_words(fold(text))) if w[0].isalnum()]
    if len(words) > MAX_WORDS:
        words = words[: MAX_WORDS // 2] + words[-MAX_WORDS // 2 :]
    return words


def word_parts(word: str) -> Iterator[str]:
    """The beginnings ("cardi-") and endings ("-itis") by which an unlisted word is judged."""
    if len(word) >= 5:
        yield word[:4] + "-"
        yield "-" + word[-3:]
        yield "-" + word[-4:]
    if len(word) >= 7:
        yield word[:5] + "-"
        yield word[:6] + "-"
        yield "-" + word[-5:]
        yield "-" + word[-6:]


def _stem_parts(word: str) -> Iterator[str]:
    """Endings, then beginnings, longest first, that leave at least two letters of the word."""
    for size in range(min(9, len(word) - 2), 2, -1):
        yield "-" + word[-size:]
    for size in range(min(9, len(word) - 2), 3, -1):
        yield word[:size] + "-"


# ---------------------------------------------------------------------------- the vocabulary


def _read(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(
            f"The gate's vocabulary file {path.name} cannot be read ({type(error).__name__}).",
            "Restore the vocab/ folder from the project, or make it with: python -m medassist maintain vocab.",
        ) from None
    return [line for line in text.split("\n") if line and line[0] != "#" and not line.isspace()]


def _damaged(path: Path, why: str) -> VocabularyError:
    return VocabularyError(
        f"The gate's vocabulary file {path.name} is damaged: {why}.",
        "Restore the vocab/ folder from the project, or make it with: python -m medassist maintain vocab.",
    )


# A whole line, its first word, and a space where the term has more words.
_LINE = re.compile(r"^(([^\t\n #][^\t\n ]*)( ?)[^\t\n]*\t-?[0-4]?\d(?:\.\d+)?\t[^\t\n]+)$", re.MULTILINE)


def _term_lines(path: Path) -> list[tuple[str, str, str]]:
    """The lines of a vocabulary file, each a term, a weight and a class with tabs between; checked all at once.

    Returns:
        The line, the term's first word, and " " where it has more.

    Raises:
        VocabularyError: the file is missing or a line is damaged.
    """
    lines = _read(path)
    found = _LINE.findall("\n".join(lines))
    if len(found) != len(lines):
        for line in lines:
            if not _LINE.fullmatch(line):
                raise _damaged(path, f"cannot read the line {line[:60]!r}: it is no term, weight (below 50) and class")
    return found


def _term(line: str) -> MatchedTerm:
    term, weight, cls = line.split("\t")
    return MatchedTerm(term, float(weight), cls)


def read_terms(path: Path) -> Iterator[MatchedTerm]:
    """The terms of a vocabulary file; raises VocabularyError where it is missing or damaged."""
    return (_term(line) for line, _, _ in _term_lines(path))


def read_stop_words(folder: Path) -> set[str]:
    """The words that are never scored, with their singular forms."""
    words = {word for line in _read(folder / "stop_words.txt") for word in line.split()}
    return words | {singular(word) for word in words}


def _singular_all(wording: str) -> str:
    return " ".join(singular(word) for word in wording.split())


class _Words(dict):
    """Word → term, where a term may still be a line of its file: it is read when somebody asks for it."""

    def get(self, word: str, default: Any = None) -> Any:
        found = super().get(word, default)
        if type(found) is str:
            found = self[word] = _term(found)
        return found

    def __getitem__(self, word: str) -> MatchedTerm:
        found = super().__getitem__(word)
        if type(found) is str:
            found = self[word] = _term(found)
        return found

    def items(self) -> Iterator[tuple[str, MatchedTerm]]:  # type: ignore[override]
        return ((word, self[word]) for word in list(self))


class TermIndex:
    """Terms by word and by phrase; walks a text so that the longest phrase wins and uses its words up.

    Lines of a vocabulary are filed under their first word and read when a text has that word: loading stays quick.
    """

    def __init__(self, terms: Iterable[MatchedTerm] = ()) -> None:
        self.words = _Words()
        self.tree: dict = {}  # phrases of two and more words by their first: nested dicts, or lines not yet read
        for term in terms:
            self.add(term)

    def add(self, term: MatchedTerm) -> None:
        """Takes a term in; a later one of the same words wins."""
        first, _, rest = term.term.partition(" ")
        if not rest:
            self.words[singular(first)] = term
            return
        self._insert(self._node(singular(first)), term)

    def add_lines(self, lines: Iterable[tuple[str, str, str]]) -> None:
        """Takes in the lines of a file, as `_term_lines` gives them; later ones win over earlier."""
        words, tree = self.words, self.tree
        for line, first, more in lines:
            if first[-1] == "s" and len(first) > 4:
                first = singular(first)
            if not more:
                words[first] = line
            elif first not in tree:
                tree[first] = [line]
            elif type(tree[first]) is dict:
                self._insert(tree[first], _term(line))
            else:
                tree[first].append(line)

    def _node(self, first: str) -> dict:
        """The phrases that begin with a word, read if they were not yet."""
        node = self.tree.setdefault(first, {})
        if type(node) is list:
            lines, node = node, {}
            self.tree[first] = node
            for line in lines:
                self._insert(node, _term(line))
        return node

    @staticmethod
    def _insert(node: dict, term: MatchedTerm) -> None:
        for word in term.term.split()[1:]:
            node = node.setdefault(singular(word), {})
        node[""] = term

    def phrase_at(self, words: Sequence[str], at: int) -> tuple[MatchedTerm | None, int]:
        """The longest phrase of two or more words that begins here, and its length."""
        node, found, length = self._node(words[at]), None, 0
        for step in range(at + 1, len(words)):
            node = node.get(words[step])
            if node is None:
                break
            if "" in node:
                found, length = node[""], step + 1 - at
        return found, length

    def walk(self, words: Sequence[str], stop_words: Container[str]) -> dict[str, MatchedTerm | None]:
        """Each phrase and each word of a text once, in order; None for a word that is not listed."""
        found: dict[str, MatchedTerm | None] = {}
        listed, tree, at, size = self.words, self.tree, 0, len(words)
        while at < size:
            word = words[at]
            if word in tree:
                phrase, length = self.phrase_at(words, at)
                if phrase:
                    found[phrase.term] = phrase
                    at += length
                    continue
            at += 1
            if word not in stop_words and word not in found:
                found[word] = listed.get(word)
        return found


class _Phrases(GrowingTree):
    """The wordings of a file with their words in singular form, as `gate_words` gives those of a text."""

    def __init__(self, path: Path) -> None:
        super().__init__([path], {})
        waiting: dict[str, list[tuple[str, int]]] = {}
        for word, patterns in self._waiting.items():
            waiting.setdefault(singular(word), []).extend(patterns)
        self._waiting = waiting
        self.classes = {singular(word): names for word, names in self.classes.items()}
        self._note_firsts()

    def _add(self, wordings: Iterable[str], bit: int) -> None:
        super()._add(map(_singular_all, wordings), bit)


class Vocabulary:
    """Everything in a vocabulary folder, ready to be looked up."""

    def __init__(self, folder: Path) -> None:
        self.index = TermIndex()
        for name in TERM_FILES:
            self.index.add_lines(_term_lines(folder / name))
        if len(self.index.words) < 500:
            raise _damaged(
                folder / TERM_FILES[0], f"only {len(self.index.words)} words in the whole vocabulary"
            )
        self.parts = {term.term: term.weight for term in read_terms(folder / PART_FILE)}
        self.stems = {term.term: term for term in read_terms(folder / STEM_FILE)}
        self.stop_words = read_stop_words(folder)
        self.ordinary = set(_read(folder / "ordinary.txt"))
        if len(self.ordinary) < 1000:
            raise _damaged(folder / "ordinary.txt", f"only {len(self.ordinary)} ordinary words")
        self.settings = self._read_settings(folder / "settings.txt")
        self.phrases = _Phrases(folder / "phrases.txt")
        self.follow_up = read_weights(folder / "follow_up.txt").get("")
        if self.follow_up is None:
            raise _damaged(folder / "follow_up.txt", "its weights belong to a section")
        missing = {"greeting", "filler", "task", "injection", "follow_up", "pet"} - set(self.phrases.bits)
        if missing:
            raise _damaged(folder / "phrases.txt", f"no {' and no '.join(sorted(missing))} in it")

    def has_phrase(self, words: Sequence[str], kind: str) -> bool:
        """Whether a wording of this kind of phrases.txt occurs."""
        at, bit = 0, self.phrases.bits[kind]
        while at < len(words):
            mask, length = self.phrases.longest(words, at)
            if mask & bit:
                return True
            at += length
        return False

    def _read_settings(self, path: Path) -> dict[str, float]:
        try:
            settings = {name: float(value) for name, value in (line.split("\t") for line in _read(path))}
        except ValueError:
            raise _damaged(path, "a line is not a name, a tab and a number") from None
        missing = {"bias", "floor", *STRICTNESS} - set(settings)
        if missing:
            raise _damaged(path, f"it lacks {', '.join(sorted(missing))}")
        return settings

    @functools.cached_property
    def speller(self) -> Speller:
        """The medical words that a typing error is taken for; made when the first unknown word comes."""
        return Speller(
            [
                w
                for w, t in self.index.words.items()
                if t.weight >= 1 and len(w) >= 6 and w.isalpha() and t.cls not in _NOT_MISSPELT
            ]
        )

    def unlisted(self, word: str, repair: bool) -> MatchedTerm | None:
        """What a word that is not listed adds: as a typing error of a medical word, or by its parts."""
        if len(word) < 5 or not word.isalpha() or len(word) > 40 or word in self.ordinary:
            return None
        meant = self.speller.find(word) if repair and len(word) >= 6 else None
        if meant:
            term = self.index.words[meant]
            return MatchedTerm(f"{word} ({term.term})", round(0.8 * term.weight, 2), term.cls)
        stem = next((self.stems[part] for part in _stem_parts(word) if part in self.stems), None)
        if stem:
            return MatchedTerm(f"{word} ({stem.term})", stem.weight, stem.cls)
        weight = sum(self.parts.get(part, 0.0) for part in word_parts(word))
        if abs(weight) < 0.2:
            return None
        return MatchedTerm(word, round(max(-PART_CAP, min(PART_CAP, weight)), 2), "word part")

    def find_terms(self, words: Sequence[str], own: Mapping[str, MatchedTerm] | None = None) -> list[MatchedTerm]:
        """The terms of a text, each once, with what the words that are not listed add; `own` are further terms."""
        repairs = 0
        terms = []
        for word, term in self.index.walk(words, self.stop_words).items():
            if own and word in own:
                term = own[word]
            if term is None:
                repairs += 1
                term = self.unlisted(word, repairs <= REPAIRS)
            if term is not None and term.weight:
                terms.append(term)
        return terms


_NOT_MISSPELT = frozenset(("brand", "abbreviation", "device"))  # too many, and too much like other words
PART_CAP = 2.5  # what the parts of one unlisted word may add or take away


@functools.lru_cache(maxsize=4)
def load_vocabulary(folder: Path = VOCAB_DIR) -> Vocabulary:
    """The vocabulary of a folder, read once. Raises VocabularyError where a file is missing or damaged."""
    return Vocabulary(folder)


# ---------------------------------------------------------------------------- the gate


@dataclass(frozen=True)
class _Reading:
    """One text, read: its own score and what kind of text it is."""

    kind: str  # empty | greeting | task | injection | animal | question
    score: float
    terms: tuple[MatchedTerm, ...]
    words: tuple[str, ...] = ()


def turn_features(words: Sequence[str], terms: Iterable[MatchedTerm], vocabulary: Vocabulary) -> dict[str, float]:
    """What tells a turn that leans on those before it from one that opens a topic, by the names in follow_up.txt.

    Args:
        words: of the turn, as `gate_words` gives them; not empty.
        terms: what the vocabulary found in them.
        vocabulary: the vocabulary.
    """
    plain = ["0" if word[0].isdigit() else word for word in words]
    value = 1 / len(words) ** 0.5
    features = dict.fromkeys(plain, value)
    pairs = zip(["^", *plain], [*plain, "$"], strict=True)
    features |= {f"{word} {after}": value for word, after in pairs}
    weights = [term.weight for term in terms]
    features["<losses>"] = max(-4.0, sum(weight for weight in weights if weight < 0))
    features["<gains>"] = min(3.0, sum(weight for weight in weights if weight > 0))
    features["<words>"] = len(words) / 8
    features["<own>"] = float(sum(word not in vocabulary.stop_words for word in words))
    features["<phrase>"] = float(vocabulary.has_phrase(words, "follow_up"))
    return features


class Gate:
    """Decides where a text goes. Make one with `Gate.load()`; it holds no state between calls."""

    def __init__(self, vocabulary: Vocabulary, strictness: str = "balanced") -> None:
        if strictness not in STRICTNESS:
            raise VocabularyError(f"There is no gate strictness {strictness!r}.", f"Use one of {STRICTNESS}.")
        self.vocabulary = vocabulary
        self.strictness = strictness
        self.threshold = vocabulary.settings[strictness]
        self.own: dict[str, MatchedTerm] = {}  # of an adapter, by word

    @classmethod
    def load(cls, vocab_dir: Path | None = None, strictness: str = "balanced") -> Gate:
        """The gate over a vocabulary folder; raises VocabularyError where it is missing or damaged."""
        return cls(load_vocabulary(Path(vocab_dir) if vocab_dir else VOCAB_DIR), strictness)

    def with_terms(self, terms: Sequence[MatchedTerm], strictness: str | None = None) -> Gate:
        """This gate with further terms, and perhaps another strictness; this one stays as it is."""
        gate = Gate(self.vocabulary, strictness or self.strictness)
        gate.own = {term.term: term for term in terms}
        return gate

    def check(self, text: str, history: Sequence[Mapping[str, str]] = ()) -> GateDecision:
        """The decision on a text, with the earlier user turns of `history` decided anew before it."""
        escalation = check_red_flags(text, history)
        reading = self._read(text)
        if escalation and escalation.kind == "emergency":
            words = ", ".join(escalation.matched) or escalation.category
            return self._decision("emergency", reading, f"words of an emergency: {words}", escalation)
        if reading.kind == "empty":
            return self._decision("out_of_scope", reading, "there are no words in it", escalation)
        if reading.kind == "greeting":
            return self._decision("greeting", reading, "a greeting or thanks", escalation)
        if reading.kind == "injection":
            return self._decision("out_of_scope", reading, "it asks to set the rules aside", escalation)
        if reading.kind == "task":
            return self._decision("out_of_scope", reading, "the task is not a medical question", escalation)
        if reading.kind == "animal":
            return self._decision("out_of_scope", reading, "it is about an animal", escalation)
        if reading.score >= self.threshold:
            return self._decision("answer", reading, "medical words outweigh the others", escalation)
        if history and self._is_follow_up(reading) and self._topic_is_medical(history):
            return self._decision("answer", reading, "it follows up on a medical question", escalation)
        return self._decision("out_of_scope", reading, "too little in it is about medicine", escalation)

    def _decision(
        self, route: str, reading: _Reading, reason: str, escalation: Escalation | None
    ) -> GateDecision:
        terms = tuple(sorted(reading.terms, key=lambda t: -abs(t.weight))[:20])
        allowed = route != "out_of_scope"
        return GateDecision(
            route, allowed, round(reading.score, 3), self.threshold, terms, reason, escalation
        )

    def _is_follow_up(self, reading: _Reading) -> bool:
        """Whether a short turn leans on what went before ("what about …", "it") and opens no topic of its own."""
        if len(reading.words) > FOLLOW_UP_WORDS:
            return False
        weights = self.vocabulary.follow_up
        features = turn_features(reading.words, reading.terms, self.vocabulary)
        score = weights["<bias>"] + sum(weights[name] * value for name, value in features.items() if name in weights)
        return score >= LEANS

    def _topic_is_medical(self, history: Sequence[Mapping[str, str]]) -> bool:
        """Whether the conversation so far is about medicine: decided turn by turn from what the user typed."""
        turns = [turn for turn in history if isinstance(turn, Mapping) and turn.get("role") == "user"]
        medical = False
        for turn in turns[-HISTORY_TURNS:]:
            content = turn.get("content")
            if not isinstance(content, str):
                continue
            reading = self._read(content[:4000])
            if reading.kind in ("greeting", "empty"):
                continue
            if reading.kind != "question":
                medical = False
            elif reading.score >= self.threshold:
                medical = True
            else:
                escalation = check_red_flags(content[:4000])
                urgent = escalation is not None and escalation.kind == "emergency"
                medical = urgent or (medical and self._is_follow_up(reading))
        return medical

    def _read(self, text: str) -> _Reading:
        words = gate_words(text)
        if not words:
            return _Reading("empty", self.vocabulary.settings["bias"], ())
        vocabulary = self.vocabulary
        terms = tuple(vocabulary.find_terms(words, self.own))
        gains = sum(term.weight for term in terms if term.weight > 0)
        losses = sum(term.weight for term in terms if term.weight < 0)
        # A long story may touch on many things; in a short text what speaks against medicine counts in full.
        floor = vocabulary.settings["floor"] * (1 if len(words) > FOLLOW_UP_WORDS else 2)
        score = vocabulary.settings["bias"] + gains + max(losses, floor)
        return _Reading(self._kind(words), score, terms, tuple(words))

    def _kind(self, words: Sequence[str]) -> str:
        """What kind of text this is."""
        phrases = self.vocabulary.phrases
        bits = phrases.bits
        seen, at, covered = 0, 0, 0
        while at < len(words):
            mask, length = phrases.longest(words, at)
            if mask & bits["task"] and len(words) > LONG_TEXT and at > TASK_START:
                mask &= ~bits["task"]  # in the middle of a long story it is no task
            seen |= mask
            if mask & (bits["greeting"] | bits["filler"]):
                covered += length
            at += length
        if seen & bits["injection"]:
            return "injection"
        if seen & bits["task"]:
            return "task"
        if seen & bits["pet"] and len(words) <= LONG_TEXT:
            return "animal"
        if seen & bits["greeting"] and covered == len(words) and len(words) <= 16:
            return "greeting"
        return "question"


def own_terms(questions: Iterable[str], vocabulary: Vocabulary, most: int = 1000) -> list[MatchedTerm]:
    """Words of an adapter's training questions that the vocabulary does not know, for its own gate.

    A word counts that stands in two questions at least, is no ordinary word and not listed: what is listed with
    little weight ("first", "type") says little because it stands everywhere. The most frequent come first.
    """
    counts: Counter[str] = Counter()
    for question in questions:
        counts.update(set(gate_words(question)))
    found = []
    for word, count in counts.most_common():
        if count < OWN_QUESTIONS or len(found) == most:
            break
        if len(word) < 4 or not word.isalpha() or word in vocabulary.stop_words or word in vocabulary.ordinary:
            continue
        if (vocabulary.index.words.get(word) or vocabulary.unlisted(word, False)) is None:
            found.append(MatchedTerm(word, OWN_WEIGHT, "adapter"))
    return found


def write_terms(path: Path, head: str, terms: Iterable[MatchedTerm]) -> None:
    """A vocabulary file: `head` as comment lines, then term, weight and class."""
    lines = [f"# {line}\n" for line in head.splitlines()] + [f"{t.term}\t{t.weight:g}\t{t.cls}\n" for t in terms]
    path.write_text("".join(lines), encoding="utf-8")


@functools.lru_cache(maxsize=8)
def load_gate(vocab_dir: Path | None = None, strictness: str = "balanced") -> Gate:
    """The gate, read once for each folder and strictness."""
    return Gate.load(vocab_dir, strictness)
