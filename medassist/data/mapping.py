"""Which column holds what, found by looking or said by the user: `choose_mapping`.

The schemes are those of public medical sets: question/answer, instruction/input/output in both readings,
patient/doctor, prompt/completion, message lists, multiple choice. Knows nothing of files or of splits.

    python -m medassist data preview --dataset FILE
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medassist.data import choice
from medassist.data.rows import PLACEHOLDERS, read_turns
from medassist.data.shapes import ColumnMap
from medassist.errors import DataError

ROLES = ("question", "answer", "title", "topic", "instruction", "input", "messages", "options",
         *(f"option_{c}" for c in "abcdefgh"), "correct", "explanation", "choice_type")

_OPTIONAL = {"title", "topic", "explanation", "choice_type"}
_QUESTION = ["question", "questions", "query", "prompt", "input", "instruction", "user", "human", "patient",
             "patient_message", "q", "problem", "question_text"]
_ANSWER = ["answer", "answers", "response", "completion", "output", "reply", "assistant", "doctor",
           "doctor_response", "a", "solution", "answer_text"]
_OUTPUT = ["output", "response", "completion", "answer"]
_TITLE = ["description", "question", "title"]
_TOPIC = ["topic", "focus", "subject_name", "subject", "focus_area", "category"]
_EXPLANATION = ["exp", "explanation", "rationale", "solution", "reasoning"]
_MESSAGES = ["messages", "conversations", "conversation", "dialogue", "dialog", "chat"]


def choose_mapping(mapping: str | Mapping[str, str], hint: Mapping[str, str] | None,
                   rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> ColumnMap:
    """What the user said, else the catalogue's mapping if its columns are there, else what looking finds.

    Raises:
        DataError: an unknown role or column, or no usable column.
    """
    if mapping != "auto":
        return _explicit(mapping, rows, columns, title)
    if hint and {c for r, c in hint.items() if r not in _OPTIONAL} <= set(columns):
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
                            "Write for example --set datasets.0.mapping='{question: COLUMN, answer: COLUMN}'.")
        if column not in columns:
            raise DataError(f"{title} has no column '{column}' for {role}.", f"Its columns are: {present}.")
    is_choice = _is_choice(mapping)
    if not {"messages", "question", "" if is_choice else "instruction"} & set(mapping):
        raise DataError("The mapping names no column for the question.", f"The columns are: {present}.")
    if not is_choice and not {"messages", "answer"} & set(mapping):
        raise DataError("The mapping names no column for the answer.", f"The columns are: {present}.")
    return _complete(dict(mapping), rows)


def _is_choice(roles: Mapping[str, str]) -> bool:
    return "correct" in roles and any(r.startswith("option") for r in roles)


def _complete(roles: dict[str, str], rows: Sequence[Mapping[str, Any]]) -> ColumnMap:
    """Roles with what has to be found out from the rows."""
    if "messages" in roles:
        return ColumnMap("messages", roles)
    if _is_choice(roles):
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
    roles = _find_messages(names, rows) or _find_choice(names, rows) or _find_pair(names)
    if roles is None:
        question = _first(names, _QUESTION, "question")
        if question:
            raise DataError(f"{title} has a column for the question ('{question}') but none for the answer.",
                            "Name it, for example --set datasets.0.mapping='{question: COLUMN, answer: COLUMN}'.")
        shown = ", ".join(str(c) for c in columns[:20]) + (", …" if len(columns) > 20 else "")
        raise DataError(f"{title} has no columns that look like a question and an answer; it has: {shown}.",
                        "Say which are which, for example --set datasets.0.mapping='{question: COLUMN, answer: COLUMN}'.")
    topic = next((names[n] for n in _TOPIC if n in names and names[n] not in roles.values()), None)
    if topic and "messages" not in roles:
        roles["topic"] = topic
    return _complete(roles, rows)


def _find_messages(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    for name in _MESSAGES:
        column = names.get(name)
        if column and any(read_turns(row.get(column)) for row in rows[:50]):
            return {"messages": column}
    return None


def _find_choice(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    question = next((names[n] for n in ("question", "query", "stem", "input", "sent1") if n in names), None)
    options = choice.find_option_columns(names)
    label = choice.find_label_column(names, [*options.values(), question or ""])
    has_options = bool(options) and any(len(choice.read_options(row, options)) > 1 for row in rows)
    if not (question and has_options and label):
        return None
    roles = {"question": question, **options, "correct": label}
    taken = roles.values()
    explanation = next((names[n] for n in _EXPLANATION if n in names and names[n] not in taken), None)
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


def _first(names: Mapping[str, str], wanted: Sequence[str], part: str,
           exclude: str | None = None) -> str | None:
    """The first wanted column; else the only one whose last word is `part` ("medical_question")."""
    found = next((names[n] for n in wanted if n in names and names[n] != exclude), None)
    if found:
        return found
    near = [c for n, c in names.items() if n.split("_")[-1] == part and c != exclude]
    return near[0] if len(near) == 1 else None


def _is_constant(rows: Sequence[Mapping[str, Any]], roles: Mapping[str, str]) -> tuple[bool, str]:
    """Whether the instruction is a standing order, so that the question is in the input."""
    counts: Counter[str] = Counter()
    for row in rows:
        if str(row.get(roles.get("input", ""), "") or "").strip().lower() not in PLACEHOLDERS:
            counts[str(row.get(roles["instruction"]) or "").strip()] += 1
    total = counts.total()
    # One in fifty: a set joined from several sources has a handful of standing orders.
    if total < 2 or len(counts) > max(1, total // 50):
        return False, ""
    common = counts.most_common(1)[0][0]
    if len(counts) == 1:
        return True, f"The instruction is the same in all rows and was left out: '{common[:120]}'."
    return True, f"{len(counts)} standing instructions were left out, such as '{common[:120]}'."
