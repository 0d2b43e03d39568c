"""The files of wordings in `red_flags/`: how their lines are read, and the tree that finds wordings in a text.

A line is "concept: pattern, pattern, …"; a pattern may hold (a|b), (a|), $parts defined above it, and <classes>.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from medassist.errors import VocabularyError

_WORD = re.compile(r"[^\W_]+")


def damaged(path: Path, why: str) -> VocabularyError:
    """The error for a file that can be read but not understood."""
    return VocabularyError(f"The word file {path.name} is damaged: {why}.", _restore(path))


def _restore(path: Path) -> str:
    return f"Restore the folder {path.parent.name}/ from the project."


def lines(path: Path) -> list[str]:
    """The lines of a data file, without comments and empty ones; lines that begin with a space are joined on."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(
            f"The word file {path.name} cannot be read ({type(error).__name__}).", _restore(path)
        ) from None
    joined: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and joined:
            joined[-1] += line
        elif line.strip() and not line.startswith("#"):
            joined.append(line.strip())
    return joined


def entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """(name, sign between, body) of each line: a concept with its patterns, a <class> or a $part."""
    for line in lines(path):
        name, sep, body = line.partition("=" if line[0] in "$<" else ":")
        if not sep or not name.strip():
            raise damaged(path, f"cannot read {line[:40]!r}")
        yield name.strip(), sep, body.strip()


def _split_patterns(body: str) -> list[str]:
    return [pattern for piece in body.split(",") if (pattern := piece.strip())]


def expand(pattern: str, parts: Mapping[str, list[str]]) -> list[str]:
    """All wordings of a pattern: (a|b) stands for either, (a|) for a or nothing, $name for a defined part."""
    result, rest = [""], pattern
    while rest:
        cut = next((at for at, char in enumerate(rest) if char in "($"), len(rest))
        pieces, rest = [rest[:cut]], rest[cut:]
        if not pieces[0] and rest.startswith("("):
            at = _closing(rest)
            pieces, rest = _alternatives(rest[1:at], parts), rest[at + 1 :]
        elif not pieces[0]:
            name = re.match(r"\$(\w+)", rest)
            if name is None or name.group(1) not in parts:
                raise ValueError(f"unknown part in {pattern!r}")
            pieces, rest = parts[name.group(1)], rest[name.end() :]
        result = [left + piece for left in result for piece in pieces]
    return result


