"""Text in, tidier text out: HTML, broken encoding, control characters, white space, exam explanations' set phrases.

Pure functions, linear in the length of the text: no expression repeats a repetition without a bound.
Knows nothing of rows or columns.

    python -c "from medassist.data.clean import tidy; print(tidy('Fever&nbsp;&amp; chills ?'))"
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

_INLINE_TAG = re.compile(r"</?(?:b|i|u|em|strong|span|a|sub|sup|font)(?:\s[^<>]{0,300})?/?>", re.IGNORECASE)
_BLOCK_TAG = re.compile(r"</?(?:p|br|div|ul|ol|li|h[1-6]|table|tr|td|th|tbody|img|hr)(?:\s[^<>]{0,300})?/?>",
                        re.IGNORECASE)
_LINE_TAG = re.compile(r"<(?:br|/p|/div|/li|/tr|/h[1-6])(?:\s[^<>]{0,300})?/?>", re.IGNORECASE)
# Invisible: zero-width space, direction marks, word joiner, byte-order mark, soft hyphen.
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\u00ad]")
# Joiners mean something in Persian and Indic scripts and nothing beside ASCII.
_STRAY_JOINER = re.compile("[\u200c\u200d](?=[\x00-\x7f]|$)|(?<=[\x00-\x7f])[\u200c\u200d]|^[\u200c\u200d]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # of a surrogate pair: not a character, and no file can hold it
_BLANK_LINES = re.compile("\n{3,}")
_QUESTION_MARKS = re.compile(r"\?(?:\s?\?){1,20}")
_SPACE_BEFORE_MARK = re.compile(r" +([?!.,;:])(?=\s|$)")
_WORDS = re.compile(r"\w+")

# "Ans. is 'c' i.e.,", "Answer- B.", "Ans: (d)", "Sol. A:"; group 1 is the letter.
_ANSWER_HEAD = re.compile(
    r"^\s*(?:the\s)?(?:correct\s)?(?:ans(?:wer)?|sol)\b[\s.:;=–-]{0,5}(?:is\b|option\b)?[\s:]{0,3}"
    r"[\"'‘’“”`(\[]{0,3}([a-e])"
    r"(?:[\"'‘’“”`)\].,:;-]{1,3}|(?=\s*\(ref)|(?=\s*i\.?\s?e\b)|\s*$)"
    r"\s*(?:i\.?\s?e\b[.,:]{0,3})?\s*", re.IGNORECASE)
# Also a head, once the right letter is known: "Answer- A (…", "Ans: C …", "Ans. BSolitary …".
_KNOWN_HEADS = {
    c: re.compile(rf"^\s*(?i:ans(?:wer)?s?)\b[\s.:;=–-]{{1,5}}(?:is\s)?[\"'‘“(]{{0,2}}[{c}{c.lower()}]"
                  r"(?=[^\w]|[A-Z][a-z])[\s.:,;-]{0,4}") for c in "ABCDEFGHIJ"}
_BARE_HEAD = re.compile(r"^\s*ans(?:wer)?s?\b[\s.:;=–-]{1,5}", re.IGNORECASE)
_LETTER_HEAD = re.compile(r"^\s*\(([a-e])\)[\s.:,-]{0,3}", re.IGNORECASE)
_REF_IN_PARENTHESES = re.compile(
    r"\s?[(\[]\s?ref(?:erence)?s?\b[^()\[\]]{0,400}(?:\([^()]{0,100}\)[^()\[\]]{0,200}){0,3}[)\]]",
    re.IGNORECASE)
_REF_LINE = re.compile(r"^\s{0,20}ref(?:erence)?s?\s{0,3}[.:;-][^\n]{0,500}$", re.IGNORECASE | re.MULTILINE)
_REF_TAIL = re.compile(r"(?<=[.;)\s])ref(?:erence)?s?\s?[.:][^\n]{1,300}$", re.IGNORECASE)


def strip(text: str) -> str:
    """The least that every text needs: no white space at its ends, and nothing that cannot be encoded."""
    return (text if text.isascii() else _HALF_PAIR.sub("", text)).strip()


def undo_html(text: str) -> str:
    """The text without tags, and with entities such as &amp; read."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _BLOCK_TAG.sub(" ", _LINE_TAG.sub("\n", _INLINE_TAG.sub("", text)))
    return text


def mend_encoding(text: str) -> str:
    """The text with UTF-8 that was read as something else put right ("Itâ€™s"), by the ftfy library."""
    if text.isascii():
        return text
    fixed = _ftfy().fix_encoding(text)
    return fixed if fixed != text else text


@cache
def _ftfy() -> Any:
    import ftfy

    return ftfy


def drop_control(text: str) -> str:
    """The text in composed form, without invisible and control characters; line ends are line feeds."""
    text = strip(text).replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():  # three quarters of all texts skip this
        text = unicodedata.normalize("NFC", text).replace("\u2028", "\n").replace("\u2029", "\n")
        text = _STRAY_JOINER.sub("", _INVISIBLE.sub("", text))
    return _CONTROL.sub(" ", text)


def order_space(text: str) -> str:
    """The text with single spaces, at most one empty line at a time, and none before a mark."""
    # str.split takes every kind of white space, the no-break space included.
    text = "\n".join([" ".join(line.split()) for line in text.split("\n")])
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    if any(mark in text for mark in (" ?", " !", " .", " ,", " ;", " :")):
        text = _SPACE_BEFORE_MARK.sub(r"\1", text)
    return (_QUESTION_MARKS.sub("?", text) if "??" in text or "? ?" in text else text).strip()


