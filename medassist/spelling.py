"""One form for all writing, and typing errors put right: what the gate and the red flags read text with.

`fold` gives text in the form in which words are looked up, `split_words` its words and sentence marks;
`Speller` and `SoundSpeller` find the listed word that a misspelt one was meant to be. Nothing here knows any word
by itself, and the time each takes grows linearly with the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_CHARS = 6_000  # of each end of a text; what lies between is not read, so that time stays bounded

# ---------------------------------------------------------------------------- folding

# Letters of other alphabets that look like Latin ones, and a few that NFKD does not take apart.
_LOOKALIKES = dict(
    zip(
        "аеорсухіјѕԁԛԝвнкмтьαεοιρυνκτχβημζ" + "øłđıßæœþðɡɑƒ",
        list("aeopcyxijsdqwbhkmtbaeoipuvktxbhmz") + ["o", "l", "d", "i", "ss", "ae", "oe", "th", "d", "g", "a", "f"],
        strict=True,
    )
)
_MARKS_TO_SPACE = frozenset('-‐‑‒–—―/\\|_+&*#@<>()[]{}"“”„«»=~^`')
_APOSTROPHES = frozenset("'’‘ʼ′´")


def _fold_char(char: str) -> str:
    """One character in folded form: small, without accents, look-alikes as Latin; invisible ones vanish."""
    if char in _APOSTROPHES:
        return "'"
    if char in _MARKS_TO_SPACE:
        return " "
    out = []
    for part in unicodedata.normalize("NFKD", char).casefold()[:18]:
        category = unicodedata.category(part)
        if category in ("Mn", "Cf", "Me") or (category == "Cc" and part not in "\n\t\r"):
            continue
        out.append(_LOOKALIKES.get(part, part))
    return "".join(out)


class _FoldTable(dict):
    """Folded form of each character met so far; each is worked out alone, so no run of marks costs more."""

    def __missing__(self, code: int) -> str:
        folded = _fold_char(chr(code))
        if len(self) < 20_000:
            self[code] = folded
        return folded


_FOLD = _FoldTable()
_ELISION = re.compile(r"(?<![a-z0-9'])(l|d|j|m|n|s|t|c|qu)'(?=[a-z])")
_TOKEN = re.compile(r"\d+[.,]\d+|[^\W_]+|[.!?;:,\n]")


def clip(text: str, limit: int = MAX_CHARS) -> str:
    """The text, or its two ends where it is longer than twice the limit."""
    if len(text) <= 2 * limit:
        return text
    return text[:limit] + "\n" + text[-limit:]


def fold(text: str) -> str:
    """Text in the form in which words are looked up: small letters, plain Latin where possible, no hyphens."""
    folded = clip(text).translate(_FOLD)
    folded = folded if len(folded) <= 3 * MAX_CHARS else clip(folded)
    if "'" in folded:
        folded = _ELISION.sub(r"\1 ", folded).replace("'", "")
    return folded


def split_words(folded: str) -> list[str]:
    """Words, numbers and sentence marks of folded text, in order."""
    return _TOKEN.findall(folded)


# ---------------------------------------------------------------------------- typing errors


def _spelling_keys(word: str) -> tuple[str, str, str]:
    """What one typing error leaves standing, at least one of the three: the start, the end, or both rims."""
    return word[:3] + "-", "-" + word[-3:], word[:2] + "-" + word[-2:]


def one_error_apart(left: str, right: str) -> bool:
    """Whether two words differ by one letter left out, put in, replaced, or swapped with its neighbour."""
    if left == right:
        return True
    if abs(len(left) - len(right)) > 1:
        return False
    start = 0
    shortest = min(len(left), len(right))
    while start < shortest and left[start] == right[start]:
        start += 1
    left, right = left[start:], right[start:]
    if len(left) > len(right):
        return left[1:] == right
    if len(right) > len(left):
        return right[1:] == left
    return left[1:] == right[1:] or (left[:2] == right[1::-1] and left[2:] == right[2:])


class Speller:
    """Finds the listed word that a typing error was meant to be: same first letter, one error apart."""

    def __init__(self, words: Sequence[str]) -> None:
        self._waiting: dict[str, list[str]] = {}  # by first letter, until a word with it is looked for
        for word in words:
            self._waiting.setdefault(word[0], []).append(word)
        self._by_key: dict[str, dict[str, list[str]]] = {}

    def _keys(self, first: str) -> dict[str, list[str]]:
        keys = self._by_key.get(first)
        if keys is None:
            keys = {}
            for word in self._waiting.get(first, ()):
                for key in _spelling_keys(word):
                    keys.setdefault(key, []).append(word)
            self._by_key[first] = keys
        return keys

    def find(self, word: str) -> str | None:
        """The first listed word that is one error away, or None."""
        keys, size = self._keys(word[0]), len(word)
        for key in _spelling_keys(word):
            for candidate in keys.get(key, ()):
                if not -2 < len(candidate) - size < 2 or candidate + "s" == word:
                    continue
                if one_error_apart(word, candidate):
                    return candidate
        return None


_SOUNDS = str.maketrans({"c": "k", "q": "k", "z": "s", **dict.fromkeys("aeiouyhw", "")})


def sound(word: str) -> str:
    """The consonants that are heard in a word: "siezing" and "seizing" sound the same."""
    out = word[0].replace("c", "k")
    for letter in word[1:].replace("ph", "f").translate(_SOUNDS):
        if letter != out[-1]:
            out += letter
    return out


class SoundSpeller:
    """Finds the listed long word that sounds like a badly spelled one."""

    def __init__(self, words: Iterable[str]) -> None:
        self._waiting: dict[str, list[str]] = {}
        for word in words:
            if len(word) >= 7:
                self._waiting.setdefault(word[0], []).append(word)
        self._by_sound: dict[str, dict[str, str]] = {}

    def find(self, word: str) -> str | None:
        """The listed word with the same first letter and sound and nearly the same length, or None."""
        first = word[0]
        sounds = self._by_sound.get(first)
        if sounds is None:
            sounds = {}
            for listed in self._waiting.get(first, ()):
                sounds.setdefault(sound(listed), listed)
            self._by_sound[first] = sounds
        heard = sound(word)
        meant = sounds.get(heard) if len(heard) >= 4 else None
        return meant if meant and abs(len(meant) - len(word)) <= 2 and meant[:2] == word[:2] else None
