"""What stands in many rows and says nothing about any of them: referral links, repeated sentences, site help.

Sentences are found by counting over a sample of the data itself, links and wiki leavings by how they look. Pure
functions, linear in the length of the text. Knows nothing of columns.

    python -m medassist data check --dataset FILE
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from medassist.data.clean import question_key

SENTENCE_SHARE = 0.02  # of the different answers in the sample; a sentence in as many of them is boilerplate
SENTENCE_ROWS = 20  # and never fewer answers than this
SENTENCE_WORDS = 5  # shorter ones ("I understand your concern.") are manners, not boilerplate
REPEATED_ROWS = 20  # different questions that a repeated answer stands under
REPEATED_WORDS = 8  # shorter answers ("Yes.", "All of the above") may well fit many questions

_SENTENCE_END = re.compile(r"(?<=[.?!])\s+|\n+")
_ARROW = re.compile(r"-{1,4}>[ \t]*(?:<link>|https?://[^\s<>]{1,300})?|<link>")
_ONLINE = re.compile(r"\bonline\b[\s.:]{0,3}(?:for (?:further|more)\b[^.?!\n]{0,60})?[\s.:]{0,3}$", re.IGNORECASE)
_REFERRAL = re.compile(r"\b(?:for (?:further|more|any|other)|in case of|if you have|revert|consult|get back|kindly|please|"
                       r"discuss|follow up|write back|you can)\b", re.IGNORECASE)
_REFERRAL_CLAUSE = re.compile(r"\b(?:for (?:further|more|any other)|revert|get back)\b", re.IGNORECASE)
# The same without its arrow, as the last sentence.
_LAST_REFERRAL = re.compile(r"(?:^|(?<=[.?!:\n]) ?)[^.?!:\n]{0,100}\bconsult an? [^.?!:\n]{3,80} online\W{0,5}$", re.IGNORECASE)
_WIKI = re.compile(r"\bTemplate:[A-Z]\w{0,40}(?: Sources\b)?|\{\{[^{}]{0,300}\}\}|\[\[(?:File|Image|Category):[^\[\]]{0,300}\]\]")
_GREETING = re.compile(
    r"\W*(?:(?:hi|hello|dear|good (?:morning|evening)|thanks?(?: you)?|regards|welcome|take care|ok(?:ay)?|doctor|sir|"
    r"madam|patient|and|for|your|the|query|question|there|all the best|hope (?:this|it|that) helps?)\b\W*){0,30}",
    re.IGNORECASE)

# Words about using a web site. `strong` ones hardly ever stand in a medical answer.
_SITE_STRONG = re.compile(
    r"\b(?:wiki\w{0,20}|mediawiki|microchapter\w{0,8}|sidebar|user page|user ?name|log(?:ged)? in|subheading|slideset|svg|"
    r"editor[- ]in[- ]chief|page template|external links|sockpuppets?|search box|click (?:here|on)|"
    r"(?:on|of|edit|create|redirect|personali[sz]e|add|find|insert) (?:a|the|my|this|your) page)\b", re.IGNORECASE)
_SITE_WEAK = re.compile(
    r"\b(?:pages?|templates?|upload\w{0,4}|edit(?:or|s|ed|ing)?|redirect\w{0,4}|web ?sites?|volunteers?|categor(?:y|ies)|"
    r"slides?|headings?|articles?|links?|hyperlinks?|files?|images?|formatting|references?|footnotes?|password)\b",
    re.IGNORECASE)
_WIKI_WORD = re.compile(r"\b(?:media)?wiki\w{0,20}|\bpage template|\bmicrochapter", re.IGNORECASE)
_SITE_SCORE = 2.5  # of the gate: a question with more of medicine in it stays


def split_sentences(text: str) -> list[str]:
    """Sentences, cut behind a mark that ends one and at line ends."""
    return [s for s in _SENTENCE_END.split(text) if s]


def find_repeated_sentences(answers: Iterable[str]) -> frozenset[str]:
    """Normalised sentences that stand in SENTENCE_SHARE of the different answers, and in SENTENCE_ROWS at least."""
    counts: Counter[str] = Counter()
    different = set()
    for answer in answers:
        if answer in different:
            continue
        different.add(answer)
        counts.update({k for k in map(question_key, split_sentences(answer)) if k.count(" ") >= SENTENCE_WORDS - 1})
    enough = max(SENTENCE_ROWS, SENTENCE_SHARE * len(different))
    return frozenset(s for s, n in counts.items() if n >= enough)


def strip_boilerplate(text: str, repeated: Collection[str] = ()) -> str:
    """The text without referral links, wiki leavings and the `repeated` sentences; "" if only a greeting is left."""
    before = text
    if ">" in text:
        text = _without_referrals(text)
    if text[-10:].rstrip(" .").lower().endswith("online"):
        text = text[:-300] + _LAST_REFERRAL.sub("", text[-300:]) if len(text) > 300 else _LAST_REFERRAL.sub("", text)
    if "Template:" in text or "{{" in text or "[[" in text:
        text = _WIKI.sub("", text)
    if repeated:
        text = _without_sentences(text, repeated)
    if text == before:
        return text
    text = re.sub(r"[ \t]{2,}", " ", text).strip()
    return "" if _GREETING.fullmatch(text) else text


def _without_referrals(text: str) -> str:
    """The text without "for further information consult a … online -->" and the link behind it."""
    kept, at = [], 0
    for arrow in _ARROW.finditer(text):
        before = text[at:arrow.start()]
        tail = before[-400:]
        # Only where the words before it send the reader to somebody online; an arrow alone may mean "leads to".
        if _ONLINE.search(tail):
            cut = _referral_start(before)
            kept.append(before[:cut].rstrip() + " ")
        elif arrow.group().endswith("<link>") or "http" in arrow.group():
            kept.append(before.rstrip() + " ")
        else:
            kept.append(text[at:arrow.end()])
        at = arrow.end()
    kept.append(text[at:])
    return "".join(kept).strip()


def _referral_start(text: str) -> int:
    """Where the clause begins that ends with "online": its sentence, or in an endless one its first word of referral."""
    low = max(0, len(text) - 400)
    sentence = max((m.end() for m in re.finditer(r"[.?!:]\s|\n", text[low:].rstrip())), default=0) + low
    clause = _REFERRAL_CLAUSE.search(text, sentence)
    if clause and len(text[sentence:clause.start()].split()) > 1:
        return clause.start()
    if len(text) - sentence <= 140:
        return sentence
    found = list(_REFERRAL.finditer(text, max(sentence, len(text) - 140)))
    return found[0].start() if found else sentence


def _without_sentences(text: str, repeated: Collection[str]) -> str:
    parts = re.split(r"((?<=[.?!])\s+|\n+)", text)
    kept = []
    for i in range(0, len(parts), 2):
        if parts[i] and question_key(parts[i]) in repeated:
            continue
        kept.append(parts[i] + (parts[i + 1] if i + 1 < len(parts) else ""))
    return "".join(kept).strip() if len(kept) < (len(parts) + 1) // 2 else text


def is_site_help(question: str, answer: str) -> bool:
    """Whether a row is about using a web site: its words say so, and the gate finds little medicine in the question."""
    asked, answer = _site_words(question), answer[:4000]
    if not asked and "iki" not in answer:
        return False
    told = _site_words(answer)
    if not asked:
        # "Click here" and "web site" stand in good answers too; three words about a wiki do not.
        return len(told) >= 3 and bool(_WIKI_WORD.search(answer)) and _gate().check(question).score < 0.5
    if not told:
        return False
    if _SITE_STRONG.search(question):
        return bool(_WIKI_WORD.search(question)) or _gate().check(question).score < _SITE_SCORE
    if len(asked | told) < 2 and not _SITE_STRONG.search(answer):  # "genome editing" in both
        return False
    return _gate().check(question).score < _SITE_SCORE


def _site_words(text: str) -> set[str]:
    return {w.lower().rstrip("s") for pattern in (_SITE_STRONG, _SITE_WEAK) for w in pattern.findall(text)}


@cache
def _gate() -> Any:
    from medassist.gate import load_gate

    return load_gate()
