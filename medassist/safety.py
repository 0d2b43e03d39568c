"""Red flags: finds the words of a medical emergency in what a person typed, with no model involved.

`check_red_flags` answers with an `Escalation` (act now, or a short note for a question about an emergency) or
with None. What it knows stands in `red_flags/`: the wordings, the rules that combine them, and the replies.
It knows nothing about the gate, about models or about the page, and it is no diagnosis: it reads words.

    python -c "from medassist.safety import *; print(render_escalation(check_red_flags('my dad has crushing chest pain')))"

How a text is read: it is folded (small letters, no accents, no invisible characters), cut into sentences, and
each sentence is walked twice along a tree of wordings: for signs (what happens) and for context (who, when, why).
Signs set the bits of their concepts, unless they are negated or lie in the past; a rule matches where its slots
are all filled within a few neighbouring sentences. The context decides what a match is: an emergency, a question
about one, or nothing (an exam case, a novel, a pet, something long over).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medassist.errors import VocabularyError

RED_FLAGS_DIR = Path(__file__).parent / "red_flags"

STANDING_NOTICE = (
    "For education only: not medical advice, and not a medical device. Do not enter anyone's personal data. "
    "In an emergency call 112, 911 (US) or 999 (UK)."
)

MAX_CHARS = 6_000  # of each end of a text; what lies between is not read, so that time stays bounded
SENTENCE_WORDS = 60  # a "sentence" without any full stop is cut here
MIN_SENTENCE_WORDS = 4  # shorter ones are read with what follows
WINDOW = 3  # a rule may find its slots within this many neighbouring sentences
HISTORY_TURNS = 2  # earlier user turns that are read together with the current one
SOUNDS_URGENT = 0.8  # the weight of words from which a text without an urgent rule is an emergency
REPAIR_WORDS = 600  # unknown words of each end of a text that are tried as typing errors


@dataclass(frozen=True)
class Escalation:
    """What to say instead of, or beside, an answer.

    `kind` is "emergency" (act now; no model is asked) or "note" (a question about an emergency: it is answered,
    with `note` beside it). `matched` are the words that led here.
    """

    category: str
    kind: str
    title: str
    actions: tuple[str, ...]
    numbers: tuple[tuple[str, str], ...]
    note: str
    matched: tuple[str, ...]
    answer_may_follow: bool


# ---------------------------------------------------------------------------- folding: one form for all writing

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


# ---------------------------------------------------------------------------- the files in red_flags/


def _expand(pattern: str, parts: Mapping[str, list[str]]) -> list[str]:
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
    return [wording for piece in pieces for wording in (_expand(piece, parts) if piece else [""])]


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
    return {wording.split()[0] for wording in _expand(pattern, parts)}


@dataclass(frozen=True)
class _Rule:
    """One line of rules.txt: `slots` are bit masks, each of which must meet the bits found."""

    kind: str
    category: str
    slots: tuple[int, ...]
    near: bool  # all slots within one sentence
    count: int = 1  # how many concepts of the first slot must be there


@dataclass(frozen=True)
class _Reply:
    title: str
    note: str
    actions: tuple[str, ...]


_CALL = "Call your emergency number now: 112, 911 (US), 999 (UK)."
_NUMBERS = (("Emergency, Europe and most mobiles", "112"), ("US", "911"), ("UK", "999"))
_CRISIS_LINES = (("US suicide and crisis line", "988"), ("Crisis lines elsewhere", "findahelpline.com"))
_POISON_LINES = (("Poison line, US", "1-800-222-1222"), ("Poison line elsewhere", "your local poison centre"))
_EXTRA_NUMBERS = {"suicide": _CRISIS_LINES, "urgent": _CRISIS_LINES, "poisoning": _POISON_LINES + _CRISIS_LINES}

# Concepts that say how something is said; they are never negated and fill in no symptom. Those of context.txt
# come first, then those that stand among the signs because they hide or negate them.
_CONTEXT_NAMES = (
    "person first_person human animal asking opener plea hypothetical riskof study fiction task general case_start "
    "case_verb case_ask vignette now past resolved mild minimise happening"
)
_CONTEXT = tuple(_CONTEXT_NAMES.split())
_AMONG_SIGNS = ("figure", "not_negation", "negation", "contrast", "before_event")
# Words that many harmless texts hold: alone they are no sign for the net of weights. And those of despair.
_VAGUE = (
    "took ate drank again used head face eye arm leg hit high food object sudden low_state will_do dose_word many mouth "
    "need_now not_working minutes_long not_easing infant_age fever_number amnesia fell weight_word very_high large heavy "
    "height missing all_ill postpartum glass_test baby child jaw neck_word airway heart_word worse insulin diabetic sugar "
    "gest_weeks num_low num_high grams limb_word cant_move vision_loss no_response awful play_down near_water curtain chemical "
    "confused speak_unable droop move_word less_word household blood see_not"
)
_DESPAIR = "die_word farewell hopeless goodbye means suicidal suicide_name better_off_dead"
# Signs that count as well where their word stands inside a longer wording ("pain is unbearable" says pain).
_PLAIN_SIGNS = (
    "pain severe chest arm jaw leg numb weak airway face eye head belly pills vomit swelling fell hit took ate crash "
    "sweat pale pregnant bleed stool fever confused"
)
_NUMBERS_MEAN = (
    "num_low",
    "num_high",
    "fever_number",
    "many",
    "grams",
    "gest_weeks",
    "sats_low",
    "breaths_high",
    "pulse_high",
    "bp_numbers",
)


class PhraseTree:
    """Wordings of concepts as a tree of words: finds the longest that begins at a place, as a mask of bits."""

    def __init__(self, lexicon: Iterable[tuple[str, list[str]]], bits: Mapping[str, int] | None = None) -> None:
        self.bits: dict[str, int] = dict(bits or {})
        self.classes: dict[str, tuple[str, ...]] = {}  # word → the <classes> that it belongs to
        self.known: set[str] = set()
        self._tree: dict = {}
        for name, wordings in lexicon:
            if name.startswith("<"):
                for word in wordings:
                    self.classes[word] = (*self.classes.get(word, ()), name)
                self.known.update(wordings)
                continue
            self._add(wordings, self.bits.setdefault(name, 1 << len(self.bits)))

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
        super().__init__((), bits)
        self.bits = bits
        self.parts: dict[str, list[str]] = {}
        self._waiting: dict[str, list[tuple[str, int]]] = {}
        if shared is not None:
            self.classes.update(shared.classes)
        for path in paths:
            self._read(path)

    def _read(self, path: Path) -> None:
        found = False
        for name, sep, body in _entries(path):
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
                    raise _damaged(path, f"{name}: {error}") from None
                found = True
            self.known.update(_WORD.findall(body))
        if not found:
            raise _damaged(path, "it holds no concept")

    def grow(self, word: str) -> None:
        """Put the wordings that begin with this word into the tree."""
        for key in (word, *self.classes.get(word, ())):
            for pattern, bit in self._waiting.get(key, ()):
                self._add(_expand(pattern, self.parts), bit)
            self._waiting.pop(key, None)

    def longest(self, words: Sequence[str], at: int) -> tuple[int, int]:
        """Bits and length of the longest wording that begins at this word; (0, 1) for none."""
        word = words[at]
        if word in self._waiting or word in self.classes:
            self.grow(word)
        return super().longest(words, at)


class RedFlags:
    """The content of a red-flags folder, ready to be matched. Use `load_red_flags`."""

    def __init__(self, folder: Path) -> None:
        first = (*_CONTEXT, *_AMONG_SIGNS, *_NUMBERS_MEAN)
        self.bits = {name: 1 << at for at, name in enumerate(first)}
        self.signs = GrowingTree((folder / name for name in SIGN_FILES), self.bits)
        self.context_tree = GrowingTree([folder / "context.txt"], self.bits, self.signs)
        self.context = sum(self.bits[name] for name in (*_CONTEXT, *_AMONG_SIGNS))
        self.asked = sum(self.bits[name] for name in ("asking", "hypothetical", "study", "fiction"))
        self.of_whom = sum(self.bits[name] for name in ("person", "first_person", "human", "animal"))
        self.people = functools.cache(lambda word: self.context_tree.longest([word], 0)[0] & self.of_whom)
        self.plain = sum(self.bits[name] for name in _PLAIN_SIGNS.split() if name in self.bits)
        self.inside = functools.cache(lambda word: self.signs.longest([word], 0)[0] & self.plain)
        self.replies = _read_replies(folder / "replies.txt")
        self.order = {name: at for at, name in enumerate(self.replies)}
        self.rules = self._read_rules(folder / "rules.txt")
        self.vague = sum(self.bits.get(name, 0) for name in _VAGUE.split())
        self.despair = sum(self.bits.get(name, 0) for name in _DESPAIR.split())
        named = [slot for rule in self.rules if rule.kind == "?" for slot in rule.slots]
        self.named = functools.reduce(int.__or__, named, 0)
        meant, self.typos = _read_typos(folder / "typos.txt")
        self.bias, self.weights = _read_weights(folder / "weights.txt")
        self.known = self.signs.known | self.context_tree.known | set(_lines(folder / "real_words.txt"))
        self.speller, self.sounds = Speller(meant), SoundSpeller(meant)

    def _read_rules(self, path: Path) -> list[_Rule]:
        rules = []
        for line in _lines(path):
            head, _, tail = line.partition(":")
            kind, _, category = head.partition(" ")
            near, kind = kind.endswith("."), kind.rstrip(".")
            count, kind = (int(kind[0]), kind[1:]) if kind[:1].isdigit() else (1, kind)
            try:
                slots = [sum(self.bits[n] for n in set(slot.strip().split("/"))) for slot in tail.split("+")]
            except KeyError as error:
                raise _damaged(path, f"no concept {error.args[0]!r} for {line!r}") from None
            if kind not in ("!", "!!", "~", "?") or category.strip() not in self.replies:
                raise _damaged(path, f"cannot read {line!r}")
            rules.append(_Rule(kind, category.strip(), tuple(slots), near, count))
        if not rules:
            raise _damaged(path, "it holds no rule")
        return sorted(rules, key=lambda rule: self.order[rule.category])


SIGN_FILES = ("lexicon.txt", "lexicon_more.txt")
_WORD = re.compile(r"[^\W_]+")


def _damaged(path: Path, why: str) -> VocabularyError:
    return VocabularyError(
        f"The red-flag file {path.name} is damaged: {why}.", "Restore medassist/red_flags/ from the project."
    )


def _lines(path: Path) -> list[str]:
    """The lines of a data file, without comments and empty ones; lines that begin with a space are joined on."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(
            f"The red-flag file {path.name} cannot be read ({type(error).__name__}).",
            "Restore medassist/red_flags/ from the project.",
        ) from None
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and lines:
            lines[-1] += line
        elif line.strip() and not line.startswith("#"):
            lines.append(line.strip())
    return lines


