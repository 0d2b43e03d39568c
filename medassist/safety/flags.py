"""What the red-flag files hold, ready to be matched: concepts, rules, replies, weights and typing errors."""

from __future__ import annotations

import functools
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from medassist.safety.patterns import GrowingTree, damaged, lines
from medassist.safety.weighing import Weights
from medassist.spelling import SoundSpeller, Speller

RED_FLAGS_DIR = Path(__file__).parents[1] / "red_flags"
SIGN_FILES = ("lexicon.txt", "lexicon_more.txt")

_CALL = "Call your emergency number now: 112, 911 (US), 999 (UK)."

# Concepts that say how something is said; they are never negated and fill in no symptom. Those of context.txt
# come first, then those that stand among the signs because they hide or negate them.
_CONTEXT_NAMES = (
    "person first_person human animal asking opener plea hypothetical riskof study fiction task general case_start "
    "case_verb case_ask vignette now past resolved mild minimise happening"
)
_CONTEXT = tuple(_CONTEXT_NAMES.split())
_AMONG_SIGNS = ("figure", "not_negation", "negation", "contrast", "before_event")
# Words that many harmless texts hold: alone they make no emergency, unless everything around them speaks for one.
_VAGUE = (
    "took ate drank again used head face eye arm leg hit high food object sudden low_state will_do dose_word many mouth "
    "need_now not_working minutes_long not_easing infant_age fever_number amnesia fell weight_word very_high large heavy "
    "height missing all_ill postpartum glass_test baby child jaw neck_word airway heart_word worse insulin diabetic sugar "
    "gest_weeks num_low num_high grams limb_word cant_move vision_loss no_response awful play_down near_water curtain chemical "
    "confused speak_unable droop move_word less_word household blood see_not die_word farewell hopeless goodbye means"
)
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


@dataclass(frozen=True)
class Rule:
    """One line of rules.txt: `slots` are bit masks, each of which must meet the bits found."""

    kind: str
    category: str
    slots: tuple[int, ...]
    near: bool  # all slots within one sentence
    count: int = 1  # how many concepts of the first slot must be there


@dataclass(frozen=True)
class Reply:
    title: str
    note: str
    actions: tuple[str, ...]


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
        self.telling = ~(self.context | sum(self.bits.get(name, 0) for name in _VAGUE.split()))
        named = [slot for rule in self.rules if rule.kind == "?" for slot in rule.slots]
        self.named = functools.reduce(int.__or__, named, 0)
        meant, self.typos = _read_typos(folder / "typos.txt")
        self.urgency = self._weights(folder / "weights.txt", ("",))[""]
        self.categories = self._weights(folder / "categories.txt", self.replies)  # how much a passage speaks for each
        self.known = self.signs.known | self.context_tree.known | set(lines(folder / "real_words.txt"))
        self.speller, self.sounds = Speller(meant), SoundSpeller(meant)

    def _weights(self, path: Path, allowed: Container[str]) -> dict[str, Weights]:
        read = read_weights(path)
        unknown = next((name for name in read if name not in allowed), None)
        if unknown is not None:
            raise damaged(path, f"there is no section {unknown!r}" if unknown else "weights stand above its sections")
        try:
            return {name: Weights(listed, self.bits, self.context) for name, listed in read.items()}
        except KeyError as error:
            raise damaged(path, f"no concept {error.args[0]!r}") from None

    def _read_rules(self, path: Path) -> list[Rule]:
        rules = []
        for line in lines(path):
            head, _, tail = line.partition(":")
            kind, _, category = head.partition(" ")
            near, kind = kind.endswith("."), kind.rstrip(".")
            count, kind = (int(kind[0]), kind[1:]) if kind[:1].isdigit() else (1, kind)
            try:
                slots = [sum(self.bits[n] for n in set(slot.strip().split("/"))) for slot in tail.split("+")]
            except KeyError as error:
                raise damaged(path, f"no concept {error.args[0]!r} for {line!r}") from None
            if kind not in ("!", "!!", "~", "?") or category.strip() not in self.replies:
                raise damaged(path, f"cannot read {line!r}")
            rules.append(Rule(kind, category.strip(), tuple(slots), near, count))
        if not rules:
            raise damaged(path, "it holds no rule")
        return sorted(rules, key=lambda rule: self.order[rule.category])


def _read_typos(path: Path) -> tuple[list[str], dict[str, str]]:
    """The words that are looked for behind a typing error, and frequent errors with what is meant."""
    meant: list[str] = []
    typos: dict[str, str] = {}
    for line in lines(path):
        if line[0] == "~":
            meant += line[1:].split()
            continue
        right, sep, wrong = line.partition(":")
        if not sep:
            raise damaged(path, f"cannot read {line[:40]!r}")
        typos.update(dict.fromkeys(wrong.split(), right.strip()))
    return meant, typos


def read_weights(path: Path) -> dict[str, dict[str, float]]:
    """Weights by name, for each [section] of a file, "" for what stands above the first; see `weighing.Weights`."""
    sections: dict[str, dict[str, float]] = {}
    current: dict[str, float] | None = None
    try:
        for line in lines(path):
            if line[0] == "[":
                current = sections.setdefault(line[1:-1], {})
                continue
            if current is None:
                current = sections.setdefault("", {})
            value, _, names = line.partition(" ")
            current.update(dict.fromkeys(names.split(", "), float(value)))
    except ValueError:
        raise damaged(path, f"cannot read {line[:40]!r}") from None
    if not sections or not all("<bias>" in section for section in sections.values()):
        raise damaged(path, "it has no <bias>")
    return sections


def _read_replies(path: Path) -> dict[str, Reply]:
    """The replies by category, in the order in which categories win."""
    replies: dict[str, dict] = {}
    current: dict = {}
    for line in lines(path):
        if line.startswith("["):
            current = replies.setdefault(line.strip("[]"), {"title": "", "note": "", "actions": []})
        elif line.startswith("- "):
            current.setdefault("actions", []).append(line[2:].replace("{call}", _CALL).strip())
        else:
            key, _, value = line.partition(":")
            current[key] = value.strip()
    for name, reply in replies.items():
        if not (reply.get("title") and reply.get("note") and reply.get("actions")):
            raise damaged(path, f"category {name!r} has no title, note or actions")
    if not replies:
        raise damaged(path, "it holds no reply")
    return {name: Reply(r["title"], r["note"], tuple(r["actions"])) for name, r in replies.items()}


@functools.lru_cache(maxsize=4)
def load_red_flags(folder: Path = RED_FLAGS_DIR) -> RedFlags:
    """The red flags of a folder, read once. Raises VocabularyError where a file is missing or damaged."""
    return RedFlags(folder)
