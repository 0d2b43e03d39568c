"""Text in, tidier text out: white space, control characters, HTML, and exam explanations' set phrases.

Pure functions, linear in the length of the text: no expression repeats a repetition without a bound.
Knows nothing of rows or columns.

    python -c "from medassist.data.clean import tidy; print(tidy('Fever&nbsp;&amp; chills ?'))"
"""

from __future__ import annotations

import html
import re
import unicodedata

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


def tidy(text: str) -> str:
    """The text with HTML undone, invisible and control characters gone and white space in order."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _BLOCK_TAG.sub(" ", _LINE_TAG.sub("\n", _INLINE_TAG.sub("", text)))
    text = strip(text).replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():  # three quarters of all texts skip this
        text = unicodedata.normalize("NFC", text).replace("\u2028", "\n").replace("\u2029", "\n")
        text = _STRAY_JOINER.sub("", _INVISIBLE.sub("", text))
    # str.split takes every kind of white space, the no-break space included.
    text = "\n".join([" ".join(line.split()) for line in _CONTROL.sub(" ", text).split("\n")])
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    if any(mark in text for mark in (" ?", " !", " .", " ,", " ;", " :")):
        text = _SPACE_BEFORE_MARK.sub(r"\1", text)
    return (_QUESTION_MARKS.sub("?", text) if "??" in text or "? ?" in text else text).strip()


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
