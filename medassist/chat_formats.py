"""How the best known chat models were published to be asked: our own statement of each family's form.

A tokenizer brings its own chat template, and that is what training and chat use. These forms are what the
template is held against when such a model is loaded: a mirror of a model, or a file edited by hand, can
carry another one, and a model asked in a form that it was not trained on answers worse without any error.
Knows no tokenizer but by its interface, and nothing of training.

    python -m medassist data preview --base tinyllama-1.1b-chat
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

# Llama 3.1's own default. Llama 3.2 writes the day on which it is asked, so that a model would be trained on one
# prompt and asked with another; both take `date_string` from whoever renders, and always get this one.
DATE_STRING = "26 Jul 2024"
_SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@dataclass(frozen=True)
class Family:
    """One published form. `render` gives every text that was ever published for a conversation, the newest first."""

    name: str
    names: str  # regular expression on the last part of the model's id, in small letters
    source: str
    first: str  # the token that a prompt begins with, written by the template or by the tokenizer; may be empty
    render: Callable[[Sequence[Message]], tuple[str, ...]]
    has_system: bool = True  # False: the published template refuses a system prompt, or did so once


def _fold(messages: Sequence[Message], into: int = 0) -> list[Message]:
    """The system prompt before a question (the first, or with -1 the last), an empty line between them."""
    if messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    place = into % len(rest)
    folded = {"role": "user", "content": f"{system['content']}\n\n{rest[place]['content']}"}
    return [*rest[:place], folded, *rest[place + 1:]]


def _gemma(messages: Sequence[Message]) -> tuple[str, ...]:
    turns = (f"<start_of_turn>{'model' if m['role'] == 'assistant' else 'user'}\n{m['content'].strip()}<end_of_turn>\n"
             for m in _fold(messages))
    return ("<bos>" + "".join(turns) + "<start_of_turn>model\n",)


def _llama_2(messages: Sequence[Message]) -> tuple[str, ...]:
    turns = list(messages)
    if turns[0]["role"] == "system":
        system, first, *rest = turns
        turns = [{"role": "user", "content": f"<<SYS>>\n{system['content']}\n<</SYS>>\n\n{first['content']}"}, *rest]
    return ("".join(f" {m['content'].strip()} </s>" if m["role"] == "assistant"
                    else f"<s>[INST] {m['content'].strip()} [/INST]" for m in turns),)


def _llama_3_turns(messages: Sequence[Message]) -> str:
    turns = "".join(f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content'].strip()}<|eot_id|>"
                    for m in messages)
    return f"<|begin_of_text|>{turns}<|start_header_id|>assistant<|end_header_id|>\n\n"


def _llama_3(messages: Sequence[Message]) -> tuple[str, ...]:
    return (_llama_3_turns(messages),)


def _llama_3_dated(messages: Sequence[Message]) -> tuple[str, ...]:
    """The system turn is always there and opens with two dates."""
    asked = messages[0]["role"] == "system"
    system = messages[0]["content"].strip() if asked else ""
    dated = f"Cutting Knowledge Date: December 2023\nToday Date: {DATE_STRING}\n\n{system}"
    text = _llama_3_turns([{"role": "system", "content": "\0"}, *messages[asked:]])
    return (text.replace("\0", dated, 1),)  # put in afterwards: its empty lines are kept where no prompt follows


def _mistral_turns(messages: Sequence[Message], ask: str, answer: str) -> str:
    return "<s>" + "".join((answer if m["role"] == "assistant" else ask).format(m["content"]) for m in messages)


def _mistral_1(messages: Sequence[Message]) -> tuple[str, ...]:
    folded = _fold(messages)
    return (_mistral_turns(folded, " [INST] {} [/INST]", " {}</s>"),
            _mistral_turns(folded, "[INST] {} [/INST]", "{}</s>"),  # v0.2 until 2024
            _mistral_turns(folded, "[INST] {} [/INST]", "{}</s> "))  # v0.1 until 2024


def _mistral_3(messages: Sequence[Message]) -> tuple[str, ...]:
    """The system prompt stands before the last question, not the first, and moves on with the conversation."""
    return (_mistral_turns(_fold(messages, -1), "[INST] {}[/INST]", " {}</s>"),)


def _chatml(messages: Sequence[Message]) -> tuple[str, ...]:
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return (turns + "<|im_start|>assistant\n",)


def _smollm_2(messages: Sequence[Message]) -> tuple[str, ...]:
    """ChatML; a conversation without a system prompt gets one that names the model."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": _SMOLLM2_SYSTEM}, *messages]
    return _chatml(messages)


def _zephyr(messages: Sequence[Message]) -> tuple[str, ...]:
    return ("".join(f"<|{m['role']}|>\n{m['content']}</s>\n" for m in messages) + "<|assistant|>\n",)


