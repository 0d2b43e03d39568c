"""What will be trained on, before anything runs: examples as the tokenizer cuts them, token figures, a time.

Loads a tokenizer, never a model.

    python -m medassist data preview --recipe quick
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from medassist import adapters, catalog, models, prompts, speed, training
from medassist.chat_formats import check_template
from medassist.config import RunConfig
from medassist.data import Example, PreparedData
from medassist.data.personal import mask_personal

Segment = tuple[str, bool]  # text, and whether it is trained on

_NO_LIMIT = 10**9  # tokens
_BETWEEN = "\n\n"  # sequences of one conversation, where its template does not let it stand in one
# The histogram's bins in parts of max_length: eight up to it, and beyond it ever wider ones.
_BINS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.5, 2.0, 4.0)
_WARN_SHARE = 1 / 3


@dataclass(frozen=True)
class RenderedExample:
    """One example as text: what the model reads, and what it is trained to write."""

    number: int  # from 1, in its split
    question: str
    answer: str
    segments: tuple[Segment, ...]  # in order; together the whole text
    tokens: int
    trained_tokens: int
    cut: bool

    @property
    def prompt_text(self) -> str:
        """The text before the first trained part."""
        return next((text for text, trained in self.segments if not trained), "")

    @property
    def trained_text(self) -> str:
        """The trained parts; for a conversation one behind the other."""
        return "".join(text for text, trained in self.segments if trained)

    def to_json(self) -> dict[str, Any]:
        segments = [{"text": text, "trained": trained} for text, trained in self.segments]
        return {**asdict(self), "segments": segments, "prompt_text": self.prompt_text,
                "trained_text": self.trained_text}

    def to_text(self) -> str:
        cut = " (cut)" if self.cut else ""
        marked = "".join(f"»{text}«" if trained else text for text, trained in self.segments)
        return f"── {self.number} · {self.tokens} tokens, {self.trained_tokens} trained{cut}\n{marked}"


@dataclass(frozen=True)
class TokenStats:
    """Token figures of a training split, from a sample of it scaled to all.

    `tokens` and `trained` are what is trained on, after cutting; lengths are those of whole sequences,
    before it, so that they show what a larger max_length would take in.
    """

    examples: int
    sequences: int  # more than examples where a template does not let a conversation stand in one
    tokens: int
    trained: int
    cut: int  # examples
    too_long: int  # examples without room for an answer: they train on nothing
    mean: float
    median: float
    p95: int
    longest: int
    histogram: tuple[tuple[int, int], ...]  # upper bound in tokens, sequences up to it
    max_length: int
    template_note: str | None = None

    @property
    def cut_share(self) -> float:
        return self.cut / max(self.examples, 1)

    @property
    def too_long_share(self) -> float:
        return self.too_long / max(self.examples, 1)

    @property
    def warning(self) -> str | None:
        """One sentence where more than a third of the examples train on nothing."""
        if self.too_long_share <= _WARN_SHARE:
            return None
        enough = -(-self.p95 // 64) * 64  # up to the next multiple of 64
        return (f"{self.too_long_share:.0%} of the questions leave no room for an answer within {self.max_length} "
                f"tokens and would train on nothing; raise data.max_length (19 in 20 examples fit into {enough}).")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cut_share": self.cut_share, "too_long_share": self.too_long_share,
                "warning": self.warning}


@dataclass(frozen=True)
class Estimate:
    """What a run will take, about."""

    steps: int  # of the optimiser
    seconds: float | None  # from Start to the verdict; None where nothing is known of the base model
    basis: str  # what the time rests on

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@lru_cache(maxsize=4)
def _tokenizer(base_id: str, revision: str | None) -> Any:
    return models.load_tokenizer(models.resolve_base(base_id, revision))


def _encode(config: RunConfig, example: Example, max_length: int) -> list[prompts.EncodedExample]:
    data = config.data
    return prompts.encode_conversation(
        _tokenizer(config.base.id, config.base.revision), example.question, example.answer, history=example.history,
        max_length=max_length, system_prompt=data.system_prompt, prompt_format=data.prompt_format)


def preview_examples(config: RunConfig, prepared: PreparedData, count: int, start: int = 0) -> list[RenderedExample]:
    """Training examples `start` to `start + count`, rendered for the run's base model.

    Raises:
        ModelError: the base model's tokenizer cannot be loaded.
    """
    rows = prepared.train
    rendered = []
    for place in range(start, min(start + count, len(rows))):
        encoded = _encode(config, rows[place], config.data.max_length)
        if encoded:
            rendered.append(_rendered(config, place + 1, rows[place], encoded))
    return rendered


def _rendered(config: RunConfig, number: int, example: Example,
              encoded: Sequence[prompts.EncodedExample]) -> RenderedExample:
    tokenizer = _tokenizer(config.base.id, config.base.revision)
    segments: list[Segment] = []
    for sequence in encoded:
        segments += [(_BETWEEN, False)] if segments else []
        segments += _segments(tokenizer, sequence)
    segments = [(mask_personal(text), trained) for text, trained in segments]  # shown, and so covered
    return RenderedExample(number, mask_personal(example.question), mask_personal(example.answer), tuple(segments),
                           sum(len(e.input_ids) for e in encoded), sum(e.trained_tokens for e in encoded),
                           any(e.cut for e in encoded))


def _segments(tokenizer: Any, encoded: prompts.EncodedExample) -> list[Segment]:
    """A sequence's text, parted where training begins and ends.

    Each part is what it adds to the text before it: decoded alone, some tokenizers drop its first space.
    """
    bounds = [0, *(b for span in encoded.spans for b in span), len(encoded.input_ids)]
    texts = [tokenizer.decode(list(encoded.input_ids[:b])) for b in bounds]
    parts = []
    for place, (start, end) in enumerate(zip(bounds, bounds[1:])):
        before, upto = texts[place], texts[place + 1]
        text = upto[len(before):] if upto.startswith(before) else tokenizer.decode(list(encoded.input_ids[start:end]))
        if text:
            parts.append((text, place % 2 == 1))
    return parts


def count_tokens(config: RunConfig, prepared: PreparedData, sample: int = 400) -> TokenStats:
    """Token figures of the training split, from up to `sample` examples taken evenly, scaled to all."""
    rows = prepared.train
    taken = min(sample, len(rows))
    whole, kept = [], []
    for place in range(taken):
        example = rows[place * len(rows) // taken]
        whole.append(_encode(config, example, _NO_LIMIT))
        fits = all(len(e.input_ids) <= config.data.max_length for e in whole[-1])
        kept.append(whole[-1] if fits else _encode(config, example, config.data.max_length))
    return _stats(config, len(rows), whole, kept)


def _stats(config: RunConfig, examples: int, whole: Sequence[list[prompts.EncodedExample]],
           kept: Sequence[list[prompts.EncodedExample]]) -> TokenStats:
    """Figures of a sample, scaled; `whole` are its examples as they are, `kept` as they are trained on."""
    scale = examples / max(len(kept), 1)

    def all_of(value: float) -> int:
        return round(value * scale)

    lengths = sorted(len(e.input_ids) for found in whole for e in found) or [0]
    sequences = [e for found in kept for e in found]
    note = None
    if config.data.prompt_format == "chat":
        note = check_template(config.base.id, _tokenizer(config.base.id, config.base.revision))
    return TokenStats(
        examples=examples, sequences=all_of(len(sequences)), tokens=all_of(sum(len(e.input_ids) for e in sequences)),
        trained=all_of(sum(e.trained_tokens for e in sequences)), cut=all_of(sum(e.cut for e in sequences)),
        too_long=all_of(sum(not found for found in kept)), mean=round(statistics.fmean(lengths), 1),
        median=statistics.median(lengths), p95=lengths[max(0, -(-len(lengths) * 95 // 100) - 1)], longest=lengths[-1],
        histogram=tuple((bound, all_of(count)) for bound, count in _histogram(lengths, config.data.max_length)),
        max_length=config.data.max_length, template_note=note)


def _histogram(lengths: Sequence[int], max_length: int) -> list[tuple[int, int]]:
    """Sequences in each bin, of twelve: upper bound (included) and count. The last holds all that is longer."""
    bounds = [round(max_length * part) for part in _BINS]
    bounds.append(max(lengths[-1], 8 * max_length))
    counts = [sum(low < n <= high for n in lengths) for low, high in zip([-1, *bounds], bounds)]
    return list(zip(bounds, counts))


def estimate(config: RunConfig, stats: TokenStats) -> Estimate:
    """Optimiser steps of a run, and about how long it takes on this machine."""
    settings = config.train
    device = models.plan_device(settings.precision, config.base.load_in_4bit, for_training=True).device
    batch = min(training.choose_batch_size(settings, device), max(stats.sequences, 1))
    steps = training.count_steps(settings, training.steps_per_epoch(stats.sequences, batch,
                                                                    settings.gradient_accumulation_steps))
    root = adapters.adapters_root()
    measured = speed.measured_rate(config.base.id, root) is not None
    if not measured and catalog.find_base(config.base.id) is None:
        return Estimate(steps, None, "No run of this base model was timed here, and its size is not known.")
    rate = speed.tokens_per_second(config.base.id, root)
    source = "as measured in an earlier run here" if measured else "reckoned from the model's size and a timed product"
    return Estimate(steps, speed.estimate_seconds(config, stats.tokens, root),
                    f"{rate:,.0f} tokens a second, {source}.")


def summary_text(stats: TokenStats, estimate: Estimate) -> str:
    """The figures and the time as lines for a terminal."""
    lines = [f"{stats.examples:,} examples, about {stats.tokens:,} tokens, {stats.trained:,} of them trained on",
             f"length: mean {stats.mean:,.0f}, median {stats.median:,.0f}, 19 in 20 up to {stats.p95:,}, "
             f"longest {stats.longest:,} tokens",
             f"data.max_length={stats.max_length}: {stats.cut_share:.0%} cut, "
             f"{stats.too_long_share:.0%} without room for an answer"]
    time = f", about {max(1, round(estimate.seconds / 60)):,} min" if estimate.seconds is not None else ""
    lines.append(f"{estimate.steps:,} steps{time} ({estimate.basis.rstrip('.')})")
    lines += [f"note: {said}" for said in (stats.warning, stats.template_note) if said]
    return "\n".join(lines)
