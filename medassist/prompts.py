"""The one renderer of chat text, used by training and by generation alike.

What the model is trained on and what it sees in chat come from `render_prompt`; the text that the
loss falls on (the answer and its end of turn, nothing behind it) comes from `render_completion`. Of a
conversation every answer is trained on, each behind the very ids that chat would give the model there.
This module knows tokenizers by their interface only; it loads no model and no library.

    python -m medassist data preview --recipe quick
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

from medassist.chat_formats import DATE_STRING
from medassist.errors import ModelError

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
PromptFormat = Literal["chat", "question_answer", "alpaca"]

NOT_IN_SOURCES = "The sources do not say."  # the answer to a grounded question whose passages hold none
_ALPACA_LEAD = ("Below is a question about medicine. "
                "Write a response that answers it correctly and completely.")
_LEAST_ANSWER = 8  # tokens: with room for less, an answer is not trained on (unless it is shorter)
_SLACK = 16  # characters more than fit: decoding may drop some, and a sentence's end is seen by what follows

# A sentence's end: its mark with closing quotes behind it, then white space and no small letter (`e.g. aspirin`).
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[^\sa-z])|[。！？]+[”’」』）]*")
_NO_SENTENCE = re.compile(r"(?<!\w)(?:Drs?|Mrs?|Ms|Prof|St|Fig|vs|cf|approx|e\.g|i\.e)\.$|\n\s*\d+\.$")  # `2. Rest`


@dataclass(frozen=True)
class EncodedExample:
    """One training sequence as token ids; the loss falls on the tokens of `spans`, answers with their end of turn."""

    input_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]  # start and end (not included) of each answer, in order
    cut: bool  # whether an answer was cut, or later exchanges left out, at max_length

    @property
    def labels(self) -> tuple[int, ...]:
        """The ids with -100 (ignored by the loss) in place of all that is not an answer's."""
        labels = [-100] * len(self.input_ids)
        for start, end in self.spans:
            labels[start:end] = self.input_ids[start:end]
        return tuple(labels)

    @property
    def trained_tokens(self) -> int:
        return sum(end - start for start, end in self.spans)


@dataclass
class _Traits:
    """What is asked of a tokenizer for every row; asked once, since large vocabularies answer slowly."""

    special: tuple[str, ...]
    special_starts: frozenset[str]  # first characters; text with none of them holds no special token
    first: int | None  # id that the tokenizer puts before every text
    system_role: dict[str, bool] = field(default_factory=dict)  # chat template → whether it has one


_TRAITS: WeakKeyDictionary[Any, _Traits] = WeakKeyDictionary()


def _traits(tokenizer: Any) -> _Traits:
    found = _TRAITS.get(tokenizer)
    if found is None:
        special = [t for t in getattr(tokenizer, "all_special_tokens", ()) if len(t) > 1]
        # Runs of white space, which some vocabularies add too, are no one's to forge.
        special += [t for t in map(str, getattr(tokenizer, "added_tokens_encoder", ())) if len(t.strip("▁ \t\n\r")) > 2]
        special = list(dict.fromkeys(special))
        found = _TRAITS[tokenizer] = _Traits(tuple(special), frozenset(t[0] for t in special), _first_id(tokenizer))
    return found


def _first_id(tokenizer: Any) -> int | None:
    """The id that a text begins with by itself. Llama 3's tokenizer adds it without saying so in an attribute."""
    first = tokenizer.bos_token_id
    if first is None or getattr(tokenizer, "add_bos_token", False):
        return first
    return first if list(tokenizer("a")["input_ids"][:1]) == [first] else None


def build_messages(question: str, system_prompt: str | None = None,
                   history: Sequence[Message] = ()) -> list[dict[str, str]]:
    """A conversation that ends with the question. Roles other than user and assistant are dropped."""
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages += [{"role": m["role"], "content": m["content"]} for m in history
                 if m.get("role") in ("user", "assistant") and m.get("content")]
    return [*messages, {"role": "user", "content": question}]


