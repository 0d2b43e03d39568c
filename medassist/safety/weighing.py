"""How much a passage sounds like an emergency, and like which one: a sum of weights over what was found in it.

A window of neighbouring sentences has features: the concepts found in it, those that lie in the past, its words, pairs
of neighbours, the beginnings of longer words, and a few facts about the whole text. The weights stand in files that can
be read; they were learned from cases written for this project (`tests/make_red_flag_weights.py`), nothing is learned here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medassist.safety.reading import Sentence

STEM = 5  # letters of the beginning of a word that stand for its forms; of words longer than that
MOST_SIGNS = 4  # of different signs that are counted
SHORT_TEXT = 12  # words

Found = tuple[int, int, int, frozenset[str]]  # bits, bits of the past, number of words, words with their pieces


def found_in(window: Sequence[Sentence]) -> Found:
    """What is found in neighbouring sentences together."""
    if len(window) == 1:
        one = window[0]
        return one.bits, one.past_bits, len(one.heard), one.pieces
    bits = past = 0
    for sentence in window:
        bits |= sentence.bits
        past |= sentence.past_bits
    heard = frozenset().union(*(sentence.heard for sentence in window))
    return bits, past, len(heard), frozenset().union(*(sentence.pieces for sentence in window))


def facts_of(sentences: Sequence[Sentence], text: str, told: Iterable[str]) -> dict[str, float]:
    """Facts about a whole text: whether it is short, whether it ends in a question, and what kind of text it is (`told`)."""
    size = sum(len(sentence.heard) for sentence in sentences)
    facts = {"short": float(size < SHORT_TEXT), "?": float("?" in text[-200:])}
    return facts | dict.fromkeys(told, 1.0)


class Weights:
    """The weights of one file or section, by kind of feature.

    Names: `word`, `two words`, `begin*` (words that begin so), `{concept}`, `{past concept}`, `<fact>`, `<signs>` (how
    many different signs, up to four, halved) and `<bias>`. Words and their pieces count by the root of the number of words.
    """

    def __init__(self, weights: Mapping[str, float], bits: Mapping[str, int], context: int) -> None:
        self.bias = weights.get("<bias>", 0.0)
        self.signs = weights.get("<signs>", 0.0)
        self.not_signs = context
        self.words: dict[str, float] = {}
        self.facts: dict[str, float] = {}
        self.concepts: dict[int, float] = {}
        self.past: dict[int, float] = {}
        for name, weight in weights.items():
            if name[0] == "{":
                where, name = (self.past, name[6:]) if name.startswith("{past ") else (self.concepts, name[1:])
                where[bits[name[:-1]]] = weight
            elif name[0] == "<":
                self.facts[name[1:-1]] = weight
            else:
                self.words[name] = weight

    @functools.cached_property
    def _mask(self) -> tuple[int, int]:
        return sum(self.concepts), sum(self.past)

    def score(self, found: Found, facts: Mapping[str, float]) -> float:
        """The sum for a window and the facts of its text; above 0 it is rather an emergency (log-odds)."""
        bits, past, size, pieces = found
        total = self.bias + self.signs * min(MOST_SIGNS, (bits & ~self.not_signs).bit_count()) / 2
        for name, value in facts.items():
            total += self.facts.get(name, 0.0) * value
        total += sum(map(self.concepts.__getitem__, single_bits(bits & self._mask[0])))
        total += sum(map(self.past.__getitem__, single_bits(past & self._mask[1])))
        words = self.words
        return total + sum([words[piece] for piece in pieces if piece in words]) / max(1, size) ** 0.5


def single_bits(mask: int) -> Iterator[int]:
    """The bits of a mask one by one, each as a mask of its own."""
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit


def features(
    found: Found, facts: Mapping[str, float], names: Mapping[int, str], context: int
) -> dict[str, float]:
    """The features of a window by their names in the files, with their values: what `Weights.score` sums over."""
    bits, past, size, pieces = found
    out = {f"<{name}>": amount for name, amount in facts.items() if amount}
    out["<signs>"] = min(MOST_SIGNS, (bits & ~context).bit_count()) / 2
    out |= {f"{{{names[bit]}}}": 1.0 for bit in single_bits(bits)}
    out |= {f"{{past {names[bit]}}}": 1.0 for bit in single_bits(past & ~context)}
    return out | dict.fromkeys(pieces, 1 / max(1, size) ** 0.5)