# By the names of `config.CLEANING_STEPS`, in the order in which they are taken.
TEXT_STEPS: dict[str, Callable[[str], str]] = {
    "html": undo_html, "mojibake": mend_encoding, "control_characters": drop_control, "white_space": order_space}


def tidy(text: str) -> str:
    """The text through all of TEXT_STEPS."""
    for step in TEXT_STEPS.values():
        text = step(text)
    return text.strip()


class TextCleaner:
    """Cleans one row's cells after another and remembers which steps changed something in the row.

    Args:
        steps: names out of `config.CLEANING_STEPS`; those that are not steps of a text are passed over.
    """

    def __init__(self, steps: Collection[str]) -> None:
        self.steps = frozenset(steps)
        self._text_steps = [(name, step) for name, step in TEXT_STEPS.items() if name in self.steps]
        self.changed: dict[str, tuple[str, str]] = {}  # step → a text before and after it, of the row at hand

    def start_row(self) -> None:
        self.changed = {}

    def note(self, step: str, before: str, after: str) -> None:
        """Remembers that `step` changed `before` to `after`."""
        self.changed.setdefault(step, (before, after))

    def __call__(self, text: str) -> str:
        text = strip(text)
        for name, step in self._text_steps:
            after = step(text)
            # White space at the ends and other line ends are no change worth a line in a report.
            if after is not text and after != text:
                self.note(name, text, after)
            text = after
        return text.strip()


_NOTHING = frozenset(["yes", "no", "none", "nil", "ok", "okay", "maybe", "sure", "thanks", "topics", "either", "both", "unknown", "na", "nan", "null", "see", "above", "below", "the", "answer", "text", "here", "click", "more", "read", "learn", "link", "this", "page"])
_URL_ONLY = re.compile(r"\s*(?:https?://|www\.)\S{1,2000}\s*")
_YES_NO = frozenset(("yes", "no", "true", "false", "maybe"))
_END_OF_SENTENCE = re.compile(r"[.?!\u3002\uff01\uff1f][\"'\u201d\u2019)\]]{0,2}(?=\s|$)|\n")


def is_yes_no(answer: str) -> bool:
    """Whether an answer is a bare yes, no or maybe; sets made of these are questions for yes or no."""
    return answer.strip(" .!").lower() in _YES_NO


def says_nothing(answer: str, min_words: int = 1) -> bool:
    """Whether an answer means nothing alone: too few words, an address, "see above", or a heading for what is missing."""
    words = _WORDS.findall(answer.lower())
    if len(words) < min_words or _URL_ONLY.fullmatch(answer):
        return True
    return len(words) <= 4 and (all(w in _NOTHING for w in words) or answer.rstrip().endswith(":"))


def cut_at_sentence(text: str, longest: int) -> str:
    """At most `longest` characters of the text, up to the last end of a sentence; of a word, if that is in the first half."""
    if len(text) <= longest:
        return text
    head = text[:longest]
    end = max((m.end() for m in _END_OF_SENTENCE.finditer(head, longest // 2)), default=0)
    if end:
        return head[:end].rstrip()
    space = head.rfind(" ")
    return head[:space if space > longest // 2 else longest].rstrip()


def question_key(text: str) -> str:
    """What two spellings of one question have in common: its words in small letters."""
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def answer_letter(explanation: str) -> str | None:
    """The letter that an explanation names as right in its first words ("Ans. is 'c' i.e., …")."""
    found = _ANSWER_HEAD.match(explanation[:200])
    return found.group(1).upper() if found else None


def clean_explanation(text: str, letter: str, option: str) -> str:
    """An exam explanation without "Ans. is 'c'", a repetition of the right option, and "Ref: …".

    Args:
        text: the explanation, tidied.
        letter: the right option's letter; "(B)" at the start goes only when it is this one.
        option: the right option's text.
    """
    text = _REF_LINE.sub("", _REF_IN_PARENTHESES.sub(" ", text))
    text = _REF_TAIL.sub("", text.rstrip())
    bare = _BARE_HEAD.match(text)
    head = _ANSWER_HEAD.match(text) or _KNOWN_HEADS[letter].match(text)
    if head is None:
        head = _LETTER_HEAD.match(text)
        again = head and text.lower().count(head.group(0).strip().lower()) > 1
        if head and (head.group(1).upper() != letter or again):
            head = None
    if head:
        text = _without_prefix(text[head.end():], option)
    elif bare and (rest := _without_prefix(text[bare.end():], option)) != text[bare.end():]:
        text = rest  # "Ans. Ketamine": the option again, without its letter
    text = _BLANK_LINES.sub("\n\n", text).strip(" \n\t,;:-–")
    return text.lstrip(". ") if text.strip(".") else ""


def _without_prefix(text: str, prefix: str) -> str:
    """`text` without `prefix` at its start, also in parentheses; white space and case apart."""
    at = 0
    opened = text[:1] == "("
    for char in "(" + prefix if opened else prefix:
        if char.isspace():
            continue
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text) or text[at].casefold() != char.casefold():
            return text
        at += 1
    rest = text[at:]
    if opened:
        return rest.lstrip()[1:] if rest.lstrip()[:1] == ")" else text
    # "Ketamine" stays in "Ketamines are", but goes from "KetamineKetamine is", where a line break was lost.
    if prefix[-1:].isalnum() and rest[:1].isalnum() and not rest[:1].isupper():
        return text
    return rest if rest.strip(" .,;:-\n") else ""
