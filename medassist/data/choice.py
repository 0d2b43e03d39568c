"""Multiple choice: where the options and the right one stand in a row, and what index base the labels have.

Foreign rows in, our own `Choice` out. Knows nothing of splits or of training.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medassist.data.clean import answer_letter

LETTERS = "ABCDEFGHIJ"

# Option columns, one scheme a line; each is complete with two, the rest may be missing.
_SCHEMES = [
    ["opa", "opb", "opc", "opd", "ope"],
    *([f"{name}{c}" for c in "abcdefg"] for name in ("option_", "option", "choice_", "choice")),
    *([f"{name}{i}" for i in range(1, 8)] for name in ("option_", "option", "choice_", "choice", "op")),
    [f"ending{i}" for i in range(8)],
    list("abcdefg"),
]
_LIST_NAMES = ["options", "choices", "option", "choice", "answer_choices"]
_LABEL_NAMES = ["cop", "answer_idx", "answer_index", "correct_option", "correct_index", "correct",
                "correct_answer", "answer_key", "answerkey", "label", "gold", "target", "answer", "answers"]
_LETTER_LABEL = re.compile(r"^\s*[(\[\"']{0,2}([A-Ja-j])(?:[)\].:\"']{1,2}(?:\s.{0,2000})?)?\s*$", re.DOTALL)


def find_option_columns(names: Mapping[str, str]) -> dict[str, str]:
    """Roles of the option columns: {option_a: …} or {options: …}; empty if there are none.

    Args:
        names: normalised name → column.
    """
    for scheme in _SCHEMES:
        present = [n for n in scheme if n in names]
        if len(present) >= 2 and present == scheme[:len(present)]:
            return {f"option_{LETTERS[i].lower()}": names[n] for i, n in enumerate(present)}
    found = next((n for n in _LIST_NAMES if n in names), None)
    return {"options": names[found]} if found else {}


def find_label_column(names: Mapping[str, str], taken: Iterable[str]) -> str | None:
    """The column that marks the right option."""
    taken = set(taken)
    return next((names[n] for n in _LABEL_NAMES if n in names and names[n] not in taken), None)


def read_options(row: Mapping[str, Any], roles: Mapping[str, str]) -> list[str]:
    """The options of a row as raw text, in order; empty if there are none."""
    if "options" in roles:
        return parse_options(row.get(roles["options"]))
    cells = [row.get(roles[r]) for r in sorted(r for r in roles if r.startswith("option_"))]
    while cells and (cells[-1] is None or str(cells[-1]).strip() == ""):
        cells.pop()
    return ["" if c is None else str(c) for c in cells]


def parse_options(cell: Any) -> list[str]:
    """Options from a list, a dict of letter → text or a list of {key, value}, also as JSON or Python text."""
    if isinstance(cell, str):
        cell = parse_text(cell)
    if isinstance(cell, Mapping):
        if isinstance(cell.get("text"), list):  # {"label": ["A", …], "text": ["…", …]}
            return [str(v) for v in cell["text"]]
        return [str(v) for k, v in sorted(cell.items(), key=lambda kv: str(kv[0])) if v is not None]
    if isinstance(cell, (list, tuple)):
        if all(isinstance(v, Mapping) and ("value" in v or "text" in v) for v in cell):
            return [str(v.get("value", v.get("text"))) for v in cell]
        return [str(v) for v in cell if v is not None]
    return []


def parse_text(text: str, longest: int = 20_000) -> Any:
    """A list or object written as JSON or as Python's own text; None for anything else."""
    text = text.strip()
    if len(text) > longest or text[:1] not in "[{(":
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def right_option(value: Any, options: Sequence[str], base: int) -> int | None:
    """The place of the right option from a letter, an index, or the option's own text.

    Args:
        base: 0 or 1, what the first option's index is.
    """
    if isinstance(value, (list, tuple)):
        value = value[0] if len(value) == 1 else None
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        text = value.strip()
        same = [i for i, o in enumerate(options) if text and o.strip().casefold() == text.casefold()]
        if len(same) == 1:
            return same[0]
        if text.isdecimal() and len(text) < 3:
            value = int(text)
        else:
            letter = _LETTER_LABEL.match(text)
            place = LETTERS.index(letter.group(1).upper()) if letter else -1
            return place if 0 <= place < len(options) else None
    if isinstance(value, int):
        place = value - base
        return place if 0 <= place < len(options) else None
    return None


def index_base(rows: Iterable[Mapping[str, Any]], roles: Mapping[str, str]) -> tuple[int, str]:
    """Whether labels that are numbers count from 0 or from 1, and the evidence in words ("" without numbers).

    A label 0 speaks for 0, one as high as there are options for 1; where that does not settle it, the letters
    do that explanations name.
    """
    zeros = tops = 0
    seen: set[int] = set()
    votes = {0: 0, 1: 0}
    for row in rows:
        label = _as_index(row.get(roles["correct"]))
        if label is None:
            continue
        seen.add(label)
        zeros += label == 0
        tops += label == len(read_options(row, roles))
        letter = answer_letter(str(row.get(roles.get("explanation", ""), "") or ""))
        if letter and label - LETTERS.index(letter) in votes:
            votes[label - LETTERS.index(letter)] += 1
    if not seen:
        return 0, ""
    span = f"its numbers run from {min(seen)} to {max(seen)}"
    if bool(zeros) != bool(tops):
        base = 0 if zeros else 1
        return base, f"The right option counts from {base} ({span})."
    if votes[0] != votes[1]:
        base = max(votes, key=lambda b: votes[b])
        return base, f"The right option counts from {base} ({votes[base]} explanations name the same letter)."
    base = 1 if tops > zeros else 0
    return base, f"The right option was taken to count from {base}; {span}, which does not settle it."


def _as_index(value: Any) -> int | None:
    """A label as a number, or None; -1 stands for "not known" in several sets."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value.strip()) < 3:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def render_options(options: Sequence[str]) -> str:
    """The options as they stand below a question, one a line."""
    return "\n".join(f"{LETTERS[i]}. {text}" for i, text in enumerate(options))