def _read_typos(path: Path) -> tuple[list[str], dict[str, str]]:
    """The words that are looked for behind a typing error, and frequent errors with what is meant."""
    meant: list[str] = []
    typos: dict[str, str] = {}
    for line in _lines(path):
        if line[0] == "~":
            meant += line[1:].split()
            continue
        right, sep, wrong = line.partition(":")
        if not sep:
            raise _damaged(path, f"cannot read {line[:40]!r}")
        typos.update(dict.fromkeys(wrong.split(), right.strip()))
    return meant, typos


def _read_weights(path: Path) -> tuple[float, dict[str, float]]:
    """The weights of words and pairs of words; the first line is the bias."""
    weights: dict[str, float] = {}
    try:
        for line in _lines(path):
            value, _, pieces = line.partition(" ")
            for piece in pieces.split(","):
                weights[piece.strip()] = float(value)
    except ValueError:
        raise _damaged(path, f"cannot read {line[:40]!r}") from None
    if "bias" not in weights:
        raise _damaged(path, "it has no bias")
    return weights.pop("bias"), weights


def _entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """(name, sign between, body) of each line: a concept with its patterns, a <class> or a $part."""
    for line in _lines(path):
        name, sep, body = line.partition("=" if line[0] in "$<" else ":")
        if not sep or not name.strip():
            raise _damaged(path, f"cannot read {line[:40]!r}")
        yield name.strip(), sep, body.strip()