def render_grounded(question: str, passages: Sequence[str]) -> str:
    """The user's turn that asks for an answer from given passages: numbered from 1, then the question.

    The exercises of `maintain mini` are made with it, so it must not change: a passage in one line each. The answer
    trained there is in a passage's words with its number behind it (`… [2]`), or `NOT_IN_SOURCES`. Without passages it is the question.

    Args:
        passages: three as a rule, of up to 80 words each.
    """
    asked = " ".join(question.split())
    numbered = [f"[{n}] {' '.join(p.split())}" for n, p in enumerate(passages, 1)]
    return "\n".join(["Sources:", *numbered, "", f"Question: {asked}"]) if numbered else asked


def history_messages(history: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Earlier (question, answer) exchanges as messages; one without a question or an answer is left out."""
    return [{"role": role, "content": text} for asked, answered in history if asked.strip() and answered.strip()
            for role, text in (("user", asked), ("assistant", answered.strip()))]


def choose_format(tokenizer: Any, wanted: PromptFormat) -> PromptFormat:
    """`wanted`, but plain question and answer for a tokenizer without a chat template."""
    if wanted == "chat" and not getattr(tokenizer, "chat_template", None):
        return "question_answer"
    return wanted


def render_prompt(tokenizer: Any, messages: Sequence[Message], prompt_format: PromptFormat = "chat") -> str:
    """The text before the answer, up to where the assistant begins to speak.

    Raises:
        ModelError: the tokenizer's chat template refuses the conversation.
    """
    messages = _without_special_tokens(tokenizer, messages)
    wanted = choose_format(tokenizer, prompt_format)
    if wanted == "chat":
        return _apply_template(tokenizer, messages, generate=True)
    return _render_plain(messages, wanted, tokenizer.eos_token or "")


def _without_special_tokens(tokenizer: Any, messages: Sequence[Message]) -> list[dict[str, str]]:
    """Takes the tokenizer's special tokens out of what people wrote: nobody types the end of a turn."""
    traits = _traits(tokenizer)
    return [{"role": m["role"], "content": _remove(m["content"], traits)} for m in messages]


def _remove(content: str, traits: _Traits) -> str:
    # Taking one out may join another out of its halves, so look again until nothing changes.
    for _ in range(8):
        before = content
        if traits.special_starts.isdisjoint(content):
            return content
        for token in traits.special:
            content = content.replace(token, "")
        if content == before:
            return content
    # Nested deeper than by accident: without its first characters none is left.
    return "".join(c for c in content if c not in traits.special_starts)


def render_completion(tokenizer: Any, messages: Sequence[Message], answer: str,
                      prompt_format: PromptFormat = "chat") -> str:
    """The text that is trained on: the answer and its end-of-turn token.

    Chat templates may write white space behind the end-of-turn token (ChatML a line break); the model
    has stopped by then, so it is left out. A template without an end of turn gets the tokenizer's own
    end token.
    """
    end = tokenizer.eos_token or ""
    *messages, reply = _without_special_tokens(tokenizer, [*messages, {"role": "assistant", "content": answer}])
    answer = reply["content"].strip()
    if choose_format(tokenizer, prompt_format) != "chat":
        return answer + end
    prompt = _apply_template(tokenizer, messages, generate=True)
    whole = _apply_template(tokenizer, [*messages, {"role": "assistant", "content": answer}], generate=False)
    if whole.startswith(prompt):
        return _close(whole[len(prompt):], answer, tokenizer)
    # Some templates open the assistant's turn only when asked to generate (an empty thought, say), or write an
    # earlier turn in another way. The answer then follows the prompt that chat uses, with the spaces before it
    # and the end of turn that the template writes.
    at = whole.rfind(answer)
    if at < 0:
        return answer + end
    while not prompt[-1:].isspace() and whole[at - 1:at] == " ":
        at -= 1
    return _close(whole[at:], answer, tokenizer)


def _close(completion: str, answer: str, tokenizer: Any) -> str:
    """A completion up to the end of its turn: behind it the model has stopped, whatever the template writes there."""
    at = completion.rfind(answer) + len(answer) if answer and answer in completion else 0
    text, tail = completion[:at], completion[at:]
    ends = [place + len(t) for t in _traits(tokenizer).special if (place := tail.find(t)) >= 0]
    if ends:
        return text + tail[:min(ends)]
    return text + (tail.rstrip() or tokenizer.eos_token or "")


def _apply_template(tokenizer: Any, messages: Sequence[Message], generate: bool) -> str:
    try:
        return tokenizer.apply_chat_template(_fit_roles(tokenizer, messages), tokenize=False,
                                             add_generation_prompt=generate, enable_thinking=False,
                                             date_string=DATE_STRING)
    except Exception as error:  # jinja's and the templates' own errors have no common type
        raise ModelError(f"The base model's chat template refuses this conversation: {error!s:.200}.",
                         "Use data.prompt_format=question_answer.") from error


def _fit_roles(tokenizer: Any, messages: Sequence[Message]) -> list[dict[str, str]]:
    """Puts the system prompt before the first question where the template has no system role (Gemma, Mistral)."""
    plain = [dict(m) for m in messages]
    if not plain or plain[0]["role"] != "system" or _has_system_role(tokenizer):
        return plain
    system, first, *rest = plain
    return [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def _has_system_role(tokenizer: Any) -> bool:
    known, template = _traits(tokenizer).system_role, str(tokenizer.chat_template)
    if template not in known:
        known[template] = _writes_system(tokenizer)
    return known[template]


def _writes_system(tokenizer: Any) -> bool:
    probe = "medassist-system-probe"
    try:
        text = tokenizer.apply_chat_template([{"role": "system", "content": probe}, {"role": "user", "content": "?"}],
                                             tokenize=False, add_generation_prompt=True)
    except Exception:  # a template that has no system role says so by raising
        return False
    return probe in text


def _render_plain(messages: Sequence[Message], prompt_format: PromptFormat, end: str) -> str:
    """Conversations under ### headings, each earlier answer closed by the end token."""
    ask, reply = ("### Instruction:", "### Response:") if prompt_format == "alpaca" else ("### Question:", "### Answer:")
    parts = [_ALPACA_LEAD] if prompt_format == "alpaca" and messages[0]["role"] != "system" else []
    for message in messages:
        content = message["content"].strip()
        if message["role"] == "system":
            parts.append(content)
        elif message["role"] == "user":
            parts.append(f"{ask}\n{content}")
        else:
            parts.append(f"{reply}\n{content}{end}")
    return "\n\n".join([*parts, f"{reply}\n"])


def encode_prompt(tokenizer: Any, messages: Sequence[Message], prompt_format: PromptFormat = "chat") -> list[int]:
    """Token ids of the prompt. Chat templates write their own first token; plain formats get the tokenizer's."""
    return _ids(tokenizer, render_prompt(tokenizer, messages, prompt_format))


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    first = _traits(tokenizer).first
    return [first, *ids] if first is not None and ids[:1] != [first] else ids


def encode_example(tokenizer: Any, question: str, answer: str, *, history: Sequence[tuple[str, str]] = (),
                   max_length: int, system_prompt: str | None = None,
                   prompt_format: PromptFormat = "chat") -> EncodedExample | None:
    """One answer as ids, given its question and what went before, cut to `max_length` tokens.

    The prompt's ids are the very ones that chat gives the model.

    Returns:
        The ids, or None if fewer than 8 tokens of answer would be left (or the whole answer, if shorter).
    """
    messages = build_messages(question, system_prompt, history_messages(history))
    turn = _encode_turn(tokenizer, messages, answer, max_length, prompt_format)
    return None if turn is None else turn.alone()


def encode_conversation(tokenizer: Any, question: str, answer: str, *, history: Sequence[tuple[str, str]] = (),
                        max_length: int, system_prompt: str | None = None,
                        prompt_format: PromptFormat = "chat") -> list[EncodedExample]:
    """A conversation as what is trained on: every answer, each behind the ids that chat gives the model there.

    One sequence with a span an answer where each prompt goes on from the one before. Some templates write
    earlier turns in another way than the newest (without their thoughts, or the system prompt elsewhere): an
    answer whose prompt does not go on begins a sequence of its own, with what went before to read only.
    Exchanges that do not fit into `max_length` are left out; the one that straddles it is cut.

    Returns:
        No sequence where even the first answer has no room; see `encode_example`.
    """
    turns = [(q, a) for q, a in history if q.strip() and a.strip()] + [(question, answer)]
    found: list[EncodedExample] = []
    for number, (asked, answered) in enumerate(turns):
        messages = build_messages(asked, system_prompt, history_messages(turns[:number]))
        turn = _encode_turn(tokenizer, messages, answered, max_length, prompt_format)
        if turn is None:
            return [*found[:-1], _marked_cut(found[-1])] if found else []
        if found and turn.goes_on_from(found[-1]):
            found[-1] = turn.joined(found[-1])
        else:
            found.append(turn.alone())
        if turn.cut:
            break
    return found


def _marked_cut(example: EncodedExample) -> EncodedExample:
    return EncodedExample(example.input_ids, example.spans, True)


@dataclass(frozen=True)
class _Turn:
    """One answer as ids, and those of its prompt."""

    prompt: list[int]
    completion: list[int]
    cut: bool

    def alone(self) -> EncodedExample:
        ids = (*self.prompt, *self.completion)
        return EncodedExample(ids, ((len(self.prompt), len(ids)),), self.cut)

    def goes_on_from(self, earlier: EncodedExample) -> bool:
        return tuple(self.prompt[:len(earlier.input_ids)]) == earlier.input_ids

    def joined(self, earlier: EncodedExample) -> EncodedExample:
        own = self.alone()
        return EncodedExample(own.input_ids, earlier.spans + own.spans, self.cut)


def _encode_turn(tokenizer: Any, messages: Sequence[Message], answer: str, max_length: int,
                 prompt_format: PromptFormat) -> _Turn | None:
    """The answer to `messages`, cut to what fits; None where the prompt leaves no room for one."""
    prompt = render_prompt(tokenizer, messages, prompt_format)
    prompt_ids = _ids(tokenizer, prompt)
    room = max_length - len(prompt_ids)
    if room < 1:
        return None

    def encode(text: str) -> list[int]:
        completion = render_completion(tokenizer, messages, text, prompt_format)
        return _completion_ids(tokenizer, prompt, prompt_ids, completion)

    ids = encode(answer)
    if len(ids) <= room:
        return _Turn(prompt_ids, ids, False)
    if room < _LEAST_ANSWER:
        return None
    answer = _remove(answer, _traits(tokenizer)).strip()
    longest = len(tokenizer.decode(ids[:room])) + _SLACK
    return _Turn(prompt_ids, _cut_at_sentence(encode, answer[:longest], room) or ids[:room], True)


def _completion_ids(tokenizer: Any, prompt: str, prompt_ids: list[int], completion: str) -> list[int]:
    """Text is tokenised whole; only where the join falls inside a token are prompt and completion tokenised apart."""
    whole = _ids(tokenizer, prompt + completion)
    if whole[:len(prompt_ids)] == prompt_ids:
        return whole[len(prompt_ids):]
    return list(tokenizer(completion, add_special_tokens=False)["input_ids"])


def _cut_at_sentence(encode: Callable[[str], list[int]], answer: str, room: int) -> list[int]:
    """Ids of the answer up to the last sentence end that fits, its end of turn behind it.

    Args:
        answer: not much longer than fits, so that one or two tries are enough.

    Returns:
        The ids; empty where they would leave more than half of the room unused.
    """
    for end in reversed(sentence_ends(answer)):
        ids = encode(answer[:end])
        if len(ids) <= room:
            return ids if 2 * len(ids) >= room else []
    return []


def sentence_ends(text: str) -> list[int]:
    """Where sentences end inside a text, in characters; abbreviations and the numbers of a list are none."""
    return [m.end() for m in _SENTENCE_END.finditer(text)
            if not _NO_SENTENCE.search(text[max(0, m.end() - 16):m.end()])]


def stop_token_ids(tokenizer: Any, generation_config: Any = None, prompt_format: PromptFormat = "chat") -> list[int]:
    """Ids that end an answer: the model's own, the tokenizer's, and the one that training puts behind an answer."""
    found: list[int] = []
    own = getattr(generation_config, "eos_token_id", None)
    for value in (own if isinstance(own, (list, tuple)) else [own]):
        if value is not None:
            found.append(int(value))
    if tokenizer.eos_token_id is not None:
        found.append(int(tokenizer.eos_token_id))
    encoded = encode_example(tokenizer, "?", "x", max_length=4096, prompt_format=prompt_format)
    if encoded is not None and encoded.input_ids[-1] in set(getattr(tokenizer, "all_special_ids", ())):
        found.append(encoded.input_ids[-1])
    return sorted(set(found))


