"""Reads a text sentence by sentence: which concepts each holds, less what is negated or lies in the past."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medassist.safety.flags import RedFlags
from medassist.safety.patterns import contract
from medassist.safety.weighing import STEM
from medassist.spelling import fold, split_words

SENTENCE_WORDS = 60  # a "sentence" without any full stop is cut here
MIN_SENTENCE_WORDS = 4  # shorter ones are read with what follows
REPAIR_WORDS = 600  # unknown words of each end of a text that are tried as typing errors


@dataclass
class Sentence:
    """What one sentence holds: bits of its concepts, without the negated ones, and the words that set them."""

    bits: int = 0
    past_bits: int = 0  # what is said of the past: it can make a note, never an emergency
    words: tuple[tuple[int, str], ...] = ()
    heard: frozenset[str] = frozenset()  # its words, numbers as 0
    pieces: frozenset[str] = frozenset()  # its words, the beginnings of the longer ones, and pairs of neighbours


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


def _is_year(word: str) -> bool:
    return len(word) == 4 and word[:2] in ("19", "20") and word.isdigit()


def sentences_of(tokens: Sequence[str]) -> Iterator[tuple[list[str], set[int]]]:
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


def plain_word(word: str) -> str:
    """A word as weights know it: all numbers are one."""
    return "0" if word[0].isdigit() or word == "<year>" else word


class Reader:
    """Walks one sentence along the two trees and keeps the state of negation and tense."""

    def __init__(self, flags: RedFlags) -> None:
        self.flags = flags
        self.bits = flags.bits

    def read(self, words: list[str], commas: set[int]) -> Sentence:
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
        plain = [plain_word(word) for word in words]
        heard = frozenset(plain)
        pieces = heard.union(
            [f"{word[:STEM]}*" for word in heard if len(word) > STEM],
            [f"{word} {after}" for word, after in zip(plain, plain[1:], strict=False)],
        )
        return Sentence(context | now_bits, past_bits, tuple(found), heard, pieces)

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


def repair(tokens: list[str], flags: RedFlags) -> list[str]:
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


def tokens_of(text: str) -> Iterator[str]:
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


def read_text(text: str, flags: RedFlags) -> list[Sentence]:
    reader = Reader(flags)
    tokens = contract(repair(list(tokens_of(text)), flags))
    return [reader.read(words, commas) for words, commas in sentences_of(tokens)]
