"""Likely personal data in a row: e-mail addresses, phone numbers, names with dates of birth. Found, counted, masked.

Toll-free and emergency lines are nobody's own. What is found is never printed: reports name rows and kinds only,
and previews show `mask_personal` of the text. Linear in the length of the text.

    python -c "from medassist.data.personal import find_personal; print(find_personal('Mail me: ann@example.org'))"
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MASK = "▇▇▇"
KINDS = ("e-mail address", "phone number", "date of birth")

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,63}){1,4}")
# Three groups with separators, or a country code before them. Bare runs of digits are doses, codes and years.
_PHONE = re.compile(r"(?<![\w.,/-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,5}\)[ .-]?|\d{2,5}[ .-])\d{3,4}[ .-]\d{3,5}(?![\w/-])"
                    r"|(?<![\w.])\+\d{1,3}[ .-]?\d{6,12}(?!\w)")
_TOLL_FREE = re.compile(r"^\D{0,3}1?\D{0,2}8(?:00|33|44|55|66|77|88)\b")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"
_DATE = rf"(?:\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}}|\d{{1,2}}(?:st|nd|rd|th)? {_MONTH},? \d{{4}}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})"
_BIRTH = re.compile(rf"\b(?:d\.?o\.?b\.?|date of birth|birth ?date|born(?: on)?)\W{{0,4}}(?:is )?({_DATE})\b", re.IGNORECASE)
_NAMED = re.compile(r"\b(?i:my name is|name ?:|patient ?:|(?:mr|mrs|ms|miss)\.?) ?([A-Z][a-z]{1,20}(?: [A-Z][a-z]{1,20}){0,2})\b")


def find_personal(text: str) -> frozenset[str]:
    """The KINDS of personal data that are likely in a text."""
    return frozenset(kind for kind, _, _ in _spans(text))


def mask_personal(text: str) -> str:
    """The text with what was found, and names beside a date of birth, covered."""
    spans = sorted((start, end) for _, start, end in _spans(text))
    kept, at = [], 0
    for start, end in spans:
        if start < at:
            continue
        kept += [text[at:start], MASK]
        at = end
    return "".join([*kept, text[at:]])


def _spans(text: str) -> Iterator[tuple[str, int, int]]:
    if "@" in text:
        for found in _EMAIL.finditer(text):
            yield KINDS[0], found.start(), found.end()
    if not any(c.isdigit() for c in text):
        return
    for found in _PHONE.finditer(text):
        if not _TOLL_FREE.match(found.group()) and 8 <= sum(c.isdigit() for c in found.group()) <= 15:
            yield KINDS[1], found.start(), found.end()
    for found in _BIRTH.finditer(text):
        yield KINDS[2], found.start(1), found.end(1)
        for name in _NAMED.finditer(text):
            yield KINDS[2], name.start(1), name.end(1)
