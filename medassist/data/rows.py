"""One raw row, read through its column map: a question and an answer, or the reason why there is none.

Knows how cells, message lists and options are written; finds no columns and no splits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medassist.data import choice, shapes
from medassist.data.clean import clean_explanation, question_key, strip
from medassist.data.shapes import ColumnMap

PLACEHOLDERS = {"", "nan", "none", "null", "n/a", "<noinput>", "noinput"}  # for an empty input
_USER = {"user", "human", "prompter", "patient", "question"}
_ASSISTANT = {"assistant", "gpt", "bot", "model", "doctor", "chatbot", "answer"}


@dataclass(frozen=True)
class Pair:
    """One row read: raw parts joined to a question and an answer."""

    question: str
    answer: str
    topic: str | None
    key: str
    length: int
    extra_turns: int = 0


@dataclass(frozen=True)
class ReadOptions:
    """How rows are read."""

    tidy: Callable[[str], str] = strip
    clean: bool = True
    options_in_prompt: bool = True
    single_answer_only: bool = False


class _NotText(Exception):
    """A cell holds something that is not text and cannot be made text."""


def read_row(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    """One row as a pair, or the reason why it is none."""
    try:
        if columns.kind == "messages":
            return _read_messages(row, columns, options)
        if columns.kind == "multiple_choice":
            return _read_choice(row, columns, options)
        return _read_pair(row, columns, options)
    except _NotText:
        return shapes.NOT_TEXT


def _read_pair(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    roles = columns.roles
    if columns.kind == "instruction":
        question = _instruction_question(row, columns, options)
    else:
        question = _cell(row, roles.get("question"), options) or _cell(row, roles.get("title"), options)
    if not question:
        return shapes.NO_QUESTION
    answer = _cell(row, roles["answer"], options)
    if not answer:
        return shapes.NO_ANSWER
    return Pair(question, answer, _topic(row, roles, options), question_key(question), len(answer))


def _instruction_question(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> str:
    instruction = _cell(row, columns.roles["instruction"], options)
    given = _cell(row, columns.roles.get("input"), options)
    if given.lower() in PLACEHOLDERS:
        return instruction
    return given if columns.constant_instruction or not instruction else f"{instruction}\n\n{given}"


def _read_choice(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    roles = columns.roles
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
    texts = [options.tidy(o) for o in raw]
    if place is None or not texts[place]:
        return shapes.NO_RIGHT_OPTION
    letter = choice.LETTERS[place]
    explanation = _cell(row, roles.get("explanation"), options)
    if options.clean and explanation:
        explanation = clean_explanation(explanation, letter, texts[place])
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
    first = next((i for i, (role, _) in enumerate(turns) if role == "user"), None)
    if first is None:
        return shapes.NO_PAIR
    reply = next((i for i, (role, _) in enumerate(turns) if i > first and role == "assistant"), None)
    if reply is None:
        return shapes.NO_PAIR
    question = options.tidy("\n\n".join(text for role, text in turns[first:reply] if role == "user"))
    answer = options.tidy(turns[reply][1])
    if not question:
        return shapes.NO_QUESTION
    if not answer:
        return shapes.NO_ANSWER
    extra = sum(role == "assistant" for role, _ in turns[reply + 1:])
    return Pair(question, answer, None, question_key(question), len(answer), extra)


def read_turns(cell: Any) -> list[tuple[str, str]]:
    """[(role, text)] from a list of {role, content} or {from, value}, also as JSON text; else []."""
    if isinstance(cell, str):
        if not cell.lstrip().startswith("[") or len(cell) > 1_000_000:
            return []
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return []
    if not isinstance(cell, (list, tuple)):
        return []
    turns = []
    for turn in cell:
        if not isinstance(turn, Mapping):
            return []
        role = str(turn.get("role", turn.get("from", ""))).strip().lower()
        content = turn.get("content", turn.get("value"))
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
    """A cell as tidied text; "" where there is none."""
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
    return options.tidy(value if isinstance(value, str) else str(value))