def _split_patterns(body: str) -> list[str]:
    return [pattern for piece in body.split(",") if (pattern := piece.strip())]


def read_lexicon(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(concept, wordings) in the order of the file."""
    parts: dict[str, list[str]] = {}
    found = False
    for name, _, body in _entries(path):
        try:
            if name[0] == "<":
                yield name, body.split()
                continue
            if name[0] == "$":
                parts[name[1:]] = _alternatives(body, parts)
                continue
            yield name, [w for p in _split_patterns(body) for w in _expand(p, parts)]
        except ValueError as error:
            raise _damaged(path, str(error)) from None
        found = True
    if not found:
        raise _damaged(path, "it holds no concept")


def _read_replies(path: Path) -> dict[str, _Reply]:
    """The replies by category, in the order in which categories win."""
    replies: dict[str, dict] = {}
    current: dict = {}
    for line in _lines(path):
        if line.startswith("["):
            current = replies.setdefault(line.strip("[]"), {"title": "", "note": "", "actions": []})
        elif line.startswith("- "):
            current.setdefault("actions", []).append(line[2:].replace("{call}", _CALL).strip())
        else:
            key, _, value = line.partition(":")
            current[key] = value.strip()
    for name, reply in replies.items():
        if not (reply.get("title") and reply.get("note") and reply.get("actions")):
            raise _damaged(path, f"category {name!r} has no title, note or actions")
    if not replies:
        raise _damaged(path, "it holds no reply")
    return {name: _Reply(r["title"], r["note"], tuple(r["actions"])) for name, r in replies.items()}


@functools.lru_cache(maxsize=4)
def load_red_flags(folder: Path = RED_FLAGS_DIR) -> RedFlags:
    """The red flags of a folder, read once. Raises VocabularyError where a file is missing or damaged."""
    return RedFlags(folder)


# ---------------------------------------------------------------------------- reading a text


@dataclass
class _Sentence:
    """What one sentence holds: bits of its concepts, without the negated ones, and the words that set them."""

    bits: int = 0
    past_bits: int = 0  # what is said of the past: it can make a note, never an emergency
    words: tuple[tuple[int, str], ...] = ()
    heard: frozenset[str] = frozenset()  # its words and pairs of words that have a weight


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LIST_WORDS = frozenset(("or", "nor", "ni", "ou", "oder", "neither", "of", "ani", "lub"))
_STRONG_NEGATION = frozenset(("denies", "denied", "without", "sin", "sans", "ohne", "senza", "sem", "zonder", "bez"))
_BEFORE_A_QUESTION = _set("so but or hi hello hey doctor dr please question also then ok okay curious wondering asking")
_AND = frozenset(("and", "y", "et", "und", "e", "en"))
_WEEKS = _set(
    "week weeks semana semanas semaine semaines woche wochen settimana settimane weken tydzien tygodni sa ssw"
)
_MONTHS = _set("month months mes meses mois monat monate mese mesi maanden miesiac")
_ORDINAL = _set("th st nd rd esima ª a e eme te ste")
_NO_LONGER_WEEKS = _set("old ago later earlier alt oud pause break holiday course")
_UNITS_OF_TIME = (
    _WEEKS
    | _MONTHS
    | _set(
        "years year days day hours hour minutes minute min mins yr yrs yo h hr hrs second seconds sec secs ans anos jahre "
        "jahren anni jaar lat pounds lbs kg times percent units cups cup"
    )
)
_UNITS = _UNITS_OF_TIME | _set("mg mcg ml g gram grams iu unit cm mm dollars euros km miles c f degrees grad")
_GRAMS = _set("g gram grams gramos grammes gramm grammi gramas")
_SUGAR_WORDS = _set(
    "sugar sugars glucose bg bm bgl bsl cbg azucar glucosa glucemia glycemie blutzucker zucker cgm glucometer meter insulin hypo t1 "
    "diabetic diabetica diabetico diabetique diabetes diabetiker glicemia zuccheri glicose cukier suiker bloedsuiker"
)
_KETONE_WORDS = _set("ketones ketone cetonas cetones ketone chetoni ketonen ketony")
_OXYGEN_WORDS = _set(
    "oximeter pulseox oxygen sats sat spo2 o2 saturation saturacion sauerstoff saturazione saturacao zuurstof saturacja"
)
_BREATH_WORDS = _set("breathing breaths breathes rr respirations respiratory")
_PULSE_WORDS = _set("pulse heart hearts hr bpm pounding beating ticker heartbeat puls herz coeur corazon cuore")


def _number_bits(words: Sequence[str], at: int, bits: Mapping[str, int]) -> int:
    """What a number may stand for: a sugar value (near a word for it), a temperature, weeks of a pregnancy, …"""
    try:
        value = float(words[at].replace(",", "."))
    except ValueError:
        return 0
    mask = 0
    following = words[at + 1] if at + 1 < len(words) else ""
    near = words[max(0, at - 5) : at + 4]
    after = words[at + 2] if at + 2 < len(words) else ""
    if following in _ORDINAL:
        following, after = after, words[at + 3] if at + 3 < len(words) else ""
    if following == "40" and 4 <= value < 42 and value % 1 == 0:  # "34/40", as midwives write
        return bits["gest_weeks"]
    if following in _WEEKS:
        return bits["gest_weeks"] if 13 <= value <= 42 and after not in _NO_LONGER_WEEKS else 0
    if following == "g" and after == "l":  # blood sugar in grams per litre
        return bits["num_high"] if 2.5 <= value <= 12 else bits["num_low"] if 0.1 <= value <= 0.55 else 0
    if following in _GRAMS:
        return bits["grams"] if 8 <= value <= 200 else bits["num_low"] if 0.2 <= value <= 0.55 else 0
    if 30 <= value <= 90 and not _BREATH_WORDS.isdisjoint(near) and following in ("a", "per", "breaths", "times", ""):
        return bits["breaths_high"]
    if following in _UNITS_OF_TIME:
        return 0
    if not _SUGAR_WORDS.isdisjoint(near):
        # below 3 mmol/l or 54 mg/dl is dangerously low; 20 to 54 is dangerously high in mmol/l
        if 0.5 < value <= 3 and value % 1 or 20 <= value <= 54 or 0.2 <= value <= 0.55:
            mask |= bits["num_low"]
        if 350 <= value <= 1500:
            mask |= bits["num_high"]
    if 3 <= value <= 12 and not _KETONE_WORDS.isdisjoint(words[max(0, at - 3) : at]):
        mask |= bits["num_high"]
    if 38 <= value <= 42.5 or 100.4 <= value <= 108:
        mask |= bits["fever_number"]
    if 8 <= value <= 150 and following not in _UNITS:
        mask |= bits["many"]
    if 50 <= value <= 91 and not _OXYGEN_WORDS.isdisjoint(words[max(0, at - 9) : at + 4]):
        mask |= bits["sats_low"]
    if 150 <= value <= 260 and not _PULSE_WORDS.isdisjoint(near):
        mask |= bits["pulse_high"]
    if 160 <= value <= 260:
        step = at + 2 if following in ("over", "sur", "zu", "by", "su", "por", "na", "auf") else at + 1
        below = words[step] if step < len(words) else ""
        if below.isdigit() and 90 <= int(below[:4]) <= 160:
            mask |= bits["bp_numbers"]
    return mask


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


def _is_year(word: str) -> bool:
    return len(word) == 4 and word[:2] in ("19", "20") and word.isdigit()


def _sentences(tokens: Sequence[str]) -> Iterator[tuple[list[str], set[int]]]:
    """The words of each sentence, and the places before which a comma stood."""
    words: list[str] = []
    commas: set[int] = set()
    for token in tokens:
        if token in (",", ":"):
            commas.add(len(words))
        elif token in ".!?;\n":
            if len(words) >= MIN_SENTENCE_WORDS:
                yield words, commas
                words, commas = [], set()
            else:
                commas.add(len(words))
        else:
            words.append("<year>" if _is_year(token) else token)
            if len(words) >= SENTENCE_WORDS:
                yield words, commas
                words, commas = [], set()
    if words:
        yield words, commas


def word_pieces(words: Sequence[str]) -> Iterator[str]:
    """The words of a sentence and its pairs of neighbours, numbers as 0: what weights.txt has weights for."""
    before = ""
    for word in words:
        word = "0" if word[0].isdigit() else word
        yield word
        if before:
            yield f"{before} {word}"
        before = word


class _Reader:
    """Walks one sentence along the two trees and keeps the state of negation and tense."""

    def __init__(self, flags: RedFlags) -> None:
        self.flags = flags
        self.bits = flags.bits

    def read(self, words: list[str], commas: set[int]) -> _Sentence:
        """The concepts of one sentence."""
        bits, found = self.bits, []
        context = self._context(words, commas)
        negated_until = past_until = -1
        strong = False
        at, past_bits, now_bits = 0, 0, 0
        while at < len(words):
            if negated_until >= at and not self._negation_goes_on(words, commas, at, strong):
                negated_until = -1
            mask, length = self._longest(words, at)
            if not mask:
                at += 1
                continue
            symptom = mask & ~self.flags.context
            if length > 1 and symptom:
                for word in words[at : at + length]:
                    symptom |= self.flags.inside(word)
            if mask & bits["contrast"]:
                negated_until = -1
            if mask & bits["negation"] and not symptom:
                negated_until, strong = at + length + 4, words[at] in _STRONG_NEGATION
            elif mask & bits["before_event"] and not symptom:
                past_until = at + length + 2
            elif symptom & self.flags.named and at <= past_until:
                past_bits |= symptom
            elif symptom and at > negated_until:
                now_bits |= symptom
                found.append((symptom, " ".join(words[at : at + length])))
            elif symptom:
                negated_until = max(negated_until, at + length + 2)
            at += length
        if context & bits["past"] and not context & bits["now"]:
            past_bits, now_bits, found = past_bits | now_bits, 0, []
        weights = self.flags.weights
        heard = frozenset(piece for piece in word_pieces(words) if piece in weights)
        return _Sentence(context | now_bits, past_bits, tuple(found), heard)

    def _context(self, words: list[str], commas: set[int]) -> int:
        """The bits of who, when and why."""
        longest, mask, at = self.flags.context_tree.longest, 0, 0
        opener, asking = self.bits["opener"], self.bits["asking"]
        while at < len(words):
            bits, length = longest(words, at)
            if bits & opener and (at < 2 or at in commas or words[at - 1] in _BEFORE_A_QUESTION):
                bits |= asking
            mask |= bits
            if length > 1 and not bits & self.flags.asked:  # "i have" says who as well, "can i" does not
                for word in words[at : at + length]:
                    mask |= self.flags.people(word)
            at += length if bits else 1
        return mask

    def _longest(self, words: list[str], at: int) -> tuple[int, int]:
        """Bits and length of the longest wording that begins here; a number sets the bits of what it may mean."""
        mask, length = self.flags.signs.longest(words, at)
        if words[at][0].isdigit():
            mask |= _number_bits(words, at, self.bits)
        return mask, length

    def _negation_goes_on(self, words: list[str], commas: set[int], at: int, strong: bool) -> bool:
        """Whether a negation reaches over the comma or "and" at this place."""
        if at in commas:
            return not _LIST_WORDS.isdisjoint(words[at : at + 7])
        return strong or words[at] not in _AND


def _repair(tokens: list[str], flags: RedFlags) -> list[str]:
    """The tokens with typing errors of red-flag words put right, at both ends of a long text."""
    known, find, sounds, typos = flags.known, flags.speller.find, flags.sounds.find, flags.typos
    out = list(tokens)
    tried = 0
    for step, at in enumerate(_both_ends(len(tokens))):
        word = tokens[at]
        if word in typos:
            out[at] = typos[word]
            continue
        if len(word) < 5 or word in known or not word.isalpha() or len(word) > 20:
            continue
        tried += 1
        if tried > 2 * REPAIR_WORDS or step > 8 * REPAIR_WORDS:
            break
        out[at] = find(word) or (len(word) > 6 and sounds(word)) or word
    return out


def _both_ends(count: int) -> Iterator[int]:
    """0, last, 1, last but one, …: each place once."""
    for at in range((count + 1) // 2):
        yield at
        if count - 1 - at != at:
            yield count - 1 - at


_NUMBER_AND_UNIT = re.compile(r"(\d{1,4})([a-z]{1,8})")


def _tokens(text: str) -> Iterator[str]:
    """Words and sentence marks; "5yo" and "72f" are taken apart, and the point of "28. Woche" ends no sentence."""
    tokens = split_words(fold(text))
    for at, token in enumerate(tokens):
        if token == "." and at and tokens[at - 1].isdigit() and at + 1 < len(tokens) and tokens[at + 1] in _WEEKS:
            continue
        apart = token[0].isdigit() and not token.isdigit() and _NUMBER_AND_UNIT.fullmatch(token)
        if apart:
            yield from apart.groups()
        else:
            yield token


def _read_text(text: str, flags: RedFlags) -> list[_Sentence]:
    reader = _Reader(flags)
    tokens = contract(_repair(list(_tokens(text)), flags))
    return [reader.read(words, commas) for words, commas in _sentences(tokens)]


# ---------------------------------------------------------------------------- the decision


@dataclass(frozen=True)
class _Frame:
    """What a text as a whole is: an exam case, a piece of study or fiction, about an animal, about something over."""

    exam: bool
    made_up: bool
    animal: bool
    over: bool

    @classmethod
    def of(cls, sentences: Sequence[_Sentence], flags: RedFlags) -> _Frame:
        """The frame that the context words of all sentences make together."""
        bits, has = 0, flags.bits
        for sentence in sentences:
            bits |= sentence.bits

        def told(*names: str) -> bool:
            return any(bits & has[name] for name in names)

        case = told("case_start") and told("case_verb", "case_ask") or told("case_verb") and told("case_ask")
        by_the_book = told("vignette") and (case or told("case_start"))
        pressing = told("now", "plea")
        return cls(
            exam=by_the_book or (case or told("vignette")) and not told("first_person"),
            made_up=told("study", "fiction") and not told("plea") or told("task") and not told("first_person"),
            animal=told("animal") and not told("human"),
            over=told("resolved") and not pressing,
        )


def _judge(rule: _Rule, bits: int, named_bits: int, frame: _Frame, flags: RedFlags) -> str:
    """ "emergency", "note" or "" for a rule that matches; `named_bits` are those of the sentence that names it."""
    has = flags.bits
    if frame.exam or frame.made_up or frame.over:
        return "note"
    if frame.animal:
        return ""
    if rule.kind == "!!":
        return "emergency"
    about = bool(bits & has["hypothetical"]) and not bits & has["now"]
    about = about or bool(bits & has["asking"]) and not bits & (has["person"] | has["plea"] | has["now"])
    if rule.kind == "?":
        happening = named_bits & has["happening"] and not named_bits & has["riskof"]
        return "emergency" if happening and not about else "note"
    if rule.kind == "~" and bits & has["mild"]:
        return ""
    return "note" if about else "emergency"


def _matches(rule: _Rule, bits: int) -> bool:
    if rule.count > 1 and (bits & rule.slots[0]).bit_count() < rule.count:
        return False
    return all(bits & slot for slot in rule.slots)


def _find(
    sentences: Sequence[_Sentence], frame: _Frame, flags: RedFlags, current: int = 0
) -> tuple[str, _Rule, tuple] | None:
    """The verdict that weighs most: (kind, rule, words). Slots must be met by sentences from `current` on."""
    best: tuple[str, _Rule, tuple] | None = None
    seen: set[tuple[int, ...]] = set()
    for at in range(max(0, current - WINDOW + 1), len(sentences)):
        window = sentences[at : at + WINDOW]
        key = tuple(sentence.bits for sentence in window)
        bits = functools.reduce(int.__or__, key, 0)
        if key in seen or not bits & ~flags.context or at + len(window) <= current:
            continue
        seen.add(key)
        fresh = functools.reduce(int.__or__, key[max(0, current - at) :], 0)
        for rule in flags.rules:
            if not bits & rule.slots[0]:
                continue
            if best and best[0] == "emergency" and flags.order[rule.category] >= flags.order[best[1].category]:
                break
            if not _matches(rule, bits) or (at < current and not _adds(rule, fresh, flags)):
                continue
            if rule.near and not any(_matches(rule, one) for one in key):
                continue
            kind = _judge(rule, bits, _naming_bits(rule, window), frame, flags)
            if kind == "emergency" or (kind and best is None):
                best = (kind, rule, tuple(w for s in window for w in s.words))
    return best


def sound_of(pieces: Iterable[str], weights: Mapping[str, float], bias: float) -> float:
    """How much words sound like an emergency: the sum of their weights over the root of their number."""
    found = [weights[piece] for piece in pieces]
    return bias + sum(found) / max(1, len(found)) ** 0.5


def _by_weight(sentences: Sequence[_Sentence], frame: _Frame, flags: RedFlags) -> tuple[str, _Rule, tuple] | None:
    """The net under the rules: signs in words whose weights together sound like an emergency."""
    has = flags.bits
    if frame.exam or frame.made_up or frame.over or frame.animal:
        return None
    signs = ~(flags.context | flags.vague)
    for at in range(len(sentences)):
        window = sentences[at : at + WINDOW]
        bits = functools.reduce(int.__or__, (sentence.bits for sentence in window), 0)
        despairing = (bits & flags.despair).bit_count() > 1
        if not (bits & signs & ~flags.despair or despairing) or bits & (
            has["mild"] | has["hypothetical"] | has["riskof"]
        ):
            continue
        if bits & has["asking"] and not bits & (has["person"] | has["plea"] | has["now"]):
            continue
        heard = frozenset().union(*(sentence.heard for sentence in window))
        enough = SOUNDS_URGENT if (bits & signs).bit_count() > 1 else 2 * SOUNDS_URGENT
        if sound_of(heard, flags.weights, flags.bias) > enough:
            category = "suicide" if bits & flags.despair else "urgent"
            rule = next(rule for rule in flags.rules if rule.category == category)
            words = tuple((rule.slots[0], word) for sentence in window for _, word in sentence.words)
            return "emergency", rule, words
    return None


def _adds(rule: _Rule, fresh: int, flags: RedFlags) -> bool:
    """Whether the current turn brings a symptom of the rule itself."""
    return any(fresh & slot & ~flags.context for slot in rule.slots)


def _naming_bits(rule: _Rule, window: Sequence[_Sentence]) -> int:
    """The bits of the sentence that fills the first slot."""
    return next((s.bits for s in window if s.bits & rule.slots[0]), 0)


def _topic(sentences: Sequence[_Sentence], flags: RedFlags) -> _Rule | None:
    """A named emergency that the text only speaks of in the past."""
    past = 0
    for sentence in sentences:
        past |= sentence.past_bits
    return next((r for r in flags.rules if r.kind == "?" and past and _matches(r, past)), None)


def _escalation(kind: str, rule: _Rule, words: Sequence[tuple[int, str]], flags: RedFlags) -> Escalation:
    reply = flags.replies[rule.category]
    wanted = 0
    for slot in rule.slots:
        wanted |= slot
    matched = dict.fromkeys(word for mask, word in words if mask & wanted)
    return Escalation(
        category=rule.category,
        kind=kind,
        title=reply.title,
        actions=reply.actions,
        numbers=_NUMBERS + _EXTRA_NUMBERS.get(rule.category, ()),
        note=reply.note if kind == "note" else "",
        matched=tuple(matched)[:12],
        answer_may_follow=kind == "note",
    )


def check_red_flags(text: str, history: Sequence[Mapping[str, str]] = ()) -> Escalation | None:
    """The escalation that a text calls for, or None.

    Earlier user turns of `history` ({role, content}) count together with the text where the text itself adds
    to the picture ("he has chest pain", then "now he is sweating"). Raises VocabularyError for damaged files.
    """
    flags = load_red_flags()
    own = _read_text(text, flags)
    frame = _Frame.of(own, flags)
    verdict = _find(own, frame, flags)
    if (verdict is None or verdict[0] == "note") and history:
        verdict = _with_history(own, frame, history, flags) or verdict
    if verdict is None or verdict[0] == "note":
        verdict = _by_weight(own, frame, flags) or verdict
    if verdict is None:
        topic = _topic(own, flags)
        verdict = ("note", topic, ()) if topic and _is_asked(own, flags) else None
    return _escalation(*verdict, flags) if verdict else None


def _is_asked(sentences: Sequence[_Sentence], flags: RedFlags) -> bool:
    return any(sentence.bits & flags.bits["asking"] for sentence in sentences)


def _with_history(
    own: list[_Sentence], frame: _Frame, history: Sequence[Mapping[str, str]], flags: RedFlags
) -> tuple | None:
    """The verdict on the last user turns and the text together, if it is an emergency."""
    bits = 0
    for sentence in own:
        bits |= sentence.bits
    if not bits & ~flags.context or (bits & flags.bits["asking"] and not bits & flags.bits["person"]):
        return None
    turns = [turn for turn in history[-12:] if isinstance(turn, Mapping) and turn.get("role") == "user"]
    earlier: list[_Sentence] = []
    for turn in turns[-HISTORY_TURNS:]:
        content = turn.get("content")
        if isinstance(content, str):
            earlier += _read_text(content[-2000:], flags)
    earlier = [_Sentence(s.bits & ~flags.context, 0, s.words) for s in earlier[-(WINDOW - 1) :]]
    verdict = _find(earlier + own[:WINDOW], frame, flags, current=len(earlier))
    return verdict if verdict and verdict[0] == "emergency" else None


# ---------------------------------------------------------------------------- what is shown


def render_escalation(escalation: Escalation) -> str:
    """The reply as Markdown: title, what to do in order, numbers; for a note one line."""
    if escalation.kind == "note":
        return f"> **If this is happening now:** {escalation.note}"
    lines = [f"**{escalation.title}.**", ""]
    lines += [f"{at}. {action}" for at, action in enumerate(escalation.actions, 1)]
    lines += [
        "",
        "**Numbers:** " + " · ".join(f"{label}: **{number}**" for label, number in escalation.numbers),
    ]
    lines += ["", "This is an automatic first-aid reply to words in your message. It is not a diagnosis."]
    return "\n".join(lines)


_PROFESSIONAL = (
    (
        "A dose depends on the person: check it with a pharmacist or doctor, and with the package leaflet.",
        "dose,doses,dosage,dosages,dosing,overdose,mg,milligrams,mcg,how many pills,how many tablets,how much should,"
        "how much can,how much ibuprofen,how much paracetamol,how much tylenol,how much insulin,how often should,"
        "how often can,can i take,can i give,should i take,should i give,safe to take,safe to give,safe to mix,"
        "safe to combine,take together,mix with,max daily,maximum daily,dosis,puedo tomar,cuanto debo,"
        "puis je prendre,combien de comprimes,posologie,darf ich nehmen,wie viele tabletten,dosierung",
    ),
    (
        "Do not stop or change a prescribed medicine on your own: ask the doctor who prescribed it or a pharmacist.",
        "stop taking,stop my,quit taking,come off,coming off,get off my,taper,wean off,skip my,skip a dose,"
        "stop using,stop the medication,stop medication,switch from,increase my,double my,reduce my,lower my dose,"
        "change my medication,missed a dose,without my medication,dejar de tomar,arreter de prendre,arreter mon,"
        "absetzen,aufhoren zu nehmen",
    ),
    (
        "Only an examination can tell what this is: please see a doctor or another health professional.",
        "do i have,does he have,does she have,do you think i have,could i have,might i have,have i got,diagnose me,"
        "diagnose,my diagnosis,is it cancer,is this cancer,could it be,could this be,is it serious,is this serious,"
        "what is wrong with,whats wrong with,what do i have,should i be worried,should i worry,should i see a doctor,"
        "is it normal,is this normal,what could this be,what could it be,am i pregnant,tengo cancer,que tengo,"
        "es grave,es normal,ai je,est ce grave,est ce normal,habe ich,ist das gefahrlich,ist das normal,what might it be",
    ),
)


@functools.cache
def _professional_phrases() -> dict[str, str]:
    return {f" {phrase} ": line for line, listed in reversed(_PROFESSIONAL) for phrase in listed.split(",")}


def professional_line(text: str) -> str | None:
    """The sentence that sends the person to a professional: for doses, stopping a medicine, diagnoses."""
    words = " " + " ".join(w for w in split_words(fold(text[:4000])) if w not in ".!?;:,\n") + " "
    for phrase, line in _professional_phrases().items():
        if phrase in words:
            return line
    return None
