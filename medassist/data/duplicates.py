"""Near duplicates: rows that ask the same and answer the same, but for filler words, spelling or a few words.

Candidates come from MinHash signatures of character 5-grams (Broder 1997), one permutation with rotation
(Shrivastava and Li 2014), cut into bands; each candidate pair is then compared word by word, and one number, one
negation or one other word of substance in the question keeps both rows: "type 1" and "type 2" are two questions.
Memory is 8 bytes a row and band on disk, and about 40 bytes a row while one band is searched.

    python -m medassist data check --dataset FILE
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from medassist.data.clean import question_key

BANDS, ROWS_IN_BAND = 10, 6  # a pair with Jaccard similarity 0.8 is found with probability 0.95, 0.9 with 0.999
_SHINGLE = 5  # characters
_CHARS = 4000  # of a row's text that are looked at
_NEIGHBOURS = 3  # rows compared with each row of a band's group, so that time stays linear
_SAME_WORDS = 0.85  # Jaccard similarity of the answers' words
_SAME_TEXT = 0.95  # the same, where the questions differ in spelling
_CONTAINED = 0.97  # of the shorter answer's words, when it is a cut copy of the longer

# Neither "a" nor "i": vitamin A, type I.
_FILLER = frozenset(
    ["an", "the", "is", "are", "was", "were", "be", "been", "being", "do", "does", "did", "can", "could", "may", "might", "must", "should", "would", "will", "shall", "of", "in", "on", "at", "to", "for", "from", "by", "with", "as", "and", "that", "this", "these", "those", "it", "its", "what", "which", "who", "whom", "whose", "when", "where", "how", "why", "please", "you", "your", "me", "my", "we", "us", "our", "tell", "explain", "describe", "define", "give", "list", "name", "some", "any", "most", "commonly", "common", "typically", "typical", "usually", "usual", "generally", "classic", "classically", "main", "also", "there", "if", "so", "about", "exactly", "following", "given"])
_TURNS = frozenset(  # words that turn a statement round
    ["no", "not", "never", "none", "without", "neither", "nor", "cannot", "least", "except", "lack", "lacks", "absent", "absence", "negative", "positive", "increase", "increases", "increased", "decrease", "decreases", "decreased", "high", "higher", "low", "lower", "left", "right", "upper", "before", "after", "more", "less", "worse", "better", "above", "below", "acute", "chronic", "male", "female", "men", "women", "boys", "girls", "children", "adults", "contraindicated", "indicated", "false", "true"])

_BOUNDS = (np.arange(BANDS * ROWS_IN_BAND, dtype=np.float64) * (2.0**64 / (BANDS * ROWS_IN_BAND))).astype(np.uint64)


def hash64(text: str) -> int:
    """A signed 64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True)


def substance(question: str) -> list[str]:
    """The words of a normalised question that are not filler, plural and verb endings cut, sorted."""
    return sorted(_stem(w) for w in question.split() if w not in _FILLER)


