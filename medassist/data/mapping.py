"""Which column holds what, found by looking or said by the user: `choose_mapping`, `list_readings`.

The schemes are those of public medical sets: question/answer, instruction/input/output in both readings,
patient/doctor, prompt/completion, message lists, multiple choice, term/meaning, plain text. Each way to read a
table gets a confidence: how well its columns' names are known, times the share of sampled rows that it can read,
times what their content speaks for. Knows nothing of files or of splits.

    python -m medassist data check --dataset FILE
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medassist.data import choice
from medassist.data.rows import PLACEHOLDERS, Pair, ReadOptions, read_row, read_turns
from medassist.data.shapes import ColumnMap, Reading
from medassist.errors import ColumnsError, DataError

ROLES = ("question", "answer", "title", "topic", "instruction", "input", "messages", "options",
         *(f"option_{c}" for c in "abcdefgh"), "correct", "explanation", "choice_type", "term", "meaning", "text",
         "counts_from")

_OPTIONAL = {"title", "topic", "explanation", "choice_type"}
_QUESTION = ["question", "questions", "query", "prompt", "input", "instruction", "user", "human", "patient",
             "patient_message", "q", "problem", "question_text", "ask", "front", "chq"]
_ANSWER = ["answer", "answers", "response", "completion", "output", "reply", "assistant", "doctor",
           "doctor_response", "a", "solution", "answer_text", "long_answer", "back", "target"]
_OUTPUT = ["output", "response", "completion", "answer"]
_TITLE = ["description", "question", "title"]
_TOPIC = ["topic", "focus", "subject_name", "subject", "focus_area", "category", "chapter"]
_EXPLANATION = ["exp", "explanation", "rationale", "solution", "reasoning"]
_MESSAGES = ["messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns"]
_TERM = ["term", "word", "entry", "concept", "abbreviation", "acronym", "name", "label", "disease"]
_MEANING = ["meaning", "definition", "definitions", "description", "expansion", "gloss"]
_TEXT = ["text", "content", "body", "passage", "abstract", "document", "article", "page_content", "paragraph"]

_NAMED, _LAST_WORD, _GUESS = 0.95, 0.75, 0.5  # how far a column's name alone is trusted
_GUESSED = "a guess by content"
_LOWEST = 0.25  # a reading below this is not taken by itself
_LOOKED_AT = 200  # rows
_ASKS = re.compile(r"\?\s*$|^\W*(?:what|which|who|whom|when|where|why|how|is|are|was|were|do|does|did|can|could|should|"
                   r"will|would|may|explain|describe|define|name|list)\b", re.IGNORECASE)


def choose_mapping(mapping: str | Mapping[str, str], hint: Mapping[str, str] | None,
                   rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> ColumnMap:
    """What the user said, else the catalogue's mapping if its columns are there, else what looking finds.

    Args:
        rows: a sample of the table, for what names do not tell.

    Raises:
        DataError: an unknown role or column, or no usable column.
    """
    if mapping != "auto":
        return _explicit(mapping, rows, columns, title)
    if hint and {c for r, c in hint.items() if r not in _OPTIONAL} <= set(columns):
        return _complete({r: c for r, c in hint.items() if c in columns}, rows, 1.0, ("the catalogue says so",))
    return detect(rows, columns, title)


def detect(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> ColumnMap:
    """The likeliest reading.

    Raises:
        ColumnsError: none is likely; the message lists the columns.
    """
    readings = list_readings(rows, columns)
    # Columns known by name are taken even where the sampled rows are empty: the report then says what they lack.
    best = next((r for r in readings if r.confidence >= _LOWEST or r.kind != "text" and _GUESSED not in r.evidence), None)
    if best is not None:
        return _complete(dict(best.mapping), rows, best.confidence, best.evidence)
    names = _normalised(columns)
    how = "Name it, for example --set datasets.0.mapping='{question: COLUMN, answer: COLUMN}'."
    question = _first(names, _QUESTION, "question")
    if question and not _first(names, _ANSWER, "answer", exclude=question):
        raise ColumnsError(f"{title} has a column for the question ('{question}') but none for the answer.", how, columns)
    shown = ", ".join(str(c)[:60] for c in columns[:20]) + (", …" if len(columns) > 20 else "")
    raise ColumnsError(f"{title} has no columns that look like a question and an answer; it has: {shown}.",
                       "Say which are which, for example --set datasets.0.mapping='{question: COLUMN, answer: COLUMN}'.",
                       columns)


def list_readings(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Reading]:
    """Every way to read the columns, likeliest first."""
    names = _normalised(columns)
    looked_at = rows[:: max(1, len(rows) // _LOOKED_AT)][:_LOOKED_AT]
    topic = next((names[n] for n in _TOPIC if n in names), None)
    found: dict[tuple[tuple[str, str], ...], Reading] = {}
    for trust, roles in _candidates(names, looked_at):
        if topic is not None and topic not in roles.values():
            roles = {**roles, "topic": topic}
        key = tuple(sorted((r, c) for r, c in roles.items() if r != "topic"))
        if key not in found:
            found[key] = _judged(roles, trust, looked_at)
    ordered = sorted(found.values(), key=lambda r: -r.confidence)
    # Two that read alike in words (with and without a title) are one choice: the likelier.
    return list({reading.label: reading for reading in reversed(ordered)}.values())[::-1]


def _normalised(columns: Sequence[str]) -> dict[str, str]:
    """Normalised name → column."""
    names: dict[str, str] = {}
    for column in columns:
        names.setdefault(re.sub(r"[\W_]+", "_", str(column).strip().lower()).strip("_"), column)
    return names


# ── what the names allow ─────────────────────────────────────────────────────────────────────────────


def _candidates(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, dict[str, str]]]:
    """Trust in the names, and the roles, of each scheme whose columns are there; the more special come first."""
    for name in _MESSAGES:
        column = names.get(name)
        if column is not None and any(read_turns(row.get(column)) for row in rows[:50]):
            yield _NAMED, {"messages": column}
    chosen = _find_choice(names, rows)
    if chosen:
        yield _NAMED, chosen
    output = next((names[n] for n in _OUTPUT if n in names), None)
    if "instruction" in names and output:
        given = next((names[n] for n in ("input", "context") if n in names), None)
        yield _NAMED, {"instruction": names["instruction"], **({"input": given} if given else {}), "answer": output}
        if given:
            yield _LAST_WORD, {"question": given, "answer": output}
            yield _LAST_WORD - 0.05, {"question": names["instruction"], "answer": output}
    doctor = next((names[n] for n in ("doctor", *_ANSWER) if n in names), None)
    if "patient" in names and doctor:
        title = next((names[n] for n in _TITLE if n in names), None)
        yield _NAMED, {"question": names["patient"], **({"title": title} if title else {}), "answer": doctor}
        if title:
            yield _LAST_WORD, {"question": title, "answer": doctor}
    yield from _pairs(names)
    term, meaning = (next((names[n] for n in wanted if n in names), None) for wanted in (_TERM, _MEANING))
    if term and meaning and term != meaning:
        yield _NAMED - 0.05, {"term": term, "meaning": meaning}
    for name in _TEXT:
        if name in names:
            title = next((names[n] for n in ("title", "heading", "section", "name") if n in names), None)
            yield _LAST_WORD, {**({"title": title} if title else {}), "text": names[name]}
    yield from _guesses(names, rows)


def _pairs(names: Mapping[str, str]) -> Iterator[tuple[float, dict[str, str]]]:
    questions = [names[n] for n in _QUESTION if n in names]
    answers = [names[n] for n in _ANSWER if n in names]
    rank = 0
    for question in questions:
        for answer in answers:
            if question != answer:
                # The more usual names come first, by so little that content decides where it speaks.
                yield _NAMED - 0.01 - 0.002 * rank, {"question": question, "answer": answer}
                rank += 1
    question, answer = _first(names, _QUESTION, "question"), _first(names, _ANSWER, "answer")
    if question and answer and question != answer:
        yield _LAST_WORD, {"question": question, "answer": answer}


def _first(names: Mapping[str, str], wanted: Sequence[str], part: str, exclude: str | None = None) -> str | None:
    """The first wanted column; else the only one whose last word is `part` ("medical_question")."""
    found = next((names[n] for n in wanted if n in names and names[n] != exclude), None)
    if found:
        return found
    near = [c for n, c in names.items() if n.split("_")[-1] == part and c != exclude]
    return near[0] if len(near) == 1 else None


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


def _guesses(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, dict[str, str]]]:
    """Two text columns by what stands in them: one that asks, and the longest that does not."""
    texts = {c: [v for v in (row.get(c) for row in rows) if isinstance(v, str) and v.strip()] for c in names.values()}
    texts = {c: v for c, v in texts.items() if len(v) >= max(1, len(rows) // 2)}
    asking = {c: sum(bool(_ASKS.search(t[:2000])) for t in v) / len(v) for c, v in texts.items()}
    words = {c: sum(len(t[:4000].split()) for t in v) / len(v) for c, v in texts.items()}
    questions = sorted((c for c in texts if asking[c] >= 0.5 and words[c] >= 3), key=lambda c: -asking[c])
    for question in questions[:2]:
        answers = sorted((c for c in texts if c != question and words[c] >= 6), key=lambda c: (asking[c] > 0.5, -words[c]))
        for answer in answers[:2]:
            yield _GUESS, {"question": question, "answer": answer}


# ── what the rows say ────────────────────────────────────────────────────────────────────────────────


def _judged(roles: dict[str, str], trust: float, rows: Sequence[Mapping[str, Any]]) -> Reading:
    columns = _complete(roles, rows)
    options = ReadOptions()
    pairs = [p for p in (read_row(row, columns, options) for row in rows) if isinstance(p, Pair)]
    share = len(pairs) / len(rows) if rows else 0.0
    evidence = ["columns known by name" if trust > _LAST_WORD else "names that fit" if trust > _GUESS else _GUESSED]
    evidence.append(f"{share:.0%} of {len(rows)} sampled rows can be read")
    # A column that others fill in part is no worse for it: empty rows are dropped and counted.
    confidence = trust * min(1.0, 0.4 + 0.6 * share) if pairs else 0.0
    if len(pairs) >= 10 and columns.kind in ("question_answer", "instruction"):
        confidence *= _content(pairs, evidence)
    return Reading(_label(roles), dict(roles), columns.kind, round(confidence, 3), tuple(evidence))


def _content(pairs: Sequence[Pair], evidence: list[str]) -> float:
    """A factor for what questions and answers look like."""
    factor = 1.0
    different = len({p.key for p in pairs}) / len(pairs)
    if different <= 0.05:
        factor *= 0.3
        evidence.append("the questions are nearly all the same")
    asks = sum(bool(_ASKS.search(p.question[:2000])) for p in pairs) / len(pairs)
    if asks >= 0.5:
        evidence.append(f"{asks:.0%} of the questions ask")
    asked_back = sum(bool(re.search(r"\?\s*$", p.answer[-200:])) for p in pairs) / len(pairs)
    if asked_back > 0.6:
        factor *= 0.4
        evidence.append("the answers look like questions")
    if len({p.answer for p in pairs}) / len(pairs) <= 0.05:
        factor *= 0.6
        evidence.append("the answers are a handful of labels")
    return factor


def _label(roles: Mapping[str, str]) -> str:
    """A reading in words, such as "input → output"."""
    if "messages" in roles:
        return f"conversations in '{roles['messages']}'"
    if _is_choice(roles):
        extra = f", explanation in '{roles['explanation']}'" if "explanation" in roles else ""
        return f"multiple choice: '{roles['question']}' → '{roles['correct']}'{extra}"
    if "text" in roles:
        return f"'{roles['title']}' → plain text in '{roles['text']}'" if "title" in roles else f"plain text in '{roles['text']}'"
    if "term" in roles:
        return f"what is meant by '{roles['term']}' → '{roles['meaning']}'"
    if "instruction" in roles:
        given = f" with '{roles['input']}'" if "input" in roles else ""
        return f"'{roles['instruction']}'{given} → '{roles['answer']}'"
    return f"'{roles['question']}' → '{roles['answer']}'"


def _explicit(mapping: Mapping[str, str], rows: Sequence[Mapping[str, Any]], columns: Sequence[str],
              title: str) -> ColumnMap:
    present = ", ".join(str(c)[:60] for c in columns[:30])
    for role, column in mapping.items():
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            raise DataError(f"'{role}' is not a part of an example."
                            + (f" Did you mean '{near[0]}'?" if near else ""),
                            "Write for example --set datasets.0.mapping='{question: COLUMN, answer: COLUMN}'.")
        if role == "counts_from":
            if column not in ("0", "1"):
                raise DataError(f"counts_from is '{column}', but the right options count from 0 or from 1.",
                                "Write counts_from: '0' or counts_from: '1'.")
        elif column not in columns:
            raise DataError(f"{title} has no column '{column}' for {role}.", f"Its columns are: {present}.")
    is_choice = _is_choice(mapping)
    if not {"messages", "question", "term", "text", "" if is_choice else "instruction"} & set(mapping):
        raise DataError("The mapping names no column for the question.", f"The columns are: {present}.")
    needed = "meaning" if "term" in mapping else "answer"
    if not is_choice and not {"messages", "text", needed} & set(mapping):
        raise DataError(f"The mapping names no column for the {needed}.", f"The columns are: {present}.")
    return _complete(dict(mapping), rows, 1.0, ("said by hand",))


def _is_choice(roles: Mapping[str, str]) -> bool:
    return "correct" in roles and any(r.startswith("option") for r in roles)


def _complete(roles: dict[str, str], rows: Sequence[Mapping[str, Any]], confidence: float = 1.0,
              evidence: tuple[str, ...] = ()) -> ColumnMap:
    """Roles with what has to be found out from the rows."""
    how: dict[str, Any] = {"confidence": confidence, "evidence": evidence}
    if "messages" in roles:
        return ColumnMap("messages", roles, **how)
    if _is_choice(roles):
        base, found = choice.index_base(rows, roles)
        if "counts_from" in roles:
            base, found = int(roles["counts_from"]), f"The right option counts from {roles['counts_from']}, as said by hand."
        return ColumnMap("multiple_choice", roles, index_base=base, notes=(found,) if found else (), **how)
    if "instruction" in roles:
        constant, note = _is_constant(rows, roles)
        return ColumnMap("instruction", roles, constant_instruction=constant, notes=(note,) if note else (), **how)
    if "term" in roles:
        return ColumnMap("term", roles, **how)
    if "text" in roles:
        note = "Plain text: a title is the question and its text the answer; without one, the first sentence is the " \
            "question and the rest the answer."
        return ColumnMap("text", roles, notes=(note,), **how)
    return ColumnMap("question_answer", roles, **how)


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
