"""One raw row, read through its column map: a question and an answer, or the reason why there is none.

Knows how cells, message lists, options, glossaries and plain texts are written; finds no columns and no splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from medassist.data import choice, shapes
from medassist.data.clean import TextCleaner, clean_explanation, question_key
from medassist.data.shapes import ColumnMap, Exchange

PLACEHOLDERS = {"", "nan", "none", "null", "n/a", "<noinput>", "noinput"}  # for an empty input
_USER = {"user", "human", "prompter", "patient", "question", "instruction"}
_ASSISTANT = {"assistant", "gpt", "bot", "model", "doctor", "chatbot", "answer", "chatgpt", "output"}
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=\S)|\n+")

# Prompts that others have rendered already, in one text column, by the marks between their turns. Llama 2 and
# Mistral, ChatML, Gemma, Llama 3, Zephyr and Phi; then headings; then plain "Q: … A: …" from the very start.
_SPECIAL_MARKS = {
    "[INST]": "user", "[/INST]": "assistant", "<<SYS>>": "system", "<</SYS>>": "user", "<s>": "end", "</s>": "end",
    "<|im_start|>user": "user", "<|im_start|>assistant": "assistant", "<|im_start|>system": "system", "<|im_end|>": "end",
    "<start_of_turn>user": "user", "<start_of_turn>model": "assistant", "<end_of_turn>": "end", "<bos>": "end", "<eos>": "end",
    "<|start_header_id|>user<|end_header_id|>": "user", "<|start_header_id|>assistant<|end_header_id|>": "assistant",
    "<|start_header_id|>system<|end_header_id|>": "system", "<|eot_id|>": "end", "<|begin_of_text|>": "end",
    "<|end_of_text|>": "end", "<|user|>": "user", "<|assistant|>": "assistant", "<|system|>": "system", "<|end|>": "end"}
_SPECIAL = re.compile("|".join(re.escape(m) for m in sorted(_SPECIAL_MARKS, key=len, reverse=True)))
_ASKS = "instruction|question|input|human|user|patient|q"
_REPLIES = "response|answer|output|assistant|doctor|bot|a"
_HEADING = re.compile(rf"^#{{2,4}} ?(?:(?P<user>{_ASKS})|(?P<assistant>{_REPLIES}))\b ?:?", re.IGNORECASE | re.MULTILINE)
_PLAIN = re.compile(rf"^(?:(?P<user>{_ASKS})|(?P<assistant>{_REPLIES})) ?:", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Pair:
    """One row read: raw parts joined to a question and an answer."""

    question: str
    answer: str
    topic: str | None
    key: str  # what two spellings of one question have in common
    length: int  # characters of the explanation, or of the answer where there is none
    history: tuple[Exchange, ...] = ()


@dataclass
class ReadOptions:
    """How rows are read. `cleaner` remembers what it changed in the row at hand."""

    cleaner: TextCleaner = field(default_factory=lambda: TextCleaner(()))
    options_in_prompt: bool = True
    single_answer_only: bool = False


class _NotText(Exception):
    """A cell holds something that is not text and cannot be made text."""


def read_row(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    """One row as a pair, or the reason why it is none."""
    options.cleaner.start_row()
    try:
        return _READERS[columns.kind](row, columns, options)
    except _NotText:
        return shapes.NOT_TEXT


def _pair(question: str, answer: str, topic: str | None = None, history: tuple[Exchange, ...] = ()) -> Pair | str:
    if not question:
        return shapes.NO_QUESTION
    if not answer:
        return shapes.NO_ANSWER
    return Pair(question, answer, topic, question_key(history[0][0] if history else question), len(answer), history)


def _read_pair(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    roles = columns.roles
    question = _cell(row, roles.get("question"), options) or _cell(row, roles.get("title"), options)
    if not question:
        return shapes.NO_QUESTION
    return _pair(question, _cell(row, roles["answer"], options), _topic(row, roles, options))


def _read_instruction(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    question = _cell(row, columns.roles["instruction"], options)
    given = _cell(row, columns.roles.get("input"), options)
    if given.lower() not in PLACEHOLDERS:
        question = given if columns.constant_instruction or not question else f"{question}\n\n{given}"
    if not question:
        return shapes.NO_QUESTION
    return _pair(question, _cell(row, columns.roles["answer"], options), _topic(row, columns.roles, options))


def _read_term(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    term = _cell(row, columns.roles["term"], options)
    if not term:
        return shapes.NO_QUESTION
    question = term if term.endswith("?") else f"What is meant by “{term}”?"
    return _pair(question, _cell(row, columns.roles["meaning"], options), _topic(row, columns.roles, options))


def _read_text(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    """A text column: a prompt rendered by others, else a title and its text, else the first sentence and the rest."""
    raw = row.get(columns.roles["text"])
    topic = _topic(row, columns.roles, options)
    if isinstance(raw, str):
        exchanges = [(options.cleaner(q), options.cleaner(a)) for q, a in rendered_exchanges(raw)]
        exchanges = [(q, a) for q, a in exchanges if q and a]
        if exchanges:
            return _pair(*exchanges[-1], topic, tuple(exchanges[:-1]))
    text = _cell(row, columns.roles["text"], options)
    if not text:
        return shapes.NO_ANSWER
    title = _cell(row, columns.roles.get("title"), options)
    if title:
        return _pair(title, text, topic)
    cut = next((m for m in _SENTENCE.finditer(text) if m.start() >= 20), None)
    return shapes.ONE_SENTENCE if cut is None else _pair(text[:cut.start()], text[cut.end():].strip(), topic)


def rendered_exchanges(text: str) -> list[Exchange]:
    """Questions and answers of a text that is a rendered prompt (Llama 2, ChatML, Gemma, Alpaca, "Q: … A: …"); else []."""
    marks = [(m.start(), m.end(), _SPECIAL_MARKS[m.group()]) for m in _SPECIAL.finditer(text)]
    if not {"user", "assistant"} <= {role for _, _, role in marks}:
        marks = _headings(_HEADING, text)
    # A colon stands in any text: what begins as a question must do so at the very start.
    if not marks and _PLAIN.match(text.lstrip()):
        marks = _headings(_PLAIN, text)
    ends = [start for start, _, _ in marks[1:]] + [len(text)]
    turns = [(role, text[after:end].strip()) for (_, after, role), end in zip(marks, ends) if role != "end"]
    # "<<SYS>>" stands within the user's turn, so that an empty one comes before it.
    return list(_exchanges([(role, said) for role, said in turns if said or role == "assistant"]))


def _headings(pattern: re.Pattern[str], text: str) -> list[tuple[int, int, str]]:
    found = [(m.start(), m.end(), "user" if m["user"] else "assistant") for m in pattern.finditer(text)]
    return found if found and found[0][2] == "user" and {r for _, _, r in found} == {"user", "assistant"} else []


def _read_choice(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    roles, cleaner = columns.roles, options.cleaner
    stem = _cell(row, roles["question"], options)
    if not stem:
        return shapes.NO_QUESTION
    label = row.get(roles["correct"])
    kind = _cell(row, roles.get("choice_type"), options).lower()
    several = kind not in ("", "single") or (isinstance(label, list) and len(label) > 1)
    if options.single_answer_only and several:
        return shapes.NOT_SINGLE
    raw = choice.read_options(row, roles)[:len(choice.LETTERS)]
    if len(raw) < 2:
        return shapes.NO_OPTIONS
    place = choice.right_option(label, raw, columns.index_base)
    texts = [cleaner(o) for o in raw]
    if place is None or not texts[place]:
        return shapes.NO_RIGHT_OPTION
    letter = choice.LETTERS[place]
    explanation = _cell(row, roles.get("explanation"), options)
    if "exam_phrases" in cleaner.steps and explanation:
        cleaned = clean_explanation(explanation, letter, texts[place])
        if cleaned != explanation:
            cleaner.note("exam_phrases", explanation, cleaned)
        explanation = cleaned
    question = f"{stem}\n\n{choice.render_options(texts)}" if options.options_in_prompt else stem
    answer = f"{letter}. {texts[place]}" if options.options_in_prompt else texts[place]
    if explanation:
        answer += f"\n\n{explanation}"
    # The same stem with the same options in another order is the same question.
    key = question_key(stem)
    if options.options_in_prompt:
        key += " | " + " | ".join(sorted(question_key(t) for t in texts))
    return Pair(question, answer, _topic(row, roles, options), key, len(explanation))


def _read_messages(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    turns = read_turns(row.get(columns.roles["messages"]))
    exchanges = [(options.cleaner(q), options.cleaner(a)) for q, a in _exchanges(turns)]
    if not exchanges:
        return shapes.NO_PAIR
    whole = [(q, a) for q, a in exchanges if q and a]
    if not whole:
        return shapes.NO_QUESTION if not exchanges[-1][0] else shapes.NO_ANSWER
    return _pair(*whole[-1], _topic(row, columns.roles, options), tuple(whole[:-1]))


def _exchanges(turns: list[tuple[str, str]]) -> Iterator[Exchange]:
    """What was asked and what was answered, turn by turn; several messages of one speaker in a row are one.

    What the assistant says before the first question, and questions without an answer at the end, are left out.
    """
    asked: list[str] = []
    answered: list[str] = []
    for role, text in turns:
        if role == "user":
            if asked and answered:
                yield "\n\n".join(asked), "\n\n".join(answered)
                asked, answered = [], []
            asked.append(text)
        elif role == "assistant" and asked:
            answered.append(text)
    if asked and answered:
        yield "\n\n".join(asked), "\n\n".join(answered)


def read_turns(cell: Any) -> list[tuple[str, str]]:
    """[(role, text)] from a list of {role, content} or {from, value}, or of plain texts in turn, also as JSON; else []."""
    if isinstance(cell, str):
        cell = choice.parse_text(cell, 1_000_000)
    if not isinstance(cell, (list, tuple)):
        return []
    if len(cell) > 1 and all(isinstance(turn, str) for turn in cell):  # a dialogue: the speakers take turns
        return [("assistant" if i % 2 else "user", text) for i, text in enumerate(cell)]
    turns = []
    for turn in cell:
        if not isinstance(turn, Mapping):
            return []
        role = str(turn.get("role", turn.get("from", turn.get("speaker", "")))).strip().lower()
        content = turn.get("content", turn.get("value", turn.get("text")))
        if isinstance(content, list):  # [{"type": "text", "text": …}]
            content = "\n".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
        role = "user" if role in _USER else "assistant" if role in _ASSISTANT else role
        turns.append((role, content if isinstance(content, str) else ""))
    return turns


def _topic(row: Mapping[str, Any], roles: Mapping[str, str], options: ReadOptions) -> str | None:
    try:
        return _cell(row, roles.get("topic"), options) or None
    except _NotText:
        return None


def _cell(row: Mapping[str, Any], column: str | None, options: ReadOptions) -> str:
    """A cell as cleaned text; "" where there is none."""
    value = row.get(column) if column is not None else None
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, str)):  # SQuAD's {"text": ["…"]}
        value = value["text"]
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, (list, tuple, Mapping)) for v in value):
            raise _NotText
        value = ", ".join(str(v) for v in value if v is not None)
    if value is None or value != value:  # NaN, an empty cell of a table with numbers
        return ""
    if isinstance(value, (Mapping, bytes)):
        raise _NotText
    return options.cleaner(value if isinstance(value, str) else str(value))


_READERS: dict[str, Callable[[Mapping[str, Any], ColumnMap, ReadOptions], Pair | str]] = {
    "question_answer": _read_pair, "instruction": _read_instruction, "messages": _read_messages,
    "multiple_choice": _read_choice, "term": _read_term, "text": _read_text}