def _closing(text: str) -> int:
    """The place of the bracket that closes the one at the beginning of the text."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return at
    raise ValueError(f"a bracket is not closed in {text!r}")


def _alternatives(body: str, parts: Mapping[str, list[str]]) -> list[str]:
    """The wordings of a|b|c, where each may hold brackets of its own."""
    pieces, depth, start = [], 0, 0
    for at, char in enumerate(body + "|"):
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            pieces.append(body[start:at])
            start = at + 1
    return [wording for piece in pieces for wording in (expand(piece, parts) if piece else [""])]


def _openings(pattern: str, parts: Mapping[str, list[str]]) -> Iterable[str]:
    """The first words of all wordings of a pattern, found without expanding more of it than needed."""
    head, _, rest = pattern.partition(" ")
    if "(" not in head and "$" not in head:
        return (head,)
    if head[0] == "$" and "(" not in head and rest:
        return {wording.split()[0] for wording in parts[head[1:]]}
    if pattern[0] == "(":
        end = pattern.find(")")
        body = pattern[1:end]
        if "(" not in body and "$" not in body and pattern[end + 1 : end + 2] in (" ", ""):
            words = [option.partition(" ")[0] for option in body.split("|")]
            if "" not in words:
                return words
            return [word for word in words if word] + list(_openings(pattern[end + 2 :], parts))
    return {wording.split()[0] for wording in expand(pattern, parts)}


_CONTRACTED = {
    "can": "cant", "could": "couldnt", "do": "dont", "does": "doesnt", "did": "didnt", "is": "isnt", "are": "arent",
    "was": "wasnt", "were": "werent", "has": "hasnt", "have": "havent", "will": "wont", "would": "wouldnt",
}  # fmt: skip
_NOT = re.compile(r"\b(can|could|do|does|did|is|are|was|were|has|have|will|would) not\b|\bcannot\b")


def contract(words: Sequence[str]) -> list[str]:
    """The words with "can not" and "cannot" read as "cant", and the like."""
    out: list[str] = []
    for word in words:
        if word == "not" and out and out[-1] in _CONTRACTED:
            out[-1] = _CONTRACTED[out[-1]]
        else:
            out.append("cant" if word == "cannot" else word)
    return out


class PhraseTree:
    """Wordings of concepts as a tree of words: finds the longest that begins at a place, as a mask of bits."""

    def __init__(self, bits: dict[str, int]) -> None:
        self.bits = bits
        self.classes: dict[str, tuple[str, ...]] = {}  # word → the <classes> that it belongs to
        self.known: set[str] = set()
        self._tree: dict = {}

    def _add(self, wordings: Iterable[str], bit: int) -> None:
        for wording in wordings:
            words = wording.split()
            if "not" in words or "cannot" in words:
                words = contract(words)
            node = self._tree
            for word in words:
                node = node.setdefault(word, {})
            node[""] = node.get("", 0) | bit
            self.known.update(words)

    def longest(self, words: Sequence[str], at: int) -> tuple[int, int]:
        """Bits and length of the longest wording that begins at this word; (0, 1) for none."""
        mask, length, step = 0, 1, at
        nodes = [self._tree]
        classes = self.classes
        while nodes and step < len(words):
            word = words[step]
            names = classes.get(word)
            if names is None and len(nodes) == 1:
                node = nodes[0].get(word)
                if node is None:
                    break
                nodes, step = [node], step + 1
                if "" in node:
                    mask, length = node[""], step - at
                continue
            nodes = [node[key] for node in nodes for key in (word, *(names or ())) if key in node]
            step += 1
            ends = [node[""] for node in nodes if "" in node]
            if ends:
                mask, length = functools.reduce(int.__or__, ends), step - at
        return mask, length


class GrowingTree(PhraseTree):
    """A tree whose patterns are expanded when a text first holds a word that they begin with.

    So many thousand wordings cost nothing until they are needed. Growing twice at once does no harm.
    """

    def __init__(self, paths: Iterable[Path], bits: dict[str, int], shared: PhraseTree | None = None) -> None:
        super().__init__(bits)
        self.parts: dict[str, list[str]] = {}
        self._waiting: dict[str, list[tuple[str, int]]] = {}
        if shared is not None:
            self.classes.update(shared.classes)
        for path in paths:
            self._read(path)
        self._note_firsts()

    def _note_firsts(self) -> None:
        """Note the words with which any wording begins: most words of a text are none of them."""
        classes = (word for word, names in self.classes.items() if any(name in self._waiting for name in names))
        self.firsts = frozenset(self._waiting).union(classes)

    def _read(self, path: Path) -> None:
        found = False
        for name, sep, body in entries(path):
            if name[0] == "<":
                for word in body.split():
                    self.classes[word] = (*self.classes.get(word, ()), name)
            elif name[0] == "$":
                self.parts[name[1:]] = _alternatives(body, self.parts)
            else:
                bit = self.bits.setdefault(name, 1 << len(self.bits))
                if " not" in body or "cannot" in body:
                    body = _NOT.sub(lambda m: _CONTRACTED.get(m[1], "cant"), body)
                try:
                    for pattern in _split_patterns(body):
                        for word in _openings(pattern, self.parts):
                            self._waiting.setdefault(word, []).append((pattern, bit))
                except (ValueError, IndexError, KeyError) as error:
                    raise damaged(path, f"{name}: {error}") from None
                found = True
            self.known.update(_WORD.findall(body))
        if not found:
            raise damaged(path, "it holds no concept")

    def grow(self, word: str) -> None:
        """Put the wordings that begin with this word into the tree."""
        for key in (word, *self.classes.get(word, ())):
            for pattern, bit in self._waiting.get(key, ()):
                self._add(expand(pattern, self.parts), bit)
            self._waiting.pop(key, None)

    def longest(self, words: Sequence[str], at: int) -> tuple[int, int]:
        """Bits and length of the longest wording that begins at this word; (0, 1) for none."""
        word = words[at]
        if word not in self.firsts:
            return 0, 1
        if word in self._waiting or word in self.classes:
            self.grow(word)
        return super().longest(words, at)