FAMILIES = (
    Family("Gemma", r"(med)?gemma-((1\.1|2|3)-)?\d+[bm]-it",
           "ai.google.dev/gemma/docs/core/prompt-structure; chat_template of google/gemma-1.1-7b-it. The answer's role "
           "is called model; there is no system role (Gemma 3's template puts it before the first question itself).",
           "<bos>", _gemma, has_system=False),
    Family("Llama 2 Chat", r"llama-2-\d+b-chat",
           "chat_template of meta-llama/Llama-2-7b-chat-hf; each question begins anew with <s>.", "<s>", _llama_2),
    Family("Llama 3.1 and 3.2 Instruct", r"llama-3\.[12]-\d+b-instruct",
           "chat_template of meta-llama/Llama-3.1-8B-Instruct (date_string 26 Jul 2024 unless given) and "
           "Llama-3.2-1B-Instruct (today unless given).", "<|begin_of_text|>", _llama_3_dated),
    Family("Llama 3 Instruct", r"llama-3-\d+b-instruct",
           "llama.com, prompt formats of Meta Llama 3; chat_template of meta-llama/Meta-Llama-3-8B-Instruct.",
           "<|begin_of_text|>", _llama_3),
    Family("Mistral Instruct v0.3", r"mistral-7b-instruct-v0\.3",
           "docs.mistral.ai, Tokenization, Tokenizer V3; chat_template of mistralai/Mistral-7B-Instruct-v0.3.", "<s>",
           _mistral_3, has_system=False),
    Family("Mistral Instruct v0.1 and v0.2", r"mistral-7b-instruct-v0\.[12]",
           "docs.mistral.ai, Tokenization, Tokenizer V1; the templates before that form wrote fewer spaces and refused "
           "a system prompt.", "<s>", _mistral_1, has_system=False),
    Family("SmolLM2 Instruct", r"smollm2-[\d.]+[bm]-instruct",
           "chat_template of HuggingFaceTB/SmolLM2-135M-Instruct; its default system prompt stands in it.", "",
           _smollm_2),
    Family("SmolLM Instruct", r"smollm-[\d.]+[bm]-instruct",
           "model card of HuggingFaceTB/SmolLM-135M-Instruct: ChatML without a default system prompt.", "", _chatml),
    Family("TinyLlama Chat v1.0", r"tinyllama-1\.1b-chat(-v1\.0)?(?!-v0)",
           "model card of TinyLlama/TinyLlama-1.1B-Chat-v1.0: Zephyr's form; the tokenizer adds <s>.", "<s>", _zephyr),
)

_ASK = {"role": "user", "content": "What does insulin do?"}
_TALK = (_ASK, {"role": "assistant", "content": "It lowers blood glucose."}, {"role": "user", "content": "How?"})
_SYSTEM = {"role": "system", "content": "Be brief."}
_CASES = (("one question", (_ASK,)), ("several turns", _TALK), ("a system prompt", (_SYSTEM, _ASK)))


def find_family(base_id: str) -> Family | None:
    """The family of a base model, by its Hub id, its name in the catalogue, or its folder's name."""
    last = base_id.replace("\\", "/").rstrip("/").rpartition("/")[2].lower().removeprefix("meta-")
    return next((f for f in FAMILIES if re.match(f.names + r"(?![\w.])", last)), None)


def check_template(base_id: str, tokenizer: Any) -> str | None:
    """One sentence where a tokenizer's own template does not write its family's published form; else None."""
    family = find_family(base_id)
    if family is None:
        return None
    if not getattr(tokenizer, "chat_template", None):
        return (f"{base_id} comes without the chat template of {family.name}, so questions are asked in a plain form "
                "that it was not made for.")
    for what, messages in _CASES:
        problem = _compare(family, tokenizer, messages, what)
        if problem:
            return (f"The chat template of {base_id} is not the one published for {family.name}: "
                    f"with {what} it {problem}.")
    return None


def _compare(family: Family, tokenizer: Any, messages: Sequence[Message], what: str) -> str:
    """What is wrong with the text that the template writes; empty where it is one that was published."""
    try:
        text = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True,
                                             date_string=DATE_STRING)
    except Exception:  # jinja's and the templates' own errors have no common type
        return "" if what == "a system prompt" and not family.has_system else "refuses to write anything"
    if family.first and not text.startswith(family.first) and not _adds_first(tokenizer, family.first):
        return f"does not begin with {family.first}"
    known = [t.removeprefix(family.first) for t in family.render(messages)]
    text = text.removeprefix(family.first)
    if text in known:
        return ""
    at = next((i for i, (a, b) in enumerate(zip(text, known[0])) if a != b), min(len(text), len(known[0])))
    shown = [repr(t[max(0, at - 8):at + 24]) for t in (text, known[0])]
    return f"writes {shown[0]} where {shown[1]} is expected"


def _adds_first(tokenizer: Any, first: str) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.convert_tokens_to_ids(first)
