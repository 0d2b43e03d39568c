"""What will be trained on, before anything runs: examples as the tokenizer cuts them, trained tokens marked.

Loads a tokenizer, never a model.

    python -m medassist data preview --recipe quick
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from medassist import models, prompts
from medassist.config import RunConfig
from medassist.data import Example, PreparedData


@dataclass(frozen=True)
class RenderedExample:
    """One example as text: what the model reads, and what it is trained to write."""

    number: int  # from 1, in its split
    question: str
    answer: str
    prompt_text: str
    trained_text: str
    tokens: int
    trained_tokens: int
    cut: bool

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def to_text(self) -> str:
        cut = " (cut)" if self.cut else ""
        return (f"── {self.number} · {self.tokens} tokens, {self.trained_tokens} trained{cut}\n"
                f"{self.prompt_text}»{self.trained_text}«")


@dataclass(frozen=True)
class TokenCount:
    """Tokens of a training split: all, trained, and how many examples are cut or too long for an answer."""

    examples: int
    tokens: int
    trained: int
    cut: int
    too_long: int


@lru_cache(maxsize=4)
def _tokenizer(base_id: str, revision: str | None) -> Any:
    return models.load_tokenizer(models.resolve_base(base_id, revision))


def _encode(config: RunConfig, example: Example) -> prompts.EncodedExample | None:
    data = config.data
    return prompts.encode_example(_tokenizer(config.base.id, config.base.revision), example.question, example.answer,
                                  max_length=data.max_length, system_prompt=data.system_prompt,
                                  prompt_format=data.prompt_format)


def preview_examples(config: RunConfig, prepared: PreparedData, count: int, start: int = 0) -> list[RenderedExample]:
    """Training examples `start` to `start + count`, rendered for the run's base model.

    Raises:
        ModelError: the base model's tokenizer cannot be loaded.
    """
    tokenizer = _tokenizer(config.base.id, config.base.revision)
    rendered = []
    for number, example in enumerate(prepared.train[start:start + count], start + 1):
        encoded = _encode(config, example)
        if encoded is None:
            continue
        ids, split = list(encoded.input_ids), encoded.prompt_length
        rendered.append(RenderedExample(
            number, example.question, example.answer, tokenizer.decode(ids[:split]), tokenizer.decode(ids[split:]),
            len(ids), len(ids) - split, encoded.cut))
    return rendered


def count_tokens(config: RunConfig, prepared: PreparedData, sample: int = 400) -> TokenCount:
    """Token figures of the training split, from up to `sample` examples evenly taken, scaled to all."""
    rows = prepared.train
    taken = rows[::max(1, len(rows) // sample)]
    encoded = [e for e in (_encode(config, r) for r in taken) if e is not None]
    scale = len(rows) / max(len(taken), 1)

    def all_of(value: float) -> int:
        return round(value * scale)

    return TokenCount(len(rows), all_of(sum(len(e.input_ids) for e in encoded)),
                      all_of(sum(len(e.input_ids) - e.prompt_length for e in encoded)),
                      all_of(sum(e.cut for e in encoded)), all_of(len(taken) - len(encoded)))
