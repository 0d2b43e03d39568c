"""The one renderer of chat text, used by training and by generation alike.

What the model is trained on and what it sees in chat come from `render_prompt`; the text that the
loss falls on (the answer and its end of turn, nothing behind it) comes from `render_completion`.
This module knows tokenizers by their interface only; it loads no model and no library.

    python -m medassist data preview --recipe quick
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medassist.errors import ModelError

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
PromptFormat = Literal["chat", "question_answer", "alpaca"]

_ALPACA_LEAD = ("Below is a question about medicine. "
                "Write a response that answers it correctly and completely.")


@dataclass(frozen=True)
class EncodedExample:
    """One training example as token ids: `input_ids` = prompt + completion; the loss falls on the completion."""

    input_ids: tuple[int, ...]
    prompt_length: int  # tokens
    cut: bool  # whether the answer was cut at max_length

    @property
    def labels(self) -> tuple[int, ...]:
        """The ids with -100 (ignored by the loss) in place of the prompt's."""
        return (-100,) * self.prompt_length + self.input_ids[self.prompt_length:]


def build_messages(question: str, system_prompt: str | None = None,
                   history: Sequence[Message] = ()) -> list[dict[str, str]]:
    """A conversation that ends with the question. Roles other than user and assistant are dropped."""
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages += [{"role": m["role"], "content": m["content"]} for m in history
                 if m.get("role") in ("user", "assistant") and m.get("content")]
    return [*messages, {"role": "user", "content": question}]


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
    special = [t for t in getattr(tokenizer, "all_special_tokens", ()) if len(t) > 1]
    special += [str(t) for t in getattr(tokenizer, "added_tokens_encoder", ()) if len(str(t)) > 2]
    cleaned = []
    for message in messages:
        content = message["content"]
        # Taking one out may join another out of its halves, so look again until nothing changes.
        for _ in range(8):
            before = content
            for token in special:
                content = content.replace(token, "")
            if content == before:
                break
        cleaned.append({"role": message["role"], "content": content})
    return cleaned


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
    if not whole.startswith(prompt):
        # Some templates open the assistant's turn only when asked to generate (an empty thought, say).
        # The answer then follows the prompt that chat uses, with the end of turn that the template writes.
        at = whole.rfind(answer)
        completion = whole[at:] if at >= 0 else answer + end
    else:
        completion = whole[len(prompt):]
    completion = completion.rstrip()
    return completion if not completion.endswith(answer[-20:]) else completion + end


def _apply_template(tokenizer: Any, messages: Sequence[Message], generate: bool) -> str:
    try:
        return tokenizer.apply_chat_template(_fit_roles(tokenizer, messages), tokenize=False,
                                             add_generation_prompt=generate, enable_thinking=False)
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
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    first = tokenizer.bos_token_id
    wants_first = getattr(tokenizer, "add_bos_token", False) and first is not None
    return [first, *ids] if wants_first and (not ids or ids[0] != first) else list(ids)


def encode_example(tokenizer: Any, question: str, answer: str, *, max_length: int,
                   system_prompt: str | None = None, prompt_format: PromptFormat = "chat") -> EncodedExample | None:
    """One example as ids, cut to `max_length` tokens; None where the prompt leaves no room for an answer.

    The prompt's ids are the very ones that chat gives the model. Text is tokenised whole, and only
    where the join falls inside a token are prompt and completion tokenised apart.

    Returns:
        The ids, or None if fewer than 8 tokens of answer would be left (or the whole answer, if shorter).
    """
    messages = build_messages(question, system_prompt)
    prompt = render_prompt(tokenizer, messages, prompt_format)
    completion = render_completion(tokenizer, messages, answer, prompt_format)
    prompt_ids, whole_ids = _ids(tokenizer, prompt), _ids(tokenizer, prompt + completion)
    if whole_ids[:len(prompt_ids)] == prompt_ids:
        completion_ids = whole_ids[len(prompt_ids):]
    else:
        completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    room = max_length - len(prompt_ids)
    if room < min(8, len(completion_ids)):
        return None
    return EncodedExample(tuple(prompt_ids) + tuple(completion_ids[:room]), len(prompt_ids), len(completion_ids) > room)


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


