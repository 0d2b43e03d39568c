"""Which column holds what: found by looking at names and rows, or as the user said; then one row → one pair.

The schemes are those of public medical sets: question/answer, instruction/input/output in both readings,
patient/doctor, prompt/completion, message lists, multiple choice. Knows nothing of files or of splits.

    python -m medassist data preview --dataset FILE
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medassist.data import choice, shapes
from medassist.data.clean import clean_explanation, question_key, strip
from medassist.errors import DataError

ROLES = ("question", "answer", "title", "topic", "instruction", "input", "messages", "options",
         *(f"option_{c}" for c in "abcdefgh"), "correct", "explanation", "choice_type")

_QUESTION = ["question", "questions", "query", "prompt", "input", "instruction", "user", "human", "patient", "q",
             "problem", "question_text"]
_ANSWER = ["answer", "answers", "response", "completion", "output", "reply", "assistant", "doctor", "a", "solution",
           "answer_text"]
_OUTPUT = ["output", "response", "completion", "answer"]
_TITLE = ["description", "question", "title"]
_TOPIC = ["topic", "focus", "subject_name", "subject", "focus_area", "category"]
_EXPLANATION = ["exp", "explanation", "rationale", "solution", "reasoning"]
_MESSAGES = ["messages", "conversations", "conversation", "dialogue", "dialog", "chat"]
_USER = {"user", "human", "prompter", "patient", "question"}
_ASSISTANT = {"assistant", "gpt", "bot", "model", "doctor", "chatbot", "answer"}
_PLACEHOLDERS = {"", "nan", "none", "null", "n/a", "<noinput>", "noinput"}


@dataclass(frozen=True)
class ColumnMap:
    """Where the parts of an example stand in a row."""

    kind: str  # question_answer | instruction | messages | multiple_choice
    roles: dict[str, str]  # role → column
    index_base: int = 0  # of multiple-choice labels that are numbers
    constant_instruction: bool = False  # the instruction says the same in every row: the input is the question
    notes: tuple[str, ...] = ()


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


def choose_mapping(mapping: str | Mapping[str, str], hint: Mapping[str, str] | None,
                   rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> ColumnMap:
    """The mapping to use: what the user said, else the catalogue's if its columns are there, else found by looking.

    Raises:
        DataError: an unknown role or column, or no usable column.
    """
    if mapping != "auto":
        return _explicit(mapping, rows, columns, title)
    if hint and {hint.get("question"), hint.get("answer", hint.get("correct"))} <= set(columns):
        return _complete({r: c for r, c in hint.items() if c in columns}, rows)
    return detect(rows, columns, title)


def _explicit(mapping: Mapping[str, str], rows: Sequence[Mapping[str, Any]], columns: Sequence[str],
              title: str) -> ColumnMap:
    present = ", ".join(columns[:30])
    for role, column in mapping.items():
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            raise DataError(f"'{role}' is not a part of an example."
                            + (f" Did you mean '{near[0]}'?" if near else ""),
                            "Write for example mapping={question: COLUMN, answer: COLUMN}.")
        if column not in columns:
            raise DataError(f"{title} has no column '{column}' for {role}.", f"Its columns are: {present}.")
    if "messages" not in mapping and not {"question", "instruction"} & set(mapping):
        raise DataError("The mapping names no column for the question.", f"The columns are: {present}.")
    if not {"messages", "answer", "correct"} & set(mapping):
        raise DataError("The mapping names no column for the answer.", f"The columns are: {present}.")
    return _complete(dict(mapping), rows)


def _complete(roles: dict[str, str], rows: Sequence[Mapping[str, Any]]) -> ColumnMap:
    """Roles with what has to be found out from the rows."""
    if "messages" in roles:
        return ColumnMap("messages", roles)
    if "correct" in roles and any(r.startswith("option") for r in roles):
        base, evidence = choice.index_base(rows, roles)
        return ColumnMap("multiple_choice", roles, index_base=base, notes=(evidence,) if evidence else ())
    if "instruction" in roles:
        constant, note = _is_constant(rows, roles)
        return ColumnMap("instruction", roles, constant_instruction=constant, notes=(note,) if note else ())
    return ColumnMap("question_answer", roles)


def detect(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> ColumnMap:
    """The mapping found from column names and rows.

    Raises:
        DataError: no scheme fits; the message lists the columns.
    """
    names: dict[str, str] = {}
    for column in columns:
        names.setdefault(re.sub(r"[\W_]+", "_", str(column).strip().lower()).strip("_"), column)
    roles = _find_messages(names, rows) or _find_choice(names) or _find_pair(names)
    if roles is None:
        question = _first(names, _QUESTION, "question")
        if question:
            raise DataError(f"{title} has a column for the question ('{question}') but none for the answer.",
                            "Name it, for example mapping={question: COLUMN, answer: COLUMN}, or give another file.")
        shown = ", ".join(str(c) for c in columns[:20]) + (", …" if len(columns) > 20 else "")
        raise DataError(f"{title} has no columns that look like a question and an answer; it has: {shown}.",
                        "Say which are which, for example mapping={question: COLUMN, answer: COLUMN}.")
    topic = next((names[n] for n in _TOPIC if n in names and names[n] not in roles.values()), None)
    if topic and "messages" not in roles:
        roles["topic"] = topic
    return _complete(roles, rows)


def _find_messages(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    for name in _MESSAGES:
        column = names.get(name)
        if column and any(_turns(row.get(column)) for row in rows[:50]):
            return {"messages": column}
    return None


def _find_choice(names: Mapping[str, str]) -> dict[str, str] | None:
    question = next((names[n] for n in ("question", "query", "stem", "input", "sent1") if n in names), None)
    options = choice.find_option_columns(names)
    label = choice.find_label_column(names, [*options.values(), question or ""])
    if not (question and options and label):
        return None
    roles = {"question": question, **options, "correct": label}
    explanation = next((names[n] for n in _EXPLANATION if n in names and names[n] not in roles.values()), None)
    if explanation:
        roles["explanation"] = explanation
    if "choice_type" in names:
        roles["choice_type"] = names["choice_type"]
    return roles


def _find_pair(names: Mapping[str, str]) -> dict[str, str] | None:
    output = next((names[n] for n in _OUTPUT if n in names), None)
    if "instruction" in names and output:
        given = next((names[n] for n in ("input", "context") if n in names), None)
        return {"instruction": names["instruction"], **({"input": given} if given else {}), "answer": output}
    doctor = next((names[n] for n in ("doctor", *_ANSWER) if n in names), None)
    if "patient" in names and doctor:
        title = next((names[n] for n in _TITLE if n in names), None)
        return {"question": names["patient"], **({"title": title} if title else {}), "answer": doctor}
    question = _first(names, _QUESTION, "question")
    answer = _first(names, _ANSWER, "answer", exclude=question)
    if not (question and answer):
        return None
    return {"question": question, "answer": answer}


def _first(names: Mapping[str, str], wanted: Sequence[str], part: str, exclude: str | None = None) -> str | None:
    """The first wanted column; else the only one whose name has `part` as a word ("medical_question")."""
    found = next((names[n] for n in wanted if n in names and names[n] != exclude), None)
    if found:
        return found
    near = [c for n, c in names.items() if part in n.split("_") and c != exclude and n.split("_")[-1] == part]
    return near[0] if len(near) == 1 else None


def _is_constant(rows: Sequence[Mapping[str, Any]], roles: Mapping[str, str]) -> tuple[bool, str]:
    """Whether the instruction is a standing order, so that the question is in the input."""
    counts: Counter[str] = Counter()
    for row in rows:
        if str(row.get(roles.get("input", ""), "") or "").strip().lower() not in _PLACEHOLDERS:
            counts[str(row.get(roles["instruction"]) or "").strip()] += 1
    total = counts.total()
    # One in fifty: a set joined from several sources has a handful of standing orders.
    if total < 2 or len(counts) > max(1, total // 50):
        return False, ""
    common = counts.most_common(1)[0][0]
    return True, (f"The instruction is the same in all rows and was left out: '{common[:120]}'." if len(counts) == 1
                  else f"{len(counts)} standing instructions were left out, such as '{common[:120]}'.")


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
    if given.lower() in _PLACEHOLDERS:
        return instruction
    return given if columns.constant_instruction or not instruction else f"{instruction}\n\n{given}"


def _read_choice(row: Mapping[str, Any], columns: ColumnMap, options: ReadOptions) -> Pair | str:
    roles = columns.roles
    stem = _cell(row, roles["question"], options)
    if not stem:
        return shapes.NO_QUESTION
    label = row.get(roles["correct"])
    kind = _cell(row, roles.get("choice_type"), options).lower()
    if options.single_answer_only and (kind not in ("", "single") or (isinstance(label, list) and len(label) > 1)):
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
    turns = _turns(row.get(columns.roles["messages"]))
    first = next((i for i, (role, _) in enumerate(turns) if role == "user"), None)
    reply = next((i for i, (role, _) in enumerate(turns) if first is not None and i > first and role == "assistant"),
                 None)
    if first is None or reply is None:
        return shapes.NO_PAIR
    question = options.tidy("\n\n".join(text for role, text in turns[first:reply] if role == "user"))
    answer = options.tidy(turns[reply][1])
    if not question:
        return shapes.NO_QUESTION
    if not answer:
        return shapes.NO_ANSWER
    extra = sum(role == "assistant" for role, _ in turns[reply + 1:])
    return Pair(question, answer, None, question_key(question), len(answer), extra)


def _turns(cell: Any) -> list[tuple[str, str]]:
    """[(role, text)] from a list of {role, content} or {from, value}, or such a list as JSON text; else []."""
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
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, str)):  # SQuAD: {"text": ["…"], …}
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
