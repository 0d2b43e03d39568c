"""The decision on a text: an emergency, a question about one, or nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medassist.safety.flags import RedFlags, Rule, load_red_flags
from medassist.safety.reading import Sentence, read_text
from medassist.safety.weighing import facts_of, found_in

WINDOW = 3  # a rule may find its slots within this many neighbouring sentences
HISTORY_TURNS = 2  # earlier user turns that are read together with the current one
URGENT = 0.1  # the weight (log-odds) from which a text is an emergency without any rule
DOUBT = 0.5  # taken off a passage without signs, or with none but words that many harmless texts hold
VAGUE = -1.5  # the weight under which no category is named
SURE = 1.0  # the weight from which a call for help is told which help
NOTHING = -99.0  # the weight of a text without words
JOINS = -3.0  # the weight from which a text is read together with the turns before it
VETO = -1.5  # the weight under which a rule alone makes none

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
class Frame:
    """What a text as a whole is: an exam case, a piece of study or fiction, about an animal, about something over."""

    exam: bool
    made_up: bool
    animal: bool
    over: bool

    @classmethod
    def of(cls, sentences: Sequence[Sentence], flags: RedFlags) -> Frame:
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


def _judge(rule: Rule, bits: int, named_bits: int, frame: Frame, flags: RedFlags) -> str:
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
    sentences: Sequence[Sentence], frame: Frame, flags: RedFlags, current: int = 0
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


def facts_of_text(sentences: Sequence[Sentence], text: str, frame: Frame, history: bool) -> dict[str, float]:
    """The facts about a text that its weight depends on."""
    kinds = {"exam case": frame.exam, "made up": frame.made_up, "animal": frame.animal, "over": frame.over}
    return facts_of(sentences, text, [*(name for name, true in kinds.items() if true), *(["history"] if history else [])])


def windows_of(sentences: Sequence[Sentence], earlier: Sequence[Sentence]) -> list[Sequence[Sentence]]:
    """The passages of a text that are weighed: neighbouring sentences, and its beginning with what went before."""
    windows = [sentences[at : at + WINDOW] for at in range(max(1, len(sentences) - WINDOW + 1))]
    if earlier and sentences:
        windows.append([*earlier, *sentences[:WINDOW]])
    return windows


def _weigh(
    windows: Sequence[Sequence[Sentence]], facts: Mapping[str, float], flags: RedFlags
) -> tuple[float, Sequence[Sentence]]:
    """The highest weight of a passage, and that passage."""
    best, telling = NOTHING, windows[0]
    for window in windows:
        found = found_in(window)
        urgency = flags.urgency.score(found, facts)
        if not found[0] & flags.telling:
            urgency -= DOUBT
        if urgency > best:
            best, telling = urgency, window
    return best, telling


def _category(window: Sequence[Sentence], facts: Mapping[str, float], rule: Rule | None, flags: RedFlags) -> str:
    """What to act on: what the passage speaks for most, unless a rule knows better."""
    if rule and rule.category not in flags.categories:
        return rule.category
    found = found_in(window)
    weight, likely = max((weights.score(found, facts), name) for name, weights in flags.categories.items())
    enough = SURE if rule and rule.category == "urgent" else VAGUE
    if weight < enough or likely == "urgent":
        return rule.category if rule else "urgent"
    return likely


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


def _escalation(kind: str, category: str, matched: Iterable[str], flags: RedFlags) -> Escalation:
    reply = flags.replies[category]
    return Escalation(
        category=category,
        kind=kind,
        title=reply.title,
        actions=reply.actions,
        numbers=_NUMBERS + _EXTRA_NUMBERS.get(category, ()),
        note=reply.note if kind == "note" else "",
        matched=tuple(dict.fromkeys(matched))[:12],
        answer_may_follow=kind == "note",
    )


def check_red_flags(text: str, history: Sequence[Mapping[str, str]] = ()) -> Escalation | None:
    """The escalation that a text calls for, or None.

    It is an emergency where a rule says so and the words do not speak against it (`VETO`), or where its weighed
    words and signs are enough without a rule (`URGENT`). Earlier user turns of `history` ({role, content}) count
    together with the text where the text itself adds to the picture ("he has chest pain", then "now he is
    sweating"). Raises VocabularyError for damaged files.
    """
    flags = load_red_flags()
    own = read_text(text, flags)
    frame = Frame.of(own, flags)
    verdict = _find(own, frame, flags)
    earlier = earlier_of(own, history, flags) if history else []
    if earlier and _weigh(windows_of(own, []), facts_of_text(own, text, frame, False), flags)[0] < JOINS:
        earlier = []
    if earlier and (verdict is None or verdict[0] == "note"):
        told = _find(earlier + own[:WINDOW], frame, flags, current=len(earlier))
        verdict = told if told and told[0] == "emergency" else verdict
    ruled = verdict is not None and verdict[0] == "emergency"
    facts = facts_of_text(own, text, frame, bool(earlier))
    urgency, window = _weigh(windows_of(own, earlier), facts, flags) if own else (NOTHING, [])
    by_weight = urgency > URGENT and not frame.exam
    by_rule = ruled and (urgency > VETO or verdict[1].kind == "!!")
    if by_weight or by_rule:
        category = _category(window, facts, verdict[1] if ruled else None, flags)
        words = verdict[2] if ruled else [pair for sentence in window for pair in sentence.words]
        wanted = functools.reduce(int.__or__, verdict[1].slots, 0) if ruled else -1
        return _escalation("emergency", category, (word for mask, word in words if mask & wanted), flags)
    rule = verdict[1] if verdict else _topic(own, flags) if _is_asked(own, flags) else None
    if rule is None:
        return None
    wanted = functools.reduce(int.__or__, rule.slots, 0)
    words = verdict[2] if verdict else ()
    return _escalation("note", rule.category, (word for mask, word in words if mask & wanted), flags)


def _is_asked(sentences: Sequence[Sentence], flags: RedFlags) -> bool:
    return any(sentence.bits & flags.bits["asking"] for sentence in sentences)


def earlier_of(own: Sequence[Sentence], history: Sequence[Mapping[str, str]], flags: RedFlags) -> list[Sentence]:
    """The last sentences of the user's last turns, where the text adds something to them; without their context."""
    bits = functools.reduce(int.__or__, (sentence.bits for sentence in own), 0)
    if not bits & ~flags.context or (bits & flags.bits["asking"] and not bits & flags.bits["person"]):
        return []
    turns = [turn for turn in history[-12:] if isinstance(turn, Mapping) and turn.get("role") == "user"]
    earlier: list[Sentence] = []
    for turn in turns[-HISTORY_TURNS:]:
        content = turn.get("content")
        if isinstance(content, str):
            earlier += read_text(content[-2000:], flags)
    return [
        Sentence(s.bits & ~flags.context, 0, s.words, s.heard, s.pieces) for s in earlier[-(WINDOW - 1) :]
    ]
