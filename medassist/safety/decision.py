"""The decision on a text: an emergency, a question about one, or nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medassist.safety.flags import RedFlags, Rule, load_red_flags
from medassist.safety.reading import Sentence, read_text

WINDOW = 3  # a rule may find its slots within this many neighbouring sentences
HISTORY_TURNS = 2  # earlier user turns that are read together with the current one
SOUNDS_URGENT = 0.8  # the weight of words from which a text without an urgent rule is an emergency

_NUMBERS = (("Emergency, Europe and most mobiles", "112"), ("US", "911"), ("UK", "999"))
_CRISIS_LINES = (("US suicide and crisis line", "988"), ("Crisis lines elsewhere", "findahelpline.com"))
_POISON_LINES = (("Poison line, US", "1-800-222-1222"), ("Poison line elsewhere", "your local poison centre"))
_EXTRA_NUMBERS = {"suicide": _CRISIS_LINES, "urgent": _CRISIS_LINES, "poisoning": _POISON_LINES + _CRISIS_LINES}


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


@dataclass(frozen=True)
class _Frame:
    """What a text as a whole is: an exam case, a piece of study or fiction, about an animal, about something over."""

    exam: bool
    made_up: bool
    animal: bool
    over: bool

    @classmethod
    def of(cls, sentences: Sequence[Sentence], flags: RedFlags) -> _Frame:
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


def _judge(rule: Rule, bits: int, named_bits: int, frame: _Frame, flags: RedFlags) -> str:
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


def _matches(rule: Rule, bits: int) -> bool:
    if rule.count > 1 and (bits & rule.slots[0]).bit_count() < rule.count:
        return False
    return all(bits & slot for slot in rule.slots)


def _find(
    sentences: Sequence[Sentence], frame: _Frame, flags: RedFlags, current: int = 0
) -> tuple[str, Rule, tuple] | None:
    """The verdict that weighs most: (kind, rule, words). Slots must be met by sentences from `current` on."""
    best: tuple[str, Rule, tuple] | None = None
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


def _by_weight(sentences: Sequence[Sentence], frame: _Frame, flags: RedFlags) -> tuple[str, Rule, tuple] | None:
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


def _adds(rule: Rule, fresh: int, flags: RedFlags) -> bool:
    """Whether the current turn brings a symptom of the rule itself."""
    return any(fresh & slot & ~flags.context for slot in rule.slots)


def _naming_bits(rule: Rule, window: Sequence[Sentence]) -> int:
    """The bits of the sentence that fills the first slot."""
    return next((s.bits for s in window if s.bits & rule.slots[0]), 0)


def _topic(sentences: Sequence[Sentence], flags: RedFlags) -> Rule | None:
    """A named emergency that the text only speaks of in the past."""
    past = 0
    for sentence in sentences:
        past |= sentence.past_bits
    return next((r for r in flags.rules if r.kind == "?" and past and _matches(r, past)), None)


def _escalation(kind: str, rule: Rule, words: Sequence[tuple[int, str]], flags: RedFlags) -> Escalation:
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
    own = read_text(text, flags)
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


def _is_asked(sentences: Sequence[Sentence], flags: RedFlags) -> bool:
    return any(sentence.bits & flags.bits["asking"] for sentence in sentences)


def _with_history(
    own: list[Sentence], frame: _Frame, history: Sequence[Mapping[str, str]], flags: RedFlags
) -> tuple | None:
    """The verdict on the last user turns and the text together, if it is an emergency."""
    bits = 0
    for sentence in own:
        bits |= sentence.bits
    if not bits & ~flags.context or (bits & flags.bits["asking"] and not bits & flags.bits["person"]):
        return None
    turns = [turn for turn in history[-12:] if isinstance(turn, Mapping) and turn.get("role") == "user"]
    earlier: list[Sentence] = []
    for turn in turns[-HISTORY_TURNS:]:
        content = turn.get("content")
        if isinstance(content, str):
            earlier += read_text(content[-2000:], flags)
    earlier = [Sentence(s.bits & ~flags.context, 0, s.words) for s in earlier[-(WINDOW - 1) :]]
    verdict = _find(earlier + own[:WINDOW], frame, flags, current=len(earlier))
    return verdict if verdict and verdict[0] == "emergency" else None
