"""One turn of a conversation: red flags, gate, model, in this order and by this road alone.

`Assistant.stream` is Chat's only way to a model; `Assistant.stream_pair` is Compare's way for a question
that a person typed. Knows nothing of pages; what it yields is plain values.

    python -m medassist chat --question "What does insulin do?"
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medassist import adapters, prompts
from medassist.errors import UsageError
from medassist.gate import GREETING_MESSAGE, OUT_OF_SCOPE_MESSAGE, Gate, GateDecision, read_terms
from medassist.generation import Answer, Ask, Engine, Sampling
from medassist.safety import Escalation, check_red_flags, professional_line, render_escalation

MAX_QUESTION_CHARS = 8_000
MAX_HISTORY = 24  # messages looked at
_KEPT_PAIRS = 3  # earlier question-answer pairs that the model sees


@dataclass(frozen=True)
class Reply:
    """One turn as far as it has come. `text` grows; `done` is true once."""

    route: str  # answer | greeting | emergency | out_of_scope
    text: str
    decision: GateDecision
    escalation: Escalation | None = None
    adapter: str | None = None
    note: str = ""  # a line above the answer: the question is about an emergency
    after: str = ""  # a line below the answer: see a professional
    tokens: int = 0
    first_token_s: float | None = None
    elapsed_s: float = 0.0
    done: bool = False

    @property
    def full_text(self) -> str:
        """The text with the lines that belong to it."""
        return "\n\n".join(part for part in (self.note, self.text, self.after) if part)

    def to_json(self) -> dict[str, Any]:
        return {"route": self.route, "answer": self.full_text, "adapter": self.adapter, "sources": [],
                "gate": self.decision.to_json(), "elapsed_s": round(self.elapsed_s, 3)}


@dataclass(frozen=True)
class Pair:
    """Base and fine-tuned answers to one question, as far as they have come."""

    base: Answer
    tuned: Answer
    decision: GateDecision
    escalation: Escalation | None = None
    refused: bool = False  # the gate holds (a public Space): no model was asked
    done: bool = False


def check_question(text: Any) -> str:
    """The question without surrounding space.

    Raises:
        UsageError: it is empty, not text, or longer than MAX_QUESTION_CHARS.
    """
    question = text.strip() if isinstance(text, str) else ""
    if not question:
        raise UsageError("There is no question.", "Type one and send it.")
    if len(question) > MAX_QUESTION_CHARS:
        raise UsageError(f"The question is {len(question):,} characters long; {MAX_QUESTION_CHARS:,} are allowed.",
                         "Shorten it.")
    return question


def clean_history(history: Sequence[Any]) -> list[dict[str, str]]:
    """The last messages of user and assistant as plain text; forged roles and other shapes are dropped."""
    cleaned = []
    for message in list(history)[-MAX_HISTORY:]:
        if not isinstance(message, Mapping) or message.get("role") not in ("user", "assistant"):
            continue
        content = message.get("content")
        if isinstance(content, list):  # the page's own shape: parts with a text
            content = "\n".join(p["text"] for p in content
                                if isinstance(p, Mapping) and isinstance(p.get("text"), str))
        if isinstance(content, str) and content.strip():
            cleaned.append({"role": message["role"], "content": content[:MAX_QUESTION_CHARS]})
    return cleaned


class Assistant:
    """The medical assistant: a gate in front of an engine."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self.engine = engine
        self.gate = gate

    def stream(self, question: str, history: Sequence[Any] = (), *, adapter: str | None = None,
               base: str | None = None, sampling: Sampling = Sampling(), cancel: threading.Event | None = None,
               catalogue_only: bool = False, strictness: str | None = None) -> Iterator[Reply]:
        """Yields the reply to a question, growing; the last one is done.

        Args:
            strictness: of the gate, one of `gate.STRICTNESS`; None for the assistant's own.
            history: earlier messages {role, content}; not trusted (see `clean_history`).
            adapter: a run's name, or None for the base model itself.
        """
        started = time.monotonic()
        question, earlier = check_question(question), clean_history(history)
        gate = self.gate_for(adapter, strictness)
        decision = gate.check(question, earlier)
        reply = Reply(decision.route, "", decision, decision.escalation, adapter)
        if decision.route != "answer":
            yield replace(reply, text=_fixed_text(decision), done=True, elapsed_s=time.monotonic() - started)
            return
        reply = replace(reply, note=decision.escalation.note if decision.escalation else "",
                        after=professional_line(question) or "")
        ask = self._ask(question, self._accepted(earlier, gate), adapter)
        for (answer,) in self.engine.stream([ask], sampling, base=base, cancel=cancel, catalogue_only=catalogue_only):
            reply = replace(reply, text=answer.text, tokens=answer.tokens, first_token_s=answer.first_token_s,
                            elapsed_s=time.monotonic() - started)
            yield reply
        text = reply.text or "The model gave no answer. Ask in another way, or choose another adapter."
        yield replace(reply, text=text, done=True, elapsed_s=time.monotonic() - started)

    def stream_pair(self, question: str, *, adapter: str, sampling: Sampling = Sampling(),
                    cancel: threading.Event | None = None, gate_holds: bool = False,
                    typed: bool = True, earlier: Sequence[tuple[str, str]] = ()) -> Iterator[Pair]:
        """Yields base and fine-tuned answers to one question, growing side by side.

        Args:
            gate_holds: off-topic questions are refused, as on a public Space; else they are only marked.
            typed: a person wrote the question, so red flags come first. Held-out questions pass neither.
            earlier: what was asked and answered before it, where a held-out question ends a conversation.
        """
        question = check_question(question)
        before = prompts.history_messages(earlier)
        decision = self.gate.check(question, before)
        # Red flags stand by themselves here: an emergency must be seen whatever the gate makes of it.
        escalation = check_red_flags(question) if typed else None
        pair = Pair(Answer(), Answer(), decision, escalation)
        if escalation is not None and escalation.kind == "emergency":
            yield replace(pair, refused=True, done=True)
            return
        if typed and gate_holds and decision.route != "answer":
            yield replace(pair, refused=True, done=True)
            return
        asks = [self._ask(question, before, name, like=adapter) for name in (None, adapter)]
        for base, tuned in self.engine.stream(asks, sampling, cancel=cancel):
            pair = replace(pair, base=base, tuned=tuned)
            yield pair
        yield replace(pair, done=True)

    def _ask(self, question: str, earlier: list[dict[str, str]], adapter: str | None, like: str | None = None) -> Ask:
        """The conversation in the prompt format that the adapter was trained with."""
        name = adapter or like
        config = adapters.load_run(self.engine.root, name).config if name else None
        data = config.data if config else None
        return Ask(prompts.build_messages(question, data.system_prompt if data else None, earlier), adapter,
                   data.prompt_format if data else "chat")

    def gate_for(self, adapter: str | None, strictness: str | None = None) -> Gate:
        """The gate for chat with an adapter: with the words that it brings along, where it does.

        Raises:
            VocabularyError: there is no such strictness, or the adapter's vocabulary is damaged.
        """
        file = self.engine.root / adapter / adapters.VOCABULARY if adapter else None
        terms = list(read_terms(file)) if file is not None and file.is_file() else []
        if not terms and strictness in (None, self.gate.strictness):
            return self.gate
        return self.gate.with_terms(terms, strictness)

    def _accepted(self, earlier: list[dict[str, str]], gate: Gate) -> list[dict[str, str]]:
        """The last question-answer pairs that went to a model; refusals and emergency cards are left out."""
        pairs = []
        for index, (first, second) in enumerate(zip(earlier, earlier[1:])):
            if first["role"] == "user" and second["role"] == "assistant" \
                    and gate.check(first["content"], earlier[:index]).route == "answer":
                pairs.append([first, second])
        return [m for pair in pairs[-_KEPT_PAIRS:] for m in pair]


def _fixed_text(decision: GateDecision) -> str:
    if decision.route == "emergency" and decision.escalation is not None:
        return render_escalation(decision.escalation)
    return GREETING_MESSAGE if decision.route == "greeting" else OUT_OF_SCOPE_MESSAGE


def refusal_text(pair: Pair) -> str:
    """What is shown in place of two answers: what to do in an emergency, or the gate's message."""
    if pair.escalation is not None and pair.escalation.kind == "emergency":
        return render_escalation(pair.escalation)
    return _fixed_text(pair.decision)