def _stem(word: str) -> str:
    if any(c.isdigit() for c in word):
        return word
    for ending in ("ing", "ied", "ies", "es", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4 and not word.endswith(("ss", "us", "is")):
            return word[:-len(ending)]
    return word


def signature(question: str, answer: str) -> list[int]:
    """BANDS hashes; rows that share one are candidates. Questions with different numbers share none."""
    text = f"{question_key(question)} | {question_key(answer[:_CHARS])}"[:_CHARS]
    data = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.uint64)
    if len(data) < _SHINGLE:
        data = np.pad(data, (0, _SHINGLE - len(data)))
    grams = np.zeros(len(data) - _SHINGLE + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for i in range(_SHINGLE):
            grams = grams * np.uint64(257) + data[i:len(data) - _SHINGLE + 1 + i]
        grams = _mix(grams)
        grams.sort()
        # The smallest hash at or above each bound; an empty bin takes the next one's, round the end.
        least = grams[np.searchsorted(grams, _BOUNDS) % len(grams)].reshape(BANDS, ROWS_IN_BAND)
        numbers = " ".join(sorted(w for w in question_key(question).split() if any(c.isdigit() for c in w)))
        bands = np.full(BANDS, np.uint64(hash64(numbers) & (2**64 - 1)))
        for column in range(ROWS_IN_BAND):
            bands = _mix(bands ^ least[:, column])
    return bands.view(np.int64).tolist()


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def is_near(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether two (question, answer) pairs say the same; see the module's own words for what keeps them apart."""
    questions = [question_key(first[0]), question_key(second[0])]
    answers = [question_key(first[1]).split(), question_key(second[1]).split()]
    spelling = _same_but_for_spelling(*questions)
    if spelling is None:
        return False
    a, b = Counter(answers[0]), Counter(answers[1])
    if a == b:
        return True
    common, shorter, longer = (a & b).total(), min(a.total(), b.total()), max(a.total(), b.total())
    alike = common / (a.total() + b.total() - common)
    # One word more may be missing: the cut goes through it.
    contained = common + 1 >= _CONTAINED * shorter and shorter >= longer / 2 and shorter >= 12
    if alike < (_SAME_TEXT if spelling else _SAME_WORDS) and not (contained and not spelling):
        return False
    apart = (a - b) + (b - a)
    if contained and longer > shorter:  # what only the longer one adds turns nothing round
        apart = (a - b) if a.total() <= b.total() else (b - a)
    return not any(w in _TURNS or any(c.isdigit() for c in w) for w in apart)


def _same_but_for_spelling(first: str, second: str) -> bool | None:
    """None: two questions. False: one and the same. True: the same if words of like spelling are the same word."""
    a, b = Counter(substance(first)), Counter(substance(second))
    left, right = sorted((a - b).elements()), sorted((b - a).elements())
    if not left and not right:
        return False
    if len(left) != len(right) or len(left) > 2:
        return None
    for one, other in zip(left, right):
        if one in _TURNS or other in _TURNS or min(len(one), len(other)) < 6 or one[:2] != other[:2]:
            return None
        if any(c.isdigit() for c in one + other) or difflib.SequenceMatcher(None, one, other).ratio() < 0.85:
            return None
    return True


def find_near(bands: Iterable[np.ndarray], order: np.ndarray, pair_at: Callable[[int], tuple[str, str]]
              ) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of places whose rows are near duplicates.

    Args:
        bands: for each band, one hash a row, shape (rows,).
        order: a hash of each row's question by its words of substance, shape (rows,): rows of a group are
            compared with their neighbours in this order.
        pair_at: question and answer of the row at a place.
    """
    found: dict[int, int] = {}  # later → earlier
    refused: set[tuple[int, int]] = set()
    for band in bands:
        by_group = np.lexsort((np.arange(len(band)), order, band))
        same = np.flatnonzero(band[by_group][1:] == band[by_group][:-1])
        if not len(same):
            continue
        for at in same.tolist():
            place = int(by_group[at + 1])
            for back in range(_NEIGHBOURS):
                if at - back < 0 or band[by_group[at - back]] != band[place]:
                    break
                _compare(int(by_group[at - back]), place, found, refused, pair_at)
    return [(earlier, later) for later, earlier in found.items()]


def _compare(one: int, other: int, found: dict[int, int], refused: set[tuple[int, int]],
             pair_at: Callable[[int], tuple[str, str]]) -> None:
    one, other = _first(found, one), _first(found, other)
    if one == other:
        return
    earlier, later = min(one, other), max(one, other)
    if (earlier, later) in refused:
        return
    if is_near(pair_at(earlier), pair_at(later)):
        found[later] = earlier
    elif len(refused) < 1_000_000:  # only saves time
        refused.add((earlier, later))


def _first(found: dict[int, int], place: int) -> int:
    while place in found:
        place = found[place]
    return place


def same_groups(count: int, relations: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """A group number for each row, shape (count,): rows with an equal value in any relation, or in a pair, are together.

    Args:
        relations: arrays of int64, shape (count,); 0 relates to nothing.
    """
    labels = np.arange(count)
    links: list[np.ndarray] = []
    for values in relations:
        _, group = np.unique(values, return_inverse=True)
        group = group.astype(np.int64)
        zero = values == 0
        if zero.any():  # each a group of its own
            group[zero] = group.max() + 1 + np.arange(int(zero.sum()))
        links.append(group)
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    while True:
        before = labels.copy()
        for group in links:
            least = np.full(int(group.max()) + 1 if count else 0, count, dtype=np.int64)
            np.minimum.at(least, group, labels)
            labels = least[group]
        if len(edges):
            least_edge = np.minimum(labels[edges[:, 0]], labels[edges[:, 1]])
            np.minimum.at(labels, edges[:, 0], least_edge)
            np.minimum.at(labels, edges[:, 1], least_edge)
        if np.array_equal(before, labels):
            return labels


